"""In which precision training computes: bfloat16 where the processor has it and it pays, else float32. Heavy: torch."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from graft.backbones.base import Backbone, State
from graft.device import tf32
from graft.features import device_of, has_bfloat16, machine, remembered, to_device
from graft.records import Precision

# What bf16 must gain to be worth its three digits.
_LEAST_GAIN = 1.2
# Smaller networks are trained before a gain is felt; they keep all digits, and are not measured.
_LEAST_PARAMETERS = 1_000_000
_MEASURED_ITEMS, _ROUNDS = 8, 2


def computes_in_bf16(precision: Precision, backbone: Backbone, head: nn.Module, items: Sequence[Any]) -> bool:
    """Whether training computes in bf16. precision "auto": where a step on these items is at least 1.2 times as fast in it.

    A step on the first eight items goes forwards and backwards through all stages, in turns, the least of two after a warm-up. The
    gain is remembered in the cache folder for this machine and backbone, so that the choice is the same the next time.
    Weights, gradients and random state stay as they are.
    """
    if precision != "auto":
        return precision == "bf16"
    device = device_of(backbone)
    if not has_bfloat16(device) or sum(parameter.numel() for parameter in backbone.parameters()) < _LEAST_PARAMETERS:
        return False

    def gain() -> float:
        backbone.eval()
        head.eval()
        # A backbone's weights may be frozen by whoever trained it last.
        backbone.requires_grad_(True)
        batch = to_device(backbone.prepare([items[place] for place in range(min(len(items), _MEASURED_ITEMS))]), device)
        seconds = [[_step_seconds(backbone, head, batch, bf16) for bf16 in (False, True)] for _ in range(1 + _ROUNDS)]
        fp32, bf16 = (min(column) for column in zip(*seconds[1:], strict=True))
        return fp32 / bf16

    return remembered(f"bf16 gain {machine(device)} {backbone.fingerprint()}", gain) >= _LEAST_GAIN


def _step_seconds(backbone: Backbone, head: nn.Module, batch: State, bf16: bool) -> float:
    weights = list(backbone.parameters())
    begun, device = time.perf_counter(), device_of(backbone)
    with tf32(device, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = backbone(batch)
        gradients = torch.autograd.grad(head(features.float()).sum(), weights, allow_unused=True)
        # Reading a number waits for a device that works on its own.
        next(gradient for gradient in gradients if gradient is not None).sum().item()
    return time.perf_counter() - begun
