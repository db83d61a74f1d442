"""Judging: folds that no choice has seen, the controls on the same folds, intervals and the verdict."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graft import interrupt
from graft.auto import once
from graft.data import Dataset, folds, holdout
from graft.evaluate import (
    METRICS,
    decide,
    difference_on_items,
    difference_over_folds,
    interval_over_folds,
    interval_over_items,
    measure,
    metrics_for,
    signed,
    verdict,
    verdict_on_items,
)
from graft.records import Difference, Score, Verdict
from graft.study.controls import SCRATCH, Classical, Scratch
from graft.study.material import Choice, Material

_FOLDS = 5
_LEAST_FOLDS = 2  # that an interval over folds can be made from
# Repeats narrow the interval where items are few; with frozen features they cost next to nothing.
_REPEATS, _REPEAT_AT_MOST = 2, 1000
# Of many items under a budget: a fold's share, and at most so many, whose interval is about as narrow as it needs to be.
_TEST_SHARE, _TEST_AT_MOST = 0.2, 2000

Fold = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Parts:
    """Who is trained on and who is judged. words: the same as a sentence. one_test: a single part is judged, given or drawn."""

    folds: list[Fold]
    train: np.ndarray
    words: str
    one_test: bool


def parts(dataset: Dataset, seed: int, *, repeat: bool = False, budgeted: bool = False) -> Parts:
    """The given test part (or, without one, the given validation part), else stratified cross-validation.

    repeat: deal the folds twice where items are few. budgeted: time is limited, and of so many items that `auto.once` holds one stratified
    part, a fifth and at most about 2000 items, takes the place of the folds: the time of five fits goes into one.
    """
    n = len(dataset)
    given = np.full(n, "train") if dataset.split is None else np.asarray(dataset.split)
    for name in ("test", "validation"):
        judged = np.flatnonzero(given == name)
        train = np.flatnonzero(given != name)
        if len(judged) and len(train):
            words = f"the given {name} part: {len(judged)} items, trained on the other {len(train)}"
            return Parts([(train, judged)], train, words, True)
    assert dataset.task is not None and dataset.target is not None
    n_units = n if (blocks := dataset.blocks()) is None else len(np.unique(blocks))
    kept = " with groups and near-copies kept together" if blocks is not None else ""
    # Of few groups one part is one or two, and says little of others.
    if budgeted and once(n) and n_units >= 2 * _FOLDS:
        train, judged = holdout(dataset.target, dataset.task, min(_TEST_SHARE, _TEST_AT_MOST / n), seed, blocks=blocks)
        words = (
            f"one part held out{kept}: {len(judged)} items, trained on the other {len(train)}; "
            f"of so many items one is enough, and leaves the budget the time of {_FOLDS} folds"
        )
        return Parts([(train, judged)], train, words, True)
    k, repeats = min(_FOLDS, n_units), _REPEATS if repeat and n <= _REPEAT_AT_MOST else 1
    cut = folds(dataset.target, dataset.task, k, seed, repeats=repeats, blocks=blocks)
    words = f"{k}-fold cross-validation, {repeats} repeat{'s' if repeats > 1 else ''}{kept}, choosing inside each fold"
    return Parts(cut, np.arange(n), words, False)


@dataclass
class Judged:
    """Held-out outputs fold by fold. outputs: name -> one (n_test, ...) array a fold; scratch may have fewer."""

    material: Material
    parts: Parts
    outputs: dict[str, list[np.ndarray]] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)

    def scores(self, name: str, metric: str | None = None) -> list[float]:
        """One score a fold, in the metric's own unit."""
        metric = metric or self.material.metric
        pairs = zip(self.parts.folds, self.outputs[name], strict=False)
        return [measure(metric, self.material.target[test], outputs) for (_, test), outputs in pairs]

    def score(self, name: str, metric: str | None = None) -> Score:
        metric = metric or self.material.metric
        if self.parts.one_test:
            return interval_over_items(metric, self.material.target[self.parts.folds[0][1]], self.outputs[name][0], self.material.seed)
        scores = self.scores(name, metric)
        n_train, n_test = self._sizes(len(scores))
        judged = len(np.unique(np.concatenate([test for _, test in self.parts.folds[: len(scores)]])))
        return interval_over_folds(scores, n_train, n_test, n=judged, metric=metric, seeds=(self.material.seed,))

    def metrics(self) -> dict[str, Score]:
        """Every metric of the task for the chosen model."""
        return {metric: self.score(TRANSFER, metric) for metric in metrics_for(self.material.task)}

    def verdict(self, control: str) -> Verdict:
        material = self.material
        if self.parts.one_test:
            y = material.target[self.parts.folds[0][1]]
            return verdict_on_items(
                material.metric, y, self.outputs[TRANSFER][0], self.outputs[control][0], seed=material.seed, against=control
            )
        shared = len(self.outputs[control])
        turned = [[signed(material.metric, value) for value in self.scores(name)[:shared]] for name in (TRANSFER, control)]
        n_train, n_test = self._sizes(shared)
        return verdict(*turned, n_train=n_train, n_test=n_test, against=control, n=self.score(control).n)

    def difference(self, first: str, second: str) -> Difference:
        """First minus second, on the items or the folds that both were judged on."""
        material = self.material
        if self.parts.one_test:
            y, pair = material.target[self.parts.folds[0][1]], (self.outputs[first][0], self.outputs[second][0])
            return difference_on_items(material.metric, y, *pair, seed=material.seed)
        turned = [[signed(material.metric, value) for value in self.scores(name)] for name in (first, second)]
        n_train, n_test = self._sizes(len(turned[0]))
        n = self.score(first).n
        return difference_over_folds(*turned, n_train=n_train, n_test=n_test, n=n, names=(first, second))

    def better_control(self) -> str:
        """The control with the higher mean score; what it was compared on is what it was judged on."""
        controls = [name for name in self.outputs if name != TRANSFER]
        return max(controls, key=lambda name: signed(self.material.metric, self.score(name).value))

    def first_pass(self) -> tuple[np.ndarray, np.ndarray]:
        """(index, outputs) of the chosen model with each judged item once: the first repeat."""
        seen: set[int] = set()
        index, outputs = [], []
        for (_, test), answers in zip(self.parts.folds, self.outputs[TRANSFER], strict=True):
            if seen & set(test.tolist()):
                break
            seen.update(test.tolist())
            index.append(test)
            outputs.append(answers)
        return np.concatenate(index), np.concatenate(outputs)

    def _sizes(self, n_folds: int) -> tuple[int, int]:
        some = self.parts.folds[:n_folds]
        return round(np.mean([len(train) for train, _ in some])), round(np.mean([len(test) for _, test in some]))


