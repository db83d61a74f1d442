"""Scores from what a source classifier, or a mixture in its place, says of the items: NCE, LEEP, NLEEP. numpy and scikit-learn only."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from graft.scatter import one_thread, principal_axes
from graft.transferability.base import SCORES, SOURCE_SCORES, checked_classes, checked_outputs, draw_items

# What keeps NLEEP under two seconds.
_MOST_ITEMS = 2000
_MOST_AXES = 64
_KEPT_VARIANCE = 0.8


@SOURCE_SCORES.add("Tran et al. 2019, arXiv:1908.08142")
def nce(features: np.ndarray, labels: np.ndarray, source_outputs: np.ndarray) -> float:
    """Minus the entropy of the label given the class that the source's own classifier chooses (negative conditional entropy).

    features: (n, d), unused. labels: (n,) int. source_outputs: (n, z) probabilities, of which the largest counts.
    Returns nats, -log(c) to 0, higher is better; it grows where the source has many classes, few items each.
    Raises GraftError for inputs of different n, outputs that are no probabilities, fewer than 4 items or 2 classes.
    """
    labels, outputs = checked_outputs("nce", features, labels, source_outputs)
    joint = np.zeros((labels.max() + 1, outputs.shape[1]))
    np.add.at(joint, (labels, outputs.argmax(axis=1)), 1 / len(labels))
    label, chosen = np.nonzero(joint)
    return float((joint[label, chosen] * np.log(joint[label, chosen] / joint.sum(axis=0)[chosen])).sum())


@SOURCE_SCORES.add("Nguyen et al. 2020, arXiv:2002.12462, equation 2")
def leep(features: np.ndarray, labels: np.ndarray, source_outputs: np.ndarray) -> float:
    """Mean log-likelihood of the labels when each is drawn given a source class, and that from the source classifier's output.

    features: (n, d), unused. labels: (n,) int. source_outputs: (n, z) probabilities.
    Returns nats, -log(c) to 0, higher is better.
    Raises GraftError for inputs of different n, outputs that are no probabilities, fewer than 4 items or 2 classes.
    """
    labels, outputs = checked_outputs("leep", features, labels, source_outputs)
    return _expected_prediction(labels, outputs)


@SCORES.add("Li et al. 2021, arXiv:2011.11200")
@one_thread
def nleep(features: np.ndarray, labels: np.ndarray) -> float:
    """LEEP with a mixture of Gaussians in the place of the source's classes: needs no source classifier.

    features: (n, d) float. labels: (n,) int. The mixture has 5 components a class, fitted on the axes that hold 80 % of the variance.
    Returns nats, up to 0, higher is better. Raises GraftError as all scores do: see the room.
    Differs: at most 2,000 items (drawn by class) and 64 axes, Gaussians of diagonal covariance, components at most a quarter of the items,
    all for speed; with so few items one component each would score 0 whatever the features.
    """
    features, labels = checked_classes("nleep", features, labels)
    features, labels = draw_items(features, labels, _MOST_ITEMS)
    turned = _main_axes(features)
    mixture = GaussianMixture(components_for(labels), covariance_type="diag", random_state=0, reg_covar=1e-6 * turned.var(axis=0).mean())
    with warnings.catch_warnings():
        # A component more or less settled changes what the labels get little, and the paper sets no number of steps.
        warnings.simplefilter("ignore", ConvergenceWarning)
        outputs = mixture.fit(turned).predict_proba(turned)
    return _expected_prediction(labels, outputs)


def components_for(labels: np.ndarray) -> int:
    """Components of NLEEP's mixture: 5 a class, at most a quarter of the items."""
    return max(1, min(5 * (int(labels.max()) + 1), len(labels) // 4))


def _main_axes(features: np.ndarray) -> np.ndarray:
    """Items along the fewest axes that hold 80 % of the variance, at most 64."""
    centred = features - features.mean(axis=0)
    squares, axes = principal_axes(centred, at_most=_MOST_AXES)
    share = np.cumsum(squares) / (centred**2).sum()
    return centred @ axes[:, : int(np.searchsorted(share, _KEPT_VARIANCE)) + 1]


def _expected_prediction(labels: np.ndarray, outputs: np.ndarray) -> float:
    """Mean log of sum over z of P(label | z) P(z | item), P(label | z) being counted from the items themselves."""
    joint = np.zeros((labels.max() + 1, outputs.shape[1]))
    np.add.at(joint, labels, outputs)
    # A source class that no item has says nothing of any label.
    given = joint / np.maximum(joint.sum(axis=0), np.finfo(float).tiny)
    return float(np.log((given[labels] * outputs).sum(axis=1)).mean())
