"""The guard: when a method takes the place of source-only, what given labels change about it, and the reasons in words."""

import numpy as np
import pytest
from adapt_samples import MENDS, believes, domains, evidence, numbers
from scipy.stats import norm

from graft.adapt import Adapt, estimator, guard
from graft.adapt.candidates import Made, made
from graft.adapt.guard import LEAST_SURE, Known, decide, decide_numbers
from graft.adapt.predict import SOURCE_ONLY, Outlook, fit
from graft.adapt.sides import Source, both
from graft.errors import GraftError
from graft.transfer import Transfer


@pytest.fixture(scope="module")
def sides():
    X, y, target, _ = domains(m=100)
    return both(Transfer("rows", "feature_extraction"), Source(X, y, "classification", [0, 1]), target, 0)


@pytest.fixture(scope="module")
def everyone(sides):
    return [made(sides, SOURCE_ONLY, {}), made(sides, MENDS, {}), made(sides, "saerens", {})]


def outlook(gain, spread=0.05, score=0.7):
    return Outlook(score + gain, (0.5, 0.9), gain, spread, (gain - 1.645 * spread, gain + 1.645 * spread))


NONE = outlook(0.0, 0.0)
NOTHING = [{}, {}, {}]


def answering(one, right, truth, seed=0):
    """A candidate that is right about a share of the items."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(len(truth)) < right, truth, 1 - truth)
    return Made(one.method, one.settings, 0.0, outputs=0.05 + 0.9 * np.eye(2)[said], learned=one.learned, target=one.target)


# -- without labels


@pytest.mark.parametrize("sure", [0.79, 0.81])
def test_a_gain_has_to_be_sure_enough(sides, everyone, sure):
    """Truth: of a normal gain with spread s the quantile at 80 % above 0 is 0.84 s."""
    gain = 0.05 * norm.ppf(sure)
    decision = decide(sides, everyone, [NONE, outlook(gain), outlook(gain / 2)], NOTHING, None)
    assert decision.place == int(sure > LEAST_SURE) and decision.checked == {}
    assert decision.reasons[0]["speaks"] == ("for" if decision.place else "against")
    assert f"to help with {100 * sure:.0f} %; at least 80 % are asked for" in decision.reasons[0]["words"]
    assert decide(sides, everyone, [NONE, outlook(gain), outlook(gain / 2)], NOTHING, None, guard=False).place == 1


def test_the_best_outlook_is_taken_and_the_first_of_equals(sides, everyone):
    assert decide(sides, everyone, [NONE, outlook(0.1), outlook(0.2)], NOTHING, None).place == 2
    assert decide(sides, everyone, [NONE, outlook(0.1), outlook(0.1)], NOTHING, None).place == 1
    assert decide(sides, everyone, [NONE, None, outlook(0.1)], NOTHING, None).place == 2


def test_where_nothing_is_expected_to_be_better_one_reason_says_so(sides, everyone):
    for guarded in (True, False):
        decision = decide(sides, everyone, [NONE, outlook(-0.1), outlook(0.0)], NOTHING, None, guard=guarded)
        assert decision.place == 0
        told = [reason for reason in decision.reasons if reason["evidence"] not in ("distance", "familiarity")]
        assert [reason["words"] for reason in told] == ["no method is expected to do better than source-only"]


def test_evidence_before_and_after_is_told_as_it_speaks(sides, everyone):
    before = {"agreement": 0.8, "atc": 0.7, "reverse_weighted": 0.9, "class_balance": -0.1}
    after = {"agreement": 0.9, "atc": 0.6, "reverse_weighted": 0.902}
    reasons = {one["evidence"]: one for one in decide(sides, everyone, [NONE, outlook(0.1), NONE], [before, after, {}], None).reasons}
    speaks = {name: reason["speaks"] for name, reason in reasons.items()}
    distance = speaks.pop("distance")
    assert speaks == {"familiarity": "neither"} | {
        "predicted gain": "for",
        "agreement": "for",
        "confidence": "against",
        "cycle consistency": "neither",
    }
    assert reasons["agreement"]["words"].endswith("agree: 0.800 before, 0.900 after") and reasons["agreement"]["value"] == 0.9
    # Brought to one mean and spread, the sides cannot be told apart any more.
    assert distance == "for" and "0: cannot be told apart, 2: always" in reasons["distance"]["words"]


def away(shift, noise=False):
    """Sides of two wide main axes among ten, the target `shift` away along the last, or noise, and two candidates."""
    rng = np.random.default_rng(0)
    wide = np.array([5.0, 5.0] + [0.5] * 8)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 10)) * wide + 3 * y[:, None] * (np.arange(10) == 0)
    target = rng.normal(size=(150, 10)) * (1.0 if noise else wide) + shift * (np.arange(10) == 9)
    made_sides = both(Transfer("rows", "feature_extraction"), Source(X.astype(np.float32), y, "classification", [0, 1]), target, 0)
    return made_sides, [made(made_sides, SOURCE_ONLY, {}), made(made_sides, "saerens", {})]


def test_a_target_as_familiar_as_new_source_items_has_one_and_noise_nothing():
    """Truth: the two main axes of ten hold 50 of 52 parts of the variance, of noise 2 of 10: nothing beyond the share of the axes."""
    assert guard.familiarity(away(3.0)[0]) == pytest.approx(1.0, abs=0.05)
    assert guard.familiarity(away(3.0, noise=True)[0]) == pytest.approx(0.0, abs=0.1)


def test_features_without_main_axes_are_no_reason_to_refuse_unless_there_are_too_many():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    found = []
    for width in (4, 100):
        X, target = (rng.normal(size=(60, width)).astype(np.float32) for _ in range(2))
        X -= X.mean(axis=0)
        X[:, 0] += 0.1 * y
        found.append(guard.familiarity(both(Transfer("rows", "feature_extraction"), Source(X, y, "classification", [0, 1]), target, 0)))
    assert np.isnan(found[0]) and found[1] == 0.0


def test_no_promise_moves_the_guard_where_the_target_is_noise_or_hardly_apart():
    promising = [NONE, outlook(0.3, 0.05)]
    for how, weightiest, words in (
        ({"shift": 0.0}, "distance", "below 1 before there is hardly a shift of features to undo"),
        ({"shift": 3.0, "noise": True}, "familiarity", "below 0.25 it is of another kind, and what looks better may be noise"),
    ):
        made_sides, candidates = away(**how)
        decision = decide(made_sides, candidates, promising, NOTHING, None)
        assert decision.place == 0 and decision.reasons[0]["evidence"] == weightiest and decision.reasons[0]["speaks"] == "against"
        assert words in decision.reasons[0]["words"]
        assert decide(made_sides, candidates, promising, NOTHING, None, guard=False).place == 1
    assert decide(*away(3.0), promising, NOTHING, None).place == 1


def test_strangeness_is_a_share_of_a_single_class_and_of_what_is_known_beyond_chance():
    """Truth: of four even classes a single one has the divergence log 4; of 0.85 right, 0.25 by chance, 0.4 leave a quarter."""
    told = {"class_balance": -np.log(4) / 2, "reverse": 0.4, "source_risk": 0.85}
    found = guard.strangeness(told, 4)
    assert found.uneven == pytest.approx(0.5) and found.returned == pytest.approx(0.25) and found.refuses
    assert not guard.strangeness({"class_balance": "-0.4", "reverse": "0.5", "source_risk": "0.85"}, 4).refuses
    # Where the source itself is no better than chance nothing can be lost, and what was not told refuses nothing.
    assert np.isnan(guard.strangeness(told | {"source_risk": 0.25}, 4).returned)
    assert not guard.strangeness({}, 4).refuses and guard.strangeness({}, 4).reasons == []


def test_no_promise_moves_the_guard_where_the_target_may_hold_other_classes():
    promising, (made_sides, candidates) = [NONE, outlook(0.3, 0.05)], away(3.0)
    familiar = {"class_balance": -0.2 * np.log(2), "reverse": 0.66, "source_risk": 0.9}
    assert decide(made_sides, candidates, promising, [familiar, {}], None).place == 1
    for changed, weightiest, words in (
        ({"class_balance": -0.31 * np.log(2)}, "class shares", "by 0.31 of what a single class would; above 0.3"),
        ({"reverse": 0.612}, "classes learned back", "0.28 of the source's accuracy beyond chance is left; below 0.3"),
        ({"reverse": 0.3}, "classes learned back", "0.00 of the source's accuracy beyond chance is left"),
    ):
        told = [familiar | changed, {}]
        decision = decide(made_sides, candidates, promising, told, None)
        assert decision.place == 0 and words in decision.reasons[0]["words"]
        assert (decision.reasons[0]["evidence"], decision.reasons[0]["speaks"]) == (weightiest, "against")
        assert decide(made_sides, candidates, promising, told, None, guard=False).place == 1
        truth = np.arange(150) % 2
        answers = [answering(candidates[0], 0.5, truth, 1), answering(candidates[1], 1.0, truth, 2)]
        assert decide(made_sides, answers, promising, told, Known(np.arange(100), truth[:100])).place == 1


def test_a_target_of_one_class_among_many_keeps_source_only():
    """The whole way: five groups in the source, one of them, moved, in the target; aligned to the source it would be spread over all."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 5
    middles = 3 * rng.normal(size=(5, 8))
    X = (middles[y] + rng.normal(size=(300, 8))).astype(np.float32)
    target = (middles[2] + 1.5 + rng.normal(size=(100, 8))).astype(np.float32)
    model = Adapt("rows").fit(X, y, target)
    reasons = {one["evidence"]: one["speaks"] for one in model.reasons_}
    assert not model.adapted_ and reasons["class shares"] == reasons["classes learned back"] == "against"


