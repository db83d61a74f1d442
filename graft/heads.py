"""Heads on frozen features: linear, convex or in closed form, chosen inside the data they are given. numpy and SciPy, never torch.

A head kind is a path: (features, target, weights, task, strengths) -> for each strength, strongest first, a weight and a
bias. features (n, d) float32 come centred and with a mean variance of 1, so that one grid of strengths serves every
backbone. target (n, c): one-hot classes, 0/1 labels, or one column of values. weights (n,): of the items, mean 1.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from threadpoolctl import threadpool_limits

from graft.data.split import folds
from graft.errors import GraftError
from graft.evaluate import Metric, measure, signed
from graft.records import Task
from graft.registry import Registry

Link = Literal["softmax", "sigmoid", "identity"]
Path = Iterator[tuple[float, np.ndarray, np.ndarray]]

HEADS = Registry("head")

LINKS: dict[Task, Link] = {"classification": "softmax", "multilabel": "sigmoid", "regression": "identity"}
# A class that the training items lack gets this logit beside others that average zero: a probability below 1e-13.
_NEVER_SEEN = -30.0
_INNER_FOLDS = 5
# Items x features x classes; a logistic path of this size took 0.7 s a fold on one core.
_MANY = 1000  # items: a fifth of them is enough to choose a strength by
_WORK_FOR_ALL_FOLDS = 4e7


@dataclass(frozen=True)
class LinearHead:
    """A fitted head: link(((features - mean) / scale) @ weight + bias).

    mean, scale: (d,). weight: (d, c). bias: (c,). c is 1 for regression.
    kind: its name in HEADS. strength: of its regularisation, in the kind's own unit.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    link: Link
    kind: str
    strength: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, c) float32, before the link."""
        if np.ndim(features) != 2 or features.shape[1] != len(self.mean):
            raise GraftError(
                f"features have shape {np.shape(features)}, this head expects (n, {len(self.mean)}). Use the backbone it was fitted on"
            )
        return ((features - self.mean) / self.scale).astype(np.float32) @ self.weight + self.bias

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> probabilities (n, c), or values (n,) for regression; float64."""
        return _link(self.logits(features), self.link)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, fit for safetensors; `from_arrays` reads them back to an equal head."""
        words = {name: np.frombuffer(getattr(self, name).encode(), np.uint8) for name in ("link", "kind")}
        numbers = {name: getattr(self, name) for name in ("mean", "scale", "weight", "bias")}
        return {**numbers, **words, "strength": np.array([self.strength])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "LinearHead":
        """The head that `to_arrays` wrote. Raises GraftError when an array is missing."""
        names = ("mean", "scale", "weight", "bias", "link", "kind", "strength")
        if missing := [name for name in names if name not in arrays]:
            raise GraftError(f"the head's file lacks {', '.join(missing)}, expected {', '.join(names)}. Was it written by graft?")
        mean, scale, weight, bias = (arrays[name] for name in names[:4])
        link: Any = arrays["link"].tobytes().decode()
        return cls(mean, scale, weight, bias, link, arrays["kind"].tobytes().decode(), float(arrays["strength"][0]))


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
    target = _goal(target, task)
    share = (weights / weights.sum())[:, None]
    centre, level = (share * features).sum(axis=0), (share * target).sum(axis=0)
    tilted = ((features - centre) * np.sqrt(share)).astype(np.float32)
    variances, axes = eigh(tilted.T @ tilted)
    pull = axes.T @ (tilted.T @ ((target - level) * np.sqrt(share)).astype(np.float32))
    for strength in strengths:
        weight = axes @ (pull / (np.maximum(variances, 0) + strength)[:, None])
        yield strength, weight, level - centre @ weight


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
) -> LinearHead:
    """The head whose strength (and for "auto" whose kind) does best on held-out parts of these items.

    features: (n, d). y: as in `evaluate`. kind: a name in HEADS, "auto", or a function of the same form.
    n_classes: c, where y need not hold every class; 1 + the largest unless given. class_weight: None, "balanced", or (c,).
    seed: of the inner folds. blocks: (n,) items of one block stay on one side. metric: what to choose by; None: log loss or
    squared error, which choose at least as well for accuracy too, as they are less coarse. Ties go to what comes first.
    Probabilities are calibrated by one temperature, found on the same held-out items (Guo et al. 2017, arXiv:1706.04599).
    Raises GraftError for features that are not finite, fewer than two classes, or a kind that does not serve the task.
    """
    features, target, c = _checked(features, y, task, n_classes)
    weights = _item_weights(target, task, class_weight)
    columns = np.flatnonzero(target.any(axis=0)) if task == "classification" else np.arange(c)
    target = target[:, columns]
    paths = _paths(kind, task)
    parts = _inner_folds(target, task, _n_parts(features, target), seed, blocks)
    best: _Choice | None = None
    view = _choose_view(features, target, weights, task)
    # Leave-one-out is free for ridge, but flatters it beside kinds that are judged by folds, and leaks between items of a block.
    leave_one_out = list(paths.values()) == [ridge] and blocks is None
    for name, path in paths.items():
        for choice in _along(path, name, view, target, weights, task, parts, metric, leave_one_out):
            if best is None or choice.score > best.score:
                best = choice
    assert best is not None
    _, weight, bias = next(iter(best.path(best.view.features, target, weights, task, strengths=(best.strength,))))
    return _assemble(best, weight, bias, columns, c, task)


def cross_validate(
    features: np.ndarray, y: np.ndarray, task: Task, folds: Sequence[tuple[np.ndarray, np.ndarray]], **settings: Any
) -> np.ndarray:
    """Held-out outputs: each item's come from heads fitted, and chosen, without it.

    folds: (train, test) index arrays; where repeats test an item more than once its outputs are averaged.
    settings: as for `fit_head`; blocks (n,) are those of all items. Returns (n, c), or (n,) for regression.
    Raises GraftError when no fold tests some item.
    """
    features, _, c = _checked(features, y, task, settings.pop("n_classes", None))
    blocks = settings.pop("blocks", None)
    sums, times = np.zeros((len(features), c)), np.zeros((len(features), 1))
    for train, test in folds:
        inner_blocks = None if blocks is None else np.asarray(blocks)[train]
        head = fit_head(features[train], np.asarray(y)[train], task, n_classes=c, blocks=inner_blocks, **settings)
        sums[test] += head.outputs(features[test]).reshape(len(test), c)
        times[test] += 1
    if not times.all():
        raise GraftError(
            f"cross_validate: {int((times == 0).sum())} of {len(times)} items are tested by no fold, expected each at least once"
        )
    return (sums / times)[:, 0] if task == "regression" else sums / times


def _choose_view(features: np.ndarray, target: np.ndarray, weights: np.ndarray, task: Task) -> "_View":
    """Features with or without standardising, whichever gives ridge the smaller error left out.

    Standardising saves features of unequal size (hidden states of BERT or GPT-2) and costs a little on others; ridge
    tells at the price of one factorisation.
    """

    def error(view: _View) -> float:
        goal = _goal(target, task)
        return min(float(((goal - left_out) ** 2).mean()) for left_out in _ridge_left_out(view.features, goal, weights)[1])

    return min(_View(features, standardise=False), _View(features, standardise=True), key=error)


class _View:
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
class _Choice:
    """One strength of one kind on one view. score: greater is better. temperature: divides the logits."""

    path: Callable[..., Path]
    kind: str
    view: _View
    strength: float
    score: tuple[float, float]
    temperature: float


def _along(
    path: Callable[..., Path],
    kind: str,
    view: _View,
    target: np.ndarray,
    weights: np.ndarray,
    task: Task,
    parts: list[tuple[np.ndarray, np.ndarray]],
    metric: "str | Metric | None",
    leave_one_out: bool,
) -> Iterator[_Choice]:
    """The path's strengths, each judged on held-out items; where none can be held out, the first strength as it is."""
    if not parts:
        strength = next(iter(path(view.features, target, weights, task)))[0]
        yield _Choice(path, kind, view, strength, (0.0, 0.0), 1.0)
        return
    if path is ridge and leave_one_out:
        strengths, logits = _ridge_left_out(view.features, _goal(target, task), weights)
        truth, mass = target, weights
    else:
        by_fold = [list(_held_out(path, view.features, target, weights, task, train, test)) for train, test in parts]
        strengths = [strength for strength, _ in by_fold[0]]
        logits = [np.concatenate([fold[step][1] for fold in by_fold]) for step in range(len(strengths))]
        held = np.concatenate([test for _, test in parts])
        truth, mass = target[held], weights[held]
    for strength, logit in zip(strengths, logits, strict=True):
        temperature = 1.0 if task == "regression" else _temperature(logit, truth, mass, task)
        yield _Choice(path, kind, view, strength, _score(logit / temperature, truth, mass, task, metric), temperature)


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
        logits = np.full((len(test), target.shape[1]), _NEVER_SEEN, np.float32)
        fitted = features[test] @ weight + bias
        logits[:, columns] = fitted - fitted.mean(axis=1, keepdims=True) if task == "classification" else fitted
        yield strength, logits


