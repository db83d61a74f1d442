"""How much work a network is, and how fast this machine does it. Heavy: torch."""

import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones._catalogue import TOKENS
from graft.backbones.base import Backbone, State

_TEXT = " ".join(["word"] * TOKENS)


def gmacs_of(backbone: Backbone) -> float:
    """Multiply-adds for one item, in thousand millions: an image of the backbone's size, or a text of 128 tokens, if it takes so many."""
    if backbone.modality == "text":
        batch = backbone.prepare([_TEXT])
        assert isinstance(batch, dict)
        batch = {key: value[:, :TOKENS] for key, value in batch.items()}
    else:
        import numpy as np

        batch = backbone.prepare([np.zeros((64, 64, 3), np.uint8)])
    return count(backbone, batch)


def count(network: torch.nn.Module, batch: State) -> float:
    """Multiply-adds of one pass over a batch, in thousand millions: convolutions and matrix products, as PyTorch's counter has them."""
    training = network.training
    counter = FlopCounterMode(display=False)
    # The counter does not know the fused attention of CPUs; as plain products it is counted.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        network.eval()(batch)
    network.train(training)
    # A multiply-add is two operations.
    return counter.get_total_flops() / 2e9


def speed() -> float:
    """Thousand million multiply-adds a second in a 3 x 3 convolution of 128 channels on 28 x 28 places, the median of its runs."""
    layer = torch.nn.Conv2d(128, 128, 3, padding=1).eval()
    maps = torch.zeros(8, 128, 28, 28).contiguous(memory_format=torch.channels_last)
    work = 8 * 28 * 28 * 128 * 128 * 9 / 1e9
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    times: list[float] = []
    with torch.inference_mode():
        ended = time.perf_counter() + 0.4
        while len(times) < 5 or time.perf_counter() < ended:
            begun = time.perf_counter()
            layer(maps)
            times.append(time.perf_counter() - begun)
    return work / sorted(times)[len(times) // 2]
