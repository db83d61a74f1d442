"""Which method teaches which kind of items, and how it is played: a table, and the plan made of a row. Heavy: torch. Trains nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from graft.backbones.base import Backbone
from graft.errors import GraftError, near_miss
from graft.pretext import PRETEXTS
from graft.records import End, Phase, Plan, Recipe

SUPERVISED, DISTILLATION = "supervised", "distillation"


@dataclass(frozen=True)
class Method:
    """How a method is played where nothing else is said.

    epochs: passes over the items from random weights. continued: from pretrained ones, which have come most of the way. Only those are
    held near where they began: by `anchor` (L2-SP, `Phase.anchor`), by further losses `beside` the pretext's, (name, strength), or by
    the `end` of the plan.
    """

    epochs: int = 50
    continued: int = 5
    anchor: float = 0.0
    beside: tuple[tuple[str, float], ...] = ()
    end: End = "keep"


# A pretext that is not here is played as `Method()` says.
METHODS: dict[str, Method] = {
    "simclr": Method(100, 20),
    "byol": Method(100, 20),
    "vicreg": Method(100, 20),
    "dino": Method(100, 20),
    "masked_patches": Method(100, 20),
    "rotation": Method(50, 10),
    # Without what holds its features a sentence encoder loses what it knew: benchmarks/README.md, "Continued on texts".
    "masked_language": Method(10, 3, beside=(("keep_features", 10.0),)),
    "simcse": Method(3, 1),
    "tsdae": Method(10, 3),
    "masked_cells": Method(30, 10),
    "scarf": Method(50, 10),
    "masked_segments": Method(50, 10),
    "contrastive_crops": Method(50, 10),
    DISTILLATION: Method(100, 20),
    SUPERVISED: Method(30, 10),
}

# By what the backbone reads; `supervised` where a label is named, `distillation` where a teacher is.
DEFAULTS = {"image": "simclr", "text": "masked_language", "table": "scarf", "signal": "contrastive_crops"}

# As `Transfer` trains: the head's rate, of which pretrained layers learn at a tenth.
_SUPERVISED_RATE = 1e-3
_SUPERVISED_BATCH = 64
_CONTINUED_SHARE = 0.1


def is_untrained(backbone: Backbone) -> bool:
    """Whether its weights are random, by what its card says."""
    return backbone.card.get("pretrained_on", "").startswith("nothing")


def chosen(name: str | None, backbone: Backbone, *, labelled: bool, teachers: Sequence[Backbone]) -> str:
    """The method that is named, else the default. labelled: a label was named.

    Raises GraftError for an unknown one, one that does not read such items, and one that lacks teachers or does not listen to them.
    """
    if name is None:
        name = DISTILLATION if teachers else SUPERVISED if labelled else DEFAULTS[backbone.modality]
    known = suiting(backbone.modality)
    if name != SUPERVISED and name not in PRETEXTS:
        raise GraftError(f"unknown method {name!r}, expected one of {', '.join(known)}.{near_miss(name, known)}")
    if name not in known:
        raise GraftError(
            f"method {name!r} with {backbone.name}, which reads {backbone.modality}s, expected one for them: {', '.join(known)}."
        )
    listens = name != SUPERVISED and PRETEXTS[name].needs_teachers
    if listens and not teachers:
        raise GraftError(f"method {name!r} without a teacher, expected a backbone to learn from. Name one: --teacher timm:NAME.")
    if teachers and not listens:
        raise GraftError(
            f"method {name!r} with {len(teachers)} teachers, expected none: it learns from the items alone. Leave out the method, or them."
        )
    return name


def suiting(modality: str) -> list[str]:
    """The methods for items of a modality."""
    return [*(name for name in PRETEXTS if modality in PRETEXTS[name].modalities), SUPERVISED]


def default_epochs(name: str, backbone: Backbone) -> int:
    method = METHODS.get(name, Method())
    return method.epochs if is_untrained(backbone) else method.continued


def highest_rate(name: str, backbone: Backbone) -> float:
    """Of the layer groups: the method's own for random weights, a tenth of it for pretrained ones."""
    rate = _SUPERVISED_RATE if name == SUPERVISED else PRETEXTS[name].highest_rate
    return rate if is_untrained(backbone) else rate * _CONTINUED_SHARE


def plan_of(name: str, backbone: Backbone, epochs: int) -> Plan:
    """What the loop is to play: one phase, every layer group at one rate; with a head where the method reads labels."""
    rates = (highest_rate(name, backbone),) * backbone.depth
    method = Method() if is_untrained(backbone) else METHODS.get(name, Method())
    if name == SUPERVISED:
        return Plan((Phase(epochs, rates, _SUPERVISED_RATE, method.anchor),), losses=method.beside, end=method.end)
    losses = ((name, 1.0), *method.beside)
    return Plan((Phase(epochs, rates, 0.0, method.anchor),), losses=losses, supervised=False, end=method.end)


def refuse_other_plan(plan: Plan, name: str) -> None:
    """Raises GraftError where a plan is not one of this method's: of one phase, supervised, or with the pretext among its losses."""
    losses = [loss for loss, _ in plan.losses]
    if len(plan.phases) != 1:
        raise GraftError(f"a plan of {len(plan.phases)} phases, expected one: a pretraining is watched as a single course.")
    if name == SUPERVISED and not plan.supervised:
        raise GraftError("a plan with supervised=False for method 'supervised', expected one that learns from labels.")
    if name != SUPERVISED and (plan.supervised or name not in losses):
        raise GraftError(
            f"a plan with supervised={plan.supervised} and the losses {', '.join(losses) or 'none'} for method {name!r}, expected "
            f"supervised=False and {name} among the losses."
        )


def recipe_of(name: str) -> Recipe:
    """The recipe where none is named: a pretext makes its own views of a batch; batch normalisation takes the batch's statistics."""
    if name == SUPERVISED:
        return Recipe(batch_size=_SUPERVISED_BATCH, batch_norm="batch")
    return Recipe(batch_size=PRETEXTS[name].batch_size, batch_norm="batch", augment=False)
