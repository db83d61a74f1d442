"""Turns a column of labels into what a model learns from: the task is inferred, the classes are named. No torch."""

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.data.dataset import is_missing
from graft.data.folders import some
from graft.errors import GraftError
from graft.records import Task

SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class Target:
    """y: as in `Dataset.target`. classes: () for regression. note: how the task was found, in words."""

    y: np.ndarray
    task: Task
    classes: tuple[str, ...]
    note: str


def encode_target(values: Sequence[Any], task: Task | None = None, where: str = "y", ids: Sequence[str] | None = None) -> Target:
    """The encoded target of n labels: numbers, names, or lists of names.

    task: inferred when None. Lists, or names with a separator whose pieces recur, are multi-label; fractions, or whole
    numbers of which more than 20 and more than 5 % differ (but for evenly filled classes numbered from 0 or 1), are regression; all
    else is classification.
    where: for messages. ids: what the items are called in messages.
    Raises GraftError for missing labels, for one class only, and for labels that the task cannot use.
    """
    cells = [_plain(value) for value in values]
    names = ids if ids is not None else [f"item {i}" for i in range(len(cells))]
    missing = [names[i] for i, value in enumerate(cells) if value is None]
    if missing:
        raise GraftError(
            f"{where}: {len(missing)} of {len(cells)} labels are missing (empty or NaN), first {some(missing)}. "
            f"Expected a label for every item: fill them in, or take these items out."
        )
    numbers = _numbers(cells)
    inferred = _infer(cells, numbers) if task is None else (task, "as asked")
    task, why = inferred
    if task == "regression":
        return _regression(cells, numbers, where, names, why)
    if task == "multilabel":
        return _multilabel(cells, where, why)
    return _classification(cells, where, why)


