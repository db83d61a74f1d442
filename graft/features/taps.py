"""What is read off a backbone as one vector an item. Heavy: torch."""

import torch
from torch import nn

from graft.backbones.base import Backbone, State, channels_last

# Each reads the columns of the one before, and more to their left.
TAPS = ("pooled", "late", "stages")


class Tapped(nn.Module):
    """A backbone that answers with what a tap reads: a batch -> (n, d).

    tap: "pooled", the backbone's own features; "stages", the output of every stage averaged over its places, side by side; or
    "late", the same of the later half of the stages.
    """

    def __init__(self, backbone: Backbone, tap: str) -> None:
        super().__init__()
        self.backbone, self.tap = backbone, tap

    def forward(self, state: State) -> torch.Tensor:
        return torch.cat(self.parts(state), 1)

    def parts(self, state: State) -> list[torch.Tensor]:
        """What `forward` puts side by side: a matrix a stage, or the pooled features alone."""
        if self.tap == "pooled":
            return [self.backbone(state)]
        first, outputs = first_late(self.backbone.depth) if self.tap == "late" else 0, []
        for place, stage in enumerate(self.backbone.stages):
            state = stage(state)
            if place >= first:
                outputs.append(_mean_over_places(state))
        return outputs


def first_late(depth: int) -> int:
    """The first stage of the later half: of an odd number the middle one is late."""
    return depth // 2


def _mean_over_places(state: State) -> torch.Tensor:
    """The state between two stages as one vector an item, (n, channels)."""
    if isinstance(state, dict):
        mask = state["attention_mask"].unsqueeze(-1).to(state["hidden"].dtype)
        return (state["hidden"] * mask).sum(1) / mask.sum(1).clamp(min=1)
    if state.ndim == 4:
        return state.mean((1, 2) if channels_last(state) else (2, 3))
    return state.mean(1) if state.ndim == 3 else state
