"""The guard: whether the evidence is enough to put a method in the place of source-only, and the reasons in words. Fits nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from graft.adapt.candidates import Made
from graft.adapt.mix import class_mix
from graft.adapt.predict import Outlook, number
from graft.adapt.sides import Sides
from graft.errors import GraftError
from graft.evaluate import difference_on_items, interval_over_items
from graft.records import Difference
from graft.scatter import weighted_axes
from graft.validators import density_ratio

# How sure a gain must be. Chosen on recorded runs: see benchmarks/README.md.
LEAST_SURE = 0.8
# Below this a target is not of the source's kind: noise has about 0, most recorded pairs of domains 0.4 to 1.1.
LEAST_FAMILIAR = 0.25
_MAIN, _LEAST_OWN = 0.9, 0.01
# Harrell et al. 1984, doi:10.1002/sim.4780030207, of a regression.
_ITEMS_A_FEATURE = 10
# Proxy A-distance: with less, features do not show a shift that could be undone, and recorded methods lost more than they won.
LEAST_APART = 1.0
# Of the divergence that predictions of a single class have from even shares: above it the target holds few of the classes, or others.
MOST_UNEVEN = 0.3
# Of the source's accuracy beyond chance: with less, a class's name means something else on the other side.
LEAST_RETURNED = 0.3
_DRAWS = 1000
# Of a regression, one a candidate: what more are there say the same of other settings.
_REASONS = 8


@dataclass(frozen=True)
class Known:
    """Target labels that were given. places: (k,) of target items, each once; labels: (k,) class indices, or values."""

    places: np.ndarray
    labels: np.ndarray

    def difference(self, sides: Sides, one: Made, other: Made, metric: str) -> Difference:
        """The metric of one candidate minus that of another on these items."""
        return difference_on_items(metric, self.labels, one.outputs[self.places], other.outputs[self.places], seed=sides.seed)


@dataclass(frozen=True)
class Decision:
    """place: of the chosen candidate. reasons: as `records.Adaptation` has them. checked: what the given labels say, {} without.

    outlooks: of all candidates, as they were told or, where another mix of classes explains everything, as that has it; [] of a regression.
    """

    place: int
    reasons: list[dict[str, Any]]
    checked: dict[str, Any]
    outlooks: Sequence[Outlook | None] = ()


def decide(
    sides: Sides,
    everyone: Sequence[Made],
    outlooks: Sequence[Outlook | None],
    told: Sequence[Mapping[str, float]],
    known: Known | None,
    *,
    guard: bool = True,
) -> Decision:
    """The candidate with the best outlook, or source-only (the first) where no gain is sure enough.

    known: labels that correct the outlooks: each gain is the mean of the predicted and the measured one, weighed by their variances.
    Where another mix of classes explains how far the domains lie apart, only what moves the bias is let through: see `mix.class_mix`.
    """
    alike, apart, mix = familiarity(sides), everyone[0].told_apart, class_mix(sides, everyone)
    mixed = may_be_mix(alike, apart) and mix.suffices(apart)
    if mixed:
        outlooks = mix.revised(outlooks)
    gains = {place: (one.gain, one.spread) for place, one in enumerate(outlooks) if one is not None}
    measured: dict[int, Difference] = {}
    if known is not None:
        for place, (gain, spread) in gains.items():
            measured[place] = known.difference(sides, everyone[place], everyone[0], "accuracy")
            gains[place] = _together(gain, spread, measured[place])
    best, sure = best_of(gains)
    shown = best in measured and measured[best].interval[0] > 0
    if mixed and not shown:
        best, sure = best_of({place: gains[place] for place in (0, *mix.gains)})
    strange = strangeness(told[0], sides.n_classes)
    # What labels show needs no leave of the features.
    plausible = shown or mixed or not implausible(alike, apart, strange)
    chosen = best if (sure >= LEAST_SURE and plausible) or not guard else 0
    reasons = _reasons(everyone, outlooks, told, best, sure, measured.get(best), guard)
    reasons = strange.reasons + reasons
    if math.isfinite(apart):
        after = everyone[best].told_apart
        speaks = "against" if apart < LEAST_APART or after > apart + 0.05 else "for" if after < apart - 0.05 else "neither"
        words = f"proxy A-distance of the domains: {apart:.2f} before, {after:.2f} after (0: cannot be told apart, 2: always)"
        words += f"; below {LEAST_APART:g} before there is hardly a shift of features to undo" * (apart < LEAST_APART)
        reasons.insert(0 if apart < LEAST_APART else len(reasons), _reason("distance", apart, words, speaks))
    if math.isfinite(alike):
        foreign = alike < LEAST_FAMILIAR
        words = f"the target varies along the source's main axes {alike:.2f} times as much as new items of the source, beyond chance"
        words += f"; below {LEAST_FAMILIAR:g} it is of another kind, and what looks better may be noise" * foreign
        reasons.insert(0 if foreign else 1, _reason("familiarity", alike, words, "against" if foreign else "neither"))
    if mixed:
        words = f"another mix of the same classes makes a proxy A-distance of {mix.explained:.2f}, and {apart:.2f} was measured: "
        reasons.insert(0, _reason("class mix", mix.explained, words + "nothing else need have moved, and a moved bias mends it", "for"))
    checked = {} if known is None else _checked(sides, everyone, chosen, known, measured, "accuracy")
    return Decision(chosen, reasons, checked, outlooks)


def may_be_mix(alike: float, apart: float) -> bool:
    """Whether features leave room for nothing but another mix of classes: `familiarity`, and the proxy A-distance."""
    return apart < LEAST_APART and not alike < LEAST_FAMILIAR


def implausible(alike: float, apart: float, strange: "Strangeness") -> bool:
    """Whether the target is of another kind or of other classes, or has hardly a shift of features: what looks better then is not."""
    return alike < LEAST_FAMILIAR or apart < LEAST_APART or strange.refuses


def familiarity(sides: Sides) -> float:
    """How far the target varies along the same axes as the source: 1 as its held-out part does, 0 as noise without any structure.

    The share of the target's variance along the principal axes that hold 90 % of the learned part's, beyond the share of all axes that
    these are, over the same for the held part; nan without the source. Below 0 the target varies where the source hardly does. 0 where
    not even the held part keeps to these axes and there are fewer than ten items a feature: nothing that is aligned can then be relied on;
    nan where there are more, as of a table of four columns that vary alike: its axes are no structure that a target could lack.
    """
    if not len(sides.held_rows):
        return math.nan
    rows = sides.learned_rows.astype(float)
    _, axes, turned = weighted_axes(rows, np.ones(len(rows)))
    variances = np.square(turned).sum(axis=0)
    held = np.cumsum(variances) / max(float(variances.sum()), np.finfo(float).tiny)
    main = axes.T[: int(np.searchsorted(held, _MAIN)) + 1]
    chance = len(main) / rows.shape[1]

    def beyond(some: np.ndarray) -> float:
        centred = some - some.mean(axis=0)
        return float(((centred @ main.T) ** 2).sum() / max(float((centred**2).sum()), np.finfo(float).tiny)) - chance

    own = beyond(sides.held_rows.astype(float))
    if own > _LEAST_OWN:
        return beyond(sides.target_rows.astype(float)) / own
    return 0.0 if len(rows) < _ITEMS_A_FEATURE * rows.shape[1] else math.nan


@dataclass(frozen=True)
class Strangeness:
    """Whether the target's classes are those of the source, as source-only's predictions show. Either is nan where it is not known.

    uneven: how far the predicted shares of the classes lie from the source's, as a share of log c, the divergence of a single class from
    even ones; 0 or more. returned: what is left, of the source's held-out accuracy beyond 1 / c, to a classifier that learned the target
    with the predicted classes; 1 where nothing is lost, 0 where it guesses.
    """

    uneven: float
    returned: float

    @property
    def refuses(self) -> bool:
        """Whether no method may take source-only's place.

        A target of one class, or of classes that the source does not have, is taken for a shift of features by whatever aligns the two
        sides: it spreads the items over all classes, and looks the better for it.
        """
        return self.uneven > MOST_UNEVEN or self.returned < LEAST_RETURNED

    @property
    def reasons(self) -> list[dict[str, Any]]:
        """Against, in words; [] where the classes look like the source's."""
        found = []
        if self.uneven > MOST_UNEVEN:
            words = f"the shares of the predicted classes diverge from the source's by {self.uneven:.2f} of what a single class would"
            words += f"; above {MOST_UNEVEN:g} the target may hold few of the classes, or others, and should not be spread over all"
            found.append(_reason("class shares", self.uneven, words, "against"))
        if self.returned < LEAST_RETURNED:
            words = f"learned back from the predicted classes, {max(0.0, self.returned):.2f} of the source's accuracy beyond chance"
            words += f" is left; below {LEAST_RETURNED:g} the target may hold other classes"
            found.append(_reason("classes learned back", self.returned, words, "against"))
        return found


