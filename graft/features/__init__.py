"""Features: a backbone run over items once, kept on disk by content. Heavy: torch. Never trains, never sees labels."""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from graft import processes
from graft.backbones.base import Backbone, State
from graft.device import chosen
from graft.errors import GraftError, UnreadableItems, near_miss
from graft.features.batches import by_length, device_of, has_bfloat16, one_ahead, pinned, to_device
from graft.features.runtimes import REFERENCE, RUNTIMES, choose, machine, plain
from graft.features.states import Shelf, States
from graft.features.store import BLOCK_ITEMS, LAYOUT, Store, cache_folder, recalled, remembered, room_for, sortable
from graft.features.taps import TAPS, Tapped
from graft.items import content_key, open_image
from graft.memory import keep_freed
from graft.records import Step

Progress = Callable[[Any], None]

# Runtimes are measured on so many items: enough to keep two cores busy.
_PROBE_ITEMS = 16
# The speed of extraction is measured on so many.
_SPEED_ITEMS = 64

__all__ = [
    "REFERENCE",
    "RUNTIMES",
    "TAPS",
    "Progress",
    "Shelf",
    "States",
    "by_length",
    "cache_folder",
    "content_keys",
    "device_of",
    "extract",
    "has_bfloat16",
    "known_throughput",
    "machine",
    "one_ahead",
    "pinned",
    "remembered",
    "throughput",
    "to_device",
]


def extract(
    backbone: Backbone,
    items: Sequence[Any],
    *,
    tap: str = "pooled",
    view: int = 0,
    batch_size: int = 64,
    cache: bool = True,
    runtime: str = "auto",
    progress: Progress | None = None,
) -> np.ndarray:
    """The features of every item, computed once for each content and kept on disk.

    items: n of the backbone's modality. tap: "pooled", the backbone's own features; "stages", the output of every stage averaged over
    its places, side by side; or "late", of the later half of the stages, of which the pooled features are the last columns. view: 0, the
    one that is judged; 1 and on, random training views of images. cache: read and write the disk cache (see `cache_folder`);
    without it equal items are still computed once, but for decoded images, as comparing their pixels takes too long. runtime: one of
    RUNTIMES, or "auto", see `runtimes.choose`. progress: is told a Step after each batch.
    Returns (n, d) float32, in the order of the items; a memory-mapped file where it is large. The backbone is left in
    evaluation mode.
    Raises UnreadableItems naming the items that cannot be read. Warns, and goes on without, where the cache cannot be
    written or a part of it cannot be read, and where a runtime gives what is no number.
    """
    return _Extraction(backbone, tap, view, batch_size, cache, runtime, progress).of(items)


