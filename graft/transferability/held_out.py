"""Scores by a simple head on items it was not fitted on: ridge and LDA leave-one-out, logistic regression in folds. numpy, scikit-learn."""

import warnings

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from graft.data.split import folds
from graft.scatter import Scatter, one_thread, principal_axes, weighted_axes
from graft.transferability.base import (
    REGRESSION_SCORES,
    SCORES,
    checked_classes,
    checked_numbers,
    class_sums,
    draw_items,
)

_STRENGTHS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
# Each costs a product of all items with all class means.
_LDA_STRENGTHS = (1.0, 0.1, 0.01, 1e-3)
_FOLDS = 5
# What keeps logistic regression under two seconds.
_LOGISTIC_ITEMS = 2000
_LOGISTIC_AXES = 128


@SCORES.add("Hoerl & Kennard 1970, doi:10.1080/00401706.1970.10488634; left out: Cook & Weisberg 1982, equation 2.2.8")
@one_thread
def ridge_loo(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of items whose class ridge regression on the classes names when fitted on all others.

    features: (n, d) float, brought to mean variance 1. labels: (n,) int. Returns 0 to 1, higher is better.
    Of six penalties, 1e-4 to 10 of the mean variance, the one with the least squared error left out, which flatters a little.
    Raises GraftError as all scores do: see the room.
    """
    features, labels = checked_classes("ridge_loo", features, labels)
    left_out = _ridge_left_out(features, np.eye(labels.max() + 1)[labels])
    return float((left_out.argmax(axis=1) == labels).mean())


@REGRESSION_SCORES.add("Hoerl & Kennard 1970; left out: Allen 1974, doi:10.1080/00401706.1974.10489157", name="ridge_loo")
@one_thread
def ridge_loo_regression(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of the labels' variance that ridge regression explains for each item when fitted on all others (R squared left out).

    features: (n, d) float, brought to mean variance 1. labels: (n,) float. Returns at most 1, higher is better; 0: no better than the mean
    of the others. Penalty as in `ridge_loo`. Raises GraftError as all scores do: see the room.
    """
    features, labels = checked_numbers("ridge_loo", features, labels)
    labels = (labels - labels.mean()) / labels.std()
    left_out = _ridge_left_out(features, labels[:, None])[:, 0]
    by_mean = labels * len(labels) / (len(labels) - 1)
    return float(1 - ((labels - left_out) ** 2).sum() / (by_mean**2).sum())


def _ridge_left_out(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, k) predictions of each item by the others, at the strength that errs least."""
    turned, weights = _turned(features), np.ones(len(features))
    scatter = Scatter(turned, target.astype(np.float32), weights)
    tried = (scatter.each_left_out(strength) for strength in _STRENGTHS)
    return min(tried, key=lambda predicted: float(((target - predicted) ** 2).mean()))


@SCORES.add("Fisher 1936; left out as in Lachenbruch & Mickey 1968, doi:10.1080/00401706.1968.10490530")
@one_thread
def lda_loo(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of items whose class linear discriminant analysis names when fitted on all others.

    features: (n, d) float, brought to mean variance 1. labels: (n,) int. Returns 0 to 1, higher is better; the only item of a class is
    never right. The covariance within classes has 0.001 to 1 of the mean variance added along each axis: of four, what makes the labels
    likeliest left out, which flatters a little. Raises GraftError as all scores do: see the room.
    """
    features, labels = checked_classes("lda_loo", features, labels)
    turned = _turned(features).astype(np.float64)
    own = np.arange(len(labels))
    tried = (log_softmax(lda_left_out(turned, labels, strength), axis=1) for strength in _LDA_STRENGTHS)
    # A class that nothing is left of cannot be named at any strength: its items are not asked.
    likeliest = max(tried, key=lambda logs: float(np.maximum(logs[own, labels], -1e3).mean()))
    return float((likeliest.argmax(axis=1) == labels).mean())


def lda_left_out(turned: np.ndarray, labels: np.ndarray, strength: float) -> np.ndarray:
    """Discriminants (n, c) of each item by LDA fitted on all others, log probabilities but for a constant. -inf: none of the class is left.

    turned: (n, r) float64 along their principal axes, centred. strength: added to the covariance within, in the features' own unit.
    In closed form: the total scatter is diagonal along these axes, that within is less by c means, and one item less is a rank less
    (Woodbury, twice). n x c numbers, never n fits. The strength counts n times, also where an item is out.
    """
    n = len(labels)
    sums, counts = class_sums(turned, labels)
    means = sums / counts[:, None]
    squares = turned**2
    damped = 1 / (squares.sum(axis=0) + n * strength)
    # The inverse S of the scatter within, times the means; and u'Su, u'Sm, m'Sm without any r x r matrix.
    inner = np.linalg.inv(np.diag(1 / counts) - (means * damped) @ means.T)
    crossed = (means * damped) @ means.T
    item_by_mean = turned @ (means * damped).T
    solved = item_by_mean @ inner
    mean_mean = crossed + crossed @ inner @ crossed
    item_mean = item_by_mean + solved @ crossed
    item_item = squares @ damped + (solved * item_by_mean).sum(axis=1)
    own = np.arange(n)
    offset_square = item_item - 2 * item_mean[own, labels] + mean_mean[labels, labels]
    # (x - m_k)' S (x - m_k) for each class k, and (x - m_k)' S (x - m_own).
    distance = item_item[:, None] - 2 * item_mean + mean_mean.diagonal()
    slant = item_item[:, None] - item_mean - item_mean[own, labels][:, None] + mean_mean[labels]
    left = counts[labels] - 1.0
    weight = np.divide(counts[labels], left, out=np.zeros(n), where=left > 0)
    # With a class gone its item takes nothing from the scatter within: it was its own mean.
    gain = weight / np.maximum(1 - weight * offset_square, 1e-12)
    distance += gain[:, None] * slant**2
    distance[own, labels] = weight**2 * (offset_square + gain * offset_square**2)
    others = counts - (np.arange(len(counts)) == labels[:, None])
    logits = np.log(np.maximum(others, 1)) - 0.5 * (n - 1) * distance
    return np.where(others > 0, logits, -np.inf)


def _turned(features: np.ndarray) -> np.ndarray:
    """Items (n, r) float32 along their principal axes, brought to mean variance 1."""
    centred = features - features.mean(axis=0)
    centred /= np.sqrt((centred**2).mean())
    return weighted_axes(centred.astype(np.float32), np.ones(len(centred)))[2]


@SCORES.add("Alain & Bengio 2016, arXiv:1610.01644 (linear probe); Stone 1974, doi:10.1111/j.2517-6161.1974.tb00994.x (in folds)")
@one_thread
def logistic_cv(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of items whose class logistic regression names when fitted on the other four fifths.

    features: (n, d) float, brought to mean variance 1; C = 1. labels: (n,) int. Returns 0 to 1, higher is better.
    For speed on at most 2,000 items, drawn by class, and their first 128 principal axes, which are found without labels.
    Raises GraftError as all scores do: see the room.
    """
    features, labels = checked_classes("logistic_cv", features, labels)
    features, labels = draw_items(features, labels, _LOGISTIC_ITEMS)
    features -= features.mean(axis=0)
    features /= np.sqrt((features**2).mean())
    turned = features @ principal_axes(features, at_most=_LOGISTIC_AXES)[1]
    right = 0
    for train, test in folds(labels, "classification", min(_FOLDS, len(labels)), seed=0):
        right += int((_logistic(turned[train], labels[train], turned[test]) == labels[test]).sum())
    return right / len(labels)


def _logistic(features: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Classes of others by a logistic regression on the items; the one class where there is no second."""
    if (labels == labels[0]).all():
        return np.full(len(others), labels[0])
    with warnings.catch_warnings():
        # The last digits of the weights move no class, and time is what a score has least of.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Many classes of few items each may well be classes: what looks like numbers was refused before.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return LogisticRegression(max_iter=100, tol=1e-3).fit(features, labels).predict(others)
