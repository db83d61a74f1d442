"""What a validator sees of a model, and the registry of validators. numpy only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graft.registry import Registry

# name -> (judged) -> a number, higher is better
VALIDATORS = Registry("validator")


@dataclass(frozen=True)
class Judged:
    """A classifier of c classes, and what may be known of it without a target label.

    source: (v, e) features, as the model sees them, of source items that it did not learn from; source_labels: (v,) int;
    source_outputs: (v, c) its probabilities for them. learned: (n, e) features of the source items that it learned from;
    learned_labels: (n,) int. target: (m, e) features; target_outputs: (m, c) probabilities.
    predict: (features (k, e)) -> probabilities (k, c), the model's last layer.
    fit: (rows (k, e), labels (k,)) -> a function (rows) -> probabilities (., c): a new classifier of the same kind.
    others: name -> (m, c) probabilities for the target of other models that were made on the same data.
    prior: (c,) shares of the classes in the source. seed: of everything drawn.
    """

    source: np.ndarray
    source_labels: np.ndarray
    source_outputs: np.ndarray
    learned: np.ndarray
    learned_labels: np.ndarray
    target: np.ndarray
    target_outputs: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
    prior: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
