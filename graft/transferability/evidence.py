"""LogME: the evidence that a Bayesian linear model on the features finds in the labels. numpy only."""

import numpy as np

from graft.scatter import one_thread, principal_axes
from graft.transferability.base import REGRESSION_SCORES, SCORES, checked_classes, checked_numbers, class_sums

# Keeps the noise above 0 where features explain labels wholly; the authors' value.
_TINY = 1e-5
_MOST_STEPS = 100
_SETTLED = 1e-6


@SCORES.add("You et al. 2021, arXiv:2110.10545")
@one_thread
def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """Log evidence an item of a Bayesian linear model from the features to each class's indicator, averaged over classes (LogME).

    features: (n, d) float, not centred. labels: (n,) int. Returns nats an item, unbounded, higher is better.
    Raises GraftError as all scores do: see the room.
    Differs: the authors' code of 2021 counts the prior of d weights though only n can be told apart where n < d; ours is the evidence of
    the model itself for any n. It steps until nothing changes, where theirs stops within 0.1 %.
    """
    features, labels = checked_classes("logme", features, labels)
    sums, counts = class_sums(features, labels)
    return _evidence(features, sums, counts.astype(float))


@REGRESSION_SCORES.add("You et al. 2021, arXiv:2110.10545", name="logme")
@one_thread
def logme_regression(features: np.ndarray, labels: np.ndarray) -> float:
    """Log evidence an item of a Bayesian linear model from the features to the labels (LogME).

    features: (n, d) float, not centred. labels: (n,) float. Returns nats an item, unbounded, higher is better; it hangs on the labels'
    unit, so that only scores on the same labels are comparable. Raises GraftError as all scores do: see the room. Differs: as `logme`.
    """
    features, labels = checked_numbers("logme", features, labels)
    return _evidence(features, (labels @ features)[None], np.array([labels @ labels]))


def _evidence(features: np.ndarray, pulls: np.ndarray, lengths: np.ndarray) -> float:
    """Mean evidence of k targets. pulls: (k, d) each target's products with the features. lengths: (k,) its sum of squares."""
    squares, axes = principal_axes(features)
    along = (pulls @ axes) ** 2 / squares
    return float(np.mean([maximum_evidence(squares, own, length, len(features)) for own, length in zip(along, lengths, strict=True)]))


def maximum_evidence(squares: np.ndarray, along: np.ndarray, length: float, n: int) -> float:
    """Log evidence an item at the prior precision alpha and noise precision beta that a fixed point comes to.

    squares: (r,) eigenvalues of X'X. along: (r,) squared products of the target with X's left singular vectors. length: the target's sum
    of squares. Source: the paper's fixed point, MacKay's update of alpha and beta.
    """
    alpha = beta = 1.0
    outside = max(length - float(along.sum()), 0.0)
    for _ in range(_MOST_STEPS):
        ratio = alpha / beta
        told = float((squares / (squares + ratio)).sum())
        weight, error = _weight_and_error(squares, along, outside, ratio)
        alpha, beta = told / (weight + _TINY), (n - told) / (error + _TINY)
        if abs(alpha / beta - ratio) <= _SETTLED * ratio:
            break
    weight, error = _weight_and_error(squares, along, outside, alpha / beta)
    spread = len(squares) * np.log(alpha) + n * np.log(beta) - np.log(alpha + beta * squares).sum()
    return float(spread - beta * error - alpha * weight - n * np.log(2 * np.pi)) / (2 * n)


def _weight_and_error(squares: np.ndarray, along: np.ndarray, outside: float, ratio: float) -> tuple[float, float]:
    """Squared length of the ridge solution at alpha / beta = ratio, and its sum of squared errors."""
    weight = float((squares * along / (squares + ratio) ** 2).sum())
    return weight, float((along * (ratio / (squares + ratio)) ** 2).sum()) + outside
