"""Heads against scikit-learn and brute force, and what every kind owes on awkward data."""

import inspect

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

from graft.errors import GraftError
from graft.evaluate import measure
from graft.heads import HEADS, LinearHead, cross_validate, fit_head
from graft.heads.choose import View, along, inner_folds, temperature_of
from graft.heads.kinds import lda, logistic, ridge
from graft.records import TASKS
from graft.scatter import Scatter, weighted_axes

PAIRS = [(kind, task) for kind in (*HEADS, "auto") for task in TASKS if kind == "auto" or task in HEADS[kind].tasks]


def made(task, n=120, d=10, c=3, seed=0):
    """Features (n, d) float32 that tell y up to some noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)).astype(np.float32)
    hidden = 2 * features @ rng.normal(size=(d, c)) + rng.normal(size=(n, c))
    y = {"classification": hidden.argmax(axis=1), "multilabel": (hidden > 1).astype(float), "regression": 5 + hidden[:, 0]}[task]
    return features, y


def ready(features):
    """As a kind wants them: centred, mean variance 1."""
    return ((features - features.mean(axis=0)) / np.sqrt(features.var(axis=0).mean())).astype(np.float32)


# Contract: what every kind owes, for each task it serves.


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_outputs_have_the_form_of_the_task_and_tell_what_can_be_told(kind, task):
    features, y = made(task)
    head = fit_head(features, y, task, kind=kind)
    outputs = head.outputs(features)
    assert outputs.shape == {"classification": (120, 3), "multilabel": (120, 3), "regression": (120,)}[task]
    if task == "classification":
        assert outputs.sum(axis=1) == pytest.approx(np.ones(120))
    assert measure({"classification": "accuracy", "multilabel": "micro_f1", "regression": "r2"}[task], y, outputs) > 0.8


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_the_same_call_gives_the_same_head_and_it_survives_a_file(kind, task):
    features, y = made(task)
    first, second = (fit_head(features, y, task, kind=kind, seed=1) for _ in range(2))
    read = LinearHead.from_arrays({name: np.array(array) for name, array in first.to_arrays().items()})
    assert (first.outputs(features) == second.outputs(features)).all()
    assert (first.outputs(features) == read.outputs(features)).all()
    assert (read.link, read.kind, read.strength) == (first.link, first.kind, first.strength)


@pytest.mark.parametrize(("kind", "task"), PAIRS)
@pytest.mark.parametrize("n", [10, 30])
def test_more_features_than_items_and_features_that_never_vary_are_no_trouble(kind, task, n):
    features, y = made(task, n=n, d=50, c=2, seed=3)
    features[:, :5] = 7.0
    head = fit_head(features, y, task, kind=kind)
    elsewhere = features.copy()
    elsewhere[:, :5] = 8.0
    assert np.isfinite(head.outputs(features)).all()
    # What did not vary in training tells nothing, whatever it does later.
    assert head.outputs(elsewhere) == pytest.approx(head.outputs(features), abs=1e-4)


@pytest.mark.parametrize("kind", [kind for kind, task in PAIRS if task == "classification"])
def test_unseen_and_single_item_classes_are_no_trouble(kind):
    features, y = made("classification")
    y = np.where(y == 2, 4, y)
    y[0] = 3
    outputs = fit_head(features, y, "classification", kind=kind, n_classes=6).outputs(features)
    assert outputs.shape == (120, 6)
    assert outputs[:, [2, 5]].max() < 1e-9
    assert measure("accuracy", y, outputs) > 0.8


@pytest.mark.parametrize("kind", [kind for kind, task in PAIRS if task == "classification"])
def test_one_item_a_class_is_fitted_though_nothing_can_be_held_out(kind):
    features = np.array([[0.0, 0, 1], [1, 0, 0]])
    assert (fit_head(features, np.array([0, 1]), "classification", kind=kind).outputs(features).argmax(axis=1) == [0, 1]).all()


@pytest.mark.parametrize("kind", [kind for kind, task in PAIRS if task == "classification"])
def test_balanced_weights_raise_the_recall_of_a_rare_class(kind):
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.1).astype(int)
    features = rng.normal(size=(600, 5)) + y[:, None] * 0.7
    plain, balanced = (fit_head(features, y, "classification", kind=kind, class_weight=weight) for weight in (None, "balanced"))
    recall = [(head.outputs(features).argmax(axis=1)[y == 1] == 1).mean() for head in (plain, balanced)]
    assert recall[1] > recall[0] + 0.2
    by_hand = fit_head(features, y, "classification", kind=kind, class_weight=1 / np.bincount(y))
    # 1e-6: float32 rounding, which differs from one processor to another.
    assert by_hand.outputs(features) == pytest.approx(balanced.outputs(features), abs=1e-6)


def test_weights_of_items_make_weighted_least_squares():
    features, y = made("regression")
    weights = np.random.default_rng(1).exponential(size=120)

    def unpenalised(features, target, weights, task, strengths=(1e-7,)):
        yield from ridge(features, target, weights, task, strengths)

    head = fit_head(features, y, "regression", kind=unpenalised, sample_weight=7 * weights)
    root, columns = np.sqrt(weights), np.c_[features, np.ones(120)]
    solved = np.linalg.lstsq(columns * root[:, None], y * root, rcond=None)[0]
    assert head.outputs(features) == pytest.approx(columns @ solved, abs=1e-3)


@pytest.mark.parametrize("kind", [kind for kind, task in PAIRS if task == "classification" and kind != "auto"])
def test_an_item_that_weighs_as_two_is_one_that_is_there_twice(kind):
    features, y = made("classification")
    twice = np.r_[0:120, 0:40]

    def one(features, target, weights, task, strengths=(0.1,)):
        yield from HEADS[kind](features, target, weights, task, strengths)

    weighed = fit_head(features, y, "classification", kind=one, sample_weight=np.where(np.arange(120) < 40, 2.0, 1.0)).logits(features)
    doubled = fit_head(features[twice], y[twice], "classification", kind=one).logits(features)
    # The temperature is found on folds, which are others; it only stretches the logits.
    assert weighed / weighed.std() == pytest.approx(doubled / doubled.std(), abs=0.01)


@pytest.mark.parametrize(("kind", "task"), PAIRS)
@pytest.mark.parametrize("nothing", [0.0, 1e-12])
def test_an_item_without_weight_is_not_heard(kind, task, nothing):
    features, y = made(task)
    features[80:], y[80:] = 100 * features[80:], y[80:][::-1]
    blocks, weights = np.arange(120), np.where(np.arange(120) < 80, 1.0, nothing)
    weighed = fit_head(features, y, task, kind=kind, n_classes=3, blocks=blocks, sample_weight=weights)
    without = fit_head(features[:80], y[:80], task, kind=kind, n_classes=3, blocks=blocks[:80])
    assert weighed.logits(features[:80]) == pytest.approx(without.logits(features[:80]), abs=1e-5)
    outputs = cross_validate(features, y, task, [(np.arange(120),) * 2], kind=kind, blocks=blocks, sample_weight=weights)
    assert outputs[:80] == pytest.approx(without.outputs(features[:80]), abs=1e-5)


@pytest.mark.parametrize("blocks", [None, np.arange(300)], ids=["left out one by one", "in folds"])
def test_the_strength_is_chosen_for_the_items_that_weigh(blocks):
    rng = np.random.default_rng(0)
    features, y = made("regression", n=300)
    y[:200] = 40 * rng.normal(size=200)
    weights = np.where(np.arange(300) < 200, 1e-3, 1.0)
    plain, weighed = (fit_head(features, y, "regression", kind="ridge", blocks=blocks, sample_weight=each) for each in (None, weights))
    assert plain.strength >= 1 and weighed.strength <= 0.03


def test_whether_to_standardise_is_chosen_for_the_items_that_weigh():
    """A few heavy items are told by a feature of small size among large ones, the many light ones by the large ones."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 20)).astype(np.float32)
    features[:, 10:] *= 0.05
    y = features[:, :10].sum(axis=1)
    y[200:] = 20 * features[200:, 10:].sum(axis=1)
    weights = np.where(np.arange(300) < 200, 0.01, 1.0)
    spreads = [np.ptp(fit_head(features, y, "regression", kind="ridge", sample_weight=each).scale) for each in (1 / weights, weights)]
    assert spreads[0] == 0 < spreads[1]


