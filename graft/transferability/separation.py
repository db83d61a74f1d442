"""Scores of how far apart the classes' means lie for their spread: H-score, its shrinkage form, GBC. numpy only."""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from graft.scatter import one_thread, principal_axes
from graft.transferability.base import SCORES, checked_classes, class_sums

_GBC_AXES = 64
# The authors' floor of a class's variance along an axis.
_LEAST_VARIANCE = 1e-4


@SCORES.add("Bao et al. 2019, doi:10.1109/ICIP.2019.8803726")
@one_thread
def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """Variance between classes over all variance, summed over whitened axes: tr(cov(f)^-1 cov(E[f | y])).

    features: (n, d) float. labels: (n,) int. Returns 0 to min(d, c - 1), higher is better; where n <= d any features reach c - 1: there
    take `h_score_shrunk`. Raises GraftError as all scores do: see the room.
    """
    features, labels = checked_classes("h_score", features, labels)
    features -= features.mean(axis=0)
    squares, axes = principal_axes(features)
    sums, counts = class_sums(features, labels)
    return float(((sums @ axes) ** 2 / squares / counts[:, None]).sum())


@SCORES.add("Ibrahim et al. 2022, arXiv:2110.06893")
@one_thread
def h_score_shrunk(features: np.ndarray, labels: np.ndarray) -> float:
    """H-score with the covariance shrunk towards a round one, which holds where items are few: (1 - a) tr(cov_a(f)^-1 cov(E[f | y])).

    features: (n, d) float. labels: (n,) int. a: from the data, Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4.
    Returns 0 to min(d, c - 1), higher is better. Raises GraftError as all scores do: see the room.
    """
    features, labels = checked_classes("h_score_shrunk", features, labels)
    features -= features.mean(axis=0)
    n, d = features.shape
    sums, counts = class_sums(features, labels)
    if n < d:
        # The rest of the space has no class mean in it: only its part of the mean variance counts.
        _, axes = principal_axes(features)
        features, sums = features @ axes, sums @ axes
    covariance = features.T @ features / n
    mean_variance = float(np.trace(covariance)) / d
    shrinkage = _ledoit_wolf(features, covariance, mean_variance, d)
    covariance *= 1 - shrinkage
    covariance.flat[:: len(covariance) + 1] += shrinkage * mean_variance
    if shrinkage == 0:
        return h_score(features, labels)
    between = (sums * cho_solve(cho_factor(covariance), sums.T).T).sum(axis=1) / counts / n
    return float((1 - shrinkage) * between.sum())


def _ledoit_wolf(centred: np.ndarray, covariance: np.ndarray, mean_variance: float, d: int) -> float:
    """Share 0 to 1 of the round covariance. d: features, of which centred may hold only the axes that vary."""
    n = len(centred)
    squared = float((covariance**2).sum())
    noise = (float(((centred**2).sum(axis=1) ** 2).sum()) / n - squared) / n
    distance = squared - d * mean_variance**2
    # Differs in nothing from the paper where the covariance is round already: it is then its own target.
    return min(1.0, max(0.0, noise / distance)) if distance > 0 else 1.0


@SCORES.add("Pándy et al. 2022, arXiv:2111.12780")
@one_thread
def gbc(features: np.ndarray, labels: np.ndarray) -> float:
    """Minus the overlap of every two classes, each taken as a round Gaussian (Gaussian Bhattacharyya coefficient).

    features: (n, d) float, turned to their first 64 principal axes. labels: (n,) int.
    Returns -c (c - 1) to 0, higher is better. Raises GraftError as all scores do: see the room.
    Differs: the authors' code counts the term of unequal spreads once, not once an axis; ours is the paper's equation.
    """
    features, labels = checked_classes("gbc", features, labels)
    features -= features.mean(axis=0)
    features = features @ principal_axes(features, at_most=_GBC_AXES)[1]
    sums, counts = class_sums(features, labels)
    means = sums / counts[:, None]
    by_axis = class_sums((features - means[labels]) ** 2, labels)[0] / counts[:, None]
    variances = np.maximum(by_axis, _LEAST_VARIANCE).mean(axis=1)
    middle = (variances[:, None] + variances) / 2
    gaps = ((means[:, None] - means) ** 2).sum(axis=2)
    unequal = np.log(middle) - (np.log(variances)[:, None] + np.log(variances)) / 2
    overlap = np.exp(-gaps / middle / 8 - features.shape[1] * unequal / 2)
    return float(np.trace(overlap) - overlap.sum())