def _goal(target: np.ndarray, task: Task) -> np.ndarray:
    """What ridge is fitted to; labels become -1 and 1, so that the sigmoid's middle is the middle of the scores too."""
    return 2 * target - 1 if task == "multilabel" else target


def _ridge_left_out(features: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
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


def _temperature(logits: np.ndarray, target: np.ndarray, weights: np.ndarray, task: Task) -> float:
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
    value = 0.0 if metric is None else signed(metric, measure(metric, y, _link(logits, LINKS[task])))
    return value, -loss


def _n_parts(features: np.ndarray, target: np.ndarray) -> int:
    """How many of the folds are tried: all when that is cheap; one holds enough items to choose by when there are many."""
    work = features.size * target.shape[1]
    if len(features) >= _MANY:
        return 1
    return _INNER_FOLDS if work < _WORK_FOR_ALL_FOLDS else 3 if work < 3 * _WORK_FOR_ALL_FOLDS else 1


def _inner_folds(target: np.ndarray, task: Task, n_parts: int, seed: int, blocks: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
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


def _assemble(choice: _Choice, weight: np.ndarray, bias: np.ndarray, columns: np.ndarray, c: int, task: Task) -> LinearHead:
    """Undo the view's rotation, put in the temperature and the classes that the items lack."""
    if choice.view.rotation is not None:
        weight = choice.view.rotation @ weight
    if task == "classification":
        weight, bias = weight - weight.mean(axis=1, keepdims=True), bias - bias.mean()
    whole, level = np.zeros((len(weight), c), np.float32), np.full(c, _NEVER_SEEN, np.float32)
    whole[:, columns], level[columns] = weight / choice.temperature, bias / choice.temperature
    mean, scale = choice.view.mean.astype(np.float32), choice.view.scale.astype(np.float32)
    return LinearHead(mean, scale, whole, level, LINKS[task], choice.kind, float(choice.strength))


def _link(logits: np.ndarray, link: Link) -> np.ndarray:
    wide = logits.astype(np.float64)
    if link == "identity":
        return wide[:, 0]
    return softmax(wide, axis=1) if link == "softmax" else expit(wide)


def _paths(kind: "str | Callable[..., Path]", task: Task) -> dict[str, Callable[..., Path]]:
    """The kinds to choose from, by name."""
    fitting = [name for name in HEADS if task in HEADS[name].tasks]
    if kind == "auto":
        return {name: HEADS[name] for name in fitting}
    path = HEADS.resolve(kind)
    if task not in getattr(path, "tasks", (task,)):
        raise GraftError(f"head {kind!r} does not serve {task}, expected auto or one of {', '.join(fitting)}")
    return {kind if isinstance(kind, str) else getattr(kind, "__name__", "custom"): path}


def _item_weights(target: np.ndarray, task: Task, class_weight: "str | np.ndarray | None") -> np.ndarray:
    """(n,) with mean 1."""
    if class_weight is None:
        return np.ones(len(target))
    if task != "classification":
        raise GraftError(f"class_weight was given for {task}, expected None: only classification has one class an item")
    counts = target.sum(axis=0)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise GraftError(f"class_weight={class_weight!r}, expected None, 'balanced' or one number a class")
        class_weight = 1 / np.maximum(counts, 1)
    by_class = np.asarray(class_weight, float)
    if by_class.shape != counts.shape or not (by_class > 0).all():
        raise GraftError(f"class_weight has shape {by_class.shape}, expected {len(counts)} numbers above 0, one a class")
    weights = target @ by_class
    return weights / weights.mean()


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