@pytest.mark.parametrize("standardise", [True, False])
def test_whether_to_standardise_can_be_told(standardise):
    features, y = made("classification")
    features *= np.geomspace(0.1, 10, 10)
    spread = np.ptp(fit_head(features, y, "classification", kind="ridge", standardise=standardise).scale)
    assert spread > 1 if standardise else spread == 0


@pytest.mark.parametrize("kind", list(HEADS))
def test_a_path_gives_for_each_strength_what_that_strength_alone_gives(kind):
    path, task = HEADS[kind], HEADS[kind].tasks[0]
    features, y = made(task)
    target, weights = np.eye(3, dtype=np.float32)[y], np.ones(120)
    strengths = inspect.signature(path).parameters["strengths"].default
    walked = list(path(ready(features), target, weights, task))
    assert [strength for strength, _, _ in walked] == list(strengths) == sorted(strengths, reverse=True)
    for strength, weight, bias in walked[::2]:
        ((_, alone, alone_bias),) = path(ready(features), target, weights, task, strengths=(strength,))
        # The warm and the cold start of logistic stop within the same tolerance, not at the same point.
        assert ready(features) @ weight + bias == pytest.approx(ready(features) @ alone + alone_bias, abs=0.3)


# Truth.


def test_logistic_equals_scikit_learn():
    features, y = made("classification")
    features, weights = ready(features), np.random.default_rng(1).uniform(0.5, 1.5, 120)
    weights /= weights.mean()
    ((_, weight, bias),) = logistic(features, np.eye(3, dtype=np.float32)[y], weights, "classification", strengths=(0.1,))
    # C = 1 / (n * strength), as theirs is a sum over items and ours a mean.
    theirs = LogisticRegression(C=1 / (120 * 0.1), tol=1e-8, max_iter=1000).fit(features, y, weights)
    ours = features @ weight + bias
    assert np.exp(ours - logsumexp(ours, axis=1, keepdims=True)) == pytest.approx(theirs.predict_proba(features), abs=5e-3)


