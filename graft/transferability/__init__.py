"""How well a backbone's features suit a labelled data set, and how far apart two domains lie. numpy, SciPy, scikit-learn; never torch.

A score is a function of features (n, d) and labels (n,), a distance one of source (n, d) and target (m, d). Every score is higher where
features suit better. All raise GraftError, naming what does not fit, for: features that are no (n, d) numbers, not finite, of fewer than 4
items or the same for all items; labels of another number than the features, of one class, or all different. Above 5,000 items whose
features are also more than 5,000, 5,000 items are drawn by class, with a warning.
"""

import numpy as np

from graft.errors import GraftError, near_miss
from graft.records import Task
from graft.transferability import (
    coding_rate,
    discriminant,
    distances,
    evidence,
    held_out,
    neighbours,
    separation,
    similarity,
    source_outputs,
)
from graft.transferability.base import DISTANCES, LABEL_FREE_SCORES, REGRESSION_SCORES, SCORES, SOURCE_SCORES

__all__ = [
    "DISTANCES",
    "LABEL_FREE_SCORES",
    "REGRESSION_SCORES",
    "SCORES",
    "SOURCE_SCORES",
    "all_scores",
    "coding_rate",
    "discriminant",
    "distances",
    "drawn_items",
    "evidence",
    "held_out",
    "neighbours",
    "separation",
    "similarity",
    "source_outputs",
]


def all_scores(features: np.ndarray, labels: np.ndarray, task: Task, source_outputs: np.ndarray | None = None) -> dict[str, float]:
    """Every score that applies, by name.

    features: (n, d) float. labels: (n,), int for classification, float for regression. source_outputs: (n, z) probabilities of the
    source's own classifier, for classification; without them NCE and LEEP are left out.
    Raises GraftError naming the input that does not fit: see the room; for a task that has no scores; for source_outputs with regression.
    """
    registries = {"classification": SCORES, "regression": REGRESSION_SCORES}
    if task not in registries:
        raise GraftError(f"task {task!r} has no scores, expected one of {', '.join(registries)}.{near_miss(task, registries)}")
    if source_outputs is not None and task != "classification":
        raise GraftError(f"source_outputs were given for {task}, expected None: NCE and LEEP need classes.")
    scores = {name: registries[task][name](features, labels) for name in registries[task]}
    if source_outputs is not None:
        if len(source_outputs) != len(features):
            raise GraftError(
                f"source_outputs of {len(source_outputs)} items and features of {len(features)}, expected one row for each item."
            )
        scores |= {name: SOURCE_SCORES[name](features, labels, source_outputs) for name in SOURCE_SCORES}
    return scores | {name: LABEL_FREE_SCORES[name](features) for name in LABEL_FREE_SCORES}


def drawn_items(n: int) -> dict[str, int]:
    """Scores that look at fewer than n items, drawn by class, by name: at how many. All others look at all, but for those of the room."""
    at_most = {
        "knn": neighbours._MOST_ITEMS,
        "logistic_cv": held_out._LOGISTIC_ITEMS,
        "nleep": source_outputs._MOST_ITEMS,
        "parc": similarity._PARC_ITEMS,
    }
    return {name: most for name, most in at_most.items() if most < n}
