"""What a run leaves at its end: a mean with the start, an average of several fine-tunings, and the best where it was cut short."""

import numpy as np
import pytest
import torch
from test_train import RATE, assert_same, make_data, make_head, play, weights

from graft.backbones.tiny import load
from graft.records import Phase, Plan
from graft.strategies import make_plan
from graft.train import predict_outputs, train
from graft.train.ends import Best, interpolated, mix, souped


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def point(x):
    """Weights with one number."""
    return {"w": torch.tensor([float(x)])}


def where(state):
    return round(state["w"].item(), 6)


@pytest.mark.parametrize(("best_at", "share"), [(0.0, 0.0), (3.0, 0.3), (10.0, 1.0)])
def test_the_share_with_the_best_score_is_taken(best_at, share):
    left = interpolated(point(0), point(10), lambda state: -abs(state["w"].item() - best_at))
    assert where(left) == pytest.approx(10 * share)


def test_of_equal_shares_the_nearest_to_a_half_is_taken_and_a_half_without_a_score():
    """Truth: theta = (1 - alpha) theta_0 + alpha theta_1, Wortsman et al. 2022, arXiv:2109.01903, equation 1, with alpha 0.5."""
    assert where(interpolated(point(2), point(10), lambda state: 0.0)) == 6.0
    assert where(interpolated(point(2), point(10), None)) == 6.0
    assert where(interpolated(point(0), point(10), lambda state: float(state["w"].item() > 6.5))) == 7.0


def test_a_greedy_soup_takes_in_what_does_not_make_it_worse_from_the_best_on():
    """Truth: recipe 1 of Wortsman et al. 2022, arXiv:2203.05482, by hand: scores peak at 5, so 4 comes first (off by 1); with 8
    the mean is 6 (off by 1, kept as no worse); with 0 it is 4 (kept); with -16 it is -1 (off by 6, left out)."""
    seen = []

    def score(state):
        seen.append(where(state))
        return -abs(state["w"].item() - 5)

    left = souped([Best(None, point(x)) for x in (0, 8, -16, 4)], score)
    assert where(left) == 4.0
    assert seen == [0, 8, -16, 4, 6, 4, -1]


def test_a_greedy_soup_is_never_worse_than_its_best_and_a_uniform_one_takes_all():
    def peak(state):
        return -abs(state["w"].item() - 9)

    assert where(souped([Best(None, point(x)) for x in (1, 9, 2)], peak)) == 9.0
    assert where(souped([Best(None, point(x)) for x in (1, 9, 2)], None)) == 4.0


def test_statistics_are_averaged_like_weights_and_counts_are_the_last():
    one = {"running_var": torch.tensor([1.0, 2.0]), "num_batches_tracked": torch.tensor(3)}
    other = {"running_var": torch.tensor([3.0, 6.0]), "num_batches_tracked": torch.tensor(8)}
    mixed = mix([(0.25, one), (0.75, other)])
    assert mixed["running_var"].tolist() == [2.5, 5.0]
    assert mixed["num_batches_tracked"] == 8 and not mixed["num_batches_tracked"].is_floating_point()


@pytest.mark.parametrize("kind", ["image", "text"])
def test_wise_ft_without_a_validation_part_is_half_way_from_the_probed_head_to_lp_ft(kind):
    """1e-6: float32 rounding. The head's start is where the probe came to, the backbone's the pretrained weights."""
    _, backbone, head = play(kind, "wise_ft")
    _, end, end_head = play(kind, "lp_ft")
    probe = make_plan("lp_ft", 4, 4, RATE).phases[:1]
    _, start, start_head = play(kind, Plan(probe))
    before, after = weights(start, start_head), weights(end, end_head)
    half = {name: (before[name] + after[name]) / 2 if after[name].is_floating_point() else after[name] for name in after}
    assert_same(weights(backbone, head), half, atol=1e-6)
    assert not torch.equal(after["1 weight"], before["1 weight"])


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("strategy", ["wise_ft", "soup"])
def test_what_is_left_scores_at_least_as_well_as_any_epoch(kind, strategy):
    """1e-6: validation items are scored in other batches here."""
    validation = make_data(kind, 12, seed=1)
    events, backbone, head = play(kind, strategy, validation=validation)
    outputs = predict_outputs(backbone, head, validation[0], "classification")
    assert np.log(outputs[np.arange(12), validation[1]]).mean() >= max(event.score for event in events) - 1e-6


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_uniform_soup_is_the_mean_of_fine_tunings_from_the_same_start(kind):
    """Truth: each member is the run of its phase alone from the same weights; 1e-6: float32 rounding."""
    members = []
    backbone, head = load(kind), make_head()
    snapshots = {}
    plan = Plan(tuple(Phase(2, (RATE * factor,) * 4, RATE) for factor in (0.1, 0.5)), end="soup")
    for event in train(backbone, head, plan, *make_data(kind), task="classification"):
        snapshots[event.phase] = weights(backbone, head)
    # The first phase's draws are those of a run of its own; the second's hang on its number, and its rates are known by a second one.
    _, *alone = play(kind, Plan(plan.phases[:1]))
    assert_same(weights(*alone), snapshots[0])
    members = list(snapshots.values())
    expected = {
        name: (members[0][name] + members[1][name]) / 2 if members[1][name].is_floating_point() else members[1][name] for name in members[0]
    }
    assert_same(weights(backbone, head), expected, atol=1e-6)


