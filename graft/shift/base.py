"""What every method on features is given and gives back, and their registry. numpy only."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graft.errors import GraftError, raise_all
from graft.records import TASKS, Task
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
# and standardised if that is: a new choice would amplify features that hardly vary in the source, and do in the target.
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


def unmoved(domains: Domains, head: Any, weights: np.ndarray | None = None) -> Adapted:
    """What a method came to that leaves the rows of both sides alone: another head, and maybe weights."""
    return Adapted(head, head, as_it_is, domains.source, domains.target, weights)


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
    What every method would refuse is refused before it is called, see `checked`.
    """

    def put(function: Any) -> Any:
        called = name or function.__name__

        @functools.wraps(function)
        def careful(domains: Domains, **settings: Any) -> Adapted:
            if domains.task not in tasks:
                raise GraftError(f"method {called} does not serve {domains.task}, expected {' or '.join(tasks)}.")
            given = checked(domains, called, needs_source=needs_source)
            try:
                return function(given, **settings)
            except GraftError as error:
                # Several are tried in turn: which one speaks must be told.
                raise error if called in str(error) else GraftError(f"method {called}: {error}") from error

        careful.tasks, careful.needs_source, careful.grid = tuple(tasks), needs_source, tuple(grid)  # type: ignore[attr-defined]
        return SHIFTS.add(source, name)(careful)

    return put


def checked(domains: Domains, called: str = "", *, needs_source: bool = False) -> Domains:
    """The domains as they came. called: the method's name, for the messages. needs_source: whether source items must be there.

    Raises GraftError naming everything that does not fit: rows that are no (n, d) of finite numbers, a target without items, another
    width than the head's, another number of classes than the head's, labels, domains or held-out outputs of another number
    than the source's items, and a method that needs the source without any.
    """
    where = f"method {called}: " if called else ""
    d, c, problems = len(domains.head.mean), len(domains.head.bias), []
    for side, rows in (("source", domains.source), ("target", domains.target)):
        if rows.ndim != 2 or rows.shape[1] != d:
            problems.append(
                f"{where}{side} features have shape {rows.shape}, the source-only head reads (n, {d}). Use one backbone for both domains."
            )
        elif bad := int((~np.isfinite(rows)).any(axis=1).sum()):
            problems.append(
                f"{where}{side} features of {bad} of {len(rows)} items are not finite, expected numbers. Leave those items out."
            )
    if not len(domains.target):
        problems.append(f"{where}the target has no items, expected unlabelled ones to adapt to.")
    if needs_source and not len(domains.source):
        problems.append(f"{where}the source has no items, and it needs them. Give the labelled source data, or a method that does not.")
    for what, each in (("labels", domains.labels), ("domains", domains.domains), ("held-out outputs", domains.held_out)):
        if each is not None and len(each) != len(domains.source):
            problems.append(f"{where}{len(domains.source)} source items and {len(each)} {what}, expected one for each.")
    if domains.task == "classification" and not domains.n_classes == c == len(domains.prior):
        problems.append(
            f"{where}the domains have {domains.n_classes} classes, the head {c} and the prior {len(domains.prior)}, "
            "expected the same number. Was the head fitted on other data?"
        )
    raise_all(problems)
    return domains


@method("the control: no adaptation", tasks=TASKS, needs_source=False)
def source_only(domains: Domains) -> Adapted:
    """The head as it was fitted on the source: what every method has to beat."""
    return unmoved(domains, domains.head)
