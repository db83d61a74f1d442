"""`signal:C`: an untrained one-dimensional convolutional network for signals of C channels and any length."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones import _folders
from graft.backbones.base import Backbone
from graft.device import seeded
from graft.errors import GraftError

LEAST_STEPS = 16  # the stages halve the steps four times
_WIDTHS = (32, 64, 96, 128)
_KERNELS = (7, 5, 5, 3)


def load(name: str) -> Backbone:
    """`signal:C` for arrays (C, t) of numbers with t >= 16, C >= 1. Raises GraftError for another C.

    Each channel of each item is standardised by itself, to mean 0 and standard deviation 1 over its steps: level and loudness are not
    seen. Items of one batch may differ in length; their features do not hang on what else is in the batch.
    Source: Wang et al. 2017, arXiv:1611.06455, the fully convolutional network. Differs: four strided layers for its three.
    """
    if not name.isdecimal() or int(name) < 1:
        raise GraftError(f"signal:{name}: expected signal:C, C channels and at least 1, e.g. signal:3 for arrays of shape (3, t).")
    return _build(int(name), 0)


def from_folder(config: Mapping[str, Any], tensors: _folders.Tensors, shown: str) -> Backbone:
    """What `Backbone.save` wrote."""
    backbone = load(str(config["architecture"]).removeprefix("signal:"))
    _folders.fit(backbone, tensors, shown)
    backbone.name, backbone.card = shown, {}
    return backbone


def _build(channels: int, seed: int) -> Backbone:
    with seeded(seed):
        widths = (channels, *_WIDTHS)
        layers = [_Layer(*sizes) for sizes in zip(widths[:-1], widths[1:], _KERNELS, strict=True)]
    return Backbone(
        name=f"signal:{channels}",
        modality="signal",
        width=_WIDTHS[-1],
        stages=[*((f"layer{number}", layer) for number, layer in enumerate(layers, 1)), ("pool", _Pool())],
        prepare=partial(_prepare, channels),
        fresh=partial(_build, channels),
        write=_write,
        preprocessing={"channels": channels, "standardised": "each channel of each item"},
        card={"licence": "Apache-2.0", "pretrained_on": "nothing: random weights"},
    )


def _write(backbone: Backbone, folder: Path) -> None:
    config = {"architecture": f"signal:{backbone.preprocessing['channels']}"}
    _folders.write(backbone, folder, {name: name for name in backbone.state_dict()}, config)


def _prepare(channels: int, items: Sequence[Any], rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
    """{"hidden": (n, t, C) float32, zeros behind the end of a shorter item; "attention_mask": (n, t), 1 where there is signal}."""
    arrays = [np.asarray(item) for item in items]
    for array in arrays:
        if array.ndim != 2 or len(array) != channels or array.shape[1] < LEAST_STEPS or array.dtype.kind not in "fiu":
            raise GraftError(
                f"signal:{channels} was given an array of shape {array.shape} and type {array.dtype}, expected numbers of shape "
                f"({channels}, t) with t of at least {LEAST_STEPS}: channels first."
            )
        if not np.isfinite(array).all():
            raise GraftError(f"signal:{channels} was given {int((~np.isfinite(array)).sum())} values that are no number. Fill them in.")
    steps = np.array([array.shape[1] for array in arrays])
    hidden = np.zeros((len(arrays), steps.max(), channels), np.float32)
    for row, array in enumerate(arrays):
        values = array.astype(np.float64)
        spread = values.std(1, keepdims=True)
        hidden[row, : steps[row]] = ((values - values.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)).T
    mask = np.arange(steps.max()) < steps[:, None]
    return {"hidden": torch.from_numpy(hidden), "attention_mask": torch.from_numpy(mask.astype(np.float32))}


class _Layer(nn.Module):
    """Steps (n, t, c) and their mask -> half as many steps, rounded up, of another width."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels_in, channels_out, kernel, 2, kernel // 2, bias=False)
        self.norm = nn.BatchNorm1d(channels_out)

    def forward(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = torch.relu(self.norm(self.convolution(state["hidden"].transpose(1, 2)))).transpose(1, 2)
        mask = state["attention_mask"][:, ::2]
        # Behind an item's end there is nothing again, as behind the end of the batch.
        return {"hidden": hidden * mask.unsqueeze(-1).to(hidden.dtype), "attention_mask": mask}


class _Pool(nn.Module):
    def forward(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = state["attention_mask"].unsqueeze(-1).to(state["hidden"].dtype)
        return (state["hidden"] * mask).sum(1) / mask.sum(1).clamp(min=1)
