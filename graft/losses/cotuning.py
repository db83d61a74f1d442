"""Co-Tuning: the pretrained classifier goes on learning beside the new head. Heavy: torch."""

import torch
from torch import nn
from torch.nn import functional

from graft.backbones.base import Backbone
from graft.losses.base import LOSSES, Added, Seen, Start, only_classes
from graft.records import Plan, Task


@LOSSES.add("You et al. 2020, NeurIPS, Co-Tuning for Transfer Learning, equation 1 and algorithm 1", name="cotuning")
class CoTuning(Added):
    """Cross-entropy of the pretrained classifier's prediction with p(source class | target class) of each item's class.

    The relationship is the paper's direct approach: what the pretrained classifier says of the items of a class, on average, before
    training. The classifier learns on, at the backbone's rate.
    Differs: the paper calibrates that classifier on held-out data of the source first, which whoever fine-tunes seldom has; its
    outputs are taken as they are (temperature 1), as the thuml/Transfer-Learning-Library does.
    """

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        if task != "classification":
            return only_classes("cotuning", task)
        if backbone.classifier() is None:
            return (
                f"cotuning with {backbone.name}, which comes without the classifier that it was pretrained with, expected one: timm:NAME, "
                "or a checkpoint folder that holds it. Use delta or bss, which need none."
            )
        return ""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        classifier = start.backbone.classifier()
        assert classifier is not None, "refusal() was not asked"
        self.classifier = classifier.to(start.target.device).requires_grad_(True)
        with torch.no_grad():
            said = self.classifier(start.features()).softmax(1)
        classes = int(start.target.max()) + 1
        self.register_buffer("related", relationship(said, start.target, classes), persistent=False)

    def forward(self, seen: Seen) -> torch.Tensor:
        assert isinstance(self.related, torch.Tensor)
        # With probabilities for a target this is the mean over items of -sum p log q.
        return functional.cross_entropy(self.classifier(seen.features), self.related[seen.target])


def relationship(said: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    """p(source class | target class), (c, s): rows sum to 1; those of a class without items are 0.

    said: (n, s), probabilities of the s source classes. target: (n,), of the c target classes.
    """
    member = functional.one_hot(target, classes).to(said.dtype)
    return member.T @ said / member.sum(0).clamp(min=1)[:, None]
