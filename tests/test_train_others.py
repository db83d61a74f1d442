"""The loop with another domain: what comes beside which batch, in which view, how often, and that it is the same however it is played."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import assert_same, load, make_data, make_head, numbers, play, weights
from torch import nn

from graft.backbones.rows import load as rows
from graft.errors import Diverged, GraftError
from graft.features import States, extract
from graft.losses import LOSSES, Added
from graft.records import Phase, Plan, Recipe
from graft.strategies import make_plan, remarks
from graft.train import find_rate, train
from graft.train.feed import Turn
from graft.train.others import Others, stronger

RATES = (1e-3,) * 4
PHASE = Phase(2, RATES, 1e-2)
ENTROPY = Plan((PHASE,), losses=(("entropy_minimisation", 0.5),))
ALONE = replace(ENTROPY, phases=(Phase(2, RATES, 0.0),), supervised=False)


@pytest.fixture
def spy():
    """A registered loss that keeps what it sees; its value is the mean of the others' logits, squared."""

    class Spy(Added):
        needs_others = alone = two_views = True

        def __init__(self, start):
            super().__init__(start)
            self.started.append(start)

        def begin_epoch(self, look):
            self.looks.append([part.clone() for part in look()])
            assert look() is look()

        def forward(self, seen):
            self.seen.append(seen)
            return seen.other.logits.square().mean()

    Spy.seen, Spy.looks, Spy.started = [], [], []
    LOSSES.add("a test", name="spy")(Spy)
    yield Spy
    del LOSSES._members["spy"]


def shifted(kind, n=40, seed=5):
    return make_data(kind, n, seed)[0]


def spying(phases=(PHASE,), supervised=True):
    return Plan(phases, losses=(("spy", 1.0),), supervised=supervised)


def played(kind, plan, others, **options):
    options = {"precision": "fp32", "batch_size": 8, **options}
    return play(kind, plan, others=others, data=options.pop("data", None) or make_data(kind, 27), **options)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_each_batch_comes_with_as_many_others_in_a_pass_without_end(kind, spy):
    others = shifted(kind, 10)
    played(kind, spying((Phase(3, RATES, 1e-2),)), others)
    assert all(len(seen.other.places) == len(seen.target) == len(seen.other.logits) == len(seen.other.again_logits) for seen in spy.seen)
    places = np.concatenate([seen.other.places.numpy() for seen in spy.seen])
    # 3 epochs of 27 items: eight passes over 10 and one place more; no other is more than one pass ahead, wherever a pass ends.
    assert len(places) == 81 and set(np.bincount(places, minlength=10)) <= {8, 9}
    for epoch in range(3):
        assert np.ptp(np.bincount(places[27 * epoch :][:27], minlength=10)) <= 2
    assert [seen.progress for seen in spy.seen] == pytest.approx(np.arange(12) / 12)


def test_others_are_drawn_anew_in_each_phase_and_seed(spy):
    def drawn(**options):
        spy.seen.clear()
        played("text", spying((PHASE, PHASE)), shifted("text", 60), **options)
        return [tuple(seen.other.places.tolist()) for seen in spy.seen]

    once = drawn()
    assert once == drawn() != drawn(seed=1)
    assert set(once[:4]) != set(once[8:12])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_others_run_through_the_same_network_as_the_labelled(kind, spy):
    """Truth: of a head that alone learns, what the loss saw of others is the head on their extracted features."""
    others = shifted(kind, 12)
    head = make_head()
    start = copy.deepcopy(head)
    _, backbone, _ = played(kind, spying((Phase(1, (0.0,) * 4, 1e-2),)), others, head=head, batch_size=27)
    (seen,) = spy.seen
    features = torch.from_numpy(extract(backbone, others))[seen.other.places]
    torch.testing.assert_close(seen.other.features, features)
    torch.testing.assert_close(seen.other.logits, start(features))
    assert spy.started[0].others is others


def test_the_second_view_is_another_one_even_where_nothing_but_the_head_learns(spy):
    for kind in ("image", "text"):
        for rates in (RATES, (0.0, 0.0, 1e-3, 1e-3), (0.0,) * 4):
            spy.seen.clear()
            played(kind, spying((Phase(1, rates, 1e-2),)), shifted(kind), augment=False)
            differ = [(seen.other.features - seen.other.again_features).abs().amax(1) > 1e-6 for seen in spy.seen]
            # A text of one word has no other view.
            assert torch.cat(differ).float().mean() > (0.9 if kind == "image" else 0.3), (kind, rates)


def test_a_stronger_view_keeps_what_the_recipe_asks_for():
    assert stronger(Recipe(augment=False), "image") == Recipe(rand_augment=10.0)
    assert stronger(Recipe(word_deletion=0.4, word_swap=0.1), "text") == Recipe(word_deletion=0.4, word_swap=0.1, token_dropout=0.3)


