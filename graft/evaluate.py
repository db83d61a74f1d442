"""Judges: metrics, intervals, verdicts. They see predictions and labels, never who made them. numpy and SciPy only.

y and outputs, everywhere in this room (n items, c classes):
classification: y (n,) int class indices, outputs (n, c) probabilities; multilabel: y (n, c) of 0/1, outputs (n, c)
probabilities; regression: y (n,) and outputs (n,) values.
"""

from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import Any, Literal

import numpy as np
from scipy import stats

from graft.errors import GraftError, near_miss
from graft.outputs import decision
from graft.records import Difference, Score, Task, Verdict
from graft.registry import Registry

Metric = Callable[[np.ndarray, np.ndarray], float]

METRICS = Registry("metric")

_CALIBRATION_BINS = 15
_DRAWS = 2000
_SMALLEST_PROBABILITY = 1e-15


def traits(
    *tasks: Task,
    greater_is_better: bool = True,
    bounds: tuple[float, float] = (0.0, 1.0),
    per_item: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    decisions_only: bool = False,
) -> Callable[[Metric], Metric]:
    """Decorator: what a judge must know of a metric, kept as attributes of the function.

    tasks: which it can judge. bounds: smallest and largest value it can take.
    per_item: (y, outputs) -> (n,), where the metric is the mean of one number an item.
    decisions_only: the metric is the same when outputs are replaced by `decide(outputs)`; resampling is then fast.
    """

    def put(metric: Metric) -> Metric:
        given = {"tasks": tasks, "greater_is_better": greater_is_better, "bounds": bounds}
        metric.__dict__.update(given, per_item=per_item, decisions_only=decisions_only)
        return metric

    return put


