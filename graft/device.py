"""Where networks compute, and in which float32: the one place that knows of GPUs and cores. torch only when a device is asked for."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graft.errors import GraftError, near_miss

if TYPE_CHECKING:
    import torch

VARIABLE = "GRAFT_DEVICE"
_KINDS = ("cpu", "cuda", "mps")
# More decode no faster: what they write to is shared.
_MOST_THREADS = 8


def named(name: str | None = None) -> str | None:
    """The device that is asked for, without a look at whether it is there: `name`, else GRAFT_DEVICE; None where neither says.

    Raises GraftError for what is no name of a device.
    """
    asked = name or os.environ.get(VARIABLE)
    if asked and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", asked):
        where = "device" if name else VARIABLE
        raise GraftError(f"{where} is {asked!r}, expected cpu, cuda, cuda:N (the N-th GPU, from 0) or mps.{near_miss(asked, _KINDS)}")
    return asked or None


def chosen(name: str | None = None) -> "torch.device":
    """The device that networks live on.

    name: "cpu", "cuda", "cuda:N" (the N-th GPU, from 0) or "mps"; the environment variable GRAFT_DEVICE unless given. Where neither says:
    the GPU where PyTorch finds one that CUDA (or ROCm, which PyTorch calls so too) drives, else the CPU. "mps" is taken by name alone.
    "cuda" is the current GPU, and of several processes on a computer each one's own.
    Raises GraftError for what is no name of a device, for a device that is not there, and where processes would share a GPU.
    """
    import torch

    asked = named(name)
    if asked == "cpu" or (asked is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    where = f"device {asked}" if asked else "the GPU that was found"
    way_out = f"Set {VARIABLE}=cpu, or leave it out."
    if asked == "mps":
        if not torch.backends.mps.is_available():
            raise GraftError(f"{where}: PyTorch {torch.__version__} finds no Apple GPU, expected one. {way_out}")
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise GraftError(f"{where}: PyTorch {torch.__version__} finds no GPU, expected one and a build of PyTorch for it. {way_out}")
    found, here, together = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1) > 1
    if together and asked and ":" in asked:
        raise GraftError(f"{where}: several processes would share one GPU, expected one each. Say cuda, and each takes its own.")
    index = int(asked.partition(":")[2]) if asked and ":" in asked else here if together else torch.cuda.current_device()
    if index >= found:
        which = f"process {here} of this computer" if together else where
        way_out = f"Start at most {found} processes a computer, or set {VARIABLE}=cpu." if together else f"Name one of 0 to {found - 1}."
        raise GraftError(f"{which}: expected a GPU of number {index}, PyTorch finds {found}, counted from 0. {way_out}")
    return torch.device("cuda", index)


def cores() -> int:
    """Cores that this process may use, where the system tells; else all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(items: int) -> int:
    """How many threads prepare so many items: a core each, at most 8, at least 1."""
    return max(1, min(_MOST_THREADS, cores(), items))


@contextmanager
def seeded(seed: int, device: "torch.device | None" = None) -> Iterator[None]:
    """Within, what torch draws on the CPU, and on a GPU that is given, begins from this seed; afterwards its generators are as they were.

    The same numbers as after `torch.manual_seed`, which would leave the generators of all GPUs changed.
    """
    import torch

    kind = device.type if device else "cpu"
    with torch.random.fork_rng([device] if kind == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if kind == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        # fork_rng knows no Apple GPUs.
        before = torch.mps.get_rng_state() if kind == "mps" else None
        if kind == "mps":
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if before is not None:
                torch.mps.set_rng_state(before)


@contextmanager
def tf32(device: "torch.device", allowed: bool) -> Iterator[None]:
    """Within, matrix products and convolutions of float32 on an NVIDIA GPU round what they multiply to TF32, or do not.

    TF32 has the range of float32 and ten bits behind the point. Afterwards PyTorch's settings, which are the whole process's, are what they
    were. On other devices nothing is done.
    Source: PyTorch, "CUDA semantics", section "TensorFloat-32 (TF32) on Ampere (and later) devices".
    """
    if device.type != "cuda":
        yield
        return
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    # PyTorch has the finer settings since 2.9, and refuses to tell the old ones where the two disagree.
    settings = [matmul, cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else [matmul, cudnn]
    name, value = ("fp32_precision", "tf32" if allowed else "ieee") if hasattr(cudnn, "conv") else ("allow_tf32", allowed)
    before = [getattr(setting, name) for setting in settings]
    try:
        for setting in settings:
            setattr(setting, name, value)
        yield
    finally:
        for setting, old in zip(settings, before, strict=True):
            setattr(setting, name, old)
