"""How view, kind and strength are chosen: on held-out parts of the items a head is fitted on. numpy and SciPy only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax, softmax

from graft.data.split import folds
from graft.evaluate import Metric, measure, signed
from graft.heads.kinds import Path, goal, ridge, ridge_left_out
from graft.heads.linear import LINKS, apply_link
from graft.records import Task

# A class that the training items lack gets this logit beside others that average zero: a probability below 1e-13.
NEVER_SEEN = -30.0
_INNER_FOLDS = 5
# Items x features x classes; a logistic path of this size took 0.7 s a fold on one core.
_MANY = 1000  # items: a fifth of them is enough to choose a strength by
_WORK_FOR_ALL_FOLDS = 4e7


def choose_view(features: np.ndarray, target: np.ndarray, weights: np.ndarray, task: Task) -> "View":
    """Features with or without standardising, whichever gives ridge the smaller error left out.

    Standardising saves features of unequal size (hidden states of BERT or GPT-2) and costs a little on others; ridge
    tells at the price of one factorisation.
    """

    def error(view: View) -> float:
        aim = goal(target, task)
        return min(float(((aim - left_out) ** 2).mean()) for left_out in ridge_left_out(view.features, aim, weights)[1])

    return min(View(features, standardise=False), View(features, standardise=True), key=error)


class View:
    """Features as the kinds want them: centred, mean variance 1, and no wider than there are items."""

    def __init__(self, features: np.ndarray, standardise: bool) -> None:
        self.mean = features.mean(axis=0)
        deviation = features.std(axis=0)
        typical = float(np.sqrt((deviation**2).mean())) or 1.0
        # A feature that hardly varies is not blown up to the size of the others: what it shows then is noise.
        self.scale = np.maximum(deviation, 0.01 * typical) if standardise else np.full_like(deviation, typical)
        self.rotation: np.ndarray | None = None
        self.features = ((features - self.mean) / self.scale).astype(np.float32)
        n, d = features.shape
        if n < d:
            # Every kind's solution lies in the span of the items, so that nothing is lost and much is saved.
            self.rotation = np.linalg.qr(self.features.T)[0]
            self.features = self.features @ self.rotation


@dataclass(frozen=True)
class Choice:
    """One strength of one kind on one view. score: greater is better. temperature: divides the logits."""

    path: Callable[..., Path]
    kind: str
    view: View
    strength: float
    score: tuple[float, float]
    temperature: float


def along(
    path: Callable[..., Path],
    kind: str,
    view: View,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    parts: list[tuple[np.ndarray, np.ndarray]],
    metric: "str | Metric | None",
    leave_one_out: bool,
) -> Iterator[Choice]:
    """The path's strengths, each judged on held-out items; where none can be held out, the first strength as it is."""
    if not parts:
        strength = next(iter(path(view.features, target, weights, task)))[0]
        yield Choice(path, kind, view, strength, (0.0, 0.0), 1.0)
        return
    if path is ridge and leave_one_out:
        strengths, logits = ridge_left_out(view.features, goal(target, task), weights)
        truth, mass = target, weights
    else:
        by_fold = [list(_held_out(path, view.features, target, weights, task, train, test)) for train, test in parts]
        strengths = [strength for strength, _ in by_fold[0]]
        logits = [np.concatenate([fold[step][1] for fold in by_fold]) for step in range(len(strengths))]
        held = np.concatenate([test for _, test in parts])
        truth, mass = target[held], weights[held]
    for strength, logit in zip(strengths, logits, strict=True):
        temperature = 1.0 if task == "regression" else temperature_of(logit, truth, mass, task)
        yield Choice(path, kind, view, strength, _score(logit / temperature, truth, mass, task, metric), temperature)


