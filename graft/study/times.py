"""Time: what a budget buys. A budget becomes whole numbers (strategies, folds, epochs) once, and they are remembered.

Clocks differ from run to run; a run that obeys them is not repeatable. So what was decided for a data set, its settings
and this machine is kept in the cache folder and used again: the same command gives the same numbers.
"""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft import interrupt
from graft.auto import AUTO, n_parts
from graft.budget import budget_seconds
from graft.errors import GraftError
from graft.features import remembered
from graft.study.material import Candidate, Material
from graft.transfer.speed import epoch_seconds, training_speed

# The from-scratch control gets what transfer took, and a tenth more; the label curve about a fifth of that again.
_SCRATCH = 1.1
_WITH_CURVE = 1.3
_LEAST_SCRATCH = 10.0  # seconds: in less a network from random weights learns next to nothing
_LEAST_FIT = 5.0  # seconds of retraining in each fold that are worth planning for
_PAGE = 3.0  # seconds: fitting the last model and writing the page
# Seconds of fitting a head of c classes on n items along r axes: so much for n * r * c and so much for r ** 3. From five data sets,
# 244 to 8,000 items, 2 to 100 classes, on one core of 2.8 GHz; within a factor of two of each.
_HEAD, _FACTORISATION = 9e-9, 5e-10
SCRATCH_RATES = (1e-3, 3e-3, 3e-4)
_LEAST_EPOCHS = 3  # of each rate that is tried from scratch


def resolve_budget(budget: str | float | None) -> float | None:
    """Seconds; None: no limit."""
    return budget_seconds(budget) if budget is not None else None


