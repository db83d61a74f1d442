"""How long training takes here: measured on a few items, remembered, and reckoned from for a strategy. Heavy: torch."""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.auto import once
from graft.backbones.base import Backbone
from graft.data import View
from graft.features import device_of, machine, remembered, throughput
from graft.records import Epoch, Phase, Plan, Task
from graft.strategies import make_plan
from graft.train import asks_for_others, train
from graft.train.layer import torch_head
from graft.transfer.inputs import Given

LEAST_EPOCHS = 3  # of retraining that is worth trying; of few items more, until so many were seen
_LEAST_OF_MANY = 2  # of 2,000 items each; LP-FT cannot do with less
_LEAST_SEEN = 500
_PLANNED = 0.9  # of the time that is left
_SHARE_FITTED = 0.8  # of the items, where each part is held out in turn
# Of very many items what retrains is looked at more often than once a pass, and may end within the first.
AT_MOST_AN_EPOCH = 2000
# Enough to measure the speed of training by. Whatever else runs only slows it, so the fastest pass counts, of those there is time for.
_SPEED_ITEMS, _SPEED_EPOCHS, _SPEED_SECONDS = 64, 5, 2.0


def training_speed(backbone: Backbone, items: Sequence[Any], target: np.ndarray, task: Task) -> float:
    """Items a second that the whole network learns from, from preparing to the optimiser's step; measured once and remembered."""

    def measure() -> float:
        index = np.linspace(0, len(target) - 1, min(_SPEED_ITEMS, len(target))).astype(int)
        outputs = 1 if task == "regression" else target.shape[1] if target.ndim == 2 else int(target.max()) + 1
        head = torch_head(None, backbone.width, outputs, 0.0, 1.0, 0)
        plan = Plan((Phase(_SPEED_EPOCHS, (1e-9,) * backbone.depth, 1e-9),))
        seconds: list[float] = []
        while len(seconds) < 2:
            # A Ctrl-C may cut it short; one that has come already does not.
            seconds = []
            for event in train(copy.deepcopy(backbone), head, plan, View(items, index), target[index], task=task):
                seconds += [event.seconds] if isinstance(event, Epoch) else []
                if len(seconds) > 1 and sum(seconds) > _SPEED_SECONDS:
                    break
        # The first one warms up.
        return len(index) / min(seconds[1:])

    return remembered(f"training {machine(device_of(backbone))} {backbone.fingerprint()} {len(target)} {hash_of(target)}", measure)


def epoch_seconds(backbone: Backbone, strategy: "str | Callable[..., Plan]", n_items: int, training_speed: float) -> float:
    """Seconds that an epoch of the strategy takes, about: of what is frozen nothing is run but once.

    training_speed: items a second that the whole network learns from; a third of that time is the forward pass.
    """
    plan = make_plan(strategy, backbone.depth, 2, 1e-3)
    learning = [next((group for group, rate in enumerate(phase.lr) if rate), backbone.depth) for phase in plan.phases]
    share = 1 - min(learning) / backbone.depth
    # Each item then comes with one of the others.
    n_items *= 2 if asks_for_others(plan) else 1
    return n_items / training_speed * (share + (1 - share) / 3 / LEAST_EPOCHS)


@dataclass(frozen=True)
class Within:
    """What `auto` can afford within a budget; see `graft.auto.Time`. A clock decides once, and the same call then does the same again.

    A strategy that trains may take all of the time that is left, since most of what there is to gain the first of them gains, if it has
    time for all its epochs. It answers as many held-out parts as that leaves time for; where those would show nothing, it gives up epochs.
    seconds: the budget. spent: () -> seconds of it that are gone. most_epochs: of each strategy. items_per_epoch: None for all.
    """

    seconds: float
    spent: Callable[[], float]
    backbone: Backbone
    given: Given
    most_epochs: int
    seed: int
    items_per_epoch: int | None = None

    def parts(self, wanted: int, strategies: Sequence[str], least: int) -> int:
        def decide() -> float:
            first = next((name for name in strategies if self.plan(name).phases), None)
            if first is None:
                return wanted
            left = self.left()

            def bought(epochs: int) -> int:
                return int((left / (epochs * self.epoch_seconds(first)) - 1) / _SHARE_FITTED)

            parts = bought(self.most_epochs)
            if parts < least:
                parts = min(least, bought(self.least_epochs()))
            return max(1, min(wanted, parts))

        return int(remembered(f"parts {wanted} {least} {' '.join(strategies)} {self.about()}", decide))

    def epochs(self, strategy: str, parts: int) -> int:
        def decide() -> float:
            left, plan = self.left(), self.plan(strategy)
            if not plan.phases:
                # A view is extracted once, whoever reads it; of the plain one the pooled features are there already.
                passes = plan.views - (plan.tap == "pooled")
                return float(passes * len(self.given) / throughput(self.backbone, self.given.items) < left / 2)
            # Where it is kept it is fitted again on all, but of very many items.
            fits = 1 if once(len(self.given)) else 1 + _SHARE_FITTED * parts
            epochs = int(left / (fits * self.epoch_seconds(strategy)))
            return min(self.most_epochs, epochs) if epochs >= self.least_epochs() else 0

        return int(remembered(f"epochs {strategy} {parts} {self.about()}", decide))

    def left(self) -> float:
        """Seconds that may be planned for: speeds vary."""
        return _PLANNED * (self.seconds - self.spent())

    def least_epochs(self) -> int:
        """Of retraining that is worth trying."""
        few = math.ceil(_LEAST_SEEN / len(self.given))
        return min(self.most_epochs, _LEAST_OF_MANY if once(len(self.given)) else max(LEAST_EPOCHS, few))

    def plan(self, strategy: str) -> Plan:
        return make_plan(strategy, self.backbone.depth, self.most_epochs, 1e-3)

    def epoch_seconds(self, strategy: str) -> float:
        given = self.given
        n = min(len(given), self.items_per_epoch or len(given))
        return epoch_seconds(self.backbone, strategy, n, training_speed(self.backbone, given.items, given.target, given.task))

    def about(self) -> str:
        given = self.given
        data = f"{self.backbone.fingerprint()} {len(given)} {hash_of(given.target)}"
        return f"{data} {self.seconds} {self.most_epochs} {self.items_per_epoch} {given.metric} {self.seed}"


def hash_of(target: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(target).tobytes(), digest_size=8).hexdigest()
