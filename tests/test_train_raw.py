"""The loop with a pretext: what it is handed of a batch, what runs the network for it, and whom it learns from."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import assert_same, load, make_data, make_head, numbers, weights

from graft.errors import GraftError
from graft.losses.base import Seen
from graft.pretext import PRETEXTS, Pretext
from graft.pretext.base import Follower, batch_of, features_of, run
from graft.records import Phase, Plan, Recipe
from graft.train import Checkpoints, checkpoint, train

PHASE = Phase(2, (1e-3,) * 4, 0.0)


@pytest.fixture
def spy():
    """A registered pretext that keeps what it sees, and has the network tell a batch from its mirror image or its turned words."""

    class Spy(Pretext):
        modalities = ("image", "text")

        def __init__(self, start):
            super().__init__(start)
            self.started.append(start)
            self.network = (start.backbone,)
            self.follower = Follower(start.backbone)

        def forward(self, seen):
            self.seen.append(seen)
            batch = batch_of(seen)
            features = features_of(seen, batch)
            self.given.append((features.detach(), run(seen, batch, 1)))
            self.follower.follow(self.network[0], 0.5)
            return (features - self.follower(seen, batch)).square().mean() + 1 / (1 + features.var(0).mean())

    Spy.seen, Spy.started, Spy.given = [], [], []
    PRETEXTS.add("a test", name="spy")(Spy)
    yield Spy
    del PRETEXTS._members["spy"], PRETEXTS.sources["spy"]


def plan(*phases, losses=(("spy", 1.0),)):
    return Plan(phases or (PHASE,), losses=losses, supervised=False)


def playing(backbone, plan, others, **options):
    recipe = Recipe(batch_norm="batch", precision="fp32", batch_size=8, augment=False)
    return train(backbone, make_head(1), plan, [], np.empty(0), task="regression", others=others, recipe=recipe, seed=0, **options)


def played(kind, plan, others, **options):
    backbone = load(kind)
    return list(playing(backbone, plan, others, **options)), backbone


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_pretext_is_handed_the_prepared_batch_and_what_runs_the_network(kind, spy):
    items = make_data(kind, 20)[0]
    start = load(kind)
    start.train()
    played(kind, plan(replace(PHASE, epochs=1)), items)
    seen = spy.seen[0]
    chosen = [items[place] for place in seen.other.places]
    assert 0 < len(chosen) <= 8 and len(seen.other.states) == 1
    torch.testing.assert_close(batch_of(seen), start.prepare(chosen))
    features, first = spy.given[0]
    torch.testing.assert_close(features, start(start.prepare(chosen)))
    torch.testing.assert_close(first, start(start.prepare(chosen), 0, 1))
    assert not len(seen.other.features) and not len(seen.target)


def test_what_a_pretext_says_moves_the_network_and_the_same_call_gives_the_same_numbers(spy):
    items = make_data("image", 30)[0]
    events, backbone = played("image", plan(), items)
    again, other = played("image", plan(), items)
    assert numbers(events) == numbers(again)
    assert_same(weights(backbone), weights(other))
    moved = [not torch.equal(one, two) for one, two in zip(backbone.parameters(), load("image").parameters(), strict=True)]
    assert any(moved)


def test_a_follower_goes_on_where_a_killed_run_left_it(spy, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", math.inf)
    items = make_data("image", 30)[0]
    three = plan(replace(PHASE, epochs=3))
    whole, backbone = played("image", three, items)
    killed = playing(load("image"), three, items, checkpoints=Checkpoints(tmp_path))
    first = next(killed)
    spy.seen.clear()
    # As a killed process: what it has in memory is gone, and nothing is closed.
    fresh = load("image")
    events = list(playing(fresh, three, items, checkpoints=Checkpoints(tmp_path)))
    assert len(spy.seen) == 8 and numbers([first]) == numbers(whole[:1])
    assert numbers(events) == numbers(whole)
    assert_same(weights(fresh), weights(backbone))


def test_teachers_are_handed_on_and_another_one_is_another_run(spy, tmp_path):
    items, teacher = make_data("image", 12)[0], load("image")
    before = teacher.fingerprint()
    played("image", plan(), items, teachers=[teacher], checkpoints=Checkpoints(tmp_path))
    assert spy.started[0].teachers[0] is teacher and teacher.fingerprint() == before
    n = len(spy.seen)
    played("image", plan(), items, teachers=[teacher], checkpoints=Checkpoints(tmp_path))
    other = load("image")
    other.reset(seed=7)
    played("image", plan(), items, teachers=[other], checkpoints=Checkpoints(tmp_path))
    assert len(spy.seen) > n


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": "text", "modalities": ("image",)}, "reads texts, expected images"),
        ({"phases": (Phase(1, (0.0, 1e-3, 1e-3, 1e-3), 0.0),)}, "freezes the first layer group, expected all to learn"),
        ({"losses": (("spy", 1.0), ("entropy_minimisation", 1.0))}, "expected one kind"),
        ({"needs_teachers": True}, "0 teachers for the loss spy, expected at least one"),
        ({"others": []}, "0 others for the loss spy"),
    ],
)
def test_what_a_pretext_cannot_have_is_refused(change, expected, spy):
    spy.modalities = change.get("modalities", spy.modalities)
    spy.needs_teachers = change.get("needs_teachers", False)
    kind = change.get("kind", "image")
    with pytest.raises(GraftError, match=expected):
        played(
            kind,
            plan(*change.get("phases", ()), losses=change.get("losses", (("spy", 1.0),))),
            change.get("others", make_data(kind, 8)[0]),
        )


def test_a_follower_is_the_average_of_what_it_followed():
    """Truth: Tarvainen & Valpola 2017, equation 4; statistics of batch normalisation are the network's own."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    follower = Follower(network)
    kept = network[0].weight.detach().clone()
    for value in (1.0, -2.0):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(value)
        follower.follow(network, 0.9)
        kept = 0.9 * kept + 0.1 * value
    torch.testing.assert_close(follower.twin[0].weight, kept)
    assert (follower.twin[1].running_mean == -2).all()
    assert not list(follower.parameters()) and len(follower.state_dict()) == len(network.state_dict())
    other = Follower(network)
    other.load_state_dict(follower.state_dict())
    torch.testing.assert_close(other.twin[0].weight, kept)
    rows = torch.randn(5, 3)
    seen = Seen(0, [], rows, rows, rows, None, False)
    assert not other(seen, rows).requires_grad