def test_logistic_for_labels_is_one_binary_model_a_label():
    features, y = made("multilabel")
    features = ready(features)
    ((_, weight, bias),) = logistic(features, y.astype(np.float32), np.ones(120), "multilabel", strengths=(0.1,))
    for label in range(3):
        theirs = LogisticRegression(C=1 / (120 * 0.1), tol=1e-8, max_iter=1000).fit(features, y[:, label])
        assert features @ weight[:, label] + bias[label] == pytest.approx(theirs.decision_function(features), abs=0.02)


def test_lda_equals_scikit_learn_at_the_same_shrinkage():
    features, y = made("classification", d=6)
    features = ready(features)
    ((_, weight, bias),) = lda(features, np.eye(3, dtype=np.float32)[y], np.ones(120), "classification", strengths=(0.3,))
    # Their covariance is the mean over classes, by prior, of shrunk covariances on standardised columns; the shrinkage target
    # is made the same by giving columns of equal spread within classes.
    means = np.stack([features[y == c].mean(axis=0) for c in range(3)])
    within = (features - means[y]).T @ (features - means[y]) / 120
    shrunk = 0.7 * within + 0.3 * np.trace(within) / 6 * np.eye(6)
    slopes = np.linalg.solve(shrunk, means.T)
    assert weight == pytest.approx(slopes, abs=1e-3)
    assert bias == pytest.approx(np.log(np.bincount(y) / 120) - 0.5 * (means.T * slopes).sum(axis=0), abs=1e-3)
    ((_, weight, bias),) = lda(features, np.eye(3, dtype=np.float32)[y], np.ones(120), "classification", strengths=(1e-9,))
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(features, y).predict(features)
    assert ((features @ weight + bias).argmax(axis=1) == theirs).all()


