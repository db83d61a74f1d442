"""Which way up was this image? Heavy: torch."""

import torch
from torch import nn
from torch.nn import functional

from graft.losses import Seen, Start
from graft.pretext.base import PRETEXTS, Pretext, features_of
from graft.pretext.views import images_of


@PRETEXTS.add("Gidaris et al. 2018, arXiv:1803.07728, equations 2 and 3", name="rotation")
class Rotation(Pretext):
    """Each image is seen turned by 0, 90, 180 and 270 degrees, and the network is to say by which."""

    modalities = ("image",)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        # Of zeros, so that nothing is drawn: the four start as equally likely.
        self.classifier = nn.Linear(start.backbone.width, 4, device=start.target.device)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = images_of(seen)
        turned = torch.cat([batch.rot90(turns, (2, 3)) for turns in range(4)])
        truth = torch.arange(4, device=batch.device).repeat_interleave(len(batch))
        return functional.cross_entropy(self.classifier(features_of(seen, turned)), truth)
