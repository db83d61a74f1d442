"""`auto`, the default strategy: from the frozen probe on, only while held-out items support it. numpy; trains nothing itself."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from graft import interrupt
from graft.data import folds, holdout
from graft.evaluate import decide, interval_over_items, verdict_on_items
from graft.records import Score, Task

AUTO, PROBE, LATE = "auto", "feature_extraction", "late_stages"
# Compared without a budget, see `free`: one pass of the network serves all.
FREE = {"image": (PROBE, "head2toe"), "text": (PROBE, LATE), "row": (PROBE,), "table": (PROBE, LATE), "signal": (PROBE, LATE)}
# Compared where a budget is given. LP-FT first, which most often gains most of few labels: it begins with the probe's own head, and the
# others with a random one; of very many items it is tried alone, see `once`. Texts have no views, and below the head of rows there is
# nothing to retrain.
LP_FT = "lp_ft"
_RETRAINED = (LP_FT, "partial", "l2_sp")
DEARER = {
    "image": (LP_FT, "views", "partial", "l2_sp"),
    "text": _RETRAINED,
    "row": (),
    "table": _RETRAINED,
    "signal": _RETRAINED,
}

_INNER_FOLDS = 5
# Held-out items that are enough to compare by: of many items not every fold is played.
_ENOUGH = 500
_HELD_SHARE = 0.2
# Below a hundred items held-out answers hardly tell one head from another, and what did better elsewhere decides: `late_stages` gained
# with 8 or more labels a class, and not with fewer (nine sets of texts, benchmarks/README.md, "Few-shot texts").
_FEW_TEXTS, _LEAST_A_CLASS = 100, 8
# A strategy that mends a third of m wrong answers changes the score by m / 3 with a standard error of about sqrt(m), in answers:
# below nine of them a gain cannot be told from chance.
_LEAST_MISTAKES = 9
# Expected so many times as often, mistakes are as many with 90 %: 13.5 of them vary by 3.7.
_SURELY = 1.5
_NORMAL_95 = 1.96

NO_BUDGET = "there is no budget for finding out whether retraining pays"

Answer = Callable[[str, int, np.ndarray, np.ndarray], np.ndarray]


class Time(Protocol):
    """What a budget buys."""

    def parts(self, wanted: int, strategies: Sequence[str], least: int) -> int:
        """Held-out parts to answer for, at most those wanted and at least 1. least: fewer would most likely show no gain."""

    def epochs(self, strategy: str, parts: int) -> int:
        """Epochs of a strategy that answers so many parts and is then fitted on all, unless `once`; 0 where there is no time for it."""


def describe() -> list[str]:
    """The way up, a line a modality."""
    many = f"{_ENOUGH * _INNER_FOLDS:,}"
    then = {
        modality: f"; where a budget is given, then {', '.join(names)} (of {many} items and more {LP_FT})" if names else ""
        for modality, names in DEARER.items()
    }
    return [f"{modality}s: {', '.join(names)}{then[modality]}" for modality, names in FREE.items()]


def free(modality: str, n: int) -> tuple[str, ...]:
    """The strategies of FREE that are compared on n items without a budget.

    An image network's last stage is not made to be read, a sentence encoder's is: of many texts it alone is read, since heads
    on the stages below, equally wide, cost several times as much.
    """
    return FREE[modality] if modality == "image" or n <= _ENOUGH else FREE[modality][:1]


def _begins_late(modality: str, target: np.ndarray, task: Task) -> bool:
    if modality != "text" or task != "classification":
        return False
    return _LEAST_A_CLASS * len(np.unique(target)) <= len(target) < _FEW_TEXTS


@dataclass(frozen=True)
class Rung:
    """One strategy that was tried on held-out items. score: the metric on them. why: what became of it, in words."""

    strategy: str
    score: Score
    seconds: float
    why: str


@dataclass(frozen=True)
class Climb:
    """What `auto` came to. strategy: a name. epochs: to play it for. rungs: what was tried. why: one sentence."""

    strategy: str
    epochs: int
    rungs: tuple[Rung, ...]
    why: str

    def of_study(self, seconds: float) -> "Climb":
        """The same, told to who gave a whole study so many seconds, of which none were left for retraining."""
        before, found, _ = self.why.partition(NO_BUDGET)
        if not found:
            return self
        return replace(self, why=f"{before}of the budget of {seconds:.0f} s too little is left to find out whether retraining pays.")


def climb(
    answer: Answer,
    target: np.ndarray,
    task: Task,
    metric: str,
    *,
    modality: str,
    seed: int,
    blocks: np.ndarray | None = None,
    time_left: Time | None = None,
) -> Climb:
    """The strategy that held-out items support, what costs next to nothing first.

    answer: (strategy, epochs, fitted, held) -> outputs for the items `held` of the strategy fitted on `fitted`, both indices.
    epochs is 0 where strategies of FREE are compared with each other: a cheap head tells their features apart as well.
    target: (n,) or (n, c), of the training items. metric: name of the one to choose by. time_left: None: only what costs next to
    nothing is compared.
    Strategies of FREE answer for every item once, by folds, or for 500 items of many; those of DEARER too where there is time for it,
    else for fewer parts, one held-out fifth, at most 500 items, at least. It begins with the frozen probe; of fewer than 100 texts with
    eight or more a class, with `late_stages`, and the probe answers too. A strategy takes the place of the best so far when its gain on
    the same items exceeds the gain's standard error (the rule of Breiman et al. 1984, section 3.4.3). It ends where fewer than nine
    held-out answers are wrong, since no gain could then be shown.
    """
    n = len(target)
    n_units = n if blocks is None else len(np.unique(blocks))
    late = _begins_late(modality, target, task)
    first, *others = reversed(FREE[modality]) if late else free(modality, n)
    passed = [name for name in FREE[modality] if name not in (first, *others)]
    dearer = [name for name in [*passed, *DEARER[modality]] if name == LP_FT or not once(n)]
    ladder = _Ladder(answer, target, task, metric, seed)

    def stay(best: str, why: str, epochs: int = 1) -> Climb:
        return Climb(best, epochs, tuple(ladder.rungs), f"{_stayed(best, late)}: {why}")

    if not others and not dearer:
        return stay(first, "below the head there is nothing to retrain.")
    if n_units < 2 * _INNER_FOLDS or not _comparable(target, task):
        return stay(first, f"{n} items are too few to hold some out and compare.")
    best = first
    if others:
        parts = folds(target, task, _INNER_FOLDS, seed, blocks=blocks)[: n_parts(n)]
        ladder.start(first, parts, epochs=0)
        for name in others:
            if few := ladder.too_few(best):
                return stay(best, few)
            best = ladder.better(best, name, 0, parts)
        if few := ladder.too_few(best):
            return stay(best, few)
    if time_left is None:
        hint = " Of so many items it often does: name one (--budget 10m)." if once(n) and dearer else ""
        return stay(best, f"{NO_BUDGET}.{hint}")
    number = time_left.parts(n_parts(n), dearer, ladder.least_parts(best))
    if number > 1:
        parts = folds(target, task, _INNER_FOLDS, seed, blocks=blocks)[:number]
    else:
        parts = [holdout(target, task, min(_HELD_SHARE, _ENOUGH / n), seed, blocks=blocks)]
    epochs, start = {best: 1}, best
    tried: list[str] = []
    for place, name in enumerate(dearer):
        if interrupt.asked():
            return stay(best, f"it was interrupted, and did not try {', '.join(dearer[place:])}.", epochs[best])
        epochs[name] = time_left.epochs(name, number)
        if not epochs[name]:
            continue
        if not tried:
            ladder.start(best, parts)
            if few := ladder.too_few(best):
                longer = " So would a longer budget." if number < n_parts(n) else ""
                return stay(best, few + longer)
        tried.append(name)
        best = ladder.better(best, name, epochs[name], parts)
    if best != start:
        why = f"{best}: better than {start} on held-out items by more than the standard error."
        return Climb(best, epochs[best], tuple(ladder.rungs), why)
    if tried:
        return stay(best, f"{', '.join(tried)} did not do better on held-out items by more than the standard error.")
    return stay(best, "the time that is left allows nothing dearer.")


def n_parts(n: int) -> int:
    """How many of the five folds of n items are enough to compare strategies by."""
    return min(_INNER_FOLDS, math.ceil(_ENOUGH * _INNER_FOLDS / n))


def once(n: int) -> bool:
    """Whether what retrains is fitted once: enough of n items are held out to compare by and nearly all are left, so that is kept.

    LP-FT alone is tried then, and fills the time: what it does not gain others hardly do.
    """
    return n_parts(n) == 1


class _Ladder:
    """Outputs for the same held-out items, strategy by strategy."""

    def __init__(self, answer: Answer, target: np.ndarray, task: Task, metric: str, seed: int) -> None:
        self.answer, self.target, self.task, self.metric, self.seed = answer, target, task, metric, seed
        self.rungs: list[Rung] = []
        self.outputs: dict[str, np.ndarray] = {}

    def start(self, name: str, parts: Sequence[tuple[np.ndarray, np.ndarray]], epochs: int = 1) -> None:
        """Answer with the strategy that others are compared with on these parts."""
        seconds = self.held(name, parts, epochs)
        self.rungs.append(Rung(name, self.score(name), seconds, "what the others are compared with"))

    def held(self, name: str, parts: Sequence[tuple[np.ndarray, np.ndarray]], epochs: int) -> float:
        """Answer for the held-out items of the parts; returns the seconds it took."""
        begun = time.perf_counter()
        self.judged = np.concatenate([held for _, held in parts])
        self.outputs[name] = np.concatenate([self.answer(name, epochs, fitted, held) for fitted, held in parts])
        return time.perf_counter() - begun

    def better(self, best: str, name: str, epochs: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
        """The one of the two to go on with."""
        seconds = self.held(name, parts, epochs)
        y = self.target[self.judged]
        found = verdict_on_items(self.metric, y, self.outputs[name], self.outputs[best], seed=self.seed, against=best)
        error = (found.interval[1] - found.interval[0]) / (2 * _NORMAL_95)
        kept = found.effect > error
        why = f"{found.effect:+.3f} against {best}, standard error {error:.3f}: {'kept' if kept else 'not kept'}"
        self.rungs.append(Rung(name, self.score(name), seconds, why))
        return name if kept else best

    def score(self, name: str) -> Score:
        return interval_over_items(self.metric, self.target[self.judged], self.outputs[name], self.seed)

    def too_few(self, name: str) -> str:
        """Why no gain over this strategy could be shown; empty where one could."""
        if self.task == "regression" or (mistakes := self.mistakes(name)) >= _LEAST_MISTAKES:
            return ""
        return (
            f"it is wrong on {mistakes} of {len(self.judged)} held-out items, and below {_LEAST_MISTAKES} a gain cannot be told from "
            "chance. More labels would show more."
        )

    def least_parts(self, name: str) -> int:
        """Parts in which this strategy will surely enough be wrong often enough; 1 where it has not answered, or numbers are predicted."""
        if self.task == "regression" or name not in self.outputs:
            return 1
        wrong = self.mistakes(name) / len(self.judged) * len(self.target) / _INNER_FOLDS
        return math.ceil(_SURELY * _LEAST_MISTAKES / wrong)

    def mistakes(self, name: str) -> int:
        """How many of the held-out items it was wrong on."""
        y = self.target[self.judged]
        wrong = decide(y, self.outputs[name]) != y
        return int((wrong if wrong.ndim == 1 else wrong.any(axis=1)).sum())


def _stayed(best: str, late: bool) -> str:
    if best == PROBE:
        return "stayed with the frozen probe"
    if late and best == LATE:
        return f"began with {best}, as it did better on other sets of so few texts, and stayed with it"
    return f"stayed with {best}"


def _comparable(target: np.ndarray, task: Task) -> bool:
    """Whether at least two classes have an item to learn from and another to answer for; a class of one item may lie beside them."""
    return task != "classification" or int((np.unique(target, return_counts=True)[1] > 1).sum()) > 1
