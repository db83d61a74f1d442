"""What fits a trained network to other items without a step of training: statistics of its normalisation. Heavy: torch. Sees no label."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from graft.backbones.base import Backbone
from graft.errors import GraftError


def adapt_statistics(backbone: Backbone, items: Sequence[Any], share: float = 1.0, *, batch_size: int = 64) -> Backbone:
    """A copy whose batch normalisation goes by the statistics of these items, in the view that is judged.

    items: n of the backbone's modality, at least 2. share: of their statistics in the result, in [0, 1], the rest is what the network
    came with: 1 is AdaBN; n / (N + n) weighs the old ones as N items.
    Each layer gets the mean and the unbiased variance of all that it is given in one pass over the items. What a layer is given has been
    normalised by the layers below with the same mix of their old statistics and their batch's, as in training mode; batches are of
    equal size to one item, batch_size at most.
    Raises GraftError where the backbone has no batch normalisation with statistics, for fewer than 2 items, and for another share.
    Source: Li et al. 2018, doi:10.1016/j.patcog.2018.03.005 (arXiv:1603.04779), algorithm 1; Schneider et al. 2020, arXiv:2006.16971,
    equation 1, for the share. Differs from the latter: the pass over the items comes first, the mean is not that of each test batch.
    """
    if not 0 <= share <= 1:
        raise GraftError(f"adapt_statistics: share is {share}, expected 0 (the statistics that it has) to 1 (those of the items).")
    if batch_size < 2:
        raise GraftError(f"adapt_statistics: batch_size is {batch_size}, expected at least 2: a single item has no spread.")
    if len(items) < 2:
        raise GraftError(f"adapt_statistics: {len(items)} items, expected at least 2 to take statistics of. Give more unlabelled items.")
    twin = copy.deepcopy(backbone).eval()
    layers = [layer for layer in twin.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if not layers:
        raise GraftError(
            f"adapt_statistics: {backbone.name} has no batch normalisation with statistics, expected a layer of it, as in most "
            "convolutional networks. Text networks and transformers have none: use another method."
        )
    moments = [_Moments(layer, share) for layer in layers]
    hooks = [layer.register_forward_pre_hook(partial(_follow, one)) for layer, one in zip(layers, moments, strict=True)]
    device = moments[0].mean.device
    # No batch of a single item, which has no spread.
    n_batches = min(-(-len(items) // batch_size), len(items) // 2)
    with torch.no_grad():
        for batch in np.array_split(np.arange(len(items)), n_batches):
            state = twin.prepare([items[place] for place in batch])
            twin({name: part.to(device) for name, part in state.items()} if isinstance(state, dict) else state.to(device))
    for hook in hooks:
        hook.remove()
    for one in moments:
        one.settle()
    return twin


class _Moments:
    """What one layer has been given so far, channel by channel, in float64. share: of the items' statistics beside the old ones."""

    def __init__(self, layer: _BatchNorm, share: float) -> None:
        assert layer.running_mean is not None and layer.running_var is not None
        self.layer, self.share = layer, share
        self.old = layer.running_mean.clone(), layer.running_var.clone()
        self.count = 0
        self.mean = self.squares = torch.zeros_like(layer.running_mean, dtype=torch.float64)

    def take(self, given: torch.Tensor) -> None:
        """Take in what the layer is given, (k, channels, ...), and let it normalise that by the mix of old statistics and its own."""
        axes = [0, *range(2, given.ndim)]
        values = given.double()
        count, mean, variance = given.numel() // given.shape[1], values.mean(axes), values.var(axes, correction=0)
        # Chan et al. 1983, doi:10.1080/00031305.1983.10483115: sums of squares about a moving mean, which lose no digits.
        away, total = mean - self.mean, self.count + count
        self.squares = self.squares + variance * count + away.square() * self.count * count / total
        self.mean, self.count = self.mean + away * count / total, total
        self.put(mean, variance)

    def put(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.layer.running_mean is not None and self.layer.running_var is not None
        self.layer.running_mean.copy_(self.share * mean + (1 - self.share) * self.old[0])
        self.layer.running_var.copy_(self.share * variance + (1 - self.share) * self.old[1])

    def settle(self) -> None:
        """Leave the layer with the mix of its old statistics and those of all that it was given; one that was given nothing as it was."""
        if self.count:
            self.put(self.mean, self.squares / max(1, self.count - 1))


def _follow(moments: _Moments, layer: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
    moments.take(given[0])
