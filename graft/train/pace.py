"""How training goes from step to step: rates along a schedule, and the moving average of the weights. Heavy: torch."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from graft.records import Schedule

_WARM_UP = 0.1  # share of a phase's steps


def scheduler(name: Schedule, optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """What moves the rates of an optimiser through the steps of a phase; the optimiser's rates are the highest.

    "cosine": up over a tenth of the steps, then down to zero along a cosine. "one_cycle": up over three tenths from a 25th, then down to
    nothing, with the momentum against it (Smith & Topin 2018, arXiv:1708.07120). "constant": as they are.
    """
    if name == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
    if name == "one_cycle":
        # A cycle of a single step would be spent at its lowest rate.
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, [group["lr"] for group in optimiser.param_groups], total_steps=max(2, steps))
    warm = max(1, round(_WARM_UP * steps))
    return torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))),
    )


class Average:
    """The exponential moving average of all weights of a module, running statistics of its norms included.

    After step t (from 0): average <- d * average + (1 - d) * weights, d = min(decay, (1 + t) / (10 + t)), so that few steps too forget
    where they began. Numbers that are no floats, as counters of batches, are those of the weights.
    Source: Polyak & Juditsky 1992, doi:10.1137/0330046, for averaging; TensorFlow's `ExponentialMovingAverage` for d.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = module, decay, 0
        self.values = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                self.values[name].lerp_(tensor, 1 - decay)
            else:
                self.values[name].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the module has the average for weights."""
        raw = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(self.values)
        try:
            yield
        finally:
            self.module.load_state_dict(raw)
