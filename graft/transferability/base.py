"""What all scores and distances share: the registries, the checks of their input, draws of items. numpy only."""

import warnings
from collections.abc import Iterable

import numpy as np

from graft.data.split import draw
from graft.errors import GraftError, raise_all
from graft.records import Task
from graft.registry import Registry
from graft.scatter import in_own_order

SCORES = Registry("score")
REGRESSION_SCORES = Registry("regression score")
SOURCE_SCORES = Registry("source score")
LABEL_FREE_SCORES = Registry("label-free score")
DISTANCES = Registry("distance")

# Fewer leave nothing to compare: two of one class and two of another.
FEWEST_ITEMS = 4
# The largest table of pairs of items, or of features, that is made.
MOST_ITEMS = 5000
# How far rows of probabilities may be from 1: float16 holds three digits.
_NOT_ONE = 1e-2


def checked_classes(where: str, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) as float64 and labels (n,) as 0 to c - 1, in the order of the labels.

    where: the score's name, for the messages. Raises GraftError naming everything that does not fit: see `checked_features`; labels that
    are not one integer an item, of one class only, or all different.
    """
    labels = np.asarray(labels)
    problems = _label_problems(where, features, labels)
    if not problems:
        if not np.issubdtype(labels.dtype, np.integer):
            problems.append(f"score {where}: labels are {labels.dtype}, expected integers, one class an item.")
        else:
            classes, labels = np.unique(labels, return_inverse=True)
            if len(classes) < 2:
                problems.append(f"score {where}: {len(labels)} items of 1 class, expected at least 2 classes. Add items of another class.")
            elif len(classes) == len(labels):
                problems.append(
                    f"score {where}: {len(labels)} items of {len(classes)} classes, expected a class with 2 items. "
                    "Are the labels numbers or ids? For numbers ask for regression."
                )
    return at_most_items(where, checked_features(where, features, problems), labels, "classification")


def checked_numbers(where: str, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and labels (n,) as float64.

    Raises GraftError naming everything that does not fit: see `checked_features`; labels that are not finite, or all the same.
    """
    labels = np.asarray(labels)
    problems = _label_problems(where, features, labels)
    if not problems:
        if not np.issubdtype(labels.dtype, np.number):
            problems.append(f"score {where}: labels are {labels.dtype}, expected numbers. For classes ask for classification.")
        elif bad := int((~np.isfinite(labels)).sum()):
            problems.append(
                f"score {where}: labels of {bad} of {len(labels)} items are not finite, expected numbers. Leave those items out."
            )
        elif len(labels) and np.ptp(labels) == 0:
            problems.append(f"score {where}: every label is {labels[0]}, expected labels that vary.")
    return at_most_items(where, checked_features(where, features, problems), labels.astype(np.float64), "regression")