def _plain(value: Any) -> Any:
    """None where missing; lists of str, numbers and str as they are; a list written as text is read as a list."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return [str(piece) for piece in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, str):
        if not value.strip() or value.strip().lower() == "nan":
            return None
        if value.startswith("[") and value.endswith("]"):
            try:
                return [str(piece) for piece in ast.literal_eval(value)]
            except (ValueError, SyntaxError):
                return value
        return value
    return None if is_missing(value) else value


def _numbers(cells: list[Any]) -> np.ndarray | None:
    """The labels as float64, None where one of them is no number."""
    if any(isinstance(value, (bool, list)) for value in cells):
        return None
    try:
        return np.array([float(value) for value in cells])
    except (TypeError, ValueError):
        return None


def _infer(cells: list[Any], numbers: np.ndarray | None) -> tuple[Task, str]:
    if any(isinstance(value, list) for value in cells):
        return "multilabel", "the labels are lists"
    if numbers is not None:
        if np.any(numbers != np.floor(numbers)):
            return "regression", "the labels are fractions"
        values, counts = np.unique(numbers, return_counts=True)
        distinct = len(values)
        # Numbered classes run from 0 or 1 without a gap, and each has items; so evenly numbers that are measured seldom fall.
        numbered = values[0] in (0, 1) and values[-1] - values[0] == distinct - 1 and counts.min() >= 2 and counts.max() <= 3 * counts.min()
        if distinct > 20 and distinct > 0.05 * len(numbers) and not numbered:
            return "regression", f"the labels are {distinct} different numbers"
        return "classification", f"the labels are {distinct} different whole numbers"
    for separator in SEPARATORS:
        if _separates(cells, separator):
            return "multilabel", f"labels joined by {separator!r} recur"
    return "classification", "the labels are names"


def _separates(cells: list[Any], separator: str) -> bool:
    """Whether the pieces between separators are labels of their own: fewer than their combinations, and at home in several.

    "Arts, Culture" and "Food, Drink" are two names with a comma; "a,b", "b,c", "c" are combinations of three labels.
    """
    combinations = {str(value) for value in cells}
    if not any(separator in combination for combination in combinations):
        return False
    pieces = Counter(piece for combination in combinations for piece in set(_pieces(combination, separator)))
    shared = sum(count > 1 for count in pieces.values())
    return len(pieces) <= len(combinations) and 2 * shared >= len(pieces)


def _pieces(text: str, separator: str) -> list[str]:
    return [piece.strip() for piece in text.split(separator) if piece.strip()]


def _regression(cells: list[Any], numbers: np.ndarray | None, where: str, names: Sequence[str], why: str) -> Target:
    if numbers is None:
        wrong = [f"{value!r} at {names[i]}" for i, value in enumerate(cells) if isinstance(value, (bool, list)) or not _is_number(value)]
        raise GraftError(
            f"{where}: {len(wrong)} labels are no numbers ({some(wrong, 3)}), "
            f"expected numbers for regression. Or pass task='classification'."
        )
    infinite = [names[int(i)] for i in np.flatnonzero(~np.isfinite(numbers))]
    if infinite:
        raise GraftError(
            f"{where}: {len(infinite)} labels are infinite, first {some(infinite)}. "
            f"Expected finite numbers: correct them, or take these items out."
        )
    if len(np.unique(numbers)) < 2:
        raise GraftError(f"{where}: every label is {numbers[0]:g}, expected numbers that differ: there is nothing to learn.")
    return Target(numbers, "regression", (), f"task: regression, labels from {numbers.min():g} to {numbers.max():g} ({why})")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _name(value: Any) -> str:
    # 1.0 is what a table makes of the class 1 when another cell of the column was empty.
    return str(int(value)) if isinstance(value, float) and value == np.floor(value) and abs(value) < 2**53 else str(value)


def _sorted(names: set[str]) -> tuple[str, ...]:
    """By number where all are whole numbers, so that 10 comes after 2; else by name."""
    whole = all(name.lstrip("-").isdecimal() for name in names)
    return tuple(sorted(names, key=(lambda name: (int(name), name)) if whole else None))


def _classification(cells: list[Any], where: str, why: str) -> Target:
    labels = [" | ".join(value) if isinstance(value, list) else _name(value) for value in cells]
    classes = _sorted(set(labels))
    if len(classes) < 2:
        raise GraftError(f"{where}: every one of the {len(labels)} items has the label {classes[0]!r}, expected at least 2 classes.")
    if len(classes) == len(labels) > 2:
        raise GraftError(
            f"{where}: each of the {len(labels)} items has a label of its own (such as {some(classes, 3)}), expected labels that recur. "
            f"Is this the right column? Numbers to be predicted need task='regression'."
        )
    index = {name: i for i, name in enumerate(classes)}
    y = np.array([index[label] for label in labels], dtype=np.int64)
    return Target(y, "classification", classes, f"task: classification, {len(classes)} classes ({why})")


def _multilabel(cells: list[Any], where: str, why: str) -> Target:
    separator = _best_separator(cells)
    lists = [value if isinstance(value, list) else _pieces(_name(value), separator) for value in cells]
    binary = binary_rows(lists)
    classes = tuple(str(i) for i in range(len(lists[0]))) if binary else _sorted({piece for pieces in lists for piece in pieces})
    if len(classes) < 2:
        raise GraftError(
            f"{where}: its labels name {len(classes)} different classes ({some(classes)}), expected at least 2 for multi-label."
        )
    if binary:
        y = np.array([[float(piece in ("1", "1.0", "True")) for piece in pieces] for pieces in lists])
    else:
        index = {name: i for i, name in enumerate(classes)}
        y = np.zeros((len(lists), len(classes)))
        for row, pieces in enumerate(lists):
            y[row, [index[piece] for piece in pieces]] = 1.0
    return Target(y, "multilabel", classes, f"task: multilabel, {len(classes)} classes, {y.sum(1).mean():.1f} an item ({why})")


def _best_separator(cells: list[Any]) -> str:
    texts = [str(value) for value in cells if not isinstance(value, list)]
    return max(SEPARATORS, key=lambda separator: sum(separator in text for text in texts))


def binary_rows(lists: list[list[str]]) -> bool:
    """Whether the lists are rows of 0 and 1, one place a class, rather than names."""
    length = len(lists[0])
    return (
        length > 1
        and all(len(pieces) == length for pieces in lists)
        and {piece for pieces in lists for piece in pieces} <= {"0", "1", "0.0", "1.0", "True", "False"}
    )
