"""What is learned from, and what is held out to look at: data as the user has it -> Material. No labels reach what learns, unless asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graft.data import Dataset, View, check, draw, holdout, load, load_unlabelled
from graft.data.folders import is_image_name
from graft.errors import GraftError
from graft.pretraining import signals
from graft.records import Finding, Task
from graft.runs import Log
from graft.transfer.inputs import can_hold_out

_HELD_SHARE = 0.2
_HELD_AT_MOST = 500  # more would cost time after every epoch and hardly sharpen the score
_FITTED_AT_MOST = 1000
_SEEN_AT_MOST = 256  # features of so many items say how many directions they fill
_LEAST = 2  # items: what learns compares them


@dataclass(frozen=True)
class Judged:
    """Labelled items that a probe is fitted on, and others, never learned from, that it is judged on. data: where they are from."""

    data: str
    fitted: Sequence[Any]
    fitted_target: np.ndarray
    held: Sequence[Any]
    held_target: np.ndarray
    task: Task
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """n items to learn from, and what is known of them.

    modality: "image", "text", "table" or "signal". target, task, classes: of the items, None where they have no labels; only a
    method that reads labels is given them. seen: a fixed sample that features are looked at on: the held-out items first, and some of the
    learned ones where those are few. judged: None where there are no labels. dataset: of the items, None for signals.
    """

    name: str
    modality: str
    items: Sequence[Any]
    target: np.ndarray | None
    task: Task | None
    classes: tuple[str, ...]
    seen: Sequence[Any]
    judged: Judged | None
    dataset: Dataset | None
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def read(data: Any, *, label: str | None, learns_labels: bool, roles: Mapping[str, Any], judge: Any, seed: int, log: Log) -> Material:
    """The material in what the user has: whatever `graft.load` or `load_unlabelled` takes, a Dataset, or an array of signals.

    label: column of a table. learns_labels: the method reads them, so every item must have one. roles: for `load`. judge: labelled data
    to be judged on; else a fifth of the labelled items, at most 500, or a given test part, is held out. Raises GraftError as `load`
    does, and where fewer than two items are left to learn from, or there are no labels and the method reads them.
    """
    if signals.are(data):
        everything: Dataset | None = None
        items: Sequence[Any]
        items, target, task, classes, notes, findings = signals.read(data)
        name, modality, split, cluster = signals.name_of(data), "signal", None, None
    else:
        everything, labelled, why = _datasets(data, label, dict(roles))
        everything = check(replace(everything, target=None, task=None, classes=(), split=None), progress=log)
        name, modality, items, cluster = everything.name, everything.modality, everything.items, everything.cluster
        target, split = _aligned(everything, labelled)
        task, classes = (labelled.task, labelled.classes) if labelled is not None else (None, ())
        notes, findings = [*everything.notes, *why], list(everything.findings)
    has_label = np.zeros(len(items), bool) if target is None else ~np.isnan(target.reshape(len(items), -1)[:, 0])
    if learns_labels and not has_label.any():
        raise GraftError(
            f"{name}: has no labels ({'; '.join(notes) or 'none'}), expected some for the method supervised. Name them: --label."
        )
    learned, held = _parted(target, has_label, task, split, cluster, judge is None, seed)
    if learns_labels:
        left_out = len(learned) - int(has_label[learned].sum())
        learned = learned[has_label[learned]]
        notes += [f"without a label, so not learned from: {left_out} of {len(items)} items"] if left_out else []
    if len(learned) < _LEAST:
        raise GraftError(f"{name}: {len(learned)} items to learn from, expected at least {_LEAST}, and better thousands.")
    judged = None
    if judge is not None:
        judged = _judged_elsewhere(judge, modality, roles, seed, log)
    elif len(held):
        assert target is not None and task is not None
        some = _some(target, learned[has_label[learned]], task, _FITTED_AT_MOST, seed)
        judged = Judged(
            name, View(items, some), _encoded(target[some], task), View(items, held), _encoded(target[held], task), task, classes
        )
        given = "the given test part" if split is not None else "drawn"
        notes.append(f"held out, to see whether it helps: {len(held)} of {len(items)} items ({given})")
    elif has_label.any():
        notes.append("nothing is held out to see whether it helps: there are too few labels")
    held_items = [] if judged is None else list(judged.held)
    wanted = max(0, _SEEN_AT_MOST - len(held_items))
    sample = np.sort(np.random.default_rng(seed).permutation(learned)[:wanted])
    taught = _encoded(target[learned], task) if target is not None and task is not None and learns_labels else None
    return Material(
        name=name,
        modality=modality,
        items=items if len(learned) == len(items) else View(items, learned),
        target=taught,
        task=task,
        classes=classes,
        seen=[*held_items, *View(items, sample)],
        judged=judged,
        dataset=None if everything is None else everything.take(learned),
        notes=notes,
        findings=findings,
    )


def _datasets(data: Any, label: str | None, roles: dict[str, Any]) -> tuple[Dataset, Dataset | None, list[str]]:
    """All items; those with labels, where there are any; and what is to be said of that."""
    if isinstance(data, Dataset):
        if label is not None or roles:
            named = ", ".join([*(["label"] if label is not None else []), *roles])
            raise GraftError(f"{named} named for a Dataset, which has its roles, expected them where it is loaded: graft.load(...).")
        return data, data if data.target is not None else None, []
    if isinstance(data, list | tuple | np.ndarray | pd.Series):
        if label is not None:
            raise GraftError(f"label {label!r} was named for a {type(data).__name__}, expected none: it has no columns. Give a DataFrame.")
        return load_unlabelled(data), None, []
    try:
        labelled = load(data, label=label, **roles)
    except GraftError as error:
        # A label that was asked for must be there; without one it is only something to watch by.
        if label is not None:
            raise
        return load_unlabelled(data, **roles), None, [f"no labels to look at: {error}"]
    # Of a folder of images those outside the class folders can be learned from as well.
    everything = load_unlabelled(data) if _is_images(data) else labelled
    return everything, labelled, [note for note in labelled.notes if note not in everything.notes]


def _is_images(data: Any) -> bool:
    if not isinstance(data, str | Path):
        return False
    path = Path(data).expanduser()
    return path.suffix.lower() == ".zip" or (path.is_dir() and any(is_image_name(one.name) or one.is_dir() for one in path.iterdir()))


def _aligned(everything: Dataset, labelled: Dataset | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The labels and splits of all items in their order: target (n,) or (n, c) float64, NaN where there is none."""
    if labelled is None or labelled.target is None:
        return None, None
    places = {name: place for place, name in enumerate(labelled.ids)}
    found = np.array([places.get(name, -1) for name in everything.ids])
    target = np.full((len(found), *labelled.target.shape[1:]), np.nan)
    target[found >= 0] = labelled.target[found[found >= 0]]
    if labelled.split is None:
        return target, None
    split = np.full(len(found), "train", dtype="<U10")
    split[found >= 0] = labelled.split[found[found >= 0]]
    return target, split


