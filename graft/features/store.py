"""What is kept on disk between runs: features by content, and numbers measured on this machine. numpy only; never runs a backbone."""

import hashlib
import json
import os
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from graft import processes
from graft.files import replacing

# Part of every cache path: raised when the layout of the files or the meaning of a feature changes.
LAYOUT = "v2"
# What an interrupted extraction may lose at most.
_SHARD_ITEMS, _SHARD_SECONDS = 4096, 20.0
# Features that are copied at once.
BLOCK_ITEMS = 1024
# Features larger than this are not held in memory.
_IN_MEMORY_BYTES = 16 * 2**20
# By path: numbers that could not be written, known for as long as the process lives.
_unwritten: dict[Path, float] = {}
# Cache folders that were said to be unwritable.
_told: set[Path] = set()


def cache_folder() -> Path:
    """Where features are kept: $GRAFT_CACHE, or `graft` in the user's cache folder of the platform."""
    if os.environ.get("GRAFT_CACHE"):
        return Path(os.environ["GRAFT_CACHE"]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "graft" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"


def remembered(what: str, measure: Callable[[], float]) -> float:
    """A number measured once on this machine and found again in the cache folder, so that what is decided by it repeats.

    what: names the number, with all that it depends on. measure: called where it is not known yet. Where several processes work
    together all of them must call this, and the first one's number is everybody's. Where the cache folder cannot be written the number
    is known until the process ends.
    """
    if (known := processes.from_first(recalled(what))) is not None:
        return known
    # Rounded, so that the file and a first run hold the same number.
    value = processes.from_first(float(f"{measure():.4g}"))
    if processes.first():
        _keep(what, value)
    return value


def remembered_here(what: str, measure: Callable[[], float]) -> float:
    """`remembered` for what each process may find out for itself."""
    if (known := recalled(what)) is not None:
        return known
    value = float(f"{measure():.4g}")
    _keep(what, value)
    return value


def recalled(what: str) -> float | None:
    """The number that `remembered` keeps under this name, None where there is none yet."""
    path = _measured(what)
    if path in _unwritten:
        return _unwritten[path]
    if not path.exists():
        return None
    try:
        return float(json.loads(path.read_text())["value"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path}: unreadable ({error}); measured again.", stacklevel=3)
        return None


def _keep(what: str, value: float) -> None:
    path = _measured(what)
    if not _write_or_warn(path, lambda file: file.write(json.dumps({"what": what, "value": value}).encode())):
        _unwritten[path] = value


def _measured(what: str) -> Path:
    digest = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
    return cache_folder() / "measured" / LAYOUT / f"{digest}.json"


class Store:
    """The features of one backbone on disk: immutable shards, each a file of keys (m, 16) and one of features (m, d).

    A shard is written under a temporary name and renamed, keys last: readers and writers of several processes never
    see half of one, and need no lock.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._name_other_versions()
        self._flushed = time.perf_counter()
        self._writable = True

    def read(self, keys: np.ndarray, rows: np.ndarray, features: np.ndarray, found: np.ndarray) -> None:
        """Fill in what is on disk and not yet found.

        keys: (m,), as `sortable` gives them, rising. rows: (m,) their places in features (n, d). found: (m,) bool, brought up to date.
        """
        for path in sorted(self.folder.glob("*.keys.npy")):
            try:
                shard = np.load(path)
                values = np.load(_features_path(path), mmap_mode="r")
                whole = shard.ndim == values.ndim == 2 and len(shard) == len(values) and values.shape[1] >= self.width
                if not whole or shard.shape[1] != 16 or shard.dtype != np.uint8:
                    raise ValueError(f"keys {shard.shape} and features {values.shape}, expected (m, 16) and (m, {self.width})")
            except (OSError, ValueError, EOFError) as error:
                warnings.warn(
                    f"{path}: this part of the feature cache cannot be read ({error}); its items are computed again.", stacklevel=3
                )
                continue
            shard = sortable(shard)
            places = np.minimum(np.searchsorted(keys, shard), len(keys) - 1)
            hits = np.flatnonzero((keys[places] == shard) & ~found[places])
            # In blocks, so that a copy of no more than one is in memory.
            for start in range(0, len(hits), BLOCK_ITEMS):
                block = hits[start : start + BLOCK_ITEMS]
                features[rows[places[block]]] = values[block, -self.width :]
            found[places[hits]] = True

    def _name_other_versions(self) -> None:
        """Warn where only another version of graft has features of this backbone: they are left alone, and computed again."""
        layout, *below = self.folder.relative_to(cache_folder() / "features").parts
        others = [path for path in (cache_folder() / "features").glob("*") if path.name != layout and path.joinpath(*below).is_dir()]
        if others and not self.folder.is_dir():
            warnings.warn(
                f"{others[0]}: features of this backbone, written by another version of graft, are not read; they are computed again "
                "and kept beside those. Remove the folder when that version is no longer used.",
                stacklevel=4,
            )

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """keys: (m, 16) uint8. rows: (m, d)."""
        self._pending.append((keys, rows))
        if sum(map(len, (rows for _, rows in self._pending))) >= _SHARD_ITEMS or time.perf_counter() - self._flushed >= _SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._pending and self._writable:
            keys, rows = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
            path = self.folder / f"{uuid.uuid4().hex}.keys.npy"
            self._writable = _write_or_warn(_features_path(path), lambda file: np.save(file, rows)) and _write_or_warn(
                path, lambda file: np.save(file, keys)
            )
        self._pending = []
        self._flushed = time.perf_counter()


def sortable(keys: np.ndarray) -> np.ndarray:
    """Keys (m, 16) uint8 as (m,) values that numpy can sort."""
    return np.ascontiguousarray(keys).view([("", "<u8"), ("", "<u8")])[:, 0]


def room_for(shape: tuple[int, int]) -> np.ndarray:
    """An empty float32 array; a large one lies in a file that is gone with it, so that it need not fit into memory."""
    size = 4 * shape[0] * shape[1]
    if size <= _IN_MEMORY_BYTES:
        return np.empty(shape, np.float32)
    for folder in (cache_folder(), None):
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                # Without this a full disk is noticed as a crash, at the first write to a page that has no place.
                _reserve(file, size)
                return np.memmap(file, np.float32, "r+", shape=shape)
        except OSError:
            continue
    warnings.warn(
        f"{size / 1e6:.0f} MB of features find no place on the disk of {cache_folder()}, nor in the temporary folder; they are held in "
        "memory. Free some space, or set GRAFT_CACHE to a folder that has some.",
        stacklevel=3,
    )
    return np.empty(shape, np.float32)


def _reserve(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _features_path(keys_path: Path) -> Path:
    return keys_path.with_name(keys_path.name.replace(".keys.npy", ".features.npy"))


def _write_or_warn(path: Path, write: Callable[[Any], Any]) -> bool:
    """Write a cache file under a temporary name and rename it. Returns False where that is impossible, of which a process warns once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            write(file)
        return True
    except OSError as error:
        if cache_folder() in _told:
            return False
        _told.add(cache_folder())
        warnings.warn(
            f"{cache_folder()}: the cache cannot be written ({error}); this goes on without it. "
            "Free some space there, or set GRAFT_CACHE to a folder that can be written.",
            stacklevel=2,
        )
        return False
