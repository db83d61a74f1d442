"""Each score and distance against its paper's equation in plain loops, a reference library or a closed form."""

from itertools import permutations

import numpy as np
import pytest
from scipy import linalg, optimize, stats
from scipy.special import softmax
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from graft.data.split import folds
from graft.transferability import DISTANCES, LABEL_FREE_SCORES, REGRESSION_SCORES, SCORES, SOURCE_SCORES
from graft.transferability.base import in_own_order
from graft.transferability.distances import frechet_to_statistics
from graft.transferability.held_out import lda_left_out
from graft.transferability.source_outputs import components_for


def made(n=60, d=8, c=3, seed=0, gap=1.5):
    """Features (n, d) whose class means differ, labels (n,) of unequal counts, every class with at least two items."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(c), 2), rng.choice(c, n - 2 * c, p=np.arange(1, c + 1) / (c * (c + 1) / 2))])
    return rng.normal(size=(n, d)) * rng.uniform(0.5, 1.5, d) + 0.3 + gap * rng.normal(size=(c, d))[labels], labels


SHAPES = pytest.mark.parametrize(("n", "d"), [(60, 8), (20, 40)], ids=["n > d", "n < d"])


def outputs_of(n=60, z=5, seed=1):
    return np.random.default_rng(seed).dirichlet(np.full(z, 0.5), n)


# Scores from a source's outputs.


def test_nce_is_minus_the_conditional_entropy():
    labels, outputs = made()[1], outputs_of()
    chosen, expected = outputs.argmax(axis=1), 0.0
    for z in set(chosen):
        for y in set(labels):
            joint = np.mean((labels == y) & (chosen == z))
            if joint:
                expected += joint * np.log(joint / np.mean(chosen == z))
    assert SOURCE_SCORES["nce"](np.eye(60), labels, outputs) == pytest.approx(expected, rel=1e-12)


def plain_leep(labels, outputs):
    n, z = outputs.shape
    joint = np.zeros((labels.max() + 1, z))
    for i in range(n):
        joint[labels[i]] += outputs[i] / n
    total = 0.0
    for i in range(n):
        total += np.log(sum(joint[labels[i], k] / joint[:, k].sum() * outputs[i, k] for k in range(z)))
    return total / n


def test_leep_is_equation_2():
    labels, outputs = made()[1], outputs_of()
    assert SOURCE_SCORES["leep"](np.eye(60), labels, outputs) == pytest.approx(plain_leep(labels, outputs), rel=1e-12)


def test_a_source_class_that_no_item_has_changes_nothing_in_leep():
    labels, outputs = made()[1], outputs_of()
    more = np.column_stack([outputs, np.zeros(60)])
    assert SOURCE_SCORES["leep"](more, labels, more) == SOURCE_SCORES["leep"](outputs, labels, outputs)


def test_nleep_is_leep_of_a_mixture_on_the_axes_of_80_percent():
    features, labels = made(n=100)
    order = in_own_order(features, labels)
    features, labels = features[order], labels[order]
    # PCA leaves the sign of an axis open, and so does the mixture: the sign changes no distance.
    turned = PCA(0.8).fit_transform(features)
    assert components_for(labels) == 15
    mixture = GaussianMixture(15, covariance_type="diag", random_state=0, reg_covar=1e-6 * turned.var(axis=0).mean()).fit(turned)
    expected = plain_leep(labels, mixture.predict_proba(turned))
    assert SCORES["nleep"](features, labels) == pytest.approx(expected, rel=1e-6)


# LogME.


def plain_evidence(features, target, alpha, beta):
    """The marginal of y = X w + noise, w of precision alpha, noise of precision beta: a Gaussian."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return stats.multivariate_normal(np.zeros(len(target)), covariance).logpdf(target) / len(target)


def best_evidence(features, target):
    found = optimize.minimize(
        lambda log: -plain_evidence(features, target, *np.exp(log)),
        [0.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-10},
    )
    return -found.fun


