"""What an adaptation tells beside its choice: distances, what moved, shifts of a known kind, the map, what to label next."""

import json
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
from adapt_samples import MENDS, believes, domains, numbers
from scipy.stats import binomtest
from sklearn.decomposition import PCA

from graft.adapt import tell
from graft.adapt.candidates import Made, made
from graft.adapt.course import Asked, adapt
from graft.adapt.guard import Known
from graft.adapt.predict import SOURCE_ONLY
from graft.adapt.sides import Source, both, without_source
from graft.report import write_adaptation
from graft.transfer import Transfer
from graft.transferability import DISTANCES


def sides_of(X, y, target, classes=(0, 1), task="classification"):
    return both(Transfer("rows", "feature_extraction"), Source(np.asarray(X, np.float32), y, task, list(classes)), target, 0)


@pytest.fixture(scope="module")
def shifted():
    X, y, target, _ = domains(n=120, m=100, shift=1.5)
    sides = sides_of(X, y, target)
    return sides, made(sides, SOURCE_ONLY, {}), made(sides, MENDS, {})


def outcome_of(X, y, target, *, known=None, methods=MENDS, gains=None, **more):
    return adapt(sides_of(X, y, target, **more), Asked(methods), believes(gains or {MENDS: 2.0}), known)


def record_of(outcome):
    m = len(outcome.sides.others)
    return tell.record(
        outcome, source="a", target="b", names=[f"row {n + 1}" for n in range(m)], notes=[], findings=[], domains=[], modality="row",
        command="", seconds=1.0, versions={},
    )  # fmt: skip


# -- distances


def test_the_interval_of_the_distance_is_wilsons_of_the_classifiers_error(shifted):
    """Truth: scipy's interval of as many mistakes among 96 source and 100 target items."""
    _, before, after = shifted
    found = tell.distances(before, after)
    assert found["proxy_a"]["before"] == DISTANCES["proxy_a"](before.learned, before.target)
    assert found["proxy_a"]["after"] == DISTANCES["proxy_a"](after.learned, after.target) < found["proxy_a"]["before"]
    n = 4 / (1 / 96 + 1 / 100)
    error = (1 - found["proxy_a"]["before"] / 2) / 2
    # The nearest whole numbers of mistakes and items.
    expected = binomtest(round(error * n), round(n)).proportion_ci(0.95, method="wilson")
    low, high = found["proxy_a"]["interval"]
    assert low == pytest.approx(2 * (1 - 2 * expected.high), abs=0.02) and high == pytest.approx(2 * (1 - 2 * expected.low), abs=0.02)
    assert low < found["proxy_a"]["before"] < high
    assert found["mmd"] == {
        "before": DISTANCES["mmd"](before.learned, before.target),
        "after": DISTANCES["mmd"](after.learned, after.target),
        "interval": None,
    }


def test_the_smaller_side_decides_how_sure_the_distance_is():
    rng = np.random.default_rng(0)
    many = rng.normal(size=(1000, 4)).astype(np.float32)
    wide, narrow = (
        tell.distances(one, one)["proxy_a"]["interval"]
        for one in (
            Made("a", {}, 0.0, learned=many, target=many[:20] + 0.5),
            Made("a", {}, 0.0, learned=many, target=many + 0.5),
        )
    )
    # Wilson's half width is about 0.98 / sqrt(n) of an even error, and the distance four times that: n = 78 and 2,000.
    assert wide[1] - wide[0] > 0.6 and narrow[1] - narrow[0] < 0.2


def test_sides_that_cannot_be_told_apart_have_an_interval_from_zero():
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    one = Made("a", {}, 0.0, learned=rows[:100], target=rows[100:])
    found = tell.distances(one, one)["proxy_a"]
    assert found["interval"][0] == 0.0 and found["before"] <= found["interval"][1] < 0.6


# -- what moved, and the kind of shift


def test_a_class_that_moved_is_told_how_far_in_its_own_spread():
    """Truth: class 1 lies 6 further along one axis, in which, as in three others, items of it have variance 1: its spread is 2."""
    rng = np.random.default_rng(0)
    y, truth = np.arange(400) % 2, np.arange(400) % 2
    X, target = rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
    X[:, 0] += 12 * y
    target[:, 0] += 12 * truth
    target[:, 1] += 6 * truth
    sides = sides_of(X, y, target)
    found = tell.moved(sides, made(sides, SOURCE_ONLY, {}), np.array([0.5, 0.5]))
    assert [row["class"] for row in found] == ["0", "1"]
    assert found[0]["moved"] == pytest.approx(0.0, abs=0.15) and found[1]["moved"] == pytest.approx(3.0, abs=0.2)
    assert [row["n_target"] for row in found] == [200, 200] and sum(row["n_source"] for row in found) == len(sides.learned)


