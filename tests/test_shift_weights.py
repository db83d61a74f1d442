"""Methods that weigh or rescale, held against their equations, reference libraries and known answers; what all of them refuse."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist
from test_shift import made_of, shifted

from graft.errors import GraftError
from graft.heads import LinearHead
from graft.shift import SHIFTS, reweighting
from graft.shift.label_shift import bbse_shares, saerens_shares
from graft.shift.reweighting import density_ratio_weights, kliep_weights, kmm_weights

WEIGHTS = (kmm_weights, kliep_weights, density_ratio_weights)


def two_gaussians(n=60, m=50, d=2, move=1.0, seed=0):
    """Rows of N(0, 1) and of N(move, 1) along the first feature."""
    rng = np.random.default_rng(seed)
    source, target = (rng.normal(size=(k, d)).astype(np.float32) for k in (n, m))
    target[:, 0] += move
    return source, target


def kernels(source, target, width=1.0):
    """Gaussian kernels (n, n) and (n, m), in the median distance between all items."""
    width *= float(np.median(pdist(np.concatenate([source, target]))))
    return (np.exp(cdist(source, other, "sqeuclidean") / (-2 * width**2)) for other in (source, target))


# Kernel mean matching.


def kmm_loss(weights, source, target):
    inner, across = kernels(source, target)
    return weights @ inner @ weights / 2 - len(source) * (across.mean(axis=1) @ weights)


def test_kmm_solves_its_quadratic_programme():
    source, target = two_gaussians()
    ours = kmm_weights(source, target, bound=4.0)
    assert ours.min() >= 0 and ours.max() <= 4 + 1e-9 and ours.mean() == pytest.approx(1)
    inner, across = kernels(source, target)
    solved = minimize(
        lambda w: (kmm_loss(w, source, target), inner @ w - 60 * across.mean(axis=1)),
        np.ones(60),
        jac=True,
        bounds=[(0, 4)] * 60,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 60},
        method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-10},
    )
    at_one = kmm_loss(np.ones(60), source, target)
    # The programme is flat: of the way down from equal weights all but a thousandth is gone, with weights that differ somewhat.
    assert kmm_loss(ours, source, target) - solved.fun < 1e-3 * (at_one - solved.fun)
    assert np.corrcoef(ours, solved.x)[0, 1] > 0.95


def test_kmm_does_no_worse_than_skada():
    skada = pytest.importorskip("skada._reweight")
    source, target = two_gaussians()
    gamma = 1 / (2 * float(np.median(pdist(np.concatenate([source, target])))) ** 2)
    adapter = skada.KMMReweightAdapter(gamma=gamma, B=1000.0, eps=1e-9, solver="scipy")
    theirs = adapter.fit(np.concatenate([source, target]), sample_domain=np.repeat([1, -1], [60, 50])).source_weights_
    ours = kmm_weights(source, target, bound=1000.0)
    at_one = kmm_loss(np.ones(60), source, target)
    assert kmm_loss(ours, source, target) - kmm_loss(theirs, source, target) < 1e-3 * (at_one - kmm_loss(theirs, source, target))


def test_kmm_by_landmarks_is_near_to_all_items(monkeypatch):
    source, target = two_gaussians(500, 400, d=5)
    exact = kmm_weights(source, target)
    monkeypatch.setattr(reweighting, "_LANDMARKS", 200)
    assert np.corrcoef(kmm_weights(source, target), exact)[0, 1] > 0.95


def test_the_closest_weights_with_mean_one_leave_what_lies_between_the_bounds_equally_far():
    """The condition of Karush, Kuhn and Tucker for the projection."""
    wanted = np.random.default_rng(0).normal(1, 3, 200)
    weights = reweighting._onto_bounded_mean(wanted, 4.0)
    moved = wanted - weights
    between = (weights > 0) & (weights < 4)
    assert weights.mean() == pytest.approx(1) and between.any() and (weights == 0).any() and (weights == 4).any()
    assert np.ptp(moved[between]) < 1e-9
    assert moved[weights == 0].max() <= moved[between][0] + 1e-9 and moved[weights == 4].min() >= moved[between][0] - 1e-9


# KLIEP.


def kliep_by_slsqp(source, target, width):
    """Sugiyama et al. 2007, eq. 6, with a kernel on every target item: (log likelihood, weights of the source)."""
    width *= float(np.median(pdist(np.concatenate([source, target]))))
    on_source, on_target = (np.exp(cdist(rows, target, "sqeuclidean") / (-2 * width**2)) for rows in (source, target))
    mean = on_source.mean(axis=0)
    solved = minimize(
        lambda a: (-np.log(on_target @ a).mean(), -(on_target / (on_target @ a)[:, None]).mean(axis=0)),
        np.full(len(target), 1 / mean.sum()),
        jac=True,
        bounds=[(0, None)] * len(target),
        constraints={"type": "eq", "fun": lambda a: mean @ a - 1, "jac": lambda a: mean},
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    return -solved.fun, on_source @ solved.x, on_source, on_target


def test_kliep_reaches_the_optimum_of_its_problem():
    source, target = two_gaussians(60, 30)
    _, theirs, _, _ = kliep_by_slsqp(source, target, 0.5)
    ours = kliep_weights(source, target, width=0.5)
    assert ours.mean() == pytest.approx(1)
    # EM ends where shares move by less than 1e-5; weights are up to 6.
    assert ours == pytest.approx(theirs, abs=0.05)


def test_kliep_is_likelier_than_skadas():
    """skada's steps uphill are of length 2e-16, so that its projection alone decides; the optimum is at least as good."""
    skada = pytest.importorskip("skada._reweight")
    source, target = two_gaussians(60, 30)
    gamma = 1 / (2 * (0.5 * float(np.median(pdist(np.concatenate([source, target]))))) ** 2)
    adapter = skada.KLIEPReweightAdapter(gamma=gamma, random_state=0, n_centers=30, max_iter=5000)
    both = np.concatenate([source, target])
    adapter.fit(both, sample_domain=np.repeat([1, -1], [60, 30]))
    on_target = np.exp(-gamma * cdist(target, adapter.centers_, "sqeuclidean")) @ adapter.alpha_
    best, _, _, _ = kliep_by_slsqp(source, target, 0.5)
    # Ours is the optimum, as the test above has it.
    assert best >= np.log(on_target).mean()


