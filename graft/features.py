"""Features: a backbone run over items once, kept on disk by content. Heavy: torch. Never trains, never sees labels."""

import hashlib
import json
import os
import platform
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from graft.backbones.base import Backbone, State
from graft.errors import GraftError, UnreadableItems, near_miss
from graft.files import replacing
from graft.items import content_key, open_image
from graft.records import Step

Progress = Callable[[Any], None]
A = TypeVar("A")
B = TypeVar("B")

TAPS = ("pooled", "stages")

# Part of every cache path: raised when the layout of the files or the meaning of a feature changes.
_LAYOUT = "v1"
# What an interrupted extraction may lose at most.
_SHARD_ITEMS, _SHARD_SECONDS = 4096, 20.0


def extract(
    backbone: Backbone,
    items: Sequence[Any],
    *,
    tap: str = "pooled",
    batch_size: int = 64,
    cache: bool = True,
    progress: Progress | None = None,
) -> np.ndarray:
    """The features of every item, computed once for each content and kept on disk.

    items: n of the backbone's modality. tap: "pooled", the backbone's own features, or "stages", the output of every
    stage averaged over its places, side by side, of which the pooled features are the last columns. cache: read and
    write the disk cache (see `cache_folder`); without it equal items are still computed once. progress: is told a Step
    after each batch.
    Returns (n, d) float32, in the order of the items. The backbone is left in evaluation mode.
    Raises UnreadableItems naming the items that cannot be read. Warns, and goes on without, where the cache cannot be
    written or a part of it cannot be read.
    """
    if batch_size < 1:
        raise GraftError(f"batch_size is {batch_size}, expected at least 1.")
    if tap not in TAPS:
        raise GraftError(f"tap is {tap!r}, expected one of {', '.join(TAPS)}.{near_miss(tap, TAPS)}")
    backbone.eval()
    keys = _keys(items, backbone.modality)
    run = backbone if tap == "pooled" else partial(_run_stages, backbone)
    width = backbone.width if tap == "pooled" or not keys else _width(backbone, run, items)
    features = np.empty((len(items), width), np.float32)
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    store = _Store(cache_folder() / "features" / _LAYOUT / backbone.fingerprint() / tap, width) if cache and places else None
    found = store.read(places, features) if store else set()
    if store and tap == "pooled" and len(found) < len(places):
        found |= _Store(store.folder.with_name("stages"), width).read({key: places[key] for key in places.keys() - found}, features)
    missing = [places[key][0] for key in places if key not in found]
    done = len(items) - sum(len(places[keys[place]]) for place in missing)
    if progress and done:
        progress(Step(f"extracting {backbone.name}", done, len(items)))
    order = by_length(items, missing) if backbone.modality == "text" else missing
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    try:
        for batch, state in zip(batches, one_ahead(lambda batch: _prepare(backbone, items, batch), batches), strict=True):
            with torch.inference_mode():
                computed = run(to_device(state, device_of(backbone)))
            for place, row in zip(batch, computed.float().cpu().numpy(), strict=True):
                features[places[keys[place]]] = row
            if store:
                store.add([keys[place] for place in batch], features[batch])
            done += sum(len(places[keys[place]]) for place in batch)
            if progress:
                progress(Step(f"extracting {backbone.name}", done, len(items)))
    finally:
        # Also when interrupted: what is computed is not computed again.
        if store:
            store.flush()
    return features


def _run_stages(backbone: Backbone, state: State) -> torch.Tensor:
    """(n, sum of the stages' widths)."""
    columns = []
    for stage in backbone.stages:
        state = stage(state)
        columns.append(_mean_over_places(state))
    return torch.cat(columns, 1)


def _mean_over_places(state: State) -> torch.Tensor:
    """The state between two stages as one vector an item, (n, channels)."""
    if isinstance(state, dict):
        mask = state["attention_mask"].unsqueeze(-1).to(state["hidden"].dtype)
        return (state["hidden"] * mask).sum(1) / mask.sum(1).clamp(min=1)
    if state.ndim == 4:
        # Maps are (n, c, h, w), but for the (n, h, w, c) of Swin; images here are square.
        channels_last = state.shape[1] == state.shape[2] != state.shape[3]
        return state.mean((1, 2) if channels_last else (2, 3))
    return state.mean(1) if state.ndim == 3 else state