def test_what_no_item_is_said_to_be_of_did_not_move_anywhere():
    X, y, target, truth = domains(n=120, m=80, shift=0.0)
    sides = sides_of(X, y, target[truth == 0])
    only = Made(
        SOURCE_ONLY, {}, 0.0, outputs=np.tile([0.9, 0.1], (len(sides.others), 1)), learned=sides.learned_rows, target=sides.target_rows
    )
    assert [row["moved"] is None for row in tell.moved(sides, only, np.array([1.0, 0.0]))] == [False, True]


def kinds(X, y, target):
    return record_of(outcome_of(X, y, target, methods="source_only")).shift


def test_a_covariate_shift_is_called_one():
    X, y, target, _ = domains(n=200, m=200, shift=0.0)
    # Along an axis that says nothing of the class.
    shift = kinds(X, y, target + np.array([0, 0, 0, 4.0]))
    assert shift["covariate"]["value"] > 0.9 and shift["label"]["value"] < 0.15 and shift["concept"]["value"] < 0.15
    assert shift["sentence"].startswith("It looks most like covariate shift: a linear classifier tells the sides apart 9")


def test_a_label_shift_is_called_one():
    X, y, target, truth = domains(n=300, m=300, shift=0.0, prior=[0.95, 0.05])
    shift = kinds(X, y, target)
    away = abs((y == 1).mean() - (truth == 1).mean())
    assert shift["label"]["value"] == pytest.approx(away, abs=0.1) and away > 0.4
    assert shift["label"]["value"] > max(shift["covariate"]["value"], shift["concept"]["value"])
    assert "label shift" in shift["sentence"] and "would have to change class" in shift["sentence"]


def test_no_shift_is_called_none():
    X, y, target, _ = domains(n=300, m=300, shift=0.0)
    shift = kinds(X, y, target)
    assert all(shift[kind]["value"] < 0.1 for kind in ("covariate", "label", "concept"))
    assert shift["sentence"] == "No shift to speak of is seen."


def test_what_does_not_come_back_looks_like_a_concept_shift():
    """Truth: of 0.8 right at first 0.2 are left, three quarters are lost."""
    shift = tell.shift(np.array([0.5, 0.5]), np.array([0.4, 0.6]), 0.2, reverse=0.2, risk=0.8)
    assert shift["concept"]["value"] == pytest.approx(0.75) and "25 % of the accuracy on the source is left" in shift["concept"]["words"]
    assert shift["label"]["value"] == pytest.approx(0.1) and shift["covariate"]["value"] == 0.1
    assert shift["sentence"].startswith("It looks most like concept shift")
    assert tell.shift(np.array([0.5, 0.5]), np.array([0.5, 0.5]), 0.0, reverse=0.9, risk=0.8)["concept"]["value"] == 0.0


# -- the map


def test_the_map_is_the_first_two_principal_axes_of_both_sides(shifted):
    """Truth: scikit-learn's PCA, up to the sign of an axis."""
    sides, before, after = shifted
    found = tell.picture(sides, before, after)
    points = np.array([[x, y] for x, y, _ in found["before"]["source"] + found["before"]["target"]])
    expected = PCA(2).fit_transform(np.concatenate([before.learned, before.target]).astype(float))
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-5)
    assert [kind for *_, kind in found["before"]["source"]] == sides.labels(sides.learned).tolist()
    assert [kind for *_, kind in found["after"]["target"]] == after.outputs.argmax(1).tolist()


def test_the_map_shows_at_most_four_hundred_points_a_side_and_the_same_ones_each_time():
    X, y, target, _ = domains(n=700, m=450)
    sides = sides_of(X, y, target)
    one = made(sides, SOURCE_ONLY, {})
    found, again = tell.picture(sides, one, one), tell.picture(sides, one, one)
    assert [len(found["before"][side]) for side in ("source", "target")] == [400, 400] and found == again