def test_what_labels_show_needs_no_leave_of_the_features():
    made_sides, (base, other) = away(0.0)
    truth = np.arange(150) % 2
    candidates = [answering(base, 0.5, truth, 1), answering(other, 1.0, truth, 2)]
    known = Known(np.arange(100), truth[:100])
    assert decide(made_sides, candidates, [NONE, outlook(0.1)], NOTHING, known).place == 1


def test_made_evidence_of_no_gain_leaves_source_only(monkeypatch):
    """The whole way: recorded runs in which methods change accuracy by chance, and no sign tells which way."""
    rows = [one | {"agreement": float(np.random.default_rng(place).normal())} for place, one in enumerate(evidence(gain=0.4))]
    monkeypatch.setattr(estimator, "recorded", lambda with_source=True: fit(rows))
    for seed in range(3):
        X, y, target, _ = domains(seed=seed)
        model = Adapt("rows", methods=[MENDS, "coral"]).fit(X, y, target)
        assert not model.adapted_ and model.outcome_.chosen.method == SOURCE_ONLY and model.reasons_[0]["speaks"] == "against"


# -- with labels


def test_labels_are_weighed_in_by_their_variance():
    """Truth: the mean of two normal measurements of one gain, weighed by 1 / variance."""
    truth = np.arange(40) % 2
    base = np.eye(2)[np.where(np.arange(40) < 10, 1 - truth, truth)]
    better = np.eye(2)[truth]
    known = Known(np.arange(40), truth)
    one, other = (Made(name, {}, 0.0, outputs=rows) for name, rows in (("coral", better), (SOURCE_ONLY, base)))

    class Seeded:
        seed = 0

    measured = known.difference(Seeded, one, other, "accuracy")
    assert measured.effect == pytest.approx(0.25) and measured.n == 40
    spread = (measured.interval[1] - measured.interval[0]) / (2 * 1.96)
    weight = 0.1**-2 / (0.1**-2 + spread**-2)
    gain, both_spread = guard._together(-0.1, 0.1, measured)
    assert gain == pytest.approx(weight * -0.1 + (1 - weight) * 0.25)
    assert both_spread == pytest.approx((0.1**-2 + spread**-2) ** -0.5)
    # Of source-only itself nothing is uncertain.
    assert guard._together(0.0, 0.0, measured) == (0.0, 0.0)


