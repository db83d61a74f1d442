"""What is kept on disk between runs: features by content, and numbers measured on this machine. numpy only; never runs a backbone."""

import hashlib
import json
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graft.files import replacing

# Part of every cache path: raised when the layout of the files or the meaning of a feature changes.
LAYOUT = "v1"
# What an interrupted extraction may lose at most.
_SHARD_ITEMS, _SHARD_SECONDS = 4096, 20.0


def cache_folder() -> Path:
    """Where features are kept: $GRAFT_CACHE, or `graft` in the user's cache folder of the platform."""
    if os.environ.get("GRAFT_CACHE"):
        return Path(os.environ["GRAFT_CACHE"]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "graft" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"


def remembered(what: str, measure: Callable[[], float]) -> float:
    """A number measured once on this machine and found again in the cache folder, so that what is decided by it repeats.

    what: names the number, with all that it depends on. measure: called where it is not known yet.
    """
    digest = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
    path = cache_folder() / "measured" / LAYOUT / f"{digest}.json"
    if path.exists():
        try:
            return float(json.loads(path.read_text())["value"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path}: unreadable ({error}); measured again.", stacklevel=2)
    # Rounded, so that the file and a first run hold the same number.
    value = float(f"{measure():.4g}")
    _write_or_warn(path, lambda file: file.write(json.dumps({"what": what, "value": value}).encode()))
    return value


class Store:
    """The features of one backbone on disk: immutable shards, each a file of keys (m, 16) and one of features (m, d).

    A shard is written under a temporary name and renamed, keys last: readers and writers of several processes never
    see half of one, and need no lock.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width
        self._pending: list[tuple[bytes, np.ndarray]] = []
        self._flushed = time.perf_counter()
        self._writable = True

    def read(self, places: dict[bytes, list[int]], features: np.ndarray) -> set[bytes]:
        """Fill in the rows of `features` whose keys are on disk. places: key -> rows. Returns the keys that were found."""
        found: set[bytes] = set()
        for path in sorted(self.folder.glob("*.keys.npy")):
            try:
                keys = np.load(path)
                values = np.load(_features_path(path), mmap_mode="r")
                whole = keys.ndim == values.ndim == 2 and len(keys) == len(values) and values.shape[1] >= self.width
                if not whole or keys.shape[1] != 16 or keys.dtype != np.uint8:
                    raise ValueError(f"keys {keys.shape} and features {values.shape}, expected (m, 16) and (m, {self.width})")
            except (OSError, ValueError, EOFError) as error:
                warnings.warn(
                    f"{path}: this part of the feature cache cannot be read ({error}); its items are computed again.", stacklevel=3
                )
                continue
            for row, key in enumerate(map(bytes, keys)):
                if key in places and key not in found:
                    features[places[key]] = values[row, -self.width :]
                    found.add(key)
        return found

    def add(self, keys: list[bytes], rows: np.ndarray) -> None:
        self._pending.extend(zip(keys, rows, strict=True))
        if len(self._pending) >= _SHARD_ITEMS or time.perf_counter() - self._flushed >= _SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._pending and self._writable:
            keys = np.frombuffer(b"".join(key for key, _ in self._pending), np.uint8).reshape(-1, 16)
            rows = np.stack([row for _, row in self._pending])
            path = self.folder / f"{uuid.uuid4().hex}.keys.npy"
            self._writable = _write_or_warn(_features_path(path), lambda file: np.save(file, rows)) and _write_or_warn(
                path, lambda file: np.save(file, keys)
            )
        self._pending = []
        self._flushed = time.perf_counter()


def _features_path(keys_path: Path) -> Path:
    return keys_path.with_name(keys_path.name.replace(".keys.npy", ".features.npy"))


def _write_or_warn(path: Path, write: Callable[[Any], Any]) -> bool:
    """Write a cache file under a temporary name and rename it. Returns False, after a warning, where that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            write(file)
        return True
    except OSError as error:
        warnings.warn(
            f"{path.parent}: the cache cannot be written ({error}); this goes on without it. "
            "Free some space there, or set GRAFT_CACHE to a folder that can be written.",
            stacklevel=3,
        )
        return False
