"""How a plan is played: schedules, steps of several batches, clipping, averaging, smoothing, dropout, the balanced sampler."""

import math

import numpy as np
import pytest
import torch
from test_train import RATE, assert_same, load, make_data, make_head, play, weights
from torch import nn
from torch.nn import functional

from graft.records import Phase, Plan, Recipe
from graft.train.loop import Run
from graft.train.pace import Average, scheduler
from graft.train.tasks import balanced, mass, task_loss

FULL = Plan((Phase(3, (RATE,) * 4, RATE),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def one_weight(rate=0.3):
    return torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=rate)


def rates(name, steps, optimiser=None):
    optimiser = optimiser or one_weight()
    moved, seen = scheduler(name, optimiser, steps), []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        moved.step()
    return seen


def test_a_constant_schedule_leaves_the_rates_alone():
    assert rates("constant", 7) == [0.3] * 7


def test_a_cosine_rises_over_a_tenth_and_falls_along_a_half_wave():
    """Truth: two warm-up steps of twenty, then (1 + cos) / 2 of the share of the rest that is done."""
    expected = [0.15, 0.3, *(0.15 * (1 + math.cos(math.pi * step / 18)) for step in range(18))]
    np.testing.assert_allclose(rates("cosine", 20), expected)


@pytest.mark.parametrize("steps", [4, 9, 50])
def test_one_cycle_is_that_of_torch_with_its_momentum(steps):
    optimiser, other = one_weight(), one_weight()
    reference = torch.optim.lr_scheduler.OneCycleLR(other, 0.3, total_steps=steps)
    moved = scheduler("one_cycle", optimiser, steps)
    for _ in range(steps - 1):
        for one in (optimiser, other):
            one.step()
        for one in (moved, reference):
            one.step()
        assert optimiser.param_groups[0]["lr"] == other.param_groups[0]["lr"]
        assert optimiser.param_groups[0]["betas"] == other.param_groups[0]["betas"]
    assert rates("one_cycle", steps)[-1] == pytest.approx(0.3 / 25e4)


def test_a_cycle_of_one_step_learns():
    assert rates("one_cycle", 1)[0] > 0.3 / 25


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
def test_the_loop_follows_the_schedule_to_the_end_of_each_phase(schedule, monkeypatch):
    """A schedule that is asked for more or fewer steps than a phase has ends elsewhere, or raises."""
    expected = rates(schedule, 9, one_weight(RATE))
    seen = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **options):
        seen.append(self.param_groups[-1]["lr"])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    play("text", FULL, schedule=schedule, batch_size=10, accumulate=2)
    # 45 items: five batches of ten, the last of five; three steps an epoch.
    np.testing.assert_allclose(seen, expected)


def without_chance():
    """The same start, all items alike in every order."""
    return {"backbone": load("text"), "head": make_head(), "data": make_data("text")}


@pytest.mark.parametrize("class_weight", [None, (1.0, 2.0, 5.0)])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(15, 3), (20, 3), (7, 9)])
def test_a_step_of_several_batches_equals_one_large_batch(batch_size, accumulate, class_weight):
    """Truth: 1e-6 in fp32, rounding in another order; the text network has no batch normalisation. 20: batches of unlike size."""
    options = {"class_weight": class_weight, "precision": "fp32", "clip_norm": 0.1}
    small, *one = play("text", FULL, **without_chance(), batch_size=batch_size, accumulate=accumulate, **options)
    large, *other = play("text", FULL, **without_chance(), batch_size=45, **options)
    assert_same(weights(*one), weights(*other), atol=1e-6)
    if class_weight is None:
        np.testing.assert_allclose([event.loss for event in small], [event.loss for event in large], atol=1e-6)


def test_the_gradient_is_clipped_as_torch_does_over_what_learns(monkeypatch):
    """Truth: g * min(1, c / |g|), |g| over all weights that learn in this phase, though others learned in an earlier one."""
    gradients = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **options):
        gradients.append(torch.cat([p.grad.flatten().clone() for group in self.param_groups for p in group["params"]]))
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    # The second phase hardly moves, so that both runs have the same gradients; its group leaves the first one's out.
    plan = Plan((Phase(1, (1e-12,) * 4, 1e-12), Phase(1, (0.0, 0.0, 1e-12, 1e-12), 1e-12)))
    play("text", plan, batch_size=45)
    free, gradients[:] = list(gradients), []
    # Just below the least norm, so that what an earlier phase left behind would be felt.
    most = 0.9 * min(gradient.norm().item() for gradient in free)
    play("text", plan, batch_size=45, clip_norm=most)
    assert len(free) == len(gradients) == 2
    for gradient, clipped in zip(free, gradients, strict=True):
        torch.testing.assert_close(clipped, gradient * most / gradient.norm(), atol=1e-6, rtol=1e-4)