def _parted(
    target: np.ndarray | None,
    has_label: np.ndarray,
    task: Task | None,
    split: np.ndarray | None,
    cluster: np.ndarray | None,
    hold_out: bool,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the items to learn from, and of those to be judged on, at most 500. Given test parts are not learned from."""
    everything = np.arange(len(has_label))
    if split is not None and target is not None and task is not None:
        judged = "test" if (split == "test").any() else "validation"
        held = np.flatnonzero((split == judged) & has_label)
        return np.flatnonzero(split == "train"), _some(target, held, task, _HELD_AT_MOST, seed) if hold_out else held[:0]
    with_label = np.flatnonzero(has_label)
    if not hold_out or target is None or task is None or not len(with_label):
        return everything, everything[:0]
    encoded, blocks = _encoded(target[with_label], task), None if cluster is None else cluster[with_label]
    if not can_hold_out(encoded, task, blocks):
        return everything, everything[:0]
    share = min(_HELD_SHARE, _HELD_AT_MOST / len(with_label))
    held = with_label[holdout(encoded, task, share, seed, blocks=blocks)[1]]
    # Copies without a label would teach what is judged on.
    copies = np.isin(everything, held) if cluster is None else np.isin(cluster, cluster[held])
    return np.flatnonzero(~copies), held


def _some(target: np.ndarray, places: np.ndarray, task: Task, at_most: int, seed: int) -> np.ndarray:
    """At most so many of the places, with the shares of the classes kept."""
    if len(places) <= at_most:
        return places
    return places[draw(_encoded(target[places], task), task, at_most, seed)]


def _encoded(target: np.ndarray, task: Task) -> np.ndarray:
    return target.astype(np.int64) if task == "classification" else target


def _judged_elsewhere(judge: Any, modality: str, roles: Mapping[str, Any], seed: int, log: Log) -> Judged:
    """Of labelled data beside the items: the given test part, else half."""
    dataset = check(judge if isinstance(judge, Dataset) else load(judge, **roles), progress=log)
    if dataset.modality != modality:
        raise GraftError(f"--judge {dataset.name}: holds {dataset.modality}s, expected {modality}s as in the data that is learned from.")
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    target, task = dataset.target, dataset.task
    if dataset.split is not None and (dataset.split == "test").any():
        fitted, held = np.flatnonzero(dataset.split == "train"), np.flatnonzero(dataset.split == "test")
    else:
        fitted, held = holdout(target, task, 0.5, seed, blocks=dataset.blocks())
    fitted, held = _some(target, fitted, task, _FITTED_AT_MOST, seed), _some(target, held, task, _HELD_AT_MOST, seed)
    items = dataset.items
    return Judged(dataset.name, View(items, fitted), target[fitted], View(items, held), target[held], task, dataset.classes)