def strangeness(told: Mapping[str, Any], n_classes: int) -> Strangeness:
    """Of what validators told of source-only: class_balance, reverse and source_risk, any of which may be missing."""
    balance, back, risk = (number(told, name) for name in ("class_balance", "reverse", "source_risk"))
    beyond = risk - 1 / n_classes
    return Strangeness(-balance / math.log(n_classes), (back - 1 / n_classes) / beyond if beyond > 0 else math.nan)


def best_of(gains: Mapping[int, tuple[float, float]]) -> tuple[int, float]:
    """(place, probability that it is better than source-only) of the candidate with the highest gain. gains: place -> gain and spread."""
    best = max(gains, key=lambda place: (gains[place][0], -place))
    return best, _sure(*gains[best]) if best else 1.0


def _together(gain: float, spread: float, measured: Difference) -> tuple[float, float]:
    """Mean and spread of a predicted and a measured gain together."""
    # Of few items all of which agree the bootstrap's interval is that of one item turning either way: it is never 0.
    other = max((measured.interval[1] - measured.interval[0]) / (2 * 1.96), 1e-9)
    weight = spread**-2 / (spread**-2 + other**-2) if spread else 1.0
    return weight * gain + (1 - weight) * measured.effect, (spread**-2 + other**-2) ** -0.5 if spread else 0.0


