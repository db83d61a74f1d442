"""Heads on frozen features: linear, convex or in closed form, chosen inside the data they are given. numpy and SciPy, never torch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from graft.errors import GraftError
from graft.evaluate import Metric
from graft.heads.choose import NEVER_SEEN, Choice, along, choose_view, inner_folds
from graft.heads.kinds import HEADS, Path, is_closed, ridge, serves
from graft.heads.linear import LINKS, LinearHead
from graft.records import Task

__all__ = ["HEADS", "LINKS", "LinearHead", "cross_validate", "fit_head", "serves"]


# One thread: these products are small, and two threads took 1.4 to 3 times as long on two cores.
@threadpool_limits.wrap(limits=1, user_api="blas")
def fit_head(
    features: np.ndarray,
    y: np.ndarray,
    task: Task,
    *,
    kind: "str | Callable[..., Path]" = "auto",
    n_classes: int | None = None,
    class_weight: "str | np.ndarray | None" = None,
    seed: int = 0,
    blocks: np.ndarray | None = None,
    metric: "str | Metric | None" = None,
    sample_weight: np.ndarray | None = None,
    standardise: bool | None = None,
) -> LinearHead:
    """The head whose strength (and for "auto" and "closed" whose kind) does best on held-out parts of these items.

    features: (n, d). y: as in `evaluate`. kind: a name in HEADS, "auto", "closed" (of those in closed form, the cheapest), or a
    function of the same form.
    n_classes: c, where y need not hold every class; 1 + the largest unless given. class_weight: None, "balanced", or (c,).
    seed: of the inner folds. blocks: (n,) items of one block stay on one side. metric: what to choose by; None: log loss or
    squared error, which choose at least as well for accuracy too, as they are less coarse. Ties go to what comes first.
    sample_weight: (n,) at least 0, of any mean: the items' share in the fit and in the held-out loss, times their class's weight.
    standardise: whether each feature is brought to one spread first; None: what ridge does better with, left out.
    Probabilities are calibrated by one temperature, found on the same held-out items (Guo et al. 2017, arXiv:1706.04599).
    Raises GraftError for features that are not finite, fewer than two classes, weights that are none, or a kind that does not serve
    the task.
    """
    features, target, c = _checked(features, y, task, n_classes)
    weights = _item_weights(target, task, class_weight, sample_weight)
    if not (heard := weights > 0).all():
        # An item without weight has no place along principal axes that are weighted.
        features, target, c = _checked(features[heard], np.asarray(y)[heard], task, c if task == "classification" else None)
        weights, blocks = weights[heard] / weights[heard].mean(), None if blocks is None else np.asarray(blocks)[heard]
    columns = np.flatnonzero(target.any(axis=0)) if task == "classification" else np.arange(c)
    target = target[:, columns]
    paths = _paths(kind, task)
    parts = inner_folds(target, task, features.shape[1], seed, blocks)
    best: Choice | None = None
    view = choose_view(features, target, weights, task, seed, standardise)
    # Leave-one-out is free for ridge, but flatters it beside kinds that are judged by folds, and leaks between items of a block.
    leave_one_out = list(paths.values()) == [ridge] and blocks is None
    for name, path in paths.items():
        rival = (-np.inf, -np.inf) if best is None else best.score
        for choice in along(path, name, view, target, weights, task, parts, metric, leave_one_out, rival):
            if best is None or choice.score > best.score:
                best = choice
    assert best is not None
    if is_closed(best.path):
        weight, bias = best.path.solve(view.scatter, best.strength)
    else:
        _, weight, bias = next(iter(best.path(view.features, target, weights, task, strengths=(best.strength,))))
    return _assemble(best, weight, bias, columns, c, task)


def cross_validate(
    features: np.ndarray, y: np.ndarray, task: Task, folds: Sequence[tuple[np.ndarray, np.ndarray]], **settings: Any
) -> np.ndarray:
    """Held-out outputs: each item's come from heads fitted, and chosen, without it.

    folds: (train, test) index arrays; where repeats test an item more than once its outputs are averaged.
    settings: as for `fit_head`; blocks (n,) and sample_weight (n,) are those of all items. Returns (n, c), or (n,) for regression.
    Raises GraftError when no fold tests some item.
    """
    features, _, c = _checked(features, y, task, settings.pop("n_classes", None))
    blocks, mass = settings.pop("blocks", None), settings.pop("sample_weight", None)
    sums, times = np.zeros((len(features), c)), np.zeros((len(features), 1))
    for train, test in folds:
        inner_blocks, inner_mass = (None if each is None else np.asarray(each)[train] for each in (blocks, mass))
        inner = {"blocks": inner_blocks, "sample_weight": inner_mass}
        head = fit_head(features[train], np.asarray(y)[train], task, n_classes=c, **inner, **settings)
        sums[test] += head.outputs(features[test]).reshape(len(test), c)
        times[test] += 1
    if not times.all():
        raise GraftError(
            f"cross_validate: {int((times == 0).sum())} of {len(times)} items are tested by no fold, expected each at least once"
        )
    return (sums / times)[:, 0] if task == "regression" else sums / times


def _assemble(choice: Choice, weight: np.ndarray, bias: np.ndarray, columns: np.ndarray, c: int, task: Task) -> LinearHead:
    """Undo the view's rotation, put in the temperature and the classes that the items lack."""
    weight = choice.view.axes @ weight
    if task == "classification":
        weight, bias = weight - weight.mean(axis=1, keepdims=True), bias - bias.mean()
    whole, level = np.zeros((len(weight), c), np.float32), np.full(c, NEVER_SEEN, np.float32)
    whole[:, columns], level[columns] = weight / choice.temperature, bias / choice.temperature
    mean, scale = choice.view.mean.astype(np.float32), choice.view.scale.astype(np.float32)
    return LinearHead(mean, scale, whole, level, LINKS[task], choice.kind, float(choice.strength))


