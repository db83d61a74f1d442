"""Methods that retrain the network on both sides, or on the target alone: each is a plan for the one loop. Heavy: torch."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graft import budget
from graft.adapt.candidates import Made, checked
from graft.adapt.sides import Progress, Sides, rows_of
from graft.budget import Spent
from graft.data import View
from graft.errors import GraftError
from graft.losses import LOSSES
from graft.records import Only, Phase, Plan, Recipe
from graft.testtime import adapt_statistics
from graft.train import highest
from graft.transfer import Transfer
from graft.transfer.adapting import adapt_trained


@dataclass(frozen=True)
class Training:
    """losses: of the plan, (name, strength). supervised: whether the source's labelled items are trained on too.

    only: which parameters learn. head: whether the head does. epochs: passes, where the method's paper wants few. views: whether
    training sees random views.
    """

    losses: tuple[tuple[str, float], ...]
    supervised: bool = True
    only: Only = "all"
    head: bool = True
    epochs: int | None = None
    views: bool = True


# Strengths as in the papers; the adversarial ones rise from 0 by their own schedule. Those on the target alone come first: they cost the
# least, and where a budget is spent the rest has no turn.
TRAINED: dict[str, Training] = {
    "tent": Training((("entropy_minimisation", 1.0),), supervised=False, only="norms", head=False, epochs=1, views=False),
    "shot": Training((("shot", 1.0),), supervised=False, head=False),
    "mcc": Training((("mcc", 1.0),)),
    "dann": Training((("dann", 1.0),)),
    "pseudo": Training((("pseudo", 1.0),)),
    "cdan_e": Training((("cdan_e", 1.0),)),
    "consistency": Training((("consistency", 1.0),)),
    "deep_coral": Training((("deep_coral", 1.0),)),
    "mdd": Training((("mdd", 1.0),)),
    "dan": Training((("dan", 1.0),)),
    "jan": Training((("jan", 1.0),)),
    "cdan": Training((("cdan", 1.0),)),
    "adda": Training((("adda", 1.0),), supervised=False, head=False),
}
ADABN = "adabn"
_ADABN_SOURCE = "Li et al. 2018, arXiv:1603.04779, algorithm 1"


def described() -> list[tuple[str, str, str]]:
    """Name, what it is and paper of each method that retrains the network, in the order in which they are tried."""
    losses = [(name, how.losses[0][0]) for name, how in TRAINED.items()]
    statistics = (adapt_statistics.__doc__ or "").partition("\n")[0]
    return [(ADABN, statistics, _ADABN_SOURCE), *((name, LOSSES.describe(loss), LOSSES.sources[loss]) for name, loss in losses)]


def trained_methods(sides: Sides) -> list[str]:
    """Those that can be had: the network needs layers, and the source's items those methods that train on them."""
    if not any(True for _ in sides.model.backbone_.parameters()) or sides.task != "classification":
        return []
    return [ADABN, *(name for name, one in TRAINED.items() if sides.source is not None or not (one.supervised or name == "adda"))]


def plan_of(method: str, source: Plan, depth: int, epochs: int, lr: float) -> Plan:
    """What a method does to a network that the plan `source` made: one phase, in which every layer group learns at one rate.

    Weights that began as random ones learn on at the rate that made them, and the head too, as in SHOT's code for digits (uda_digit.py of
    tim-learn/SHOT); pretrained ones at a tenth of lr, the head at lr, as in `full`.
    """
    how = TRAINED[method]
    rate, head_rate = (highest(source), highest(source)) if source.reset else (lr / 10, lr)
    phase = Phase(how.epochs or epochs, (rate,) * depth, head_rate * how.head)
    return Plan((phase,), losses=how.losses, supervised=how.supervised, only=how.only)


