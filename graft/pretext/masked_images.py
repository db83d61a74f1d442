"""Patches of an image are hidden, and the network is to draw them. Heavy: torch."""

import math

import torch
from torch import nn
from torch.nn import functional

from graft.backbones.base import State, channels_last
from graft.device import seeded
from graft.errors import GraftError
from graft.losses import Seen, Start
from graft.pretext.base import PRETEXTS, Pretext, run
from graft.pretext.views import cropped, images_of, sample_of

_HIDDEN = 0.6  # SimMIM, section 4.1.2
_AREA, _RATIO = (0.67, 1.0), (3 / 4, 4 / 3)  # SimMIM, section 4.1.1; its only other change is mirroring
_ACROSS = 8  # patches along a side, about, as of the best sides in SimMIM's table 1 (32 px of 192: 6)


@PRETEXTS.add("Xie et al. 2022, arXiv:2111.09886, section 3; its loss: He et al. 2022, arXiv:2111.06377, section 3", name="masked_patches")
class MaskedPatches(Pretext):
    """Six tenths of an image's patches are painted over, and the state before the pooling stage is to tell their pixels.

    As in SimMIM they are drawn by a single linear layer; as in MAE the loss is the squared error on hidden patches alone, each normalised
    by its own mean and deviation. Differs from SimMIM: the image itself is painted over, with one learned value a channel, as any network
    can read it, and errors are squared. Differs from MAE: hidden patches are computed with the others, which saves nothing; 60 % are
    hidden, not 75 %. Patches are about an eighth of the side.
    """

    modalities = ("image",)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        backbone, device = start.backbone, start.target.device
        self.pooling, self.name = backbone.depth - 1, backbone.name
        sample = sample_of(start)
        self.channels, self.side_px = sample.shape[1], sample.shape[-1]
        self.patch_px = patch_side(self.side_px, self.name)
        with torch.no_grad():
            maps = maps_of(backbone(sample, 0, self.pooling), self.name)
        self.scale = math.ceil(self.side_px / maps.shape[-1])
        with seeded(start.seed):
            self.decoder = nn.Conv2d(maps.shape[1], self.channels * self.scale**2, 1).to(device)
        self.paint = nn.Parameter(torch.zeros(1, self.channels, 1, 1, device=device))

    def forward(self, seen: Seen) -> torch.Tensor:
        images = cropped(images_of(seen), _AREA, _RATIO, 0.5)
        hidden = hide(len(images), self.side_px // self.patch_px, images.device)
        over = hidden.float().repeat_interleave(self.patch_px, 1).repeat_interleave(self.patch_px, 2)[:, None]
        return masked_loss(self.drawn(seen, torch.lerp(images, self.paint.expand_as(images), over)), images, hidden)

    def drawn(self, seen: Seen, painted: torch.Tensor) -> torch.Tensor:
        """What the network makes of painted images, (n, c, side, side)."""
        maps = maps_of(run(seen, painted, self.pooling), self.name)
        drawn = functional.pixel_shuffle(self.decoder(maps.float()), self.scale)
        return drawn if drawn.shape[-1] == self.side_px else functional.interpolate(drawn, self.side_px, mode="bilinear")


def masked_loss(drawn: torch.Tensor, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Mean squared error on hidden patches, each of whose pixels are normalised by their mean and deviation.

    drawn, images: (n, c, side, side). hidden: (n, k, k) of bool, patches of side / k pixels, at least one hidden.
    Source: He et al. 2022, arXiv:2111.06377, section 3, "reconstruction target"; the authors' code for the 1e-6.
    """
    patch_px = images.shape[-1] // hidden.shape[-1]
    said, truth = (functional.unfold(pixels, patch_px, stride=patch_px).transpose(1, 2)[hidden.flatten(1)] for pixels in (drawn, images))
    truth = (truth - truth.mean(1, keepdim=True)) / (truth.var(1, keepdim=True) + 1e-6).sqrt()
    return functional.mse_loss(said, truth)


def hide(n: int, across: int, device: torch.device) -> torch.Tensor:
    """(n, across, across) of bool: as many patches of each image, drawn at random."""
    count = round(_HIDDEN * across**2)
    return (torch.rand(n, across**2, device=device).argsort(1) < count).view(n, across, across)


def patch_side(side_px: int, name: str) -> int:
    """The whole part of a side that is nearest to an eighth of it, 2 pixels at least."""
    sides = [side for side in range(2, side_px // 2 + 1) if side_px % side == 0]
    if not sides:
        raise GraftError(
            f"masked_patches with {name}, which reads images of {side_px} px: expected a side that whole patches of 2 px or more divide. "
            f"Take {name}@{side_px + side_px % 2}px."
        )
    return min(sides, key=lambda side: abs(side - side_px / _ACROSS))


def maps_of(state: State, name: str) -> torch.Tensor:
    """The state before the pooling stage as maps (n, c, h, w): as it is, channels last, or the tokens (n, t, c) of a square of patches.

    Tokens beyond the square, which come first, are no patches. Raises GraftError for any other state.
    """
    if isinstance(state, torch.Tensor) and state.ndim == 4:
        return state.permute(0, 3, 1, 2) if channels_last(state) else state
    if isinstance(state, torch.Tensor) and state.ndim == 3:
        across = math.isqrt(state.shape[1])
        return state[:, -(across**2) :].transpose(1, 2).unflatten(2, (across, across))
    kind = f"a tensor of {state.ndim} axes" if isinstance(state, torch.Tensor) else f"a dict of {', '.join(state)}"
    raise GraftError(
        f"masked_patches with {name}: its last stage but one gives {kind}, expected maps (n, c, h, w) or tokens (n, t, c) to draw pixels "
        "from. Take simclr or byol, which read features alone."
    )