TRANSFER = "transfer"


def judge_transfer(judged: Judged, strategies: Sequence[str]) -> None:
    """Choose and fit inside each fold's training part, then answer for its test part once.

    Ctrl-C drops the remaining folds but for the two that an interval is made from; what is judged is whole.
    """
    material, folds = judged.material, judged.parts.folds
    judged.outputs[TRANSFER] = []

    def answer(train: np.ndarray, test: np.ndarray) -> tuple[Choice, np.ndarray]:
        choice = material.choose(train, strategies)
        return choice, material.fit_and_predict(choice.candidate, train, test)

    for choice, outputs in whole(answer, folds):
        judged.choices.append(choice)
        judged.outputs[TRANSFER].append(outputs)
    if (n := len(judged.choices)) < len(folds):
        words = f"{judged.parts.words}, of which an interrupted run reached {n} of {len(folds)} folds"
        judged.parts = replace(judged.parts, folds=folds[:n], words=words)


def whole(answer: Callable[[np.ndarray, np.ndarray], Any], folds: Sequence[Fold]) -> Iterator[Any]:
    """The answer of each fold; after Ctrl-C only those of the first two, and none that it cut short."""
    for place, fold in enumerate(folds):
        before = interrupt.asked()
        if before and place >= _LEAST_FOLDS:
            return
        found = answer(*fold)
        if interrupt.asked() and not before:
            if place >= _LEAST_FOLDS:
                return
            # A second time nothing is cut, and what was trained is gone on with.
            found = answer(*fold)
        yield found


def judge_classical(judged: Judged, classical: Classical) -> None:
    """The classical control on the same folds; the first of them may have been answered for already."""
    answered = judged.outputs.get(classical.name, [])
    judged.outputs[classical.name] = answered + [classical.fit_and_predict(*fold) for fold in judged.parts.folds[len(answered) :]]


def judge_scratch(judged: Judged, scratch: Scratch) -> None:
    """The from-scratch control on the first of the folds, as many as its plan has time for."""
    judged.outputs[SCRATCH] = []
    for place, fold in enumerate(judged.parts.folds[: scratch.plan.folds]):
        if interrupt.asked() and place >= _LEAST_FOLDS:
            return
        judged.outputs[SCRATCH].append(scratch.fit_and_predict(*fold))


def most_wrong(material: Material, index: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Positions of the wrong answers, the surest first; for a regression the largest errors first."""
    y = material.target[index]
    if material.task == "regression":
        return np.argsort(-np.abs(y - outputs), kind="stable")
    per_item = METRICS["log_loss"].per_item(y, outputs)
    decided = decide(y, outputs)
    wrong = np.flatnonzero((decided != y) if y.ndim == 1 else (decided != y).any(axis=1))
    return wrong[np.argsort(-per_item[wrong], kind="stable")]