def test_a_map_of_one_number_an_item_is_a_line():
    X, y, target, _ = domains(width=2)
    sides = sides_of(X[:, :1], y, target[:, :1])
    one = made(sides, SOURCE_ONLY, {})
    assert {y for _, y, _ in tell.picture(sides, one, one)["before"]["target"]} == {0.0}


# -- what to label next


def voting(sides, *probabilities):
    return [Made(f"m{n}", {}, 0.0, outputs=np.stack([1 - np.array(p), np.array(p)], axis=1)) for n, p in enumerate(probabilities)]


class Line:
    """A target of items along a line, for which candidates vote."""

    def __init__(self, where):
        self.target_rows = np.array(where, float)[:, None]
        self.n_classes = 2
        self.model = type("Model", (), {"classes_": np.array(["no", "yes"])})


def test_what_candidates_disagree_on_comes_first():
    sides = Line(range(30))
    sure, split = [0.99] * 30, [0.99] * 30
    split[7] = 0.01
    first, *rest = tell.label_next(sides, voting(sides, sure, split), voting(sides, sure)[0], lambda place: f"row {place}")
    assert first == {"id": "row 7", "place": 7, "predicted": "yes", "probability": 0.99, "why": "1 of 2 candidates agree"}
    assert len(rest) == 19 and all(row["why"] == "2 of 2 candidates agree" for row in rest)


def test_items_that_lie_apart_are_taken_before_near_copies_of_doubtful_ones():
    """Truth: farthest first by hand. Equal doubt everywhere: from 0 the farthest is 10, then 5 in between, never a copy."""
    sides = Line([0.0, 0.0, 0.0, 10.0, 10.0, 5.0])
    everyone = voting(sides, [0.6] * 6)
    places = [row["place"] for row in tell.label_next(sides, everyone, everyone[0], str)]
    assert places == [0, 3, 5]


def test_what_is_surely_known_is_not_asked_for_and_neither_is_what_was_labelled():
    sides = Line(range(10))
    everyone = voting(sides, [1.0] * 4 + [0.5, 0.6, 0.7] + [1.0] * 3)
    assert {row["place"] for row in tell.label_next(sides, everyone, everyone[0], str)} == {4, 5, 6}
    assert {row["place"] for row in tell.label_next(sides, everyone, everyone[0], str, labelled=[4, 6])} == {5}
    assert tell.label_next(sides, everyone, everyone[0], str, labelled=range(10)) == []


# -- the record


def test_the_record_holds_every_number_as_json_and_makes_a_page(shifted, tmp_path, monkeypatch):
    # What the guard makes of a shift as small as this one is for its own tests.
    monkeypatch.setattr("graft.adapt.guard.LEAST_APART", 0.0)
    monkeypatch.setattr("graft.adapt.guard.LEAST_FAMILIAR", -np.inf)
    X, y, target, truth = domains(n=120, m=100)
    outcome = outcome_of(X, y, target, known=Known(np.arange(60), truth[:60]))
    record = record_of(outcome)
    # No nan and no infinity: they are no JSON.
    again = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert (again["outcome"], again["method"], again["settings"]) == ("adapted", MENDS, dict(outcome.chosen.settings))
    estimate, chosen = record.estimate, outcome.outlooks[outcome.decision.place]
    assert estimate["interval_share"] == 0.9 and estimate["score"] == chosen.score
    assert estimate["gain"]["value"] == pytest.approx(estimate["score"] - estimate["source_only"]["score"])
    assert [row["method"] for row in record.candidates] == [SOURCE_ONLY, MENDS, MENDS]
    assert {row["place"] for row in record.label_next}.isdisjoint(range(60)) and len(record.label_next) == 20
    assert (record.n_source, record.n_target, record.checked["n"]) == (120, 100, 60)
    write_adaptation(record, tmp_path / "page.html")
    assert "Adapted with standardise." in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize("collapsed", [0.0, np.nan])
def test_a_candidate_that_cannot_be_judged_falls_out_with_its_reason(monkeypatch, collapsed):
    from graft.shift import SHIFTS

    # A method that makes all items alike, or none a number.
    coral = SHIFTS["coral"]
    broken = wraps(coral)(lambda domains, **settings: replace(coral(domains, **settings), target=domains.target * collapsed))
    broken.grid = ({},)
    monkeypatch.setitem(SHIFTS._members, "coral", broken)
    X, y, target, _ = domains()
    record = record_of(outcome_of(X, y, target, methods=["coral", MENDS]))
    (fallen,) = [row for row in record.candidates if row["method"] == "coral"]
    expected = {"0.0": "it makes all 50 items of the target alike", "nan": "what it makes of 50 of 50 items (target) is not finite"}
    assert fallen["note"] == expected[str(collapsed)] and fallen["score"] is None and fallen["validators"] == {}
    assert record.method == MENDS