def known_truth(n=100):
    return np.arange(n) % 2


def test_given_labels_settle_what_was_in_doubt(sides, everyone):
    truth = known_truth()
    candidates = [answering(everyone[0], 0.6, truth, 1), answering(everyone[1], 0.95, truth, 2)]
    doubtful = [NONE, outlook(0.02, 0.1)]
    assert decide(sides, candidates, doubtful, NOTHING, None).place == 0
    known = Known(np.arange(50), truth[:50])
    decision = decide(sides, candidates, doubtful, NOTHING, known)
    assert decision.place == 1
    checked = decision.checked
    assert checked["n"] == 50 and checked["verdict"]["outcome"] == "helps" and checked["verdict"]["against"] == "source_only"
    assert checked["score"] == (candidates[1].outputs[:50].argmax(1) == truth[:50]).mean()
    assert checked["source_only"]["score"] == (candidates[0].outputs[:50].argmax(1) == truth[:50]).mean()
    for each in (checked, checked["source_only"]):
        assert each["interval"][0] <= each["score"] <= each["interval"][1]
    assert checked["verdict"]["effect"] == pytest.approx(checked["score"] - checked["source_only"]["score"])
    by_labels = {one["evidence"]: one for one in decision.reasons}["target labels"]
    assert by_labels["speaks"] == "for" and by_labels["words"].startswith("on 50 labelled target items it changes by +")
    assert "once the labels are weighed in" in decision.reasons[0]["words"]


