"""The network learns from a slowly following copy of itself: BYOL and DINO. Heavy: torch."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from graft.losses import Seen, Start
from graft.pretext.base import PRETEXTS, Follower, Pretext, features_of
from graft.pretext.projectors import hidden_width, mlp
from graft.pretext.views import both_views, images_of, sample_of, views_of

# Of the second view; of the first there is none. Grill et al. 2020, appendix B; Caron et al. 2021, section 3.2, takes it over.
_SOLARISE = 0.2


@PRETEXTS.add("Grill et al. 2020, arXiv:2006.07733, equations 1 and 2", name="byol")
class BYOL(Pretext):
    """From one view of an image the network predicts what a slowly following copy of it says of another view.

    Differs: both views run as one batch, projector and predictor are four times as wide as the features inside (256 to 2048, the paper's
    4096) and 128 behind (256), and AdamW stands for LARS. The follower's decay begins at 0.99, which the authors' code has for 100 and 300
    epochs, where the paper has 0.996 for 1000; see `follow`.
    """

    modalities = ("image",)
    outputs = 128
    decay = 0.99

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.first, self.second = views_of(start.backbone), views_of(start.backbone, solarise=_SOLARISE)
        hidden = hidden_width(start.backbone.width)
        self.projector = mlp(start, (start.backbone.width, hidden, self.outputs))
        self.predictor = mlp(start, (self.outputs, hidden, self.outputs))
        # In a tuple: as a submodule the backbone would be counted as the pretext's too.
        self._network = (nn.Sequential(start.backbone, self.projector),)
        self.follower = Follower(*self._network)

    def forward(self, seen: Seen) -> torch.Tensor:
        follow(self.follower, self._network[0], self.decay, seen.progress)
        views = both_views(seen, self.first, self.second)
        said = self.predictor(self.projector(features_of(seen, views)))
        return byol_loss(said, self.follower(seen, views))


def byol_loss(said: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """The squared distance on the unit sphere between what was said of each view and taught of the other, both ways: in [0, 8].

    said, taught: (2n, d), the second views behind the first ones. Source: Grill et al. 2020, arXiv:2006.07733, equation 2 and the sum after
    it, averaged over images.
    """
    return 2 * (2 - 2 * functional.cosine_similarity(said, taught.roll(len(taught) // 2, 0)).mean())


@PRETEXTS.add("Caron et al. 2021, arXiv:2104.14294, equations 1 to 4 and algorithm 1", name="dino")
class DINO(Pretext):
    """The network is to sort views of an image into the same of many prototypes as a slowly following copy sorts other views of it.

    What the copy says is centred by its running mean and sharpened, so that neither one prototype nor all alike is an answer.
    local_views: small views, of 5 to 20 % of the image and half its side, that the network alone sees; 0, as small images have none to
    spare. Differs: 1024 prototypes (the paper's 65536), hidden layers four times as wide as the features (256 to 2048, the paper's 2048),
    the other views are 20 % of the image or more, the last layer learns from the first epoch on, the centre begins at the first batch's
    mean, and the follower's decay begins at 0.99 (see `BYOL`).
    """

    modalities = ("image",)
    prototypes = 1024
    bottleneck = 256
    local_views = 0
    decay = 0.99
    centre: torch.Tensor
    momentum = 0.9  # of the centre, table 8 of the paper's appendix D

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.first, self.second = views_of(start.backbone), views_of(start.backbone, solarise=_SOLARISE)
        self.local = views_of(start.backbone, area=(0.05, 0.2), size_px=sample_of(start).shape[-1] // 2)
        width = start.backbone.width
        hidden = hidden_width(width)
        body = mlp(start, (width, hidden, hidden, self.bottleneck), activation=nn.GELU, normalised=False)
        self.projector = nn.Sequential(body, Prototypes(start, self.bottleneck, self.prototypes))
        self.register_buffer("centre", torch.zeros(self.prototypes, device=start.target.device))
        # In a tuple: as a submodule the backbone would be counted as the pretext's too.
        self._network = (nn.Sequential(start.backbone, self.projector),)
        self.follower = Follower(*self._network)

    def forward(self, seen: Seen) -> torch.Tensor:
        follow(self.follower, self._network[0], self.decay, seen.progress)
        views = both_views(seen, self.first, self.second)
        taught = self.follower(seen, views)
        if not self.centre.any():
            # From zero the first epochs would be spent on finding it, and what is common to all images would be learned meanwhile.
            self.centre.copy_(taught.mean(0))
        said = list(self.projector(features_of(seen, views)).chunk(2))
        if self.local_views:
            small = torch.cat([self.local(images_of(seen)) for _ in range(self.local_views)])
            said += self.projector(features_of(seen, small)).chunk(self.local_views)
        loss = dino_loss(said, taught.chunk(2), self.centre)
        self.centre.lerp_(taught.mean(0), 1 - self.momentum)
        return loss


class Prototypes(nn.Module):
    """(n, d) -> cosines (n, prototypes) with as many directions that are learned."""

    def __init__(self, start: Start, inputs: int, outputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(start.seed)
        self.directions = nn.Parameter(torch.randn(outputs, inputs, generator=generator).to(start.target.device))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return functional.linear(functional.normalize(rows, dim=1), functional.normalize(self.directions, dim=1))


def dino_loss(
    said: Sequence[torch.Tensor],
    taught: Sequence[torch.Tensor],
    centre: torch.Tensor,
    temperature: float = 0.1,
    sharp: float = 0.04,
) -> torch.Tensor:
    """Mean cross-entropy between what is taught of each global view and said of each other one.

    said, taught: (n, k) of each view, the global views first and in the same order. centre: (k,). temperature, sharp: of the softmax over
    what is said and what is taught.
    Source: Caron et al. 2021, arXiv:2104.14294, equations 1 to 3; section 3.2 for the temperatures.
    """
    targets = [((rows - centre) / sharp).softmax(1) for rows in taught]
    logs = [(rows / temperature).log_softmax(1) for rows in said]
    pairs = [-(target * log).sum(1).mean() for i, target in enumerate(targets) for j, log in enumerate(logs) if i != j]
    return torch.stack(pairs).mean()


def follow(follower: Follower, network: nn.Module, decay: float, progress: float) -> None:
    """Let the follower follow by one step; its decay goes from `decay` to 1 along half a cosine as progress goes from 0 to 1.

    Source: Grill et al. 2020, arXiv:2006.07733, section 3.2: 1 - (1 - decay) x (cos(pi x progress) + 1) / 2.
    """
    follower.follow(network, 1 - (1 - decay) * (math.cos(math.pi * progress) + 1) / 2)
    # Where the network's batch normalisation uses the batch's statistics, so does the follower's, as in the authors' code.
    for mine, theirs in zip(follower.twin.modules(), network.modules(), strict=True):
        mine.training = theirs.training