def test_ridge_equals_scikit_learn():
    features, y = made("regression")
    features, weights = ready(features), np.random.default_rng(1).uniform(0.5, 1.5, 120)
    weights /= weights.mean()
    ((_, weight, bias),) = ridge(features, y[:, None], weights, "regression", strengths=(0.3,))
    theirs = Ridge(alpha=120 * 0.3).fit(features, y, weights)
    assert weight[:, 0] == pytest.approx(theirs.coef_, abs=1e-4)
    assert float(bias[0]) == pytest.approx(theirs.intercept_, abs=1e-4)


def weighted_items(n=60, d=8, c=4):
    """Features along their principal axes, one-hot classes of which the last is rare, uneven weights of mean 1."""
    features, y = made("classification", n=n, d=d, c=c - 1)
    y[[3, 11]] = c - 1
    weights = np.random.default_rng(1).uniform(0.5, 1.5, n)
    weights /= weights.mean()
    return weighted_axes(ready(features), weights)[2], np.eye(c, dtype=np.float32)[y], weights


def rounding(strength):
    """Float32 knows variances of about 1 to 1e-6; a prediction depends on them in units of the strength."""
    return 1e-6 + 3e-6 / strength


def lda_by_hand(features, target, weights, strength):
    """LDA from its definition, in float64."""
    features, total = features.astype(float), target.T @ weights
    means = (target * weights[:, None]).T @ features / total[:, None]
    residual = features - target @ means
    within = (residual * weights[:, None]).T @ residual / total.sum()
    shrunk = (1 - strength) * within + strength * np.trace(within) / len(within) * np.eye(len(within))
    slopes = np.linalg.solve(shrunk, means.T)
    return slopes, np.log(total / total.sum()) - 0.5 * (means.T * slopes).sum(axis=0)


def test_ridge_left_out_equals_fitting_without_each_item():
    turned, target, weights = weighted_items(n=20, d=6)
    for strength in ridge.strengths:
        predicted = Scatter(turned, target, weights).each_left_out(strength)
        for item in range(20):
            rest = np.arange(20) != item
            # The penalty is a share of the weight of all 20 items; sklearn's is a plain number.
            theirs = Ridge(alpha=weights.sum() * strength).fit(turned[rest], target[rest], weights[rest])
            assert predicted[item] == pytest.approx(theirs.predict(turned[[item]])[0], abs=rounding(strength))


# Of 60 items: a fifth, and a set that holds all items of one class; fewer features than items, and more.
@pytest.mark.parametrize("out", [np.arange(0, 60, 5), np.array([3, 11, 20])], ids=["a fifth", "a whole class"])
@pytest.mark.parametrize("d", [8, 100])
def test_ridge_and_lda_with_items_left_out_equal_fitting_on_the_rest(d, out):
    turned, target, weights = weighted_items(d=d)
    rest = np.setdiff1d(np.arange(60), out)
    seen = np.flatnonzero(target[rest].any(axis=0))
    scatter = Scatter(turned, target, weights)
    for strength in ridge.strengths:
        theirs = Ridge(alpha=weights[rest].sum() * strength).fit(turned[rest].astype(float), target[rest], weights[rest])
        weight, bias = scatter.ridge(strength, out)
        assert turned[out] @ weight + bias == pytest.approx(theirs.predict(turned[out]), abs=rounding(strength))
    for strength in lda.strengths:
        weight, bias = scatter.lda(strength, out)
        slopes, level = lda_by_hand(turned[rest], target[rest][:, seen], weights[rest], strength)
        # LDA speaks in differences between classes.
        theirs, ours = (
            logits - logits.mean(axis=1, keepdims=True)
            for logits in (turned[out] @ slopes + level, turned[out] @ weight[:, seen] + bias[seen])
        )
        assert ours == pytest.approx(theirs, abs=1e-3 * theirs.std())


