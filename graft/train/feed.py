"""What training is fed: batches of items as the states at the freeze boundary. Heavy: torch. Never sees labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from graft.backbones.base import Backbone, State
from graft.features import Progress, by_length, device_of, extract, to_device

# The output of frozen stages is kept in memory up to this size for the training items, and again for the validation items.
KEEP_BYTES = 2 * 1024**3


class Feed:
    """Items as states at the freeze boundary: the stages below it are run once for each item and their output is kept.

    With every stage frozen that output is the features of the view that is judged, and the disk cache has them. An
    image's state has one shape, so states are kept item by item. A text's is padded to its batch, so they are kept batch
    by batch, and the batches stay the same while a phase lasts. Where the states exceed KEEP_BYTES they are computed each time.
    """

    def __init__(
        self, backbone: Backbone, items: Sequence[Any], boundary: int, batch_size: int, views: bool, progress: Progress | None
    ) -> None:
        self.backbone, self.items, self.boundary, self.batch_size, self.views = backbone, items, boundary, batch_size, views
        self.text = backbone.modality == "text"
        self.device = device_of(backbone)
        self.features = torch.from_numpy(extract(backbone, items, progress=progress)) if boundary == backbone.depth else None
        self.keeps = 0 < boundary < backbone.depth and not views
        self.same_batches = self.keeps and self.text
        self.composed: list[np.ndarray] | None = None
        self.by_batch: dict[bytes, State] = {}
        self.by_item: State | None = None
        self.filled = np.zeros(len(items), bool)
        self.bytes = 0

    def batches(self, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Places of the items of each batch. rng: shuffles; None: a fixed order."""
        if self.composed is None or not self.same_batches:
            self.composed = self.compose(rng)
        return [self.composed[place] for place in rng.permutation(len(self.composed))] if rng else self.composed

    def compose(self, rng: np.random.Generator | None) -> list[np.ndarray]:
        """The items dealt out to batches, at random where rng is given."""
        n = len(self.items)
        order = rng.permutation(n).tolist() if rng else list(range(n))
        if self.text and self.features is None:
            # Texts of like length share a batch; sorting within pools only leaves the batches random.
            pool = 16 * self.batch_size if rng else n
            order = [place for start in range(0, n, pool) for place in by_length(self.items, order[start : start + pool])]
        starts = list(range(0, n, self.batch_size))
        # Batch normalisation cannot learn from a single item: a last batch of one joins the one before.
        if rng and len(starts) > 1 and n - starts[-1] == 1:
            starts.pop()
        return [np.array(order[start:stop]) for start, stop in zip(starts, [*starts[1:], n], strict=True)]

    def prepare(self, batch: np.ndarray, key: list[int] | None) -> State | None:
        """The batch as the first stage takes it, None where what is needed is kept. Runs in a thread of its own."""
        if self.features is not None or batch.tobytes() in self.by_batch or (self.by_item is not None and self.filled[batch].all()):
            return None
        rng = np.random.default_rng(key) if self.views and key else None
        return self.backbone.prepare([self.items[place] for place in batch], rng)

    def state(self, batch: np.ndarray, ready: State | None) -> State:
        """The state that stage `boundary` takes, on the backbone's device. ready: what `prepare` gave."""
        if self.features is not None:
            return self.features[batch].to(self.device)
        if ready is not None:
            with torch.no_grad():
                state = self.backbone(to_device(ready, self.device), stop=self.boundary)
            if self.keeps:
                self.keep(batch, state)
            return state
        if self.text:
            # A copy, as the stages above may work in place.
            return _each(self.by_batch[batch.tobytes()], lambda tensor: tensor.clone().to(self.device))
        assert self.by_item is not None
        return _each(self.by_item, lambda tensor: tensor[batch].to(self.device))

    def keep(self, batch: np.ndarray, state: State) -> None:
        """Remember the batch's state where there is room."""
        state = _each(state, lambda tensor: tensor.detach().cpu().clone())
        size = sum(tensor.nbytes for tensor in (state.values() if isinstance(state, dict) else [state]))
        if self.text:
            if self.bytes + size <= KEEP_BYTES:
                self.bytes += size
                self.by_batch[batch.tobytes()] = state
            return
        if self.by_item is None:
            if size / len(batch) * len(self.items) > KEEP_BYTES:
                self.keeps = False
                return
            self.by_item = _each(state, lambda tensor: tensor.new_empty((len(self.items), *tensor.shape[1:])))
        for name, tensor in state.items() if isinstance(state, dict) else [("", state)]:
            (self.by_item[name] if isinstance(self.by_item, dict) else self.by_item)[torch.from_numpy(batch)] = tensor
        self.filled[batch] = True


def _each(state: State, function: Callable[[torch.Tensor], torch.Tensor]) -> State:
    return {name: function(tensor) for name, tensor in state.items()} if isinstance(state, dict) else function(state)
