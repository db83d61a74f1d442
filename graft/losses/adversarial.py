"""Losses with a small network of their own, which learns to tell two domains apart while features learn to confuse it. Heavy: torch.

The strength of such a loss weighs what features get of it; its own network learns alike under any, as AdamW takes its gradients' scale out.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, softplus

from graft.backbones.base import Backbone
from graft.device import seeded
from graft.errors import GraftError
from graft.losses.base import LOSSES, Added, Seen, Start, as_the_head, certainty, only_classes, only_moving, other_of, spread
from graft.records import Phase, Plan, Task

_MOST_HIDDEN = 1024  # as in thuml/Transfer-Learning-Library, as are the dropout, the random products and MDD's weight
_LEAST_HIDDEN = 64
_DROPOUT = 0.5
_MOST_PRODUCTS = 4096  # of features and classes, beyond which they are drawn: CDAN, section 3.2
_DRAWN = 1024
_MARGIN = 4.0  # gamma of the MDD paper's experiments
_MDD_REVERSED = 0.1  # the most that MDD's reversed gradient weighs
_ANY_TASK = "deep_coral, dan or dann"


@LOSSES.add("Ganin et al. 2016, arXiv:1505.07818, section 4.2", name="dann")
class Dann(Added):
    """Cross-entropy of a critic that tells the domains of features apart; what features get of its gradient is reversed.

    The reversed gradient weighs 2 / (1 + e^(-10 progress)) - 1. See `critic` for the network, and `as_the_head` for its rate.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        return only_moving("dann", plan)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.scaled = scaler(start.features())
        self.critic = critic(start, start.backbone.width, 1)

    def rate(self, phase: Phase) -> float:
        return as_the_head(phase)

    def forward(self, seen: Seen) -> torch.Tensor:
        rows = reverse(self.scaled(torch.cat([seen.features, other_of(seen).features])), warmth(seen.progress))
        return told_apart(self.critic(rows)[:, 0], len(seen.features))


@LOSSES.add("Long et al. 2018, arXiv:1705.10667, section 3", name="cdan")
class Cdan(Added):
    """As `dann`, of a critic that sees each feature times each class's probability, so that domains are aligned class by class.

    Beyond 4096 such products it sees 1024 random ones, (R f) * (Q p) / 32 with R and Q of normal numbers. The probabilities have no
    gradient, as in the authors' code.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("cdan", task, _ANY_TASK) or only_moving("cdan", plan)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.conditioned = Conditioned(start)

    def rate(self, phase: Phase) -> float:
        return as_the_head(phase)

    def forward(self, seen: Seen) -> torch.Tensor:
        scores, _ = self.conditioned(seen)
        return told_apart(scores, len(seen.features))


@LOSSES.add("Long et al. 2018, arXiv:1705.10667, section 3, entropy conditioning", name="cdan_e")
class CdanEntropy(Added):
    """As `cdan`, with more weight on items that the head is sure of: 1 + e^-entropy, divided by its mean in each batch.

    Differs: the weights have no gradient, as in thuml/Transfer-Learning-Library.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("cdan_e", task, _ANY_TASK) or only_moving("cdan_e", plan)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.conditioned = Conditioned(start)

    def rate(self, phase: Phase) -> float:
        return as_the_head(phase)

    def forward(self, seen: Seen) -> torch.Tensor:
        n = len(seen.features)
        scores, shares = self.conditioned(seen)
        return told_apart(scores, n, torch.cat([certainty(shares[:n]), certainty(shares[n:])]))


