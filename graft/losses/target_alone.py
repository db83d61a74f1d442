"""Losses that learn from unlabelled items of another domain, with or without labelled ones beside them. Heavy: torch."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from graft.backbones.base import Backbone
from graft.losses.base import LOSSES, Added, Seen, Start, other_of
from graft.records import Plan, Task

Look = Callable[[], tuple[torch.Tensor, torch.Tensor]]

_PSEUDO = 0.3  # of SHOT's pseudo-labels, beta of equation 7 in the paper's experiments but for digits, which have 0.1
_CONFIDENT = 0.95  # FixMatch's tau on CIFAR and SVHN, table 4
_FIRST_SHARE, _MORE, _LAST_SHARE = 0.2, 0.05, 0.5  # Zou et al. 2018, section 5.1: what a class keeps at first, more each round, at most


class _Alone(Added):
    """What the losses of this file have in common: they see the other domain, need no label, and give each item one class."""

    needs_others = True
    alone = True

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        if task == "classification":
            return ""
        names = ", ".join(name for name, _ in plan.losses)
        return f"losses ({names}) with the task {task}, expected classification: they make the network sure of one class an item."


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """(k,) of the softmax of (k, c) logits, in nats."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


@LOSSES.add("Wang et al. 2021, arXiv:2006.10726, section 3.1: TENT", name="entropy_minimisation")
class EntropyMinimisation(_Alone):
    """The mean entropy of what the network says of the other domain's items, in nats.

    TENT is this alone, on the scales and shifts of normalisation (`Plan.only` "norms", the head frozen) with the statistics of each batch
    (`Recipe.batch_norm` "batch"). Differs: the items are learned from in epochs, and judged afterwards by the moving statistics, which
    have followed theirs; the paper learns and predicts batch by batch.
    """

    def forward(self, seen: Seen) -> torch.Tensor:
        return entropy(other_of(seen).logits).mean()


@LOSSES.add("Liang et al. 2020, arXiv:2002.08546, equations 3 to 7", name="shot")
class Shot(_Alone):
    """Information maximisation, and 0.3 times the cross-entropy with pseudo-labels, which are made anew before each epoch.

    Information maximisation: the mean entropy of the items less the entropy of their mean, so that each is sure and all classes are used.
    Pseudo-labels: `pseudo_labels` of all items. The head is to be frozen (a head rate of 0): it is the source's hypothesis.
    Differs: no bottleneck layer, and a head without weight normalisation: those of the model that is adapted.
    """

    def begin_epoch(self, look: Look) -> None:
        features, logits = look()
        self._labels = pseudo_labels(features, logits)

    def forward(self, seen: Seen) -> torch.Tensor:
        other = other_of(seen)
        return information(other.logits) + _PSEUDO * cross_entropy(other.logits, self._labels[other.places])