def checked_outputs(where: str, features: np.ndarray, labels: np.ndarray, source_outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) as 0 to c - 1 and outputs (n, z) as float64 rows that sum to 1. features: (n, d), of which only n is looked at.

    Raises GraftError for outputs that are no probabilities, features or outputs of another number of items than labels, and for labels as
    in `checked_classes`.
    """
    outputs = np.asarray(source_outputs)
    problems = _label_problems(where, features, np.asarray(labels))
    if outputs.ndim != 2 or not np.issubdtype(outputs.dtype, np.number) or not outputs.shape[1]:
        problems.append(f"score {where}: source_outputs have shape {outputs.shape} of {outputs.dtype}, expected (n, z) probabilities.")
    elif not np.isfinite(outputs).all() or (outputs < 0).any() or (np.abs(outputs.sum(axis=1) - 1) > _NOT_ONE).any():
        problems.append(
            f"score {where}: source_outputs hold {outputs.min():.4g} to {outputs.max():.4g} and rows that sum to "
            f"{outputs.sum(axis=1).min():.4g} to {outputs.sum(axis=1).max():.4g}, expected probabilities that sum to 1. "
            "Apply a softmax to the logits first."
        )
    elif np.ndim(labels) == 1 and len(outputs) != len(labels):
        problems.append(f"score {where}: source_outputs of {len(outputs)} items and {len(labels)} labels, expected one row for each item.")
    raise_all(problems)
    # What is asked of the labels is the same; that constant outputs tell nothing is an answer here, not a fault.
    varied = np.column_stack([outputs, np.arange(len(outputs))])
    _, labels = checked_classes(where, varied, labels)
    outputs = outputs.astype(np.float64)
    return labels, outputs / outputs.sum(axis=1, keepdims=True)


def checked_features(
    where: str, features: np.ndarray, problems: Iterable[str] = (), kind: str = "score", side: str = "features"
) -> np.ndarray:
    """Features (n, d) as float64. problems: of the other inputs, raised together with those of the features.

    Raises GraftError for features that are not (n, d) numbers, fewer than 4 items, values that are not finite, and features that are the
    same for all items.
    """
    features, problems = np.asarray(features), list(problems)
    if features.ndim != 2 or not (np.issubdtype(features.dtype, np.number) or features.dtype == bool) or not features.shape[1]:
        problems.append(
            f"{kind} {where}: {side} have shape {features.shape} of {features.dtype}, expected (n, d) numbers, one row an item."
        )
    elif len(features) < FEWEST_ITEMS:
        problems.append(f"{kind} {where}: {side} of {len(features)} items, expected at least {FEWEST_ITEMS}. Add items.")
    elif bad := int((~np.isfinite(features)).any(axis=1).sum()):
        problems.append(
            f"{kind} {where}: {side} of {bad} of {len(features)} items are not finite, expected numbers. "
            "Look at those items, or at the backbone."
        )
    elif not (features != features[0]).any():
        problems.append(
            f"{kind} {where}: {side} are the same for all {len(features)} items, expected features that vary. "
            "The backbone sees no difference: was its input prepared for it?"
        )
    raise_all(problems)
    return features.astype(np.float64)


def checked_pair(where: str, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source (n, d) and target (m, d) as float64; GraftError as in `checked_features`, and for another number of features."""
    source = checked_features(where, source, kind="distance", side="source features")
    target = checked_features(where, target, kind="distance", side="target features")
    if source.shape[1] != target.shape[1]:
        raise GraftError(
            f"distance {where}: source has {source.shape[1]} features and target {target.shape[1]}, expected the same. "
            "Run one backbone over both."
        )
    return source, target


def _label_problems(where: str, features: np.ndarray, labels: np.ndarray) -> list[str]:
    if labels.ndim != 1:
        return [f"score {where}: labels have shape {labels.shape}, expected (n,), one an item."]
    if np.ndim(features) == 2 and len(labels) != len(features):
        return [f"score {where}: features of {len(features)} items and {len(labels)} labels, expected one label for each item."]
    return []


def at_most_items(where: str, features: np.ndarray, labels: np.ndarray, task: Task, kind: str = "score") -> tuple[np.ndarray, np.ndarray]:
    """Features and labels as they are; where items and features both are more than 5,000, those of 5,000 items, with a warning."""
    if min(features.shape) <= MOST_ITEMS:
        return features, labels
    warnings.warn(
        f"{kind} {where}: {len(features)} items of {features.shape[1]} features are too many at once; it is that of {MOST_ITEMS} of them.",
        stacklevel=4,
    )
    return draw_items(features, labels, MOST_ITEMS, task)


def draw_items(features: np.ndarray, labels: np.ndarray, at_most: int, task: Task = "classification") -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of at most so many items, each class (or tenth of the numbers) in its share, put `in_own_order`."""
    order = in_own_order(features, labels)
    if len(order) > at_most:
        order = order[draw(labels[order], task, at_most, seed=0)]
    return features[order], labels[order]


def class_sums(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (c, d) of each class's features, and its number of items (c,). labels: 0 to c - 1."""
    counts = np.bincount(labels)
    grouped = features[np.argsort(labels, kind="stable")]
    return np.add.reduceat(grouped, np.concatenate([[0], np.cumsum(counts)[:-1]]), axis=0), counts