@SHAPES
def test_logme_is_the_maximum_of_the_evidence(n, d):
    features, labels = made(n, d)
    expected = np.mean([best_evidence(features, (labels == c).astype(float)) for c in range(3)])
    # The authors' 1e-5 in the fixed point keeps it off the maximum: by a thousandth where features explain a class nearly wholly.
    assert SCORES["logme"](features, labels) == pytest.approx(expected, abs=1e-4 if n > d else 2e-3)


@SHAPES
def test_logme_of_numbers_is_the_maximum_of_the_evidence(n, d):
    features, _ = made(n, d)
    target = features[:, 0] + np.random.default_rng(3).normal(size=n)
    assert REGRESSION_SCORES["logme"](features, target) == pytest.approx(best_evidence(features, target), abs=1e-4)


def test_logme_equals_the_authors_fixed_point_where_items_outnumber_features():
    features, labels = made(200, 8)
    left, lengths, _ = np.linalg.svd(features, full_matrices=False)
    squares, (n, d), evidences = lengths**2, features.shape, []
    for c in range(3):
        target = (labels == c).astype(float)
        along = (left.T @ target) ** 2
        outside = target @ target - along.sum()
        alpha = beta = 1.0
        for _ in range(11):
            ratio = alpha / beta
            gamma = (squares / (squares + ratio)).sum()
            weight = (squares * along / (ratio + squares) ** 2).sum()
            error = (along / (1 + squares / ratio) ** 2).sum() + outside
            alpha, beta = gamma / (weight + 1e-5), (n - gamma) / (error + 1e-5)
            evidence = d / 2 * np.log(alpha) + n / 2 * np.log(beta) - 0.5 * np.log(alpha + beta * squares).sum()
            evidence += -beta / 2 * error - alpha / 2 * weight - n / 2 * np.log(2 * np.pi)
            if abs(alpha / beta - ratio) / ratio <= 1e-3:
                break
        evidences.append(evidence / n)
    # 1e-4: theirs stops once the ratio moves by less than 0.1 %.
    assert SCORES["logme"](features, labels) == pytest.approx(np.mean(evidences), abs=1e-4)


# Separation.


@SHAPES
def test_h_score_is_the_trace_of_the_paper(n, d):
    features, labels = made(n, d)
    of_class = np.stack([features[labels == y].mean(axis=0) for y in labels])
    expected = np.trace(np.linalg.pinv(np.cov(features.T), rcond=1e-10) @ np.cov(of_class.T))
    assert SCORES["h_score"](features, labels) == pytest.approx(expected, rel=1e-8)


@SHAPES
def test_the_shrunk_h_score_has_scikit_learns_ledoit_wolf(n, d):
    features, labels = made(n, d)
    fitted = LedoitWolf().fit(features)
    of_class = np.stack([features[labels == y].mean(axis=0) for y in labels])
    expected = (1 - fitted.shrinkage_) * np.trace(np.linalg.inv(fitted.covariance_) @ np.cov(of_class.T, bias=True))
    assert 0.01 < fitted.shrinkage_ < 0.99
    assert SCORES["h_score_shrunk"](features, labels) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("d", [6, 80])
def test_gbc_is_the_overlap_of_round_gaussians(d):
    features, labels = made(120, d, gap=0.4)
    features = features / 3
    turned = PCA(min(64, d)).fit_transform(features)
    expected = 0.0
    for a in range(3):
        for b in range(3):
            if a != b:
                one, two = turned[labels == a], turned[labels == b]
                first, second = one.var(axis=0).mean() * np.eye(turned.shape[1]), two.var(axis=0).mean() * np.eye(turned.shape[1])
                middle, gap = (first + second) / 2, one.mean(axis=0) - two.mean(axis=0)
                spreads = (np.linalg.slogdet(first)[1] + np.linalg.slogdet(second)[1]) / 2
                expected -= np.exp(-gap @ np.linalg.inv(middle) @ gap / 8 - 0.5 * (np.linalg.slogdet(middle)[1] - spreads))
    assert SCORES["gbc"](features, labels) == pytest.approx(expected, rel=1e-8)
    assert expected < -1e-4


