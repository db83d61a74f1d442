"""Several processes at work on one run, as `torchrun` or `accelerate launch` start them; alone, nothing here does anything.

Every process runs the same program and comes to the same decisions; they share the work of each batch and of each extraction.
Standard library only, until there is more than one process.
"""

import atexit
import os
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from graft import device
from graft.optional import require

if TYPE_CHECKING:
    import torch

Anything = TypeVar("Anything")

# One that failed does not come; the others do not wait for it longer than this.
_LEAVING = timedelta(seconds=10)


def count() -> int:
    """How many processes there are: WORLD_SIZE, which the launchers set."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def place() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK") or 0) if count() > 1 else 0


def first() -> bool:
    """Whether this is the one that writes files and speaks to the user."""
    return place() == 0


def share(some: Any) -> Any:
    """This process's part of a sequence or array: every count-th, from its own place on. Parts differ in length by at most one."""
    return some[place() :: count()]


def from_first(value: Anything) -> Anything:
    """The first process's value, in every process; any object that can be pickled. All processes must call this."""
    if count() == 1:
        return value
    held = [value]
    _tools().broadcast_object_list(held)
    return held[0]


def gathered(value: Anything) -> list[Anything]:
    """Every process's value, in the order of their places, in every process. All processes must call this."""
    return [value] if count() == 1 else _tools().gather_object([value])


def wait() -> None:
    """Go on when all processes have come here."""
    from_first(None)


def add_up(tensors: Sequence["torch.Tensor"]) -> None:
    """Replace each tensor by its sum over all processes, all of them in one exchange. All processes must call this with the same shapes."""
    if count() == 1 or not tensors:
        return
    import torch

    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]).to(_meeting_place())
    total = _tools().reduce(flat, "sum")
    for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


@cache
def _meeting_place() -> str:
    """The kind of device through which processes exchange tensors: GPUs speak with GPUs, all else goes over the CPU."""
    return "cuda" if device.chosen().type == "cuda" else "cpu"


@cache
def _tools() -> Any:
    """accelerate's operations, once this process has joined the others."""
    accelerate = require("accelerate", "scale")
    state = accelerate.PartialState(cpu=_meeting_place() == "cpu")
    assert state.num_processes == count(), f"{state.num_processes} processes joined, {count()} were launched"
    atexit.register(_leave, state)
    return require("accelerate.utils", "scale")


def _leave(state: Any) -> None:
    """Let go of the others when all are done: whoever ends first would take the connection from under them, which aborts them."""
    import torch

    if state.backend == "gloo":
        torch.distributed.monitored_barrier(timeout=_LEAVING)
    state.destroy_process_group()
