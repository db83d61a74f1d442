"""A data set as typed columns that are read when they are needed, and the lazy sequences behind them. No torch."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graft.items import Row
from graft.records import Finding, Task


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, pandas' NA. An empty text is not missing."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


class Lazy(Sequence[Any]):
    """A sequence whose values are made when asked for; a slice of it is lazy too."""

    def one(self, i: int) -> Any:
        """The value at 0 <= i < len(self)."""
        raise NotImplementedError

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return View(self, np.arange(len(self))[i])
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} in a sequence of {len(self)}")
        return self.one(i % len(self))


class View(Lazy):
    """Some values of another sequence, in the order of places. A view of a view looks straight at the first."""

    def __init__(self, values: Sequence[Any], places: np.ndarray) -> None:
        self.values: Sequence[Any] = values.values if isinstance(values, View) else values
        self.places: np.ndarray = values.places[places] if isinstance(values, View) else np.asarray(places)

    def __len__(self) -> int:
        return len(self.places)

    def one(self, i: int) -> Any:
        return self.values[int(self.places[i])]


class ArrowValues(Lazy):
    """An Arrow column, in memory or memory-mapped, as Python values; a missing cell is None."""

    def __init__(self, array: pa.ChunkedArray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def one(self, i: int) -> Any:
        return self.array[i].as_py()


class Mapped(Lazy):
    """function(value) for each value of a sequence. function: picklable, so that other processes can read too."""

    def __init__(self, function: Callable[[Any], Any], values: Sequence[Any]) -> None:
        self.function, self.values = function, values

    def __len__(self) -> int:
        return len(self.values)

    def one(self, i: int) -> Any:
        return self.function(self.values[i])


class Rows(Lazy):
    """Rows of several columns: function(tuple of one value a column)."""

    def __init__(self, function: Callable[[tuple[Any, ...]], Any], columns: Sequence[Sequence[Any] | np.ndarray]) -> None:
        self.function, self.columns = function, tuple(columns)

    def __len__(self) -> int:
        return len(self.columns[0])

    def one(self, i: int) -> Any:
        return self.function(tuple(column[i] for column in self.columns))


@dataclass(frozen=True)
class Column:
    """One input. kind: "image", "text", "number" or "category". values: n of them, read lazily where they lie on disk.

    number: values are float, NaN where missing. category: str, None where missing; categories: every one there is.
    """

    kind: str
    values: Sequence[Any] | np.ndarray
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """n items with what is known of them.

    name: as the user named it. columns: the inputs by name. ids: what each item is called: path below the root, or
    "row 17" (rows of a file count from 1, the header is not counted).
    target: encoded y, None when unlabelled: classification int64 (n,), index into classes; multilabel float64 (n, c)
    of 0 and 1; regression float64 (n,). classes: names in the order of the index, the same for every split.
    split: (n,) of "train", "validation", "test", None when none was given. group: (n,) of str, None when none was named.
    cluster: (n,) int, copies and near-copies share a number; set by `check`.
    notes: choices made for the user, in words. findings: what is wrong with the data.
    """

    name: str
    columns: dict[str, Column]
    ids: Sequence[str]
    target: np.ndarray | None = None
    target_name: str = ""
    task: Task | None = None
    classes: tuple[str, ...] = ()
    split: np.ndarray | None = None
    group: np.ndarray | None = None
    cluster: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modality(self) -> str:
        """ "image", "text" or "table"."""
        kinds = {column.kind for column in self.columns.values()}
        return next((kind for kind in ("image", "text") if kind in kinds), "table")

    @property
    def items(self) -> Sequence[Any]:
        """What a backbone's `prepare` takes: images, texts, or table rows, which are texts too ("age: 39; work: private")."""
        if self.modality != "table":
            values = next(column.values for column in self.columns.values() if column.kind == self.modality)
            return values if isinstance(values, Sequence) else View(list(values), np.arange(len(values)))
        return Rows(_AsRow(tuple(self.columns)), [column.values for column in self.columns.values()])

    def table(self) -> pd.DataFrame:
        """The columns as a DataFrame (n, columns): numbers float64, categories with the same dtype in every part."""
        frame = {}
        for name, column in self.columns.items():
            if column.kind == "category":
                frame[name] = pd.Series(pd.Categorical(list(column.values), categories=list(column.categories)))
            elif column.kind == "number":
                frame[name] = pd.Series(np.asarray(column.values[:], dtype=np.float64))
            else:
                frame[name] = pd.Series(list(column.values), dtype=object)
        return pd.DataFrame(frame)

    def take(self, index: np.ndarray | Sequence[int]) -> "Dataset":
        """The items at index, in that order. Classes, notes and findings stay. index: (m,) of int, or (n,) of bool."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)

        def pick(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[index]

        def view(values: Sequence[Any] | np.ndarray) -> Sequence[Any] | np.ndarray:
            return values[index] if isinstance(values, np.ndarray) else View(values, index)

        columns = {name: replace(column, values=view(column.values)) for name, column in self.columns.items()}
        return replace(
            self,
            columns=columns,
            ids=View(self.ids, index),
            target=pick(self.target),
            split=pick(self.split),
            group=pick(self.group),
            cluster=pick(self.cluster),
        )

    def blocks(self) -> np.ndarray | None:
        """(n,) int: items with one number must stay on one side of every split, for group or cluster joins them.

        None when neither is known.
        """
        labels = [np.unique(part, return_inverse=True)[1] for part in (self.group, self.cluster) if part is not None]
        if not labels:
            return None
        if len(labels) == 1:
            return labels[0]
        # Groups and clusters as the two sides of a graph, items as its edges: a connected part is a block.
        group, cluster = labels
        nodes = group.max(initial=0) + cluster.max(initial=0) + 2
        edges = coo_array((np.ones(len(self)), (group, cluster + group.max(initial=0) + 1)), shape=(nodes, nodes))
        return connected_components(edges, directed=False)[1][group]


@dataclass(frozen=True)
class _AsRow:
    """A table row as a sentence for a text backbone, in which missing cells are left out, and as cells."""

    names: tuple[str, ...]

    def __call__(self, row: tuple[Any, ...]) -> Row:
        cells = {name: _plain(value) for name, value in zip(self.names, row, strict=True)}
        shown = ((name, f"{value:g}" if isinstance(value, float) else value) for name, value in cells.items() if value is not None)
        return Row("; ".join(f"{name}: {value}" for name, value in shown), cells)


def _plain(value: Any) -> float | str | None:
    if is_missing(value):
        return None
    # NumPy's float is one too, but is shown and hashed otherwise.
    return float(value) if isinstance(value, float) else str(value)
