"""Methods that retrain the network on both sides, or on the target alone: each is a plan for the one loop. Heavy: torch."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graft.adapt.candidates import Made, checked
from graft.adapt.sides import Progress, Sides, rows_of
from graft.data import View
from graft.errors import GraftError
from graft.records import BatchNorm, Only, Phase, Plan, Recipe
from graft.testtime import adapt_statistics
from graft.transfer import Transfer
from graft.transfer.adapting import adapt_trained


@dataclass(frozen=True)
class Training:
    """losses: of the plan, (name, strength). supervised: whether the source's labelled items are trained on too.

    only: which parameters learn. head: whether the head does. batch_norm: the statistics that batch normalisation uses. epochs: passes,
    where the method's paper wants few.
    """

    losses: tuple[tuple[str, float], ...]
    supervised: bool = True
    only: Only = "all"
    head: bool = True
    batch_norm: BatchNorm = "moving"
    epochs: int | None = None


# Strengths as in the papers; the adversarial ones rise from 0 by their own schedule.
TRAINED: dict[str, Training] = {
    "deep_coral": Training((("deep_coral", 1.0),)),
    "dan": Training((("dan", 1.0),)),
    "jan": Training((("jan", 1.0),)),
    "dann": Training((("dann", 1.0),)),
    "cdan": Training((("cdan", 1.0),)),
    "cdan_e": Training((("cdan_e", 1.0),)),
    "mdd": Training((("mdd", 1.0),)),
    "mcc": Training((("mcc", 1.0),)),
    "adda": Training((("adda", 1.0),), supervised=False, head=False),
    "consistency": Training((("consistency", 1.0),)),
    "pseudo": Training((("pseudo", 1.0),)),
    "shot": Training((("shot", 1.0),), supervised=False, head=False),
    "tent": Training((("entropy_minimisation", 1.0),), supervised=False, only="norms", head=False, batch_norm="batch", epochs=1),
}
ADABN = "adabn"


def trained_methods(sides: Sides) -> list[str]:
    """Those that can be had: the network needs layers, and the source's items those methods that train on them."""
    if not any(True for _ in sides.model.backbone_.parameters()) or sides.task != "classification":
        return []
    return [ADABN, *(name for name, one in TRAINED.items() if sides.source is not None or not (one.supervised or name == "adda"))]


def plan_of(method: str, depth: int, epochs: int, lr: float) -> Plan:
    """What a method does: one phase, every layer group at a tenth of the head's rate, as in `full`."""
    how = TRAINED[method]
    phase = Phase(how.epochs or epochs, (lr / 10,) * depth, lr * how.head)
    return Plan((phase,), losses=how.losses, supervised=how.supervised, only=how.only)


def made_by_training(
    sides: Sides, method: str, settings: Mapping[str, Any], *, epochs: int, lr: float, recipe: Recipe, progress: Progress = None
) -> Made:
    """A method on the network, from the source-only model on; what it cannot do is told in `fell_out`."""
    begun = time.perf_counter()
    try:
        model = _model(sides, method, epochs, lr, recipe, progress)
    except GraftError as error:
        return Made(method, settings, time.perf_counter() - begun, fell_out=str(error))
    rows = [rows_of(model, items, progress) for items in (*_source_items(sides), sides.others)]
    head = model.head_
    return checked(
        Made(
            method,
            settings,
            time.perf_counter() - begun,
            outputs=head.outputs(rows[2]),
            held_outputs=head.outputs(rows[1]) if len(rows[1]) else np.empty((0, sides.n_classes)),
            learned=rows[0],
            held=rows[1],
            target=rows[2],
            reads=head.outputs,
            head=head,
            model=model,
        )
    )


def _source_items(sides: Sides) -> tuple[Sequence[Any], Sequence[Any]]:
    if sides.source is None:
        return (), ()
    return View(sides.source.items, sides.learned), View(sides.source.items, sides.held)


def _model(sides: Sides, method: str, epochs: int, lr: float, recipe: Recipe, progress: Progress) -> Transfer:
    source = sides.model
    if method == ADABN:
        model = copy.copy(source)
        model.backbone_, model.tuned_ = adapt_statistics(source.backbone_, sides.others), True
        model.strategy_ = f"{source.strategy_} + {ADABN}"
        return model
    plan = plan_of(method, source.backbone_.depth, epochs, lr)
    items, _ = _source_items(sides)
    recipe = replace(recipe, batch_norm=TRAINED[method].batch_norm)
    labels = sides.labels(sides.learned)
    return adapt_trained(source, plan, items, labels, sides.others, recipe=recipe, seed=sides.seed, progress=progress)
