"""Scores of how alike two tables of similarities are, one by features and one by labels: PARC, LFC. numpy and SciPy only."""

import numpy as np
from scipy.stats import rankdata

from graft.scatter import one_thread
from graft.transferability.base import REGRESSION_SCORES, SCORES, checked_classes, checked_numbers, class_sums, draw_items

# Two million pairs, whose ranking takes most of the time. The paper has 500 items.
_PARC_ITEMS = 2000


@SCORES.add("Bolya et al. 2021, arXiv:2111.06977")
@one_thread
def parc(features: np.ndarray, labels: np.ndarray) -> float:
    """Rank correlation, over pairs of items, of how unlike their features are with whether their classes differ (PARC).

    features: (n, d) float, each standardised; unlike: 1 - the correlation of two items' features. labels: (n,) int.
    Returns -1 to 1, higher is better. Raises GraftError as all scores do: see the room.
    Differs: not times 100, and on at most 2,000 items, drawn by class. Items whose features do not vary correlate with none.
    """
    features, labels = checked_classes("parc", features, labels)
    features, labels = draw_items(features, labels, _PARC_ITEMS)
    deviation = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    features -= features.mean(axis=1, keepdims=True)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(length > 0, length, 1.0)
    first, second = np.triu_indices(len(labels), 1)
    unlike = 1 - (features @ features.T)[first, second]
    return _correlation(rankdata(np.round(unlike, 12)), (labels[first] != labels[second]).astype(float))


@SCORES.add("Deshpande et al. 2021, arXiv:2102.00084")
@one_thread
def lfc(features: np.ndarray, labels: np.ndarray) -> float:
    """Correlation, over pairs of items, of their features' product with whether they share a class (label-feature correlation).

    features: (n, d) float, not centred. labels: (n,) int. Returns -1 to 1, higher is better.
    Raises GraftError as all scores do: see the room. In closed form: no table of pairs is made.
    """
    features, labels = checked_classes("lfc", features, labels)
    sums, counts = class_sums(features, labels)
    # 1 for one class and -1 for another, as in the paper, correlates as 1 and 0 do.
    return _table_correlation(features, float((sums**2).sum()), float((counts**2).sum()), float((counts**2).sum()))


@REGRESSION_SCORES.add("Deshpande et al. 2021, arXiv:2102.00084", name="lfc")
@one_thread
def lfc_regression(features: np.ndarray, labels: np.ndarray) -> float:
    """Correlation, over pairs of items, of their features' product with the product of their labels (label-feature correlation).

    features: (n, d) float, not centred. labels: (n,) float. Returns -1 to 1, higher is better.
    Raises GraftError as all scores do: see the room. Differs: labels are centred, so that their unit's zero does not count.
    """
    features, labels = checked_numbers("lfc", features, labels)
    labels = labels - labels.mean()
    return _table_correlation(features, float(((labels @ features) ** 2).sum()), float(labels @ labels) ** 2, 0.0)


def _table_correlation(features: np.ndarray, product: float, squares: float, total: float) -> float:
    """Correlation over all n x n pairs of the features' products with a table of labels.

    product: sum over pairs of both. squares, total: sum of the labels' table squared, and as it is.
    """
    pairs = len(features) ** 2
    wide = len(features) < features.shape[1]
    own_squares = float(((features @ features.T if wide else features.T @ features) ** 2).sum())
    own_total = float((features.sum(axis=0) ** 2).sum())
    spread = (own_squares - own_total**2 / pairs) * (squares - total**2 / pairs)
    # Items at one distance from each other, all pairs alike: nothing to correlate with.
    if spread <= 1e-20 * own_squares * squares:
        return 0.0
    return (product - own_total * total / pairs) / float(np.sqrt(spread))


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(), right - right.mean()
    spread = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / spread if spread > 0 else 0.0
