"""How much work a network is, and how fast this machine does it. Heavy: torch."""

import time

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones._catalogue import TOKENS, Speed
from graft.backbones.base import Backbone, State
from graft.items import Row

_TEXT = " ".join(["word"] * TOKENS)


def work_of(backbone: Backbone) -> tuple[float, float]:
    """`count` for one item: an image of the backbone's size, a text of 128 tokens, if it takes so many, a row, or 128 steps of a signal."""
    if backbone.modality == "text":
        batch = backbone.prepare([_TEXT])
        assert isinstance(batch, dict)
        return count(backbone, {key: value[:, :TOKENS] for key, value in batch.items()})
    if backbone.modality == "table":
        return count(
            backbone, backbone.prepare([Row("", dict.fromkeys(backbone.preprocessing["numbers"] | backbone.preprocessing["categories"]))])
        )
    if backbone.modality == "signal":
        return count(backbone, backbone.prepare([np.zeros((backbone.preprocessing["channels"], TOKENS), np.float32)]))
    return count(backbone, backbone.prepare([np.zeros((64, 64, 3), np.uint8)]))


def count(network: nn.Module, batch: State) -> tuple[float, float]:
    """What one pass over a batch is: multiply-adds in thousand millions, and numbers that layers write, in millions.

    Multiply-adds of convolutions and matrix products, as PyTorch's counter has them; outputs of convolutions and linear layers.
    """
    written = 0

    def note(layer: nn.Module, taken: object, given: torch.Tensor) -> None:
        nonlocal written
        written += given.numel()

    # GPT-2's linear layers are a class of transformers' own.
    layers = [part for part in network.modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear) or type(part).__name__ == "Conv1D"]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    training = network.training
    counter = FlopCounterMode(display=False)
    try:
        # The counter does not know the fused attention of CPUs; as plain products it is counted.
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
            network.eval()(batch)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    # A multiply-add is two operations.
    return counter.get_total_flops() / 2e9, written / 1e6


def speed() -> Speed:
    """What this machine reaches at its best in half a second of two layers: one that computes, and one that waits for memory."""
    dense = nn.Conv2d(128, 128, 3, padding=1)
    thin = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, groups=128), nn.BatchNorm2d(128), nn.ReLU6())
    maps = torch.zeros(8, 128, 28, 28).contiguous(memory_format=torch.channels_last)
    return Speed(maps.numel() * 128 * 9 / 1e9 / _shortest(dense, maps), maps.numel() / 1e6 / _shortest(thin, maps))


def _shortest(layer: nn.Module, maps: torch.Tensor) -> float:
    """Seconds of the least disturbed of several passes."""
    layer.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    times: list[float] = []
    with torch.inference_mode():
        until = time.perf_counter() + 0.25
        while len(times) < 5 or time.perf_counter() < until:
            begun = time.perf_counter()
            layer(maps)
            times.append(time.perf_counter() - begun)
    return min(times)
