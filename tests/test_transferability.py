"""What every score and distance owes, whatever its formula: a run over all registered names. Their truth is in another file."""

import numpy as np
import pytest
from scipy.special import softmax

from graft import transferability
from graft.errors import GraftError
from graft.transferability import DISTANCES, LABEL_FREE_SCORES, REGRESSION_SCORES, SCORES, SOURCE_SCORES, all_scores, base

FAMILIES = {"classes": SCORES, "numbers": REGRESSION_SCORES, "source": SOURCE_SCORES, "label-free": LABEL_FREE_SCORES}
EVERY = [(family, name) for family, registry in FAMILIES.items() for name in registry]
OF_CLASSES = [(family, name) for family, name in EVERY if family in ("classes", "source")]
OF_FEATURES = [(family, name) for family, name in EVERY if family != "source"]
# They see no labels: separable and shuffled are one to them.
SEES_NO_LABELS = {("label-free", name) for name in LABEL_FREE_SCORES}
every_score = pytest.mark.parametrize(("family", "name"), EVERY)
every_score_of_features = pytest.mark.parametrize(("family", "name"), OF_FEATURES)
every_distance = pytest.mark.parametrize("name", list(DISTANCES))
# Linear alignment of the same items is made so that it does not see where they lie, and its two sides are one order of items.
OF_THE_SAME_ITEMS = {"cka"}


def made(n=90, d=12, c=3, seed=0, gap=3.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % c
    return rng.normal(size=(n, d)) + gap * rng.normal(size=(c, d))[labels], labels


def score(family, name, features, labels, outputs=None):
    """The score of any family, from features and classes; classes are numbers too."""
    function = FAMILIES[family][name]
    if family == "label-free":
        return function(features)
    if family == "source":
        return function(features, labels, softmax(features[:, :5], axis=1) if outputs is None else outputs)
    return function(features, labels if family == "classes" else 2.5 * labels)


def distance(name, source, target, labels=None, other=None):
    more = {}
    if name == "otdd":
        more = {
            "source_labels": np.arange(len(source)) % 3 if labels is None else labels,
            "target_labels": np.arange(len(target)) % 3 if other is None else other,
        }
    return DISTANCES[name](source, target, **more)


@every_score
def test_a_score_is_one_finite_float(family, name):
    value = score(family, name, *made())
    assert type(value) is float and np.isfinite(value)


@pytest.mark.parametrize(("family", "name"), [pair for pair in EVERY if pair not in SEES_NO_LABELS])
@pytest.mark.parametrize(("n", "d"), [(90, 12), (300, 12)])
def test_labels_that_features_tell_score_higher_than_shuffled_ones(family, name, n, d):
    features, labels = made(n, d)
    shuffled = np.random.default_rng(1).permutation(labels)
    outputs = softmax(5 * np.eye(3)[labels] + np.random.default_rng(2).normal(size=(n, 3)), axis=1)
    assert score(family, name, features, labels, outputs) > score(family, name, features, shuffled, outputs)


@every_score
def test_the_order_of_items_does_not_matter(family, name):
    features, labels = made(gap=0.5)
    order = np.random.default_rng(1).permutation(90)
    # 1e-5: sums in another order, some in float32.
    assert score(family, name, features[order], labels[order]) == pytest.approx(score(family, name, features, labels), rel=1e-5)


@every_score
def test_the_same_input_gives_the_same_number_and_stays_as_it_was(family, name):
    features, labels = made(gap=0.5)
    kept = features.copy(), labels.copy()
    assert score(family, name, features, labels) == score(family, name, features, labels)
    assert (features == kept[0]).all() and (labels == kept[1]).all()


@every_score
def test_float32_and_other_layouts_of_memory_are_no_trouble(family, name):
    features, labels = made(gap=0.5)
    expected = score(family, name, features, labels)
    assert score(family, name, np.asfortranarray(features), labels) == pytest.approx(expected, rel=1e-5)
    assert score(family, name, features.astype(np.float32), labels) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("family", "name"), OF_CLASSES)
def test_it_does_not_matter_what_integers_the_classes_are_called(family, name):
    features, labels = made(gap=0.5)
    assert score(family, name, features, 7 * labels - 3) == score(family, name, features, labels)


