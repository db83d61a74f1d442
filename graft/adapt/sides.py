"""Both sides of an adaptation: the source-only model, and what its backbone makes of their items. No label of the target comes here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graft import budget
from graft.data import View, folds, holdout
from graft.errors import GraftError
from graft.features import extract
from graft.heads import HEADS, LinearHead, cross_validate, fit_head
from graft.records import Event, Task
from graft.shift import Domains
from graft.transfer import Transfer

Progress = Callable[[Event], None] | None

# Of the source, kept from every candidate: validators need items that none has learned from.
_HELD_SHARE = 0.2
_HELD_AT_MOST = 1000
_FOLDS = 3
_LEAST = 10  # items of each side


@dataclass
class Source:
    """Labelled items. target: (n,) as `Transfer.fit_encoded` takes it. classes: names in the order of the index; none of a regression.

    domains: (n,) int, where they come from several. blocks: (n,) items with one number stay on one side.
    """

    items: Sequence[Any]
    target: np.ndarray
    task: Task
    classes: "Sequence[Any] | np.ndarray"
    domains: np.ndarray | None = None
    blocks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target)

    def part(self, index: np.ndarray) -> "Source":
        """Some of the items, with all that goes with them."""
        domains, blocks = (None if one is None else one[index] for one in (self.domains, self.blocks))
        return Source(View(self.items, index), self.target[index], self.task, self.classes, domains, blocks)


@dataclass
class Sides:
    """A source-only model, and rows of features of both sides.

    model: fitted on learned. learned, held: parts of the source, (l,) and (v,); held is None where the model came without its source.
    rows: learned (l, d), held (v, d), target (m, d), what the head reads. prior: (c,) shares of the classes in the source.
    others: the target's items.
    """

    model: Transfer
    source: Source | None
    learned: np.ndarray
    held: np.ndarray
    learned_rows: np.ndarray
    held_rows: np.ndarray
    target_rows: np.ndarray
    others: Sequence[Any]
    prior: np.ndarray
    seed: int

    @property
    def task(self) -> Task:
        return self.model.task_

    @property
    def n_classes(self) -> int:
        """0 of a regression."""
        return len(self.model.classes_)

    @property
    def head(self) -> LinearHead:
        return self.model.head_

    def fit(self, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> LinearHead:
        """A head of the kind that the source-only model has, its strength chosen anew. Raises Spent where time is up."""
        budget.check("another head")
        return fit_head(rows, labels, self.task, sample_weight=weights, **self.head_settings)

    @property
    def head_settings(self) -> dict[str, Any]:
        """What all heads here share with the source-only one."""
        kind = self.head.kind if self.head.kind in HEADS else "closed"
        # Scaled anew, what hardly varies on one side (a dead pixel) would be blown up on the other.
        return {"kind": kind, "standardise": bool(np.ptp(self.head.scale)), "n_classes": self.n_classes or None, "seed": self.seed}

    @cached_property
    def domains(self) -> Domains:
        """What methods on features see while candidates are compared: the held part is no part of it."""
        labels = self.labels(self.learned)
        outputs = None
        if len(labels) and self.task == "classification":
            parts = folds(labels, self.task, _FOLDS, self.seed)
            outputs = cross_validate(self.learned_rows, labels, self.task, parts, **self.head_settings)
        return self._domains(self.learned_rows, self.learned, self.head, outputs)

    def whole(self, head: LinearHead) -> Domains:
        """The same with all of the source, for the method that was chosen. head: the source-only one, fitted on all of it."""
        rows = np.concatenate([self.learned_rows, self.held_rows])
        index = np.concatenate([self.learned, self.held])
        outputs = None
        if self.domains.held_out is not None:
            outputs = np.concatenate([self.domains.held_out, self.head.outputs(self.held_rows)])
        return self._domains(rows, index, head, outputs)

    def _domains(self, rows: np.ndarray, index: np.ndarray, head: LinearHead, held_out: np.ndarray | None) -> Domains:
        parts = None if self.source is None or self.source.domains is None else self.source.domains[index]
        return Domains(
            source=rows,
            labels=self.labels(index),
            target=self.target_rows,
            task=self.task,
            n_classes=self.n_classes,
            head=head,
            fit=self.fit,
            prior=self.prior,
            held_out=held_out,
            domains=parts,
            seed=self.seed,
        )

    def labels(self, index: np.ndarray) -> np.ndarray:
        """(k,) of source items."""
        return np.empty(0, int) if self.source is None else self.source.target[index]


def both(model: Transfer, source: Source, others: Sequence[Any], seed: int, progress: Progress = None) -> Sides:
    """Fit the source-only model on most of the source, and run its backbone over both sides.

    model: not fitted yet. others: the target's items. Raises GraftError for a target without items, for a task other than one class an
    item or numbers, and where the source is too small to hold a part out.
    """
    _check(source, others)
    share = min(_HELD_SHARE, _HELD_AT_MOST / len(source))
    learned, held = holdout(source.target, source.task, share, seed, blocks=source.blocks)
    part = source.part(learned)
    model.fit_encoded(part.items, part.target, part.task, part.classes, blocks=part.blocks, progress=progress)
    rows = [rows_of(model, items, progress) for items in (part.items, source.part(held).items, others)]
    counts = np.bincount(source.target, minlength=len(source.classes)) if source.task == "classification" else np.empty(0)
    return Sides(model, source, learned, held, rows[0], rows[1], rows[2], others, counts / max(1, counts.sum()), seed)


def without_source(model: Transfer, prior: np.ndarray, others: Sequence[Any], seed: int, progress: Progress = None) -> Sides:
    """The sides of a model that is fitted already, and whose source is not at hand. prior: (c,) shares of its classes.

    Raises GraftError for a target that is too small, and for a model that gives several labels an item.
    """
    _check_task(model.task_, "model")
    _check_target(others)
    rows, none = rows_of(model, others, progress), np.empty(0, int)
    empty = np.empty((0, rows.shape[1]), np.float32)
    return Sides(model, None, none, none, empty, empty, rows, others, prior, seed)


def rows_of(model: Transfer, items: Sequence[Any], progress: Progress = None) -> np.ndarray:
    """(n, d): what a fitted model's head reads of these items."""
    return np.asarray(extract(model.backbone_, items, tap=model.plan_.tap, cache=not model.tuned_, progress=progress), np.float32)


def _check(source: Source, others: Sequence[Any]) -> None:
    _check_task(source.task, "source")
    _check_target(others)
    if len(source) < _LEAST:
        raise GraftError(
            f"the source holds {len(source)} labelled items, expected at least {_LEAST}: a part of them is held out to choose by."
        )


def _check_task(task: Task, where: str) -> None:
    if task == "multilabel":
        raise GraftError(f"the {where} has several labels an item, expected one class or one number: adaptation is built for those.")


def _check_target(others: Sequence[Any]) -> None:
    if not len(others):
        raise GraftError("the target holds no items, expected some to adapt to. Is the path right?")
    if len(others) < _LEAST:
        raise GraftError(
            f"the target holds {len(others)} item{'s' * (len(others) > 1)}, expected at least {_LEAST}: fewer show no domain. "
            "Collect more, or predict with the source-only model: graft predict."
        )