def _paths(kind: "str | Callable[..., Path]", task: Task) -> dict[str, Callable[..., Path]]:
    """The kinds to choose from, by name."""
    fitting = [name for name in HEADS if task in HEADS[name].tasks]
    if kind in ("auto", "closed"):
        # What is cheap first: the others then know what they have to reach.
        cheap, dear = ([name for name in fitting if is_closed(HEADS[name]) == closed] for closed in (True, False))
        return {name: HEADS[name] for name in (cheap if kind == "closed" else cheap + dear)}
    path = HEADS.resolve(kind)
    if task not in getattr(path, "tasks", (task,)):
        raise GraftError(f"head {kind!r} does not serve {task}, expected auto, closed or one of {', '.join(fitting)}")
    return {kind if isinstance(kind, str) else getattr(kind, "__name__", "custom"): path}


# Lighter items, by this share of the mean, count as none: float32 loses them among the others' rounding.
_NO_WEIGHT = 1e-6


def _item_weights(target: np.ndarray, task: Task, class_weight: "str | np.ndarray | None", sample_weight: np.ndarray | None) -> np.ndarray:
    """(n,) with mean 1; 0 where an item is not to be heard."""
    weights = np.ones(len(target)) if sample_weight is None else _checked_weights(sample_weight, len(target))
    if class_weight is not None:
        weights = weights * (target @ _by_class(target, task, class_weight))
        weights = weights / weights.mean()
    return weights


def _checked_weights(sample_weight: np.ndarray, n: int) -> np.ndarray:
    """sample_weight with mean 1, and 0 where it is next to nothing."""
    weights = np.asarray(sample_weight, float)
    if weights.shape != (n,):
        raise GraftError(f"sample_weight has shape {weights.shape}, expected ({n},), one number an item")
    if bad := int((~np.isfinite(weights) | (weights < 0)).sum()):
        raise GraftError(f"sample_weight of {bad} of {n} items is negative or not finite, expected numbers of at least 0")
    if not weights.any():
        raise GraftError(f"sample_weight is 0 for all {n} items, expected some above 0")
    weights = np.where(weights < _NO_WEIGHT * weights.mean(), 0, weights)
    return weights / weights.mean()


def _by_class(target: np.ndarray, task: Task, class_weight: "str | np.ndarray") -> np.ndarray:
    """(c,), the weights of the classes in any unit."""
    if task != "classification":
        raise GraftError(f"class_weight was given for {task}, expected None: only classification has one class an item")
    counts = target.sum(axis=0)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise GraftError(f"class_weight={class_weight!r}, expected None, 'balanced' or one number a class")
        return 1 / np.maximum(counts, 1).astype(float)
    by_class = np.asarray(class_weight, float)
    if by_class.shape != counts.shape or not (by_class > 0).all():
        raise GraftError(f"class_weight has shape {by_class.shape}, expected {len(counts)} numbers above 0, one a class")
    return by_class


def _checked(features: np.ndarray, y: np.ndarray, task: Task, n_classes: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Features as float32, the target (n, c) as float32, and c."""
    features, y = np.asarray(features, np.float32), np.asarray(y)
    if features.ndim != 2 or len(features) != len(y):
        raise GraftError(f"features have shape {features.shape} and y {y.shape}, expected (n, d) and one row of y for each item")
    if bad := int((~np.isfinite(features)).any(axis=1).sum()):
        raise GraftError(
            f"features of {bad} of {len(features)} items are not finite, expected numbers. Look at those items, or at the backbone"
        )
    if not np.isfinite(y).all():
        raise GraftError(
            f"y of {int((~np.isfinite(y)).reshape(len(y), -1).any(axis=1).sum())} items is not finite, expected numbers. Leave them out"
        )
    if task == "regression":
        if len(y) < 3:
            raise GraftError(f"{len(y)} items to fit on, expected at least 3")
        return features, y.astype(np.float32).reshape(-1, 1), 1
    if task == "multilabel":
        return features, y.astype(np.float32), y.shape[1]
    y = y.astype(np.int64)
    if len(np.unique(y)) < 2:
        raise GraftError(f"{len(y)} items of {len(np.unique(y))} class to fit on, expected at least 2 classes. Add items of another class")
    c = int(y.max()) + 1 if n_classes is None else n_classes
    if y.min() < 0 or y.max() >= c:
        raise GraftError(f"y holds classes {y.min()} to {y.max()}, expected 0 to {c - 1}")
    return features, np.eye(c, dtype=np.float32)[y], c
