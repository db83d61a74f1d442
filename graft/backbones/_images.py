"""How image items become a batch: the resize, crop and normalisation that a checkpoint was trained with. Pillow, numpy, torch."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image

from graft.backbones.base import State
from graft.device import threads
from graft.errors import GraftError, near_miss
from graft.items import open_image

_FILTERS = {name: getattr(Image.Resampling, name.upper()) for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")}
_CROP_MODES = ("center", "squash", "border")
# Inception's crops keep 8 to 100 % of the image; with a few hundred images of one's own, milder crops are the usual choice.
_TRAIN_AREA = (0.35, 1.0)
# ITU-R BT.601, which Pillow uses.
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)
_TRAIN_RATIO = (3 / 4, 4 / 3)


def preprocessing_of(config: dict[str, Any], where: str) -> dict[str, Any]:
    """timm's keys of a checkpoint's config -> size_px and resize_px (height, width), crop_mode, interpolation, mean, std.

    config: may lack keys; timm's defaults then hold. where: what to name in an error.
    Raises GraftError for an unknown interpolation or crop mode, or another number of channels than 3.
    """
    channels, height, width = config.get("input_size") or (3, 224, 224)
    interpolation, crop_mode = config.get("interpolation") or "bicubic", config.get("crop_mode") or "center"
    if interpolation == "random":
        interpolation = "bilinear"
    if interpolation not in _FILTERS:
        raise GraftError(
            f"{where}: interpolation {interpolation!r}, expected one of {', '.join(_FILTERS)}.{near_miss(interpolation, _FILTERS)}"
        )
    if crop_mode not in _CROP_MODES:
        raise GraftError(f"{where}: crop_mode {crop_mode!r}, expected one of {', '.join(_CROP_MODES)}.{near_miss(crop_mode, _CROP_MODES)}")
    if channels != 3:
        raise GraftError(f"{where}: takes images of {channels} channels, expected 3 (red, green, blue). Choose another checkpoint.")
    return {
        "size_px": [int(height), int(width)],
        "resize_px": [math.floor(side / (config.get("crop_pct") or 0.875)) for side in (height, width)],
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "mean": [float(value) for value in config.get("mean") or (0.485, 0.456, 0.406)],
        "std": [float(value) for value in config.get("std") or (0.229, 0.224, 0.225)],
    }


def preparer(preprocessing: dict[str, Any]) -> Callable[[Sequence[Any], np.random.Generator | None], State]:
    """The `prepare` of an image backbone: n items -> (n, 3, height, width) float32, normalised.

    preprocessing: as `preprocessing_of` gives it; with "grey" one channel comes out of three, weighted as in Pillow's mode "L". With a
    generator each item's view is a random crop of 35 to 100 % of its area, side ratio 3/4 to 4/3, mirrored half of the time.
    Source: Szegedy et al. 2015, arXiv:1409.4842, section 6, for the random crop; timm's `transforms_imagenet_eval` for the other.
    """
    mean, std = (np.array(preprocessing[name], np.float32) * 255 for name in ("mean", "std"))
    # A row of pixels long, not three channels: numpy computes along the last axes, and three numbers are too few at a time.
    means, scales = (np.tile(channels, (preprocessing["size_px"][1], 1)) for channels in (mean, 1 / std))

    def prepare(items: Sequence[Any], rng: np.random.Generator | None) -> State:
        # One seed an item, drawn here: threads would otherwise share a generator in an order that changes from run to run.
        seeds = [None] * len(items) if rng is None else rng.integers(2**63, size=len(items)).tolist()
        batch = np.empty((len(items), *preprocessing["size_px"], 3), np.float32)

        def fill(place: int) -> None:
            np.subtract(_view(items[place], seeds[place], preprocessing), means, out=batch[place])
            np.multiply(batch[place], scales, out=batch[place])

        # Shares, not single items: handing each to a thread takes near half as long as resizing a photograph to 96 px.
        workers = threads(len(items))

        def fill_share(first: int) -> None:
            for place in range(first, len(items), workers):
                fill(place)

        if workers == 1:
            fill_share(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(fill_share, range(workers)))
        # (n, h, w, 3) seen as (n, 3, h, w) is the channels-last layout, in which convolutions run fastest on a CPU.
        if preprocessing.get("grey"):
            batch = batch @ _LUMA
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    return prepare


def _view(item: Any, seed: int | None, preprocessing: dict[str, Any]) -> np.ndarray:
    """One item -> (height, width, 3) uint8."""
    height, width = preprocessing["size_px"]
    resample = _FILTERS[preprocessing["interpolation"]]
    wanted = preprocessing["resize_px"]
    image = open_image(item, at_least_px=max(wanted))
    if seed is not None:
        return _random_crop(image, height, width, resample, np.random.default_rng(seed))
    if preprocessing["crop_mode"] == "squash":
        sides = wanted
    else:
        ratios = [side / want for side, want in zip(image.size[::-1], wanted, strict=True)]
        fit = max(ratios) if preprocessing["crop_mode"] == "border" else min(ratios)
        # torchvision's Resize of the shorter side cuts fractions off, timm's ResizeKeepRatio rounds them.
        whole = int if preprocessing["crop_mode"] == "center" and wanted[0] == wanted[1] else round
        # The side that sets the scale is exact; only the other one comes out fractional.
        sides = [want if ratio == fit else whole(side / fit) for side, want, ratio in zip(image.size[::-1], wanted, ratios, strict=True)]
    return _padded(_centre(image, [max(1, side) for side in sides], (height, width), resample), height, width, preprocessing)


def _centre(image: Image.Image, sides: Sequence[int], most: Sequence[int], resample: Image.Resampling) -> np.ndarray:
    """The middle, of at most so many pixels, that the image has when it is resized to the sides; (height, width) in all of them.

    Only what is kept is computed: near half of the work for a photograph of 3 to 2. Differs from resizing and then cropping by rounding: by
    1 of 255 in one value of fifty, by 2 in few; in noise by more, as Pillow may then take the height before the width.
    """
    kept = [min(pair) for pair in zip(sides, most, strict=True)]
    starts = [round((side - keep) / 2) for side, keep in zip(sides, kept, strict=True)]
    # (start, end) of each side in the image's own pixels, which reach beyond the box where the filter does.
    (top, bottom), (left, right) = (
        (start * own / side, (start + keep) * own / side)
        for start, keep, own, side in zip(starts, kept, image.size[::-1], sides, strict=True)
    )
    return np.asarray(image.resize((kept[1], kept[0]), resample, box=(left, top, right, bottom)))


def _padded(pixels: np.ndarray, height: int, width: int, preprocessing: dict[str, Any]) -> np.ndarray:
    """(height, width, 3): where the pixels are fewer, padded with the mean colour (crop mode "border") or black, as timm does."""
    missing = [height - pixels.shape[0], width - pixels.shape[1]]
    if not any(missing):
        return pixels
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = [round(255 * value) for value in preprocessing["mean"]] if preprocessing["crop_mode"] == "border" else [0, 0, 0]
    canvas[missing[0] // 2 :, missing[1] // 2 :][: pixels.shape[0], : pixels.shape[1]] = pixels
    return canvas


def _random_crop(image: Image.Image, height: int, width: int, resample: Image.Resampling, rng: np.random.Generator) -> np.ndarray:
    area = image.width * image.height * rng.uniform(*_TRAIN_AREA)
    ratio = math.exp(rng.uniform(*np.log(_TRAIN_RATIO)))
    crop_width, crop_height = min(image.width, round(math.sqrt(area * ratio))), min(image.height, round(math.sqrt(area / ratio)))
    left, top = int(rng.integers(image.width - crop_width + 1)), int(rng.integers(image.height - crop_height + 1))
    box = (left, top, left + max(1, crop_width), top + max(1, crop_height))
    pixels = np.asarray(image.resize((width, height), resample, box=box))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
