"""What training is fed: batches of items as the states at the freeze boundary. Heavy: torch. Never sees labels."""

import hashlib
import math
import warnings
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from graft import processes
from graft.backbones.base import Backbone, State
from graft.device import threads
from graft.features import Shelf, by_length, content_keys, device_of, one_ahead, pinned, remembered, to_device
from graft.records import Recipe
from graft.train import augment

_EPOCHS_A_VIEW = 4
_LEAST_VIEWS = 2  # one view, always the same, would be no augmentation


class Turn(NamedTuple):
    """Where training is: what everything drawn for a batch hangs on."""

    seed: int
    phase: int
    epoch: int
    batch: int


class Ready(NamedTuple):
    """What the next stages go on from: a state, and the stage that takes it. keys: under which its items are to be kept, if so."""

    state: State
    stage: int
    keys: Sequence[Hashable] = ()


class Feed:
    """Items as states at the freeze boundary. Stages below it run once for each item, or each kept view of it, where there is a shelf.

    Between phases `place` moves it to another boundary. batch_size: items of a batch. recipe: how random views are drawn.
    elsewhere: its batches are prepared by who asks for them; the state of one is then (n, 0).
    """

    def __init__(
        self, backbone: Backbone, items: Sequence[Any], batch_size: int, recipe: Recipe = Recipe(), elsewhere: bool = False
    ) -> None:
        self.backbone, self.items, self.batch_size, self.recipe = backbone, items, batch_size, recipe
        self.elsewhere = elsewhere
        self.text = backbone.modality == "text"
        self.device = device_of(backbone)
        self.place(0)

    def place(
        self, boundary: int, *, features: np.ndarray | None = None, shelf: Shelf | None = None, views: bool = False, epochs: int = 1
    ) -> None:
        """Feed stage `boundary` from here on.

        features: (n, d), what all stages together give, where it is known. shelf: keeps the states; None: computed each time.
        views: items are seen in random views: the `count_views` of this many epochs of the plan in turn where they are kept,
        else a new one each time.
        """
        self.boundary, self.shelf, self.views, self.n_views = boundary, shelf, views, 0
        self.features = None if features is None else torch.from_numpy(features)
        if shelf and views:
            self.n_views = self._decided_views(shelf, epochs)
            if not self.n_views:
                self.shelf = None

    def _decided_views(self, shelf: Shelf, epochs: int) -> int:
        """The `count_views` of the room that there was when these items were first met here. Warns of fewer than wanted."""
        with torch.no_grad():
            one = self.backbone(to_device(self.backbone.prepare([self.items[0]]), self.device), stop=self.boundary)
        a_view, wanted = len(self.items) * shelf.size(one), count_views(epochs, epochs)
        contents = hashlib.blake2b(b"".join(self.contents), digest_size=16).hexdigest()
        about = f"{self.backbone.name} to stage {self.boundary}, {a_view} bytes, {epochs} epochs, limit {shelf.limit_bytes}, {contents}"
        views = int(remembered(f"views of {about}", lambda: count_views(epochs, shelf.room() // a_view)))
        if views < wanted:
            done = f"{views} views are kept" if views else "it is not kept, and computed in each epoch"
            warnings.warn(
                f"{self.backbone.name}: the output of the frozen stages for {wanted} random views of each item takes "
                f"{wanted * a_view / 1024**3:.3g} GiB, expected at most {shelf.limit_bytes / 1024**3:.3g} GiB and half of the disk's free "
                f"space: {done}, now and when this is run again. Where the disk is too small, set GRAFT_CACHE to a folder on a larger one.",
                stacklevel=3,
            )
        return views

    def batches(self, rng: np.random.Generator | None, chosen: np.ndarray | None = None) -> list[np.ndarray]:
        """Places of the items of each batch. rng: deals them out at random; None: a fixed order.

        chosen: n places in random order, where they are not to be each item once.
        """
        n = len(self.items)
        order = chosen.tolist() if chosen is not None else rng.permutation(n).tolist() if rng else list(range(n))
        order = self.alike(order, pool=16 * self.batch_size if rng else n)
        starts = list(range(0, n, self.batch_size))
        # Batch normalisation cannot learn from a single item: a last batch of one joins the one before.
        if rng and len(starts) > 1 and n - starts[-1] == 1:
            starts.pop()
        batches = [np.array(order[start:stop]) for start, stop in zip(starts, [*starts[1:], n], strict=True)]
        return [batches[place] for place in rng.permutation(len(batches))] if rng else batches

    def alike(self, order: list[int], pool: int | None = None) -> list[int]:
        """The places with texts of like length side by side, so that a batch pads little; of what is not padded, as they are.

        pool: so many in turn are sorted, which leaves batches random; 16 batches unless given.
        """
        if not self.text or self.features is not None:
            return order
        pool = pool or 16 * self.batch_size
        return [place for start in range(0, len(order), pool) for place in by_length(self.items, order[start : start + pool])]

    def prepare(self, batch: np.ndarray, turn: Turn | None) -> Ready:
        """What is needed of a batch, from the latest stage that is kept. turn: None for the judged view. Runs in a thread of its own."""
        if self.elsewhere:
            return Ready(torch.empty(len(batch), 0), self.boundary)
        ready = self._ready(batch, turn)
        return ready._replace(state=pinned(ready.state, self.device))

    def _ready(self, batch: np.ndarray, turn: Turn | None) -> Ready:
        if self.features is not None:
            return Ready(self.features[batch], self.boundary)
        if self.shelf is None:
            return Ready(self._prepared(batch, turn), 0)
        keys = self._keys(batch, turn)
        missing = {key: place for key, place in zip(keys, batch, strict=True) if key not in self.shelf}
        if not missing:
            return Ready(self.shelf.take(keys), self.boundary)
        if self.shelf.full:
            return Ready(self._prepared(batch, turn), 0)
        below = self.shelf.below
        if below and all(key in below for key in missing):
            return Ready(below.take(list(missing)), below.boundary, list(missing))
        return Ready(self._prepared(np.array(list(missing.values())), turn), 0, list(missing))

    def state(self, batch: np.ndarray, turn: Turn | None, ready: Ready) -> State:
        """The state that stage `boundary` takes, on the backbone's device. ready: what `prepare` gave."""
        state = to_device(ready.state, self.device)
        if ready.stage < self.boundary:
            with torch.no_grad():
                state = self.backbone(state, ready.stage, self.boundary)
        if not ready.keys:
            return state
        assert self.shelf is not None
        self.shelf.add(ready.keys, state)
        # Where the shelf has become full meanwhile, this prepares the whole batch.
        return self.state(batch, turn, self.prepare(batch, turn))

    def fill(self, pairs: Iterable[tuple[np.ndarray, Turn | None]]) -> None:
        """Keep the states of these batches where there is a shelf and they are not on it yet."""
        shelf = self.shelf
        if shelf is None:
            return
        wanted = (pair for pair in pairs if not shelf.full and any(key not in shelf for key in self._keys(*pair)))
        for pair, ready in one_ahead(lambda pair: (pair, self.prepare(*pair)), wanted):
            self.state(*pair, ready)

    def fill_judged(self) -> None:
        """Keep the states of this process's share of the items, in the view that is judged and the batches that it is judged in."""
        self.fill((batch, None) for batch in processes.share(self.batches(None)))

    @cached_property
    def contents(self) -> list[bytes]:
        """(n,) the `content_key` of each item."""
        return [bytes(key) for key in content_keys(self.items, self.backbone.modality)]

    def keys(self, batch: np.ndarray, turn: Turn | None) -> list[Hashable] | None:
        """Names of the items in the views of this turn, equal where the same view of the same content comes again; None where none does."""
        return None if self.views and turn and not self.n_views else self._keys(batch, turn)

    def _keys(self, batch: np.ndarray, turn: Turn | None) -> list[Hashable]:
        view = self._view(turn)
        named = view and (*view, *augment.strengths(self.recipe))
        return [(self.contents[place], named) for place in batch]

    def _view(self, turn: Turn | None) -> tuple[int, int] | None:
        """The seed and number of the kept view whose turn it is; None: the judged view."""
        # The phase counts too: phases of one epoch each would otherwise all see the first view.
        return (turn.seed, (turn.phase + turn.epoch) % self.n_views) if self.views and turn else None

    def _prepared(self, batch: np.ndarray, turn: Turn | None) -> State:
        """The batch as the first stage takes it."""
        items = [self.items[place] for place in batch]
        if not (self.views and turn):
            return self.backbone.prepare(items)
        view = self._view(turn) if self.n_views else None
        # Kept ones by content, so that an item has the same views in every batch, fold and study.
        keys = [[*view, int.from_bytes(self.contents[place])] if view else [*turn, row] for row, place in enumerate(batch)]
        items = augment.changed(items, self.recipe, self.backbone.modality, keys, self._side_px)
        if self.text:
            return augment.hide_tokens(self.backbone.prepare(items), self.recipe.token_dropout, keys)
        if not view:
            return self.backbone.prepare(items, np.random.default_rng(list(turn)))

        def draw(row: int) -> State:
            return self.backbone.prepare([items[row]], np.random.default_rng(keys[row]))

        with ThreadPoolExecutor(threads(len(batch))) as pool:
            drawn = list(pool.map(draw, range(len(items))))
        assert all(isinstance(one, torch.Tensor) for one in drawn), "a batch of images is one tensor"
        return torch.cat(drawn)  # type: ignore[arg-type]

    @property
    def _side_px(self) -> int | None:
        """The shorter side that an image needs to have; None: not known."""
        wanted = self.backbone.preprocessing.get("resize_px")
        return max(wanted) if wanted else None


def count_views(epochs: int, fit: int) -> int:
    """How many random views of each image are kept for so many epochs: a quarter of them, and at least two. 0 where fewer fit.

    epochs: of the whole plan. fit: views of all items that the disk has room for; what is decided by it is remembered, as what is seen,
    and so the result, must not hang on what happens to be free there the next time.
    The frozen stages, and the decoding and cropping before them, then cost a quarter of what they did, and each view is seen about
    four times; as many views as epochs would save nothing. A budget of time has its say through the epochs, which it buys and the
    views follow. It does not lower the quarter: what that would save at most is a quarter of the frozen forward passes, and what it
    would take away is most of the augmentation.
    """
    wanted = min(epochs, max(_LEAST_VIEWS, math.ceil(epochs / _EPOCHS_A_VIEW)))
    views = min(wanted, fit)
    return views if views >= min(epochs, _LEAST_VIEWS) else 0
