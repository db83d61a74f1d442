"""A pretext of the tests' own, and data to learn from: pictures of two kinds, texts of two kinds."""

from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import nn

from graft.pretext import PRETEXTS, Pretext
from graft.pretext.base import batch_of, features_of


class Told(Pretext):
    """Features say how bright a batch's item is: it has a target to reach, and no randomness but its layer's."""

    modalities = ("image", "text", "signal")
    highest_rate = 1e-2
    batch_size = 16

    def __init__(self, start):
        super().__init__(start)
        with torch.random.fork_rng():
            torch.manual_seed(start.seed)
            self.layer = nn.Linear(start.backbone.width, 1)

    def forward(self, seen):
        batch = batch_of(seen)
        told = batch if isinstance(batch, torch.Tensor) else batch["input_ids"].float() / 512
        told = told.flatten(1).mean(1)
        noise = torch.rand(1, device=told.device) * 0.01
        return (self.layer(features_of(seen, batch))[:, 0] - told - noise).square().mean()


class Alike(Told):
    """Draws the features of all items to one point, and nothing apart: what collapses."""

    highest_rate = 1.0

    def forward(self, seen):
        return (features_of(seen, batch_of(seen)) - 100).square().mean()


class Taught(Told):
    """As told, and needs a teacher."""

    needs_teachers = True


@contextmanager
def registered(name, pretext):
    PRETEXTS.add("a test, equation 1", name=name)(pretext)
    try:
        yield
    finally:
        del PRETEXTS._members[name], PRETEXTS.sources[name]


def pictures(folder, n=30, kinds=("bright", "dark"), size=(40, 32), seed=0):
    """n pictures of each kind, a folder each."""
    rng = np.random.default_rng(seed)
    for number, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for place in range(n):
            level = 60 + 120 * number
            pixels = np.clip(rng.normal(level, 60, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{place}.png")
    return folder


def texts(n=40, seed=0):
    rng = np.random.default_rng(seed)
    words = {"ham": "meeting minutes agenda report", "spam": "winner cheap prize offer"}
    return [f"{' '.join(rng.choice(words[['ham', 'spam'][k % 2]].split(), 4))} {rng.integers(10_000)}" for k in range(n)]
