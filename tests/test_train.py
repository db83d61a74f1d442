"""The training loop: plays any plan, repeats itself, keeps the best, and computes frozen stages once."""

import copy
import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional

from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.features import States, extract
from graft.records import Epoch, Phase, Plan, Recipe
from graft.strategies import STRATEGIES, make_plan
from graft.train import decode, predict_outputs, tensorboard_writer, train
from graft.train.feed import Feed
from graft.train.tasks import class_weights

RATE = 1e-2
# What a network has nothing for.
REFUSED = {("stochnorm", "text"), ("lora_attention", "image"), ("lora_attention", "text"), ("lora_convolutions", "text")}
RECIPE = {field.name for field in fields(Recipe)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def make_data(kind, n=45, seed=0):
    """n items of 3 classes that are easy to tell apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    if kind == "image":
        return [np.clip(rng.normal(60 + 60 * label, 30, (32, 32, 3)), 0, 255).astype(np.uint8) for label in y], y
    return [" ".join(rng.choice([f"w{label}{i}" for i in range(8)], rng.integers(1, 9))) for label in y], y


def make_head(outputs=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(32, outputs)


def play(kind, plan, *, backbone=None, head=None, data=None, task="classification", **options):
    """Events, backbone and head of one run; a name is made a plan of 4 epochs. options: of the recipe, or of `train`."""
    backbone, head = backbone or load(kind), head or make_head()
    items, y = data or make_data(kind)
    plan = make_plan(plan, backbone.depth, 4, RATE) if isinstance(plan, str) else plan
    recipe = Recipe(**{name: options.pop(name) for name in RECIPE & set(options)})
    return list(train(backbone, head, plan, items, y, task=task, recipe=recipe, **options)), backbone, head


def weights(*modules):
    return {f"{i} {name}": tensor.clone() for i, module in enumerate(modules) for name, tensor in module.state_dict().items()}


def numbers(events):
    return [(event.phase, event.epoch, event.loss, event.score) for event in events]


def assert_same(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=0.0, msg=lambda text, name=name: f"{name}: {text}")


# tiny:text comes without a classifier, as sentence encoders do.
@pytest.mark.parametrize(
    ("kind", "strategy"), [(kind, name) for kind in ("image", "text") for name in STRATEGIES if (kind, name) != ("text", "cotuning")]
)
def test_every_strategy_plays_repeats_itself_and_leaves_the_backbone_whole(kind, strategy):
    untouched = load(kind)
    if (strategy, kind) in REFUSED:
        with pytest.raises(GraftError, match=strategy.partition("_")[0]):
            play(kind, strategy)
        return
    options = {"validation": make_data(kind, 12, seed=1), "others": make_data(kind, 9, seed=5)[0]}
    events, backbone, head = play(kind, strategy, **options)
    again, other_backbone, other_head = play(kind, strategy, **options)
    assert len(events) == sum(phase.epochs for phase in make_plan(strategy, untouched.depth, 4, 1e-3).phases)
    assert all(isinstance(event, Epoch) and math.isfinite(event.loss) and event.seconds > 0 for event in events)
    assert numbers(events) == numbers(again)
    assert_same(weights(backbone, head), weights(other_backbone, other_head))
    assert backbone.state_dict().keys() == untouched.state_dict().keys()
    assert not backbone.training and all(parameter.requires_grad for parameter in backbone.parameters())
    assert not events or events[-1].loss < events[0].loss


@pytest.mark.parametrize("strategy", ["full", "partial"])
def test_another_seed_gives_other_numbers(strategy):
    assert numbers(play("text", strategy, seed=0)[0]) != numbers(play("text", strategy, seed=1)[0])


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    play("image", "full")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_frozen_groups_do_not_move(kind):
    start = load(kind).state_dict()
    _, backbone, _ = play(kind, "partial", augment=False)
    moved = {name.split(".")[1] for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved == {"2"}


def test_a_frozen_head_does_not_move():
    head = make_head()
    before = weights(head)
    play("text", Plan((Phase(2, (RATE,) * 4, 0.0),)), head=head)
    assert_same(weights(head), before)


def test_scratch_starts_from_the_weights_of_its_seed():
    plan = Plan((), reset=True)
    _, backbone, _ = play("image", plan, seed=7)
    assert_same(weights(backbone), weights(load("image-7")))


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("strategy", ["linear_probe", "partial", "gradual_unfreeze", "lp_ft"])
def test_keeping_the_output_of_frozen_stages_changes_no_number(kind, strategy):
    """Truth: 1e-5, the difference that float32 rounding in other batches may make."""
    options = {"augment": False, "validation": make_data(kind, 13, seed=1)}
    kept, *one = play(kind, strategy, **options)
    computed, *other = play(kind, strategy, states=States(0), **options)
    np.testing.assert_allclose([event.loss for event in kept], [event.loss for event in computed], atol=1e-5)
    np.testing.assert_allclose([event.score for event in kept], [event.score for event in computed], atol=1e-5)
    assert_same(weights(*one), weights(*other), atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize(("limit_bytes", "runs"), [(2**30, 1), (0, 4)])
def test_frozen_stages_are_run_once_an_item_where_their_output_may_be_kept(kind, limit_bytes, runs):
    backbone, seen = load(kind), []

    def count(stage, inputs, output):
        seen.append(len(output["hidden"] if kind == "text" else output))

    backbone.stages[0].register_forward_hook(count)
    play(kind, "partial", backbone=backbone, augment=False, states=States(limit_bytes))
    assert sum(seen) == 45 * runs


def test_stages_that_work_in_place_do_not_spoil_what_is_kept():
    class InPlace(nn.Module):
        def __init__(self, stage):
            super().__init__()
            self.stage = stage

        def forward(self, state):
            if isinstance(state, dict):
                return self.stage({**state, "hidden": state["hidden"].mul_(2.0)})
            return self.stage(state.mul_(2.0))

    for kind in ("image", "text"):
        events = {}
        for limit_bytes in (0, 2**30):
            backbone = load(kind)
            backbone.stages[2] = InPlace(backbone.stages[2])
            events[limit_bytes], *_ = play(kind, "partial", backbone=backbone, augment=False, states=States(limit_bytes))
        np.testing.assert_allclose([e.loss for e in events[0]], [e.loss for e in events[2**30]], atol=1e-5)


@pytest.mark.parametrize("anchor", [0.0, 0.3])
def test_the_loop_equals_one_written_out_with_the_loss_of_its_paper(anchor):
    """Truth: AdamW on cross-entropy + alpha / 2 * |w - w_start|^2 (Li et al. 2018), all items in one batch.

    A head that starts at zero and one batch a step leave nothing to chance. 1e-5: rounding in another order of items.
    """
    items, y = make_data("text")
    backbone, head = load("text"), make_head()
    plan = Plan((Phase(5, (RATE,) * 4, RATE, anchor),))
    reference, reference_head = load("text"), make_head()
    start = [parameter.detach().clone() for parameter in reference.parameters()]
    body, top = list(reference.parameters()), list(reference_head.parameters())
    groups = [
        {"params": [p for p in part if (p.ndim > 1) == matrices], "weight_decay": 0.01 * (matrices and not (part is body and anchor))}
        for part in (body, top)
        for matrices in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    losses = []
    for step in range(5):
        # One warm-up step at the full rate, then the cosine over the other four.
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1.0 if step == 0 else 0.5 * (1 + math.cos(math.pi * (step - 1) / 4)))
        fit = functional.cross_entropy(reference_head(reference(reference.prepare(items))), torch.from_numpy(y))
        losses.append(fit.item())
        pull = sum(((parameter - first) ** 2).sum() for parameter, first in zip(body, start, strict=True))
        optimiser.zero_grad()
        (fit + anchor / 2 * pull).backward()
        optimiser.step()
    events, *_ = play("text", plan, backbone=backbone, head=head, batch_size=45)
    np.testing.assert_allclose([event.loss for event in events], losses, atol=1e-5)
    assert_same(weights(backbone, head), weights(reference, reference_head), atol=1e-5)


def test_a_stronger_anchor_keeps_the_weights_nearer_to_where_they_started():
    start = weights(load("text"))

    def distance(anchor):
        _, backbone, _ = play("text", Plan((Phase(10, (RATE,) * 4, RATE, anchor),)))
        return sum(((tensor - start[name]) ** 2).sum().item() for name, tensor in weights(backbone).items())

    assert distance(10.0) < distance(0.1) < distance(0.0)


def test_the_best_weights_are_restored():
    validation = make_data("text", 12, seed=1)
    best = iter([0.1, 0.5, 0.9, 0.3, 0.2])
    snapshots = []
    backbone, head = load("text"), make_head()
    for _ in train(
        backbone,
        head,
        make_plan("full", 4, 4, RATE),
        *make_data("text"),
        task="classification",
        validation=validation,
        metric=lambda y, outputs: next(best),
    ):
        snapshots.append(weights(backbone, head))
    assert_same(weights(backbone, head), snapshots[1])


def test_weights_that_never_get_better_stay_where_they_started():
    backbone, head = load("text"), make_head()
    before = weights(backbone, head)
    worse = iter(range(0, -10, -1))
    play("text", "lp_ft", backbone=backbone, head=head, validation=make_data("text", 9), metric=lambda y, outputs: next(worse))
    assert_same(weights(backbone, head), before)


def test_each_phase_starts_from_the_best_weights_so_far():
    scores = iter([0.0, 0.9, 0.5, 0.1, 0.1])
    states, backbone, head = [], load("text"), make_head()

    def metric(y, outputs):
        states.append(weights(backbone, head))
        return next(scores)

    plan = Plan((Phase(2, (0.0,) * 4, RATE), Phase(1, (0.0,) * 4, 1e-12)))
    play("text", plan, backbone=backbone, head=head, validation=make_data("text", 9), metric=metric)
    # The second phase hardly moves, so its scored weights are those it began with: the first epoch's.
    assert_same(states[3], states[1], atol=1e-9)


def test_patience_ends_a_phase_and_the_next_one_begins():
    scores = iter([0.5, 0.4, 0.3, 0.6, 0.2, 0.1])
    plan = Plan((Phase(9, (0.0,) * 4, RATE), Phase(9, (RATE,) * 4, RATE)))
    events, *_ = play("text", plan, validation=make_data("text", 9), metric=lambda y, outputs: next(scores), patience=2)
    assert [(event.phase, event.epoch, event.score) for event in events] == [
        (0, 0, 0.4),
        (0, 1, 0.3),
        (1, 0, 0.6),
        (1, 1, 0.2),
        (1, 2, 0.1),
    ]


def test_of_equal_scores_the_lower_loss_is_better():
    """A few held-out items score in steps so large that a network may learn for epochs on one of them."""
    events, backbone, head = play("text", "full", validation=make_data("text", 12, seed=1), metric=lambda y, outputs: 0.5, patience=1)
    assert len(events) == 4
    start = load("text"), make_head()
    assert not torch.equal(weights(backbone, head)["1 weight"], weights(*start)["1 weight"])


@pytest.mark.parametrize(
    ("batch_norm", "plan", "follow"), [("moving", "full", False), ("batch", "full", True), ("moving", "scratch", True)]
)
def test_batch_normalisation_uses_the_statistics_that_are_asked_for(batch_norm, plan, follow):
    """Truth: the loss of a first batch whose network is in evaluation mode, or in training mode."""
    backbone, head, (items, y) = load("image"), make_head(), make_data("image")
    reference = load("image")
    if plan == "scratch":
        reference.reset(0)
    reference.train(follow)
    order = np.random.default_rng([0, 0, 0]).permutation(len(y))
    with torch.no_grad():
        logits = head(reference(reference.prepare([items[i] for i in order])))
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[order])).item()
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items() if "running" in name} if not follow else {}
    options = {"batch_norm": batch_norm, "batch_size": len(y), "augment": False, "precision": "fp32"}
    events, backbone, _ = play("image", plan, backbone=backbone, head=head, data=(items, y), **options)
    assert events[0].loss == pytest.approx(expected, abs=1e-5)
    for name, tensor in before.items():
        assert torch.equal(backbone.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_default_score_is_the_negative_loss_of_what_the_model_says(kind):
    validation = make_data(kind, 12, seed=1)
    events, backbone, head = play(kind, "full", validation=validation)
    outputs = predict_outputs(backbone, head, validation[0], "classification")
    assert -np.log(outputs[np.arange(12), validation[1]]).mean() == pytest.approx(-max(event.score for event in events), abs=1e-5)


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_closing_early_leaves_the_best_weights_and_a_whole_backbone(strategy):
    scores = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    backbone, head = load("text"), make_head()
    plan = make_plan(strategy, 4, 4, RATE)
    data, validation = make_data("text"), make_data("text", 9)
    run = train(backbone, head, plan, *data, task="classification", validation=validation, metric=lambda y, outputs: next(scores))
    next(run)
    after_first = None if strategy == "lora" else weights(backbone, head)
    next(run)
    run.close()
    assert backbone.state_dict().keys() == load("text").state_dict().keys()
    assert not backbone.training
    if after_first:
        assert_same(weights(backbone, head), after_first)


def test_an_interruption_inside_an_epoch_leaves_the_last_finished_epoch():
    backbone, head, finished = load("text"), make_head(), []

    def interrupt(step):
        if finished and step.done > 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for _ in train(backbone, head, make_plan("full", 4, 4, RATE), *make_data("text"), task="classification", progress=interrupt):
            finished.append(weights(backbone, head))
    assert len(finished) == 1
    assert_same(weights(backbone, head), finished[0])


@pytest.mark.parametrize("validated", [True, False])
def test_a_rate_that_diverges_is_named_and_finite_weights_are_kept(validated):
    backbone, head, events = load("image"), make_head(), []
    plan = Plan((Phase(2, (0.0,) * 4, RATE), Phase(5, (1e30,) * 4, 1e30)))
    options = {"validation": make_data("image", 9)} if validated else {}
    with pytest.raises(GraftError, match=r"tiny:image: the loss became nan in phase 2, epoch \d.*highest rate was 1e\+30: try a tenth"):
        for event in train(backbone, head, plan, *make_data("image"), task="classification", recipe=Recipe(batch_size=16), **options):
            events.append(event)
    assert math.isnan(events[-1].loss) and events[-1].score is None
    assert all(tensor.isfinite().all() for tensor in weights(backbone, head).values())


@pytest.mark.parametrize(("augment", "viewed"), [(True, {1}), (False, set())])
def test_images_are_seen_in_random_views_only_where_a_group_learns(augment, viewed):
    backbone, phase, seen = load("image"), [0], set()
    prepare = backbone._prepare

    def spy(items, rng):
        if rng is not None:
            seen.add(phase[0])
        return prepare(items, rng)

    backbone._prepare = spy
    plan, recipe = make_plan("lp_ft", 4, 2, RATE), Recipe(augment=augment)
    for event in train(backbone, make_head(), plan, *make_data("image"), task="classification", recipe=recipe):
        phase[0] = event.phase + 1
    assert seen == viewed


def test_a_last_batch_of_one_item_does_not_stop_batch_normalisation():
    head = nn.Sequential(nn.BatchNorm1d(32), make_head())
    events, *_ = play("image", "full", head=head, data=make_data("image", 33), batch_size=16, batch_norm="batch")
    assert len(events) == 4


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_every_item_is_in_exactly_one_batch(kind, batch_size):
    backbone, (items, _) = load(kind), make_data(kind, 10)
    fed = Feed(backbone, items, batch_size)
    for features in (None, extract(backbone, items)):
        fed.place(4, features=features)
        for rng in (None, np.random.default_rng(0), np.random.default_rng(1)):
            assert sorted(np.concatenate(fed.batches(rng))) == list(range(10))


def test_balanced_class_weights_are_scikit_learns():
    y = np.array([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(class_weights("classification", y, 3, "balanced", torch.device("cpu")), expected, rtol=1e-6)
    np.testing.assert_allclose(class_weights("classification", y, 4, "balanced", torch.device("cpu")), [*expected, 1.0], rtol=1e-6)


def test_class_weights_turn_predictions_to_the_class_that_weighs():
    items, _ = make_data("text")
    y = (np.arange(45) % 9 == 0).astype(int)

    def share(class_weight):
        _, backbone, head = play("text", "linear_probe", head=make_head(2), data=(items, y), class_weight=class_weight)
        return predict_outputs(backbone, head, items, "classification")[:, 1].mean()

    assert share(np.array([1.0, 50.0])) > share("balanced") > share(None)


def test_several_labels_an_item_are_learned():
    items, y = make_data("text", 60)
    target = np.stack([y == 0, y != 2], 1).astype(float)
    plan = Plan((Phase(40, (RATE,) * 4, RATE),))
    for class_weight in (None, "balanced"):
        _, backbone, head = play("text", plan, head=make_head(2), data=(items, target), task="multilabel", class_weight=class_weight)
        outputs = predict_outputs(backbone, head, items, "multilabel")
        assert outputs.shape == (60, 2) and ((outputs > 0.5) == target).mean() > 0.95


def test_a_value_is_learned():
    items, y = make_data("image", 60)
    target = (y - y.mean()) / y.std()
    plan = Plan((Phase(10, (RATE,) * 4, RATE),))
    _, backbone, head = play("image", plan, head=make_head(1), data=(items, target), task="regression")
    outputs = predict_outputs(backbone, head, items, "regression")
    assert outputs.shape == (60,) and np.mean((outputs - target) ** 2) < 0.2


def test_outputs_are_those_of_backbone_and_head_in_the_order_of_the_items():
    items, _ = make_data("text")
    backbone, head = load("text"), make_head()
    with torch.no_grad():
        expected = head(torch.from_numpy(extract(backbone, items))).softmax(1).numpy()
    outputs = predict_outputs(backbone, head, items, "classification", batch_size=7)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    np.testing.assert_allclose(outputs.sum(1), 1.0, atol=1e-12)


def test_logits_are_decoded_by_task():
    """Truth: softmax of (0, ln 3) is (1/4, 3/4); its sigmoid is (1/2, 3/4)."""
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    np.testing.assert_allclose(decode(logits, "classification"), [[0.25, 0.75]])
    np.testing.assert_allclose(decode(logits, "multilabel"), [[0.5, 0.75]])
    np.testing.assert_allclose(decode(torch.tensor([[2.5]]), "regression"), [2.5])


def test_progress_counts_the_items_of_an_epoch():
    steps = []
    play("text", "full", progress=steps.append)
    assert [step.done for step in steps[1::2]] == [45] * 4 and {step.total for step in steps} == {45}
    assert all(0 < step.done < 45 for step in steps[::2])
    assert {step.what for step in steps} == {"training tiny:text"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "classify"}, r"task is 'classify', expected one of .*Did you mean 'classification'\?"),
        ({"data": ([], np.array([], int))}, "0 training items, expected at least 1"),
        ({"data": (["a", "b"], np.array([0]))}, "2 training items and 1 targets, expected one target an item"),
        ({"data": (["a", "b"], np.array([0, 3]))}, "targets run from 0 to 3, expected 0 to 2 as the head has 3 outputs"),
        ({"validation": (["a"], np.array([-1]))}, "validation targets run from -1 to -1"),
        ({"task": "multilabel"}, r"targets have shape \(45,\), expected \(45, 3\)"),
        ({"task": "regression"}, "3 head outputs and 1-d training targets, expected 1 output"),
        ({"task": "regression", "head": nn.Linear(32, 1), "class_weight": "balanced"}, "class_weight with a regression"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"patience": 2}, "patience is 2 without a validation part"),
        ({"precision": "fp16"}, r"precision is 'fp16', expected one of auto, fp32, bf16\. Did you mean"),
        ({"class_weight": "equal"}, "class_weight is 'equal', expected 'balanced'"),
        ({"class_weight": np.ones(2)}, r"class_weight has shape \(2,\), expected \(3,\)"),
        ({"batch_size": -1, "patience": 0}, r"(?s)2 problems:.*batch_size is -1.*patience is 0"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(GraftError, match=message):
        play("text", "full", **options)


def test_a_plan_for_another_depth_is_refused_before_anything_is_trained():
    backbone, head = load("text"), make_head()
    before = copy.deepcopy(weights(backbone, head))
    with pytest.raises(GraftError, match="train tiny:text, phase 1: 3 rates, expected 4"):
        train(backbone, head, make_plan("full", 3, 4, RATE), *make_data("text"), task="classification")
    assert_same(weights(backbone, head), before)


def test_tensorboard_shows_what_the_loop_yields(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write = tensorboard_writer(tmp_path)
    events, *_ = play("text", "full", validation=make_data("text", 9))
    for event in events:
        write(event)
    read = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [scalar.value for scalar in read.Scalars("loss")] == pytest.approx([event.loss for event in events], rel=1e-6)
    assert [scalar.step for scalar in read.Scalars("validation score")] == [1, 2, 3, 4]
