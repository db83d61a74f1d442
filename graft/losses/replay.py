"""Dark Experience Replay: what the starting network says of replayed items stays what it was. Heavy: torch."""

import torch
from torch import nn

from graft.backbones.base import Backbone
from graft.losses.base import LOSSES, Added, Seen, Start, other_of, spread
from graft.records import Plan, Task


@LOSSES.add("Buzzega et al. 2020, arXiv:2004.07211, section 3", name="replay")
class Replay(Added):
    """Mean squared difference of replayed items' features now and those stored before training, over the stored ones' mean variance.

    The others are the replayed items, in the view that is judged: the stored response is to that one.
    Differs: features (k, d) in the place of the classifier's outputs, as the source's classifier is not there; divided by their variance,
    so that a strength says the same of every backbone; items of one source task, stored at once, where the paper samples a stream.
    """

    needs_others = True
    as_judged = True

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        if any(any(phase.lr) for phase in plan.phases):
            return ""
        return "replay in a plan in which no layer group learns, expected one: nothing can be forgotten. Leave it out."

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        # In a tuple: it never changes, and is no part of what a run keeps.
        self._stored = (start.other_features(),)
        self._variance = spread(self._stored[0]) ** 2

    def forward(self, seen: Seen) -> torch.Tensor:
        other = other_of(seen)
        return (other.features - self._stored[0][other.places]).square().mean() / self._variance