@dataclass
class Clock:
    """The time of one study.

    budget: seconds, None without a limit. n_train: items of a fold's training part. n_fits: fits of each candidate, one a fold and
    the last. settings: all that decisions depend on besides the data. earlier: seconds that an interrupted run has spent already.
    """

    material: Material
    budget: float | None
    begun: float
    n_train: int
    n_fits: int
    settings: dict[str, Any]
    earlier: float = 0.0

    def left(self) -> float:
        """Seconds until the budget is spent."""
        return math.inf if self.budget is None else self.budget - self.earlier - (time.perf_counter() - self.begun)

    def estimate(self) -> float:
        """Seconds that a study takes from here in which nothing is retrained, about: what is printed before they are spent."""
        extraction, heads = self.extraction(), self.heads()
        return max(_LEAST_SCRATCH, _SCRATCH * (extraction + heads)) * _WITH_CURVE + extraction + 2 * heads + _PAGE

    def extraction(self, *backbones: str) -> float:
        """Seconds of running these backbones, all unless named; over random views too where a strategy that was named reads them."""
        material, passes = self.material, 1
        if material.dataset.modality == "image":
            named = [strategy for strategy in self.settings["strategies"] if strategy != AUTO]
            passes = max((material.plan(Candidate(name, strategy)).views for name in material.backbones for strategy in named), default=1)
        return passes * sum(material.extraction_seconds[name] for name in backbones or material.backbones)

    def heads(self) -> float:
        """Seconds of fitting heads, about: ranking by five folds, then comparing and fitting in each fold of the study.

        The classical control takes about as long.
        """
        material, most = self.material, 0.0
        for backbone in material.backbones.values():
            # All stages of an image network together are about twice as wide as the last; those of a text encoder are equally wide.
            times = {"pooled": (1,), "late": (1, backbone.depth - backbone.depth // 2), "stages": (1, 2)}[material.tap]
            taps = [backbone.width * many for many in times]
            columns = max(1, len(material.dataset.classes))
            seconds = [self.n_train * (r := min(self.n_train, width)) * columns * _HEAD + r**3 * _FACTORISATION for width in taps]
            compared = n_parts(self.n_train) if len(taps) > 1 else 0
            most += 5 * seconds[0] + self.n_fits * (compared * sum(seconds) + seconds[-1])
        return most

    def refuse_too_little(self) -> None:
        """Raise GraftError where the budget does not allow even a study with the cheapest of the strategies."""
        # What an interrupted run has spent bought what this one goes on from: the budget was enough then.
        if self.budget is None or self.earlier:
            return
        strategy, retraining = self.cheapest()
        if (needed := self.estimate() + retraining) > self.left():
            least = math.ceil(1.1 * (needed + self.budget - self.left()))
            speeds = ", ".join(f"{name} {speed:.0f} items/s" for name, speed in self.material.speeds.items())
            fits = f" and {self.n_fits} fits of {strategy}" if retraining else ""
            raise GraftError(
                f"budget {self.budget:g}s: {len(self.material.dataset)} items at {speeds}, with the controls{fits}, take about "
                f"{needed:.0f} s here, expected a budget that allows for them. The smallest that works is about "
                f"--budget {least}s; fewer backbones or items take less{', and so does --strategy auto' if retraining else ''}."
            )

    def cheapest(self) -> tuple[str, float]:
        """The strategy that is tried whatever the budget, and the seconds that its fits, and as much from scratch, take at most."""
        costs = {strategy: self.cost(strategy) for strategy in self.settings["strategies"]}
        strategy = min(costs, key=lambda name: costs[name])
        # A cost is that of two fits; what has no rival is not tried before it is fitted.
        return strategy, self.n_fits * costs[strategy] / 2 * (1 + _SCRATCH * _WITH_CURVE)

    def retraining(self, plays: int) -> float:
        """Seconds that named strategies take besides, at most and about: tried and fitted in each fold, and as long from scratch.

        plays: fits of each in a fold in which two and more are set beside each other.
        """
        named = [self.cost(strategy) for strategy in self.settings["strategies"] if strategy != AUTO]
        # A cost is that of two fits.
        beside = plays / 2 if len(named) > 1 else 0.0
        return self.n_fits * sum(named) * (1 + _SCRATCH * _WITH_CURVE + beside)

    def words(self, plays: int) -> str:
        """The plan for the time, in a sentence. plays: see `retraining`."""
        material = self.material
        reading = ", ".join(f"{name} at {material.speeds[name]:.0f} items/s {self.extraction(name):.0f} s" for name in material.backbones)
        if self.budget is None:
            retraining, rest = self.retraining(plays), "heads, controls, label curve and page: the rest"
            besides = f", and up to {retraining:.0f} s for the retraining that was named" if retraining else ""
            return f"estimate: about {self.estimate():.0f} s (extraction: {reading}; {rest}){besides}"
        spare = max(0.0, self.left() - self.estimate())
        beside = self.estimate() - self.extraction()
        return (
            f"plan for {self.budget:.0f} s: extraction {reading}; heads, controls, label curve and page about {beside:.0f} s; "
            f"retraining and its from-scratch control up to {spare:.0f} s"
        )

    def fit_seconds(self, spent: float, classical: float) -> float | None:
        """For each fit of `auto`, its heads among it; None where what is left for retraining is too little to be worth it.

        spent: seconds of transfer so far, which all fits share. classical: seconds that the classical control takes, all folds together.
        """
        if self.budget is None:
            return None

        def decide() -> float:
            scratch = _SCRATCH * _WITH_CURVE
            # What is left pays for retraining, for as much from scratch, and for the rest of the study.
            left = (self.left() - classical - _PAGE - self.heads() - scratch * (spent + self.heads())) / (1 + scratch) / self.n_fits
            return left + self.heads() / self.n_fits if left >= _LEAST_FIT else 0.0

        return self.decided("fit seconds", decide) or None

    def scratch_plan(self, backbone: str, spent: float, n_folds: int) -> "ScratchPlan":
        """At least as much time as transfer had, and what a budget leaves up to twice that.

        spent: seconds that transfer took, all folds together.
        """
        least = max(_SCRATCH * spent, _LEAST_SCRATCH)
        if self.budget is None:
            seconds = self.decided("scratch seconds", lambda: least)
        else:
            seconds = self.decided("scratch seconds", lambda: max(least, min(2 * least, self.left() / _WITH_CURVE - _PAGE)))
        items = seconds * self._training_speed(backbone)
        # Fewer folds rather than hardly any training in each; two are the least that an interval can be made from.
        folds = max(min(n_folds, 2), min(n_folds, int(items / (3 * self.n_train))))
        items_per_epoch = min(self.n_train, 1024)
        rates = len(SCRATCH_RATES) if items / folds / items_per_epoch >= len(SCRATCH_RATES) * _LEAST_EPOCHS else 1
        return ScratchPlan(seconds / folds, folds, rates, max(1, math.ceil(items / folds / rates / items_per_epoch)), items_per_epoch)

    def cost(self, strategy: str) -> float:
        """Seconds of trying a strategy and fitting it, for the slowest backbone; `auto` keeps to its own seconds."""
        most = 0.0
        for name in self.material.backbones:
            candidate = Candidate(name, strategy)
            if strategy != AUTO and self.material.trains(candidate):
                most = max(most, 2 * self._fit(candidate, self.n_train))
        return most

    def allows_point(self, candidate: Candidate, n: int, scratch: float) -> bool:
        """Whether the time that is left reaches for a point of the label curve. scratch: seconds of its network from scratch."""
        if self.budget is None or not self.material.trains(candidate):
            return True

        def decide() -> float:
            # Smaller points come first, and together they cost as much as the largest.
            return float(self.left() - _PAGE >= 2 * (scratch + self._fit(candidate, n)))

        return bool(self.decided(f"curve point {n}", decide))

    def _fit(self, candidate: Candidate, n: int) -> float:
        """Seconds of one fit of what is retrained on n items."""
        epochs = sum(phase.epochs for phase in self.material.plan(candidate).phases)
        backbone = self.material.backbones[candidate.backbone]
        return epochs * epoch_seconds(backbone, candidate.strategy, n, self._training_speed(candidate.backbone))

    def _training_speed(self, backbone: str) -> float:
        material = self.material
        everything = material.items(np.arange(len(material.target)))
        return training_speed(material.backbones[backbone], everything, material.target, material.task)

    def decided(self, what: str, decide: Any) -> float:
        """A number that hangs on the clock, decided once for these settings and data. What Ctrl-C cut short is not remembered."""
        digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=16)
        digest.update(self.material.target.tobytes())

        def whole() -> float:
            value = decide()
            if interrupt.asked():
                raise _CutShort(value)
            return float(value)

        try:
            return remembered(f"{what} {digest.hexdigest()}", whole)
        except _CutShort as cut:
            return float(cut.args[0])


class _CutShort(Exception):
    """A decision that an interrupted run made for itself alone. Holds the number."""


@dataclass(frozen=True)
class ScratchPlan:
    """What the from-scratch control gets in each fold: seconds, and in them so many rates of so many epochs of so many items.

    seconds: the least; an attempt that is under way then is played to its end.
    """

    seconds: float
    folds: int
    rates: int
    epochs: int
    items_per_epoch: int


def affordable(clock: Clock, strategies: Sequence[str]) -> tuple[list[str], list[str]]:
    """(tried, left out), cheapest first, so that retraining takes a third of the budget. The cheapest is always tried."""
    costs = {strategy: clock.cost(strategy) * clock.n_fits for strategy in strategies}
    order = sorted(strategies, key=lambda strategy: costs[strategy])
    if clock.budget is None:
        return order, []
    left = clock.left() / 3
    tried: list[str] = []
    dropped: list[str] = []
    for place, strategy in enumerate(order):
        left -= costs[strategy]
        (tried if place == 0 or left > 0 else dropped).append(strategy)
    return tried, dropped
