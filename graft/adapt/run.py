"""An adaptation from data on disk to a folder: `graft adapt`. Loads, calls, writes; decides nothing."""

import csv
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from graft import interrupt
from graft.adapt import tell
from graft.adapt.course import AUTO, Asked, Outcome, adapt
from graft.adapt.estimator import check_unknown, known_labels, shares
from graft.adapt.guard import Known
from graft.adapt.predict import recorded
from graft.adapt.sides import Sides, Source, both, without_source
from graft.backbones import load_backbone, shortlist
from graft.backbones.base import Backbone
from graft.budget import budget_seconds
from graft.data import Dataset, load, load_unlabelled
from graft.data import check as checked_data
from graft.errors import GraftError
from graft.features import content_keys
from graft.items import open_image
from graft.outputs import cells
from graft.recipes import settings_of
from graft.records import Adaptation, Event, Finding, Mistake, Plan, Recipe
from graft.report import adaptation_card, write_adaptation
from graft.runs import Log, folder, versions
from graft.transfer import EPOCHS, Transfer

Progress = Callable[[Event], None] | None
FROZEN = "feature_extraction"


@dataclass
class Adapted:
    """What `adapt_run` found. record: every number. model: fitted, to ship. label_next: the items to label next."""

    record: Adaptation
    model: Transfer
    outcome: Outcome
    label_next: list[Mistake]

    def report(self, path: str | Path) -> None:
        """Write the page, one self-contained HTML file."""
        write_adaptation(self.record, path, label_next=self.label_next)


def adapt_run(
    source: Any,
    target: Any,
    *,
    out: str | Path | None = None,
    source_data: Any = None,
    backbone: str | None = None,
    strategy: str = FROZEN,
    methods: str | Sequence[str] = AUTO,
    domain: str | None = None,
    target_labels: str | Path | Mapping[str, Any] | None = None,
    unknown: float = 0.0,
    guard: bool = True,
    epochs: int = EPOCHS,
    budget: str | float | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    roles: Mapping[str, Any] | None = None,
    progress: Progress = None,
    command: str = "",
) -> Adapted:
    """Adapt to a target without labels, and leave a folder: page, numbers, model, predictions of the target.

    source: labelled data as `graft.load` takes it, or the folder of a run, whose model is then adapted; source_data: in that case the
    labelled data that it was fitted on, where they are at hand. target: data without labels; what labels it has are not read.
    backbone, strategy: how the source-only model is made; the first of the shortlist, frozen, unless given. methods, guard, budget,
    epochs, recipe: see `Adapt`. domain: column of the source that names its domains. target_labels: id of a target item -> its label, or
    a CSV with the columns id and label. unknown: predictions below this probability are written as "unknown". roles: for `load` (label,
    text, image, split, group, task). out: the folder; one that holds a run of other settings is refused, with the differences.

    Items that cannot be read are named in the findings and set aside. Raises GraftError for what the caller can mend.
    """
    begun = time.perf_counter()
    check_unknown(unknown)
    seconds = None if budget is None else budget_seconds(budget)
    asked = Asked(methods, seconds, epochs, recipe=recipe or Recipe(), guard=guard)
    labels = _read_labels(Path(target_labels)) if isinstance(target_labels, str | Path) else target_labels
    path = None if out is None else folder.prepare(out)
    with interrupt.listening(), folder.held(path) if path else nullcontext():
        log = Log(progress)
        fitted = Transfer.load(source) if _is_run(source) else None
        _refuse_what_would_be_ignored(fitted, source_data, backbone, strategy, domain)
        labelled = source if fitted is None else source_data
        dataset = None if labelled is None else _labelled(labelled, domain, dict(roles or {}), log)
        model = _source_only(fitted, dataset, backbone, strategy, epochs, recipe, seed)
        others, findings = _unlabelled(target, fitted, dataset, log)
        config = {
            "source": str(source) if dataset is None or fitted else dataset.name,
            "source_data": None if fitted is None or dataset is None else dataset.name,
            "target": others.name,
            "items": [0 if dataset is None else len(dataset), len(others)],
            "data_digest": _digest(dataset, others),
            "backbone": _backbone_of(model).fingerprint(),
            "strategy": strategy,
            "methods": asked.names or [AUTO],
            "domain": domain,
            "target_labels": None if labels is None else dict(sorted((str(name), str(label)) for name, label in labels.items())),
            "unknown": unknown,
            "guard": guard,
            "epochs": epochs,
            "recipe": settings_of(asked.recipe),
            "budget_seconds": seconds,
            "seed": seed,
            "versions": versions(),
        }
        if path:
            # Nothing is gone on from: what takes long is in the feature cache.
            log.open(path / "log.txt", folder.begin(path, config))
        log.note(f"{others.name}: {len(others)} items without labels")
        with folder.taken_back(path):
            sides = _sides(model, dataset, domain, others, seed, path, source, log)
            check_unknown(unknown, sides.model.classes_)
            known, foreign = _known(sides, others, labels)
            outcome = adapt(sides, asked, recorded(sides.source is not None), known, log)
        outcome.model.unknown_ = unknown
        outcome.model.columns_ = {name: column.kind for name, column in dataset.columns.items()} if dataset else model.columns_
        record = tell.record(
            outcome,
            source=dataset.name if dataset else str(source),
            target=others.name,
            names=others.ids,
            notes=[
                *(dataset.notes if dataset else ()),
                *(f"target: {note}" + ", not read" * note.startswith("label:") for note in others.notes),
                *foreign,
                *_prior_note(source, model, dataset),
                *_unknown_note(outcome, unknown),
            ],
            findings=[asdict(finding) for finding in (*(dataset.findings if dataset else ()), *findings)],
            domains=_domain_names(dataset, domain),
            modality=others.modality,
            command=command,
            seconds=time.perf_counter() - begun,
            versions=versions(),
        )
        found = Adapted(record, outcome.model, outcome, [_shown(others, row) for row in record.label_next])
        if path:
            header, rows = predictions(outcome, others)
            folder.write(path, record.to_dict(), found.model, adaptation_card(record), header, rows, config, found.report)
            folder.finish(path)
            log.note(record.interrupted or f"done in {record.seconds:.0f} s")
        return found