def decide(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The decision in y's form: class index of each item (n,), or 0/1 of each label (n, c); ties go to the first class.

    Decisions themselves pass through unchanged.
    """
    return decision(outputs, _task(y, outputs))


def _task(y: np.ndarray, outputs: np.ndarray) -> Task:
    return "multilabel" if y.ndim == 2 else "classification" if outputs.ndim == 2 else "regression"


def _right(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(n,) of 0.0 or 1.0: is the decision right; with several labels: are all of them."""
    same = decide(y, outputs) == y
    return (same.all(axis=1) if y.ndim == 2 else same).astype(float)


def _surprise(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(n,) minus the log of the probability given to what was true, in nats; over labels the mean."""
    if y.ndim == 1:
        return -np.log(np.maximum(outputs[np.arange(len(y)), y], _SMALLEST_PROBABILITY))
    return -np.log(np.maximum(np.where(y > 0, outputs, 1.0 - outputs), _SMALLEST_PROBABILITY)).mean(axis=1)


def _miss(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    return np.abs(y - outputs)


def _counts(y: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class: items decided rightly as it, items that are it, items decided as it."""
    decided = decide(y, outputs)
    if y.ndim == 2:
        return (decided * y).sum(axis=0), y.sum(axis=0), decided.sum(axis=0)
    size = 1 + max(int(y.max()), int(decided.max()))
    return np.bincount(y[y == decided], minlength=size), np.bincount(y, minlength=size), np.bincount(decided, minlength=size)


@METRICS.add("share of right decisions; multi-label: share of items with every label right (subset accuracy)")
@traits("classification", "multilabel", per_item=_right, decisions_only=True)
def accuracy(y: np.ndarray, outputs: np.ndarray) -> float:
    """Share of items decided rightly; with several labels, of items with every label right."""
    return float(_right(y, outputs).mean())


@METRICS.add("Brodersen et al. 2010, doi:10.1109/ICPR.2010.764")
@traits("classification", decisions_only=True)
def balanced_accuracy(y: np.ndarray, outputs: np.ndarray) -> float:
    """Share of items decided rightly, taken class by class and averaged over the classes that occur in y."""
    hits, present, _ = _counts(y, outputs)
    return float((hits[present > 0] / present[present > 0]).mean())


@METRICS.add("van Rijsbergen 1979, Information Retrieval, ch. 7; averaged over classes")
@traits("classification", "multilabel", decisions_only=True)
def macro_f1(y: np.ndarray, outputs: np.ndarray) -> float:
    """Harmonic mean of precision and recall, averaged over the classes that occur in y or in the decisions."""
    hits, present, decided = _counts(y, outputs)
    met = present + decided > 0
    # Nothing to find and nothing claimed is all right.
    return float((2 * hits[met] / (present + decided)[met]).mean()) if met.any() else 1.0


@METRICS.add("van Rijsbergen 1979, Information Retrieval, ch. 7; over all labels at once")
@traits("multilabel", decisions_only=True)
def micro_f1(y: np.ndarray, outputs: np.ndarray) -> float:
    """Harmonic mean of precision and recall over all pairs of item and label."""
    hits, present, decided = (count.sum() for count in _counts(y, outputs))
    return float(2 * hits / (present + decided)) if present + decided else 1.0


@METRICS.add("Good 1952, doi:10.1111/j.2517-6161.1952.tb00104.x")
@traits("classification", "multilabel", greater_is_better=False, bounds=(0.0, inf), per_item=_surprise)
def log_loss(y: np.ndarray, outputs: np.ndarray) -> float:
    """Minus the log of the probability given to what was true, in nats, averaged over items (and labels); lower is better."""
    return float(_surprise(y, outputs).mean())


@METRICS.add("Guo et al. 2017, arXiv:1706.04599, eq. 3 (expected calibration error)")
@traits("classification", greater_is_better=False)
def calibration_error(y: np.ndarray, outputs: np.ndarray) -> float:
    """Gap between how sure the decisions are and how often they are right, over 15 bins of equal width; lower is better."""
    sureness = outputs.max(axis=1)
    bins = np.minimum((sureness * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=_right(y, outputs) - sureness, minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(y))


@METRICS.add("coefficient of determination; Wright 1921")
@traits("regression", bounds=(-inf, 1.0))
def r2(y: np.ndarray, outputs: np.ndarray) -> float:
    """Share of the variance of y that is explained: 1 is perfect, 0 as good as y's mean. A constant y gives 0, or 1 when met exactly."""
    left, total = float(((y - outputs) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return 1.0 - left / total if total > 0 else float(left == 0)


@METRICS.add("mean absolute error")
@traits("regression", greater_is_better=False, bounds=(0.0, inf), per_item=_miss)
def mae(y: np.ndarray, outputs: np.ndarray) -> float:
    """Mean absolute error, in the unit of y; lower is better."""
    return float(_miss(y, outputs).mean())


@METRICS.add("root mean squared error")
@traits("regression", greater_is_better=False, bounds=(0.0, inf))
def rmse(y: np.ndarray, outputs: np.ndarray) -> float:
    """Root of the mean squared error, in the unit of y; lower is better."""
    return float(np.sqrt(((y - outputs) ** 2).mean()))


def metrics_for(task: Task) -> list[str]:
    """Names of the metrics that can judge a task."""
    return [name for name in METRICS if task in METRICS[name].tasks]


def default_metric(task: Task, y: np.ndarray) -> tuple[str, str]:
    """The metric to choose by where the user named none, and the reason in words."""
    if task == "regression":
        return "r2", "R2, the share of variance explained, as the target is a number"
    if task == "multilabel":
        return "macro_f1", "macro F1, as an item may have several labels and rare ones count as much as common ones"
    largest = np.bincount(y).max() / len(y)
    # Above it a classifier that always names the largest class looks good by accuracy.
    if largest > 0.7:
        return "balanced_accuracy", f"balanced accuracy, as the largest class holds {largest:.0%} of the items"
    return "accuracy", f"accuracy, as no class holds more than 70 % of the items (the largest: {largest:.0%})"


def measure(metric: str | Metric, y: np.ndarray, outputs: np.ndarray) -> float:
    """The metric's value in its own unit. metric: a registered name, or a function (y, outputs) -> float.

    Raises GraftError when the shapes do not fit each other, outputs are not finite, or the metric does not judge this task.
    """
    judge, y, outputs = _checked(metric, y, outputs)
    return float(judge(y, outputs))


def signed(metric: str | Metric, value: float) -> float:
    """The value turned so that greater is better; so is a user's own function taken to be, unless it has `greater_is_better` = False."""
    return value if getattr(METRICS.resolve(metric), "greater_is_better", True) else -value


def per_class(y: np.ndarray, outputs: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class or label: class, precision, recall, f1 (each in [0, 1]) and n, its items. A share of nothing is 0."""
    _, y, outputs = _checked("macro_f1", y, outputs)
    decided = decide(y, outputs)
    if y.ndim == 1:
        y, decided = (np.eye(len(classes), dtype=np.int64)[side] for side in (y, decided))
    hits, present, claimed = _counts(y, decided)
    return [
        {
            "class": name,
            "precision": float(hit / max(claim, 1)),
            "recall": float(hit / max(n, 1)),
            "f1": float(2 * hit / max(claim + n, 1)),
            "n": int(n),
        }
        for name, hit, n, claim in zip(classes, hits, present, claimed, strict=True)
    ]


def confusion(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """(c, c) int: items of true class (row) decided as class (column). Classification only."""
    _, y, outputs = _checked("balanced_accuracy", y, outputs)
    c = outputs.shape[1]
    return np.bincount(y * c + decide(y, outputs), minlength=c * c).reshape(c, c)


def interval_over_folds(
    scores: Sequence[float], n_train: int, n_test: int, *, n: int, metric: str | Metric | None = None, seeds: Sequence[int] = ()
) -> Score:
    """Mean over the folds of (repeated) cross-validation, with a 95 % interval that allows for overlapping training parts.

    scores: (J,) one a fold. n_train, n_test: items in one fold's parts. n: items in all. metric: its bounds cut the interval.
    Source: corrected resampled t, Nadeau & Bengio 2003, doi:10.1023/A:1024068626366, section 3. Differs: see `_half_width`.
    One score says nothing about its doubt: the interval is then as wide as the metric's bounds.
    """
    low, high = getattr(METRICS.resolve(metric), "bounds", (-inf, inf)) if metric is not None else (-inf, inf)
    mean, half = float(np.mean(scores)), _half_width(np.asarray(scores, float), n_train, n_test)
    return Score(mean, (max(low, mean - half), min(high, mean + half)), n, tuple(seeds))


def verdict(
    transfer_scores: Sequence[float], control_scores: Sequence[float], *, n_train: int, n_test: int, against: str, n: int
) -> Verdict:
    """Whether transfer beats the control over the same folds: their paired differences, by the corrected resampled t.

    transfer_scores, control_scores: (J,) fold by fold, greater is better (see `signed`). n_train, n_test: items in one
    fold's parts. against: the control's name. n: items judged in all.
    Raises GraftError when the two have different numbers of folds, none, or scores that are not finite.
    Source: Nadeau & Bengio 2003, doi:10.1023/A:1024068626366.
    """
    names = ("transfer", against)
    return _judge(difference_over_folds(transfer_scores, control_scores, n_train=n_train, n_test=n_test, n=n, names=names), against)


def difference_over_folds(
    first: Sequence[float], second: Sequence[float], *, n_train: int, n_test: int, n: int, names: tuple[str, str] = ("first", "second")
) -> Difference:
    """First minus second over the same folds, by the corrected resampled t. Arguments, errors and source: as in `verdict`."""
    ours, theirs = np.asarray(first, float), np.asarray(second, float)
    if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
        raise GraftError(
            f"verdict: {names[0]} has {ours.size} scores and {names[1]} has {theirs.size}, expected one of each for every fold. "
            "Score both on the same folds."
        )
    if not np.isfinite(ours - theirs).all():
        raise GraftError(f"verdict: fold {int(np.argmin(np.isfinite(ours - theirs)))} has a score that is not finite. Leave it out.")
    differences = ours - theirs
    effect, half = float(differences.mean()), _half_width(differences, n_train, n_test)
    error, test = _standard_error(differences, n_train, n_test), f"corrected resampled t over {len(differences)} folds"
    p = 2 * float(stats.t.sf(abs(effect) / error, len(differences) - 1)) if isfinite(error) else 1.0
    return Difference(effect, (effect - half, effect + half), p, n, test)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """(m,) p-values adjusted for all m being looked at: what is below 0.05 is wrong about any of them in at most 5 % of such studies.

    p_values: (m,), each in [0, 1]. Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def interval_over_items(metric: str | Metric, y: np.ndarray, outputs: np.ndarray, seed: int, draws: int = _DRAWS) -> Score:
    """The metric on one test set, with a 95 % interval over its items.

    Accuracy: Wilson's interval, which stays honest at 0 and 1 (Wilson 1927, doi:10.1080/01621459.1927.10502953). Others:
    percentile bootstrap, Efron & Tibshirani 1993, ch. 13. seed: of the draws. A single item gives the metric's bounds.
    """
    judge, y, outputs = _checked(metric, y, outputs)
    value, n = float(judge(y, outputs)), len(y)
    if judge is accuracy:
        between = stats.binomtest(round(value * n), n).proportion_ci(method="wilson")
        return Score(value, (float(between.low), float(between.high)), n, (seed,))
    if n < 2:
        return Score(value, getattr(judge, "bounds", (-inf, inf)), n, (seed,))
    low, high = np.quantile(resampled(judge, y, (outputs,), seed, draws)[0], (0.025, 0.975))
    return Score(value, (float(low), float(high)), n, (seed,))


def verdict_on_items(
    metric: str | Metric, y: np.ndarray, transfer_outputs: np.ndarray, control_outputs: np.ndarray, *, seed: int, against: str
) -> Verdict:
    """Whether transfer beats the control on one test set: paired bootstrap over its items (the same draw for both).

    Source: Efron & Tibshirani 1993, ch. 13. Differs, for metrics that are a mean over items: one item is added in favour of each
    side before resampling, as Bonett & Price 2012 (doi:10.3102/1076998611411915) do for paired shares; without it a
    few disagreements in a small test set pass for certainty. The effect itself is the plain difference.
    """
    return _judge(difference_on_items(metric, y, transfer_outputs, control_outputs, seed=seed), against)


def difference_on_items(metric: str | Metric, y: np.ndarray, first: np.ndarray, second: np.ndarray, *, seed: int) -> Difference:
    """First minus second on one test set, by the paired bootstrap of `verdict_on_items`.

    p: twice the share of draws on the other side of zero, the observed difference counted among them, so at least 2 / 2001
    (Davison & Hinkley 1997, eq. 4.11).
    """
    judge, y, ours = _checked(metric, y, first)
    _, _, theirs = _checked(metric, y, second)
    effect = signed(judge, float(judge(y, ours))) - signed(judge, float(judge(y, theirs)))
    test = f"paired bootstrap over {len(y)} items"
    if len(y) < 2:
        return Difference(effect, (-inf, inf), 1.0, len(y), test)
    if getattr(judge, "per_item", None) is not None:
        gains = signed(judge, 1.0) * (judge.per_item(y, ours) - judge.per_item(y, theirs))
        low, high = judge.bounds
        one_item = high - low if isfinite(high - low) else float(np.abs(gains).max())
        gains = np.append(gains, (one_item, -one_item))
        differences = _resampled_means(gains, seed, _DRAWS)
    else:
        of_ours, of_theirs = resampled(judge, y, (ours, theirs), seed, _DRAWS)
        differences = signed(judge, 1.0) * (of_ours - of_theirs)
    low, high = np.quantile(differences, (0.025, 0.975))
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return Difference(effect, (float(low), float(high)), min(1.0, 2 * (1 + beyond) / (1 + len(differences))), len(y), test)


def _judge(difference: Difference, against: str) -> Verdict:
    low, high = difference.interval
    outcome: Literal["helps", "no difference shown", "hurts"] = "helps" if low > 0 else "hurts" if high < 0 else "no difference shown"
    return Verdict(outcome, difference.effect, difference.interval, against, difference.n, difference.test)


def _half_width(values: np.ndarray, n_train: int, n_test: int) -> float:
    """Half the 95 % interval of the mean of J folds: variance (1/J + n_test/n_train) s^2, J - 1 degrees of freedom.

    Differs from the paper: s is at least 1/n_test, the worth of one test item, since scores of small folds are often all
    equal and that is no proof of certainty.
    """
    if len(values) < 2:
        return inf
    return float(stats.t.ppf(0.975, len(values) - 1)) * _standard_error(values, n_train, n_test)


def _standard_error(values: np.ndarray, n_train: int, n_test: int) -> float:
    if len(values) < 2:
        return inf
    spread = max(float(values.std(ddof=1)), 1 / n_test)
    return spread * float(np.sqrt(1 / len(values) + n_test / n_train))


def resampled(metric: str | Metric, y: np.ndarray, sides: Sequence[np.ndarray], seed: int, draws: int = _DRAWS) -> np.ndarray:
    """(sides, draws) values of the metric on items drawn with replacement, the same items for every side.

    y, sides: as in the room; each side is the outputs of one model for the items of y. seed: of the draws.
    """
    judge: Any = METRICS.resolve(metric)
    if getattr(judge, "decisions_only", False):
        sides = [decide(y, side) for side in sides]
    if getattr(judge, "per_item", None) is not None:
        return np.stack([_resampled_means(judge.per_item(y, side), seed, draws) for side in sides])
    rng = np.random.default_rng(seed)
    values = np.empty((len(sides), draws))
    for draw in range(draws):
        index = rng.integers(len(y), size=len(y))
        values[:, draw] = [judge(y[index], side[index]) for side in sides]
    return values


def _resampled_means(values: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """(draws,) means of n values drawn with replacement; one draw at a time, so that memory stays at n."""
    rng = np.random.default_rng(seed)
    return np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)])


def _checked(metric: str | Metric, y: np.ndarray, outputs: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
    """The metric's function, y and outputs as arrays that fit it."""
    judge, y, outputs = METRICS.resolve(metric), np.asarray(y), np.asarray(outputs)
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    task = _task(y, outputs)
    if not len(y):
        raise GraftError(f"{name}: there is no item to judge, expected at least 1")
    if len(y) != len(outputs) or (y.ndim == 2 and y.shape != outputs.shape):
        raise GraftError(f"{name}: y has shape {y.shape} and outputs {outputs.shape}, expected one row of outputs for each item of y")
    if not np.isfinite(outputs).all():
        bad = int((~np.isfinite(outputs.reshape(len(outputs), -1))).any(axis=1).sum())
        raise GraftError(f"{name}: outputs of {bad} of {len(y)} items are not finite, expected numbers. Look at the model that made them")
    if task not in getattr(judge, "tasks", (task,)):
        raise GraftError(
            f"metric {name!r} does not judge {task}, expected one of {', '.join(metrics_for(task))}.{near_miss(name, metrics_for(task))}"
        )
    if task == "classification" and (y.min() < 0 or y.max() >= outputs.shape[1]):
        raise GraftError(f"{name}: y holds classes {y.min()} to {y.max()}, but outputs have 0 to {outputs.shape[1] - 1}")
    return judge, y.astype(np.int64) if task == "classification" else y, outputs
