"""The target's items labelled by the model itself: in growing rounds, by filtered prototypes, or by clusters. numpy only."""

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from graft.data.split import holdout
from graft.errors import GraftError
from graft.shift.base import Adapted, Domains, method, unmoved

# Of the source, to see whether what self-training learns still fits it.
_HELD_OUT = 0.2
# What may be lost before a round counts as a collapse: of accuracy on the source, beyond twice its standard error; of mean confidence.
_ACCURACY_LOST, _CONFIDENCE_KEPT = 0.05, 0.9


@method(
    "Zou et al. 2018, Unsupervised domain adaptation via class-balanced self-training, arXiv:1810.07911, eq. 5 and Algorithm 2",
    needs_source=False,
    grid=({}, {"most": 0.4}, {"rounds": 8}, {"most": 1.0}),
)
def pseudo_labels(domains: Domains, rounds: int = 4, most: float = 0.8) -> Adapted:
    """The surest share of each predicted class gets its prediction as label, the head is fitted again, and the share grows.

    rounds: at least 1. most: share of the items that are labelled in the last round, in (0, 1]; earlier ones take their part of it.
    Ends before a round after which a class that was predicted is not any more, the mean confidence on the target has fallen by a tenth,
    or heads that see four fifths of the source lose more than 5 points of accuracy, and twice its standard error, on the rest. Where the
    first round is such a one, the head stays as it is. Without source items only the target's are learned from.
    Raises GraftError for settings out of range.
    Source: Zou et al. 2018. Differs: the share starts at most / rounds and not at 20 %; both domains weigh as much as they have
    labelled items, the target's as if it had as many as the source; and the stops, which are ours.
    """
    if rounds < 1 or not 0 < most <= 1:
        raise GraftError(f"method pseudo_labels: got rounds={rounds}, most={most}, expected at least 1 round and a share in (0, 1].")
    n = len(domains.source)
    train, rest = holdout(domains.labels, "classification", _HELD_OUT, domains.seed) if n else (np.arange(0), np.arange(0))
    head = domains.fit(domains.source[train], domains.labels[train], None) if n else domains.head
    first = outputs = head.outputs(domains.target)
    trusted: np.ndarray | None = None
    for number in range(1, rounds + 1):
        labels = balanced_labels(outputs, most * number / rounds)
        if len(np.unique(labels[labels >= 0])) < 2:
            break
        after = _with_target(domains, train, labels)
        outputs = after.outputs(domains.target)
        if _collapsed(first, outputs) or (n and _forgot(domains, rest, head, after)):
            break
        trusted = labels
    if trusted is None:
        return unmoved(domains, domains.head)
    return unmoved(domains, _with_target(domains, np.arange(n), trusted))


def balanced_labels(outputs: np.ndarray, share: float) -> np.ndarray:
    """(m,) int: a class, or -1 for an item that is not sure enough.

    outputs: (m, c) probabilities. share: of each predicted class whose items are taken, the surest first, in (0, 1].
    The class is that of the largest p_k / exp(-lambda_k), where that is at least 1; exp(-lambda_k) is the probability down to which the
    share of the items predicted as k reaches. Source: Zou et al. 2018, eq. 5 and Algorithm 2.
    """
    predicted, surest = outputs.argmax(axis=1), outputs.max(axis=1)
    threshold = np.full(outputs.shape[1], np.inf)
    for k in np.unique(predicted):
        sure = np.sort(surest[predicted == k])[::-1]
        threshold[k] = sure[int(np.ceil(share * len(sure))) - 1]
    ratio = outputs / threshold
    return np.where(ratio.max(axis=1) >= 1, ratio.argmax(axis=1), -1)


def _with_target(domains: Domains, of_source: np.ndarray, labels: np.ndarray) -> Any:
    """A head for these source items and the labelled ones of the target, which weigh as if the target had as many as the source."""
    taken = labels >= 0
    rows = np.concatenate([domains.source[of_source], domains.target[taken]])
    weights = None
    if len(of_source):
        weights = np.concatenate([np.ones(len(of_source)), np.full(int(taken.sum()), len(of_source) / len(labels))])
        weights /= weights.mean()
    return domains.fit(rows, np.concatenate([domains.labels[of_source], labels[taken]]).astype(int), weights)