def test_labels_that_contradict_the_prediction_make_it_refuse(sides, everyone):
    truth = known_truth()
    candidates = [answering(everyone[0], 0.95, truth, 1), answering(everyone[1], 0.6, truth, 2)]
    promising = [NONE, outlook(0.1, 0.05)]
    assert decide(sides, candidates, promising, NOTHING, None).place == 1
    decision = decide(sides, candidates, promising, NOTHING, Known(np.arange(50), truth[:50]))
    assert decision.place == 0 and "verdict" not in decision.checked
    assert decision.checked["score"] == decision.checked["source_only"]["score"] > 0.85


def test_few_labels_leave_more_to_the_prediction_than_many(sides, everyone):
    truth = known_truth()
    candidates = [answering(everyone[0], 0.9, truth, 1), answering(everyone[1], 0.7, truth, 2)]
    promising = [NONE, outlook(0.15, 0.05)]
    places = [decide(sides, candidates, promising, NOTHING, Known(np.arange(n), truth[:n])).place for n in (3, 100)]
    assert places == [1, 0]


def test_a_decision_against_the_guard_says_what_labels_say_of_it(sides, everyone):
    truth = known_truth()
    candidates = [answering(everyone[0], 0.9, truth, 1), answering(everyone[1], 0.7, truth, 2)]
    decision = decide(sides, candidates, [NONE, outlook(0.9, 0.05)], NOTHING, Known(np.arange(100), truth), guard=False)
    assert decision.place == 1 and decision.checked["verdict"]["outcome"] == "hurts"
    assert "the guard was turned off" in decision.reasons[0]["words"]
    assert {one["evidence"]: one["speaks"] for one in decision.reasons}["target labels"] == "against"


# -- regressions


@pytest.fixture(scope="module")
def shifted():
    X, y, target, truth = numbers()
    made_sides = both(Transfer("rows", "feature_extraction"), Source(X, y, "regression", []), target, 0)
    return made_sides, [made(made_sides, name, {}) for name in (SOURCE_ONLY, MENDS, "density_ratio")], truth


