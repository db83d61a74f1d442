"""Two views of an image are told from all other images, or correlated and spread: SimCLR and VICReg. Heavy: torch."""

import torch
from torch.nn import functional

from graft.losses import Seen, Start
from graft.pretext.base import PRETEXTS, Pretext, features_of
from graft.pretext.projectors import hidden_width, mlp
from graft.pretext.views import both_views, views_of


@PRETEXTS.add("Chen et al. 2020, arXiv:2002.05709, equation 1 and algorithm 1", name="simclr")
class SimCLR(Pretext):
    """Two random views of an image are to be nearer to each other than to those of all other images of the batch.

    Differs: AdamW on small batches in place of LARS on thousands; the projector's two layers have batch normalisation between them, as the
    authors' code has, and its width follows the network's (see `projector`). An image alone in its batch teaches nothing: its loss is 0.
    """

    modalities = ("image",)
    highest_rate = 2e-3
    # Of the paper's 0.05 to 1 (table 5). Its 0.5 for CIFAR-10 is for a thousand epochs; four from random weights end with 45 % right by
    # nearest neighbours at 0.2, 42 % at 0.5 (benchmarks/README.md).
    temperature = 0.2
    outputs = 128  # section 4.2

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.views = views_of(start.backbone)
        width = start.backbone.width
        self.projector = mlp(start, (width, hidden_width(width), self.outputs))

    def forward(self, seen: Seen) -> torch.Tensor:
        return nt_xent(self.projector(features_of(seen, both_views(seen, self.views))), self.temperature)


def nt_xent(rows: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy of finding each row's other view among all other rows, by cosine over a temperature.

    rows: (2n, d), the second views behind the first ones in the same order. Returns a scalar, 0 for a single pair.
    Source: Chen et al. 2020, arXiv:2002.05709, equation 1.
    """
    rows = functional.normalize(rows, dim=1)
    # A row is not among those that it is told from.
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    alike = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
    return functional.cross_entropy(alike, torch.arange(len(rows), device=rows.device).roll(len(rows) // 2))


def info_nce(one: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy, in nats, of which of the n others (n, d) belongs to each one (n, d), by their cosine over the temperature."""
    logits = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T / temperature
    return functional.cross_entropy(logits, torch.arange(len(one), device=one.device))


@PRETEXTS.add("Bardes et al. 2022, arXiv:2105.04906, equations 1 to 6", name="vicreg")
class VICReg(Pretext):
    """Two random views of an image are to have the same features, each of which varies over the batch and goes with no other.

    Differs: the expander is four times as wide as the features, of 256 to 2048 (the paper's: 8192), and batch normalisation runs over both
    views at once. For an image alone in its batch nothing varies, and only its views' agreement is asked for.
    """

    modalities = ("image",)
    highest_rate = 2e-3

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.views = views_of(start.backbone)
        hidden = hidden_width(start.backbone.width)
        self.projector = mlp(start, (start.backbone.width, hidden, hidden, hidden))

    def forward(self, seen: Seen) -> torch.Tensor:
        return vicreg_loss(*self.projector(features_of(seen, both_views(seen, self.views))).chunk(2))


def vicreg_loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """25 x invariance + 25 x variance + covariance of the projections (n, d) of two views; invariance alone where n is 1.

    Source: Bardes et al. 2022, arXiv:2105.04906, equations 1 to 6 and section 4.2 for the weights. As in the authors' code the mean of both
    views' variance terms is taken, where equation 6 has their sum, and the mean of the squared differences over columns, where equation 5
    has the sum.
    """
    invariance = functional.mse_loss(first, second)
    if len(first) < 2:
        return 25 * invariance
    variance = sum(functional.relu(1 - (rows.var(0) + 1e-4).sqrt()).mean() for rows in (first, second)) / 2
    covariance = sum((torch.cov(rows.T).square().sum() - rows.var(0).square().sum()) / rows.shape[1] for rows in (first, second))
    return 25 * invariance + 25 * variance + covariance