def _sure(gain: float, spread: float) -> float:
    """Probability that the gain is above 0."""
    return float(norm.cdf(gain / spread)) if spread else float(gain > 0)


def _reasons(
    everyone: Sequence[Made],
    outlooks: Sequence[Outlook | None],
    told: Sequence[Mapping[str, float]],
    best: int,
    sure: float,
    measured: Difference | None,
    guard: bool,
) -> list[dict[str, Any]]:
    outlook, name = outlooks[best], everyone[best].name
    assert outlook is not None
    if not best:
        return [_reason("predicted gain", outlook.gain, "no method is expected to do better than source-only", "against")]
    bar = f"at least {100 * LEAST_SURE:.0f} % are asked for" if guard else "the guard was turned off"
    by = "" if measured is None else " once the labels are weighed in"
    words = f"{name} is expected to change accuracy by {100 * outlook.gain:+.1f} points, and to help with {100 * sure:.0f} %{by}; {bar}"
    found = [_reason("predicted gain", outlook.gain, words, "for" if sure >= LEAST_SURE else "against")]
    if measured is not None:
        low, high = measured.interval
        points = f"{100 * measured.effect:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        words = f"on {measured.n} labelled target items it changes by {points}"
        found.append(_reason("target labels", measured.effect, words, "for" if low > 0 else "against" if high < 0 else "neither"))
    before, after = told[0], told[best]
    for evidence, column, what in _COMPARED_EVIDENCE:
        if column in before and column in after and np.isfinite([before[column], after[column]]).all():
            change = after[column] - before[column]
            speaks = "neither" if abs(change) < 0.005 else "for" if change > 0 else "against"
            found.append(_reason(evidence, after[column], f"{what}: {before[column]:.3f} before, {after[column]:.3f} after", speaks))
    return found


# (evidence, column, in words) of what is told of source-only and of the best candidate; higher speaks for it.
_COMPARED_EVIDENCE = (
    ("agreement", "agreement", "share of the other candidates' predictions that agree"),
    ("confidence", "atc", "accuracy that confidences promise, by the threshold that fits the source"),
    (
        "cycle consistency",
        "reverse_weighted",
        "accuracy on the source, weighted towards the target, of what learned the predictions",
    ),
    ("class balance", "class_balance", "minus the divergence of the predicted classes from the source's shares"),
)


