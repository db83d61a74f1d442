"""Distances between a source's data and a target's: MMD, Frechet, proxy A-distance, CKA, OTDD. numpy, SciPy and scikit-learn."""

import numpy as np
from scipy.linalg import eigh, svdvals
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

from graft.data.split import folds
from graft.errors import GraftError
from graft.scatter import one_thread, principal_axes
from graft.transferability.base import (
    DISTANCES,
    MOST_ITEMS,
    at_most_items,
    checked_features,
    checked_pair,
    class_sums,
    draw_items,
)

# So many items of each side, drawn, where all pairs are needed.
_MOST_ITEMS = 2000
# An assignment takes the cube of the items.
_OTDD_ITEMS = 1000
_AXES = 128


@DISTANCES.add("Gretton et al. 2012, JMLR 13")
@one_thread
def mmd(source: np.ndarray, target: np.ndarray) -> float:
    """Distance of the two means in the space of a Gaussian kernel (maximum mean discrepancy).

    source: (n, d) float. target: (m, d) float. The kernel's width is the median distance between two items of both sides.
    Returns 0 to sqrt(2), 0 for the same items. On at most 2,000 items a side. Raises GraftError as all distances do: see the room.
    """
    source, target = (_drawn(side, _MOST_ITEMS) for side in checked_pair("mmd", source, target))
    both = np.concatenate([source, target])
    squares = cdist(both, both, "sqeuclidean")
    kernel = np.exp(-squares / (2 * float(np.median(squares[np.triu_indices(len(both), 1)])) or 1.0))
    n = len(source)
    squared = kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
    return float(np.sqrt(max(squared, 0.0)))


@DISTANCES.add("Fréchet 1957; of features: Heusel et al. 2017, arXiv:1706.08500")
@one_thread
def frechet(source: np.ndarray, target: np.ndarray) -> float:
    """Squared Wasserstein distance of two Gaussians with the sides' means and covariances (Fréchet distance, as FID has it).

    source: (n, d) float. target: (m, d) float. Returns at least 0, in the features' unit squared; small samples are too far apart, so that
    only distances of equal n and m are comparable. Raises GraftError as all distances do: see the room. Where the source's mean and
    covariance are all there is: `frechet_to_statistics`.
    """
    source, target = (_few_enough(side) for side in checked_pair("frechet", source, target))
    gap = source.mean(axis=0) - target.mean(axis=0)
    return float(gap @ gap) + _bures(_root(source), _root(target))


@one_thread
def frechet_to_statistics(mean: np.ndarray, covariance: np.ndarray, target: np.ndarray) -> float:
    """`frechet` to a source of which only statistics are at hand, as they are published for FID.

    mean: (d,) float. covariance: (d, d) float, of the source's features over n. target: (m, d) float. Returns as `frechet`.
    Raises GraftError for statistics of another shape, not finite, or no covariance (not symmetric, a variance below 0 along an axis), and
    for a target as all distances do: see the room.
    """
    target = _few_enough(checked_features("frechet", target, kind="distance", side="target features"))
    mean, covariance, d = np.asarray(mean), np.asarray(covariance), target.shape[1]
    if mean.shape != (d,) or covariance.shape != (d, d):
        raise GraftError(
            f"distance frechet: mean has shape {mean.shape} and covariance {covariance.shape}, expected ({d},) and ({d}, {d}) as target "
            f"has {d} features. Take the statistics of the backbone that target was run through."
        )
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise GraftError("distance frechet: mean or covariance is not finite, expected numbers.")
    squares, axes = eigh(covariance)
    skew, largest = float(np.abs(covariance - covariance.T).max()), float(np.abs(squares).max())
    # Statistics that were kept as float32 are off by 1e-7 of the largest.
    if max(skew, -float(squares[0])) > 1e-5 * largest:
        raise GraftError(
            f"distance frechet: covariance is off its transpose by up to {skew:.3g} and has variances of "
            f"{squares[0]:.3g} to {squares[-1]:.3g} along its axes, expected a symmetric matrix and none below 0."
        )
    gap = mean - target.mean(axis=0)
    return float(gap @ gap) + _bures(axes * np.sqrt(np.maximum(squares, 0.0)), _root(target))


@DISTANCES.add("Ben-David et al. 2006, NeurIPS 19")
@one_thread
def proxy_a(source: np.ndarray, target: np.ndarray) -> float:
    """How well a linear classifier tells the sides apart: 2 (1 - 2 error) on items it has not seen (proxy A-distance).

    source: (n, d) float. target: (m, d) float. Returns 0 (cannot tell) to 2. Both sides weigh alike, whatever n and m.
    Logistic regression, C = 1, in five folds, on at most 2,000 items a side and 128 principal axes of both.
    Raises GraftError as all distances do: see the room.
    """
    source, target = (_drawn(side, _MOST_ITEMS) for side in checked_pair("proxy_a", source, target))
    both, side = np.concatenate([source, target]), np.repeat([0, 1], [len(source), len(target)])
    both -= both.mean(axis=0)
    both /= np.sqrt((both**2).mean()) or 1.0
    both = both @ principal_axes(both, at_most=_AXES)[1]
    wrong = np.zeros(len(side))
    # Four items a side at least: no fold leaves a side empty.
    for train, test in folds(side, "classification", min(5, len(source), len(target)), seed=0):
        told = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-3).fit(both[train], side[train])
        wrong[test] = told.predict(both[test]) != side[test]
    error = (wrong[side == 0].mean() + wrong[side == 1].mean()) / 2
    return float(max(0.0, 2 * (1 - 2 * error)))


