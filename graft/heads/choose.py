"""How view, kind and strength are chosen: on held-out parts of the items a head is fitted on. numpy and SciPy only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax

from graft.data.split import draw, folds
from graft.evaluate import Metric, measure, signed
from graft.heads.kinds import Path, goal, is_closed, ridge
from graft.heads.linear import LINKS, apply_link
from graft.records import Task
from graft.scatter import Scatter, weighted_axes

# A class that the training items lack gets this logit beside others that average zero: a probability below 1e-13.
NEVER_SEEN = -30.0
_INNER_FOLDS = 5
# Items x axes x classes: below it all folds cost little.
_WORK_FOR_ALL_FOLDS = 3e6
# Held-out items that are enough to choose by, where all folds would cost much.
_ENOUGH = 300
# Items by which to tell whether standardising helps.
_VIEWED = 400
# A path that lags behind another kind by more than so many of its last gains is left: gains shrink, as a rule, and it has few steps more.
_GAINS_TO_CATCH_UP = 3


def choose_view(
    features: np.ndarray, target: np.ndarray, weights: np.ndarray, task: Task, seed: int, standardise: bool | None = None
) -> "View":
    """Features with or without standardising, whichever gives ridge the smaller error left out, on at most 400 of the items.

    Standardising saves features of unequal size (hidden states of BERT or GPT-2) and costs a little on others; ridge
    tells at the price of one factorisation. seed: of the draw of the 400. standardise: one of the two, where it is known.
    """
    aim, n = goal(target, task), len(features)
    if standardise is not None:
        return View(features, aim, weights, standardise)
    some = slice(None) if n <= _VIEWED else draw(_labels(target, task), task, _VIEWED, seed)

    def error(view: View) -> float:
        errors = (((aim[some] - view.scatter.each_left_out(strength)) ** 2).mean(axis=1) for strength in ridge.strengths)
        return min(float(np.average(each, weights=weights[some])) for each in errors)

    tried = [View(features[some], aim[some], weights[some], standardise) for standardise in (False, True)]
    better = min(tried, key=error)
    return better if n <= _VIEWED else View(features, aim, weights, better is tried[1])


class View:
    """Features as the kinds want them: centred, of mean variance 1, then turned to their principal axes.

    Every kind's solution lies in the span of the items, so that nothing is lost and, for n < d, much is saved.
    """

    def __init__(self, features: np.ndarray, aim: np.ndarray, weights: np.ndarray, standardise: bool) -> None:
        share = (weights / weights.sum()).astype(np.float32)
        self.mean = share @ features
        deviation = np.sqrt(share @ (features - self.mean) ** 2)
        typical = float(np.sqrt((deviation**2).mean())) or 1.0
        # A feature that hardly varies is not blown up to the size of the others: what it shows then is noise.
        self.scale = np.maximum(deviation, 0.01 * typical) if standardise else np.full_like(deviation, typical)
        _, self.axes, self.features = weighted_axes((features - self.mean) / self.scale, weights)
        self.scatter = Scatter(self.features, aim, weights)


@dataclass(frozen=True)
class Choice:
    """One strength of one kind on one view. score: greater is better. temperature: divides the logits."""

    path: Any
    kind: str
    view: View
    strength: float
    score: tuple[float, float]
    temperature: float


def along(
    path: Any,
    kind: str,
    view: View,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    parts: list[tuple[np.ndarray, np.ndarray]],
    metric: "str | Metric | None",
    leave_one_out: bool,
    rival: tuple[float, float] = (-np.inf, -np.inf),
) -> Iterator[Choice]:
    """The path's strengths, each judged on held-out items; where none can be held out, the first strength as it is.

    rival: the best score of other kinds; where no metric is asked for, a path that cannot be expected to reach it is left.
    """
    if not parts:
        strength = next(iter(path(view.features, target, weights, task)))[0]
        yield Choice(path, kind, view, strength, (0.0, 0.0), 1.0)
        return
    if path is ridge and leave_one_out:
        walked = ((strength, view.scatter.each_left_out(strength)) for strength in ridge.strengths)
        truth, mass = target, weights
    else:
        # The parts go along the path side by side, so that none takes a step past their common end.
        walked = (
            (steps[0][0], np.concatenate([logits for _, logits in steps]))
            for steps in zip(*(_held_out(path, view, target, weights, task, *part) for part in parts), strict=True)
        )
        held = np.concatenate([test for _, test in parts])
        truth, mass = target[held], weights[held]
    best = (-np.inf, -np.inf)
    least_gain = getattr(path, "least_gain", 0.0)
    for strength, logits in walked:
        temperature = 1.0 if task == "regression" else temperature_of(logits, truth, mass, task)
        score = _score(logits / temperature, truth, mass, task, metric)
        yield Choice(path, kind, view, strength, score, temperature)
        gain = score[1] - best[1]
        # Past the best strength the loss grows, as a rule. A metric may be too coarse to tell: neither may be better.
        if score[0] <= best[0] and gain < 0:
            return
        if metric is None and (gain * _GAINS_TO_CATCH_UP < rival[1] - score[1] or gain < least_gain * abs(score[1])):
            return
        best = max(best, score)


def _held_out(
    path: Any,
    view: View,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    train: np.ndarray,
    test: np.ndarray,
) -> Iterator[tuple[float, np.ndarray]]:
    """For each strength: (strength, logits (m, c) of the test items, fitted on the train items alone)."""
    columns = np.flatnonzero(target[train].any(axis=0)) if task == "classification" else np.arange(target.shape[1])
    out = np.setdiff1d(np.arange(len(target)), train)
    if is_closed(path) and len(out) < view.features.shape[1]:
        solved = ((strength, *path.solve(view.scatter, strength, out)) for strength in path.strengths)
        fits: Path = ((strength, weight[:, columns], bias[columns]) for strength, weight, bias in solved)
    else:
        fits = path(view.features[train], target[train][:, columns], weights[train], task)
    for strength, weight, bias in fits:
        logits = np.full((len(test), target.shape[1]), NEVER_SEEN, np.float32)
        fitted = view.features[test] @ weight + bias
        logits[:, columns] = fitted - fitted.mean(axis=1, keepdims=True) if task == "classification" else fitted
        yield strength, logits


def temperature_of(logits: np.ndarray, target: np.ndarray, weights: np.ndarray, task: Task) -> float:
    """The number that divides the logits for the least log loss: Newton's method on its inverse, in which the loss is convex.

    Targets are softened by one item's worth, as in Platt 1999, since perfect separation has no finite optimum.
    """
    soft = 1 / (len(target) + 1)
    goal_of = target * (1 - soft) + soft / (target.shape[1] if task == "classification" else 2)
    logits, top = logits.astype(np.float32), logits.max(axis=1, keepdims=True)
    told = (goal_of * logits).sum(axis=1)
    # From a start on the flat side Newton's method does not overshoot by much; the clip below holds it where it does.
    inverse = 0.1 / max(float(logits.std()), 1e-6)
    for _ in range(50):
        if task == "classification":
            probability = np.exp(np.float32(inverse) * (logits - top))
            probability /= probability.sum(axis=1, keepdims=True)
            weighed = probability * logits
            mean = weighed.sum(axis=1)
            slope, bend = mean - told, (weighed * logits).sum(axis=1) - mean**2
        else:
            probability = expit(inverse * logits)
            slope, bend = ((probability - goal_of) * logits).mean(axis=1), (probability * (1 - probability) * logits**2).mean(axis=1)
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


def inner_folds(
    target: np.ndarray, task: Task, n_features: int, seed: int, blocks: np.ndarray | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test indices of 5 folds, or of as many as hold enough items to choose by where all cost much. May be empty.

    A test item whose class is missing from the train part is left out: no choice could get it right.
    """
    y = _labels(target, task)
    n_folds = min(_INNER_FOLDS, len(y) if blocks is None else len(np.unique(blocks)))
    if n_folds < 2:
        return []
    parts = folds(y, task, n_folds, seed, blocks=blocks)
    if len(y) * min(len(y), n_features) * target.shape[1] > _WORK_FOR_ALL_FOLDS:
        parts = parts[: math.ceil(_ENOUGH * n_folds / len(y))]
    if task == "classification":
        parts = [(train, test[np.isin(y[test], y[train])]) for train, test in parts]
    return [(train, test) for train, test in parts if len(test)]


def _labels(target: np.ndarray, task: Task) -> np.ndarray:
    """The target as the data room has it: classes (n,), values (n,), or 0/1 of labels (n, c)."""
    return target.argmax(axis=1) if task == "classification" else target[:, 0] if task == "regression" else target
