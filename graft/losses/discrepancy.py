"""Losses that bring two domains together by a distance of their batches, or make the other's predictions sure and varied. Heavy: torch."""

import torch

from graft.backbones.base import Backbone
from graft.losses.base import LOSSES, Added, Seen, Start, certainty, only_classes, only_moving, other_of, spread
from graft.records import Plan, Task

_ANY_TASK = "deep_coral, dan or dann"
_BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)  # times the mean squared distance, as in thuml/Transfer-Learning-Library
_OF_SHARES = 0.92**2  # squared bandwidth for predictions, of the same source
_TEMPERATURE = 2.5  # of the MCC paper's experiments


@LOSSES.add("Sun & Saenko 2016, arXiv:1607.01719, equation 1", name="deep_coral")
class DeepCoral(Added):
    """|C_source - C_other|^2 / (4 d^2), of the covariances of both batches' features (d, d).

    Differs: the features are divided by their standard deviation at the start, one number for all, so that one strength serves every
    backbone; the paper takes the classifier's outputs of one network. 0 where a side is one item, which has no covariance.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: torch.nn.Module, task: Task, plan: Plan) -> str:
        return only_moving("deep_coral", plan)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.spread = spread(start.features())

    def forward(self, seen: Seen) -> torch.Tensor:
        source, other = seen.features / self.spread, other_of(seen).features / self.spread
        if min(len(source), len(other)) == 1:
            return 0.0 * (source.sum() + other.sum())
        # |A^T A - B^T B|^2 from the products of items with each other, few beside d^2: the sum of their squares, less where sides differ.
        rows = torch.cat([(side - side.mean(0)) / (len(side) - 1) ** 0.5 for side in (source, other)])
        square = (rows @ rows.T).square()
        n, d = seen.features.shape
        return (square[:n, :n].sum() + square[n:, n:].sum() - 2 * square[:n, n:].sum()) / (4 * d * d)


@LOSSES.add("Long et al. 2015, arXiv:1502.02791, section 3", name="dan")
class Dan(Added):
    """Squared maximum mean discrepancy of both batches' features under the sum of five Gaussian kernels.

    The squared bandwidths are 1/8 to 2 times the mean squared distance of all items of both batches, without gradient.
    Differs: over all pairs, without bias, where the paper takes a quarter of them in linear time; kernels weigh alike, as in the authors'
    code; the features alone, not the head's outputs.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: torch.nn.Module, task: Task, plan: Plan) -> str:
        return only_moving("dan", plan)

    def forward(self, seen: Seen) -> torch.Tensor:
        rows = torch.cat([seen.features, other_of(seen).features])
        return discrepancy(several_kernels(rows), len(seen.features))


@LOSSES.add("Long et al. 2017, arXiv:1605.06636, joint maximum mean discrepancy", name="jan")
class Jan(Added):
    """Squared maximum mean discrepancy of features and predictions together: their kernels are multiplied.

    Features as in `dan`; predictions, after the softmax, under a Gaussian of bandwidth 0.92. The head learns from it too.
    Differs: over all pairs, without bias, where the paper estimates it in linear time.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: torch.nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("jan", task, _ANY_TASK)

    def forward(self, seen: Seen) -> torch.Tensor:
        other = other_of(seen)
        shares = torch.cat([seen.logits, other.logits]).softmax(1)
        kernel = several_kernels(torch.cat([seen.features, other.features])) * gaussian(squared_distances(shares), _OF_SHARES)
        return discrepancy(kernel, len(seen.features))


@LOSSES.add("Jin et al. 2020, arXiv:1912.03699, section 3", name="mcc")
class MinimumClassConfusion(Added):
    """How far predictions for the other domain confuse pairs of classes: the mean share off the diagonal, in [0, 1].

    Class correlations of the predictions at temperature 2.5, in which sure items weigh more (1 + e^-entropy, without gradient), each row
    divided by its sum.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: torch.nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("mcc", task, _ANY_TASK)

    def forward(self, seen: Seen) -> torch.Tensor:
        shares = (other_of(seen).logits / _TEMPERATURE).softmax(1)
        confusion = (shares * certainty(shares)[:, None]).T @ shares
        # A class that is nowhere predicted has a row of zeros: no confusion, and nothing to divide by.
        row = confusion.sum(1)
        return 1 - (confusion.diagonal() / row.clamp(min=torch.finfo(row.dtype).tiny)).where(row > 0, 1.0).mean()


@LOSSES.add("Cui et al. 2020, arXiv:2003.12237, section 3", name="bnm")
class BatchNuclearNorm(Added):
    """Minus the sum of the singular values of the other domain's predictions (k, c), divided by k; in [-sqrt(min(k, c) / k), 0).

    The norm is large where predictions are sure and many classes are among them.
    """

    needs_others = True

    @staticmethod
    def refusal(backbone: Backbone, head: torch.nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("bnm", task, _ANY_TASK)

    def forward(self, seen: Seen) -> torch.Tensor:
        shares = other_of(seen).logits.softmax(1)
        # The decomposition would raise where the loop expects a number that is none, and goes on from there.
        return -torch.linalg.svdvals(shares).sum() / len(shares) if torch.isfinite(shares).all() else shares.sum()


def squared_distances(rows: torch.Tensor) -> torch.Tensor:
    """Between all rows of (n, d): (n, n)."""
    # Far from the origin the differences of products would lose their digits.
    rows = rows - rows.detach().mean(0)
    products = rows @ rows.T
    square = products.diagonal()
    return (square[:, None] + square - 2 * products).clamp(min=0)


def gaussian(square: torch.Tensor, bandwidth: torch.Tensor | float) -> torch.Tensor:
    """exp(-square / (2 bandwidth)), of squared distances and a squared bandwidth."""
    return torch.exp(-square / (2 * bandwidth))


def several_kernels(rows: torch.Tensor) -> torch.Tensor:
    """The sum of five Gaussian kernels of the rows (n, d), (n, n), as wide as the rows are far from each other."""
    square = squared_distances(rows)
    # Where all rows are one the distance is 0, and any width gives the same kernel.
    mean = square.detach().mean().clamp(min=torch.finfo(square.dtype).tiny ** 0.5)
    return torch.stack([gaussian(square, width * mean) for width in _BANDWIDTHS]).sum(0)


def discrepancy(kernel: torch.Tensor, n: int) -> torch.Tensor:
    """Squared maximum mean discrepancy of the first n rows and the rest, without bias: it can be below 0.

    kernel: (n + k, n + k). A side of one item has no pair, and its own term is 0.
    Source: Gretton et al. 2012, JMLR 13, lemma 6.
    """
    within = [among_pairs(kernel[:n, :n]), among_pairs(kernel[n:, n:])]
    return within[0] + within[1] - 2 * kernel[:n, n:].mean()


def among_pairs(kernel: torch.Tensor) -> torch.Tensor:
    """The mean of (n, n) off its diagonal, 0 where n is 1."""
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / max(1, n * (n - 1))
