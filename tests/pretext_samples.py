"""How a pretext is played in the loop by tests of those for tables and for signals."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from graft.pretext import PRETEXTS
from graft.records import Phase, Plan, Recipe
from graft.train import Checkpoints, checkpoint, train

RECIPE = Recipe(batch_size=32, precision="fp32", batch_norm="batch", augment=False)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """A cache of its own, and one thread: bit for bit needs sums in one order."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def playing(name, backbone, items, epochs=4, seed=0, **options):
    """(events to come, the backbone)."""
    plan = Plan((Phase(epochs, (1e-3,) * backbone.depth, 0.0),), losses=((name, 1.0),), supervised=False)
    given = {"task": "regression", "others": items, "recipe": RECIPE, "seed": seed, **options}
    return train(backbone, nn.Linear(backbone.width, 1), plan, [], np.empty(0), **given), backbone


def killed_twice(start, monkeypatch, folder):
    """(events, the backbone) of what start(checkpoints=...) comes to, begun three times, ended after an epoch and after two."""
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", np.inf)
    for after in (1, 2):
        events, _ = start(checkpoints=Checkpoints(folder, "r2"))
        for _ in range(after):
            next(events)
        events.close()
    events, backbone = start(checkpoints=Checkpoints(folder, "r2"))
    return list(events), backbone


@contextmanager
def beside(name, by_hand):
    """Within, the pretext "spy" is the one called so; gives a list of its values, each with that of by_hand(pretext, seen, batch).

    Both are from the same random numbers.
    """
    kept = []

    class Spy(PRETEXTS[name]):
        def forward(self, seen):
            state = torch.get_rng_state()
            value = super().forward(seen)
            torch.set_rng_state(state)
            (batch,) = seen.other.states
            with torch.no_grad():
                kept.append((value.item(), float(by_hand(self, seen, batch))))
            return value

    PRETEXTS.add("a test", name="spy")(Spy)
    try:
        yield kept
    finally:
        del PRETEXTS._members["spy"]
