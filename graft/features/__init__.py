"""Features: a backbone run over items once, kept on disk by content. Heavy: torch. Never trains, never sees labels."""

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from graft.backbones.base import Backbone, State
from graft.errors import GraftError, UnreadableItems, near_miss
from graft.features.batches import by_length, device_of, one_ahead, to_device
from graft.features.states import Shelf, States
from graft.features.store import LAYOUT, Store, cache_folder, remembered
from graft.items import content_key, open_image
from graft.records import Step

Progress = Callable[[Any], None]

TAPS = ("pooled", "stages")

__all__ = [
    "TAPS",
    "Progress",
    "Shelf",
    "States",
    "by_length",
    "cache_folder",
    "content_keys",
    "device_of",
    "extract",
    "one_ahead",
    "remembered",
    "throughput",
    "to_device",
]


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
    keys = content_keys(items, backbone.modality)
    run = backbone if tap == "pooled" else partial(_run_stages, backbone)
    width = backbone.width if tap == "pooled" or not keys else _width(backbone, run, items)
    features = np.empty((len(items), width), np.float32)
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    store = Store(cache_folder() / "features" / LAYOUT / backbone.fingerprint() / tap, width) if cache and places else None
    found = store.read(places, features) if store else set()
    if store and tap == "pooled" and len(found) < len(places):
        found |= Store(store.folder.with_name("stages"), width).read({key: places[key] for key in places.keys() - found}, features)
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
    for key in content_keys(sample, backbone.modality):
        digest.update(key)

    def measure() -> float:
        extract(backbone, sample[: max(1, batch_size // 4)], batch_size=batch_size, cache=False)
        start = time.perf_counter()
        extract(backbone, sample, batch_size=batch_size, cache=False)
        return len(sample) / (time.perf_counter() - start)

    return remembered(f"speed {digest.hexdigest()}", measure)


def content_keys(items: Sequence[Any], modality: str) -> list[bytes]:
    """The `content_key` of every item. Raises UnreadableItems naming the items that cannot be read."""
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
