"""Scores that count how many directions features fill: TransRate, and without labels RankMe. numpy and SciPy only."""

import numpy as np
from scipy.linalg import cholesky

from graft.scatter import effective_rank, one_thread
from graft.transferability.base import LABEL_FREE_SCORES, SCORES, at_most_items, checked_classes, checked_features

# The authors' value.
_DISTORTION = 1e-4


@SCORES.add("Huang et al. 2022, arXiv:2106.09362")
@one_thread
def transrate(features: np.ndarray, labels: np.ndarray) -> float:
    """Nats that knowing the class saves when features are coded: their coding rate less that within classes (TransRate).

    features: (n, d) float; the rates hang on their scale against the distortion, 1e-4, as in the paper. labels: (n,) int.
    Returns nats, at least 0, higher is better. Raises GraftError as all scores do: see the room.
    Differs: a class's rate weighs by its share of the items, the paper's equation; its listing weighs all classes alike.
    """
    features, labels = checked_classes("transrate", features, labels)
    features -= features.mean(axis=0)
    shares = np.bincount(labels) / len(labels)
    within = sum(share * _rate(features[labels == label]) for label, share in enumerate(shares))
    return float(_rate(features) - within)


@LABEL_FREE_SCORES.add("Garrido et al. 2023, arXiv:2210.02885; Roy & Vetterli 2007, the effective rank")
@one_thread
def rankme(features: np.ndarray) -> float:
    """How many directions the features fill: exp of the entropy of their singular values' shares (RankMe, effective rank).

    features: (n, d) float, not centred. Returns 1 to min(n, d), higher is better: low where a backbone collapsed.
    Raises GraftError as all scores do: see the room.
    """
    features = checked_features("rankme", features)
    features, _ = at_most_items("rankme", features, np.zeros(len(features), int), "classification")
    return effective_rank(features)


def _rate(features: np.ndarray) -> float:
    """Coding rate: half the log determinant of 1 + X'X / (n x distortion)."""
    wide = len(features) < features.shape[1]
    product = (features @ features.T if wide else features.T @ features) / (len(features) * _DISTORTION)
    product.flat[:: len(product) + 1] += 1
    return float(np.log(cholesky(product, overwrite_a=True, check_finite=False).diagonal()).sum())
