"""Random views of prepared images: cropped, mirrored, recoloured, blurred, a whole batch at once. Heavy: torch."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from graft.backbones.base import Backbone
from graft.losses import Seen, Start
from graft.pretext.base import batch_of

# ITU-R BT.601, which Pillow and torchvision use for grey.
_LUMA = (0.299, 0.587, 0.114)
# NTSC's YIQ, whose first axis is that grey: a turn about it changes the hue alone.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
# Up to this side SimCLR blurs nothing, appendix B.9, as there is too little to lose.
_SMALL_PX = 64
_BLUR = (0.1, 2.0)  # SimCLR, appendix A: the deviation in pixels, drawn evenly


@dataclass(frozen=True)
class Views:
    """How views are drawn; called with a prepared batch (n, c, h, w) it gives one random view of each image, (n, c, h, w).

    c is 3, or 1 for grey images, whose brightness and contrast alone are changed. mean, std: of each channel, which the batch was
    normalised with; pixels are in [0, 1] without. area: share of the image that a crop keeps, and ratio: of its sides, (low, high).
    mirror, jitter, grey, blur, solarise: chances, each in [0, 1]; images up to 64 px a side are not blurred. brightness, contrast,
    saturation: how far each factor may be from 1. hue: how far it may be turned, in turns. size_px: side of a view, that of the image
    unless given.

    Source: Chen et al. 2020, arXiv:2002.05709, appendix A, at the strength 0.5 of its experiments on CIFAR-10 (appendix B.9); solarising
    from Grill et al. 2020, arXiv:2006.07733, appendix B. Differs: the hue turns in YIQ, not in HSV; brightness, contrast, saturation and
    hue come in this order, not in a random one, and values outside [0, 1] are clipped once at the end. So all colour is one matrix an
    image. A crop larger than what it becomes is not smoothed first.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    area: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    solarise: float = 0.0
    size_px: int | None = None

    @torch.no_grad()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        mean, std = (batch.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        pixels = cropped(batch, self.area, self.ratio, self.mirror, self.size_px) * std + mean
        pixels = self.recoloured(pixels)
        if pixels.shape[-1] > _SMALL_PX and self.blur:
            pixels = chosen(self.blur, blurred(pixels), pixels)
        if self.solarise:
            pixels = chosen(self.solarise, torch.where(pixels >= 0.5, 1 - pixels, pixels), pixels)
        return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)

    def recoloured(self, pixels: torch.Tensor) -> torch.Tensor:
        """Brightness, contrast, saturation, hue and grey of images (n, c, h, w) in [0, 1]."""
        n, channels = pixels.shape[:2]

        def factor(strength: float) -> torch.Tensor:
            drawn = 1 + strength * (2 * torch.rand(n, device=pixels.device) - 1)
            return torch.where(kept, drawn, 1.0)[:, None, None]

        kept = torch.rand(n, device=pixels.device) < self.jitter
        brightness, contrast, saturation = (factor(strength) for strength in (self.brightness, self.contrast, self.saturation))
        turn = 2 * math.pi * (factor(self.hue) - 1)
        grey = (torch.rand(n, 1, 1, device=pixels.device) < self.grey).float()
        luma = pixels.new_tensor(_LUMA if channels == 3 else (1.0,)).expand(channels, channels)
        matrix = brightness * contrast * torch.eye(channels, device=pixels.device)
        # What contrast pulls towards: the mean grey of the whole image.
        middle = brightness * (1 - contrast) * (pixels.mean((2, 3)) @ luma.T)[:, :1, None]
        if channels == 3:
            matrix = turned(turn) @ (saturation * torch.eye(3, device=pixels.device) + (1 - saturation) * luma) @ matrix
            matrix = grey * (luma @ matrix) + (1 - grey) * matrix
        # Saturation, hue and grey leave a grey value as it is, so the middle needs none of them.
        return torch.baddbmm(middle, matrix, pixels.flatten(2)).clamp(0, 1).view_as(pixels)


