"""Descent on a smooth convex loss of a matrix, in single precision. It knows no data. numpy only."""

from collections.abc import Callable

import numpy as np

# Pairs of steps and changes of slope that are remembered.
_PAIRS = 5
_MOST_STEPS = 200
# A step must take off this share of what the slope promises (Nocedal & Wright 2006, Numerical Optimization, section 3.1), and is not
# halved further than this.
_ARMIJO, _LEAST_STEP = 1e-4, 1e-6


def lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, metric: np.ndarray, tolerance: float
) -> np.ndarray:
    """The matrix (a, b) float32 at which the loss is least, about.

    objective: (a, b) -> loss, slope (a, b) float32. metric: (a, 1) float32, about the inverse of how the loss bends along each row.
    It ends where a step takes off less than tolerance times the loss, or times 1 where the loss is smaller.
    Source: L-BFGS, Liu & Nocedal 1989, doi:10.1007/BF01589116; algorithm 7.4 of Nocedal & Wright 2006. Differs: steps are halved
    until they descend, without a condition on the new slope, which convex losses do not need. Single precision takes half
    the time of SciPy's, whose work on vectors in double precision was half of all (100 classes).
    """
    place, (loss, slope) = start, objective(start)
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    for _ in range(_MOST_STEPS):
        towards = _direction(slope, metric, pairs)
        promised, length = float(np.vdot(slope, towards)), 1.0
        new = place - towards
        new_loss, new_slope = objective(new)
        while not new_loss <= loss - _ARMIJO * length * promised and length > _LEAST_STEP:
            length /= 2
            new = place - np.float32(length) * towards
            new_loss, new_slope = objective(new)
        if not new_loss < loss:
            break
        moved, bent = new - place, new_slope - slope
        gained, place, loss, slope = loss - new_loss, new, new_loss, new_slope
        if gained <= tolerance * max(loss, 1.0):
            break
        if (product := float(np.vdot(moved, bent))) > 0:
            pairs = [*pairs, (moved, bent, product)][-_PAIRS:]
    return place


def _direction(slope: np.ndarray, metric: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """The slope times the inverse of the loss's second derivative, as far as the pairs tell it: the two loops of L-BFGS."""
    towards, shares = slope.copy(), []
    for moved, bent, product in reversed(pairs):
        shares.append(np.vdot(moved, towards) / np.float32(product))
        towards -= shares[-1] * bent
    towards *= metric
    if pairs:
        _, bent, product = pairs[-1]
        towards *= np.float32(product / float(np.vdot(bent, metric * bent)))
    for (moved, bent, product), share in zip(pairs, reversed(shares), strict=True):
        towards += (share - np.vdot(bent, towards) / np.float32(product)) * moved
    return towards