@DISTANCES.add("Kornblith et al. 2019, arXiv:1905.00414")
@one_thread
def cka(source: np.ndarray, target: np.ndarray) -> float:
    """How differently two backbones see the same items: 1 - linear centred kernel alignment.

    source: (n, d) float. target: (n, e) float, the same n items in the same order. Returns 0 (the same up to rotation and scale) to 1.
    Raises GraftError for another number of items, and for features as all distances do: see the room.
    """
    source = checked_features("cka", source, kind="distance", side="source features")
    target = checked_features("cka", target, kind="distance", side="target features")
    if len(source) != len(target):
        raise GraftError(
            f"distance cka: source features of {len(source)} items and target features of {len(target)}, expected the same items. "
            "Run both backbones over one data set; for two data sets take mmd, frechet or proxy_a."
        )
    source, target = source - source.mean(axis=0), target - target.mean(axis=0)
    if len(source) <= min(MOST_ITEMS, max(source.shape[1], target.shape[1])):
        left, right = source @ source.T, target @ target.T
        product = (left * right).sum()
    else:
        left, right = source.T @ source, target.T @ target
        product = ((source.T @ target) ** 2).sum()
    return float(max(0.0, 1 - product / (np.linalg.norm(left) * np.linalg.norm(right))))


@DISTANCES.add("Alvarez-Melis & Fusi 2020, arXiv:2002.02923")
@one_thread
def otdd(source: np.ndarray, target: np.ndarray, *, source_labels: np.ndarray, target_labels: np.ndarray) -> float:
    """Least mean cost of turning one labelled data set into the other, where classes lie as far apart as their items do (OTDD).

    source: (n, d) float. target: (m, d) float. source_labels: (n,) int. target_labels: (m,) int; the two sets of classes need not agree.
    A pair costs its squared distance and the squared Wasserstein distance of its classes, each taken as a Gaussian.
    Returns the root of the mean cost, at least 0, in the features' unit. Raises GraftError for labels of another number than items, and
    as all distances do: see the room.
    Differs: on as many items of each side, at most 1,000, drawn by class; for those the transport is exact, where the authors blur it.
    """
    source, target = checked_pair("otdd", source, target)
    own, other = _labels_of("source", source, source_labels), _labels_of("target", target, target_labels)
    size = min(len(source), len(target), _OTDD_ITEMS)
    (source, own), (target, other) = draw_items(source, own, size), draw_items(target, other, size)
    own, other = np.unique(own, return_inverse=True)[1], np.unique(other, return_inverse=True)[1]
    cost = cdist(source, target, "sqeuclidean") + _class_distances(source, own, target, other)[own][:, other]
    pairs = linear_sum_assignment(cost)
    return float(np.sqrt(cost[pairs].mean()))


def _labels_of(side: str, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (len(features),) or not np.issubdtype(labels.dtype, np.integer):
        raise GraftError(f"distance otdd: {side}_labels have shape {labels.shape} of {labels.dtype}, expected ({len(features)},) integers.")
    return labels


def _class_distances(source: np.ndarray, own: np.ndarray, target: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(c, k) squared Wasserstein distances of the Gaussians of source's classes and target's."""
    (sums, counts), (other_sums, other_counts) = class_sums(source, own), class_sums(target, other)
    gaps = cdist(sums / counts[:, None], other_sums / other_counts[:, None], "sqeuclidean")
    roots = [_root(source[own == label]) for label in range(len(counts))]
    other_roots = [_root(target[other == label]) for label in range(len(other_counts))]
    return gaps + np.array([[_bures(root, other_root) for other_root in other_roots] for root in roots])


def _root(features: np.ndarray) -> np.ndarray:
    """(d, r), r at most n and d, whose product with itself is the features' covariance (over n)."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features))
    if len(features) <= features.shape[1] or not centred.any():
        return centred.T
    squares, axes = principal_axes(centred)
    return axes * np.sqrt(squares)


def _bures(root: np.ndarray, other: np.ndarray) -> float:
    """tr(A + B - 2 (A^1/2 B A^1/2)^1/2) from roots of A and B: the last trace is the sum of singular values of their product."""
    trace = float((root**2).sum() + (other**2).sum())
    return max(0.0, trace - 2 * float(svdvals(root.T @ other).sum()))


def _few_enough(features: np.ndarray) -> np.ndarray:
    return at_most_items("frechet", features, np.zeros(len(features), int), "classification", "distance")[0]


def _drawn(features: np.ndarray, at_most: int) -> np.ndarray:
    return draw_items(features, np.zeros(len(features), int), at_most)[0]