def views_of(backbone: Backbone, **settings: float | tuple[float, float] | int | None) -> Views:
    """The views of images that a backbone has prepared. settings: see Views.

    A backbone whose preprocessing names no mean, as tiny:image, is taken to read pixels scaled to [-1, 1].
    """
    mean, std = (tuple(backbone.preprocessing.get(name, (0.5, 0.5, 0.5))) for name in ("mean", "std"))
    if backbone.preprocessing.get("grey"):
        # Channels were normalised first and weighted then: exact where they have one deviation.
        mean, std = ((sum(weight * value for weight, value in zip(_LUMA, values, strict=True)),) for values in (mean, std))
    return Views(mean, std, **settings)  # type: ignore[arg-type]


def images_of(seen: Seen) -> torch.Tensor:
    """The prepared batch of images (n, c, h, w)."""
    batch = batch_of(seen)
    assert isinstance(batch, torch.Tensor), "a batch of images is one tensor"
    return batch


def sample_of(start: Start) -> torch.Tensor:
    """The first image as it will be prepared, (1, c, h, w)."""
    sample = start.backbone.prepare(start.others[:1])
    assert isinstance(sample, torch.Tensor), "a batch of images is one tensor"
    return sample.to(start.target.device)


def both_views(seen: Seen, first: Views, second: Views | None = None) -> torch.Tensor:
    """(2n, c, h, w): a view of each image of the batch, and behind them a second one of each, drawn as the first unless said."""
    batch = images_of(seen)
    return torch.cat([first(batch), (second or first)(batch)])


def cropped(
    batch: torch.Tensor, area: tuple[float, float], ratio: tuple[float, float], mirror: float, size_px: int | None = None
) -> torch.Tensor:
    """A random part of each image (n, c, h, w) at the image's size or size_px, mirrored by chance. The rest as in Views."""
    n, channels, height, width = batch.shape
    share = torch.empty(n, device=batch.device).uniform_(*area)
    shape = torch.empty(n, device=batch.device).uniform_(*map(math.log, ratio)).exp()
    wide, high = (share * shape).sqrt().clamp(max=1), (share / shape).sqrt().clamp(max=1)
    right, down = ((1 - side) * (2 * torch.rand(n, device=batch.device) - 1) for side in (wide, high))
    wide = torch.where(torch.rand(n, device=batch.device) < mirror, -wide, wide)
    nothing = torch.zeros_like(wide)
    maps = torch.stack([torch.stack([wide, nothing, right], 1), torch.stack([nothing, high, down], 1)], 1)
    grid = functional.affine_grid(maps, [n, channels, size_px or height, size_px or width], align_corners=False)
    return functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)


def turned(angle: torch.Tensor) -> torch.Tensor:
    """The matrices (n, 3, 3) that turn the hue of red, green, blue by angles (n, 1, 1) in radians; grey stays as it is."""
    yiq = angle.new_tensor(_YIQ)
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = [torch.cat(row, 2) for row in ((one, zero, zero), (zero, cosine, -sine), (zero, sine, cosine))]
    return torch.linalg.inv(yiq) @ torch.cat(rows, 1) @ yiq


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Each image (n, c, h, w) under a Gaussian of its own, of 0.1 to 2 pixels, cut off at a twentieth of the side."""
    n, channels, height, width = pixels.shape
    reach = max(1, height // 20)
    deviation = torch.empty(n, 1, device=pixels.device).uniform_(*_BLUR)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=pixels.device) / deviation) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = functional.pad(pixels.reshape(1, n * channels, height, width), (reach,) * 4, "reflect")
    flat = functional.conv2d(flat, weights[:, None, None], groups=n * channels)
    return functional.conv2d(flat, weights[:, None, :, None], groups=n * channels).view_as(pixels)


def chosen(chance: float, changed: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Each image changed by chance, else as it was."""
    return torch.where(torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < chance, changed, pixels)