def test_labels_of_a_regression_decide_by_squared_errors(shifted):
    sides, everyone, truth = shifted
    known = Known(np.arange(20), truth[:20])
    decision = decide_numbers(sides, everyone, known)
    assert decision.place == 1 and decision.checked["n"] == 20 and decision.checked["verdict"]["outcome"] == "helps"
    mended = np.sqrt(np.mean((everyone[1].outputs[:20] - truth[:20]) ** 2))
    assert decision.checked["score"] == pytest.approx(mended) and decision.checked["source_only"]["score"] > 2 * mended
    first = decision.reasons[0]
    errors = [np.mean((one.outputs[:20] - truth[:20]) ** 2) for one in everyone[:2]]
    assert first["value"] == pytest.approx(1 - errors[1] / errors[0]) and first["speaks"] == "for"
    assert (
        first["words"].startswith(f"{MENDS}: squared error {-100 * first['value']:+.1f} %") and "20 labelled target items" in first["words"]
    )


def test_labels_that_contradict_make_a_regression_refuse(shifted):
    sides, everyone, _ = shifted
    # What source-only says is the truth: whatever moves it is worse.
    decision = decide_numbers(sides, everyone, Known(np.arange(20), everyone[0].outputs[:20] + 0.01))
    assert decision.place == 0 and all(one["speaks"] == "against" for one in decision.reasons) and "verdict" not in decision.checked


def test_two_labels_are_no_certainty_of_a_regression(shifted):
    sides, everyone, truth = shifted
    known = Known(np.arange(2), truth[:2])
    decision = decide_numbers(sides, everyone, known)
    assert decision.place == 0 and decision.reasons[0]["speaks"] == "neither" and decision.reasons[0]["value"] > 0.5
    assert decide_numbers(sides, everyone, known, guard=False).place == 1


def test_without_labels_a_regression_is_weighed_on_held_out_source_items(shifted):
    sides, everyone, _ = shifted
    decision = decide_numbers(sides, everyone, None)
    # Of rows that were moved the source's errors tell nothing: standardise has no say.
    assert [one["words"].partition(":")[0] for one in decision.reasons] == ["density_ratio"]
    assert "16 held-out source items, weighed as the target lies" in decision.reasons[0]["words"]
    assert decision.checked == {}


def test_a_candidate_that_fell_out_is_never_taken(shifted):
    sides, everyone, truth = shifted
    fallen = Made("coral", {}, 0.0, fell_out="no")
    for known in (None, Known(np.arange(20), truth[:20])):
        for guarded in (True, False):
            assert decide_numbers(sides, [*everyone, fallen], known, guard=guarded).place != 3


def test_an_error_of_zero_is_no_division_by_it(shifted):
    sides, everyone, _ = shifted
    known = Known(np.arange(20), everyone[0].outputs[:20])
    decision = decide_numbers(sides, everyone, known)
    assert decision.place == 0 and all(np.isfinite(one["value"]) for one in decision.reasons)


def test_a_regression_without_its_source_needs_labels(shifted):
    _, _, target, truth = numbers()
    X, y, _, _ = numbers()
    given = Transfer("rows", "feature_extraction").fit(X, y)
    with pytest.raises(GraftError, match=r"nothing tells its errors\. Give the source, or target labels"):
        Adapt(given).fit(None, None, target)
    model = Adapt(given).fit(None, None, target, target_labels=dict(enumerate(truth[:20])))
    assert not model.adapted_ and model.outcome_.decision.checked["n"] == 20


def test_what_is_believed_reaches_the_decision(monkeypatch):
    X, y, target, _ = domains()
    chosen = []
    for gains in ({MENDS: 2.0}, {"coral": 2.0}, {}):
        monkeypatch.setattr(estimator, "recorded", lambda with_source=True, gains=gains: believes(gains))
        chosen.append(Adapt("rows", methods=[MENDS, "coral"]).fit(X, y, target).outcome_.chosen.method)
    assert chosen == [MENDS, "coral", SOURCE_ONLY]
