"""The score of nearest neighbours. numpy only."""

import numpy as np

from graft.scatter import one_thread
from graft.transferability.base import SCORES, checked_classes, draw_items

_MOST_ITEMS = 5000
_BLOCK = 1000


@SCORES.add("Cover & Hart 1967, doi:10.1109/TIT.1967.1053964")
@one_thread
def knn(features: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    """Share of items whose class is that of the majority of their k nearest others.

    features: (n, d) float, Euclidean distances. labels: (n,) int. k: neighbours, of n - 1 at most.
    Returns 0 to 1, higher is better. Raises GraftError as all scores do: see the room.
    Differs: ties go to the smaller label; above 5,000 items, 5,000 drawn by class.
    """
    features, labels = checked_classes("knn", features, labels)
    features, labels = draw_items(features, labels, _MOST_ITEMS)
    # float32 and centred: twice as fast, and no digits are lost to a common offset.
    features = (features - features.mean(axis=0)).astype(np.float32)
    lengths = (features**2).sum(axis=1)
    right = 0
    for start in range(0, len(labels), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(labels)))
        distances = lengths - 2 * features[block] @ features.T
        distances[np.arange(len(block)), block] = np.inf
        votes = np.zeros((len(block), labels.max() + 1))
        for _ in range(min(k, len(labels) - 1)):
            nearest = distances.argmin(axis=1)
            votes[np.arange(len(block)), labels[nearest]] += 1
            distances[np.arange(len(block)), nearest] = np.inf
        right += int((votes.argmax(axis=1) == labels[block]).sum())
    return right / len(labels)