def test_the_width_of_kliep_is_the_likeliest_for_held_out_items():
    source, target = two_gaussians(300, 200, d=1, move=0.5)
    chosen = [
        width for width in (0.25, 0.5, 1.0, 2.0) if np.allclose(kliep_weights(source, target), kliep_weights(source, target, width=width))
    ]
    # The true ratio is smooth: a narrow sum of kernels follows the sample instead.
    assert len(chosen) == 1 and chosen[0] > 0.25
    # Each target item ten times: the others of it are held out with some, so that the narrowest is the likeliest.
    narrow = np.repeat(np.random.default_rng(0).normal(size=(40, 1)), 10, axis=0).astype(np.float32)
    assert kliep_weights(source, narrow) == pytest.approx(kliep_weights(source, narrow, width=0.25), abs=1e-9)


def test_the_shares_of_a_mixture_are_found():
    """Two components that do not overlap: shares are counts. Two that do: the root of the likelihood's slope."""
    apart = np.repeat([[2.0, 0.0], [0.0, 5.0]], [30, 10], axis=0)
    assert reweighting._mixture_shares(apart) == pytest.approx([0.75, 0.25])
    overlapping = np.repeat([[3.0, 1.0], [1.0, 3.0]], [30, 10], axis=0)
    # 30 (3 - 1) / (1 + 2 s) = 10 (3 - 1) / (3 - 2 s), at s = 1: the larger share takes all.
    assert reweighting._mixture_shares(overlapping) == pytest.approx([1.0, 0.0], abs=0.01)


# All three against the ratio of densities that is known.