def information(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the items (k, c) on average, less that of their average. Equation 3, in nats; -log c at the least."""
    mean = logits.log_softmax(1).logsumexp(0) - torch.tensor(float(len(logits))).log().to(logits)
    return entropy(logits).mean() + (mean.exp() * mean).sum()


@torch.no_grad()
def pseudo_labels(features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """(m,) classes: of the nearest centroid by the cosine, among classes that are predicted at least once.

    features: (m, d). logits: (m, c). Centroids are first the means of all items weighted by their probabilities (equation 4), then those
    of the items that were nearest (equations 5 and 6). Features get a 1 for the bias and length one, as in the authors' code.
    """
    rows = normalize(torch.cat([features, features.new_ones(len(features), 1)], 1), dim=1)
    classes = logits.shape[1]
    predicted = logits.argmax(1).bincount(minlength=classes).nonzero()[:, 0]
    member = logits.softmax(1)
    for _ in range(2):
        centroids = (member.T @ rows)[predicted]
        labels = predicted[(rows @ normalize(centroids, dim=1).T).argmax(1)]
        member = one_hot(labels, classes).to(rows)
    return labels


@LOSSES.add("Sohn et al. 2020, arXiv:2001.07685, equation 4: FixMatch", name="consistency")
class Consistency(_Alone):
    """Cross-entropy of a strongly changed view with the class that the plain view is sure of, zero where its probability is below 0.95.

    The mean over all items of the batch, those below among them. The plain view has no gradient.
    """

    two_views = True

    def forward(self, seen: Seen) -> torch.Tensor:
        other = other_of(seen)
        assert other.again_logits is not None, "the loop gives a second view to a loss that asks for it"
        sure, labels = other.logits.detach().softmax(1).max(1)
        loss = cross_entropy(other.again_logits, labels, reduction="none")
        return (loss * (sure >= self.thresholds(other.logits.shape[1]).to(sure)[labels])).mean()

    def thresholds(self, classes: int) -> torch.Tensor:
        """(c,) probabilities from which on an item of the class counts."""
        return torch.full((classes,), _CONFIDENT)


@LOSSES.add("Zhang et al. 2021, arXiv:2110.08263, sections 3.1 to 3.3: FlexMatch", name="consistency_balanced")
class ConsistencyBalanced(Consistency):
    """As `consistency`, with a lower threshold for classes that few items are sure of.

    Before each epoch, see `flexible`. Differs: counted once an epoch over all items as judged, where the paper counts what each item
    last said in training.
    """

    def begin_epoch(self, look: Look) -> None:
        self._thresholds = flexible(look()[1].softmax(1))

    def thresholds(self, classes: int) -> torch.Tensor:
        return self._thresholds


@torch.no_grad()
def flexible(probabilities: torch.Tensor) -> torch.Tensor:
    """(c,) thresholds: 0.95 x / (2 - x), x the class's number of sure items (by 0.95) as a share of the most frequent one's.

    probabilities: (m, c). As long as those that are sure of nothing are more, the share is of their number.
    """
    sure, labels = probabilities.max(1)
    counts = labels[sure >= _CONFIDENT].bincount(minlength=probabilities.shape[1])
    share = counts / torch.maximum(counts.max(), len(sure) - counts.sum())
    return _CONFIDENT * share / (2 - share)


@LOSSES.add("Zou et al. 2018, arXiv:1810.07911, equations 6 to 8: CBST", name="pseudo")
class ClassBalancedSelfTraining(_Alone):
    """Cross-entropy with pseudo-labels of the items that their class is surest of, the same share of each class.

    Before each epoch k of c classes: a class's threshold is the probability that the surest 20 % (5 % more each epoch, up to 50 %) of
    the items predicted as it reach. An item's label is the class whose probability exceeds its threshold most, as a ratio, none where
    none does. The mean over all items of the batch, at zero where there is no label.
    Differs: a round is an epoch; the paper's pixels are items here, and it has no spatial priors.
    """

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.register_buffer("rounds", torch.zeros((), dtype=torch.long, device=start.target.device))

    def begin_epoch(self, look: Look) -> None:
        assert isinstance(self.rounds, torch.Tensor)
        share = min(_FIRST_SHARE + _MORE * int(self.rounds), _LAST_SHARE)
        self.rounds += 1
        self._labels = balanced_labels(look()[1].softmax(1), share)

    def forward(self, seen: Seen) -> torch.Tensor:
        other = other_of(seen)
        labels = self._labels[other.places]
        return cross_entropy(other.logits, labels, ignore_index=-1, reduction="sum") / len(labels)


@torch.no_grad()
def balanced_labels(probabilities: torch.Tensor, share: float) -> torch.Tensor:
    """(m,) classes, -1 for none: of probabilities (m, c), those of the surest share of each predicted class. share: in (0, 1]."""
    sure, predicted = probabilities.max(1)
    thresholds = torch.full((probabilities.shape[1],), torch.inf, device=sure.device)
    for label in predicted.unique().tolist():
        ordered = sure[predicted == label].sort(descending=True).values
        thresholds[label] = ordered[max(1, int(share * len(ordered))) - 1]
    ratio, labels = (probabilities / thresholds).max(1)
    return torch.where(ratio >= 1, labels, -1)
