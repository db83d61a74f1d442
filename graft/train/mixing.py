"""Mixup and cutmix: two items of a batch, and their targets, made one. Heavy: torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graft.backbones.base import State
from graft.records import Recipe
from graft.train.tasks import Loss


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed. partner: (n,) place of the item that each is mixed with. share: of the item itself, in [0, 1].

    box: top, left, bottom, right of what is cut out of the partner, as shares of height and width; None: all is blended.
    """

    partner: torch.Tensor
    share: float
    box: tuple[float, float, float, float] | None = None

    def state(self, state: State) -> State:
        """The mixed batch: share * x + (1 - share) * x[partner], or x with the partner's box in it."""
        if isinstance(state, dict):
            return {name: self._tensor(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        return self._tensor(state)

    def _tensor(self, one: torch.Tensor) -> torch.Tensor:
        other = one[self.partner.to(one.device)]
        if self.box is None:
            return self.share * one + (1 - self.share) * other
        height, width = one.shape[-2:]
        top, left, bottom, right = (round(part * side) for part, side in zip(self.box, (height, width) * 2, strict=True))
        mixed = one.clone()
        mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        return mixed

    def loss(self, loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """share * loss(y) + (1 - share) * loss(y[partner])."""
        return self.share * loss(logits, target) + (1 - self.share) * loss(logits, target[self.partner.to(target.device)])


def draw(recipe: Recipe, n: int, turn: Sequence[int]) -> Mix | None:
    """How a batch of n items is mixed; None where the recipe asks for nothing. turn: what the draw hangs on.

    One share for the whole batch, from Beta(alpha, alpha).
    Source: Zhang et al. 2018, arXiv:1710.09412, equation 2 (mixup); Yun et al. 2019, arXiv:1905.04899, equations 1 and 2 (cutmix). With
    both, each batch has one of them, by equal chance.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    # Longer than the keys of what else is drawn for a batch, so that the draws are no copies of each other.
    rng = np.random.default_rng([*turn, 0, 0, 0])
    cuts = bool(recipe.cutmix) and (not recipe.mixup or rng.random() < 0.5)
    alpha = recipe.cutmix if cuts else recipe.mixup
    share = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(n))
    if not cuts:
        return Mix(partner, share)
    side, centre = math.sqrt(1 - share), rng.random(2)
    # The box is cut off at the edges; what is left of it counts.
    (top, left), (bottom, right) = np.clip([centre - side / 2, centre + side / 2], 0.0, 1.0).tolist()
    return Mix(partner, 1 - (bottom - top) * (right - left), (top, left, bottom, right))
