"""Strategies: every registered plan keeps the contract, each keeps its paper's rule."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from graft.errors import GraftError
from graft.records import Phase, Plan
from graft.strategies import STRATEGIES, make_plan, remarks, table

TUNING = Phase(5, (1e-3, 0.0, 0.0), 1e-3)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("depth", [1, 4, 13])
@pytest.mark.parametrize("epochs", [2, 3, 20])
def test_every_strategy_gives_a_plan_that_fits_and_spends_the_epochs(name, depth, epochs):
    plan = make_plan(name, depth, epochs, 1e-3)
    # A soup's fine-tunings start from the same weights: each has what the probe has left.
    played = (*plan.phases[:1], *plan.phases[-1:]) if plan.end == "soup" else plan.phases
    assert sum(phase.epochs for phase in played) == (epochs if plan.phases else 0)
    assert all(len(phase.lr) == depth for phase in plan.phases)
    assert all(0 <= rate <= 1e-3 for phase in plan.phases for rate in (*phase.lr, phase.head_lr))
    assert plan == make_plan(name, depth, epochs, 1e-3)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_what_it_is_and_where_it_is_from(name):
    assert STRATEGIES.describe(name).endswith(".")
    assert len(STRATEGIES.sources[name]) > 10


@pytest.mark.parametrize("name", STRATEGIES)
def test_rates_scale_with_lr(name):
    small, large = make_plan(name, 5, 6, 1e-3), make_plan(name, 5, 6, 1e-2)
    for a, b in zip(small.phases, large.phases, strict=True):
        assert b.lr == pytest.approx([10 * rate for rate in a.lr])
        assert b.head_lr == pytest.approx(10 * a.head_lr)


def test_feature_extraction_trains_nothing_and_linear_probe_only_the_head():
    assert make_plan("feature_extraction", 4, 5, 1e-3) == Plan(())
    assert make_plan("linear_probe", 4, 5, 1e-3) == Plan((Phase(5, (0.0, 0.0, 0.0, 0.0), 1e-3),))


def test_late_stages_trains_nothing_and_says_what_the_head_reads():
    plan = make_plan("late_stages", 4, 5, 1e-3)
    assert plan == Plan((), tap="late")
    assert "each frozen stage in the later half" in remarks(plan)[0]


def test_partial_opens_the_last_third_rounded_up():
    assert [rate > 0 for rate in make_plan("partial", 7, 5, 1e-3).phases[0].lr] == [False] * 4 + [True] * 3


def test_discriminative_rates_fall_by_2_6_a_group():
    """Truth: eta_(l-1) = eta_l / 2.6, Howard & Ruder 2018, section 3.2."""
    rates = make_plan("discriminative", 5, 5, 1e-2).phases[0].lr
    assert [upper / lower for lower, upper in pairwise(rates)] == pytest.approx([2.6] * 4)
    assert rates[-1] == pytest.approx(1e-3)


def test_gradual_unfreeze_opens_one_group_an_epoch_from_the_head_down():
    """Truth: Howard & Ruder 2018, section 3.3, with the head as the first to open."""
    plan = make_plan("gradual_unfreeze", 3, 10, 1e-2)
    assert [[rate > 0 for rate in phase.lr] for phase in plan.phases] == [
        [False, False, False],
        [False, False, True],
        [False, True, True],
        [True, True, True],
    ]
    assert [phase.epochs for phase in plan.phases] == [1, 1, 1, 7]


def test_gradual_unfreeze_opens_several_groups_at_once_where_epochs_are_few():
    plan = make_plan("gradual_unfreeze", 8, 3, 1e-2)
    assert [sum(rate > 0 for rate in phase.lr) for phase in plan.phases] == [0, 4, 8]


def test_lp_ft_probes_first_and_then_trains_everything_at_the_low_rate():
    first, second = make_plan("lp_ft", 3, 7, 1e-2).phases
    assert first == Phase(3, (0.0, 0.0, 0.0), 1e-2)
    assert second.epochs == 4 and set(second.lr) == {second.head_lr} == {1e-3}


def test_l2_sp_lora_and_scratch_are_marked_in_the_plan():
    assert make_plan("l2_sp", 3, 5, 1e-2).phases[0].anchor > 0
    assert make_plan("lora", 3, 5, 1e-2).lora_rank == 8
    assert make_plan("scratch", 3, 5, 1e-2).reset
    assert not any(make_plan(name, 3, 5, 1e-2).reset for name in STRATEGIES if name != "scratch")


def test_a_users_own_function_is_a_strategy():
    def surgical(depth, epochs, lr, group=0):
        return Plan((Phase(epochs, tuple(lr / 10 * (i == group) for i in range(depth)), lr),))

    assert make_plan(surgical, 3, 5, 1e-2).phases[0].lr == (1e-3, 0.0, 0.0)


def test_surgical_opens_one_group_the_first_unless_told():
    assert make_plan("surgical", 3, 5, 1e-2) == Plan((Phase(5, (1e-3, 0.0, 0.0), 1e-2),))
    last = make_plan(partial(STRATEGIES["surgical"], group=-1), 3, 5, 1e-2)
    assert last.phases[0].lr == (0.0, 0.0, 1e-3)
    for group in (3, -4):
        with pytest.raises(GraftError, match=f"surgical: group is {group}, expected -3 to 2: the backbone has 3 layer groups"):
            make_plan(partial(STRATEGIES["surgical"], group=group), 3, 5, 1e-2)


def test_what_is_built_in_and_what_is_averaged_is_marked_in_the_plan():
    assert make_plan("adapters", 3, 5, 1e-2).adapter_width == 64
    assert make_plan("bitfit", 3, 5, 1e-2).only == "biases"
    assert make_plan("stochnorm", 3, 5, 1e-2) == replace(make_plan("full", 3, 5, 1e-2), stochnorm=0.5)
    assert make_plan("wise_ft", 3, 5, 1e-2) == replace(make_plan("lp_ft", 3, 5, 1e-2), end="interpolate")
    for on in ("attention", "convolutions"):
        plan = make_plan(partial(STRATEGIES["lora"], on=on), 3, 5, 1e-2)
        assert plan.lora_on == on and make_plan(f"lora_{on}", 3, 5, 1e-2) == plan


def test_a_soup_is_lp_ft_with_its_second_step_at_three_rates():
    probe, *tunings = make_plan("soup", 2, 7, 1e-2).phases
    assert (probe, tunings[0]) == make_plan("lp_ft", 2, 7, 1e-2).phases
    assert [tuning.epochs for tuning in tunings] == [4, 4, 4]
    assert [tuning.head_lr for tuning in tunings] == pytest.approx([1e-3, 3e-4, 3e-3])
    assert [tuning.lr[0] for tuning in tunings] == pytest.approx([1e-3, 3e-4, 3e-3])


def test_an_unknown_name_is_answered_with_the_near_miss():
    with pytest.raises(GraftError, match=r"unknown strategy 'lpft'.*Did you mean 'lp_ft'\?"):
        make_plan("lpft", 3, 5, 1e-3)


def test_arguments_out_of_range_are_listed_together():
    with pytest.raises(GraftError, match=r"(?s)3 problems:.*depth is 0.*epochs is 0.*lr is nan") as caught:
        make_plan("full", 0, 0, float("nan"))
    assert "feature_extraction" in str(caught.value)


@pytest.mark.parametrize("name", ["lp_ft", "gradual_unfreeze", "wise_ft", "soup"])
def test_strategies_of_two_steps_refuse_one_epoch(name):
    with pytest.raises(GraftError, match=f"strategy {name}: epochs is 1, expected at least 2"):
        make_plan(name, 3, 1, 1e-3)


def test_a_function_that_gives_no_plan_is_named():
    def broken(depth, epochs, lr):
        return [lr] * depth

    with pytest.raises(GraftError, match="strategy broken: returned list, expected a Plan"):
        make_plan(broken, 3, 5, 1e-3)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan((Phase(5, (1e-3, 1e-3), 1e-3),)), "phase 1: 2 rates, expected 3, one for each layer group"),
        (Plan((Phase(5, (-1e-3, 0.0, 0.0), 1e-3),)), "phase 1: rates .*expected finite numbers, 0 .frozen. or more"),
        (Plan((Phase(5, (0.0, 0.0, 0.0), 0.0),)), "phase 1: every rate is 0"),
        (Plan((Phase(0, (0.0, 0.0, 0.0), 1e-3),)), "phase 1: 0 epochs, expected at least 1"),
        (Plan((Phase(5, (0.0, 0.0, 0.0), 1e-3, anchor=-1.0),)), "phase 1: anchor is -1.0"),
        (Plan((Phase(5, (1e-3, 0.0, 0.0), 1e-3, anchor=0.1),), lora_rank=4), "phase 1: anchor 0.1 together with lora_rank 4"),
        (Plan((), lora_rank=-2), "lora_rank is -2, expected 0"),
        (Plan((), adapter_width=-1), "adapter_width is -1, expected 0"),
        (Plan((TUNING,), stochnorm=1.5), "stochnorm is 1.5, expected a chance from 0 .plain. to 1"),
        (Plan((TUNING,), lora_rank=2, lora_on="attentoin"), "lora_on is 'attentoin', .* Did you mean 'attention'?"),
        (Plan((TUNING,), only="bias"), "only is 'bias', expected one of all, biases, norms. Did you mean 'biases'?"),
        (Plan((TUNING,), end="soop"), "end is 'soop', expected one of keep, interpolate, soup. Did you mean 'soup'?"),
        (Plan((TUNING,), lora_on="attention"), "lora_on is 'attention' without updates, expected a lora_rank above 0"),
        (Plan((TUNING,), lora_rank=2, adapter_width=3), "lora_rank 2 and adapter_width 3 together, expected at most one"),
        (Plan((TUNING,), stochnorm=0.5, only="biases"), "stochnorm 0.5 and only 'biases' together, expected at most one"),
        (Plan((TUNING,), lora_rank=4, only="norms"), "lora_rank 4 and only 'norms' together, expected at most one"),
        (Plan((TUNING,), supervised=False), "supervised is False without losses, expected one: nothing is learned from"),
        (Plan((Phase(5, (1e-3, 0.0, 0.0), 1e-3, anchor=0.1),), adapter_width=4), "anchor 0.1 together with adapter_width 4"),
        (Plan((TUNING,), lora_rank=2, end="soup"), "end 'soup' together with lora_rank 2, whose factors cannot be averaged"),
        (Plan((TUNING,), reset=True, end="interpolate"), "end 'interpolate' from random weights, whose averages are of no use"),
        (Plan((Phase(5, (0.0, 0.0, 0.0), 1e-3),), end="soup"), "end 'soup', but no layer group learns in any phase"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan, message):
    with pytest.raises(GraftError, match=message):
        make_plan(lambda depth, epochs, lr: plan, 3, 5, 1e-3)


def test_the_table_has_a_row_a_group_and_a_column_a_phase():
    rows = table(make_plan("lp_ft", 2, 3, 1e-2), ("stem", "pool"))
    assert rows == [
        {"layer group": "stem", "epoch 1": 0.0, "epochs 2-3": 1e-3},
        {"layer group": "pool", "epoch 1": 0.0, "epochs 2-3": 1e-3},
        {"layer group": "head", "epoch 1": 1e-2, "epochs 2-3": 1e-3},
    ]
    assert table(Plan(()), ("stem",)) == [{"layer group": "stem"}, {"layer group": "head"}]


def test_remarks_say_what_the_rates_do_not():
    assert "frozen features" in remarks(Plan(()))[0]
    assert remarks(make_plan("scratch", 2, 3, 1e-2)) == ["Starts from random weights."]
    assert remarks(make_plan("lora", 2, 3, 1e-2))[0].startswith("Learns updates of rank 8 instead of the weights, added")
    on_attention = make_plan(partial(STRATEGIES["lora"], on="attention"), 2, 3, 1e-2)
    assert remarks(on_attention)[0].startswith("Learns updates of rank 8 instead of the weights of attention, added")
    assert "adapters of width 64" in remarks(make_plan("adapters", 2, 3, 1e-2))[0]
    assert remarks(make_plan("bitfit", 2, 3, 1e-2)) == ["Of the layer groups that learn only the biases do."]
    assert "with chance 0.5 for each channel" in remarks(make_plan("stochnorm", 2, 3, 1e-2))[0]
    assert "mean of the weights before and after" in remarks(make_plan("wise_ft", 2, 3, 1e-2))[-1]
    assert "average of 3 fine-tunings from the same start" in remarks(make_plan("soup", 2, 3, 1e-2))[-1]
    assert "Phase 1 pulls" in remarks(make_plan("l2_sp", 2, 3, 1e-2))[0]
    assert remarks(make_plan("full", 2, 3, 1e-2)) == []
    assert "Phase 1 runs the first 4 layer groups once" in remarks(make_plan("partial", 6, 3, 1e-2))[0]
    assert "of 4 views of each image" in remarks(make_plan("views", 2, 3, 1e-2))[0]


def test_strategies_load_no_library():
    code = "import sys, graft.strategies; assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
