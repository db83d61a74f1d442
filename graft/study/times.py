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

from graft.budget import budget_seconds
from graft.features import remembered
from graft.records import Phase, Plan
from graft.study.material import Candidate, Material, trains
from graft.transfer import Transfer

DEFAULT_BUDGET = 180.0  # seconds
_TRANSFER_SHARE = 0.35
_SCRATCH_SHARE = 0.25
# A forward and a backward pass cost about three forward passes.
_TRAINING_PASSES = 3.0
_SPEED_ITEMS = 64  # enough to measure the speed of training by
# What is tried where the user names none. A sentence encoder's last stage is made to be read; an image network's is not.
DEFAULT_STRATEGIES = {
    "image": ("feature_extraction", "head2toe", "lp_ft"),
    "text": ("feature_extraction", "lp_ft"),
    "table": ("feature_extraction",),
}


def resolve_budget(budget: str | float | None, strategies: Sequence[str] | None) -> float | None:
    """Seconds. None, no limit: strategies were named and no budget."""
    if budget is not None:
        return budget_seconds(budget) if isinstance(budget, str) else float(budget)
    return None if strategies else DEFAULT_BUDGET


def affordable(
    material: Material, strategies: Sequence[str], seconds: float | None, n_train: int, n_folds: int
) -> tuple[list[str], list[str]]:
    """(tried, left out), cheapest first, so that transfer takes about a third of the budget. The cheapest is always tried.

    n_train: items to train on. n_folds: times that choosing and fitting happen.
    """
    costs = {strategy: _cost(material, strategy, n_train, n_folds) for strategy in strategies}
    order = sorted(strategies, key=lambda strategy: costs[strategy])
    if seconds is None:
        return order, []
    left = _TRANSFER_SHARE * seconds - sum(len(material.dataset) / speed for speed in material.speeds.values())
    tried: list[str] = []
    dropped: list[str] = []
    for place, strategy in enumerate(order):
        left -= costs[strategy]
        (tried if place == 0 or left > 0 else dropped).append(strategy)
    return tried, dropped


def _cost(material: Material, strategy: str, n_train: int, n_folds: int) -> float:
    """Seconds of choosing once and fitting once in each fold, for the slowest backbone."""
    most = 0.0
    for name, backbone in material.backbones.items():
        plan = material.plan(Candidate(name, strategy))
        if not trains(plan):
            continue
        passes = 0.0
        for phase in plan.phases:
            moving = [rate > 0 for rate in phase.lr]
            if any(moving):
                above = 1 - moving.index(True) / backbone.depth
                # Text states below the boundary are kept; image views are drawn anew, so all of the network runs.
                passes += phase.epochs * (_TRAINING_PASSES * above + (backbone.modality == "image") * (1 - above))
        most = max(most, passes * n_train / material.speeds[name])
    return most * n_folds * 2


@dataclass(frozen=True)
class ScratchPlan:
    """What the from-scratch control gets in each fold: epochs of so many items."""

    folds: int
    epochs: int
    items_per_epoch: int


def scratch_plan(
    material: Material, backbone: str, seconds: float | None, spent: float, n_train: int, n_folds: int, settings: Any
) -> ScratchPlan:
    """At least as much time as transfer had, or a quarter of the budget if that is more.

    spent: seconds that transfer took, all folds together; remembered for these settings, as is the speed of training.
    """
    spent = remembered(f"transfer {_digest(settings, material.target)}", lambda: spent)
    allowed = max(1.1 * spent, _SCRATCH_SHARE * (seconds or 0.0))
    items = allowed * remembered(f"training {_digest(backbone, material.target)}", lambda: _training_speed(material, backbone))
    # Fewer folds rather than hardly any training in each; two are the least that an interval can be made from.
    folds = max(min(n_folds, 2), min(n_folds, int(items / (3 * n_train))))
    items_per_epoch = min(n_train, 1024)
    return ScratchPlan(folds, max(1, math.ceil(items / folds / items_per_epoch)), items_per_epoch)


def _training_speed(material: Material, backbone: str) -> float:
    """Items a second that the whole network learns from, from preparing to the optimiser's step."""
    index = np.linspace(0, len(material.target) - 1, min(_SPEED_ITEMS, len(material.target))).astype(int)
    plan = Plan((Phase(1, (1e-9,) * material.backbones[backbone].depth, 1e-9),))
    model = Transfer(material.backbones[backbone], plan, random_state=material.seed)
    begun = time.perf_counter()
    model.fit_encoded(material.items(index), material.target[index], material.task, material.dataset.classes)
    return len(index) / (time.perf_counter() - begun)


def _digest(settings: Any, target: np.ndarray) -> str:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    digest.update(target.tobytes())
    return digest.hexdigest()