def test_without_the_source_nothing_is_said_that_only_it_could_tell(tmp_path):
    X, y, target, _ = domains()
    model = Transfer("rows", "feature_extraction").fit(X, y)
    sides = without_source(model, np.array([0.5, 0.5]), np.asarray(target, np.float32), 0)
    record = record_of(adapt(sides, Asked("saerens"), believes({"saerens": 2.0})))
    assert record.distances == {} and record.shift == {} and record.map == {} and record.n_source == 0
    assert [row["moved"] for row in record.moved] == [None, None] and len(record.label_next) == 20
    assert sum(row["target_share"] for row in record.moved) == pytest.approx(1.0)
    write_adaptation(record, tmp_path / "page.html")


def test_where_too_little_was_recorded_no_accuracy_is_told(tmp_path):
    X, y, target, _ = domains()
    sides = sides_of(X, y, target)
    record = record_of(adapt(sides, Asked(MENDS), replace(believes(), missed=np.inf)))
    assert record.estimate == {} and all(row["score"] is None and row["interval"] is None for row in record.candidates)
    write_adaptation(record, tmp_path / "page.html")


def test_a_regression_tells_distances_a_map_and_what_to_label_and_no_classes(tmp_path):
    X, y, target, truth = numbers()
    outcome = outcome_of(X, y, target, classes=(), task="regression", known=Known(np.arange(30), truth[:30]))
    record = record_of(outcome)
    assert record.metric == "rmse" and record.estimate == {} and record.moved == []
    assert list(record.shift) == ["covariate", "sentence"] and "nothing tells without target labels" in record.shift["sentence"]
    assert record.shift["covariate"]["value"] == record.distances["proxy_a"]["before"] / 2
    sides = record.map["before"]
    assert [len(sides[side]) for side in ("source", "target")] == [len(outcome.sides.learned), 60]
    assert {point[2] for points in sides.values() for point in points} == {0}
    # The target lies further in every direction, and an axis points where features grow.
    assert max(x for x, _, _ in sides["source"]) < np.mean([x for x, _, _ in sides["target"]])
    assert record.distances["proxy_a"]["after"] < record.distances["proxy_a"]["before"] and record.outcome == "adapted"
    json.dumps(record.to_dict(), allow_nan=False)
    write_adaptation(record, tmp_path / "page.html")


def test_of_a_regression_the_item_on_which_candidates_differ_most_is_labelled_next():
    X, y, target, truth = numbers()
    outcome = outcome_of(X, y, target, classes=(), task="regression", known=Known(np.arange(30), truth[:30]))
    said = np.stack([one.outputs for one in outcome.made])
    first, *others = record_of(outcome).label_next
    place = 30 + int(said[:, 30:].std(axis=0).argmax())
    low, high = said[:, place].min(), said[:, place].max()
    assert (first["place"], first["probability"]) == (place, None) and len(others) == 19
    assert first["why"] == f"{len(said)} candidates say {low:.6g} to {high:.6g}"
    assert float(first["predicted"]) == pytest.approx(float(outcome.chosen.outputs[place]), rel=1e-5)
    assert {row["place"] for row in others} <= set(range(30, 60)) - {place}
    alone = outcome_of(X, y, target, classes=(), task="regression", methods=[SOURCE_ONLY])
    assert len(record_of(alone).label_next) == 20


def test_what_ctrl_c_left_out_is_told(monkeypatch):
    from graft.adapt import course

    X, y, target, _ = domains()
    asked = iter([False, False, True])
    monkeypatch.setattr(course.interrupt, "asked", lambda: next(asked))
    outcome = outcome_of(X, y, target, methods=[MENDS, "coral", "tca"])
    outcome.notes = ["the budget ended something"]
    record = record_of(outcome)
    assert [row["method"] for row in record.candidates] == [SOURCE_ONLY, MENDS, MENDS] and outcome.notes[0] == record.notes[-2]
    assert record.interrupted == "interrupted by Ctrl-C: without a turn: coral, tca" == record.notes[-1]