@pytest.mark.parametrize(("weights_of", "least"), [(kliep_weights, 0.95), (density_ratio_weights, 0.99)])
def test_weights_follow_the_true_ratio_of_two_gaussians(weights_of, least):
    source, target = two_gaussians(2000, 1000, d=1, move=0.8)
    true = np.exp(0.8 * source[:, 0] - 0.32)
    assert np.corrcoef(weights_of(source, target), true)[0, 1] > least


@pytest.mark.parametrize("weights_of", WEIGHTS)
def test_the_weighed_source_has_the_targets_mean_and_spread(weights_of):
    """What kernel mean matching is for: its weights need not follow the ratio, as many sets of them match the same means."""
    source, target = two_gaussians(2000, 2000, d=1, move=0.8)
    weights = weights_of(source, target)
    mean = np.average(source[:, 0], weights=weights)
    # Standard errors of about 0.04 with so uneven weights.
    assert mean == pytest.approx(target[:, 0].mean(), abs=0.1)
    assert np.sqrt(np.average((source[:, 0] - mean) ** 2, weights=weights)) == pytest.approx(target[:, 0].std(), abs=0.1)


def test_the_classifiers_ratio_is_the_true_one_to_a_tenth():
    source, target = two_gaussians(4000, 3000, d=3, move=1.0)
    true = source[:, 0] - 0.5
    ours = np.log(density_ratio_weights(source, target, clip=1000))
    assert np.abs(ours - true).mean() < 0.1


def test_each_items_ratio_comes_from_a_classifier_that_did_not_learn_from_it():
    """Forty features of noise: one that learned from the items would tell both sides apart."""
    rng = np.random.default_rng(0)
    source, target = (rng.normal(size=(60, 40)).astype(np.float32) for _ in range(2))
    weights = density_ratio_weights(source, target)
    assert weights.std() < 0.3


def test_a_ratio_is_clipped_around_its_median():
    source, target = two_gaussians(400, 400, move=4.0)
    weights = density_ratio_weights(source, target, clip=3.0)
    assert weights.max() / np.median(weights) == pytest.approx(3, rel=1e-3)
    assert np.median(weights) / weights.min() == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("weights_of", WEIGHTS)
def test_the_unit_of_the_features_does_not_matter_and_neither_side_is_asked_for_labels(weights_of):
    source, target = two_gaussians(80, 70, d=3)
    assert weights_of(source, target) == pytest.approx(weights_of(1000 * source, 1000 * target), abs=0.02)


@pytest.mark.parametrize("weights_of", WEIGHTS)
def test_features_that_never_vary_are_refused(weights_of):
    with pytest.raises(GraftError, match="all 20 source and 30 target items have the same features"):
        weights_of(np.ones((20, 4), np.float32), np.ones((30, 4), np.float32))


@pytest.mark.parametrize("name", ["kmm", "kliep", "density_ratio"])
def test_weights_make_a_regression_better_where_only_the_inputs_shifted(name):
    gains = []
    for seed in range(3):
        domains, truth = shifted("covariate", 1, "regression", n=400, m=300, seed=seed)
        errors = [((head.outputs(domains.target) - truth) ** 2).mean() for head in (SHIFTS[name](domains).head, domains.head)]
        gains.append(errors[1] / errors[0])
    assert min(gains) > 3


@pytest.mark.parametrize("name", ["kmm", "kliep", "density_ratio"])
def test_the_head_is_fitted_with_the_weights_that_are_told_and_no_item_is_silenced(name):
    seen = []
    domains, _ = shifted("covariate", 3)

    def fit(rows, labels, weights):
        seen.append(weights)
        return domains.fit(rows, labels, weights)

    adapted = SHIFTS[name](replace(domains, fit=fit))
    assert len(seen) == 1 and (seen[0] == adapted.weights).all() and adapted.weights.min() > 0.005


# Standardising.


def test_standardise_is_a_head_on_features_of_mean_zero_and_spread_one():
    domains, _ = shifted("mean", 3)
    adapted = SHIFTS["standardise"](domains)
    for rows in (adapted.source, adapted.target):
        assert rows.mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-4) and rows.std(axis=0) == pytest.approx(np.ones(8), abs=1e-3)
    centred = SHIFTS["standardise"](domains, spread=False)
    assert centred.target == pytest.approx(domains.target - domains.target.mean(axis=0), abs=1e-4)


