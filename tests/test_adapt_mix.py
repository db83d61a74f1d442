"""Another mix of classes alone: closed forms, the truth on made data, and when the guard believes it."""

import math

import numpy as np
import pytest

from graft.adapt import Adapt
from graft.adapt.candidates import made
from graft.adapt.guard import decide
from graft.adapt.mix import Mix, class_mix
from graft.adapt.predict import SOURCE_ONLY, Outlook
from graft.adapt.sides import Source, both
from graft.transfer import Transfer

NONE = Outlook(0.8, (0.6, 0.95), 0.0, 0.0, (0.0, 0.0))


def groups(n, shares, *, apart=1.5, moved=0.0, seed=0):
    """Rows and labels of two normal groups, `apart` from the origin along an axis each; moved: along the third."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) >= round(n * shares[0])).astype(int)
    rows = apart * np.eye(2, 4)[labels] + rng.normal(size=(n, 4))
    return (rows + moved * np.eye(4)[2]).astype(np.float32), labels


def sides_of(target, *, apart=1.5):
    X, y = groups(1500, (0.5, 0.5), apart=apart, seed=1)
    made_sides = both(Transfer("rows", "feature_extraction"), Source(X, y, "classification", [0, 1]), target, 0)
    return made_sides, [made(made_sides, name, {}) for name in (SOURCE_ONLY, "saerens", "bbse", "standardise")]


def test_the_distance_that_a_mix_makes_is_twice_the_total_variation_of_classes_that_do_not_overlap():
    """Truth: half of the source is 1.8 times as frequent in the target, half 0.2 times: mean |ratio - 1| is 0.8."""
    target, _ = groups(1000, (0.9, 0.1), apart=6.0)
    assert class_mix(*sides_of(target, apart=6.0)).explained == pytest.approx(0.8, abs=0.03)


def test_gains_under_another_mix_are_those_that_labels_would_show():
    target, truth = groups(2000, (0.92, 0.08))
    sides, everyone = sides_of(target)
    mix = class_mix(sides, everyone)
    # What moves features has no say.
    assert sorted(mix.gains) == [1, 2]
    base = (everyone[0].outputs.argmax(axis=1) == truth).mean()
    for place, (gain, spread) in mix.gains.items():
        true = (everyone[place].outputs.argmax(axis=1) == truth).mean() - base
        assert true > 0.04 and abs(gain - true) < 3 * spread < 0.06


def test_a_mix_suffices_where_it_explains_all_and_more_than_chance_makes():
    assert Mix(0.5, {}).suffices(0.5) and not Mix(0.5, {}).suffices(0.51)
    assert not Mix(0.29, {}).suffices(0.1) and not Mix(math.nan, {}).suffices(0.1)


def test_outlooks_move_with_the_gain_that_a_mix_allows():
    sure = Outlook(0.97, (0.9, 0.99), 0.17, 0.01, (0.15, 0.19))
    base, first, second = Mix(0.5, {1: (0.1, 0.02)}).revised([NONE, None, sure])
    assert (base, second) == (NONE, sure)
    assert (first.score, first.interval) == (pytest.approx(0.9), (pytest.approx(0.7), 1.0))
    assert (first.gain, first.spread) == (0.1, 0.02) and first.gain_interval == pytest.approx((0.1 - 0.0329, 0.1 + 0.0329))
    untold = Outlook(0.8, (0.0, 1.0), 0.0, 0.0, (0.0, 0.0))
    assert not Mix(0.5, {1: (0.1, 0.02)}).revised([untold, None])[1].is_told


@pytest.mark.parametrize(("shares", "moved", "place"), [((0.92, 0.08), 0.0, 1), ((0.5, 0.5), 0.0, 0), ((0.92, 0.08), 0.6, 0)])
def test_the_guard_lets_a_moved_bias_through_where_a_mix_explains_all(shares, moved, place):
    """Other shares do; the same shares, and other shares with features that moved too, by less than a proxy A-distance of 1, do not."""
    target, _ = groups(2000, shares, moved=moved)
    sides, everyone = sides_of(target)
    assert everyone[0].told_apart < 1
    promising = Outlook(0.95, (0.9, 0.99), 0.15, 0.01, (0.13, 0.17))
    decision = decide(sides, everyone, [NONE, NONE, NONE, promising], [{}] * 4, None)
    assert decision.place in ((1, 2) if place else (0,))
    mixed = [one for one in decision.reasons if one["evidence"] == "class mix"]
    assert bool(mixed) == bool(place)
    if place:
        assert decision.reasons[0] == mixed[0] and "nothing else need have moved, and a moved bias mends it" in mixed[0]["words"]
        assert decision.outlooks[decision.place].gain > 0.04


def test_adapt_mends_another_mix_of_classes():
    """The whole way, judged by the truth: about nine points of accuracy, which Bayes' rule gives for these shares."""
    X, y = groups(800, (0.5, 0.5), seed=1)
    target, truth = groups(400, (0.92, 0.08))
    model = Adapt("rows", methods=["saerens", "standardise"]).fit(X, y, target)
    before = (model.source_only_.predict(target) == truth).mean()
    assert model.adapted_ and (model.predict(target) == truth).mean() > before + 0.04
    outcome = model.outcome_
    assert outcome.outlooks[outcome.decision.place].gain > 0.04 and model.estimate_["score"] > outcome.outlooks[0].score + 0.04
