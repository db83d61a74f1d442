"""The rate finder: its rules, its curve, and that it leaves all as it was."""

import math

import numpy as np
import pytest
import torch
from test_train import RATE, assert_same, load, make_data, make_head, play, weights
from torch import nn

from graft.errors import GraftError
from graft.records import Phase, Plan, Recipe
from graft.strategies import make_plan
from graft.train import find_rate, scaled
from graft.train.finder import HIGHEST, LOWEST, RULES, STEPS, steepest, valley


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def found(kind="text", plan="full", **options):
    backbone, head = options.pop("backbone", None) or load(kind), options.pop("head", None) or make_head()
    plan = make_plan(plan, backbone.depth, 4, RATE) if isinstance(plan, str) else plan
    items, y = options.pop("data", None) or make_data(kind)
    return find_rate(backbone, head, plan, items, y, task="classification", **options)


def published_valley(rates, losses):
    """fastai's `valley` as it is published, loop for loop."""
    n = len(losses)
    max_end = max_start = 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lds[i] < lds[j] + 1:
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return rates[max_start + int(sections) + int(sections / 2)]


@pytest.mark.parametrize("seed", range(40))
def test_the_valley_is_that_of_fastai(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(15, 90))
    rates, losses = np.geomspace(1e-6, 10, n), rng.normal(0, 0.2, n) + np.abs(np.linspace(-2, 1, n))
    assert valley(rates, losses) == published_valley(rates, losses)


def test_the_valley_lies_half_way_down_a_fall():
    """Truth: flat to 20, falling to 60, rising after: its middle third begins at 20 + 13 and is half spent at 20 + 13 + 6."""
    losses = np.concatenate([np.full(20, 5.0), np.linspace(5, 1, 41), np.linspace(1.1, 9, 20)])
    rates = np.geomspace(1e-6, 1, len(losses))
    assert np.argmin(np.abs(rates - valley(rates, losses))) in (38, 39)


def test_the_steepest_rate_is_where_the_loss_falls_most():
    """Truth: the slope of -tanh(log r) is least where log r is 0."""
    rates = np.geomspace(1e-3, 1e3, 201)
    assert steepest(rates, -np.tanh(np.log(rates))) == pytest.approx(1.0, rel=0.08)


@pytest.mark.parametrize(
    ("kind", "plan"), [("text", "full"), ("image", "partial"), ("text", "lora"), ("text", "lp_ft"), ("text", "scratch")]
)
def test_finding_a_rate_leaves_weights_and_random_state_as_they_were_and_repeats(kind, plan):
    backbone, head = load(kind), make_head()
    before, state = weights(backbone, head), torch.get_rng_state()
    rate, (rates, losses) = found(kind, plan, backbone=backbone, head=head)
    assert_same(weights(backbone, head), before)
    assert torch.equal(torch.get_rng_state(), state) and not backbone.training
    assert backbone.state_dict().keys() == load(kind).state_dict().keys()
    assert rates[0] < rate < rates[-1] and len(rates) == len(losses) and np.isfinite(losses).all()
    again, (_, other) = found(kind, plan)
    assert again == rate and np.array_equal(other, losses)


def test_the_curve_is_the_averaged_loss_of_a_hundred_growing_steps():
    """Truth: a loop written out: AdamW, rates from 1e-7 to 10, all items in one batch, fastai's average of decay 0.98."""
    items, y = make_data("text")
    backbone, head = load("text"), make_head()
    plan = Plan((Phase(1, (RATE / 10,) * 4, RATE),))
    _, (rates, losses) = found("text", plan, recipe=Recipe(batch_size=45, precision="fp32"))
    np.testing.assert_allclose(rates, (LOWEST * (HIGHEST / LOWEST) ** (np.arange(STEPS) / (STEPS - 1)))[: len(rates)])
    parts = [(list(backbone.parameters()), 0.1), (list(head.parameters()), 1.0)]
    groups = [
        {"params": [p for p in part if (p.ndim > 1) == matrix], "weight_decay": 0.01 * matrix, "share": share}
        for part, share in parts
        for matrix in (True, False)
    ]
    optimiser, average = torch.optim.AdamW(groups), 0.0
    for step in range(60):
        for group in optimiser.param_groups:
            group["lr"] = group["share"] * rates[step]
        loss = nn.functional.cross_entropy(head(backbone(backbone.prepare(items))), torch.from_numpy(y))
        average = 0.98 * average + 0.02 * loss.item()
        assert losses[step] == pytest.approx(average / (1 - 0.98 ** (step + 1)), abs=1e-4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_a_found_rate_is_the_plan_s_highest():
    """A plan whose other phase is ten times as fast gets a rate ten times as high from the same curve."""
    slow, fast = Phase(1, (RATE,) * 4, RATE), Phase(1, (0.0,) * 4, 10 * RATE)
    one, (_, curve) = found("text", Plan((slow,)))
    ten, (_, other) = found("text", Plan((fast, slow)))
    assert np.array_equal(curve, other) and ten == pytest.approx(10 * one)
    assert [phase.lr[0] for phase in scaled(Plan((fast, slow)), 0.5).phases] == [0.0, RATE / 2]
    assert scaled(Plan((fast, slow)), 0.5).phases[0].head_lr == 5 * RATE


def test_training_at_the_found_rate_learns_more_than_at_a_hundredth_of_it():
    plan = make_plan("full", 4, 6, RATE)
    rate, _ = found("text", plan)

    def last(factor):
        events, *_ = play("text", scaled(plan, factor * rate / RATE))
        return events[-1].loss

    assert last(1.0) < last(0.01) / 2


def test_steps_of_several_batches_count_once():
    _, (_, one) = found("text", "full", recipe=Recipe(batch_size=45, precision="fp32"))
    _, (_, three) = found("text", "full", recipe=Recipe(batch_size=15, accumulate=3, precision="fp32"))
    np.testing.assert_allclose(one[:50], three[:50], atol=1e-4)


def test_a_rule_is_named_or_given():
    rate, (rates, _) = found("text", rule=lambda rates, losses: rates[3])
    assert rate == rates[STEPS // 10 + 3]
    assert found("text", rule="steepest")[0] > 0 and list(RULES) == ["valley", "steepest"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "vally"}, r"unknown rule 'vally'.*Did you mean 'valley'\?"),
        ({"plan": "feature_extraction"}, "find_rate: the plan has no phases"),
        ({"recipe": Recipe(batch_size=0)}, "batch_size is 0"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(GraftError, match=message):
        found("text", **options)


def test_a_loss_that_diverges_at_once_is_named():
    class Explodes(nn.Linear):
        def forward(self, features):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(features) * (1.0 if self.calls < 6 else math.inf)

    with pytest.raises(GraftError, match=r"the loss of tiny:text diverged after \d steps, at rate .*expected at least 20"):
        found("text", head=Explodes(32, 3), recipe=Recipe(precision="fp32"))