def _is_run(source: Any) -> bool:
    return isinstance(source, str | Path) and any((Path(source) / name).is_file() for name in ("graft.json", "model/graft.json"))


def _refuse_what_would_be_ignored(
    fitted: Transfer | None, source_data: Any, backbone: str | None, strategy: str, domain: str | None
) -> None:
    if fitted is None and source_data is not None:
        raise GraftError("source_data was given, and the source is no run, expected one of them: what the model learns from is the source.")
    if fitted is not None and (backbone is not None or strategy != FROZEN):
        what = f"backbone {backbone}" if backbone is not None else f"strategy {strategy}"
        raise GraftError(
            f"{what} was named, and the source is a run, expected neither: its own network serves. Name the data to start anew."
        )
    if fitted is not None and source_data is None and domain is not None:
        raise GraftError(f"domain {domain} was named, and the source is a run alone, expected its data in source_data (--source-data) too.")


def _labelled(data: Any, domain: str | None, roles: dict[str, Any], log: Log) -> Dataset:
    if isinstance(data, Dataset) and roles:
        raise GraftError(f"roles ({', '.join(roles)}) were named for a Dataset, which has them, expected them where it is loaded.")
    if isinstance(data, Dataset) and domain is not None and data.group is None:
        raise GraftError(f"domain {domain} was named, and the Dataset has no groups, expected load(..., group={domain!r}).")
    if domain is not None:
        if roles.get("group"):
            raise GraftError(f"both a group ({roles['group']}) and a domain ({domain}) were named, expected one of them.")
        roles["group"] = domain
    return checked_data(data if isinstance(data, Dataset) else load(data, **roles), progress=log)


def _source_only(
    fitted: Transfer | None,
    dataset: Dataset | None,
    backbone: str | None,
    strategy: str,
    epochs: int,
    recipe: Recipe | None,
    seed: int,
) -> Transfer:
    """The model to be fitted on the source; the fitted one itself where there is no source."""
    if fitted is not None and dataset is None:
        return fitted
    if fitted is not None:
        return Transfer(fitted.backbone_, Plan((), tap=fitted.plan_.tap), random_state=seed)
    assert dataset is not None
    names = [backbone] if backbone else shortlist(dataset.modality)
    if not names:
        raise GraftError(
            f"there is no pretrained model for {dataset.modality} on this disk, expected one. Name a folder: checkpoint:FOLDER."
        )
    return Transfer(load_backbone(names[0]), strategy, epochs=epochs, recipe=recipe, random_state=seed)


def _backbone_of(model: Transfer) -> Backbone:
    return model.backbone_ if hasattr(model, "backbone_") else model.backbone  # type: ignore[return-value]


def _unlabelled(target: Any, fitted: Transfer | None, dataset: Dataset | None, log: Log) -> tuple[Dataset, list[Finding]]:
    """The target, read as the source is, without the items that cannot be read; and what is said of those."""
    if dataset is not None:
        columns = {name: column.kind for name, column in dataset.columns.items()}
        modality = dataset.modality
    else:
        assert fitted is not None
        columns = fitted.columns_
        modality = "table" if {"number", "category"} & set(columns.values()) else fitted.backbone_.modality
    if isinstance(target, Dataset):
        if target.modality != modality:
            raise GraftError(f"the target {target.name} holds items of kind {target.modality}, expected {modality} as in the source.")
        others = replace(target, target=None, task=None, classes=())
    else:
        if (
            isinstance(target, pd.DataFrame)
            and dataset is not None
            and dataset.target_name in target
            and dataset.target_name not in columns
        ):
            # A table in memory is turned into columns as a whole: labels must not be among them.
            target = target.drop(columns=dataset.target_name)
        others = load_unlabelled(target, modality=modality, columns=columns or None)
    others = checked_data(others, progress=log)
    # The others are of what is split, which a target is not.
    broken = [finding for finding in others.findings if finding.severity == "problem"]
    return others, [replace(finding, message=f"target: {finding.message}") for finding in broken]


