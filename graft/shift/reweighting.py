"""Source items weighed to look like the target together: kernel mean matching, KLIEP, a classifier of domains. No labels are seen."""

from typing import cast

import numpy as np
from scipy.spatial.distance import cdist, pdist
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from graft import budget
from graft.errors import GraftError
from graft.scatter import weighted_axes
from graft.shift.base import Adapted, Domains, method, unmoved

# Axes that are kept: among all 1,280 of an image network's features distances between items hardly differ.
_AXES = 50
# Landmarks of the kernel between items; with no more items than these it is exact.
_LANDMARKS = 1000
# Items by which the typical distance is told.
_MEASURED = 1000
_FOLDS = 5
# Target items that are enough to choose a width by.
_ENOUGH = 2000
# No item weighs less than this share of the mean: a class whose items all weighed nothing would never be predicted.
_LEAST = 0.01


@method(
    "Huang et al. 2006, Correcting sample selection bias by unlabeled data, NeurIPS, eq. 12",
    tasks=("classification", "regression"),
    grid=({}, {"bound": 3.0}, {"width": 0.5}, {"width": 2.0}),
)
def kmm(domains: Domains, bound: float = 10.0, width: float = 1.0) -> Adapted:
    """The source weighed so that its mean in a kernel's space meets the target's, and the head fitted again.

    bound, width: see `kmm_weights`. Source: Huang et al. 2006. Differs: no item weighs less than a hundredth of the mean.
    """
    return _fitted(domains, kmm_weights(domains.source, domains.target, bound=bound, width=width, seed=domains.seed))


@method(
    "Sugiyama et al. 2007, Direct importance estimation with model selection, NeurIPS, eq. 6",
    tasks=("classification", "regression"),
    grid=({}, {"flatten": 0.5}),
)
def kliep(domains: Domains, flatten: float = 1.0) -> Adapted:
    """The source weighed by the ratio of densities under which the target is likeliest, and the head fitted again.

    flatten: power to which the weights are raised, in [0, 1]; 0 leaves them alike (Shimodaira 2000).
    Source: Sugiyama et al. 2007, see `kliep_weights`. Differs: no item weighs less than a hundredth of the mean.
    """
    return _fitted(domains, kliep_weights(domains.source, domains.target, seed=domains.seed) ** flatten)


@method(
    "Bickel et al. 2009, Discriminative learning under covariate shift, JMLR 10, section 4",
    tasks=("classification", "regression"),
    grid=({}, {"flatten": 0.5}, {"clip": 3.0}, {"flatten": 0.25}),
)
def density_ratio(domains: Domains, flatten: float = 1.0, clip: float = 20.0) -> Adapted:
    """The source weighed by how much a classifier takes each item for one of the target, and the head fitted again.

    flatten: power to which the ratio is raised, in [0, 1]. clip: see `density_ratio_weights`.
    Source: Bickel et al. 2009. Differs: no item weighs less than a hundredth of the mean.
    """
    return _fitted(domains, density_ratio_weights(domains.source, domains.target, clip=clip, seed=domains.seed) ** flatten)


def _fitted(domains: Domains, weights: np.ndarray) -> Adapted:
    weights = np.maximum(weights / weights.mean(), _LEAST)
    weights = weights / weights.mean()
    return unmoved(domains, domains.fit(domains.source, domains.labels, weights), weights)