def test_the_average_is_the_one_computed_by_hand():
    """Truth: a <- d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)), for weights and running means; counters are copied."""
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average, decay = Average(module, 0.5), 0.5
    expected = {name: tensor.double().clone() for name, tensor in module.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            module(torch.randn(8, 2, generator=torch.Generator().manual_seed(step)))
            module[0].weight.add_(1.0)
        average.update()
        d = min(decay, (1 + step) / (10 + step))
        for name, tensor in module.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * tensor if tensor.is_floating_point() else tensor.double()
    raw = weights(module)
    with average.in_place():
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor.double(), expected[name], atol=1e-6, rtol=1e-6)
        assert module[1].num_batches_tracked == 12
    assert_same(weights(module), raw)


def test_the_average_is_what_is_judged_and_kept_while_the_raw_weights_go_on():
    """Truth: the raw weights of a run without averaging, averaged by hand."""
    raw = []
    step = torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        backbone, head = load("image"), make_head()

        def spy(self, *args, **options):
            out = step(self, *args, **options)
            raw.append(weights(backbone, head))
            return out

        patch.setattr(torch.optim.AdamW, "step", spy)
        start = weights(backbone, head)
        play("image", FULL, backbone=backbone, head=head, augment=False)
    expected = start
    for t, state in enumerate(raw):
        d = min(0.9, (1 + t) / (10 + t))
        expected = {k: d * expected[k] + (1 - d) * v if v.is_floating_point() else v for k, v in state.items()}
    judged = []
    backbone, head = load("image"), make_head()

    def metric(y, outputs):
        judged.append(weights(backbone, head))
        return len(judged)

    play("image", FULL, backbone=backbone, head=head, augment=False, averaging=0.9, validation=make_data("image", 9), metric=metric)
    assert_same(weights(backbone, head), expected, atol=1e-5)
    assert_same(judged[-1], expected, atol=1e-5)


def test_smoothed_losses_are_those_of_their_equation():
    """Truth: Szegedy et al. 2016, section 7: cross-entropy with (1 - e) * one-hot + e / K."""
    logits, target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    soft = 0.9 * functional.one_hot(target, 4) + 0.1 / 4
    expected = -(soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task_loss("classification", None, 0.1)(logits, target), expected)
    labels = (logits > 0.3).float()
    p, soft = logits.sigmoid(), 0.9 * labels + 0.05
    expected = -(soft * p.log() + (1 - soft) * (1 - p).log()).mean()
    torch.testing.assert_close(task_loss("multilabel", None, 0.1)(logits, labels), expected)


def test_validation_is_judged_without_smoothing_and_dropout():
    """The starting score of both is that of the same weights."""
    validation, scores = make_data("text", 12, seed=1), {}
    for smoothing, dropout in ((0.0, 0.0), (0.5, 0.5)):
        recipe = {"smoothing": smoothing, "dropout": dropout}
        events, *_ = play("text", Plan((Phase(1, (1e-12,) * 4, 1e-12),)), validation=validation, **recipe)
        scores[smoothing] = events[0].score, events[0].loss
    assert scores[0.0][0] == pytest.approx(scores[0.5][0], abs=1e-6)
    assert abs(scores[0.0][1] - scores[0.5][1]) > 1e-3


def test_dropout_hides_its_share_of_the_features_from_the_head_in_training_only():
    seen = []

    class Spy(nn.Linear):
        def forward(self, features):
            seen.append((self.training, features.detach()))
            return super().forward(features)

    play("text", FULL, head=Spy(32, 3), dropout=0.4, validation=make_data("text", 9))
    trained = torch.cat([features for training, features in seen if training])
    # 3 epochs of 45 items of 32 features: 0.4 within five standard errors.
    assert (trained == 0).float().mean().item() == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / trained.numel()))
    assert all((features != 0).all() for training, features in seen[1:] if not training)


def test_a_balanced_epoch_has_each_class_and_each_item_of_a_class_equally_often():
    """Truth: n / c of each class to one, and an item of a class at most once more than another."""
    target = torch.tensor([0] * 40 + [1] * 7 + [3] * 3)
    seen = np.zeros(50, int)
    for epoch in range(30):
        places = balanced(target, np.random.default_rng(epoch))
        counts, classes = np.bincount(places, minlength=50), np.bincount(target.numpy()[places], minlength=4)
        assert len(places) == 50 and sorted(classes) == [0, 16, 17, 17] and classes[2] == 0
        for label in (0, 1, 3):
            times = counts[target.numpy() == label]
            assert times.max() - times.min() <= 1
        seen += counts
    assert (seen > 0).all()
    assert not np.array_equal(balanced(target, np.random.default_rng(0)), balanced(target, np.random.default_rng(1)))


def test_the_balanced_sampler_is_what_the_loop_draws_its_batches_with():
    items, _ = make_data("text")
    y = (np.arange(45) % 9 == 0).astype(int)
    shares, fit = [], Run.fit

    def spy(self, one, ready, progress):
        shares.append((len(one.batch), y[one.batch].sum()))
        return fit(self, one, ready, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "fit", spy)
        play("text", FULL, head=make_head(2), data=(items, y), sampler="balanced")
    n, positive = np.sum(shares, 0)
    assert n == 135 and abs(positive / n - 0.5) < 0.02


