"""The kinds of head, each a path over strengths: convex or in closed form. They choose nothing. numpy and SciPy only.

A head kind is a path: (features, target, weights, task, strengths) -> for each strength, strongest first, a weight and a
bias. features (n, d) float32 come centred and with a mean variance of 1, so that one grid of strengths serves every
backbone. target (n, c): one-hot classes, 0/1 labels, or one column of values. weights (n,): of the items, mean 1.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from graft.records import Task
from graft.registry import Registry

Path = Iterator[tuple[float, np.ndarray, np.ndarray]]

HEADS = Registry("head")


def serves(*tasks: Task) -> Callable[[Any], Any]:
    """Decorator: the tasks a head kind can do; `auto` tries it for those."""

    def put(path: Any) -> Any:
        path.tasks = tasks
        return path

    return put


@HEADS.add("Cox 1958; solved by L-BFGS, Liu & Nocedal 1989, doi:10.1007/BF01589116")
@serves("classification", "multilabel")
def logistic(
    features: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    strengths: Sequence[float] = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003),
) -> Path:
    """Logistic regression, multinomial for classes and one against the rest for labels; each strength starts from the last one's solution.

    Minimises the weighted mean log loss + strength / 2 * |weight|^2; the bias is free.
    """
    n, d = features.shape
    transposed, share = np.ascontiguousarray(features.T), (weights / n).astype(np.float32)[:, None]

    def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        both = flat.reshape(d + 1, -1).astype(np.float32)
        logits = features @ both[:-1] + both[-1]
        if task == "classification":
            logs = log_softmax(logits, axis=1)
            loss = -float((share * target * logs).sum(dtype=np.float64))
            error = np.exp(logs)
        else:
            loss = float((share * (np.logaddexp(0, logits) - target * logits)).sum(dtype=np.float64))
            error = expit(logits)
        error -= target
        error *= share
        slope = np.vstack([transposed @ error + strength * both[:-1], error.sum(axis=0)])
        return loss + strength / 2 * float((both[:-1] ** 2).sum(dtype=np.float64)), slope.ravel().astype(np.float64)

    flat = np.zeros((d + 1) * target.shape[1])
    for strength in strengths:
        # ftol: tighter ones triple the time and move held-out log loss in the fourth digit (banking77, 8000 training rows).
        flat = minimize(objective, flat, (strength,), "L-BFGS-B", jac=True, options={"maxiter": 200, "ftol": 1e-5}).x
        both = flat.reshape(d + 1, -1).astype(np.float32)
        yield strength, both[:-1], both[-1]


@HEADS.add("Fisher 1936; shrinkage of Friedman 1989, doi:10.1080/01621459.1989.10478752, eq. 18 towards the identity")
@serves("classification")
def lda(
    features: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    strengths: Sequence[float] = (0.9, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01),
) -> Path:
    """Linear discriminant analysis; all strengths share one eigendecomposition of the scatter within classes.

    strength: shrinkage in (0, 1], the share of the identity (times the mean variance) in the covariance.
    """
    mass = target * weights[:, None].astype(np.float32)
    total = mass.sum(axis=0)
    means = (mass.T @ features) / total[:, None]
    residual = (features - target @ means) * np.sqrt(weights / total.sum())[:, None].astype(np.float32)
    variances, axes = eigh(residual.T @ residual)
    variances = np.maximum(variances, 0)
    rotated = means @ axes
    for strength in strengths:
        shrunk = (1 - strength) * variances + strength * max(float(variances.mean()), 1e-6)
        slopes = (rotated / shrunk).astype(np.float32)
        yield strength, axes @ slopes.T, np.log(total / total.sum()) - 0.5 * (slopes * rotated).sum(axis=1)


@HEADS.add("Hoerl & Kennard 1970, doi:10.1080/00401706.1970.10488634")
@serves("classification", "multilabel", "regression")
def ridge(
    features: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    strengths: Sequence[float] = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
) -> Path:
    """Least squares on the target with a penalty; all strengths share one eigendecomposition.

    Minimises the weighted mean of the squared errors + strength * |weight|^2; the bias is free.
    """
    target = goal(target, task)
    share = (weights / weights.sum())[:, None]
    centre, level = (share * features).sum(axis=0), (share * target).sum(axis=0)
    tilted = ((features - centre) * np.sqrt(share)).astype(np.float32)
    variances, axes = eigh(tilted.T @ tilted)
    pull = axes.T @ (tilted.T @ ((target - level) * np.sqrt(share)).astype(np.float32))
    for strength in strengths:
        weight = axes @ (pull / (np.maximum(variances, 0) + strength)[:, None])
        yield strength, weight, level - centre @ weight


def goal(target: np.ndarray, task: Task) -> np.ndarray:
    """What ridge is fitted to; labels become -1 and 1, so that the sigmoid's middle is the middle of the scores too."""
    return 2 * target - 1 if task == "multilabel" else target


def ridge_left_out(features: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
    """What ridge predicts for each item when fitted on all the others, without fitting again.

    error left out = error / (1 - leverage); Cook & Weisberg 1982, eq. 2.2.8, with the bias as a free column.
    """
    share = (weights / weights.sum())[:, None]
    centred = features - (share * features).sum(axis=0)
    variances, axes = eigh((share * centred).T @ centred)
    turned = centred @ axes
    strengths, predicted = [], []
    for strength, weight, bias in ridge(features, target, weights, "regression"):
        leverage = share[:, 0] * (1 + (turned**2 / (np.maximum(variances, 0) + strength)).sum(axis=1))
        error = (target - features @ weight - bias) / np.maximum(1 - leverage, 1e-6)[:, None]
        strengths.append(strength)
        predicted.append(target - error)
    return strengths, predicted