def test_an_item_and_the_one_beside_it_are_not_changed_alike():
    """The same picture in the batch, beside it and again: three draws."""
    (picture,), _ = make_data("image", 1)
    others = Others(load("image"), [picture] * 4, 4, Recipe(), two_views=True, looked=False)
    turn = Turn(0, 0, 0, 0)
    readings = others.readings(np.arange(4), turn, first=True)
    assert len({reading.turn.seed for reading in readings} | {turn.seed}) == 3
    assert [reading.feed for reading in readings] == [others.feed, others.again]


@pytest.mark.parametrize("rates", [RATES, (0.0, 0.0, 1e-3, 1e-3), (0.0,) * 4])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_loss_may_look_at_all_others_before_each_epoch(kind, rates, spy):
    """Truth: the first look is at the starting network's features and logits, in the order of the others."""
    others, head = shifted(kind, 21), make_head()
    start = copy.deepcopy(head)
    played(kind, spying((Phase(2, rates, 1e-2),)), others, head=head)
    features, logits = spy.looks[0]
    expected = torch.from_numpy(extract(load(kind), others))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, start(expected), atol=1e-5, rtol=1e-4)
    assert len(spy.looks) == 2 and not torch.equal(spy.looks[1][1], logits)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_frozen_stages_run_once_for_each_other(kind, spy):
    runs, backbone = [], load(kind)
    backbone.stages[0].register_forward_hook(lambda stage, inputs, output: runs.append(1))
    items, _ = make_data(kind, 27)
    others = shifted(kind, 27)
    plan = spying((Phase(6, (0.0, 1e-3, 1e-3, 1e-3), 1e-2),))
    played(kind, plan, others, backbone=backbone, data=(items, np.arange(27) % 3), augment=False)
    # 4 batches each of the labelled, the others as judged (which serve training too), and of two second views; with leeway for
    # padding asked of the tokenizer and batches that are partly there.
    assert len(runs) <= 4 + 4 + 2 * 8


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("rates", [(0.0, 0.0, 1e-3, 1e-3), RATES])
def test_kept_states_of_others_change_nothing(kind, rates):
    plan = Plan((Phase(3, rates, 1e-2),), losses=(("shot", 1.0),))
    kept, *one = played(kind, plan, shifted(kind), augment=False)
    computed, *other = played(kind, plan, shifted(kind), augment=False, states=States(0))
    np.testing.assert_allclose([event.loss for event in kept], [event.loss for event in computed], atol=1e-5)
    # Adam turns a gradient's last digit into a step where the gradient is nearly nought.
    assert_same(weights(*one), weights(*other), atol=2e-4)


def test_others_that_no_loss_asks_for_are_left_unread():
    items, y = make_data("text", 27)
    plain, *one = played("text", "full", (), data=(items, y))
    given, *other = played("text", "full", [object()], data=(items, y))
    assert numbers(plain) == numbers(given)
    assert_same(weights(*one), weights(*other))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_plan_that_is_not_supervised_reads_others_alone(kind, spy):
    others = shifted(kind, 19)
    nothing = ([], np.empty(0, int))
    events, _, head = played(kind, spying((Phase(2, RATES, 0.0),), supervised=False), others, data=nothing)
    for epoch in (spy.seen[:3], spy.seen[3:]):
        assert sorted(torch.cat([seen.other.places for seen in epoch]).tolist()) == list(range(19))
    for seen in spy.seen:
        assert seen.features is seen.other.features and seen.logits is seen.other.logits and seen.states is seen.other.states
        assert len(seen.target) == 0 and seen.other.again_features is not None
    assert_same(weights(head), weights(make_head()))
    # The labels are those of the source, and no part of the loss.
    labelled, *_ = played(kind, spying((Phase(2, RATES, 0.0),), supervised=False), others, data=make_data(kind, 27))
    assert numbers(labelled) == numbers(events)
    assert len(spy.started[-1].items) == 27 and len(spy.started[-1].target) == 27


def test_the_loss_of_an_epoch_is_the_tasks_and_the_others():
    """Truth: one batch, one step: cross-entropy plus half the mean entropy."""
    others, (items, y) = shifted("text", 5), make_data("text", 6)
    backbone, head = load("text"), make_head()
    with torch.no_grad():
        logits = head(torch.from_numpy(extract(backbone, items)))
        shares = head(torch.from_numpy(extract(backbone, (others * 2)[:6]))).softmax(1)
    entropies = -(shares * shares.log()).sum(1)
    task = nn.functional.cross_entropy(logits, torch.from_numpy(y)).item()
    loss = played("text", replace(ENTROPY, phases=(Phase(1, RATES, 1e-2),)), others, data=(items, y), head=head)[0][0].loss
    # Six places in a pass of five: one other comes twice.
    assert any(loss == pytest.approx(task + 0.5 * (entropies[:5].sum() + twice).item() / 6, abs=1e-5) for twice in entropies[:5])
    (event,), *_ = played("text", replace(ALONE, phases=(Phase(1, RATES, 0.0),)), others, data=([], y[:0]))
    assert event.loss == pytest.approx(0.5 * entropies[:5].mean().item(), abs=1e-5)


