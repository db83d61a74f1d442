"""Validators that look at the target's features and the classes given to them: do they lie in groups? numpy and scikit-learn."""

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

from graft.scatter import in_own_order
from graft.validators.base import VALIDATORS, Judged, needs

# Hu et al. 2023, the authors' code: a mixture is a little nearer to the item whose class it should keep.
_SHARE = 0.55
# Of each item: with one, which items met decided between models of 300 items.
_PARTNERS = 5
# Below this share of all scatter, what is left within groups is rounding.
_NO_SPREAD = 1e-12


@VALIDATORS.add("Garrido et al. 2023, arXiv:2210.02885")
@needs()
def rankme(judged: Judged) -> float:
    """How many directions the target's features fill: few where features collapsed.

    1 to min(m, e), of at most 2,000 items.
    """
    return judged.rank


@VALIDATORS.add("Hruschka et al. 2006, doi:10.1016/j.ins.2005.07.015; Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7")
@needs()
def silhouette(judged: Judged) -> float:
    """Simplified silhouette: how much nearer items lie to their predicted class's mean than to another.

    Mean of (b - a) / max(a, b), a the distance to the own class's mean, b to the nearest other. Of at most 2,000 items.
    -1 to 1; -1 where all have one class. The only item of a class has 0.
    """
    rows, labels, means = _grouped(judged)
    if len(means) < 2:
        return -1.0
    distances = np.stack([np.linalg.norm(rows - mean, axis=1) for mean in means], axis=1)
    places = np.arange(len(rows))
    own = distances[places, labels]
    distances[places, labels] = np.inf
    other = distances.min(axis=1)
    wider = np.maximum(own, other)
    shares = np.divide(other - own, wider, out=np.zeros_like(own), where=wider > 0)
    return float(np.where(np.bincount(labels)[labels] > 1, shares, 0.0).mean())


@VALIDATORS.add("Calinski & Harabasz 1974, doi:10.1080/03610927408827101")
@needs()
def calinski(judged: Judged) -> float:
    """Scatter between the predicted classes over that within them (Calinski-Harabasz index).

    Each by its degrees of freedom, of at most 2,000 items. At least 0; 0 where all have one class, each has its own, or no feature varies.
    Differs: at most about 1e12 (m - c) where nothing is left within, which scikit-learn calls 1.
    """
    rows, labels, means = _grouped(judged)
    if len(means) < 2 or len(means) == len(rows):
        return 0.0
    centre = rows.mean(axis=0)
    between = float(np.bincount(labels) @ ((means - centre) ** 2).sum(axis=1))
    within = float(((rows - means[labels]) ** 2).sum())
    if between + within == 0:
        return 0.0
    within = max(within, _NO_SPREAD * (between + within))
    return between / within * (len(rows) - len(means)) / (len(means) - 1)


@VALIDATORS.add("Musgrave et al. 2022, arXiv:2208.07360")
@needs()
def class_ami(judged: Judged) -> float:
    """Adjusted mutual information of the predicted classes and k-means clusters of the target's features (ClassAMI).

    Of at most 2,000 items. About 0 by chance, 1 where they are the same; -1 where all have one class.
    Clusters start from the means of the predicted classes, one of the authors' ways; no draw is in it.
    """
    labels = judged.predicted[judged.drawn]
    if (labels == labels[0]).all():
        return -1.0
    return float(adjusted_mutual_info_score(labels, judged.clusters))


@VALIDATORS.add("Musgrave et al. 2022, arXiv:2208.07360; Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7")
@needs()
def class_ss(judged: Judged) -> float:
    """Silhouette of the clusters that `class_ami` compares with: whether the target's features form groups (ClassSS).

    Of at most 2,000 items. -1 to 1; -1 where there is one cluster, or each item is its own.
    """
    found = len(np.unique(judged.clusters))
    if not 2 <= found < len(judged.clusters):
        return -1.0
    return float(silhouette_score(judged.target[judged.drawn].astype(float), judged.clusters))


@VALIDATORS.add("Hu et al. 2023, NeurIPS, openreview.net/forum?id=ackajXqei2")
@needs()
def mixval(judged: Judged) -> float:
    """Share of mixtures of two target items of different predicted classes that are given the class of the nearer one.

    0 to 1. A mixture is 0.55 of one item and 0.45 of another; each of at most 2,000 items has five partners, drawn with the seed.
    0 where all have one class. Differs: features are mixed instead of images, and of the authors' two probes this is that between classes:
    within one, a linear last layer never changes its mind.
    """
    target, labels = judged.target[judged.drawn], judged.predicted[judged.drawn]
    order = in_own_order(target, np.zeros(len(target)))
    order = order[np.random.default_rng(judged.seed).permutation(len(order))]
    kept = pairs = 0
    for step in range(1, _PARTNERS + 1):
        partner = np.roll(order, step)
        apart = labels[order] != labels[partner]
        if apart.any():
            mixed = judged.predict(_SHARE * target[order[apart]] + (1 - _SHARE) * target[partner[apart]])
            kept += int((mixed.argmax(axis=1) == labels[order[apart]]).sum())
            pairs += int(apart.sum())
    return kept / pairs if pairs else 0.0


def _grouped(judged: Judged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The drawn target items' features (n, e), their predicted classes as 0 to k - 1 (n,), and each one's mean (k, e)."""
    rows = judged.target[judged.drawn].astype(float)
    labels = np.unique(judged.predicted[judged.drawn], return_inverse=True)[1]
    means = np.stack([rows[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    return rows, labels, means
