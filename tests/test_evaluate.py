"""Metrics against scikit-learn and closed forms, intervals against their formula, verdicts against simulated studies."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from graft.errors import GraftError
from graft.evaluate import (
    METRICS,
    confusion,
    default_metric,
    difference_on_items,
    difference_over_folds,
    holm,
    interval_over_folds,
    interval_over_items,
    measure,
    metrics_for,
    per_class,
    signed,
    verdict,
    verdict_on_items,
)
from graft.records import TASKS


def made(task, n=60, c=4, seed=0):
    """y and outputs of one task."""
    rng = np.random.default_rng(seed)
    if task == "classification":
        return rng.integers(c, size=n), rng.dirichlet(np.ones(c), n)
    if task == "multilabel":
        return (rng.random((n, c)) < 0.4).astype(float), rng.random((n, c))
    y = rng.normal(size=n)
    return y, y + rng.normal(size=n)


def certain(classes, c=2):
    return np.eye(c)[np.asarray(classes)]


# Contract: what every metric owes.


@pytest.mark.parametrize("name", list(METRICS))
def test_a_perfect_prediction_is_at_the_better_bound_and_beats_any_other(name):
    for task in METRICS[name].tasks:
        y, outputs = made(task)
        perfect = np.eye(4)[y] if task == "classification" else y
        low, high = METRICS[name].bounds
        assert measure(name, y, perfect) == pytest.approx(high if METRICS[name].greater_is_better else low, abs=1e-12)
        assert signed(name, measure(name, y, perfect)) > signed(name, measure(name, y, outputs))


@pytest.mark.parametrize("name", list(METRICS))
def test_an_interval_over_items_holds_the_value_and_repeats(name):
    for task in METRICS[name].tasks:
        y, outputs = made(task)
        score = interval_over_items(name, y, outputs, seed=3, draws=300)
        assert score.interval[0] <= score.value <= score.interval[1]
        assert score == interval_over_items(name, y, outputs, seed=3, draws=300)
        assert (score.n, score.seeds) == (60, (3,))


@pytest.mark.parametrize("name", list(METRICS))
def test_replacing_outputs_by_decisions_changes_nothing_where_the_metric_says_so(name):
    metric = METRICS[name]
    for task in metric.tasks:
        y, outputs = made(task)
        if metric.decisions_only:
            decisions = outputs.argmax(axis=1) if task == "classification" else (outputs >= 0.5).astype(int)
            assert metric(y, decisions) == metric(y, outputs)
        if metric.per_item is not None:
            assert metric.per_item(y, outputs).mean() == pytest.approx(metric(y, outputs))


# Truth: scikit-learn's numbers, closed forms.


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("accuracy", "classification", lambda y, p: reference.accuracy_score(y, p.argmax(1))),
        ("accuracy", "multilabel", lambda y, p: reference.accuracy_score(y, p >= 0.5)),
        ("balanced_accuracy", "classification", lambda y, p: reference.balanced_accuracy_score(y, p.argmax(1))),
        ("macro_f1", "classification", lambda y, p: reference.f1_score(y, p.argmax(1), average="macro")),
        ("macro_f1", "multilabel", lambda y, p: reference.f1_score(y, p >= 0.5, average="macro")),
        ("micro_f1", "multilabel", lambda y, p: reference.f1_score(y, p >= 0.5, average="micro")),
        ("log_loss", "classification", lambda y, p: reference.log_loss(y, p)),
        ("log_loss", "multilabel", lambda y, p: np.mean([reference.log_loss(y[:, k], p[:, k]) for k in range(4)])),
        ("r2", "regression", reference.r2_score),
        ("mae", "regression", reference.mean_absolute_error),
        ("rmse", "regression", reference.root_mean_squared_error),
    ],
)
def test_metrics_equal_scikit_learn(name, task, expected):
    y, outputs = made(task)
    assert measure(name, y, outputs) == pytest.approx(float(expected(y, outputs)), rel=1e-9)


def test_calibration_error_is_the_gap_between_sureness_and_being_right():
    # Two bins: 4 items at 0.9 of which 2 are right (gap 0.4), 4 at 0.6 of which 3 are right (gap 0.15); half the items each.
    outputs = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 4)
    assert measure("calibration_error", np.array([0, 0, 1, 1, 0, 0, 0, 1]), outputs) == pytest.approx(0.5 * 0.4 + 0.5 * 0.15)


def test_a_zero_probability_for_the_truth_is_bad_but_finite():
    assert measure("log_loss", np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(1e-15))


def test_per_class_and_confusion_equal_scikit_learn():
    y, outputs = made("classification")
    precision, recall, f1, n = reference.precision_recall_fscore_support(y, outputs.argmax(1))
    rows = per_class(y, outputs, list("abcd"))
    assert [row["class"] for row in rows] == list("abcd")
    for key, column in {"precision": precision, "recall": recall, "f1": f1, "n": n}.items():
        assert [row[key] for row in rows] == pytest.approx(list(column))
    assert (confusion(y, outputs) == reference.confusion_matrix(y, outputs.argmax(1))).all()


def test_a_class_without_items_has_a_row_of_zeros():
    assert per_class(np.array([0, 0]), certain([0, 0]), ["a", "b"])[1] == {"class": "b", "precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0}


def test_the_metric_is_chosen_by_task_and_balance():
    assert default_metric("classification", np.array([0, 1] * 10))[0] == "accuracy"
    name, reason = default_metric("classification", np.array([0] * 8 + [1] * 2))
    assert name == "balanced_accuracy" and "80%" in reason
    assert default_metric("multilabel", np.ones((3, 2)))[0] == "macro_f1"
    assert default_metric("regression", np.ones(3))[0] == "r2"
    assert all(default_metric(task, made(task)[0])[0] in metrics_for(task) for task in TASKS)


def test_the_interval_over_folds_is_the_corrected_resampled_t():
    scores = [0.80, 0.84, 0.78, 0.86, 0.82]
    half = stats.t.ppf(0.975, 4) * np.std(scores, ddof=1) * np.sqrt(1 / 5 + 50 / 200)
    score = interval_over_folds(scores, 200, 50, n=250)
    assert score.interval == pytest.approx((0.82 - half, 0.82 + half))
    assert (score.value, score.n) == (pytest.approx(0.82), 250)


def test_the_interval_over_folds_stays_within_what_the_metric_can_be():
    assert interval_over_folds([0.99, 1.0, 0.95], 80, 40, n=120, metric="accuracy").interval[1] == 1.0


def test_one_fold_says_nothing_about_its_doubt():
    assert interval_over_folds([0.9], 80, 20, n=100, metric="accuracy").interval == (0.0, 1.0)
    assert verdict([0.9], [0.1], n_train=80, n_test=20, against="x", n=100).outcome == "no difference shown"


def test_equal_folds_are_in_doubt_by_one_test_item():
    half = stats.t.ppf(0.975, 4) * (1 / 20) * np.sqrt(1 / 5 + 20 / 80)
    judged = verdict([0.9] * 5, [0.5] * 5, n_train=80, n_test=20, against="from scratch", n=100)
    assert judged.outcome == "helps"
    assert judged.interval == pytest.approx((0.4 - half, 0.4 + half))
    assert verdict([0.9] * 5, [0.9] * 5, n_train=80, n_test=20, against="x", n=100).outcome == "no difference shown"


def test_accuracy_of_one_on_few_items_is_no_certainty():
    low, high = interval_over_items("accuracy", np.zeros(8, int), certain([0] * 8), seed=0).interval
    # Wilson's lower end at p = 1 is n / (n + z^2).
    assert (low, high) == pytest.approx((8 / (8 + stats.norm.ppf(0.975) ** 2), 1.0))


def test_the_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    rng = np.random.default_rng(0)
    y, outputs = np.zeros(400), rng.exponential(size=400)
    low, high = interval_over_items("mae", y, outputs, seed=0).interval
    half = 1.96 * outputs.std() / 20
    # 2000 draws put the ends within a few per cent of the width.
    assert (low, high) == pytest.approx((outputs.mean() - half, outputs.mean() + half), abs=0.15 * half)


def test_verdicts_turn_a_metric_that_is_better_when_lower():
    y = np.zeros(100)
    better, worse = np.full(100, 0.1), np.linspace(0.5, 1, 100)
    judged = verdict_on_items("mae", y, better, worse, seed=0, against="ridge")
    assert judged.outcome == "helps" and judged.effect == pytest.approx(0.65)
    assert verdict_on_items("rmse", y, worse, better, seed=0, against="ridge").outcome == "hurts"
    assert verdict([-0.1, -0.12, -0.1], [-0.9, -0.8, -0.85], n_train=200, n_test=100, against="x", n=300).outcome == "helps"


def test_a_few_disagreements_in_a_small_test_set_are_not_called_help():
    y, transfer, control = np.zeros(20, int), certain([0] * 20), certain([1] * 4 + [0] * 16)
    judged = verdict_on_items("accuracy", y, transfer, control, seed=0, against="x")
    # Four against none: two-sided sign test p = 0.125.
    assert judged.outcome == "no difference shown" and judged.effect == pytest.approx(0.2)


# Truth: 400 studies in which both sides are equally good by construction. The interval errs in 2.5 % towards "helps"; the
# promise is at most 5 %, plus two standard errors of a share in 400 draws.
AT_MOST = 400 * (0.05 + 2 * np.sqrt(0.05 * 0.95 / 400))


@pytest.mark.parametrize(("metric", "n"), [("accuracy", 20), ("accuracy", 300), ("balanced_accuracy", 20), ("log_loss", 60)])
def test_verdicts_on_items_seldom_say_helps_without_a_difference(n, metric, monkeypatch):
    monkeypatch.setattr("graft.evaluate._DRAWS", 400)
    rng, helps = np.random.default_rng(n), 0
    for study in range(400):
        y = rng.integers(2, size=n)
        # Hard items are hard for both sides, as in life.
        ease = rng.normal(size=n)
        sides = [1 / (1 + np.exp(-(ease + 0.8 + rng.normal(size=n)))) for _ in range(2)]
        transfer, control = (np.where(np.arange(2) == y[:, None], right[:, None], 1 - right[:, None]) for right in sides)
        helps += verdict_on_items(metric, y, transfer, control, seed=study, against="x").outcome == "helps"
    assert helps <= AT_MOST


@pytest.mark.parametrize("repeats", [1, 3])
def test_verdicts_over_folds_seldom_say_helps_without_a_difference(repeats):
    rng, helps, n, folds = np.random.default_rng(repeats), 0, 60, 5
    for _ in range(400):
        y = np.repeat([0, 1], n // 2)
        # Each side reads its own half of the features, and both halves tell the class equally well.
        features = rng.normal(size=(n, 12)) + 0.35 * y[:, None]
        scores = [[], []]
        for _ in range(repeats):
            fold = rng.permutation(np.arange(n) % folds)
            for held in range(folds):
                train, test = fold != held, fold == held
                for side, columns in enumerate((slice(0, 6), slice(6, 12))):
                    first, second = (features[train & (y == c), columns].mean(axis=0) for c in (0, 1))
                    said = (features[test, columns] - (first + second) / 2) @ (second - first) > 0
                    scores[side].append(float((said == y[test]).mean()))
        helps += verdict(*scores, n_train=48, n_test=12, against="x", n=n).outcome == "helps"
    assert helps <= AT_MOST


def test_verdicts_see_a_large_difference():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=150)
    transfer, control = (certain(np.where(rng.random(150) < share, y, 1 - y)) for share in (0.95, 0.7))
    assert verdict_on_items("accuracy", y, transfer, control, seed=0, against="x").outcome == "helps"
    assert verdict_on_items("accuracy", y, control, transfer, seed=0, against="x").outcome == "hurts"
    assert verdict([0.9, 0.92, 0.88], [0.7, 0.75, 0.68], n_train=200, n_test=100, against="x", n=300).outcome == "helps"


# Messages.


@pytest.mark.parametrize(
    ("metric", "y", "outputs", "message"),
    [
        ("acuracy", [0], [[1.0, 0.0]], r"unknown metric 'acuracy'.*Did you mean 'accuracy'\?"),
        ("accuracy", [0.5, 1.5], [0.5, 1.0], "does not judge regression, expected one of r2, mae, rmse"),
        ("accuracy", [0, 1], [[1.0, 0.0]], r"y has shape \(2,\) and outputs \(1, 2\)"),
        ("accuracy", [0, 3], [[1.0, 0.0], [0.0, 1.0]], "y holds classes 0 to 3, but outputs have 0 to 1"),
        ("mae", [0.0, 1.0], [0.0, np.nan], "outputs of 1 of 2 items are not finite"),
        ("mae", [], [], "there is no item to judge"),
    ],
)
def test_what_cannot_be_judged_is_said(metric, y, outputs, message):
    with pytest.raises(GraftError, match=message):
        measure(metric, np.array(y), np.array(outputs))


def test_verdicts_over_different_folds_are_refused():
    with pytest.raises(GraftError, match="transfer has 2 scores and from scratch has 3"):
        verdict([1, 2], [1, 2, 3], n_train=8, n_test=2, against="from scratch", n=10)
    with pytest.raises(GraftError, match="fold 1 has a score that is not finite"):
        verdict([1, np.nan], [1, 2], n_train=8, n_test=2, against="x", n=10)


def test_a_function_of_the_users_own_is_taken_where_a_name_is():
    def share_of_zeros(y, outputs):
        return float((outputs.argmax(axis=1) == 0).mean())

    y, outputs = np.zeros(4, int), certain([0, 0, 0, 1])
    assert measure(share_of_zeros, y, outputs) == 0.75
    assert signed(share_of_zeros, 0.75) == 0.75
    assert interval_over_items(share_of_zeros, y, outputs, seed=0, draws=50).value == 0.75
    assert verdict_on_items(share_of_zeros, y, outputs, outputs, seed=0, against="x").outcome == "no difference shown"


def test_holm_gives_the_adjusted_values_of_the_textbook():
    # 4 p, 3 p, 2 p, p in rising order, each at least the one before: R's p.adjust(c(.01, .04, .03, .005), "holm").
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert len(holm([])) == 0


def test_the_p_of_a_difference_over_folds_is_that_of_the_paired_t_where_training_parts_do_not_overlap():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.8, 0.05, 10), rng.normal(0.77, 0.05, 10)
    # With endless training items the correction n_test / n_train vanishes.
    found = difference_over_folds(first, second, n_train=10**12, n_test=1000, n=10**4)
    expected = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6)


def test_the_p_of_a_single_fold_says_nothing():
    assert difference_over_folds([0.9], [0.1], n_train=80, n_test=20, n=20).p == 1.0


@pytest.mark.parametrize("wins", [12, 20, 24, 32])
def test_the_p_of_a_difference_on_items_is_near_the_exact_test_and_agrees_with_its_interval(wins):
    # 40 items on which the two disagree, the first right on `wins` of them: McNemar's exact p is a sign test.
    y = np.zeros(200, int)
    outputs = np.tile([0.9, 0.1], (200, 1))
    first, second = outputs.copy(), outputs.copy()
    second[:wins], first[wins:40] = [0.1, 0.9], [0.1, 0.9]
    found = difference_on_items("accuracy", y, first, second, seed=0)
    assert found.effect == pytest.approx((2 * wins - 40) / 200)
    # 2000 draws and the two added items leave it within a few hundredths of the exact one.
    assert found.p == pytest.approx(stats.binomtest(wins, 40).pvalue, abs=0.06)
    assert (found.p < 0.05) == (found.interval[0] > 0 or found.interval[1] < 0)