def test_standardise_takes_each_source_domain_by_itself():
    domains, truth = shifted("mean", 3, n=600)
    names = np.repeat([3, 8], 300)
    source = np.where(names[:, None] == 8, 10 * domains.source + 20, domains.source).astype(np.float32)
    apart = made_of(source, domains.labels, domains.target, "classification", 3, domains=names)
    adapted = SHIFTS["standardise"](apart)
    for name in (3, 8):
        assert adapted.source[names == name].mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-4)
    assert (adapted.head.outputs(domains.target).argmax(axis=1) == truth).mean() > 0.95
    assert adapted.read_source(source[:4], np.array([8, 8, 8, 8])) != pytest.approx(adapted.source[:4], abs=0.1)


def test_the_control_is_the_head_that_was_given():
    domains, _ = shifted("same", 3)
    adapted = SHIFTS["source_only"](domains)
    assert adapted.head is domains.head and adapted.source is domains.source and adapted.weights is None


# Messages.


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("kmm", {"bound": 1.0}, r"kmm: got bound=1.0, width=1.0, expected a bound above 1"),
        ("kmm", {"width": 0.0}, r"kmm: got bound=10.0, width=0.0, expected"),
        ("density_ratio", {"clip": 0.5}, r"density_ratio: got clip=0.5, expected a number above 1"),
        ("pseudo_labels", {"rounds": 0}, "pseudo_labels: got rounds=0, most=0.8, expected at least 1 round"),
        ("pseudo_labels", {"most": 1.5}, r"got rounds=4, most=1.5, expected at least 1 round and a share in \(0, 1\]"),
        ("t3a", {"keep": 0}, "t3a: got keep=0, expected at least 1 support"),
        ("shot_labels", {"rounds": 0}, "shot_labels: got rounds=0, expected at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises(GraftError, match=message):
        SHIFTS[name](shifted("same", 3)[0], **settings)


def test_what_the_estimates_cannot_use_is_said():
    domains, _ = shifted("same", 3)
    with pytest.raises(GraftError, match=r"kliep: got width=-1\.0, expected a number above 0"):
        kliep_weights(domains.source, domains.target, width=-1.0)
    with pytest.raises(GraftError, match="density_ratio: 4 source and 150 target items, expected at least 5"):
        density_ratio_weights(domains.source[:4], domains.target)
    with pytest.raises(GraftError, match=r"bbse_shares: held_out has shape \(4, 3\), labels \(5,\), target_outputs \(2, 3\)"):
        bbse_shares(np.ones((4, 3)), np.zeros(5, int), np.ones((2, 3)))
    with pytest.raises(GraftError, match=r"target_outputs have shape \(0, 3\), prior \(3,\) with sum 1"):
        saerens_shares(np.ones((0, 3)), np.ones(3) / 3)
    with pytest.raises(GraftError, match="method bbse: the source has no held-out outputs, expected"):
        SHIFTS["bbse"](replace(domains, held_out=None))


def test_targets_that_give_nothing_to_learn_from_are_refused():
    domains, _ = shifted("same", 3)
    one = replace(domains, target=domains.target[:1])
    with pytest.raises(GraftError, match="standardise: the target has 1 item, expected at least 2"):
        SHIFTS["standardise"](one)
    with pytest.raises(GraftError, match="standardise: source domain 4 has 1 item"):
        SHIFTS["standardise"](replace(domains, domains=np.r_[4, np.zeros(199, int)]))
    with pytest.raises(GraftError, match=r"shot_labels: all 1 target items are nearest to class \d, expected at least 2 classes"):
        SHIFTS["shot_labels"](one)
    blind = LinearHead(np.zeros(8), np.ones(8), np.zeros((8, 3)), np.zeros(3), "softmax", "ridge", 1.0)
    with pytest.raises(GraftError, match="t3a: every weight of the head is 0"):
        SHIFTS["t3a"](replace(domains, head=blind))
