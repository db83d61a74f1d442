"""A small network for drawings and characters, and how a picture of either polarity becomes ink in a frame. Its name: doodle."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from graft.backbones import _folders
from graft.backbones.base import Backbone, State
from graft.device import seeded
from graft.items import open_image

ARCHITECTURE = "doodle"
_SIZE_PX = 32
_WIDTH = 256
_CHANNELS = 48
# Sides of the picture that is read to those of the frame: a drawing that fills half of its picture is not enlarged.
_READ = 1.75
# Half a frame in spreads of the ink. A straight line reaches 1.7 spreads from its middle.
_REACH = 2.2
# Fainter ink is not counted for the place and size of a drawing: noise on all of the paper would outweigh it.
_FAINT = 0.25
# A picture that is enlarged more often than this comes out blurred, and its ink is taken between these levels. Measured on MNIST's test
# part at 8 x 8, five labels a class: 80.1 % as it is, 85.8 % so, 84.2 % between 0.3 and 0.7.
_ENLARGED, _LOW, _HIGH = 4, 0.2, 0.8
# Of a random view, in half frames: what turns, scales, shears, moves and bends leave a character readable.
_TURN, _SCALE, _SHEAR, _SHIFT, _BEND, _BENDS = np.deg2rad(15), 0.2, 0.2, 0.2, 0.1, 4


def from_tensors(config: dict[str, Any], tensors: _folders.Tensors, name: str) -> Backbone:
    """The network with a checkpoint's weights. config: "architecture", and "size_px" of the frame where it is not 32."""
    backbone = build(name, int(config.get("size_px", _SIZE_PX)))
    _folders.fit(backbone, tensors, name)
    return backbone


def build(name: str = ARCHITECTURE, size_px: int = _SIZE_PX) -> Backbone:
    """With weights drawn from torch's global generator: five stages, (n, 1, 32, 32) -> (n, 256), 1.1 million parameters."""
    w = _CHANNELS
    halve = nn.MaxPool2d(2)
    stages: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Sequential(_convolution(1, w), halve)),
        ("conv2", nn.Sequential(_convolution(w, w), halve)),
        ("conv3", nn.Sequential(_convolution(w, 2 * w), _convolution(2 * w, 2 * w), halve)),
        ("conv4", _convolution(2 * w, 4 * w)),
        # 4 x 4 places: where a stroke lies tells characters apart.
        ("dense", nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(4 * w * 16, _WIDTH, bias=False), nn.BatchNorm1d(_WIDTH))),
    ]

    for _, stage in stages:
        stage.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def fresh(seed: int) -> Backbone:
        with seeded(seed):
            return build(name, size_px)

    return Backbone(
        name=name,
        modality="image",
        width=_WIDTH,
        stages=stages,
        prepare=lambda items, rng: prepare(items, rng, size_px),
        fresh=fresh,
        write=lambda backbone, folder: _write(backbone, folder, size_px),
        preprocessing={"size_px": [size_px] * 2, "resize_px": [_read_px(size_px)] * 2, "grey": True, "framed": True},
        card={"licence": "Apache-2.0"},
        resized=lambda size_px: build(name, size_px),
    )


