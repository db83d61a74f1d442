"""Replay: the loss is its paper's equation on stored features, needs items to replay, and holds what full fine-tuning forgets."""

from functools import partial

import numpy as np
import pytest
import torch
from test_losses import random, tensor
from test_train import RATE, load, make_data, make_head, play
from torch import nn

from graft.errors import GraftError
from graft.features import extract
from graft.losses import Other, Replay, Seen, Start
from graft.records import Phase, Plan
from graft.strategies import STRATEGIES, make_plan, remarks
from graft.transfer import Transfer

RATES = (RATE,) * 4


def started(stored):
    """The loss, with these features (m, d) stored before training."""
    stored = tensor(stored)
    target = torch.zeros(1, dtype=torch.long)
    return Replay(
        Start(None, nn.Linear(2, 2), [], target, "classification", None, 0, 0, None, None, None, [None], (), lambda: stored.clone())
    )


def seen(now, places):
    other = Other([], now, torch.zeros(len(now), 2), torch.as_tensor(places))
    return Seen(0, [], torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1), None, False, other)


def test_replay_is_the_mean_squared_difference_to_what_was_stored():
    """Truth: Buzzega et al. 2020, section 3, by hand: squares 1, 9, 0 and 4 over stored variances of 4 and 0, mean 2."""
    stored = [[2.0, 5.0], [-2.0, 5.0]]
    assert started(stored)(seen(torch.tensor([[-1.0, 2.0], [2.0, 7.0]]), [1, 0])).item() == pytest.approx((1 + 9 + 0 + 4) / 4 / 2)
    assert started(stored)(seen(tensor(stored)[[1, 0]], [1, 0])).item() == 0.0
    # The first item's response, compared with the second's.
    assert started(stored)(seen(tensor(stored)[[0]], [1])).item() == pytest.approx(16 / 2 / 2)


def test_its_gradient_pulls_each_feature_back():
    """Truth: 2 (now - stored) / (k d variance)."""
    stored, now = random(7, 3, seed=1), tensor(random(4, 3, seed=2)).requires_grad_()
    places = [6, 0, 3, 3]
    started(stored)(seen(now, places)).backward()
    expected = 2 * (now.detach().numpy() - stored[places]) / 12 / stored.var(0).mean()
    np.testing.assert_allclose(now.grad.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_it_does_not_hang_on_the_unit_of_features(scale):
    stored, now = random(7, 3, seed=1), tensor(random(4, 3, seed=2))
    one, other = (started(stored * factor)(seen(now * factor, [1, 2, 3, 4])).item() for factor in (1.0, scale))
    assert one == pytest.approx(other, rel=1e-4) and one > 0


def test_features_that_do_not_vary_give_a_finite_number():
    assert started(np.ones((3, 2)))(seen(torch.zeros(1, 2), [2])).item() == 1.0


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("frozen", [0, 2])
def test_before_the_first_step_nothing_has_been_forgotten(kind, frozen, monkeypatch):
    """Truth: 0 to rounding. Images are seen as when their response was stored, while those of the target are cropped at random."""
    told = []
    plain = Replay.forward
    monkeypatch.setattr(Replay, "forward", lambda loss, seen: told.append(plain(loss, seen)) or told[-1])
    rates = tuple(RATE * (group >= frozen) for group in range(4))
    plan = Plan((Phase(2, rates, RATE),), losses=(("replay", 1.0),))
    play(kind, plan, others=make_data(kind, 20, seed=5)[0], data=make_data(kind, 20), precision="fp32", batch_size=10)
    assert len(told) == 4
    assert told[0].item() == pytest.approx(0.0, abs=1e-6)
    assert all(value.item() > 1e-5 for value in told[1:])


def test_the_stored_responses_are_those_of_the_starting_network():
    """Truth: the others' extracted features; the loss after training, by numpy."""
    others, kept = make_data("text", 20, seed=5)[0], []
    plain = Replay.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "forward", lambda loss, seen: kept.append((loss, seen)) or plain(loss, seen))
        play("text", "replay", others=others, precision="fp32")
    was = extract(load("text"), others)
    for loss, at in kept:
        now, places = at.other.features.detach().numpy(), at.other.places.numpy()
        assert loss._stored[0].numpy() == pytest.approx(was)
        assert plain(loss, at).item() == pytest.approx(np.square(now - was[places]).mean() / was.var(0).mean(), rel=1e-4)


def test_where_it_cannot_be_had_it_says_so():
    items, y = make_data("text", 12)
    with pytest.raises(GraftError, match=r"train: 0 others for the loss replay, .* for replay those of the source task\. Pass others="):
        play("text", "replay", data=(items, y))
    frozen = Plan((Phase(1, (0.0,) * 4, RATE),), losses=(("replay", 1.0),))
    with pytest.raises(GraftError, match="replay in a plan in which no layer group learns, expected one: nothing can be forgotten"):
        play("text", frozen, data=(items, y), others=items)
    assert Replay.refusal(load("text"), make_head(), "regression", make_plan("replay", 4, 2, RATE)) == ""
    with pytest.raises(
        GraftError, match=r"strategy replay: 0 others, .* Transfer\(...\)\.fit\(X, y, others=\[...\]\), or graft run DATA --keep"
    ):
        Transfer("tiny:text", "replay").fit(items, y)


def test_the_plan_is_that_of_full_with_the_loss():
    plan = make_plan("replay", 3, 4, 1e-2)
    assert plan.phases == make_plan("full", 3, 4, 1e-2).phases
    assert remarks(plan) == ["Adds 1 times the loss replay to the task's own."]
    assert make_plan(partial(STRATEGIES["replay"], alpha=0.5), 3, 4, 1e-2).losses == (("replay", 0.5),)


def test_a_rate_is_found_with_the_replayed_items_too():
    items, y = make_data("text", 45)
    others = make_data("text", 20, seed=5)[0]
    model = Transfer("tiny:text", "replay", epochs=1, lr="auto").fit(items, y, others=others)
    assert 0 < model.lr_ < 10 and model.plan_.losses == (("replay", 1.0),) and len(model.history_) == 1
