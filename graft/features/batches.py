"""How items flow through a backbone: grouped by length, prepared one batch ahead, on the backbone's device. Heavy: torch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from graft.backbones.base import Backbone, State

A = TypeVar("A")
B = TypeVar("B")


def one_ahead(function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
    """`map`, with the next result already being computed in a thread while the present one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for argument in arguments:
            coming = pool.submit(function, argument)
            if pending is not None:
                yield pending.result()
            pending = coming
        if pending is not None:
            yield pending.result()


def by_length(texts: Sequence[str], places: Iterable[int]) -> list[int]:
    """The places ordered by the length of their text, longest first, so that a batch pads little."""
    return sorted(places, key=lambda place: -len(texts[place]))


def device_of(backbone: Backbone) -> torch.device:
    """The device that holds a backbone's weights."""
    return backbone.device


def to_device(state: State, device: torch.device) -> State:
    """A batch or state, each of its tensors on the device. To a GPU it does not wait for what is `pinned`."""
    # Only towards it: what is read on the CPU must have arrived.
    onward = device.type == "cuda"
    if isinstance(state, dict):
        return {name: tensor.to(device, non_blocking=onward) for name, tensor in state.items()}
    return state.to(device, non_blocking=onward)


def pinned(state: State, device: torch.device) -> State:
    """A batch or state on the CPU, in memory that a GPU copies from while it computes, where it is to go to one; else as it is."""
    if device.type != "cuda":
        return state
    # A thread begins with the first GPU, whichever its process computes on.
    with torch.cuda.device(device):
        return {name: tensor.pin_memory() for name, tensor in state.items()} if isinstance(state, dict) else state.pin_memory()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; elsewhere it is imitated, slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)())