@pytest.mark.parametrize("d", [20, 60])
def test_weighted_axes_lose_nothing_that_varies(d):
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(40, d)).astype(np.float32), rng.uniform(0.5, 1.5, 40)
    features[:, 1] = features[:, 0]
    centre, axes, turned = weighted_axes(features, weights)
    assert axes.shape == (d, min(d - 1, 39))
    assert turned @ axes.T + centre == pytest.approx(features, abs=1e-4)
    covariance = (turned * weights[:, None]).T @ turned / weights.sum()
    assert covariance == pytest.approx(np.diag(np.diag(covariance)), abs=1e-4)


@pytest.mark.parametrize("kind", ["ridge", "lda"])
def test_a_choice_from_one_factorisation_is_that_of_fitting_again(kind):
    def again(*given, strengths=HEADS[kind].strengths):
        yield from HEADS[kind](*given, strengths=strengths)

    features, y = made("classification", n=100, d=40)
    # Blocks of one item change no fold, but keep ridge from leaving out one at a time.
    factorised, fitted = (fit_head(features, y, "classification", kind=path, blocks=np.arange(100)) for path in (kind, again))
    assert factorised.strength == fitted.strength
    assert factorised.outputs(features) == pytest.approx(fitted.outputs(features), abs=1e-3)


def test_the_temperature_finds_the_factor_by_which_logits_were_blown_up():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 4)) * 1.5
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    for factor in (0.02, 1.0, 40.0):
        # 20,000 items estimate the slope of the logits to about one per cent.
        assert temperature_of(factor * logits, np.eye(4)[y], np.ones(20000), "classification") == pytest.approx(factor, rel=0.04)


def test_probabilities_are_calibrated():
    for kind in ("logistic", "lda", "ridge"):
        features, y = made("classification", n=400, d=30)
        unseen, truth = (part[200:] for part in (features, y))
        outputs = fit_head(features[:200], y[:200], "classification", kind=kind).outputs(unseen)
        # Of 200 items a calibrated model shows about 0.05 by chance.
        assert measure("calibration_error", truth, outputs) < 0.13


def test_strength_is_chosen_for_the_data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 60))
    y = (features[:, 0] > 0).astype(int)
    noise = rng.integers(2, size=100)
    clear, hopeless = (fit_head(features, target, "classification", kind="logistic").strength for target in (y, noise))
    assert hopeless > clear


def test_features_of_very_unequal_size_are_standardised_and_others_are_left():
    features, y = made("classification", n=150)
    assert np.ptp(fit_head(features, y, "classification").scale) == 0
    features[:, 0] = 1000 * np.random.default_rng(5).normal(size=150)
    head = fit_head(features, y, "classification")
    assert head.scale[0] > 100 * head.scale[1]
    assert measure("accuracy", y, head.outputs(features)) > 0.8


def test_blocks_keep_copies_from_flattering_weak_regularisation():
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(30, 40)), 4, axis=0)
    y = np.repeat(rng.integers(2, size=30), 4)
    blocks = np.repeat(np.arange(30), 4)
    for kind in HEADS:
        leaking, honest = (fit_head(features, y, "classification", kind=kind, blocks=given).strength for given in (None, blocks))
        assert honest > leaking


def test_the_choice_follows_the_metric_asked_for():
    def names_class_one(y, outputs):
        return float((outputs.argmax(axis=1) == 1).mean())

    features, y = made("classification", c=2)
    asked, plain = (fit_head(features, y, "classification", metric=metric) for metric in (names_class_one, None))
    assert names_class_one(y, asked.outputs(features)) >= names_class_one(y, plain.outputs(features))
    assert fit_head(features, y, "classification", metric="accuracy").kind in HEADS


