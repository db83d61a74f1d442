"""What every method on features is given and gives back, and their registry. numpy only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graft.records import Task
from graft.registry import Registry

# name -> a method: (domains, **settings) -> Adapted
SHIFTS = Registry("adaptation method")


class Head(Protocol):
    """A fitted linear head, as `graft.heads.LinearHead`: link(((rows - mean) / scale) @ weight + bias)."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray: ...

    def outputs(self, features: np.ndarray) -> np.ndarray: ...


# (rows (k, e), labels (k,), weights (k,) with mean 1 or None) -> a head for rows of width e, of the kind that the source-only head has
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray | None], Any]


@dataclass(frozen=True)
class Domains:
    """Both sides, as rows of features. No label of the target is among them.

    source: (n, d) float32; n is 0 where only a fitted model is at hand. labels: (n,) int from 0 to c - 1, or (n,) float of a regression.
    target: (m, d) float32. n_classes: c; 0 of a regression. head: the source-only head. fit: makes another one of its kind.
    held_out: (n, c) outputs for the source's items by heads that did not learn from them, None where there are none.
    prior: (c,) shares of the classes in the source, which are told even where its items are not. domains: (n,) int, the source domain
    of each item, where there are several. seed: of everything drawn.
    """

    source: np.ndarray
    labels: np.ndarray
    target: np.ndarray
    task: Task
    n_classes: int
    head: Any
    fit: Fit
    prior: np.ndarray
    held_out: np.ndarray | None = None
    domains: np.ndarray | None = None
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """What a method came to.

    head: a `LinearHead` that reads target rows as they come, (k, d): what the method does to them is folded into its weights, so that it
    is stored and shipped like any other. source: (n, e), target: (m, e), both sides as the method sees them, for judges and pictures.
    inner: the head that reads rows as the method sees them, (k, e): inner.outputs(target) equals head.outputs of the raw target rows; the
    same object as head where the target's rows stay as they are. read_source: (rows (k, d) of the source that no one has seen) -> (k, e),
    the same map that made `source`; validators judge held-out source items by inner.outputs(read_source(rows)).
    weights: (n,) of the source's items with mean 1, None where all weigh alike.
    """

    head: Any
    inner: Any
    read_source: Callable[[np.ndarray], np.ndarray]
    source: np.ndarray
    target: np.ndarray
    weights: np.ndarray | None = None


def as_it_is(rows: np.ndarray) -> np.ndarray:
    """The map of a method that leaves rows alone."""
    return rows


def method(
    source: str,
    *,
    tasks: Sequence[Task] = ("classification",),
    needs_source: bool = True,
    grid: Sequence[dict[str, Any]] = ({},),
    name: str | None = None,
) -> Callable[[Any], Any]:
    """Decorator: a method joins SHIFTS. source: paper. tasks: that it serves. needs_source: whether it needs the source's items.

    grid: the settings that are tried, the default ones first; at most four, as each costs a fit.
    """

    def put(function: Any) -> Any:
        function.tasks, function.needs_source, function.grid = tuple(tasks), needs_source, tuple(grid)
        return SHIFTS.add(source, name)(function)

    return put