def test_batches_weigh_by_what_their_loss_is_divided_by():
    target = torch.tensor([0, 0, 1])
    assert mass("classification", target, None) == 3
    assert mass("classification", target, torch.tensor([1.0, 4.0])) == 6
    assert mass("multilabel", torch.zeros(5, 2), torch.tensor([1.0, 4.0])) == 5


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize(
    "recipe",
    [
        {"schedule": "one_cycle", "clip_norm": 1.0},
        {"schedule": "constant", "averaging": 0.9, "accumulate": 2},
        {"sampler": "balanced", "smoothing": 0.1, "dropout": 0.2},
        {"mixup": 0.4},
    ],
)
@pytest.mark.parametrize("strategy", ["full", "partial", "lora"])
def test_every_recipe_learns_and_repeats_itself(kind, recipe, strategy):
    runs = [play(kind, strategy, batch_size=16, validation=make_data(kind, 12, seed=1), **recipe) for _ in range(2)]
    (one, *_), (other, *_) = runs
    assert [(event.loss, event.score) for event in one] == [(event.loss, event.score) for event in other]
    assert one[-1].score > one[0].score or one[-1].loss < one[0].loss
    assert_same(weights(*runs[0][1:]), weights(*runs[1][1:]))


@pytest.mark.parametrize(
    ("kind", "task", "recipe", "message"),
    [
        ("text", "classification", {"schedule": "cosin"}, r"schedule is 'cosin', expected one of cosine, .*Did you mean 'cosine'\?"),
        ("text", "classification", {"sampler": "balance"}, r"sampler is 'balance', .*Did you mean 'balanced'\?"),
        ("text", "classification", {"augment": "atuo"}, r"augment is 'atuo', expected True, False or 'auto'\. Did you mean 'auto'\?"),
        ("text", "classification", {"augment": "auto"}, "augment is 'auto' without a validation part"),
        ("text", "classification", {"accumulate": 0}, "accumulate is 0, expected at least 1"),
        ("text", "classification", {"clip_norm": 0.0}, "clip_norm is 0.0, expected a length above 0"),
        ("text", "classification", {"averaging": 1.0}, "averaging is 1.0, expected 0 .none. or more, and less than 1"),
        ("text", "classification", {"smoothing": -0.1}, "smoothing is -0.1"),
        ("text", "classification", {"dropout": 1.5}, "dropout is 1.5"),
        ("text", "classification", {"word_deletion": 1.0}, "word_deletion is 1.0"),
        ("text", "classification", {"word_swap": 1.0}, "word_swap is 1.0"),
        ("text", "classification", {"token_dropout": math.nan}, "token_dropout is nan"),
        ("text", "classification", {"mixup": -1.0}, "mixup is -1.0, expected a finite number"),
        ("image", "classification", {"cutmix": math.inf}, "cutmix is inf, expected a finite number"),
        ("image", "classification", {"rand_augment": 11}, r"rand_augment is 11, expected 0 \(none\) to 10"),
        ("text", "classification", {"rand_augment": 3}, "rand_augment is 3 for tiny:text, which reads texts, expected 0: it is for images"),
        ("image", "classification", {"word_swap": 0.1}, "word_swap is 0.1 for tiny:image, which reads images"),
        ("image", "classification", {"rand_augment": 3, "augment": False}, "rand_augment is 3 with augment=False"),
        ("text", "regression", {"sampler": "balanced"}, "sampler is 'balanced' with a regression task"),
        ("text", "regression", {"smoothing": 0.1}, "smoothing is 0.1 with a regression"),
        ("text", "classification", {"cutmix": 1.0}, "cutmix is 1.0 for texts, expected 0: it cuts images. Use mixup"),
        ("image", "classification", {"cutmix": 1.0, "plan": "lp_ft"}, "cutmix is 1.0 and phase 1 freezes the first layer group"),
        ("text", "classification", {"accumulate": 0, "smoothing": 2}, r"(?s)2 problems:.*accumulate is 0.*smoothing is 2"),
    ],
)
def test_what_does_not_fit_in_a_recipe_is_named(kind, task, recipe, message):
    options = dict(recipe)
    plan = options.pop("plan", "full")
    with pytest.raises(ValueError, match=message):
        play(kind, plan, head=make_head(1 if task == "regression" else 3), task=task, **options)


def test_a_recipe_asks_for_nothing_beyond_the_plain_loop():
    """The loop written out in test_train.py says the rest."""
    assert Recipe() == Recipe(32, None, None, True, None, "moving", "auto", "cosine", None, 1, 0.0, "shuffled")
    assert not any(vars(Recipe())[name] for name in ("smoothing", "dropout", "rand_augment", "word_deletion", "mixup", "cutmix"))
