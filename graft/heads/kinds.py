"""The kinds of head, each a path over strengths: convex or in closed form. They choose nothing. numpy and SciPy only.

A head kind is a path: (features, target, weights, task, strengths) -> for each strength, strongest first, a weight and a
bias. features (n, d) float32 come centred and along their principal axes; their mean variance was made 1 before they were
turned, so that one grid of strengths serves every backbone. target (n, c): one-hot classes, 0/1 labels, or one column of
values. weights (n,): of the items, mean 1.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from graft.records import Task
from graft.registry import Registry
from graft.scatter import Scatter, weighted_axes

Path = Iterator[tuple[float, np.ndarray, np.ndarray]]
# (scatter, strength, items to leave out) -> weight, bias
Solve = Callable[..., tuple[np.ndarray, np.ndarray]]

HEADS = Registry("head")


def serves(*tasks: Task, least_gain: float = 0.0) -> Callable[[Any], Any]:
    """Decorator: the tasks a head kind can do; `auto` tries it for those.

    least_gain: a step to the next strength that takes off less than this share of the held-out loss is the last one.
    """

    def put(path: Any) -> Any:
        path.tasks, path.least_gain = tasks, least_gain
        return path

    return put


def solved_by(solve: Solve) -> Callable[[Any], Any]:
    """Decorator: how a kind in closed form is solved from a `Scatter`, also with items left out, instead of fitted again."""

    def put(path: Any) -> Any:
        path.solve, path.strengths = solve, inspect.signature(path).parameters["strengths"].default
        return path

    return put


def is_closed(path: Any) -> bool:
    """Whether a kind is in closed form: held-out parts and the final fit are then solved from what was factorised once."""
    return hasattr(path, "solve")


@HEADS.add("Cox 1958; solved by L-BFGS, Liu & Nocedal 1989, doi:10.1007/BF01589116")
# Each strength costs as much again. With 100 classes and eight items a class, steps below this went on for three strengths.
@serves("classification", "multilabel", least_gain=0.003)
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
    variances = np.append((share * features**2).sum(axis=0), np.float32(1))
    # The mean of p (1 - p) over classes when nothing but their shares is known.
    rates = (share * target).sum(axis=0)
    bend = max(float((rates * (1 - rates)).mean()), 1e-3)

    def objective(flat: np.ndarray, strength: float, scale: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(d + 1, -1).astype(np.float32) * scale
        logits = features @ both[:-1] + both[-1]
        if task == "classification":
            logits -= logits.max(axis=1, keepdims=True)
            error = np.exp(logits)
            totals = error.sum(axis=1, keepdims=True)
            loss = float((share * (np.log(totals) - (target * logits).sum(axis=1, keepdims=True))).sum(dtype=np.float64))
            error /= totals
        else:
            loss = float((share * (np.logaddexp(0, logits) - target * logits)).sum(dtype=np.float64))
            error = expit(logits)
        error -= target
        error *= share
        slope = np.vstack([transposed @ error + strength * both[:-1], error.sum(axis=0)]) * scale
        return loss + strength / 2 * float((both[:-1] ** 2).sum(dtype=np.float64)), slope.ravel().astype(np.float64)

    both = np.zeros((d + 1, target.shape[1]), np.float32)
    for strength in strengths:
        # Each weight in the unit in which the loss bends about alike along all of them: up to a third fewer steps (banking77, eurosat).
        scale = (1 / np.sqrt(bend * variances + np.append(np.full(d, strength), 0)))[:, None].astype(np.float32)
        # ftol: a tighter one takes twice the steps or more and moves held-out log loss in the third digit (banking77, eurosat).
        options = {"maxiter": 200, "ftol": 3e-5, "maxcor": 5}
        flat = minimize(objective, (both / scale).ravel(), (strength, scale), "L-BFGS-B", jac=True, options=options).x
        both = flat.reshape(d + 1, -1).astype(np.float32) * scale
        yield strength, both[:-1], both[-1]


@HEADS.add("Fisher 1936; shrinkage of Friedman 1989, doi:10.1080/01621459.1989.10478752, eq. 18 towards the identity")
@serves("classification")
@solved_by(Scatter.lda)
def lda(
    features: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    strengths: Sequence[float] = (0.9, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01),
) -> Path:
    """Linear discriminant analysis; all strengths share one eigendecomposition.

    strength: shrinkage in (0, 1), the share of the identity (times the mean variance) in the covariance.
    """
    yield from _walk(Scatter.lda, features, target, weights, strengths)


@HEADS.add("Hoerl & Kennard 1970, doi:10.1080/00401706.1970.10488634")
@serves("classification", "multilabel", "regression")
@solved_by(Scatter.ridge)
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
    yield from _walk(Scatter.ridge, features, goal(target, task), weights, strengths)


def _walk(solve: Solve, features: np.ndarray, target: np.ndarray, weights: np.ndarray, strengths: Sequence[float]) -> Path:
    """The path of a kind in closed form, for features along any axes."""
    centre, axes, turned = weighted_axes(features, weights)
    scatter = Scatter(turned, target, weights)
    for strength in strengths:
        weight, bias = solve(scatter, strength)
        yield strength, axes @ weight, bias - centre @ axes @ weight


def goal(target: np.ndarray, task: Task) -> np.ndarray:
    """What ridge is fitted to; labels become -1 and 1, so that the sigmoid's middle is the middle of the scores too."""
    return 2 * target - 1 if task == "multilabel" else target
