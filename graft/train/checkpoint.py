"""What training leaves on the disk so that an interrupted run goes on from there. Heavy: torch. Never trains."""

import errno
import hashlib
import json
import shutil
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from graft import __version__, processes
from graft.files import replacing
from graft.records import Epoch, Plan, Recipe

# Of the time of training, at most so much goes into writing; an interruption then loses at most twenty times what a write takes.
_SHARE_OF_TIME = 0.05
_SHARE_OF_FREE = 0.5  # of the disk: the results must find a place too


@dataclass
class Checkpoints:
    """A folder of files, one for each fit: what its next epoch needs, and in the end what it came to.

    folder: made when it is needed. about: what a fit hangs on that `train` is not given by value, such as the metric's name.
    seconds: that earlier processes trained for what was found here. A fit is known by all that decides its numbers, so a file is
    never taken for another fit's. Written by the first of several processes, and read for all of them.
    """

    folder: Path
    about: str = ""
    seconds: float = 0.0
    writable: bool = True
    counted: dict[Path, float] = field(default_factory=dict)  # seconds of a file that are in `seconds`, or passed in this process

    def clock(self) -> float:
        """`time.perf_counter`, set forward by what was found: what was trained before counts as if it were trained now."""
        return time.perf_counter() + self.seconds

    def open(self, *decides: Any) -> "Checkpoint":
        """The file of one fit. decides: all that its numbers hang on: records, arrays, bytes, plain values."""
        digest = hashlib.blake2b(f"{__version__}\0{torch.__version__}\0{self.about}".encode(), digest_size=16)
        for one in decides:
            payload = one if isinstance(one, bytes) else _described(one)
            digest.update(len(payload).to_bytes(8) + payload)
        return Checkpoint(self, self.folder / f"{digest.hexdigest()}.safetensors")


@dataclass
class Checkpoint:
    """One fit's file."""

    owner: Checkpoints
    path: Path
    seconds: float = 0.0  # of training before this process
    begun: float = field(default_factory=time.perf_counter)
    written: float = -float("inf")
    cost: float = 0.0

    def read(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """What was written last; None where nothing was, or, after a warning, where it cannot be read.

        device: where its tensors go, whichever they came from; those of the optimiser stay on the CPU, see `load_optimiser`.
        """
        state = processes.from_first(self._read() if processes.first() else None)
        if state is not None:
            self.seconds = state["seconds"]
            self.owner.seconds += self.seconds - self.owner.counted.get(self.path, 0.0)
            self.owner.counted[self.path] = self.seconds
            state = {name: value if name == "optimiser" else _moved(value, device) for name, value in state.items()}
        return state

    def _read(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
                return _unpacked(json.loads(file.metadata()["state"]), tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{self.path}: cannot be read ({error}); this fit begins anew.", stacklevel=3)
            return None

    def due(self) -> bool:
        """Whether enough was computed since the last write to be worth another."""
        return (time.perf_counter() - self.written) * _SHARE_OF_TIME >= self.cost

    def write(self, state: dict[str, Any]) -> None:
        """Put a state in the place of the last one, or warn and write no more. state: dicts, lists, tensors, plain values."""
        if not self.owner.writable or not processes.first():
            return
        begun = time.perf_counter()
        tensors: dict[str, torch.Tensor] = {}
        seconds = self.owner.counted[self.path] = self.seconds + begun - self.begun
        packed = json.dumps(_packed({**state, "seconds": seconds}, tensors))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size, free = sum(tensor.nbytes for tensor in tensors.values()), shutil.disk_usage(self.path.parent).free
            if size > free * _SHARE_OF_FREE:
                raise OSError(errno.ENOSPC, f"{size / 1e6:.0f} MB, more than half of the {free / 1e6:.0f} MB that are free")
            with replacing(self.path, "wb") as file:
                save_file(tensors, file.name, {"state": packed})
        except (OSError, SafetensorError) as error:
            self.owner.writable = False
            warnings.warn(
                f"{self.path.parent}: what training would go on from cannot be written ({error}); the run goes on without, and begins "
                "from its last complete file when it is interrupted. Free some space there.",
                stacklevel=2,
            )
        self.written = time.perf_counter()
        self.cost = self.written - begun


def digest_of(module: nn.Module) -> bytes:
    """16 bytes over a module's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.digest()


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` with each moment laid out in memory as its weight is: the fused step takes them element by element as they lie.

    They go where their weights are; how many steps were taken stays on the CPU where the optimiser wants it there.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for place, moments in state["state"].items():
        for name, moment in moments.items():
            if isinstance(moment, torch.Tensor) and moment.shape == weights[place].shape and moment.ndim:
                moments[name] = torch.empty_like(weights[place], dtype=moment.dtype).copy_(moment)
    optimiser.load_state_dict(state)


def events_of(state: dict[str, Any]) -> list[Epoch]:
    """The epochs that a state has behind it."""
    return [Epoch(**event) for event in state["events"]]


def _moved(value: Any, device: torch.device | str) -> Any:
    """The value with each tensor in it on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _moved(one, device) for name, one in value.items()}
    return [_moved(one, device) for one in value] if isinstance(value, list) else value


def _described(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}\0{value.shape}\0".encode() + np.ascontiguousarray(value).tobytes()
    # What has no such form, as a function in a record, is told by its address: another process then never takes it for the same.
    plain = asdict(value) if isinstance(value, Plan | Recipe) else value
    return json.dumps(plain, sort_keys=True, default=lambda one: one.tolist() if hasattr(one, "tolist") else repr(one)).encode()


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value as JSON has it, its tensors gathered aside under numbers."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        # Copied: the format has no tensors that share memory, as tied weights do.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        # As pairs: an optimiser's keys are numbers, which JSON would make text.
        return {"pairs": [[key, _packed(one, tensors)] for key, one in value.items()]}
    return [_packed(one, tensors) for one in value] if isinstance(value, list | tuple) else value


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    return tensors[value["tensor"]] if "tensor" in value else {key: _unpacked(one, tensors) for key, one in value["pairs"]}
