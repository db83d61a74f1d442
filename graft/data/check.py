"""`check`: what is wrong with a data set, before any time is spent on it. Broken items are set aside, copies are joined. No torch."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from graft.data.dataset import Dataset
from graft.data.folders import some
from graft.data.near import image_print, join, near_images, near_texts, plain_text
from graft.device import cores
from graft.errors import GraftError
from graft.items import content_key, open_image
from graft.records import Finding, Step

AT_ONCE = 512  # images decoded between two reports of progress
IMBALANCE = 10.0  # largest class against smallest
MAJORITY = 0.7
KEPT_TOGETHER = "splits that graft draws keep them on one side"
ENOUGH_PX = 64  # a JPEG is decoded at no more than it takes to compare it; all of its bytes are still read


@dataclass(frozen=True)
class _Prints:
    """What was seen of n items. broken: index -> what is wrong. same: (n,) equal for exact copies. near: pairs (m, 2) of indices."""

    broken: dict[int, str]
    same: np.ndarray
    near: np.ndarray


def check(dataset: Dataset, progress: Callable[[Step], None] | None = None) -> Dataset:
    """The data set without its broken items, with `cluster` and the findings filled in. Prints nothing.

    Every item is read once. Broken items (unreadable images, empty texts) are set aside and named; copies, near-copies,
    leaks across given splits, conflicting labels, class troubles are told. Given splits are respected.
    Raises GraftError when no item is left, or fewer than two classes.
    """
    look = {"image": _look_at_images, "text": _look_at_texts, "table": _look_at_rows}[dataset.modality]
    prints = look(dataset, progress or (lambda step: None))
    findings = list(dataset.findings)
    keep = np.setdiff1d(np.arange(len(dataset)), list(prints.broken))
    if prints.broken:
        findings.append(_broken(dataset, prints.broken))
    if len(keep) == 0:
        raise GraftError(f"{dataset.name}: none of its {len(dataset)} items can be used. {findings[-1].message}.")
    same = np.unique(prints.same[keep], return_inverse=True)[1]
    # The first item of each kind of copy, joined to the others of it.
    exact = np.column_stack([np.unique(same, return_index=True)[1][same], np.arange(len(keep))])
    cluster = join(len(keep), np.concatenate([exact, np.searchsorted(keep, prints.near)]))
    kept = replace(dataset.take(keep), cluster=cluster)
    findings += [*_copies(kept, same), *_leaks(kept, same), *_classes(kept, same)]
    return replace(kept, findings=tuple(findings))


# -- reading every item once


def _look_at_images(dataset: Dataset, progress: Callable[[Step], None]) -> _Prints:
    n, items = len(dataset), dataset.items
    broken: dict[int, str] = {}
    keys: list[bytes] = [b""] * n
    hashes, thumbs = np.zeros(n, dtype=np.uint64), np.zeros((n, 16 * 16 * 3), dtype=np.uint8)

    def look(i: int) -> str:
        try:
            item = items[i]
            hashes[i], thumbs[i] = image_print(open_image(item, ENOUGH_PX))
            keys[i] = content_key(item, "image")
        except OSError as error:
            return _reason(error)
        return ""

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, n, AT_ONCE):
            part = range(start, min(start + AT_ONCE, n))
            broken |= {i: reason for i, reason in zip(part, pool.map(look, part), strict=True) if reason}
            progress(Step("checking images", part.stop, n))
    # One that could not be read is a copy of nothing.
    same = np.unique([keys[i] or f"broken {i}".encode() for i in range(n)], return_inverse=True)[1]
    whole = np.setdiff1d(np.arange(n), list(broken))
    return _Prints(broken, same, whole[near_images(hashes[whole], thumbs[whole])])


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "may not be read"
    text = str(error)
    if "truncated" in text or "Truncated" in text:
        return "truncated"
    return "not an image" if "cannot identify" in text else text[:80]


def _look_at_texts(dataset: Dataset, progress: Callable[[Step], None]) -> _Prints:
    texts = []
    for i, text in enumerate(dataset.items):
        texts.append(plain_text(text))
        if i % 10_000 == 0:
            progress(Step("checking texts", i, len(dataset)))
    broken = {i: "empty" for i, text in enumerate(texts) if not text}
    same = pd.factorize(np.array(texts, dtype=object))[0]
    # Copies are found by now: only the first of each is compared with the others.
    first = np.unique(same, return_index=True)[1]
    near = first[near_texts([texts[i] for i in first])]
    progress(Step("checking texts", len(dataset), len(dataset)))
    return _Prints(broken, same, near[~np.isin(near, list(broken)).any(axis=1)])


def _look_at_rows(dataset: Dataset, progress: Callable[[Step], None]) -> _Prints:
    frame = dataset.table()
    broken = {int(i): "every cell is empty" for i in np.flatnonzero(frame.isna().all(axis=1))}
    same = pd.factorize(pd.util.hash_pandas_object(frame, index=False))[0]
    progress(Step("checking rows", len(dataset), len(dataset)))
    return _Prints(broken, same, np.empty((0, 2), dtype=np.int64))


# -- what there is to tell


def _broken(dataset: Dataset, broken: dict[int, str]) -> Finding:
    names = tuple(dataset.ids[i] for i in broken)
    told = some([f"{dataset.ids[i]} ({reason})" for i, reason in broken.items()])
    kind, what = ("empty", "empty") if dataset.modality != "image" else ("unreadable", "unreadable")
    return Finding(kind, "problem", f"{_count(len(broken), 'item')} {_is(len(broken))} {what} and set aside: {told}", names)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _is(n: int) -> str:
    return "is" if n == 1 else "are"


def _copies(dataset: Dataset, same: np.ndarray) -> Iterable[Finding]:
    assert dataset.cluster is not None
    exact = len(same) - len(np.unique(same))
    if exact:
        names = _examples(dataset, same)
        message = f"{_count(exact, 'item')} {_is(exact)} an exact copy of another, such as {some(names, 3)}; {KEPT_TOGETHER}"
        yield Finding("duplicates", "note", message, tuple(names))
    # Of the items that differ, those that are near to another one.
    first = np.sort(np.unique(same, return_index=True)[1])
    near = len(first) - len(np.unique(dataset.cluster))
    if near:
        part = dataset.take(first)
        assert part.cluster is not None
        names = _examples(part, part.cluster)
        message = f"{_count(near, 'item')} {_is(near)} nearly the same as another, such as {some(names, 3)}; {KEPT_TOGETHER}"
        yield Finding("near-duplicates", "note", message, tuple(names))
    largest = int(np.bincount(dataset.cluster).max())
    if largest > max(2, 0.1 * len(dataset)):
        message = f"{largest} of {len(dataset)} items are copies or near-copies of each other, so splits cannot part them evenly"
        yield Finding("large-cluster", "warning", message)


def _examples(dataset: Dataset, part: np.ndarray) -> list[str]:
    """ "a = b" for the items that share a number in part."""
    order = np.argsort(part, kind="stable")
    equal = np.flatnonzero(part[order][1:] == part[order][:-1])
    return [f"{dataset.ids[order[i]]} = {dataset.ids[order[i + 1]]}" for i in equal]


def _leaks(dataset: Dataset, same: np.ndarray) -> Iterable[Finding]:
    if dataset.split is None or dataset.cluster is None:
        return
    train = np.flatnonzero(dataset.split == "train")
    for held_out in ("validation", "test"):
        members = np.flatnonzero(dataset.split == held_out)
        leaked = members[np.isin(dataset.cluster[members], dataset.cluster[train])]
        if len(leaked):
            exact = int(np.isin(same[leaked], same[train]).sum())
            twin = {number: i for i, number in reversed(list(zip(train, dataset.cluster[train], strict=True)))}
            told = [f"{dataset.ids[i]} = {dataset.ids[twin[dataset.cluster[i]]]}" for i in leaked]
            message = (
                f"leak: {len(leaked)} of {len(members)} {held_out} items are in train too "
                f"({exact} exact, {len(leaked) - exact} near copies), "
                f"which flatters every score on them: {some(told, 3)}"
            )
            yield Finding("leak", "warning", message, tuple(told))
        if dataset.group is not None:
            shared = sorted(set(dataset.group[members]) & set(dataset.group[train]))
            if shared:
                message = f"leak: {_count(len(shared), 'group')} of {held_out} {_is(len(shared))} in train too: {some(shared)}"
                yield Finding("group-leak", "warning", message, tuple(shared))


def _classes(dataset: Dataset, same: np.ndarray) -> Iterable[Finding]:
    if dataset.target is None or dataset.task is None or dataset.task == "regression":
        return
    training = np.ones(len(dataset), dtype=bool) if dataset.split is None else dataset.split == "train"
    counts = _class_counts(dataset, training)
    there = [name for name, count in zip(dataset.classes, counts, strict=True) if count]
    if len(there) < 2:
        raise GraftError(f"{dataset.name}: the training items have one class only ({some(there) or 'none'}), expected at least 2.")
    yield from _spellings(dataset.classes)
    yield from _conflicts(dataset, same)
    small = [f"{name} ({count})" for name, count in zip(dataset.classes, counts, strict=True) if 0 < count < 2]
    if small:
        message = f"too few training items to learn from and be judged on, expected at least 2: {some(small, 20)}"
        yield Finding("small-class", "warning", message, tuple(small))
    largest, smallest = int(np.argmax(counts)), int(np.argmin(np.where(counts > 0, counts, np.inf)))
    ratio, share = counts[largest] / counts[smallest], counts[largest] / training.sum()
    if ratio >= IMBALANCE or (share > MAJORITY and dataset.task == "classification"):
        message = (
            f"imbalance: {dataset.classes[largest]!r} has {counts[largest]} training items ({share:.0%}), "
            f"{dataset.classes[smallest]!r} has {counts[smallest]}"
        )
        yield Finding("imbalance", "warning", message)
    yield from _missing_classes(dataset)


def _class_counts(dataset: Dataset, mask: np.ndarray) -> np.ndarray:
    assert dataset.target is not None
    if dataset.task == "multilabel":
        return dataset.target[mask].sum(axis=0).astype(int)
    return np.bincount(dataset.target[mask], minlength=len(dataset.classes))


def _spellings(classes: tuple[str, ...]) -> Iterable[Finding]:
    by_plain: dict[str, list[str]] = {}
    for name in classes:
        by_plain.setdefault("".join(name.casefold().split()), []).append(name)
    alike = [names for names in by_plain.values() if len(names) > 1]
    if alike:
        told = [" / ".join(repr(name) for name in names) for names in alike]
        message = f"labels that differ only by case or space count as different classes: {some(told)}"
        yield Finding("label-spelling", "warning", message, tuple(name for names in alike for name in names))


def _conflicts(dataset: Dataset, same: np.ndarray) -> Iterable[Finding]:
    assert dataset.target is not None
    labels = np.unique(dataset.target, axis=0, return_inverse=True)[1].reshape(-1)
    kinds = pd.DataFrame({"same": same, "label": labels})
    differ = kinds.groupby("same")["label"].transform("nunique").to_numpy() > 1
    if differ.any():
        order = np.flatnonzero(differ)[np.argsort(same[differ], kind="stable")]
        names = [f"{dataset.ids[i]} ({_label(dataset, i)})" for i in order]
        message = f"{len(order)} items are identical to another that has a different label: {some(names, 4)}"
        yield Finding("conflict", "warning", message, tuple(names))


def _label(dataset: Dataset, i: int) -> str:
    assert dataset.target is not None
    if dataset.task == "multilabel":
        return " | ".join(dataset.classes[c] for c in np.flatnonzero(dataset.target[i]))
    return dataset.classes[dataset.target[i]]


def _missing_classes(dataset: Dataset) -> Iterable[Finding]:
    if dataset.split is None:
        return
    counts = {name: _class_counts(dataset, dataset.split == name) for name in np.unique(dataset.split)}
    for name, held in counts.items():
        if name == "train":
            missing = [dataset.classes[c] for c in np.flatnonzero(held == 0)]
            message = f"classes that no training item has, so they cannot be learned: {some(missing)}"
        else:
            missing = [dataset.classes[c] for c in np.flatnonzero((held == 0) & (counts["train"] > 0))]
            message = f"classes that no {name} item has, so nothing is measured on them: {some(missing)} (their order stays as in train)"
        if missing:
            yield Finding("missing-class", "warning", message, tuple(missing))