@dataclass
class _Extraction:
    """What `extract` is told but for the items, and the work itself.

    expected: items that will follow these, or be them; a runtime is set up where it pays for so many. found: of them in the cache.
    """

    backbone: Backbone
    tap: str = "pooled"
    view: int = 0
    batch_size: int = 64
    cache: bool = True
    runtime: str = "auto"
    progress: Progress | None = None
    expected: int = 0
    found: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        backbone = self.backbone
        if self.batch_size < 1:
            raise GraftError(f"batch_size is {self.batch_size}, expected at least 1.")
        if self.tap not in TAPS:
            raise GraftError(f"tap is {self.tap!r}, expected one of {', '.join(TAPS)}.{near_miss(self.tap, TAPS)}")
        if self.view and backbone.modality != "image":
            raise GraftError(
                f"view is {self.view}, expected 0: only images have random views, and {backbone.name} reads {backbone.modality}s."
            )
        self.network = Tapped(backbone.eval(), self.tap).eval()

    def of(self, items: Sequence[Any]) -> np.ndarray:
        """(n, d), the features of the items."""
        if not len(items):
            return np.empty((0, self.backbone.width), np.float32)
        if self.backbone.modality == "row":
            # They are the features already: there is nothing to run, and nothing worth keeping.
            rows = self.backbone.prepare(items)
            assert isinstance(rows, torch.Tensor)
            return rows.numpy()
        if self.backbone.modality == "table":
            # That columns are lacking is told also where the features are found on the disk.
            self.backbone.prepare([items[0]])
        digests = content_keys(items, self.backbone.modality, decoded=self.cache)
        # first: (m,) where each content is met first. which: (n,) the content of each item.
        keys, first, which = np.unique(sortable(digests), return_index=True, return_inverse=True)
        features = room_for((len(items), self._width(items)))
        fingerprint = self.backbone.fingerprint() if self.cache else None
        store = self._store(fingerprint, features.shape[1]) if fingerprint else None
        missing = np.sort(first[~self._found(store, keys, first, features)])
        times = np.bincount(which)[which]
        done = self.found = len(items) - int(times[missing].sum())
        if done:
            self._tell(done, len(items))
        try:
            for batch, computed in self._computed(items, missing, fingerprint):
                features[batch] = computed
                if store and processes.first():
                    store.add(digests[batch], computed)
                done += int(times[batch].sum())
                self._tell(done, len(items))
        finally:
            # Also when interrupted: what is computed is not computed again.
            if store:
                store.flush()
        # What the first one wrote is then there for all.
        processes.wait()
        again = np.flatnonzero(first[which] != np.arange(len(items)))
        # In pieces, so that many equal items do not bring all of their features into memory.
        for start in range(0, len(again), BLOCK_ITEMS):
            piece = again[start : start + BLOCK_ITEMS]
            features[piece] = features[first[which[piece]]]
        return features

    def _width(self, items: Sequence[Any]) -> int:
        if self.tap == "pooled":
            return self.backbone.width
        with torch.inference_mode():
            return self.network(to_device(_prepare(self.backbone, items, [0]), device_of(self.backbone))).shape[1]

    def _store(self, fingerprint: str, width: int) -> Store:
        folder = f"{self.tap}-view{self.view}" if self.view else self.tap
        return Store(cache_folder() / "features" / LAYOUT / fingerprint / folder, width)

    def _found(self, store: Store | None, keys: np.ndarray, first: np.ndarray, features: np.ndarray) -> np.ndarray:
        """(m,) bool: which contents every process finds on disk; theirs are filled in."""
        found = np.zeros(len(keys), bool)
        if store:
            store.read(keys, first, features, found)
            for wider in () if self.view else TAPS[TAPS.index(self.tap) + 1 :]:
                if not found.all():
                    Store(store.folder.with_name(wider), features.shape[1]).read(keys, first, features, found)
        # One may have looked a moment later than the others, or on another computer.
        return np.logical_and.reduce(processes.gathered(found))

    def _computed(self, items: Sequence[Any], missing: np.ndarray, fingerprint: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(places, features) of batches of the missing items; the next one is decoded while the present one is computed.

        Of several processes each computes its share of the batches, and all get all of them.
        """
        if not len(missing):
            return
        keep_freed()
        backbone, device = self.backbone, device_of(self.backbone)
        name, run = REFERENCE, plain(self.network)
        expected = max(self.expected, len(missing))
        if self.runtime != "auto" or expected > 2 * _PROBE_ITEMS:
            some = missing[np.linspace(0, len(missing) - 1, min(_PROBE_ITEMS, len(missing))).astype(int)]
            name, run = choose(self.network, _prepare(backbone, items, some), expected, name=self.runtime, keep=fingerprint)
        order = np.array(by_length(items, missing.tolist())) if backbone.modality == "text" else missing
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

        def prepare(batch: np.ndarray) -> State:
            rng = np.random.default_rng([self.view, *batch.tolist()]) if self.view else None
            return pinned(_prepare(backbone, items, batch, rng), device)

        prepared = iter(one_ahead(prepare, processes.share(batches)))
        for start in range(0, len(batches), processes.count()):
            together = batches[start : start + processes.count()]
            computed = None
            if processes.place() < len(together):
                state = next(prepared)
                with torch.inference_mode():
                    computed = run(state).float().cpu().numpy()
                    if name != REFERENCE and not np.isfinite(computed).all():
                        warnings.warn(
                            f"extracting {backbone.name}: runtime {name} gave what is no number; from here on in float32.", stacklevel=3
                        )
                        name, run = REFERENCE, plain(self.network)
                        computed = run(state).cpu().numpy()
            yield from zip(together, processes.gathered(computed), strict=False)

    def _tell(self, done: int, total: int) -> None:
        if self.progress:
            self.progress(Step(f"extracting {self.backbone.name}", done, total))


def throughput(backbone: Backbone, items: Sequence[Any], *, tap: str = "pooled") -> float:
    """Items a second that `extract` reaches here on these items, from preparing to features.

    Measured on up to 64 of the items, whose features are kept, then remembered in the cache folder for this machine,
    backbone and sample, so that a plan made from it is the same plan the next time.
    Raises GraftError without items.
    """
    if not len(items):
        raise GraftError("throughput: 0 items, expected at least 1 to measure on.")
    sample = [items[place] for place in np.unique(np.linspace(0, len(items) - 1, _SPEED_ITEMS).astype(int)).tolist()]
    about = f"{machine(device_of(backbone))} {tap} {backbone.fingerprint()} {len(items)}"
    digest = hashlib.blake2b(about.encode() + content_keys(sample, backbone.modality).tobytes(), digest_size=16)

    def measure() -> float:
        for cache in (True, False):
            seen = [(0, time.perf_counter())]
            tell = partial(_note_time, seen)
            extraction = _Extraction(backbone, tap, batch_size=_SPEED_ITEMS // 4, cache=cache, progress=tell, expected=len(items))
            extraction.of(sample)
            # What is found in the cache takes no time, and the first batch waits for the runtime to be set up.
            batches = seen[2:] if extraction.found else seen[1:]
            whole = len(sample) <= _SPEED_ITEMS // 4 and not extraction.found
            if whole or (batches and batches[-1][0] - batches[0][0] >= _SPEED_ITEMS // 4):
                break
        (before, begun), (after, ended) = batches[0] if len(batches) > 1 else seen[0], seen[-1]
        return (after - before) / (ended - begun)

    speed = remembered(f"throughput {digest.hexdigest()}", measure)
    # Once more under the name alone, for who wants to know before there are items.
    remembered(_named(backbone.name, tap, device_of(backbone)), lambda: speed)
    return speed


def known_throughput(name: str) -> float | None:
    """Items a second that a backbone of this name reached on the device that is chosen here when it was first measured, else None."""
    return recalled(_named(name, "pooled", chosen()))


def _named(name: str, tap: str, device: torch.device) -> str:
    return f"items a second of {name} {machine(device)} {tap}"


def _note_time(seen: list[tuple[int, float]], step: Step) -> None:
    seen.append((step.done, time.perf_counter()))


def content_keys(items: Sequence[Any], modality: str, *, decoded: bool = True) -> np.ndarray:
    """The `content_key` of every item, (n, 16) uint8. Raises UnreadableItems naming the items that cannot be read.

    decoded: False gives images that are decoded already a key of their place instead, so that no two of them are equal.
    """
    keys, unreadable = np.empty((len(items), 16), np.uint8), []
    for place, item in enumerate(items):
        try:
            by_place = not decoded and modality == "image" and isinstance(item, Image.Image | np.ndarray)
            keys[place] = np.frombuffer(place.to_bytes(16) if by_place else content_key(item, modality), np.uint8)
        except OSError as error:
            unreadable.append(f"item {place} ({_short(item)}): {error}")
    if unreadable:
        raise _cannot_read(unreadable)
    return keys


def _prepare(backbone: Backbone, items: Sequence[Any], places: Iterable[int], rng: np.random.Generator | None = None) -> State:
    chosen = [items[place] for place in places]
    try:
        return backbone.prepare(chosen, rng)
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
