"""Scores from how sure a linear discriminant is of the items it was fitted on: SFDA, ETran. numpy and SciPy only."""

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import logsumexp, softmax

from graft.scatter import one_thread, principal_axes
from graft.transferability.base import LABEL_FREE_SCORES, SCORES, checked_classes, checked_features, class_sums

# The authors' least shrinkage, and how fast it falls with the largest variance within classes.
_LEAST_SHRINKAGE = 1e-10
_FALL = 5.0


@SCORES.add("Shao et al. 2022, arXiv:2207.03036")
@one_thread
def sfda(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean probability that a regularised discriminant gives the right class, once unsure items were drawn towards the other classes.

    features: (n, d) float; the regularisation hangs on their scale, as in the paper. labels: (n,) int.
    Returns 0 to 1, higher is better. Raises GraftError as all scores do: see the room.
    Differs: the largest variance is exact, where the authors take three steps of power iteration.
    """
    features, labels = checked_classes("sfda", features, labels)
    features, width = _in_the_span(features)
    probabilities, shrinkage = _discriminant(features, labels, width)
    sums, counts = class_sums(features, labels)
    means = sums / counts[:, None]
    others = (means.sum(axis=0) - means) / (len(counts) - 1)
    sure = softmax(probabilities, axis=1)[np.arange(len(labels)), labels][:, None]
    probabilities, _ = _discriminant(sure * features + (1 - sure) * others[labels], labels, width, shrinkage)
    return float(probabilities[np.arange(len(labels)), labels].mean())


@SCORES.add("Gholami et al. 2023, arXiv:2308.02027")
@one_thread
def etran_lda(features: np.ndarray, labels: np.ndarray) -> float:
    """ETran's classification score: mean probability that a regularised discriminant gives the right class.

    features: (n, d) float. labels: (n,) int. Returns 0 to 1, higher is better. Raises GraftError as all scores do: see the room.
    Differs: the authors' code takes orthonormal eigenvectors of a matrix that is not symmetric, which then cancel and leave the distance to
    the nearest mean; ours is the discriminant that the paper describes.
    """
    return _mean_probability(*checked_classes("etran_lda", features, labels))


@LABEL_FREE_SCORES.add("Gholami et al. 2023, arXiv:2308.02027")
@one_thread
def energy(features: np.ndarray) -> float:
    """ETran's energy score: mean of log sum exp of an item's features, high where items look like what the backbone was trained on.

    features: (n, d) float, best those before the old classifier. Returns any number, higher is better; it grows with d and with the
    features' scale, so that it compares data sets on one backbone rather than backbones.
    Raises GraftError as all scores do: see the room. Differs: over all items; the authors' code has the lowest 0.5 %.
    """
    return float(logsumexp(checked_features("energy", features), axis=1).mean())


@SCORES.add("Gholami et al. 2023, arXiv:2308.02027")
@one_thread
def etran(features: np.ndarray, labels: np.ndarray) -> float:
    """Sum of ETran's classification and energy scores: see `etran_lda` and `energy`.

    features: (n, d) float. labels: (n,) int. Returns any number, higher is better. Raises GraftError as all scores do: see the room.
    Differs: where several backbones are compared, the authors' code scales each part to 0 to 1 over all of them and weighs them 0.85 to
    0.15; one backbone alone has only the sum, in which energy weighs most.
    """
    features, labels = checked_classes("etran", features, labels)
    return _mean_probability(features, labels) + float(logsumexp(features, axis=1).mean())


def _mean_probability(features: np.ndarray, labels: np.ndarray) -> float:
    """Of the right class, by a regularised discriminant."""
    features, width = _in_the_span(features)
    return float(_discriminant(features, labels, width)[0][np.arange(len(labels)), labels].mean())


def _in_the_span(features: np.ndarray) -> tuple[np.ndarray, int]:
    """Features centred, for n < d along the axes on which items lie at all, and d. A discriminant sees no difference."""
    centred = features - features.mean(axis=0)
    return (centred @ principal_axes(centred)[1] if len(features) < features.shape[1] else centred), features.shape[1]


def _discriminant(features: np.ndarray, labels: np.ndarray, width: int, shrinkage: float | None = None) -> tuple[np.ndarray, float]:
    """Probabilities (n, c) of a discriminant fitted on these items, and its shrinkage.

    width: d of the features as they came. shrinkage: exp(-5 x largest variance within classes) unless given.
    """
    sums, counts = class_sums(features, labels)
    means = sums / counts[:, None]
    # The scatter within is that of all less that between: the centred copy of all items is spared.
    within = (features.T @ features - (means.T * counts) @ means) / len(features)
    mean_variance = max(float(np.trace(within)) / width, np.finfo(float).tiny)
    if shrinkage is None:
        last = len(within) - 1
        largest = float(eigh(within, eigvals_only=True, subset_by_index=(last, last))[0])
        shrinkage = max(float(np.exp(-_FALL * largest)), _LEAST_SHRINKAGE)
    within *= 1 - shrinkage
    # Rounding of the difference above is of the order of 1e-16 of the largest variance.
    within.flat[:: len(within) + 1] += shrinkage * mean_variance + 1e-13 * max(float(within.diagonal().max()), np.finfo(float).tiny)
    slopes = cho_solve(cho_factor(within), means.T)
    logits = features @ slopes - 0.5 * (means.T * slopes).sum(axis=0) + np.log(counts / len(labels))
    return softmax(logits, axis=1), shrinkage
