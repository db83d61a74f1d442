"""Stochastic normalisation: batch normalisation that draws, channel by channel, whose statistics it uses. Heavy: torch."""

import copy
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch.nn.modules.batchnorm import _BatchNorm


def add(layers: Iterable[_BatchNorm], p: float) -> None:
    """Let batch normalisation layers in training mode use a batch's own statistics for some channels and moving ones for the others.

    p: chance that a channel uses the batch's, drawn for each channel and step from torch's random state. In evaluation mode a layer
    does what it did. Moving statistics follow every batch, as they did, and are used as they were before it.
    Source: Kou et al. 2020, "Stochastic Normalization", NeurIPS 33, section 3.2.
    """
    for layer in layers:
        # The layer keeps its class: families have their own, with an activation inside.
        layer.forward = partial(_forward, layer, layer.forward, p)  # type: ignore[method-assign]


def remove(layers: Iterable[_BatchNorm]) -> None:
    """Let the layers be what they were before `add`."""
    for layer in layers:
        del layer.forward


def _forward(layer: _BatchNorm, plain: Callable[[torch.Tensor], torch.Tensor], p: float, x: torch.Tensor) -> torch.Tensor:
    """x: (n, channels, ...). Drawing after an activation inside the layer is the same as before it: it works on each number alone."""
    if not layer.training:
        return plain(x)
    # The backward pass reads the statistics again, and by then the batch would have moved them in place.
    statistics = layer.running_mean, layer.running_var
    layer.running_mean, layer.running_var = copy.deepcopy(statistics)
    layer.training = False
    moving = plain(x)
    layer.training = True
    layer.running_mean, layer.running_var = statistics
    batch = plain(x)
    drawn = torch.rand(x.shape[1]) < p
    return torch.where(drawn.to(x.device).view(1, -1, *[1] * (x.ndim - 2)), batch, moving)