def test_batches_of_one_step_learn_as_one_large_batch_without_labels():
    plan = replace(ALONE, phases=(Phase(1, (0.0, 1e-3, 1e-3, 1e-3), 0.0),))
    (one,), *large = played("text", plan, shifted("text", 16), data=([], np.empty(0, int)), batch_size=16)
    (other,), *small = played("text", plan, shifted("text", 16), data=([], np.empty(0, int)), batch_size=8, accumulate=2)
    assert one.loss == pytest.approx(other.loss, abs=1e-5)
    assert_same(weights(*large), weights(*small), atol=2e-4)


def test_only_norms_learn():
    """Truth: Wang et al. 2021, section 3.2.1: the affine parameters of normalisation, and its statistics, are all that changes."""
    nothing = ([], np.empty(0, int))
    _, backbone, head = played("image", replace(ALONE, only="norms"), shifted("image"), data=nothing, batch_norm="batch")
    start = load("image").state_dict()
    moved = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, start[name])}
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert moved == {f"stages.{stage}.1.{part}" for stage in range(3) for part in parts}
    assert_same(weights(head), weights(make_head()))
    with pytest.raises(GraftError, match=r"only 'norms': the layer groups that learn have no normalisation .* Use only 'biases' or 'all'"):
        played("text", replace(ALONE, only="norms"), shifted("text"), data=nothing)


@pytest.mark.parametrize(
    ("plan", "others", "recipe", "message"),
    [
        (ENTROPY, [], {}, r"0 others for the loss entropy_minimisation, expected unlabelled items .* Pass others=\[...\], or take a plan"),
        (ALONE, [], {}, r"0 others for the loss entropy_minimisation and a plan that is not supervised, expected"),
        (
            replace(ALONE, losses=(("bss", 1.0),)),
            ["a"],
            {},
            r"loss bss in a plan that is not supervised, expected one that can .*: adda, .*consist",
        ),
        (ALONE, ["a"], {"class_weight": "balanced"}, r"class_weight is 'balanced' with a plan that is not supervised, expected none"),
        (ALONE, ["a"], {"smoothing": 0.1}, r"smoothing is 0.1 with a plan that is not supervised, expected none"),
        (ALONE, ["a"], {"sampler": "balanced"}, r"sampler is 'balanced' with a plan that is not supervised, expected 'shuffled'"),
    ],
)
def test_what_cannot_be_had_is_refused_at_once(plan, others, recipe, message):
    items, y = make_data("text", 6)
    with pytest.raises(GraftError, match=message):
        train(load("text"), make_head(), plan, items, y, task="classification", others=others, recipe=Recipe(**recipe))


def test_rows_have_no_second_view_and_labels_are_missed_where_they_are_needed():
    plan = Plan((Phase(1, (0.0,), 1e-2),), losses=(("consistency", 1.0),))
    row = [np.zeros(32, np.float32)] * 4
    with pytest.raises(GraftError, match=r"loss consistency with rows:32, expected images or texts: rows have no second view"):
        train(rows("32"), make_head(), plan, row, np.arange(4) % 3, task="classification", others=row)
    with pytest.raises(GraftError, match=r"0 training items, expected at least 1"):
        train(load("text"), make_head(), ENTROPY, [], np.empty(0, int), task="classification", others=["a"])


def test_the_rate_is_found_with_others_too():
    items, y = make_data("text", 27)
    for plan in (ENTROPY, ALONE):
        rate, (rates, losses) = find_rate(load("text"), make_head(), plan, items, y, task="classification", others=shifted("text"))
        assert rates.min() <= rate <= rates.max() and np.isfinite(losses).all()


def test_augmentation_is_measured_with_others_too():
    events, *_ = played("image", ENTROPY, shifted("image"), validation=make_data("image", 12, seed=1), augment="auto")
    assert "augmentation: score" in events[0].text


def test_others_that_are_no_numbers_are_a_loss_that_is_none():
    others = shifted("image", 20)
    backbone = load("image")
    backbone.stages[3].register_forward_hook(lambda stage, inputs, output: output * (math.nan if len(output) == 5 else 1.0))
    data = (make_data("image", 27)[0], np.arange(27) % 3)
    with pytest.raises(Diverged, match="the loss became nan in phase 1, epoch 1"):
        played("image", replace(ALONE, losses=(("entropy_minimisation", 1.0),)), others, backbone=backbone, data=data, batch_size=5)


def test_the_plan_says_that_no_label_is_read():
    assert remarks(replace(ALONE, only="norms")) == [
        "Of the layer groups that learn only the scales and shifts of normalisation do.",
        "Reads no label: learns on unlabelled items of the other domain alone.",
        "Minimises 0.5 times the loss entropy_minimisation.",
    ]
    assert "Adds 0.5 times the loss entropy_minimisation to the task's own." in remarks(ENTROPY)
    assert make_plan(lambda depth, epochs, lr: ALONE, 4, 2, 1e-2) is ALONE