def kmm_weights(source: np.ndarray, target: np.ndarray, *, bound: float = 10.0, width: float = 1.0, seed: int = 0) -> np.ndarray:
    """(n,) weights of the source's items, in [0, bound] with mean 1, under which the mean embeddings of both sides are closest.

    source: (n, d), target: (m, d). bound: above 1. width: of the Gaussian kernel, in medians of the distances between items.
    seed: of the landmarks. Raises GraftError for a bound or width out of range.
    Minimises w' K w / 2 - n / m * sum_ij w_i k(x_i, y_j); Huang et al. 2006, eq. 12.
    Differs: the mean is 1 exactly, where theirs is within an epsilon; solved by an accelerated projected gradient (Beck & Teboulle 2009,
    doi:10.1137/080716542) on the 50 widest axes; above 1,000 items on both sides together K is Nystroem's of 1,000 of them, so that
    cost grows with n and not with its square.
    """
    if not bound > 1 or not width > 0:
        raise GraftError(f"kmm: got bound={bound}, width={width}, expected a bound above 1, as the mean weight is 1, and a width above 0.")
    source, target, typical = _along_axes(source, target, seed)
    n, both = len(source), np.concatenate([source, target])
    rng = np.random.default_rng(seed)
    landmarks = both if len(both) <= _LANDMARKS else both[np.sort(rng.choice(len(both), _LANDMARKS, replace=False))]
    variances, vectors = np.linalg.eigh(_kernel(landmarks, landmarks, width * typical))
    kept = variances > 1e-10 * variances[-1]
    root = vectors[:, kept] / np.sqrt(variances[kept])
    rows = (_kernel(source, landmarks, width * typical) @ root).astype(np.float32)
    centre = (_kernel(target, landmarks, width * typical) @ root).mean(axis=0).astype(np.float32)
    transposed, pull = np.ascontiguousarray(rows.T), rows @ centre
    # The steepest bend, by a norm that is at most a little above it: a step of its inverse never overshoots.
    bend = float(np.linalg.eigvalsh((transposed @ rows).astype(float))[-1]) * 1.01 / n

    weights = ahead = np.ones(n)
    momentum = 1.0
    for _ in range(2000):
        budget.check("kernel mean matching")
        slope = rows @ (transposed @ ahead.astype(np.float32)) / n - pull
        moved = _onto_bounded_mean(ahead - slope / bend, bound)
        change = moved - weights
        # A step uphill ends the run-up: O'Donoghue & Candes 2015.
        restart = float(slope @ change) > 0
        following = 1.0 if restart else (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (0.0 if restart else (momentum - 1) / following) * change
        weights, momentum = moved, following
        if float(np.abs(change).max()) < 3e-4:
            break
    return weights


def _onto_bounded_mean(wanted: np.ndarray, bound: float) -> np.ndarray:
    """The closest weights in [0, bound] with mean 1: all moved by one number, then clipped; the number is found by halving."""
    low, high = float(wanted.min()) - bound, float(wanted.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(wanted - middle, 0, bound).mean() > 1 else (low, middle)
    return np.clip(wanted - (low + high) / 2, 0, bound)


def kliep_weights(source: np.ndarray, target: np.ndarray, *, width: float | None = None, n_centres: int = 100, seed: int = 0) -> np.ndarray:
    """(n,) weights of the source's items with mean 1: the ratio of densities, a sum of kernels, under which the target is likeliest.

    source: (n, d), target: (m, d). width: of the Gaussian kernels, in medians of the distances between items; None: the one of 1/4, 1/2, 1
    and 2 under which held-out target items are likeliest (their section 3.2). n_centres: target items that kernels stand on.
    seed: of the centres and folds. Raises GraftError for a width that is not above 0.
    Maximises the mean of log w over the target where the mean of w over the source is 1; Sugiyama et al. 2007, eq. 6.
    Differs: on the 50 widest axes; solved by EM instead of projected gradients, as this is a mixture of fixed kernels of which the
    shares are asked for, to the same optimum.
    """
    if width is not None and not width > 0:
        raise GraftError(f"kliep: got width={width}, expected a number above 0, or None to choose one by held-out likelihood.")
    source, target, typical = _along_axes(source, target, seed)
    rng = np.random.default_rng(seed)
    centres = target[np.sort(rng.choice(len(target), min(n_centres, len(target)), replace=False))]
    widths = [width] if width is not None else [0.25, 0.5, 1.0, 2.0] if len(target) >= 2 * _FOLDS else [1.0]
    some = rng.permutation(len(target))[:_ENOUGH]
    fold = np.arange(len(some)) % _FOLDS
    best = (-np.inf, np.ones(len(source)))
    for each in widths:
        on_source, on_target = (_kernel(rows, centres, each * typical) for rows in (source, target))
        # Each kernel in the unit in which its mean over the source is 1; one that no source item is near could only say "infinite".
        reach = np.maximum(on_source.mean(axis=0), 1e-12)
        on_source, on_target = on_source / reach, on_target / reach
        likelihood = 0.0
        if len(widths) > 1:
            for held in range(_FOLDS):
                shares = _mixture_shares(on_target[some[fold != held]])
                likelihood += float(np.log(on_target[some[fold == held]] @ shares + 1e-300).sum())
        if likelihood > best[0]:
            best = (likelihood, on_source @ _mixture_shares(on_target))
    return best[1] / best[1].mean()


def _mixture_shares(densities: np.ndarray) -> np.ndarray:
    """(m, k) densities of m items under k components -> the shares (k,) under which the items are likeliest; EM."""
    shares = np.full(densities.shape[1], 1 / densities.shape[1])
    for _ in range(1000):
        budget.check("the density ratio")
        new = shares * (densities / (densities @ shares + 1e-300)[:, None]).mean(axis=0)
        new /= new.sum()
        done = float(np.abs(new - shares).max()) < 1e-5
        shares = new
        if done:
            break
    return shares


def density_ratio_weights(source: np.ndarray, target: np.ndarray, *, clip: float = 20.0, seed: int = 0) -> np.ndarray:
    """(n,) weights of the source's items with mean 1: the odds of being a target item, by a classifier that did not learn from the item.

    source: (n, d), target: (m, d). clip: above 1; no weight is more than clip times the median weight, or less than 1 / clip of it.
    seed: of the five folds. Raises GraftError for a clip out of range, or fewer than five items on a side.
    p(target | x) / p(source | x) * n / m; Bickel et al. 2009, section 4. Differs: logistic regression on the 50 widest axes, of the
    penalty with the least held-out loss, and each item's odds from the folds without it. The log of the ratio is linear, so that a
    difference of spreads is not seen.
    """
    if not clip > 1:
        raise GraftError(f"density_ratio: got clip={clip}, expected a number above 1.")
    n, m = len(source), len(target)
    if min(n, m) < _FOLDS:
        raise GraftError(f"density_ratio: {n} source and {m} target items, expected at least {_FOLDS} on each side to hold some out.")
    source, target, _ = _along_axes(source, target, seed)
    rows = StandardScaler().fit_transform(np.concatenate([source, target]))
    is_target = np.arange(n + m) >= n
    rng = np.random.default_rng(seed)
    fold = np.concatenate([rng.permutation(n) % _FOLDS, rng.permutation(m) % _FOLDS])
    best = (np.inf, np.zeros(n))
    for inverse_penalty in (0.001, 0.03, 1.0):
        odds = np.empty(n + m)
        for held in range(_FOLDS):
            budget.check("the density ratio")
            classifier = LogisticRegression(C=inverse_penalty, max_iter=300)
            classifier.fit(rows[fold != held], is_target[fold != held])
            odds[fold == held] = classifier.decision_function(rows[fold == held])
        loss = float(np.logaddexp(0, np.where(is_target, -odds, odds)).mean())
        best = min(best, (loss, odds[:n]), key=lambda tried: tried[0])
    # The factor n / m goes with the median.
    level = best[1] - np.median(best[1])
    weights = np.exp(np.clip(level, -np.log(clip), np.log(clip)))
    return cast(np.ndarray, weights / weights.mean())


def _along_axes(source: np.ndarray, target: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Both sides along the widest axes of their union, in which they count alike, float64; and the median distance between items."""
    n, m = len(source), len(target)
    both = np.concatenate([source, target]).astype(np.float32)
    if not np.ptp(both, axis=0).any():
        raise GraftError(f"all {n} source and {m} target items have the same features, expected features that vary. Is the backbone dead?")
    turned = weighted_axes(both, np.repeat([0.5 / n, 0.5 / m], [n, m]))[2][:, :_AXES].astype(float)
    rng = np.random.default_rng(seed)
    some = turned if n + m <= _MEASURED else turned[rng.choice(n + m, _MEASURED, replace=False)]
    # Where most items are the same the median is 0, and any distance tells more.
    typical = float(np.median(pdist(some))) or float(pdist(some).mean()) or 1.0
    return turned[:n], turned[n:], typical


def _kernel(rows: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """exp(-distance^2 / (2 width^2)), (k, l)."""
    return np.exp(cdist(rows, centres, "sqeuclidean") / (-2 * width**2))
