"""What `Transfer.fit` is given -> items and an encoded target. Trains nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import type_of_target

from graft.data import View, binary_rows, encode_target, load_unlabelled, sparable
from graft.errors import GraftError, near_miss
from graft.items import Row
from graft.records import TASKS, Task

VALIDATION_SHARE = 0.2
_LEAST_TO_HOLD_OUT = 10


@dataclass(frozen=True)
class Given:
    """What a fit learns from: n items, their target (n,) or (n, c) as `encode` gives it, (n,) blocks that stay on one side.

    metric: name of the one to choose by.
    """

    items: Sequence[Any]
    target: np.ndarray
    task: Task
    metric: str
    blocks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target)

    def part(self, index: np.ndarray) -> "Given":
        """Some of the items, with all that goes with them."""
        blocks = None if self.blocks is None else np.asarray(self.blocks)[index]
        return replace(self, items=View(self.items, index), target=self.target[index], blocks=blocks)


def can_hold_out(target: np.ndarray, task: Task, blocks: np.ndarray | None) -> bool:
    """Whether a fifth of the items (or of their blocks) can be spared for choosing: there are ten, and enough beyond one of each class."""
    if task == "classification" and not sparable(target, blocks).any():
        return False
    spare = len(target) - (len(np.unique(target)) if task == "classification" else 0)
    n_units = len(target) if blocks is None else len(np.unique(blocks))
    return n_units >= _LEAST_TO_HOLD_OUT and spare >= VALIDATION_SHARE * len(target)


def as_items(X: Any, modality: str) -> list[Any]:
    """X as `Transfer.fit` takes it -> a list of items for a backbone of this modality."""
    if modality == "table" and not isinstance(X, pd.DataFrame):
        X = _as_frame(X)
    if isinstance(X, pd.DataFrame):
        return list(load_unlabelled(X, modality=modality).items)
    if isinstance(X, str | Path):
        raise GraftError(f"X is the single string {str(X)!r}, expected a list of {'texts' if modality == 'text' else 'images'}.")
    items = X.tolist() if isinstance(X, np.ndarray) and X.ndim == 1 else list(X)
    if modality == "text":
        wrong = next((item for item in items if not isinstance(item, str)), None)
        if wrong is not None:
            raise GraftError(f"X holds a {type(wrong).__name__}, expected texts (str), since the backbone reads text.")
    return items


def _as_frame(X: Any) -> Any:
    """Rows as a DataFrame; those of a Dataset stay what they are."""
    rows = list(X) if isinstance(X, Sequence) and not isinstance(X, str) else []
    if rows and all(isinstance(row, dict) for row in rows):
        return pd.DataFrame(rows)
    if not rows or not all(isinstance(row, Row) for row in rows):
        kind = type(rows[0]).__name__ if rows else type(X).__name__
        raise GraftError(f"X holds a {kind}, expected a DataFrame or a list of dicts {{column: value}}, since the backbone reads columns.")
    return rows


def encode(y: Any, task: str = "auto") -> tuple[Task, np.ndarray, Sequence[Any] | np.ndarray]:
    """(task, target, classes). target: encoded as in `graft.data.Dataset`; classes keep the type (of an array, the dtype) that y has.

    Raises GraftError on an unknown task, missing labels, a single class, or numbers with fractions where classes are asked for.
    """
    if task not in ("auto", *TASKS):
        raise GraftError(f"task {task!r}, expected 'auto', {', '.join(map(repr, TASKS))}.{near_miss(task, TASKS)}")
    if getattr(y, "shape", ())[1:] == (1,):
        y = column_or_1d(y, warn=True)
    values = list(y)
    if len(values) < 2:
        raise GraftError(f"X and y hold {len(values)} items (n_samples = {len(values)}), expected at least 2 to learn from.")
    lists = any(isinstance(labels, list | tuple | set | np.ndarray) for labels in values)
    if task == "classification" and not lists and type_of_target(values) == "continuous":
        raise GraftError("y is continuous, numbers with fractions, and task is 'classification', expected classes. Pass task='regression'.")
    if task == "auto":
        # Unlike a column of a table, whole numbers are classes here, as everywhere in scikit-learn.
        kind = "multilabel" if lists or getattr(y, "ndim", 1) == 2 else type_of_target(values)
        task = {"multilabel": "multilabel", "continuous": "regression"}.get(kind, "classification")
    encoded = encode_target(values, task)  # type: ignore[arg-type]
    if encoded.task == "classification":
        names, target = np.unique(np.asarray(values), return_inverse=True)
        return "classification", target.astype(np.int64), names.astype(y.dtype) if isinstance(y, np.ndarray) else names
    return encoded.task, encoded.y, list(encoded.classes)


def is_numeric(classes: np.ndarray) -> bool:
    """Whether classes are numbers, of which "unknown" would be none."""
    return np.issubdtype(classes.dtype, np.number)


def indicators(y: Any, classes: Sequence[str]) -> np.ndarray:
    """(n, c) of 0 and 1, from such rows or from a list of labels for each item, as `encode` tells them apart."""
    rows: list[Any] = [labels if isinstance(labels, str) else [str(label) for label in labels] for labels in y]
    if len(rows[0]) == len(classes) and binary_rows(rows):
        return np.array([[int(label in ("1", "1.0", "True")) for label in labels] for labels in rows])
    return np.array([[int(name in labels) for name in classes] for labels in rows])
