"""What training does to images and texts so that no item is seen twice alike: RandAugment, deleted and swapped words, hidden tokens.

Item by item, before a backbone prepares them. Random crops and mirroring are the backbone's own: `graft/backbones/_images.py`.
Mixing items with each other: `mixing.py`. Pillow, numpy, torch.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from graft.backbones.base import State
from graft.device import threads
from graft.items import open_image
from graft.records import Recipe

MAGNITUDE = 10.0  # the highest: AutoAugment's scale
_CHANGES_AN_IMAGE = 2  # N of the paper's ImageNet settings
_GREY = (128, 128, 128)  # fills what a change leaves open, as in AutoAugment

Key = Sequence[int]


def draws(recipe: Recipe, modality: str) -> bool:
    """Whether training sees items of this modality otherwise than they are judged."""
    if not recipe.augment:
        return False
    return modality == "image" or any((recipe.word_deletion, recipe.word_swap, recipe.token_dropout))


def strengths(recipe: Recipe) -> tuple[float, ...]:
    """What a view hangs on besides its seed and number."""
    return recipe.rand_augment, recipe.word_deletion, recipe.word_swap, recipe.token_dropout


def changed(items: Sequence[Any], recipe: Recipe, modality: str, keys: Sequence[Key], at_least_px: int | None = None) -> list[Any]:
    """The items as training sees them, before they are cropped or cut into tokens.

    keys: one an item, what its draws hang on. at_least_px: the shorter side of an image that is needed.
    """

    # Longer than the keys of what else is drawn for an item, so that the draws are no copies of each other.
    def rng(place: int) -> np.random.Generator:
        return np.random.default_rng([*keys[place], 0, 1])

    if modality == "text":
        return [swap(delete(item, recipe.word_deletion, rng(place)), recipe.word_swap, rng(place)) for place, item in enumerate(items)]
    if not recipe.rand_augment:
        return list(items)

    def change(place: int) -> Image.Image:
        return rand_augment(open_image(items[place], at_least_px), recipe.rand_augment, rng(place))

    with ThreadPoolExecutor(threads(len(items))) as pool:
        return list(pool.map(change, range(len(items))))


def rand_augment(image: Image.Image, magnitude: float, rng: np.random.Generator) -> Image.Image:
    """Two of the fourteen changes of CHANGES, drawn with replacement, one after the other.

    image: RGB. magnitude: in [0, 10].
    Source: Cubuk et al. 2020, arXiv:1909.13719, section 3, with N = 2. Differs: done before the random crop, where the paper's code
    does it after; what it says to be signed (turned left or right, darker or brighter) is so by a fair coin.
    """
    for place in rng.integers(len(CHANGES), size=_CHANGES_AN_IMAGE):
        image = list(CHANGES.values())[place](image, magnitude / MAGNITUDE * rng.choice([-1, 1]))
    return image


def _moved(image: Image.Image, *coefficients: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=_GREY)


def _enhanced(kind: Callable[[Image.Image], Any]) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, level: kind(image).enhance(1 + 0.9 * level)


# name -> (image, signed share of the highest magnitude, in [-1, 1]) -> image. Ranges: Cubuk et al. 2019, arXiv:1805.09501, table 6.
CHANGES: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, level: image,
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "rotate": lambda image, level: image.rotate(30 * level, Image.Resampling.BILINEAR, fillcolor=_GREY),
    "solarize": lambda image, level: ImageOps.solarize(image, math.ceil(256 * (1 - abs(level)))),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(4 * abs(level))),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda image, level: _moved(image, 1, 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level: _moved(image, 1, 0, 0, 0.3 * level, 1, 0),
    "translate_x": lambda image, level: _moved(image, 1, 0, 150 / 331 * image.width * level, 0, 1, 0),
    "translate_y": lambda image, level: _moved(image, 1, 0, 0, 0, 1, 150 / 331 * image.height * level),
}


def delete(text: str, share: float, rng: np.random.Generator) -> str:
    """The text without each of its words by this chance; one word is always left.

    Source: Wei & Zou 2019, arXiv:1901.11196, section 2, random deletion.
    """
    words = text.split()
    if not share or len(words) < 2:
        return text
    kept = rng.random(len(words)) >= share
    if not kept.any():
        kept[rng.integers(len(words))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)


def swap(text: str, share: float, rng: np.random.Generator) -> str:
    """The text after as many swaps of two random words as the share of its words says, at least one.

    Source: Wei & Zou 2019, arXiv:1901.11196, section 2, random swap.
    """
    words = text.split()
    if not share or len(words) < 2:
        return text
    for _ in range(max(1, int(share * len(words)))):
        one, other = rng.choice(len(words), 2, replace=False)
        words[one], words[other] = words[other], words[one]
    return " ".join(words)


def hide_tokens(state: State, share: float, keys: Sequence[Key]) -> State:
    """The batch with this share of its tokens hidden from attention and pooling, never a text's first or last.

    keys: one an item, what its draws hang on. Positions stay as they are.
    Source: word dropout, Iyyer et al. 2015, doi:10.3115/v1/P15-1162, section 4, on tokens.
    """
    if not share:
        return state
    assert isinstance(state, dict), "a batch of texts has an attention mask"
    mask = state["attention_mask"].clone()
    for row, key in zip(mask, keys, strict=True):
        # The first and last are marks of the tokenizer, which pooling may read.
        inner = row.nonzero()[1:-1, 0]
        row[inner[torch.from_numpy(np.random.default_rng([*key, 0, 2]).random(len(inner)) < share)]] = 0
    return {**state, "attention_mask": mask}