def test_each_fine_tuning_of_a_soup_starts_from_the_same_weights():
    backbone, head, seen = load("text"), make_head(), []

    def metric(y, outputs):
        seen.append(weights(backbone, head))
        return -len(seen)

    plan = Plan((Phase(1, (0.0,) * 4, RATE), *(Phase(1, (RATE,) * 4, RATE),) * 2), end="soup")
    play("text", plan, backbone=backbone, head=head, validation=make_data("text", 9), metric=metric)
    # Scored: the start, the probe, one epoch of the first member, the second member's start and its epoch; then the soup's parts.
    # Each score is worse than the one before, so the probe's weights are not kept and both members begin where everything did.
    assert_same(seen[3], seen[0])
    assert not torch.equal(seen[4]["1 weight"], seen[2]["1 weight"])


def test_a_soup_that_is_cut_short_leaves_its_best_fine_tuning():
    scores = iter([0.1, 0.9, 0.1, 0.5, 0.3])
    backbone, head, seen = load("text"), make_head(), []
    plan = Plan((Phase(1, (RATE,) * 4, RATE), Phase(3, (RATE,) * 4, RATE)), end="soup")
    run = train(
        backbone,
        head,
        plan,
        *make_data("text"),
        task="classification",
        validation=make_data("text", 9),
        metric=lambda y, outputs: next(scores),
    )
    for _ in range(3):
        next(run)
        seen.append(weights(backbone, head))
    run.close()
    assert_same(weights(backbone, head), seen[0])


@pytest.mark.parametrize(("epochs", "left"), [(1, 0), (2, 1)])
def test_a_soup_cut_short_without_a_validation_part_leaves_the_last_finished_epoch(epochs, left):
    backbone, head, seen = load("text"), make_head(), []

    def interrupt(step):
        if len(seen) == epochs and step.done > 32:
            raise KeyboardInterrupt

    plan = Plan((Phase(1, (RATE,) * 4, RATE), Phase(3, (RATE,) * 4, RATE)), end="soup")
    with pytest.raises(KeyboardInterrupt):
        for _ in train(backbone, head, plan, *make_data("text"), task="classification", progress=interrupt):
            seen.append(weights(backbone, head))
    assert_same(weights(backbone, head), seen[left])


def test_candidates_are_scored_from_the_lowest_boundary_of_all_phases():
    """A member that trained lower stages is judged by them, though the last phase keeps what they gave."""
    validation = make_data("text", 12, seed=1)
    plan = Plan((Phase(2, (RATE,) * 4, RATE), Phase(2, (0.0, 0.0, RATE, 0.0), RATE)), end="soup")
    scored = []

    def metric(y, outputs):
        scored.append(np.log(outputs[np.arange(12), y]).mean())
        return scored[-1]

    events, backbone, head = play("text", plan, validation=validation, metric=metric)
    outputs = predict_outputs(backbone, head, validation[0], "classification")
    # The last three scores are the two members' and their mean's; what is left is one of them.
    members = sorted(scored[-3:-1])
    assert members == pytest.approx(sorted(max(e.score for e in events if e.phase == number) for number in (0, 1)), abs=1e-6)
    assert np.log(outputs[np.arange(12), validation[1]]).mean() == pytest.approx(max(scored[-1], members[-1]), abs=1e-6)