def _width(backbone: Backbone, run: Callable[[State], torch.Tensor], items: Sequence[Any]) -> int:
    with torch.inference_mode():
        return run(to_device(_prepare(backbone, items, [0]), device_of(backbone))).shape[1]


def throughput(backbone: Backbone, items: Sequence[Any], *, batch_size: int = 64) -> float:
    """Items a second that `extract` reaches here without its cache, from preparing to features.

    Measured on up to two batches of the items after a warm-up, then remembered in the cache folder for this machine,
    backbone and sample, so that a plan made from it is the same plan the next time.
    Raises GraftError without items.
    """
    if not len(items):
        raise GraftError("throughput: 0 items, expected at least 1 to measure on.")
    places = np.unique(np.linspace(0, len(items) - 1, 2 * batch_size).astype(int)).tolist()
    sample = [items[place] for place in places]
    machine = f"{platform.node()} {platform.machine()} {os.cpu_count()} {torch.get_num_threads()} {device_of(backbone)} {torch.__version__}"
    digest = hashlib.blake2b(f"{machine}\0{batch_size}\0{backbone.fingerprint()}".encode(), digest_size=16)
    for key in _keys(sample, backbone.modality):
        digest.update(key)

    def measure() -> float:
        extract(backbone, sample[: max(1, batch_size // 4)], batch_size=batch_size, cache=False)
        start = time.perf_counter()
        extract(backbone, sample, batch_size=batch_size, cache=False)
        return len(sample) / (time.perf_counter() - start)

    return remembered(f"speed {digest.hexdigest()}", measure)


def remembered(what: str, measure: Callable[[], float]) -> float:
    """A number measured once on this machine and found again in the cache folder, so that what is decided by it repeats.

    what: names the number, with all that it depends on. measure: called where it is not known yet.
    """
    digest = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
    path = cache_folder() / "measured" / _LAYOUT / f"{digest}.json"
    if path.exists():
        try:
            return float(json.loads(path.read_text())["value"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path}: unreadable ({error}); measured again.", stacklevel=2)
    # Rounded, so that the file and a first run hold the same number.
    value = float(f"{measure():.4g}")
    _write_or_warn(path, lambda file: file.write(json.dumps({"what": what, "value": value}).encode()))
    return value


def cache_folder() -> Path:
    """Where features are kept: $GRAFT_CACHE, or `graft` in the user's cache folder of the platform."""
    if os.environ.get("GRAFT_CACHE"):
        return Path(os.environ["GRAFT_CACHE"]).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "graft" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"


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


def by_length(texts: Sequence[str], places: Sequence[int]) -> list[int]:
    """The places ordered by the length of their text, longest first, so that a batch pads little."""
    return sorted(places, key=lambda place: -len(texts[place]))


def device_of(backbone: Backbone) -> torch.device:
    """The device that holds a backbone's weights."""
    return next((parameter.device for parameter in backbone.parameters()), torch.device("cpu"))


def to_device(state: State, device: torch.device) -> State:
    """A batch or state, each of its tensors on the device."""
    if isinstance(state, dict):
        return {name: tensor.to(device) for name, tensor in state.items()}
    return state.to(device)


def _keys(items: Sequence[Any], modality: str) -> list[bytes]:
    keys, unreadable = [], []
    for place, item in enumerate(items):
        try:
            keys.append(content_key(item, modality))
        except OSError as error:
            unreadable.append(f"item {place} ({_short(item)}): {error}")
    if unreadable:
        raise _cannot_read(unreadable)
    return keys


def _prepare(backbone: Backbone, items: Sequence[Any], places: Sequence[int]) -> State:
    chosen = [items[place] for place in places]
    try:
        return backbone.prepare(chosen)
    except OSError:
        unreadable = []
        for place, item in zip(places, chosen, strict=True):
            try:
                open_image(item)
            except OSError as error:
                unreadable.append(f"item {place} ({_short(item)}): {error}")
        if not unreadable:
            raise
        raise _cannot_read(unreadable) from None


def _cannot_read(unreadable: list[str]) -> UnreadableItems:
    shown = "; ".join(unreadable[:5]) + (f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else "")
    return UnreadableItems(f"{len(unreadable)} items cannot be read, expected whole files: {shown}. `graft check` sets such items aside.")


def _short(item: Any) -> str:
    name = repr(item)
    return name if len(name) <= 120 else name[:117] + "..."


class _Store:
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