def _held_out(
    path: Callable[..., Path],
    features: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    train: np.ndarray,
    test: np.ndarray,
) -> Iterator[tuple[float, np.ndarray]]:
    """For each strength: (strength, logits (m, c) of the test items, fitted without them)."""
    columns = np.flatnonzero(target[train].any(axis=0)) if task == "classification" else np.arange(target.shape[1])
    for strength, weight, bias in path(features[train], target[train][:, columns], weights[train], task):
        logits = np.full((len(test), target.shape[1]), NEVER_SEEN, np.float32)
        fitted = features[test] @ weight + bias
        logits[:, columns] = fitted - fitted.mean(axis=1, keepdims=True) if task == "classification" else fitted
        yield strength, logits


def temperature_of(logits: np.ndarray, target: np.ndarray, weights: np.ndarray, task: Task) -> float:
    """The number that divides the logits for the least log loss: Newton's method on its inverse, in which the loss is convex.

    Targets are softened by one item's worth, as in Platt 1999, since perfect separation has no finite optimum.
    """
    soft = 1 / (len(target) + 1)
    goal = target * (1 - soft) + soft / (target.shape[1] if task == "classification" else 2)
    # From a start on the flat side Newton's method does not overshoot by much; the clip below holds it where it does.
    inverse = 0.1 / max(float(logits.std()), 1e-6)
    for _ in range(50):
        if task == "classification":
            probability = softmax(inverse * logits, axis=1)
            mean = (probability * logits).sum(axis=1)
            slope, bend = mean - (goal * logits).sum(axis=1), (probability * logits**2).sum(axis=1) - mean**2
        else:
            probability = expit(inverse * logits)
            slope, bend = ((probability - goal) * logits).mean(axis=1), (probability * (1 - probability) * logits**2).mean(axis=1)
        step = float((weights * slope).sum()) / max(float((weights * bend).sum()), 1e-12)
        new = float(np.clip(inverse - step, inverse / 2, inverse * 2))
        if abs(new - inverse) < 1e-3 * inverse:
            break
        inverse = new
    return 1.0 / inverse


def _score(logits: np.ndarray, target: np.ndarray, weights: np.ndarray, task: Task, metric: "str | Metric | None") -> tuple[float, float]:
    """What to choose by, greater is better: the metric first, then minus the log loss or squared error, which decides ties."""
    if task == "regression":
        loss = float(np.average((target - logits) ** 2, weights=weights, axis=0).sum())
        y = target[:, 0]
    elif task == "classification":
        loss = -float(np.average((target * log_softmax(logits, axis=1)).sum(axis=1), weights=weights))
        y = target.argmax(axis=1)
    else:
        loss = float(np.average((np.logaddexp(0, logits) - target * logits).mean(axis=1), weights=weights))
        y = target
    value = 0.0 if metric is None else signed(metric, measure(metric, y, apply_link(logits, LINKS[task])))
    return value, -loss


def n_parts_for(features: np.ndarray, target: np.ndarray) -> int:
    """How many of the folds are tried: all when that is cheap; one holds enough items to choose by when there are many."""
    work = features.size * target.shape[1]
    if len(features) >= _MANY:
        return 1
    return _INNER_FOLDS if work < _WORK_FOR_ALL_FOLDS else 3 if work < 3 * _WORK_FOR_ALL_FOLDS else 1


def inner_folds(target: np.ndarray, task: Task, n_parts: int, seed: int, blocks: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test indices of `n_parts` of 5 folds. May be empty.

    A test item whose class is missing from the train part is left out: no choice could get it right.
    """
    y = target.argmax(axis=1) if task == "classification" else target[:, 0] if task == "regression" else target
    n_folds = min(_INNER_FOLDS, len(y) if blocks is None else len(np.unique(blocks)))
    if n_folds < 2:
        return []
    parts = folds(y, task, n_folds, seed, blocks=blocks)[:n_parts]
    if task == "classification":
        parts = [(train, test[np.isin(y[test], y[train])]) for train, test in parts]
    return [(train, test) for train, test in parts if len(test)]