def _digest(dataset: Dataset | None, others: Dataset) -> str:
    """Of the content of both sides and the source's labels."""
    digest = hashlib.blake2b(digest_size=16)
    for side in (dataset, others):
        if side is not None:
            digest.update(content_keys(side.items, "image" if side.modality == "image" else "text").tobytes())
    if dataset is not None and dataset.target is not None:
        digest.update(np.ascontiguousarray(dataset.target).tobytes())
    return digest.hexdigest()


def _sides(
    model: Transfer, dataset: Dataset | None, domain: str | None, others: Dataset, seed: int, path: Path | None, run: Any, log: Log
) -> Sides:
    if dataset is None:
        return without_source(model, shares(model, _prior_of(run, model)), others.items, seed, log)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    domains, blocks = None, dataset.blocks()
    if domain is not None and dataset.group is not None:
        domains, blocks = np.unique(dataset.group, return_inverse=True)[1], dataset.cluster
    return both(model, Source(dataset.items, dataset.target, dataset.task, dataset.classes, domains, blocks), others.items, seed, log)


def _prior_of(run: Any, model: Transfer) -> list[float] | None:
    """Shares of the classes among what the run was judged on; None where its numbers are not at hand."""
    path = Path(run) / "result.json"
    if not path.is_file():
        return None
    counts = {row["class"]: row["n"] for row in json.loads(path.read_text(encoding="utf-8")).get("per_class", ())}
    return [counts.get(str(name), 0) for name in model.classes_] if counts else None


def _prior_note(run: Any, model: Transfer, dataset: Dataset | None) -> list[str]:
    if dataset is not None or model.task_ == "regression" or _prior_of(run, model):
        return []
    return [f"shares of the classes in the source: {run} does not tell them, so they are taken as even"]


def _unknown_note(outcome: Outcome, unknown: float) -> list[str]:
    if not unknown or outcome.model.task_ == "regression":
        return []
    surest = _answers(outcome).max(axis=1)
    return [
        f'answers below a probability of {unknown:g} are "unknown": {int((surest < unknown).sum())} of the {len(surest)} target items; '
        "graft predict with this folder answers so too"
    ]


def _domain_names(dataset: Dataset | None, domain: str | None) -> list[str]:
    return [] if domain is None or dataset is None or dataset.group is None else np.unique(dataset.group).tolist()


def _known(sides: Sides, others: Dataset, given: Mapping[str, Any] | None) -> tuple[Known | None, list[str]]:
    """The given target labels by place, and a note on those of classes that the source does not know, which are left out."""
    if given is None:
        return None, []
    places = {str(name): place for place, name in enumerate(others.ids)}
    if strange := [name for name in given if str(name) not in places]:
        raise GraftError(
            f"target labels: {len(strange)} of {len(given)} ids are none of the target's, e.g. {strange[0]!r}, expected ids as in "
            f"predictions.csv, e.g. {others.ids[0]!r}."
        )
    return known_labels(sides.model, {places[str(name)]: label for name, label in given.items()}, len(others))


def _read_labels(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise GraftError(f"{path}: there is no such file, expected a CSV with the columns id and label.")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"id", "label"} <= set(reader.fieldnames or ()):
            raise GraftError(f"{path}: has the columns {', '.join(reader.fieldnames or ())}, expected id and label.")
        # A row without a label is one that is still to be labelled.
        rows = [(row["id"], row["label"]) for row in reader if row["label"]]
    if not rows:
        raise GraftError(f"{path}: holds no label, expected some in the column label. Fill them in, or leave the file out.")
    found = dict(rows)
    if torn := [name for name, label in rows if found[name] != label]:
        raise GraftError(f"{path}: {torn[0]!r} has two labels, expected one for each id.")
    return found


def _answers(outcome: Outcome) -> np.ndarray:
    """Outputs for the target of the model that is handed over, which has learned from the held part of the source too."""
    return outcome.model.head_.outputs(outcome.sides.target_rows if outcome.chosen.model is None else outcome.chosen.target)


def predictions(outcome: Outcome, others: Dataset) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of predictions.csv: every target item."""
    model = outcome.model
    classes = [] if model.task_ == "regression" else [str(name) for name in model.classes_]
    rows = []
    for name, output in zip(others.ids, _answers(outcome), strict=True):
        rows.append([name, *cells(output, model.task_, classes, model.unknown_)])
    return ["id", "prediction", *(f"probability {name}" for name in classes)], rows


def _shown(others: Dataset, row: Mapping[str, Any]) -> Mistake:
    """An item to label next, for the page."""
    item = others.items[row["place"]]
    image = open_image(item, 160) if others.modality == "image" else None
    text = None if image else str(item)
    return Mistake(row["id"], true="", predicted=row["predicted"], probability=row["probability"], text=text, image=image)
