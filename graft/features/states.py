"""What frozen stages gave, kept item by item on memory-mapped temporary files. Heavy: torch. Never runs a stage, never trains."""

import hashlib
import json
import math
import mmap
import shutil
import tempfile
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.backbones.base import Backbone, State
from graft.features.store import cache_folder

# A keeper's default limit: what a person would hardly miss for an hour on a disk of today.
KEEP_BYTES = 16 * 1024**3
_SHARE_OF_FREE = 0.5  # of the disk: others write there too


class States:
    """Keeps the output of frozen stages for as long as it is open; hands out a Shelf for each freeze boundary.

    limit_bytes: kept at most, on all shelves together; 0 keeps nothing. Never more than half of what is free on the disk, see `room`.
    The files lie in the cache folder, have no name, and are gone when it is closed or the process ends, however it ends.
    It may serve several calls of `train` that start from the same weights: what one computed the next one finds.
    """

    def __init__(self, limit_bytes: int = KEEP_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.folder = cache_folder() / "states"
        self._shelves: dict[tuple[int, str, torch.dtype], Shelf] = {}
        self._room: int | None = None  # bytes; None: nobody has asked yet
        self._left: int | None = None  # bytes; None: nothing was written yet
        self.full = limit_bytes == 0

    def __enter__(self) -> "States":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all that is kept."""
        for shelf in self._shelves.values():
            shelf.close()
        self._shelves = {}

    def open(self, backbone: Backbone, boundary: int, dtype: torch.dtype = torch.float32) -> "Shelf":
        """The shelf of what the stages below the boundary give with their present weights.

        boundary: stages that are frozen, 1 to depth. dtype: float32, or bfloat16, which floating numbers are then rounded to.
        Its `below` is the shelf of the deepest shallower boundary whose stages have not changed since, None without one.
        """
        digests = _digests(backbone, boundary)
        keys = [(stop, digests[stop], dtype) for stop in range(1, boundary + 1)]
        if keys[-1] not in self._shelves:
            self._shelves[keys[-1]] = Shelf(self, backbone, boundary, dtype)
        shelf = self._shelves[keys[-1]]
        shelf.below = next((self._shelves[key] for key in reversed(keys[:-1]) if key in self._shelves), None)
        return shelf

    def drop(self, shelf: "Shelf") -> None:
        """Let go of one shelf, which may have been dropped before."""
        kept = [key for key, other in self._shelves.items() if other is shelf]
        for key in kept:
            del self._shelves[key]
            shelf.close()
            if self._left is not None and shelf.bytes:
                self._left, self.full = self._left + shelf.bytes, False

    def room(self) -> int:
        """Bytes that all shelves together may take: the limit, or half of what was free on the disk when this was first asked if that
        is less. 0, after a warning, where there can be no folder."""
        if self._room is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._room = min(self.limit_bytes, int(shutil.disk_usage(self.folder).free * _SHARE_OF_FREE))
            except OSError as error:
                self._room = 0
                self.stop(str(error))
        return self._room

    def reserve(self, size: int) -> bool:
        """Whether so many more bytes may be written. Warns once when they may not."""
        if self._left is None:
            self._left = self.room()
        if self.full:
            return False
        if size > self._left:
            self.stop(f"the limit of {self.limit_bytes / 1024**3:.3g} GiB or half of the disk's free space is reached")
            return False
        self._left -= size
        return True

    def stop(self, why: str) -> None:
        """Write no more, and say so; what is kept stays in use."""
        self.full = True
        warnings.warn(
            f"{self.folder}: the output of the frozen stages cannot be kept in full ({why}); what is kept is used, the rest is "
            "computed in each epoch. Free some space there, or set GRAFT_CACHE to a folder with more.",
            stacklevel=2,
        )


class Shelf:
    """The states of items at one boundary, under keys: any hashable that names an item, and its view where it has several.

    A row of its files is an item; where states are tokens of texts, a token: padding is left out, and put back on the
    tokenizer's side when a batch is composed, so that items may meet in any batch.
    """

    def __init__(self, states: States, backbone: Backbone, boundary: int, dtype: torch.dtype) -> None:
        self.boundary = boundary
        self.below: Shelf | None = None
        self._states, self._dtype = states, dtype
        self._pads_left = _pads_left(backbone)
        self.bytes = 0
        self._channels_last = False
        self._spans: dict[Hashable, tuple[int, int]] = {}
        self._rows: dict[str, _Rows] = {}  # one file for each tensor of a state; "" where a state is a tensor

    def __contains__(self, key: Hashable) -> bool:
        return key in self._spans

    @property
    def full(self) -> bool:
        """Whether nothing more can be kept."""
        return self._states.full

    @property
    def limit_bytes(self) -> int:
        return self._states.limit_bytes

    def room(self) -> int:
        """Bytes that this shelf and all others of its keeper may take together."""
        return self._states.room()

    def close(self) -> None:
        self._spans = {}
        for rows in self._rows.values():
            rows.close()

    def size(self, state: State) -> int:
        """Bytes that keeping this state takes."""
        return self._size(self._flatten(state)[0])

    def add(self, keys: Sequence[Hashable], state: State) -> None:
        """Keep the state of n items under n keys, or warn and keep none of them."""
        flat, lengths = self._flatten(state)
        if not self._states.reserve(self._size(flat)):
            return
        try:
            for name, tensor in flat.items():
                if name not in self._rows:
                    self._rows[name] = _Rows(self._states.folder, tensor, _kept_as(tensor.dtype, self._dtype))
            first = next(iter(self._rows.values())).count
            for name, tensor in flat.items():
                self._rows[name].write(first, tensor)
        except OSError as error:
            self._states.stop(str(error))
            return
        for rows in self._rows.values():
            rows.count = first + int(lengths.sum())
        self.bytes += self._size(flat)
        stops = first + np.cumsum(lengths)
        self._spans.update(zip(keys, zip((stops - lengths).tolist(), stops.tolist(), strict=True), strict=True))

    def take(self, keys: Sequence[Hashable]) -> State:
        """The kept states of these keys as one batch, a copy in the types that they came in."""
        spans = np.array([self._spans[key] for key in keys])
        lengths = spans[:, 1] - spans[:, 0]
        flat = {name: rows.read(np.concatenate([np.arange(*span) for span in spans])) for name, rows in self._rows.items()}
        if "" in flat:
            return flat[""].permute(0, 3, 1, 2) if self._channels_last else flat[""]
        places = np.arange(lengths.max())
        padding = (lengths.max() - lengths)[:, None]
        inside = torch.from_numpy(places >= padding if self._pads_left else places < lengths[:, None])
        batch = {}
        for name, tensor in flat.items():
            batch[name] = tensor.new_zeros(*inside.shape, *tensor.shape[1:])
            batch[name][inside] = tensor
        return batch

    def _size(self, flat: dict[str, torch.Tensor]) -> int:
        return sum(tensor.numel() * _kept_as(tensor.dtype, self._dtype).itemsize for tensor in flat.values())

    def _flatten(self, state: State) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """(rows by name, rows of each item (n,)) of a state."""
        if not isinstance(state, dict):
            if state.ndim == 4 and not self._spans:
                self._channels_last = state.is_contiguous(memory_format=torch.channels_last)
            # Rows are written as they lie in memory, so that convolutions get their fast layout back.
            return {"": state.permute(0, 2, 3, 1) if self._channels_last else state}, np.ones(len(state), int)
        mask = state["attention_mask"].cpu() != 0
        # From the first token to the last; an empty text keeps one position, which its mask says is none.
        inside = (mask.cumsum(1) > 0) & (mask.flip(1).cumsum(1).flip(1) > 0)
        inside[~mask.any(1), 0] = True
        return {name: tensor[inside.to(tensor.device)] for name, tensor in state.items()}, inside.sum(1).numpy()


class _Rows:
    """A growing table of rows of one shape on a file without a name.

    Written with write(), read through a map: where the disk is full, write() says so, and a map would end the process.
    """

    def __init__(self, folder: Path, like: torch.Tensor, dtype: torch.dtype) -> None:
        self.count = 0
        self._shape, self._given, self._dtype = like.shape[1:], like.dtype, dtype
        # numpy has no bfloat16: its bits travel as integers.
        self._bits = torch.int16 if dtype == torch.bfloat16 else dtype
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115, it stays open as long as the shelf does
        self._map: np.ndarray | None = None

    def write(self, first: int, rows: torch.Tensor) -> None:
        """Write rows (k, ...) from place `first` on. Raises OSError where that cannot be."""
        assert rows.shape[1:] == self._shape and rows.dtype == self._given
        values = rows.detach().cpu().to(self._dtype).contiguous().view(self._bits).numpy()
        self._file.seek(first * values[0].nbytes)
        left = values.reshape(-1).view(np.uint8).data
        while left:
            left = left[self._file.write(left) :]

    def read(self, places: np.ndarray) -> torch.Tensor:
        """(len(places), ...): a copy."""
        if self._map is None or len(self._map) < self.count:
            kind = torch.empty(0, dtype=self._bits).numpy().dtype
            # Not np.memmap, which moves the file's position while another thread may be writing.
            pages = mmap.mmap(self._file.fileno(), self.count * math.prod(self._shape) * kind.itemsize, access=mmap.ACCESS_READ)
            self._map = np.frombuffer(pages, kind).reshape(self.count, *self._shape)
        return torch.from_numpy(self._map[places]).view(self._dtype).to(self._given)

    def close(self) -> None:
        self._map = None
        self._file.close()


def _kept_as(given: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.bfloat16 and given.is_floating_point else given


def _pads_left(backbone: Backbone) -> bool:
    """Whether the tokenizer pads a short text in front; it is asked, as a batch without padding does not show it."""
    if backbone.modality != "text":
        return False
    batch: Any = backbone.prepare(["a", "a a a a a a a a"])
    return bool(batch["attention_mask"][0, 0] == 0)


def _digests(backbone: Backbone, stop: int) -> list[str]:
    """For each number of stages 0..stop: 32 hex digits over name, preprocessing and their weights."""
    digest = hashlib.blake2b(json.dumps([backbone.name, backbone.preprocessing], sort_keys=True).encode(), digest_size=16)
    digests = [digest.hexdigest()]
    for stage in list(backbone.stages)[:stop]:
        for key, tensor in stage.state_dict().items():
            digest.update(f"{key}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digests.append(digest.hexdigest())
    return digests