def _convolution(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


def _write(backbone: Backbone, folder: Path, size_px: int) -> None:
    names = {key: key for key in backbone.state_dict()}
    _folders.write(backbone, folder, names, {"architecture": ARCHITECTURE, "size_px": size_px})


def _read_px(size_px: int) -> int:
    return round(size_px * _READ)


def prepare(items: Sequence[Any], rng: np.random.Generator | None, size_px: int = _SIZE_PX) -> State:
    """n pictures of any size and colour -> (n, 1, size_px, size_px) of ink in [0, 1], in a frame around its middle.

    The frame is square, its middle the ink's centre of mass, its half side 2.2 times the ink's standard deviation from it.
    rng: draws a view of each: turned by up to 15 degrees, either side scaled by up to a fifth, sheared by up to a fifth, moved by up to a
    tenth, and bent by a smooth random field. No view is mirrored: a mirrored character is another one.
    """
    inks = torch.from_numpy(np.stack([read_ink(item, _read_px(size_px)) for item in items]))[:, None]
    maps = frames(inks)
    if rng is not None:
        maps = maps @ _drawn(len(items), rng)
    grid = affine_grid(maps[:, :2], [len(items), 1, size_px, size_px], align_corners=False)
    if rng is not None:
        bends = torch.from_numpy(rng.normal(0, _BEND, (len(items), 2, _BENDS, _BENDS)).astype(np.float32))
        grid = grid + interpolate(bends, size=(size_px, size_px), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return grid_sample(inks, grid, align_corners=False)


def read_ink(item: Any, side_px: int) -> np.ndarray:
    """One picture -> (side_px, side_px) float32, 0 for paper and 1 for the strongest ink; what is not square is padded with paper.

    Paper is what lies along the edge: where that is on average brighter than the middle of the picture's range, ink is dark.
    """
    image = open_image(item, at_least_px=side_px).convert("L")
    longer = max(image.size)
    width, height = (max(1, round(side * side_px / longer)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    grey = np.asarray(image, np.float32)
    low, high = float(grey.min()), float(grey.max())
    ink = (grey - low) / max(high - low, 1.0)
    # All of the picture says less: heavy strokes cover more than half of some digits.
    if np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]]).mean() > (low + high) / 2:
        ink = 1 - ink
    if longer * _ENLARGED < side_px:
        ink = np.clip((ink - _LOW) / (_HIGH - _LOW), 0, 1)
    canvas = np.zeros((side_px, side_px), np.float32)
    top, left = (side_px - ink.shape[0]) // 2, (side_px - ink.shape[1]) // 2
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return canvas


def frames(inks: torch.Tensor) -> torch.Tensor:
    """(n, 1, h, h) of ink -> (n, 3, 3), which take a frame's coordinates to the picture's, both from -1 to 1."""
    side = inks.shape[-1]
    places = (2 * torch.arange(side) + 1) / side - 1
    mass = (inks[:, 0] - _FAINT).clamp(min=0)
    # An empty picture is framed as a whole.
    mass = torch.where(mass.sum((1, 2), keepdim=True) > 0, mass, torch.ones_like(mass))
    across, down = (mass.sum(axis) / mass.sum((1, 2))[:, None] for axis in (1, 2))
    x, y = across @ places, down @ places
    variance = (across * (places - x[:, None]).square() + down * (places - y[:, None]).square()).sum(1)
    # A single dot would be magnified to nothing but blur.
    half = _REACH * (variance / 2).sqrt().clamp(min=2 / side)
    maps = torch.zeros(len(inks), 3, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = half
    maps[:, 0, 2], maps[:, 1, 2], maps[:, 2, 2] = x, y, 1
    return maps


def _drawn(n: int, rng: np.random.Generator) -> torch.Tensor:
    """(n, 3, 3) random changes of a frame."""
    turn = rng.uniform(-_TURN, _TURN, n)
    turned, changed = np.zeros((n, 3, 3)), np.zeros((n, 3, 3))
    turned[:, 0, 0] = turned[:, 1, 1] = np.cos(turn)
    turned[:, 0, 1], turned[:, 1, 0] = -np.sin(turn), np.sin(turn)
    changed[:, 0, 0], changed[:, 1, 1] = rng.uniform(1 - _SCALE, 1 + _SCALE, (2, n))
    changed[:, 0, 1] = rng.uniform(-_SHEAR, _SHEAR, n)
    drawn = turned @ changed
    drawn[:, :2, 2] = rng.uniform(-_SHIFT, _SHIFT, (n, 2))
    drawn[:, 2, 2] = 1
    return torch.from_numpy(drawn.astype(np.float32))
