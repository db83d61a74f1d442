"""From two sides to one model: candidates made, their evidence weighed, the guard asked, the chosen one fitted on all of the source."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

from graft import budget, interrupt
from graft.adapt.candidates import Made, averaged, judged, made, methods_for
from graft.adapt.guard import Decision, Known, decide, decide_numbers
from graft.adapt.predict import SOURCE_ONLY, Outlook, Predictor
from graft.adapt.sides import Progress, Sides
from graft.errors import GraftError, near_miss
from graft.heads import LinearHead
from graft.records import Note, Recipe, Step
from graft.shift import SHIFTS
from graft.transfer import Transfer
from graft.validators import Judged, evidence

AUTO = "auto"
# Methods beside source-only that a mean is made of at least: of two it is neither's.
_FEW = 3


@dataclass(frozen=True)
class Asked:
    """What is to be tried. methods: names, each with all its settings, or "auto": all that can be had, with their default ones, those that
    retrain only within a budget.

    seconds: of all methods together, above 0, without what it takes to judge them and to fit the chosen one; what is under way when they
    are over is ended. None: no limit, and none retrains. epochs, lr, recipe: theirs. guard: whether source-only is kept where in
    doubt. Raises GraftError for a name that no method has, and for a method that retrains without time to do so.
    """

    methods: str | Sequence[str] = AUTO
    seconds: float | None = None
    epochs: int = 10
    lr: float = 1e-3
    recipe: Recipe = field(default_factory=Recipe)
    guard: bool = True

    def __post_init__(self) -> None:
        from graft.adapt.trained import ADABN, TRAINED

        everything = [*SHIFTS, ADABN, *TRAINED]
        for name in self.names:
            if name not in everything:
                raise GraftError(f"method {name!r}, expected {AUTO!r} or some of {', '.join(everything)}.{near_miss(name, everything)}")
            if name not in SHIFTS and self.seconds is None:
                raise GraftError(f"method {name} retrains the network, expected a budget for it: budget='10m' (--budget 10m).")

    @property
    def names(self) -> list[str]:
        """The methods that were named; [] for "auto"."""
        if isinstance(self.methods, str):
            return [] if self.methods == AUTO else [self.methods]
        return list(self.methods)


@dataclass
class Outcome:
    """What an adaptation came to. made: the candidates, source-only first. outlooks: what each may be expected to reach, None for one
    that fell out, and for all of a regression. told: evidence of each, {} for one that fell out. model: fitted, to ship. known: the target
    labels that were given. missing: what Ctrl-C left out, in words. notes: on what the budget cut short or left out."""

    sides: Sides
    made: list[Made]
    outlooks: list[Outlook | None]
    told: list[dict[str, float]]
    decision: Decision
    model: Transfer
    known: Known | None = None
    missing: str = ""
    notes: Sequence[str] = ()

    @property
    def chosen(self) -> Made:
        return self.made[self.decision.place]


def adapt(sides: Sides, asked: Asked, predictor: Predictor, known: Known | None = None, progress: Progress = None) -> Outcome:
    """Make every candidate, weigh what can be known of each without a target label, decide, and fit what was chosen on all of the source.

    known: the target labels that were given; nothing else here has any. A first Ctrl-C ends the making: what is made is weighed.
    Raises GraftError for methods that cannot be had here, and where source-only itself cannot.
    """
    everyone, missing, notes = candidates(sides, asked, progress)
    outlooks: list[Outlook | None] = [None] * len(everyone)
    told: list[dict[str, float]] = []
    if sides.task == "regression":
        decision = decide_numbers(sides, everyone, known, guard=asked.guard)
        told = [{} for _ in everyone]
        return Outcome(sides, everyone, outlooks, told, decision, shipped(sides, everyone[decision.place]), known, missing, notes)
    first: Judged | None = None
    for number, one in enumerate(everyone, start=1):
        seen = None if one.fell_out else judged(sides, one, everyone, first)
        first = first or seen
        told.append({} if seen is None else evidence(seen))
        if progress:
            progress(Step("judging candidates without labels", number, len(everyone)))
    sound = [place for place, one in enumerate(everyone) if not one.fell_out]
    rows = [{"method": everyone[place].method, "classes": sides.n_classes, **told[place]} for place in sound]
    predicted = predictor.predict(rows)
    for place, outlook in zip(sound, predicted, strict=True):
        outlooks[place] = outlook
    decision = decide(sides, everyone, outlooks, told, known, guard=asked.guard)
    model = shipped(sides, everyone[decision.place])
    return Outcome(sides, everyone, list(decision.outlooks), told, decision, model, known, missing, notes)


def candidates(sides: Sides, asked: Asked, progress: Progress = None) -> tuple[list[Made], str, list[str]]:
    """Source-only first, then methods on features with their settings, their mean, and those that retrain, while time is left.

    With them what Ctrl-C left out, in words, and notes on what the budget cut short or left out.
    """
    wished = known_methods(sides, asked)
    found = [made(sides, SOURCE_ONLY, {})]
    if found[0].fell_out:
        raise GraftError(f"source-only: {found[0].fell_out}, expected features of both sides that are finite and vary. Look at the items.")
    with nullcontext() if asked.seconds is None else budget.within(asked.seconds):
        left_out, interrupted = _make(sides, asked, wished, found, progress)
    without_a_turn = f"without a turn: {', '.join(dict.fromkeys(left_out))}" if left_out else ""
    notes = [one.stopped for one in found if one.stopped]
    if left_out and not interrupted:
        notes.append(f"the budget of {asked.seconds:.0f} s does not allow more; {without_a_turn}")
    if progress:
        for note in notes:
            progress(Note(note))
    return found, without_a_turn if interrupted else "", notes


def _make(sides: Sides, asked: Asked, wished: Sequence[str], found: list[Made], progress: Progress) -> tuple[list[str], bool]:
    """Add to `found` what the methods make; (names of those left without a turn, whether by Ctrl-C and not by the budget)."""
    # Three times as many candidates chose no better on recorded runs: further settings are for methods that were asked for.
    tried = None if asked.names else 1
    on_features = [(name, settings) for name in wished if name in SHIFTS for settings in SHIFTS[name].grid[:tried]]
    retraining = [name for name in wished if name not in SHIFTS]
    for number, (name, settings) in enumerate(on_features, start=1):
        if (interrupted := interrupt.asked()) or budget.left() <= 0:
            return [*(one for one, _ in on_features[number - 1 :]), *retraining], interrupted
        found.append(made(sides, name, settings))
        if progress:
            progress(Step("methods on features", number, len(on_features)))
    if len({one.method for one in found if not one.fell_out}) > _FEW:
        found.append(averaged(sides, found))
    longest = 0.0
    for number, name in enumerate(retraining):
        # What has run says how long the next may take; of the first nothing does.
        if (interrupted := interrupt.asked()) or budget.left() <= longest:
            return retraining[number:], interrupted
        # Only now: what retrains needs torch's gradients, which methods on features do not.
        from graft.adapt.trained import made_by_training

        found.append(made_by_training(sides, name, {}, epochs=asked.epochs, lr=asked.lr, recipe=asked.recipe, progress=progress))
        longest = max(longest, found[-1].seconds)
    return [], False


def known_methods(sides: Sides, asked: Asked) -> list[str]:
    """The methods to try, without source-only, which always is. Raises GraftError for a method that cannot be had here, saying why."""
    from graft.adapt.trained import trained_methods

    features, training = methods_for(sides), trained_methods(sides)
    names = asked.names or [*features, *(training if asked.seconds is not None else ())]
    for name in names:
        if name not in features and name not in training:
            lacking = _lacking(sides, name)
            raise GraftError(f"method {name} {lacking}, expected one of {', '.join([*features, *training])}.")
    return [name for name in dict.fromkeys(names) if name != SOURCE_ONLY]


def _lacking(sides: Sides, name: str) -> str:
    """Why a method cannot be had here."""
    if sides.task not in (SHIFTS[name].tasks if name in SHIFTS else ("classification",)):
        return f"does not serve {sides.task}"
    if name not in SHIFTS and not any(True for _ in sides.model.backbone_.parameters()):
        return f"retrains layers, of which {sides.model.backbone_.name} has none"
    return "needs the source's items, and only the fitted model was given"


def shipped(sides: Sides, one: Made) -> Transfer:
    """The chosen candidate as a model: on features it is made again with the held part of the source too; a retrained one is as it is."""
    if one.model is not None:
        return one.model
    if sides.source is None:
        return altered(sides.model, head=one.head, strategy=one.method)
    rows = np.concatenate([sides.learned_rows, sides.held_rows])
    labels = np.concatenate([sides.labels(sides.learned), sides.labels(sides.held)])
    # A head that was trained with its network is at home on it alone: one solved anew on the features is another model than was judged.
    whole = sides.whole(sides.head if sides.model.tuned_ else sides.fit(rows, labels))
    if one.method == SOURCE_ONLY:
        return altered(sides.model, head=whole.head, strategy=SOURCE_ONLY)
    # A mean's members are not made again: what was judged is what is handed over.
    head = SHIFTS[one.method](whole, **one.settings).head if one.method in SHIFTS else one.head
    return altered(sides.model, head=head, strategy=one.method)


def altered(model: Transfer, *, head: LinearHead | None = None, strategy: str = "") -> Transfer:
    """A copy of a fitted model with another head. strategy: what was done to it, added to its own."""
    other = copy.copy(model)
    other.head_ = model.head_ if head is None else head
    other.strategy_ = f"{model.strategy_} + {strategy}" if strategy and strategy != SOURCE_ONLY else model.strategy_
    return other