def _collapsed(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a class that was predicted is not any more, or the mean confidence fell by a tenth."""
    vanished = np.setdiff1d(before.argmax(axis=1), after.argmax(axis=1))
    return bool(len(vanished)) or float(after.max(axis=1).mean()) < _CONFIDENCE_KEPT * float(before.max(axis=1).mean())


def _forgot(domains: Domains, rest: np.ndarray, before: Any, after: Any) -> bool:
    """Whether accuracy on source items that neither head learned from fell by more than chance explains."""
    right = [(head.outputs(domains.source[rest]).argmax(axis=1) == domains.labels[rest]).astype(float) for head in (before, after)]
    lost = right[0] - right[1]
    return float(lost.mean()) > _ACCURACY_LOST + 2 * float(lost.std()) / np.sqrt(len(rest))


@method(
    "Iwasawa & Matsuo 2021, Test-time classifier adjustment module for model-agnostic domain generalization, NeurIPS, Algorithm 1",
    needs_source=False,
    grid=({}, {"keep": 5}, {"keep": 100}, {"keep": None}),
)
def t3a(domains: Domains, keep: int | None = 20) -> Adapted:
    """Each class's weights become the mean direction of the head's own weights and of the target items that are surest of the class.

    keep: supports of a class, at least 1, of the lowest entropy; None: all. Raises GraftError for a keep out of range.
    Source: Iwasawa & Matsuo 2021, and their code (matsuolab/T3A): supports are scaled to length 1 and summed, sums are scaled to
    length 1, there is no bias. Differs: all target items at once, which their streaming ends in too; features are the head's own view of
    them, (features - mean) / scale; and one temperature stretches the logits until the mean entropy over the target is as it was, which
    changes no prediction. Classes that the head never learned stay as they are.
    """
    if keep is not None and keep < 1:
        raise GraftError(f"method t3a: got keep={keep}, expected at least 1 support a class, or None for all.")
    head = domains.head
    rows = (domains.target - head.mean) / head.scale
    learned = np.flatnonzero(np.abs(head.weight).sum(axis=0) > 0)
    if not len(learned):
        raise GraftError("method t3a: every weight of the head is 0, expected weights to start from. Does the head tell the classes apart?")
    supports = np.concatenate([head.weight.T[learned], rows])
    outputs = softmax((supports @ head.weight + head.bias).astype(float), axis=1)
    entropy, predicted = _entropies(outputs), outputs.argmax(axis=1)
    lengths = np.linalg.norm(supports, axis=1, keepdims=True)
    directions = supports / np.maximum(lengths, 1e-12)
    weight, bias = np.zeros_like(head.weight), head.bias.copy()
    for k in learned:
        of_it = np.flatnonzero(predicted == k)
        of_it = of_it[np.argsort(entropy[of_it], kind="stable")[:keep]]
        # Where not even its own weights are taken for the class, nothing supports a change.
        total = directions[of_it].sum(axis=0) if len(of_it) else head.weight[:, k]
        weight[:, k], bias[k] = total / max(float(np.linalg.norm(total)), 1e-12), 0.0
    stretch = _stretch_to((rows @ weight)[:, learned], float(_entropies(head.outputs(domains.target)).mean()))
    return unmoved(domains, replace(head, weight=weight * np.float32(stretch), bias=bias))


def _entropies(outputs: np.ndarray) -> np.ndarray:
    """(m, c) probabilities -> (m,) in nats."""
    return -(outputs * np.log(np.maximum(outputs, 1e-300))).sum(axis=1)


def _stretch_to(logits: np.ndarray, entropy: float) -> float:
    """The number that the logits are to be multiplied by for their mean entropy to be this, between 1/1000 and 1000."""

    def beyond(power: float) -> float:
        return float(_entropies(softmax(logits.astype(float) * 10**power, axis=1)).mean()) - entropy

    # Where items lie between two classes no stretch makes them as sure, and none is less sure than knowing nothing.
    if beyond(-3) <= 0 or beyond(3) >= 0:
        return 1e-3 if beyond(-3) <= 0 else 1e3
    return 10 ** float(brentq(beyond, -3, 3, xtol=1e-4))


@method(
    "Liang et al. 2020, Do we really need to access the source data? Source hypothesis transfer, arXiv:2002.08546, eq. 5 and 6",
    needs_source=False,
    grid=({}, {"rounds": 5}),
)
def shot_labels(domains: Domains, rounds: int = 1) -> Adapted:
    """The target's items labelled by the nearest of one centroid a class, and a head fitted on these labels alone.

    rounds: times that centroids are taken anew from the labels, see `clustered_labels`. Raises GraftError for rounds below 1, and where
    all items are nearest to one class.
    Source: Liang et al. 2020. Differs: the backbone stays as it is and a head learns from the labels, where theirs trains the backbone
    under a head that stays.
    """
    if rounds < 1:
        raise GraftError(f"method shot_labels: got rounds={rounds}, expected at least 1.")
    rows = (domains.target - domains.head.mean) / domains.head.scale
    labels = clustered_labels(rows, domains.head.outputs(domains.target), rounds)
    if len(found := np.unique(labels)) < 2:
        raise GraftError(
            f"method shot_labels: all {len(labels)} target items are nearest to class {found[0]}, "
            "expected at least 2 classes to learn from. Give more target items."
        )
    return unmoved(domains, domains.fit(domains.target, labels, None))


def clustered_labels(rows: np.ndarray, outputs: np.ndarray, rounds: int = 1) -> np.ndarray:
    """(m,) int: the class whose centroid is nearest by cosine.

    rows: (m, d). outputs: (m, c) probabilities: centroids are first means weighted by them (Liang et al. 2020, eq. 5), then `rounds`
    times means of the items that were nearest (eq. 6). Only classes that are predicted for some item have a centroid. As in their code
    a 1 is joined to each row, which is then scaled to length 1.
    """
    joined = np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1).astype(np.float32)
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    present = np.unique(outputs.argmax(axis=1))
    mass = outputs[:, present].astype(np.float32)
    for _ in range(rounds + 1):
        centroids = mass.T @ joined
        # Of the cosine only the centroid's direction counts, so that sums serve as means; an empty class has none.
        lengths = np.linalg.norm(centroids, axis=1)
        cosines = joined @ (centroids / np.maximum(lengths, 1e-12)[:, None]).T
        cosines[:, lengths == 0] = -np.inf
        nearest = cosines.argmax(axis=1)
        mass = np.eye(len(present), dtype=np.float32)[nearest]
    return present[nearest]
