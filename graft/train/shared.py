"""A step of training shared by several processes, so that it is the step that one would take. Alone, nothing changes. Heavy: torch.

Each process runs its part of every batch; gradients are summed with the weight that each part has in the batch's loss. What differs
from one process: batch normalisation in training mode sees the statistics of a part, random views and dropout are other draws, and an
added loss that is no mean over items, such as a distance of two domains, is the mean of those of the parts.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from graft import processes


def part(batch: np.ndarray) -> np.ndarray:
    """This process's items of a batch; where there are fewer items than processes, the first one, which then weighs nothing."""
    mine = processes.share(batch)
    return mine if len(mine) else batch[:1]


def weight(batch: np.ndarray, mine: np.ndarray, mass: Callable[[np.ndarray], float]) -> float:
    """The share that the loss of `part(batch)` has in the batch's. mass: by what the loss of some items is divided."""
    if processes.count() == 1:
        return 1.0
    return mass(mine) / mass(batch) if len(processes.share(batch)) else 0.0


def apart(number: int) -> int:
    """A number to draw by, another one in each process."""
    return number * processes.count() + processes.place()


def total(value: float) -> float:
    """The sum of a number over all processes."""
    return value if processes.count() == 1 else sum(processes.gathered(value))


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients over all processes. What got none got none in any."""
    processes.add_up([parameter.grad for parameter in parameters if parameter.grad is not None])


def level(module: nn.Module) -> None:
    """Average moving statistics over all processes, as each followed its own parts of the batches."""
    if processes.count() == 1:
        return
    statistics = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    processes.add_up(statistics)
    for buffer in statistics:
        torch.div(buffer, processes.count(), out=buffer)
