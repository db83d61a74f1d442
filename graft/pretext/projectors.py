"""What stands behind a network while it is taught without labels, and is thrown away then. Heavy: torch."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from graft.device import seeded
from graft.losses import Start


def hidden_width(width: int) -> int:
    """Of the hidden layers behind features of a width: four times it, 256 at least and 2048 at most.

    SimCLR's and BYOL's factors for ResNet-50 are 1 and 2; small networks have less to spare.
    """
    return min(2048, max(256, 4 * width))


def mlp(start: Start, widths: Sequence[int], *, activation: type[nn.Module] = nn.ReLU, normalised: bool = True) -> nn.Sequential:
    """Linear layers from width to width, with an activation between them, and before it batch normalisation unless not `normalised`.

    The weights hang on the run's seed and on the widths, not on what was drawn before.
    """
    with seeded(start.seed):
        stack: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            stack += [nn.Linear(inputs, outputs, bias=not normalised), *([nn.BatchNorm1d(outputs)] if normalised else []), activation()]
        return nn.Sequential(*stack, nn.Linear(widths[-2], widths[-1])).to(start.target.device)
