"""`rows:D`: rows of D numbers, such as features that another model gave, passed on as they are. Nothing here learns but the head."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones import _folders
from graft.backbones.base import Backbone
from graft.errors import GraftError


def load(name: str) -> Backbone:
    """`rows:D` for rows of D numbers, D >= 1. `Transfer("rows")` tells D by its X. Raises GraftError for another D."""
    if not name.isdecimal() or int(name) < 1:
        raise GraftError(f"rows:{name}: expected rows:D, D numbers a row and at least 1, e.g. rows:384. Transfer('rows') tells D by X.")
    width = int(name)
    return Backbone(
        name=f"rows:{width}",
        modality="row",
        width=width,
        stages=[("rows", nn.Identity())],
        prepare=partial(_prepare, width),
        fresh=lambda seed: load(name),
        write=_write,
        preprocessing={"numbers": width},
        card={"pretrained_on": "nothing: numbers as they are given"},
    )


def _prepare(width: int, items: Sequence[Any], rng: np.random.Generator | None) -> torch.Tensor:
    shapes = {np.shape(item) for item in items}
    if shapes != {(width,)}:
        raise GraftError(f"rows:{width} was given items of shape {', '.join(map(str, sorted(shapes)))}, expected rows of {width} numbers.")
    return torch.from_numpy(np.array(items, np.float32))


def _write(backbone: Backbone, folder: Path) -> None:
    # Of no weights there is no file.
    _folders.write_json(folder / "config.json", {"architecture": f"rows:{backbone.width}"})