# What is no fault of the caller has a value.


def lone(features, labels):
    labels = labels.copy()
    labels[0] = 9
    return features, labels


def flat_columns(features, labels):
    return np.column_stack([features, np.full((len(features), 3), 7.0), np.zeros(len(features))]), labels


def twins(features, labels):
    return np.repeat(features[:20], 3, axis=0), np.repeat(labels[:20], 3)


AWKWARD = {
    "a class of one item": lambda: lone(*made()),
    "two items of two classes": lambda: made(4, 12, 2),
    "four items of two features, three of one class": lambda: (made(4, 6)[0], np.array([0, 0, 0, 1])),
    "three classes of four items": lambda: (made(4, 6)[0], np.array([0, 0, 1, 2])),
    "fewer items than features": lambda: made(12, 50),
    "features that never vary": lambda: flat_columns(*made()),
    "items three times": lambda: twins(*made()),
    "only one item differs": lambda: (np.eye(20)[np.minimum(np.arange(20), 1)][:, :6], np.arange(20) % 2),
    "classes wholly told": lambda: (np.eye(6)[np.arange(30) % 3], np.arange(30) % 3),
    "huge features": lambda: (1e6 * made()[0], made()[1]),
    "tiny features": lambda: (1e-6 * made()[0], made()[1]),
    "a common offset": lambda: (made()[0] + 1e4, made()[1]),
    "integers": lambda: (np.round(10 * made()[0]).astype(int), made()[1]),
    "as many classes as half the items": lambda: (made()[0], np.arange(90) // 2),
}


@every_score
@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.filterwarnings("error")
def test_awkward_items_have_a_finite_score(family, name, case):
    features, labels = AWKWARD[case]()
    outputs = softmax(features[:, :5] / np.abs(features).max(), axis=1)
    assert np.isfinite(score(family, name, features, labels, outputs))


@pytest.mark.parametrize(("family", "name"), OF_FEATURES)
def test_one_feature_is_enough(family, name):
    features, labels = made(d=1)
    assert np.isfinite(score(family, name, features, labels))


# What is the caller's to mend is said, by the name of the score and with the numbers.


def with_a_hole(value):
    features, labels = made()
    features[[3, 5], 2] = value
    return features, labels


BAD_FEATURES = {
    "nan": (lambda: with_a_hole(np.nan), "features of 2 of 90 items are not finite"),
    "infinity": (lambda: with_a_hole(np.inf), "features of 2 of 90 items are not finite"),
    "constant": (lambda: (np.full((90, 12), 3.0), made()[1]), "features are the same for all 90 items"),
    "a list of numbers": (lambda: (np.arange(90.0), made()[1]), r"features have shape \(90,\) of float64, expected \(n, d\)"),
    "no features": (lambda: (np.zeros((90, 0)), made()[1]), r"features have shape \(90, 0\)"),
    "words": (lambda: (np.full((90, 2), "a"), made()[1]), "of <U1, expected"),
    "three items": (lambda: made(3, 12, 2), "features of 3 items, expected at least 4"),
}


@every_score_of_features
@pytest.mark.parametrize("case", BAD_FEATURES)
def test_features_that_are_no_good_are_refused_by_name(family, name, case):
    bad, message = BAD_FEATURES[case]
    with pytest.raises(GraftError, match=message) as refused:
        score(family, name, *bad())
    assert f"score {name}: " in str(refused.value)


BAD_CLASSES = {
    "one class": (lambda: np.zeros(90, int), "90 items of 1 class, expected at least 2"),
    "all different": (lambda: np.arange(90), "90 items of 90 classes, expected a class with 2 items"),
    "another number": (lambda: np.zeros(70, int), "90 items and 70 labels"),
    "columns": (lambda: np.zeros((90, 2), int), r"labels have shape \(90, 2\), expected \(n,\)"),
    "fractions": (lambda: np.arange(90) % 3 / 2, "labels are float64, expected integers"),
}


@pytest.mark.parametrize(("family", "name"), OF_CLASSES)
@pytest.mark.parametrize("case", BAD_CLASSES)
def test_labels_that_are_no_classes_are_refused_by_name(family, name, case):
    bad, message = BAD_CLASSES[case]
    with pytest.raises(GraftError, match=message) as refused:
        score(family, name, made()[0], bad())
    assert f"score {name}: " in str(refused.value)


BAD_NUMBERS = {
    "the same": (lambda: np.full(90, 2.5), "every label is 2.5"),
    "nan": (lambda: np.where(np.arange(90) < 4, np.nan, 1.0), "labels of 4 of 90 items are not finite"),
    "another number": (lambda: np.zeros(70), "90 items and 70 labels"),
    "words": (lambda: np.full(90, "a"), "labels are <U1, expected numbers"),
}


@pytest.mark.parametrize("name", list(REGRESSION_SCORES))
@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_labels_that_are_no_numbers_are_refused_by_name(name, case):
    bad, message = BAD_NUMBERS[case]
    with pytest.raises(GraftError, match=message) as refused:
        REGRESSION_SCORES[name](made()[0], bad())
    assert f"score {name}: " in str(refused.value)


BAD_OUTPUTS = {
    "logits": (lambda: made()[0], "Apply a softmax"),
    "halves": (lambda: np.full((90, 4), 0.5), "rows that sum to 2 to 2"),
    "nan": (lambda: np.full((90, 4), np.nan), "expected probabilities"),
    "one column": (lambda: np.ones(90), r"shape \(90,\)"),
    "no columns": (lambda: np.ones((90, 0)), r"shape \(90, 0\)"),
    "another number": (lambda: np.full((70, 2), 0.5), "source_outputs of 70 items and 90 labels"),
}


@pytest.mark.parametrize("name", list(SOURCE_SCORES))
@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_outputs_that_are_no_probabilities_are_refused_by_name(name, case):
    bad, message = BAD_OUTPUTS[case]
    with pytest.raises(GraftError, match=message) as refused:
        SOURCE_SCORES[name](*made(), bad())
    assert f"score {name}: " in str(refused.value)


@pytest.mark.parametrize("name", list(SOURCE_SCORES))
def test_features_of_other_items_are_refused_though_only_their_number_counts(name):
    features, labels = made()
    with pytest.raises(GraftError, match=f"score {name}: features of 70 items and 90 labels, expected one label for each item"):
        SOURCE_SCORES[name](features[:70], labels, np.full((90, 2), 0.5))


def test_every_fault_of_one_input_is_said_at_once():
    features, _ = with_a_hole(np.nan)
    with pytest.raises(GraftError, match="2 problems") as refused:
        SCORES["logme"](features, np.zeros(90, int))
    assert "not finite" in str(refused.value) and "1 class" in str(refused.value)


# Draws.


def test_a_draw_keeps_the_shares_of_the_classes_and_hangs_on_no_order():
    features, _ = made(400)
    labels = np.repeat([0, 1, 2], [300, 80, 20])
    drawn, own = base.draw_items(features, labels, 100)
    assert np.bincount(own).tolist() == [75, 20, 5]
    order = np.random.default_rng(1).permutation(400)
    again, others = base.draw_items(features[order], labels[order], 100)
    assert (again == drawn).all() and (others == own).all()


@pytest.mark.parametrize(
    ("name", "limit"), [("parc", "_PARC_ITEMS"), ("knn", "_MOST_ITEMS"), ("nleep", "_MOST_ITEMS"), ("logistic_cv", "_LOGISTIC_ITEMS")]
)
def test_scores_of_all_pairs_are_those_of_a_draw_where_items_are_many(name, limit, monkeypatch):
    features, labels = made(120, gap=0.5)
    drawn = SCORES[name](*base.draw_items(features, labels, 60))
    whole = SCORES[name](features, labels)
    room = {"parc": "similarity", "knn": "neighbours", "nleep": "source_outputs", "logistic_cv": "held_out"}[name]
    monkeypatch.setattr(getattr(transferability, room), limit, 60)
    assert SCORES[name](features, labels) == drawn != whole


@every_score_of_features
def test_a_score_that_draws_items_is_listed_with_how_many(family, name, monkeypatch):
    drawn = []

    def told(features, labels, at_most, *more):
        drawn.append(at_most)
        return draw(features, labels, at_most, *more)

    draw = base.draw_items
    for room in vars(transferability).values():
        if hasattr(room, "draw_items"):
            monkeypatch.setattr(room, "draw_items", told)
    score(family, name, *made())
    assert drawn == [most for one, most in transferability.drawn_items(10**6).items() if one == name]


def test_scores_of_a_draw_are_those_that_have_more_items_than_they_look_at():
    assert transferability.drawn_items(2000) == {}
    assert transferability.drawn_items(2001) == {"logistic_cv": 2000, "nleep": 2000, "parc": 2000}
    assert transferability.drawn_items(5001) == {"knn": 5000, "logistic_cv": 2000, "nleep": 2000, "parc": 2000}


def test_items_and_features_too_many_for_one_table_are_drawn_with_a_warning(monkeypatch):
    features, labels = made(60, 50)
    expected = SCORES["logme"](*base.draw_items(features, labels, 40))
    monkeypatch.setattr(base, "MOST_ITEMS", 40)
    with pytest.warns(UserWarning, match="score logme: 60 items of 50 features are too many at once; it is that of 40 of them"):
        assert SCORES["logme"](features, labels) == expected
    with pytest.warns(UserWarning, match="score rankme"):
        assert LABEL_FREE_SCORES["rankme"](features) < 40


# All scores of one backbone.


def test_all_scores_are_those_of_the_task_by_name():
    features, labels = made()
    outputs = softmax(features[:, :5], axis=1)
    given = all_scores(features, labels, "classification", outputs)
    assert set(given) == {*SCORES, *SOURCE_SCORES, *LABEL_FREE_SCORES}
    assert given["sfda"] == SCORES["sfda"](features, labels)
    assert given["leep"] == SOURCE_SCORES["leep"](features, labels, outputs)
    assert set(all_scores(features, labels, "classification")) == {*SCORES, *LABEL_FREE_SCORES}
    numbers = all_scores(features, features[:, 0], "regression")
    assert set(numbers) == {*REGRESSION_SCORES, *LABEL_FREE_SCORES}
    assert numbers["logme"] == REGRESSION_SCORES["logme"](features, features[:, 0])


def test_all_scores_refuse_what_does_not_fit_by_name():
    features, labels = made()
    outputs = softmax(features[:, :5], axis=1)
    with pytest.raises(GraftError, match="task 'multilabel' has no scores, expected one of classification, regression"):
        all_scores(features, labels, "multilabel")
    with pytest.raises(GraftError, match="source_outputs were given for regression"):
        all_scores(features, features[:, 0], "regression", outputs)
    with pytest.raises(GraftError, match="source_outputs of 80 items and features of 90"):
        all_scores(features, labels, "classification", outputs[:80])


# Distances.


@every_distance
def test_the_same_items_are_no_way_apart(name):
    features, _ = made()
    # 1e-6: the root of what rounding leaves.
    assert distance(name, features, features) == pytest.approx(0, abs=1e-6)


@every_distance
def test_a_distance_is_the_same_both_ways(name):
    source, target = made()[0], made(seed=1)[0]
    assert distance(name, source, target) == pytest.approx(distance(name, target, source), rel=1e-5)
    assert distance(name, source, target) > 0


@pytest.mark.parametrize("name", [name for name in DISTANCES if name not in OF_THE_SAME_ITEMS])
def test_what_lies_further_is_further(name):
    source, target = made(gap=0)[0], made(60, gap=0, seed=1)[0]
    near, far = (distance(name, source, target + shift) for shift in (0.3, 3.0))
    assert near < far


@every_distance
def test_the_order_of_items_does_not_matter_to_a_distance(name):
    source, target = made(gap=0.5)[0], made(gap=0.5, seed=1)[0]
    order, other = (np.random.default_rng(seed).permutation(90) for seed in (1, 2))
    if name in OF_THE_SAME_ITEMS:
        other = order
    moved = distance(name, source[order], target[other], order % 3, other % 3)
    assert moved == pytest.approx(distance(name, source, target), rel=1e-6)
    assert distance(name, source, target) == distance(name, source, target)


@every_distance
@pytest.mark.parametrize(
    "case", ["fewer items than features", "features that never vary", "huge features", "tiny features", "items three times"]
)
@pytest.mark.filterwarnings("error")
def test_awkward_items_have_a_finite_distance(name, case):
    features, _ = AWKWARD[case]()
    assert np.isfinite(distance(name, features, features[::-1] * 1.1))


@every_distance
@pytest.mark.parametrize("case", BAD_FEATURES)
@pytest.mark.parametrize("side", ["source", "target"])
def test_features_that_are_no_good_are_refused_by_side(name, case, side):
    bad, message = BAD_FEATURES[case]
    pair = (bad()[0], made()[0]) if side == "source" else (made()[0], bad()[0])
    with pytest.raises(GraftError, match=message) as refused:
        distance(name, *pair)
    assert f"distance {name}: {side} features" in str(refused.value)


@pytest.mark.parametrize("name", [name for name in DISTANCES if name not in OF_THE_SAME_ITEMS])
def test_sides_of_unequal_features_are_refused(name):
    with pytest.raises(GraftError, match=f"distance {name}: source has 12 features and target 7, expected the same"):
        distance(name, made()[0], made(d=7)[0])


def test_cka_refuses_sides_of_unequal_items():
    with pytest.raises(GraftError, match="distance cka: source features of 90 items and target features of 60, expected the same items"):
        DISTANCES["cka"](made()[0], made(60)[0])


def test_otdd_refuses_labels_that_do_not_fit_their_side():
    features, labels = made()
    with pytest.raises(GraftError, match=r"target_labels have shape \(80,\) of int64, expected \(90,\) integers"):
        DISTANCES["otdd"](features, features, source_labels=labels, target_labels=labels[:80])
    with pytest.raises(GraftError, match=r"source_labels have shape \(90,\) of float64"):
        DISTANCES["otdd"](features, features, source_labels=labels / 2, target_labels=labels)


STATISTICS = {
    "another width": (lambda: (np.zeros(5), np.eye(5)), r"mean has shape \(5,\) and covariance \(5, 5\), expected \(12,\) and \(12, 12\)"),
    "variances alone": (lambda: (np.zeros(12), np.ones(12)), r"covariance \(12,\), expected"),
    "nan": (lambda: (np.full(12, np.nan), np.eye(12)), "mean or covariance is not finite"),
    "not symmetric": (lambda: (np.zeros(12), np.eye(12) + np.eye(12, k=1)), "off its transpose by up to 1 "),
    "below 0": (lambda: (np.zeros(12), -np.eye(12)), "variances of -1 to -1 along its axes"),
}


@pytest.mark.parametrize("case", STATISTICS)
def test_statistics_that_are_none_are_refused(case):
    made_up, message = STATISTICS[case]
    with pytest.raises(GraftError, match="distance frechet: .*" + message):
        transferability.distances.frechet_to_statistics(*made_up(), made()[0])


def test_frechet_of_too_many_items_and_features_is_that_of_a_draw(monkeypatch):
    source, target = made(60, 50)[0], made(45, 50, seed=1)[0]
    whole = DISTANCES["frechet"](source, target)
    drawn = [base.draw_items(side, np.zeros(len(side), int), 40)[0] for side in (source, target)]
    expected = DISTANCES["frechet"](*drawn)
    monkeypatch.setattr(base, "MOST_ITEMS", 40)
    with pytest.warns(UserWarning, match="distance frechet: (60|45) items of 50 features are too many at once; it is that of 40"):
        assert DISTANCES["frechet"](source, target) == expected != whole


def test_otdd_of_many_items_is_that_of_as_many_of_each_side(monkeypatch):
    (source, labels), (target, other) = made(90), made(60, seed=1)
    monkeypatch.setattr(transferability.distances, "_OTDD_ITEMS", 40)
    drawn, own = base.draw_items(source, labels, 40)
    further, others = base.draw_items(target, other, 40)
    expected = DISTANCES["otdd"](drawn, further, source_labels=own, target_labels=others)
    assert DISTANCES["otdd"](source, target, source_labels=labels, target_labels=other) == expected