class Conditioned(nn.Module):
    """CDAN's critic with its view of features and predictions: (seen) -> scores (n + k,), probabilities (n + k, c)."""

    def __init__(self, start: Start) -> None:
        super().__init__()
        features, width = start.features(), start.backbone.width
        with torch.no_grad():
            classes = start.head(features[:1]).shape[1]
        self.scaled = scaler(features)
        self.drawn: tuple[torch.Tensor, torch.Tensor] | None = None
        if width * classes > _MOST_PRODUCTS:
            generator = torch.Generator().manual_seed(start.seed)
            of_features, of_classes = (torch.randn(size, _DRAWN, generator=generator).to(features.device) for size in (width, classes))
            self.drawn = of_features, of_classes
        self.critic = critic(start, _DRAWN if self.drawn else width * classes, 1)

    def forward(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        other = other_of(seen)
        rows = self.scaled(torch.cat([seen.features, other.features]))
        shares = torch.cat([seen.logits, other.logits]).detach().softmax(1)
        return self.critic(reverse(products(rows, shares, self.drawn), warmth(seen.progress)))[:, 0], shares


@LOSSES.add("Zhang et al. 2019, arXiv:1904.05801, section 4", name="mdd")
class MarginDisparity(Added):
    """The margin by which a second classifier can agree with the head on the source and disagree on the other domain; gamma is 4.

    4 * -log p(class the head says) on the source, minus log(1 - p(class the head says)) on the other. What features get of it is reversed,
    and weighs up to 0.1. The second classifier is a network as a `critic`, with an output a class.
    Differs: that classifier has a hidden layer more than a linear head has; the paper's two are alike.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("mdd", task, _ANY_TASK) or only_moving("mdd", plan)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        features = start.features()
        with torch.no_grad():
            classes = start.head(features[:1]).shape[1]
        self.scaled = scaler(features)
        self.second = critic(start, start.backbone.width, classes)

    def rate(self, phase: Phase) -> float:
        return as_the_head(phase)

    def forward(self, seen: Seen) -> torch.Tensor:
        other, n = other_of(seen), len(seen.features)
        rows = self.scaled(torch.cat([seen.features, other.features]))
        said = self.second(reverse(rows, _MDD_REVERSED * warmth(seen.progress)))
        return disparity(said[:n], seen.logits.argmax(1), said[n:], other.logits.argmax(1))


@LOSSES.add("Tzeng et al. 2017, arXiv:1702.05464, equation 9", name="adda")
class Adda(Added):
    """Features of the other domain learn to pass for the source's as these were at the start; a critic learns to tell them apart.

    Nothing is asked of labels, and nothing of the source's batch: for a plan without the task's loss whose head keeps still.
    Features get the gradient of -log(critic's belief in source), as in the paper, not the critic's reversed.
    Differs: what they get weighs 2 / (1 + e^(-10 progress)) - 1, so that the critic has learnt first. Source features are drawn anew for
    each batch, as many as it has items.
    """

    needs_others = True
    alone = True

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("adda", task, _ANY_TASK) or only_moving("adda", plan)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        if not len(start.target):
            raise GraftError("adda: no items of the source, expected some: their features are what the target's are moved to. Use shot.")
        features = start.features()
        self.scaled = scaler(features)
        self.known = self.scaled(features)
        self.critic = critic(start, start.backbone.width, 1)

    def rate(self, phase: Phase) -> float:
        return as_the_head(phase)

    def forward(self, seen: Seen) -> torch.Tensor:
        other = self.scaled(other_of(seen).features)
        source = self.known[torch.randint(len(self.known), (len(other),)).to(self.known.device)]
        apart = told_apart(self.critic(torch.cat([source, other.detach()]))[:, 0], len(source))
        held = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        fooled = softplus(-torch.func.functional_call(self.critic, held, (other,))).mean()
        return apart + warmth(seen.progress) * fooled


def critic(start: Start, inputs: int, outputs: int) -> nn.Sequential:
    """A network of two hidden layers with ReLU and dropout 0.5, (n, inputs) -> (n, outputs), from the run's seed.

    Hidden layers are as wide as the backbone's features, at least 64 and at most 1024. No batch normalisation: a batch may be one item.
    """
    hidden = min(_MOST_HIDDEN, max(_LEAST_HIDDEN, start.backbone.width))
    with seeded(start.seed):
        layers: list[nn.Module] = []
        for size in (inputs, hidden):
            layers += [nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(_DROPOUT)]
        return nn.Sequential(*layers, nn.Linear(hidden, outputs)).to(start.target.device)


def scaler(features: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What moves features to the mean of these (n, d), and divides them by their `spread`.

    A critic's layers start for numbers around 1, which the features of some backbones are far from.
    """
    mean, scale = features.mean(0), spread(features)
    return lambda rows: (rows - mean) / scale


def products(rows: torch.Tensor, shares: torch.Tensor, drawn: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    """Each feature times each probability, (n, d c), or random ones. rows: (n, d). shares: (n, c). drawn: (d, r) and (c, r) -> (n, r)."""
    if drawn is None:
        return (shares[:, :, None] * rows[:, None, :]).flatten(1)
    return (rows @ drawn[0]) * (shares @ drawn[1]) / math.sqrt(drawn[0].shape[1])


def told_apart(scores: torch.Tensor, n: int, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy of the first n scores being called source and the rest not, mean of the two sides': log 2 at chance.

    scores: (n + k,), logits of source. weight: (n + k,), with mean 1 on either side.
    """
    each = torch.cat([softplus(-scores[:n]), softplus(scores[n:])])
    if weight is not None:
        each = each * weight
    return (each[:n].mean() + each[n:].mean()) / 2


def disparity(source: torch.Tensor, said_source: torch.Tensor, other: torch.Tensor, said_other: torch.Tensor) -> torch.Tensor:
    """MDD's, from logits of the second classifier (n, c) and (k, c) and the classes that the head says (n,) and (k,)."""
    # log(1 - p) from logits: 1 - p would round to 0 where the second classifier is sure.
    without = other.masked_fill(one_hot(said_other, other.shape[1]).bool(), -math.inf).logsumexp(1)
    return _MARGIN * cross_entropy(source, said_source) + (other.logsumexp(1) - without).mean()


def warmth(progress: float) -> float:
    """From 0 to 1 as progress does: 2 / (1 + e^(-10 progress)) - 1. Source: Ganin et al. 2016, section 5.2."""
    return math.tanh(5 * progress)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: float) -> torch.Tensor:
        ctx.weight = weight
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.weight * gradients[0], None


def reverse(rows: torch.Tensor, weight: float) -> torch.Tensor:
    """The rows as they are, whose gradient comes back times -weight."""
    return _Reverse.apply(rows, weight)
