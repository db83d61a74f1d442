"""The freeze boundary and the precision: what is computed once, what is seen meanwhile, and what bf16 may not spoil."""

import math
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_train import RATE, assert_same, load, make_data, make_head, play, weights
from torch import nn

from graft.errors import GraftError
from graft.features import States
from graft.records import Phase, Plan
from graft.strategies import make_plan
from graft.train import precision as precision_room
from graft.train import train
from graft.train.feed import Feed, Turn, count_views
from graft.train.precision import computes_in_bf16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def phases(*boundaries, epochs=1):
    """A plan whose phases freeze so many of the four stages each."""
    return Plan(tuple(Phase(epochs, (0.0,) * k + (RATE / 10,) * (4 - k), RATE) for k in boundaries))


def counted(backbone):
    """Items that each stage has run on, told as they come."""
    runs = [0] * backbone.depth

    def count(place):
        def hook(stage, inputs, output):
            runs[place] += len(output["hidden"] if isinstance(output, dict) else output)

        return hook

    for place, stage in enumerate(backbone.stages):
        stage.register_forward_hook(count(place))
    return runs


def test_texts_meet_in_new_batches_each_epoch_though_their_states_are_kept():
    backbone, (items, _) = load("text"), make_data("text")
    feed = Feed(backbone, items, 8)
    with States() as states:
        feed.place(2, shelf=states.open(backbone, 2))
        for epoch in range(2):
            for place, batch in enumerate(feed.batches(np.random.default_rng(epoch))):
                turn = Turn(0, 0, epoch, place)
                state = feed.state(batch, turn, feed.prepare(batch, turn))
                with torch.no_grad():
                    expected = backbone(backbone.prepare([items[i] for i in batch]))
                    torch.testing.assert_close(backbone(state, 2), expected, atol=1e-6, rtol=0.0)
    first, second = (feed.batches(np.random.default_rng(epoch)) for epoch in range(2))
    assert {frozenset(batch.tolist()) for batch in first} != {frozenset(batch.tolist()) for batch in second}


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("deeper", [2, 4])
def test_a_deeper_boundary_runs_only_the_stages_between(kind, deeper):
    backbone = load(kind)
    runs = counted(backbone)
    play(kind, phases(1, deeper), backbone=backbone, augment=False)
    # Stage 1 learns in the first phase and is frozen in the second: once to learn, once more with its present weights.
    assert runs[:2] == [45, 45 + 45]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_reusing_a_shallower_boundary_changes_no_number(kind):
    """Truth: 1e-5, the difference that float32 rounding in other batches may make."""
    options = {"augment": False, "validation": make_data(kind, 13, seed=1)}
    plan = phases(1, 3, 2, 4, 1)
    kept, *one = play(kind, plan, **options)
    computed, *other = play(kind, plan, states=States(0), **options)
    np.testing.assert_allclose([event.loss for event in kept], [event.loss for event in computed], atol=1e-5)
    np.testing.assert_allclose([event.score for event in kept], [event.score for event in computed], atol=1e-5)
    assert_same(weights(*one), weights(*other), atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_one_keeper_serves_several_calls_from_the_same_weights(kind):
    items, y = make_data(kind)
    with States() as states:
        for training, expected in ((slice(0, 30), 30), (slice(15, 45), 15), (slice(0, 45), 0)):
            backbone = load(kind)
            runs = counted(backbone)
            play(kind, "partial", backbone=backbone, data=(items[training], y[training]), states=states)
            # In 4 epochs images are seen in 2 views; one item more tells how much room a state takes.
            assert runs[0] == (2 * expected + 1 if kind == "image" else expected)


def test_what_moved_stages_gave_is_not_left_with_the_keeper():
    with States() as states:
        play("text", phases(2), states=states)
        after_frozen = len(states._shelves)
        play("text", phases(1, 2), states=states)
        assert after_frozen == 1 and len(states._shelves) == 2


@pytest.mark.parametrize(
    ("epochs", "fit", "views"), [(1, 9, 1), (2, 9, 2), (4, 9, 2), (10, 9, 3), (40, 99, 10), (40, 5, 5), (40, 2, 2), (40, 1, 0), (1, 0, 0)]
)
def test_a_quarter_of_the_epochs_and_at_least_two_views_are_kept_where_they_fit(epochs, fit, views):
    assert count_views(epochs, fit) == views


def test_kept_views_differ_take_turns_and_repeat_themselves():
    backbone, (items, _) = load("image"), make_data("image", 16)
    runs = counted(backbone)

    def epochs(batch_size, order, items):
        with States() as states:
            feed = Feed(backbone, items, batch_size)
            feed.place(2, shelf=states.open(backbone, 2), views=True, epochs=8)
            assert feed.n_views == 2
            seen = []
            for epoch in range(4):
                parts = []
                for place, batch in enumerate(np.split(order, len(items) // batch_size)):
                    turn = Turn(0, 0, epoch, place)
                    parts.append(feed.state(batch, turn, feed.prepare(batch, turn)))
                seen.append(torch.cat(parts)[np.argsort(order)])
            judged = feed.state(order, None, feed.prepare(order, None))[np.argsort(order)]
            return seen, judged

    runs[0] = 0
    seen, judged = epochs(4, np.arange(16), items)
    assert runs[0] == 1 + 2 * 16 + 16  # one to learn the size, two views, the judged one
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    with torch.no_grad():
        torch.testing.assert_close(judged, backbone(backbone.prepare(items), stop=2), atol=1e-5, rtol=0.0)
    # An item's views hang on the seed and its content, not on its batch or its place among the items.
    again, _ = epochs(8, np.random.default_rng(0).permutation(16), items[::-1])
    torch.testing.assert_close(again[1].flip(0), seen[1], atol=1e-5, rtol=0.0)


def test_phases_of_one_epoch_see_different_views():
    feed = Feed(load("image"), make_data("image", 4)[0], 4)
    feed.views, feed.n_views = True, 3
    assert [feed._view(Turn(5, phase, 0, 0)) for phase in range(4)] == [(5, 0), (5, 1), (5, 2), (5, 0)]


def test_where_two_views_do_not_fit_each_epoch_draws_its_own():
    backbone = load("image")
    runs = counted(backbone)
    with pytest.warns(UserWarning, match=r"tiny:image: .* 2 random views of each item takes 0.000687 GiB.*: it is not kept"):
        play("image", phases(2, epochs=4), backbone=backbone, states=States(2 * 45 * 32 * 8 * 8 * 4 - 1))
    assert runs[0] == 45 * 4 + 1


def test_views_follow_what_the_disk_has_free_and_stay_as_they_were_decided(monkeypatch):
    (items, _), of_each = make_data("image", 8), 32 * 8 * 8 * 4
    backbone = load("image")

    def views(free, items):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        with States() as states:
            feed = Feed(backbone, items, 4)
            feed.place(2, shelf=states.open(backbone, 2), views=True, epochs=40)
            assert (feed.shelf is not None) == (feed.n_views > 0)
            return feed.n_views

    # Half of what is free is used: five views of eight items, where ten are wanted.
    with pytest.warns(UserWarning, match=r"10 random views of each item takes .*half of the disk's free space: 5 views are kept"):
        assert views(2 * 5 * 8 * of_each, items) == 5
    with pytest.warns(UserWarning, match="5 views are kept, now and when this is run again"):
        assert views(2**40, items) == 5
    # Of other items it is decided anew.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert views(2**40, items[:7]) == 10
        assert views(0, items[:7]) == 10
    with pytest.warns(UserWarning, match="set GRAFT_CACHE to a folder on a larger one"):
        assert views(2 * 2 * 6 * of_each - 2, items[:6]) == 0


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("augment", [False, True])
def test_a_keeper_that_fills_up_midway_changes_no_number(kind, augment, monkeypatch):
    whole, *one = play(kind, phases(2, epochs=4), augment=augment)
    # A disk that has room for a part of the first epoch only.
    room = States.reserve
    calls = []

    def reserve(self, size):
        calls.append(size)
        return room(self, size if len(calls) < 2 else 2**60)

    monkeypatch.setattr(States, "reserve", reserve)
    with pytest.warns(UserWarning, match="cannot be kept in full"):
        part, *other = play(kind, phases(2, epochs=4), augment=augment)
    np.testing.assert_allclose([event.loss for event in part], [event.loss for event in whole], atol=1e-5)
    assert_same(weights(*one), weights(*other), atol=1e-5)


@pytest.mark.parametrize("end", ["finished", "closed", "interrupted"])
def test_no_file_stays_however_training_ends(end, cache):
    def interrupt(step):
        if end == "interrupted":
            raise KeyboardInterrupt

    run = train(load("text"), make_head(), phases(2, epochs=3), *make_data("text"), task="classification", progress=interrupt)
    if end == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            next(run)
    elif end == "closed":
        next(run)
        run.close()
    else:
        list(run)
    assert (cache / "states").is_dir() and [path for path in (cache / "states").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("strategy", ["full", "partial"])
def test_bf16_learns_the_same_and_leaves_float32(strategy):
    """Tolerance: bf16 rounds each step to 2^-8 of a number; four epochs of a tiny network stay within a few hundredths."""
    before = torch.get_rng_state()
    exact, *_ = play("text", strategy, precision="fp32")
    rounded, backbone, head = play("text", strategy, precision="bf16")
    assert [event.loss for event in exact] != [event.loss for event in rounded]
    np.testing.assert_allclose([event.loss for event in rounded], [event.loss for event in exact], atol=0.05)
    assert {tensor.dtype for tensor in weights(backbone, head).values()} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), before)


class OverflowsInBf16(nn.Module):
    """A stage that gives no number from its n-th training batch on where it is run in bf16."""

    def __init__(self, stage, after):
        super().__init__()
        self.stage, self.left = stage, after

    def forward(self, state):
        if self.training:
            self.left -= 1
        spoilt = self.left < 0 and torch.is_autocast_enabled("cpu")
        return self.stage({**state, "hidden": state["hidden"] * math.nan} if spoilt else state)


@pytest.mark.parametrize("validated", [True, False])
def test_what_bf16_cannot_hold_is_trained_again_in_fp32(validated):
    """Truth: from the phase's starting weights, so the numbers are those of fp32 from the start."""
    options = {"validation": make_data("text", 13, seed=1)} if validated else {}
    expected, *_ = play("text", phases(2, epochs=3), precision="fp32", **options)
    backbone = load("text")
    backbone.stages[2] = OverflowsInBf16(backbone.stages[2], after=3)
    with pytest.warns(UserWarning, match="the loss became nan in bf16 in phase 1, epoch 2.*begun again .* continues in fp32"):
        events, *_ = play("text", phases(2, epochs=3), backbone=backbone, precision="bf16", **options)
    np.testing.assert_allclose([event.loss for event in events[-3:]], [event.loss for event in expected], atol=1e-5)
    assert all(math.isfinite(event.loss) for event in events) and [event.epoch for event in events] == [0, 0, 1, 2]


def test_a_rate_that_diverges_in_fp32_too_is_still_an_error():
    plan = Plan((Phase(5, (1e30,) * 4, 1e30),))
    with pytest.warns(UserWarning, match="continues in fp32"), pytest.raises(GraftError, match="try a tenth"):
        play("image", plan, precision="bf16", batch_size=16)


def test_auto_measures_once_and_takes_bf16_where_it_pays(monkeypatch):
    backbone, head, (items, _) = load("text"), make_head(), make_data("text", 8)
    monkeypatch.setattr(precision_room, "has_bfloat16", lambda device: True)
    measured = []

    def seconds(backbone, head, batch, bf16):
        measured.append(bf16)
        return 1.0 if bf16 else gain

    monkeypatch.setattr(precision_room, "_step_seconds", seconds)
    gain = 3.0
    assert not computes_in_bf16("auto", backbone, head, items) and not measured  # a network of a few thousand parameters
    monkeypatch.setattr(precision_room, "_LEAST_PARAMETERS", 0)
    assert computes_in_bf16("auto", backbone, head, items)
    gain = 1.1
    assert computes_in_bf16("auto", backbone, head, items) and measured == [False, True] * 3
    assert not computes_in_bf16("auto", load("text-1"), head, items)
    assert not computes_in_bf16("fp32", backbone, head, items) and computes_in_bf16("bf16", backbone, head, items)
    monkeypatch.setattr(precision_room, "has_bfloat16", lambda device: False)
    assert not computes_in_bf16("auto", backbone, head, items)


def test_measuring_a_step_changes_nothing(monkeypatch):
    monkeypatch.setattr(precision_room, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(precision_room, "_LEAST_PARAMETERS", 0)
    backbone, head, (items, _) = load("image"), make_head(), make_data("image", 8)
    before, state = weights(backbone, head), torch.get_rng_state()
    computes_in_bf16("auto", backbone, head, items)
    assert_same(weights(backbone, head), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in (*backbone.parameters(), *head.parameters()))


def test_a_tiny_network_is_trained_in_fp32_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, *_ = play("text", make_plan("partial", 4, 2, RATE))
    other, *_ = play("text", make_plan("partial", 4, 2, RATE), precision="fp32")
    assert [event.loss for event in one] == [event.loss for event in other]