def recipe_of(method: str, recipe: Recipe) -> Recipe:
    """The recipe of the source-only model as far as it suits a method. What is for labels goes where none is read; nothing is held out
    to wait or to choose by; what mixes items does not go with added losses. Labels are not smoothed: a network that learned to be 91 %
    sure of one of ten classes would never pass the 95 % of `consistency`.

    Batch normalisation goes by the statistics of each batch, as in the code of SHOT and TENT: those of the source do not fit the target.
    """
    how = TRAINED[method]
    of_labels: dict[str, Any] = {} if how.supervised else {"class_weight": None, "sampler": "shuffled"}
    if not how.views:
        of_labels |= {"rand_augment": 0.0, "word_deletion": 0.0, "word_swap": 0.0, "token_dropout": 0.0}
    augment = how.views and bool(recipe.augment)
    return replace(recipe, batch_norm="batch", patience=None, smoothing=0.0, mixup=0.0, cutmix=0.0, augment=augment, **of_labels)


def made_by_training(
    sides: Sides, method: str, settings: Mapping[str, Any], *, epochs: int, lr: float, recipe: Recipe, progress: Progress = None
) -> Made:
    """A method on the network, from the source-only model on; what it cannot do is told in `fell_out`.

    epochs: passes over the larger side where the source's labels are learned from too, else over the target. Where time is up first it is
    the model after its last whole epoch, which `stopped` tells; without one it falls out.
    """
    begun = time.perf_counter()
    try:
        model = _model(sides, method, epochs, lr, recipe, progress)
        played, due = _epochs(model, method)
        if not played:
            raise Spent(f"the budget was spent in the first of {due} epochs, expected more time. Name a larger budget.")
    except GraftError as error:
        return Made(method, settings, time.perf_counter() - begun, fell_out=str(error))
    if method == ADABN:
        # Each domain goes by its own statistics: the source's items are seen with those that they gave.
        learned, held = sides.learned_rows, sides.held_rows
    else:
        learned, held = (rows_of(model, _some(sides, index), progress) for index in (sides.learned, sides.held))
    target, head = rows_of(model, sides.others, progress), model.head_
    stopped = "" if played == due else f"the budget ended {method} after {played} of {due} epochs"
    return checked(
        Made(
            method,
            settings,
            time.perf_counter() - begun,
            outputs=head.outputs(target),
            held_outputs=head.outputs(held) if len(held) else np.empty((0, sides.n_classes)),
            learned=learned,
            held=held,
            target=target,
            reads=head.outputs,
            head=head,
            model=model,
            stopped=stopped,
        )
    )


def _epochs(model: Transfer, method: str) -> tuple[int, int]:
    """How many epochs were played, and how many were due. A Ctrl-C is told by who was asked for an end."""
    due = 1 if method == ADABN else sum(phase.epochs for phase in model.plan_.phases)
    return (len(model.history_), due) if method != ADABN and budget.left() <= 0 else (due, due)


def _some(sides: Sides, index: np.ndarray) -> Sequence[Any]:
    """Items of the source; none where it is not at hand."""
    return () if sides.source is None else View(sides.source.items, index)


def _model(sides: Sides, method: str, epochs: int, lr: float, recipe: Recipe, progress: Progress) -> Transfer:
    source = sides.model
    if method == ADABN:
        model = copy.copy(source)
        model.backbone_, model.tuned_ = adapt_statistics(source.backbone_, sides.others), True
        model.strategy_ = f"{source.strategy_} + {ADABN}"
        return model
    plan = plan_of(method, source.plan_, source.backbone_.depth, epochs, lr)
    index = sides.learned
    if plan.supervised and len(index) < len(sides.others):
        # An epoch is a pass over the items of the source: a few hundred of them would see little of a large target in ten.
        index = np.resize(index, len(sides.others))
    told: dict[str, Any] = {"recipe": recipe_of(method, recipe), "seed": sides.seed, "progress": progress}
    return adapt_trained(source, plan, _some(sides, index), sides.labels(index), sides.others, **told)