def test_a_kind_of_the_users_own_is_taken():
    def nearest_mean(features, target, weights, task, strengths=(1.0,)):
        means = target.T @ features / target.sum(axis=0)[:, None]
        yield strengths[0], means.T, -0.5 * (means**2).sum(axis=1)

    features, y = made("classification")
    head = fit_head(features, y, "classification", kind=nearest_mean)
    assert head.kind == "nearest_mean" and measure("accuracy", y, head.outputs(features)) > 0.6


def test_a_path_is_left_where_it_gets_worse():
    taken = []

    def scaled_means(features, target, weights, task, strengths=(4.0, 3.0, 2.0, 1.0)):
        for strength in strengths:
            taken.append(strength)
            # Right answers at 4 and 3, from then on wrong ones.
            means = target.T @ features / target.sum(axis=0)[:, None] * np.sign(strength - 2.5)
            yield strength, means.T, -0.5 * (means**2).sum(axis=1)

    features, y = made("classification")
    assert fit_head(features, y, "classification", kind=scaled_means).strength > 2.5
    assert 2.0 in taken and 1.0 not in taken


def test_a_path_is_left_where_it_cannot_reach_its_rival_or_hardly_gains():
    features, y = made("classification")
    target, weights = np.eye(3, dtype=np.float32)[y], np.ones(120)
    view, parts = View(ready(features), target, weights, False), inner_folds(target, "classification", 10, 0, None)

    def taken(least_gain, rival=-np.inf):
        def path(features, target, weights, task, strengths=(1.0, 0.1, 0.01, 0.001)):
            yield from logistic(features, target, weights, task, strengths)

        path.least_gain = least_gain
        choices = list(along(path, "path", view, target, weights, "classification", parts, None, False, (0.0, rival)))
        return [choice.strength for choice in choices], [choice.score[1] for choice in choices]

    strengths, scores = taken(0.0)
    assert strengths[:3] == [1.0, 0.1, 0.01] and scores[0] < scores[1] < scores[2]
    # After its second step three more gains like the last one are what it may lack, and no more.
    reach = scores[1] + 3 * (scores[1] - scores[0])
    assert len(taken(0.0, reach + 0.01)[0]) == 2 and len(taken(0.0, reach - 0.01)[0]) > 2
    share = (scores[1] - scores[0]) / -scores[1]
    assert len(taken(share * 1.01)[0]) == 2 and len(taken(share * 0.99)[0]) > 2


def test_closed_chooses_among_the_kinds_in_closed_form_alone():
    features, y = made("classification", n=300)
    chosen = fit_head(features, y, "classification", kind="closed")
    assert fit_head(features, y, "classification").kind == "logistic" and chosen.kind in ("lda", "ridge")
    alike = fit_head(features, y, "classification", kind=chosen.kind)
    assert chosen.outputs(features) == pytest.approx(alike.outputs(features), abs=1e-6)


@pytest.mark.parametrize("unequal", [False, True])
def test_of_many_items_some_tell_whether_to_standardise_and_all_are_fitted(unequal):
    features, y = made("classification", n=900)
    noise = np.random.default_rng(1).normal(size=(900, 40)).astype(np.float32) * (30 if unequal else 1)
    features = np.hstack([features, noise])
    head = fit_head(features, y, "classification", kind="ridge")
    assert (np.ptp(head.scale) > 1) == unequal
    assert head.mean == pytest.approx(features.mean(axis=0), abs=1e-4)


def test_held_out_outputs_come_from_heads_that_did_not_see_the_item():
    rng = np.random.default_rng(0)
    features, y = rng.normal(size=(60, 100)), rng.integers(2, size=60)
    parts = [(np.flatnonzero(np.arange(60) % 3 != fold), np.flatnonzero(np.arange(60) % 3 == fold)) for fold in range(3)]
    held_out = cross_validate(features, y, "classification", parts, kind="ridge")
    head = fit_head(features[parts[0][0]], y[parts[0][0]], "classification", kind="ridge", n_classes=2)
    assert held_out[parts[0][1]] == pytest.approx(head.outputs(features[parts[0][1]]))
    # Labels are noise: seen items would be told nearly all right, unseen ones by chance.
    assert measure("accuracy", y, held_out) < 0.75


