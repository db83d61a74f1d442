"""The freeze boundary: what is computed once, what is seen meanwhile, and what is left afterwards."""

import numpy as np
import pytest
import torch
from test_train import RATE, assert_same, load, make_data, make_head, play, weights

from graft.features import States
from graft.records import Phase, Plan
from graft.train import train
from graft.train.feed import Feed, Turn, count_views


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
def test_a_deeper_boundary_runs_only_the_stages_between(kind):
    backbone = load(kind)
    runs = counted(backbone)
    play(kind, phases(1, 2), backbone=backbone, augment=False)
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

    def epochs(batch_size, order):
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
    seen, judged = epochs(4, np.arange(16))
    assert runs[0] == 1 + 2 * 16 + 16  # one to learn the size, two views, the judged one
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    with torch.no_grad():
        torch.testing.assert_close(judged, backbone(backbone.prepare(items), stop=2), atol=1e-5, rtol=0.0)
    # An item's views hang on the seed and its content, not on its batch.
    again, _ = epochs(8, np.arange(16)[::-1].copy())
    torch.testing.assert_close(again[1], seen[1], atol=1e-5, rtol=0.0)


def test_phases_of_one_epoch_see_different_views():
    feed = Feed(load("image"), make_data("image", 4)[0], 4)
    feed.views, feed.n_views = True, 3
    assert [feed._view(Turn(5, phase, 0, 0)) for phase in range(4)] == [(5, 0), (5, 1), (5, 2), (5, 0)]


def test_where_two_views_do_not_fit_each_epoch_draws_its_own():
    backbone = load("image")
    runs = counted(backbone)
    with pytest.warns(UserWarning, match="tiny:image: the output of the frozen stages for 2 random views of each image exceeds"):
        play("image", phases(2, epochs=4), backbone=backbone, states=States(2 * 45 * 32 * 8 * 8 * 4 - 1))
    assert runs[0] == 45 * 4 + 1


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