def _reason(evidence: str, value: float, words: str, speaks: str) -> dict[str, Any]:
    return {"evidence": evidence, "value": float(value), "words": words, "speaks": speaks}


def _checked(
    sides: Sides, everyone: Sequence[Made], chosen: int, known: Known, measured: Mapping[int, Difference], metric: str
) -> dict[str, Any]:
    """What the given labels say of the chosen candidate and of source-only."""
    found: dict[str, Any] = {"n": len(known.places)}
    for key, one in (("", everyone[chosen]), ("source_only", everyone[0])):
        score = interval_over_items(metric, known.labels, one.outputs[known.places], sides.seed)
        told = {"score": score.value, "interval": score.interval}
        found |= {key: told} if key else told
    if chosen:
        difference = measured[chosen]
        low, high = difference.interval
        outcome = "helps" if low > 0 else "hurts" if high < 0 else "no difference shown"
        found["verdict"] = vars(difference) | {"outcome": outcome, "against": "source_only"}
    return found


def decide_numbers(sides: Sides, everyone: Sequence[Made], known: Known | None, *, guard: bool = True) -> Decision:
    """Of a regression: the candidate whose squared error on held-out source items, weighed as the target lies, is surely less.

    Without target labels nothing else can be said of errors, and that only under covariate shift, and of methods that weigh the source's
    items but leave features alone. The interval is a bootstrap over items.
    guard: False takes the least error, sure or not. Raises GraftError where there are neither source items nor target labels.
    """
    if sides.source is None and known is None:
        raise GraftError(
            "a regression without its source's items cannot be adapted: nothing tells its errors. Give the source, or target labels."
        )
    if known is not None:
        labels = known.labels
        errors = [(one.outputs[known.places] - labels) ** 2 if not one.fell_out else None for one in everyone]
        weight, where = np.ones(len(labels)), f"{len(labels)} labelled target items"
    else:
        labels = sides.labels(sides.held)
        errors = [(one.held_outputs - labels) ** 2 if not one.fell_out else None for one in everyone]
        weight = density_ratio(sides.learned_rows, sides.target_rows, sides.held_rows, sides.seed)
        where = f"{len(labels)} held-out source items, weighed as the target lies"
    rng = np.random.default_rng(sides.seed)
    weights = np.append(weight, (weight.mean(),) * 2)
    draws = rng.integers(len(weights), size=(_DRAWS, len(weights)))
    best, best_worth = 0, 0.0
    reasons: dict[int, dict[str, Any]] = {}
    assert errors[0] is not None
    # In shares of source-only's error, which may be 0.
    base = max(float(weight @ errors[0] / weight.sum()), float(np.finfo(np.float32).tiny))
    for place, error in enumerate(errors[1:], start=1):
        # Weights stand for the target only where rows stay as they are: of moved ones the source's errors tell nothing there.
        if error is None or (known is None and everyone[place].weights is None):
            continue
        gain = errors[0] - error
        # An item in favour of each side more, as in `evaluate.verdict_on_items`: few errors that agree are no certainty.
        gains = np.append(gain, (np.abs(gain).max(), -np.abs(gain).max()))
        means = (weights[draws] * gains[draws]).sum(axis=1) / weights[draws].sum(axis=1)
        low, high = np.quantile(means, (1 - LEAST_SURE, LEAST_SURE)) / base
        effect = float(weight @ gain / weight.sum()) / base
        words = f"{everyone[place].name}: squared error {-100 * effect:+.1f} % ({-100 * high:+.1f} to {-100 * low:+.1f}) on {where}"
        reasons[place] = _reason("weighed error", effect, words, "for" if low > 0 else "against" if high < 0 else "neither")
        worth = float(low) if guard else effect
        if worth > best_worth:
            best, best_worth = place, worth
    # What decided comes first.
    order = sorted(reasons, key=lambda place: (place != best, -reasons[place]["value"]))
    checked = {}
    if known is not None:
        measured = {place: known.difference(sides, everyone[place], everyone[0], "rmse") for place in {best} if place}
        checked = _checked(sides, everyone, best, known, measured, "rmse")
    return Decision(best, [reasons[place] for place in order[:_REASONS]], checked)