def test_repeats_are_averaged_and_regression_gives_values():
    features, y = made("regression", n=40)
    parts = [(np.flatnonzero(np.arange(40) % 2 != fold), np.flatnonzero(np.arange(40) % 2 == fold)) for fold in (0, 1)]
    once, twice = (cross_validate(features, y, "regression", parts * times) for times in (1, 2))
    assert once.shape == (40,) and twice == pytest.approx(once)


# Messages.


def bad(**change):
    features, y = made("classification", n=20)
    given = {"features": features, "y": y, "task": "classification", **change}
    return fit_head(given.pop("features"), given.pop("y"), given.pop("task"), **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(20, int)}, "20 items of 1 class to fit on, expected at least 2 classes"),
        ({"y": np.arange(19) % 2}, r"features have shape \(20, 10\) and y \(19,\)"),
        ({"features": np.full((20, 3), np.nan)}, "features of 20 of 20 items are not finite"),
        ({"y": np.full(20, np.nan), "task": "regression"}, "y of 20 items is not finite"),
        ({"features": np.zeros((2, 3)), "y": np.zeros(2), "task": "regression"}, "2 items to fit on, expected at least 3"),
        ({"kind": "logistik"}, r"unknown head 'logistik'.*Did you mean 'logistic'\?"),
        ({"kind": "lda", "y": np.ones(20), "task": "regression"}, "head 'lda' does not serve regression, expected auto, closed or"),
        ({"class_weight": "blanced"}, "class_weight='blanced', expected None, 'balanced'"),
        ({"class_weight": np.ones(2)}, r"class_weight has shape \(2,\), expected 3 numbers"),
        ({"class_weight": "balanced", "y": np.ones(20), "task": "regression"}, "class_weight was given for regression"),
        ({"sample_weight": np.ones(19)}, r"sample_weight has shape \(19,\), expected \(20,\)"),
        ({"sample_weight": np.r_[-1.0, np.nan, np.ones(18)]}, "sample_weight of 2 of 20 items is negative or not finite"),
        ({"sample_weight": np.zeros(20)}, "sample_weight is 0 for all 20 items, expected some above 0"),
        ({"sample_weight": np.r_[1.0, np.zeros(19)]}, "1 items of 1 class to fit on"),
        ({"n_classes": 2}, "y holds classes 0 to 2, expected 0 to 1"),
    ],
)
def test_what_cannot_be_fitted_is_said(change, message):
    with pytest.raises(GraftError, match=message):
        bad(**change)


def test_features_of_another_backbone_are_refused():
    features, y = made("classification")
    head = fit_head(features, y, "classification", kind="lda")
    with pytest.raises(GraftError, match=r"features have shape \(120, 4\), this head expects \(n, 10\)"):
        head.outputs(features[:, :4])
    with pytest.raises(GraftError, match="lacks bias, link"):
        LinearHead.from_arrays({name: array for name, array in head.to_arrays().items() if name not in ("bias", "link")})


def test_items_tested_by_no_fold_are_counted():
    features, y = made("classification", n=30)
    with pytest.raises(GraftError, match="20 of 30 items are tested by no fold"):
        cross_validate(features, y, "classification", [(np.arange(10, 30), np.arange(10))])


@pytest.mark.parametrize("kind", ["auto", "closed", *HEADS])
def test_features_that_are_the_same_for_all_items_tell_how_frequent_classes_are(kind):
    """Truth: without information the frequencies of classes are the best probabilities there are."""
    features, y = np.zeros((40, 6), np.float32), np.repeat([0, 1], [30, 10])
    outputs = fit_head(features, y, "classification", kind=kind).outputs(features[:2])
    np.testing.assert_allclose(outputs, [[0.75, 0.25]] * 2, atol=0.08)
