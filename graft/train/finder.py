"""Which rate to train at: raised step by step until the loss no longer falls. Heavy: torch."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.features import Progress, States
from graft.records import Plan, Recipe, Task
from graft.registry import Registry
from graft.train.check import checked_loss
from graft.train.feeds import Lessons
from graft.train.loop import Run

# fastai's: from 1e-7 to 10 in a hundred steps, until the smoothed loss is four times its least.
LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
_DIVERGED = 4.0
_SMOOTHING = 0.98  # decay of the average of the losses
_AT_LEAST = 20  # steps that a curve needs to say anything

Curve = tuple[np.ndarray, np.ndarray]
RULES = Registry("rule")


def find_rate(
    backbone: Backbone,
    head: nn.Module,
    plan: Plan,
    items: Sequence[Any],
    y: np.ndarray,
    *,
    task: Task,
    others: Sequence[Any] = (),
    recipe: Recipe = Recipe(),
    rule: str | Callable[[np.ndarray, np.ndarray], float] = "valley",
    seed: int = 0,
    states: States | None = None,
    progress: Progress | None = None,
) -> tuple[float, Curve]:
    """(rate, (rates, losses)): what the highest rate of the plan should be; its other rates stay in proportion, see `scaled`.

    The phase with the most layer groups that learn, the last of them, is played for a hundred steps while the rates grow exponentially,
    on copies: backbone and head stay as they are. losses: averaged over the steps so far, decay 0.98.
    rule: "valley", "steepest", or a function (rates, losses) -> rate. Other arguments: as for `train`.
    Raises GraftError for a plan without phases, and where the loss diverges before twenty steps.
    Source: Smith 2017, arXiv:1506.01186, section 3.3; range, smoothing and rules are fastai's `lr_find`. Differs: its curve leaves out the
    first tenth of the steps and, where the loss did not diverge, the last five; so does ours.
    """
    choose = RULES.resolve(rule)
    if not plan.phases:
        raise GraftError("find_rate: the plan has no phases, expected one that trains. There is no rate to find for a head that is solved.")
    phase = max(reversed(plan.phases), key=lambda phase: sum(rate > 0 for rate in phase.lr))
    top = max(*phase.lr, phase.head_lr)
    recipe = replace(recipe, patience=None, averaging=0.0, augment=recipe.augment is not False)
    backbone, head = copy.deepcopy(backbone), copy.deepcopy(head)
    lessons = Lessons(items, y, None, others)
    loss, weight = checked_loss(backbone, head, plan, recipe, lessons, task)
    n = len(items if plan.supervised else others)
    batches = max(1, min(n, recipe.items_per_epoch or n) // recipe.batch_size)
    epochs = math.ceil(STEPS / math.ceil(batches / recipe.accumulate))
    probe = scaled(replace(plan, phases=(replace(phase, epochs=epochs),)), 1 / top)
    search = _Search(backbone, head, probe, recipe, task, loss, None, seed, states, progress, weight=weight)
    try:
        for _ in search.play(lessons):
            pass
    except _Enough:
        pass
    rates = LOWEST * (HIGHEST / LOWEST) ** (np.arange(len(search.losses)) / (STEPS - 1)) * highest(plan) / top
    losses = np.array(search.losses)
    last = len(losses) - (5 if len(losses) == STEPS else 1)
    kept = slice(STEPS // 10, last)
    if len(losses) < _AT_LEAST:
        raise GraftError(
            f"find_rate: the loss of {backbone.name} diverged after {len(losses)} steps, at rate {rates[-1]:.3g}, expected at least "
            f"{_AT_LEAST}. Give a rate, e.g. lr=1e-3, and look at the items: their scale or their targets may be off."
        )
    return float(choose(rates[kept], losses[kept])), (rates, losses)


def highest(plan: Plan) -> float:
    """The highest rate of a plan that has phases."""
    return max(rate for phase in plan.phases for rate in (*phase.lr, phase.head_lr))


def scaled(plan: Plan, factor: float) -> Plan:
    """The plan with every rate times the factor."""
    phases = (replace(phase, lr=tuple(rate * factor for rate in phase.lr), head_lr=phase.head_lr * factor) for phase in plan.phases)
    return replace(plan, phases=tuple(phases))


@RULES.add("fastai's `valley`, https://docs.fast.ai/callback.schedule.html")
def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate half way down the longest fall: the middle of the longest decreasing subsequence of the losses."""
    length, before = np.ones(len(losses), int), np.full(len(losses), -1)
    for place in range(1, len(losses)):
        higher = np.flatnonzero(losses[:place] > losses[place])
        if len(higher):
            before[place] = higher[np.argmax(length[higher])]
            length[place] = length[before[place]] + 1
    end = int(np.argmax(length))
    start = end - int(length[end])
    third = (end - start) / 3
    return float(rates[max(0, start + int(third) + int(third / 2))])


@RULES.add("fastai's `steep`, https://docs.fast.ai/callback.schedule.html")
def steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate at which the loss falls most for a growth of the rate."""
    return float(rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))])


class _Enough(Exception):
    """The search has seen what it needs."""


class _Search(Run):
    """The loop with rates that grow from step to step, listening to the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.losses: list[float] = []
        self._average, self._batches = 0.0, 0
        self._step: list[float] = []

    def scheduler(self, optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)))

    def heard(self, loss: float) -> None:
        self._step.append(loss)
        if math.isfinite(loss) and len(self._step) < self.recipe.accumulate:
            return
        loss, self._step = float(np.mean(self._step)), []
        self._average = _SMOOTHING * self._average + (1 - _SMOOTHING) * loss
        smooth = self._average / (1 - _SMOOTHING ** (len(self.losses) + 1))
        if not math.isfinite(loss) or smooth > _DIVERGED * min(self.losses, default=math.inf):
            raise _Enough
        self.losses.append(smooth)
        if len(self.losses) == STEPS:
            raise _Enough
