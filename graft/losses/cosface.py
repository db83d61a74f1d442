"""CosFace: features that tell classes apart by their direction alone. Heavy: torch."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from graft.backbones.base import Backbone
from graft.device import seeded
from graft.losses.base import LOSSES, Added, Seen, Start, as_the_head, only_classes
from graft.records import Phase, Plan, Task

_SCALE = 16.0


@LOSSES.add("Wang et al. 2018, arXiv:1801.09414, equation 4, with margin 0", name="cosface")
class CosFace(Added):
    """Cross-entropy of 16 x the cosines of features (n, d) and a vector that is learned for each class.

    Features that it has trained are compared by their cosine: of classes that training never saw too, which is what one example a class
    is recognised by. Differs: no margin, and a scale of 16, where the paper takes 64 for thousands of faces; without a margin it is
    NormFace (Wang et al. 2017, arXiv:1704.06369, equation 5).
    """

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        return only_classes("cosface", task)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        device, width = start.target.device, start.backbone.width
        with torch.no_grad():
            classes = start.head(torch.zeros(1, width, device=device)).shape[1]
        with seeded(start.seed):
            # Of length one: the longer they are, the slower they turn.
            self.directions = nn.Parameter((torch.randn(classes, width) * width**-0.5).to(device))

    def rate(self, phase: Phase) -> float:
        return as_the_head(phase)

    def forward(self, seen: Seen) -> torch.Tensor:
        cosines = normalize(seen.features, dim=1) @ normalize(self.directions, dim=1).T
        return cross_entropy(_SCALE * cosines, seen.target)