# Discriminants.


def authors_discriminant(features, labels, shrinkage=None):
    """SFDA's code: a generalised eigenproblem, from whose vectors slopes are made. Returns probabilities and the shrinkage."""
    n, d = features.shape
    means = np.stack([features[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    priors = np.bincount(labels) / n
    within = sum(prior * np.cov(features[labels == c].T, bias=True) for c, prior in enumerate(priors))
    if shrinkage is None:
        shrinkage = max(np.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
    shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
    total = np.cov(features.T, bias=True)
    total = (1 - shrinkage) * total + shrinkage * np.trace(total) / d * np.eye(d)
    _, vectors = linalg.eigh(total - shrunk, shrunk)
    slopes = means @ vectors @ vectors.T
    return softmax(features @ slopes.T - 0.5 * np.diag(means @ slopes.T) + np.log(priors), axis=1), shrinkage


# Small features: the shrinkage is then neither all nor nothing.
@SHAPES
def test_sfda_equals_the_authors_code(n, d):
    features, labels = made(n, d, gap=0)
    features = features / 10
    probabilities, shrinkage = authors_discriminant(features, labels)
    assert 1e-3 < shrinkage < 0.99
    sure = np.exp(probabilities) / np.exp(probabilities).sum(axis=1, keepdims=True)
    means = np.stack([features[labels == c].mean(axis=0) for c in range(3)])
    mixed = features.copy()
    for i, y in enumerate(labels):
        others = (means.sum(axis=0) - means[y]) / 2
        mixed[i] = sure[i, y] * features[i] + (1 - sure[i, y]) * others
    again, _ = authors_discriminant(mixed, labels, shrinkage)
    expected = np.mean([again[i, y] for i, y in enumerate(labels)])
    assert expected < 0.99
    assert SCORES["sfda"](features, labels) == pytest.approx(expected, rel=1e-8)


@SHAPES
def test_etrans_classification_score_is_the_posterior_of_gaussians_of_one_covariance(n, d):
    features, labels = made(n, d, gap=0)
    features = features / 10
    centred = features - np.stack([features[labels == y].mean(axis=0) for y in labels])
    within = centred.T @ centred / n
    shrinkage = np.exp(-5 * np.linalg.eigvalsh(within)[-1])
    shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
    logs = np.stack(
        [
            stats.multivariate_normal(features[labels == c].mean(axis=0), shrunk).logpdf(features) + np.log(np.mean(labels == c))
            for c in range(3)
        ]
    )
    expected = np.mean([softmax(logs[:, i])[y] for i, y in enumerate(labels)])
    assert expected < 0.99
    assert SCORES["etran_lda"](features, labels) == pytest.approx(expected, rel=1e-8)


def test_energy_is_the_mean_log_sum_exp_and_etran_the_sum():
    features, labels = made()
    expected = np.mean([np.log(sum(np.exp(value) for value in row)) for row in features])
    assert LABEL_FREE_SCORES["energy"](features) == pytest.approx(expected, rel=1e-12)
    assert SCORES["etran"](features, labels) == pytest.approx(expected + SCORES["etran_lda"](features, labels), rel=1e-12)


# Coding rates.


def plain_rate(features):
    n, d = features.shape
    return 0.5 * np.linalg.slogdet(np.eye(d) + features.T @ features / (n * 1e-4))[1]


@SHAPES
def test_transrate_is_the_rate_less_that_within_classes(n, d):
    features, labels = made(n, d)
    centred = features - features.mean(axis=0)
    expected = plain_rate(centred) - sum(np.mean(labels == c) * plain_rate(centred[labels == c]) for c in range(3))
    assert SCORES["transrate"](features, labels) == pytest.approx(expected, rel=1e-8)


def test_transrate_equals_the_papers_listing_for_classes_of_one_size():
    features, _ = made()
    labels = np.arange(60) % 3
    centred = features - features.mean(axis=0)
    expected = plain_rate(centred) - sum(plain_rate(centred[labels == c]) for c in range(3)) / 3
    assert SCORES["transrate"](features, labels) == pytest.approx(expected, rel=1e-8)


@SHAPES
def test_rankme_is_the_exponent_of_the_singular_values_entropy(n, d):
    features, _ = made(n, d)
    lengths = np.linalg.svd(features, compute_uv=False)
    share = lengths / lengths.sum() + 1e-7
    assert LABEL_FREE_SCORES["rankme"](features) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-8)


def test_rankme_of_equal_directions_is_their_number():
    features = np.tile(np.eye(7), (3, 1))
    # 1e-5: the paper adds 1e-7 to each share.
    assert LABEL_FREE_SCORES["rankme"](features) == pytest.approx(7, rel=1e-5)


# Similarity tables.


@SHAPES
def test_parc_equals_the_authors_code(n, d):
    features, labels = made(n, d)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    upper = np.triu_indices(n, 1)
    one, two = (1 - np.corrcoef(table)[upper] for table in (standard, np.eye(3)[labels]))
    # 1e-6: correlations of one-hot labels that are equal but for rounding are not told apart by ours.
    expected = stats.spearmanr(one, np.round(two, 9)).statistic
    assert SCORES["parc"](features, labels) == pytest.approx(expected, rel=1e-6)


@SHAPES
def test_lfc_is_the_correlation_of_two_tables(n, d):
    features, labels = made(n, d)
    same = np.where(labels[:, None] == labels, 1.0, -1.0)
    expected = np.corrcoef((features @ features.T).ravel(), same.ravel())[0, 1]
    assert SCORES["lfc"](features, labels) == pytest.approx(expected, rel=1e-9)


@SHAPES
def test_lfc_of_numbers_is_the_correlation_of_two_tables(n, d):
    features, _ = made(n, d)
    numbers = features[:, 0] + np.random.default_rng(3).normal(size=n)
    centred = numbers - numbers.mean()
    expected = np.corrcoef((features @ features.T).ravel(), np.outer(centred, centred).ravel())[0, 1]
    assert REGRESSION_SCORES["lfc"](features, numbers) == pytest.approx(expected, rel=1e-9)


# Held-out items.


@pytest.mark.parametrize("k", [1, 5])
def test_knn_equals_scikit_learn_leave_one_out(k):
    features, labels = made(gap=0.7)
    predicted = cross_val_predict(KNeighborsClassifier(k, algorithm="brute"), features, labels, cv=LeaveOneOut())
    assert SCORES["knn"](features, labels, k=k) == pytest.approx(np.mean(predicted == labels))


def refitted_ridge(features, target):
    """Predictions of each item by n refits at the strength that errs least."""
    n = len(features)
    scaled = features - features.mean(axis=0)
    scaled /= np.sqrt((scaled**2).mean())
    tried = [cross_val_predict(Ridge(n * strength), scaled, target, cv=LeaveOneOut()) for strength in (10, 1, 0.1, 0.01, 1e-3, 1e-4)]
    return min(tried, key=lambda predicted: ((predicted - target) ** 2).mean())


@SHAPES
def test_ridge_left_out_equals_refits(n, d):
    features, labels = made(n, d, gap=0.5)
    expected = (refitted_ridge(features, np.eye(3)[labels]).argmax(axis=1) == labels).mean()
    assert SCORES["ridge_loo"](features, labels) == pytest.approx(expected)


@SHAPES
def test_ridge_left_out_on_numbers_equals_refits(n, d):
    features, _ = made(n, d)
    target = 100 + 5 * features[:, 0] + np.random.default_rng(3).normal(size=n)
    standard = (target - target.mean()) / target.std()
    left_out = refitted_ridge(features, standard)
    by_mean = np.array([np.delete(standard, i).mean() for i in range(n)])
    expected = 1 - ((standard - left_out) ** 2).sum() / ((standard - by_mean) ** 2).sum()
    # 1e-4: ours is in float32.
    assert REGRESSION_SCORES["ridge_loo"](features, target) == pytest.approx(expected, abs=1e-4)


@SHAPES
@pytest.mark.parametrize("strength", [10.0, 1e-3])
def test_lda_left_out_equals_refits(n, d, strength):
    features, labels = made(n, d, gap=0.5)
    labels[0] = 3
    turned = PCA().fit_transform(features)[:, : min(n - 1, d)]
    ours = lda_left_out(turned, labels, strength)
    for i in range(n):
        rest, theirs = np.delete(turned, i, axis=0), np.delete(labels, i)
        within = strength * n * np.eye(turned.shape[1])
        for y in set(theirs):
            offset = rest[theirs == y] - rest[theirs == y].mean(axis=0)
            within += offset.T @ offset
        logs = np.full(4, -np.inf)
        for y in set(theirs):
            gaussian = stats.multivariate_normal(rest[theirs == y].mean(axis=0), within / (n - 1))
            logs[y] = gaussian.logpdf(turned[i]) + np.log(np.mean(theirs == y))
        assert softmax(ours[i]) == pytest.approx(softmax(logs), abs=1e-7)


def test_lda_left_out_counts_what_refits_name():
    features, labels = made(gap=0.6)
    centred = (features - features.mean(axis=0)) / features.std(axis=0).mean()
    scaled = centred / np.sqrt((centred**2).mean())
    turned = PCA().fit_transform(scaled)
    by_strength = {}
    for strength in (1.0, 0.1, 0.01, 1e-3):
        chances = softmax(lda_left_out(turned, labels, strength), axis=1)
        by_strength[np.log(chances[np.arange(60), labels]).mean()] = (chances.argmax(axis=1) == labels).mean()
    assert SCORES["lda_loo"](features, labels) == pytest.approx(by_strength[max(by_strength)])


def test_logistic_in_folds_equals_scikit_learn():
    features, labels = made(gap=0.6)
    features = features / 100
    order = in_own_order(features, labels)
    features, labels = features[order], labels[order]
    scaled = features - features.mean(axis=0)
    scaled /= np.sqrt((scaled**2).mean())
    right = 0
    for train, test in folds(labels, "classification", 5, seed=0):
        right += (LogisticRegression(max_iter=1000).fit(scaled[train], labels[train]).predict(scaled[test]) == labels[test]).sum()
    assert 0.4 < right / 60 < 0.95
    assert SCORES["logistic_cv"](features, labels) == pytest.approx(right / 60)


# Distances.


def test_mmd_is_the_double_sum_over_a_gaussian_kernel():
    source, target = made(12, 3)[0], made(9, 3, seed=5)[0]
    both = np.concatenate([source, target])
    squares = [((both[i] - both[j]) ** 2).sum() for i in range(21) for j in range(i)]

    def mean(left, right):
        return np.mean([np.exp(-((a - b) ** 2).sum() / (2 * np.median(squares))) for a in left for b in right])

    expected = np.sqrt(mean(source, source) + mean(target, target) - 2 * mean(source, target))
    assert DISTANCES["mmd"](source, target) == pytest.approx(expected, rel=1e-9)


def plain_bures(one, two):
    first, second = np.cov(one.T, bias=True), np.cov(two.T, bias=True)
    root = np.real(linalg.sqrtm(first))
    return np.trace(first + second - 2 * np.real(linalg.sqrtm(root @ second @ root)))


@SHAPES
def test_frechet_is_the_formula_of_fid(n, d):
    source, target = made(n, d)[0], made(n + 7, d, seed=5)[0]
    expected = ((source.mean(axis=0) - target.mean(axis=0)) ** 2).sum() + plain_bures(source, target)
    # 1e-4: roots of covariances of less than full rank are exact to half the digits only.
    assert DISTANCES["frechet"](source, target) == pytest.approx(expected, rel=1e-4)


@SHAPES
def test_frechet_to_statistics_is_frechet_to_the_items_that_they_are_of(n, d):
    source, target = made(n, d)[0], made(n + 7, d, seed=5)[0]
    mean, covariance = source.mean(axis=0), np.cov(source.T, bias=True)
    expected = DISTANCES["frechet"](source, target)
    assert frechet_to_statistics(mean, covariance, target) == pytest.approx(expected, rel=1e-6)
    # Published statistics are often kept as float32.
    less = frechet_to_statistics(mean.astype(np.float32), covariance.astype(np.float32), target)
    assert less == pytest.approx(expected, rel=1e-3)


def test_frechet_of_a_shift_and_a_stretch_is_their_squares():
    source = made(60, 4)[0]
    centred = source - source.mean(axis=0)
    assert DISTANCES["frechet"](source, source + np.array([3, 4, 0, 0])) == pytest.approx(25, rel=1e-9)
    assert DISTANCES["frechet"](centred, 3 * centred) == pytest.approx(4 * centred.var(axis=0).sum(), rel=1e-9)


def test_proxy_a_is_0_for_one_distribution_and_2_for_two_apart():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    # Of 500 items some 22 more or less are told by chance: 0.18 on the scale of 0 to 2, and three times that is rare.
    assert DISTANCES["proxy_a"](source, target) < 0.3
    assert DISTANCES["proxy_a"](source, target + 20) == 2


def test_proxy_a_is_the_error_of_the_best_line_between_two_gaussians():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)) + np.array([1.0, 0.0])
    # The best line errs with probability Phi(-1/2); 0.05: three standard errors of 4,000 items.
    assert DISTANCES["proxy_a"](source, target) == pytest.approx(2 * (1 - 2 * stats.norm.cdf(-0.5)), abs=0.1)


@SHAPES
def test_cka_is_one_less_the_normalised_hsic(n, d):
    source, target = made(n, d)[0], made(n, d + 3, seed=5)[0]
    centre = np.eye(n) - 1 / n

    def hsic(left, right):
        return np.trace(left @ left.T @ centre @ right @ right.T @ centre)

    expected = 1 - hsic(source, target) / np.sqrt(hsic(source, source) * hsic(target, target))
    assert DISTANCES["cka"](source, target) == pytest.approx(expected, rel=1e-9)


def test_cka_does_not_see_a_rotation_or_a_scale():
    source = made(60, 4)[0]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    assert DISTANCES["cka"](source, 5 * source @ rotation) == pytest.approx(0, abs=1e-12)


def test_otdd_of_a_shift_is_root_two_times_it():
    source, labels = made(60, 4)
    moved = DISTANCES["otdd"](source, source + np.array([3, 4, 0, 0]), source_labels=labels, target_labels=labels)
    # An item and its class both lie 5 further.
    assert moved == pytest.approx(5 * np.sqrt(2), rel=1e-9)


def test_otdd_is_the_cheapest_of_all_pairings():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(6, 2)), rng.normal(size=(6, 2)) + 1
    own, other = np.array([0, 0, 0, 1, 1, 1]), np.array([7, 7, 5, 5, 5, 5])
    cost = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            one, two = source[own == own[i]], target[other == other[j]]
            classes = ((one.mean(axis=0) - two.mean(axis=0)) ** 2).sum() + plain_bures(one, two)
            cost[i, j] = ((source[i] - target[j]) ** 2).sum() + classes
    expected = min(sum(cost[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    ours = DISTANCES["otdd"](source, target, source_labels=own, target_labels=other)
    assert ours == pytest.approx(np.sqrt(expected / 6), rel=1e-6)
