"""Methods that retrain the network: each makes a model like any other, from what it may see, and says why where it cannot be had."""

from functools import cache

import numpy as np
import pytest
import torch
from test_transfer_adapting import gratings

from graft import budget
from graft.adapt.candidates import made
from graft.adapt.course import shipped
from graft.adapt.predict import SOURCE_ONLY
from graft.adapt.sides import Source, both, without_source
from graft.adapt.trained import ADABN, TRAINED, made_by_training, plan_of, recipe_of, trained_methods
from graft.backbones.tiny import load
from graft.records import Phase, Plan, Recipe, Step
from graft.testtime import adapt_statistics
from graft.transfer import Transfer

CLASSES = ["across", "down", "aslant"]
SOURCE_FREE = {ADABN, "shot", "tent"}
# What suits the source-only model, and not each method: nothing is held out, some read no label, added losses cannot mix items.
DEMANDING = Recipe(
    batch_size=16, precision="fp32", smoothing=0.1, patience=3, class_weight="balanced", sampler="balanced", mixup=0.2, augment="auto"
)


def made_sides(n_source, n_target):
    items, labels = gratings(n_source, 0)
    plan = Plan((Phase(3, (3e-3,) * 4, 3e-3),), reset=True)
    recipe = Recipe(batch_size=16, precision="fp32", patience=3)
    source = Source(items, labels, "classification", CLASSES)
    return both(Transfer(load("image"), plan, recipe=recipe), source, gratings(n_target, 1, shifted=True)[0], seed=0)


@cache
def sides():
    return made_sides(60, 48)


@pytest.mark.parametrize("method", [ADABN, *TRAINED])
def test_each_method_makes_a_model_that_is_saved_loaded_and_asked(method, tmp_path):
    before = sides().head.outputs(sides().target_rows)
    one = made_by_training(sides(), method, {}, epochs=1, lr=1e-3, recipe=DEMANDING)
    assert one.fell_out == "" and one.method == method and one.seconds > 0
    assert one.outputs.shape == (48, 3) and np.allclose(one.outputs.sum(axis=1), 1)
    assert not np.allclose(one.outputs, before)
    assert len(one.learned) == len(sides().learned) and one.held_outputs.shape == (len(sides().held), 3)
    np.testing.assert_array_equal(sides().head.outputs(sides().target_rows), before)
    one.model.save(tmp_path / "model")
    again = Transfer.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict_proba(sides().others), one.outputs, atol=1e-5)
    np.testing.assert_allclose(one.reads(one.target), one.outputs, atol=1e-6)
    assert again.classes_.tolist() == CLASSES


def counted(whole_epochs):
    """Seconds left, until so many epochs and one step are over; progress that counts."""
    ends = []

    def progress(event):
        if isinstance(event, Step) and event.what.startswith("training"):
            ends.append(event.done == event.total)

    return (lambda: -1.0 if sum(ends) >= whole_epochs and ends and not ends[-1] else 1.0), progress


@pytest.mark.parametrize("method", ["mcc", "shot"])
def test_training_that_the_budget_ends_is_left_after_its_last_whole_epoch(method, monkeypatch):
    left, progress = counted(2)
    monkeypatch.setattr(budget, "left", left)
    one = made_by_training(sides(), method, {}, epochs=5, lr=1e-3, recipe=Recipe(batch_size=16), progress=progress)
    assert one.stopped == f"the budget ended {method} after 2 of 5 epochs" and one.fell_out == ""
    assert [event.epoch for event in one.model.history_] == [0, 1]
    np.testing.assert_allclose(one.model.predict_proba(sides().others), one.outputs, atol=1e-5)


def test_training_without_a_whole_epoch_falls_out(monkeypatch):
    left, progress = counted(0)
    monkeypatch.setattr(budget, "left", left)
    one = made_by_training(sides(), "mcc", {}, epochs=5, lr=1e-3, recipe=Recipe(batch_size=16), progress=progress)
    assert "the budget was spent in the first of 5 epochs" in one.fell_out and one.model is None


def test_time_that_is_enough_ends_nothing():
    with budget.within(600):
        one = made_by_training(sides(), "tent", {}, epochs=1, lr=1e-3, recipe=Recipe(batch_size=16))
    assert one.stopped == one.fell_out == ""


@pytest.mark.parametrize(
    "method", ["coral", "tca", "jda", "kmm", "kliep", "density_ratio", "pseudo_labels", "optimal_transport", "joint_transport"]
)
def test_a_method_on_features_under_way_when_time_is_up_falls_out(method):
    if "transport" in method:
        pytest.importorskip("ot")
    assert sides().domains.held_out is not None
    with budget.within(1e-9):
        assert "the budget was spent before" in made(sides(), method, {}).fell_out


def test_without_the_source_there_are_the_methods_that_do_without_it():
    alone = without_source(sides().model, np.full(3, 1 / 3), sides().others, seed=0)
    assert set(trained_methods(alone)) == SOURCE_FREE and set(trained_methods(sides())) == {ADABN, *TRAINED}
    assert set(trained_methods(sides())[:3]) == SOURCE_FREE, "the cheapest first: a budget leaves the last ones out"
    for method in SOURCE_FREE:
        with_source, without = (
            made_by_training(one, method, {}, epochs=1, lr=1e-3, recipe=Recipe(batch_size=16)) for one in (sides(), alone)
        )
        assert without.fell_out == "" and len(without.learned) == len(without.held_outputs) == 0
        np.testing.assert_allclose(without.outputs, with_source.outputs, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "message"),
    [("shot", "rows:4 has no layers that learn, expected a network"), (ADABN, "rows:4 has no batch normalisation with statistics")],
)
def test_rows_have_no_layers_to_train(method, message):
    rng = np.random.default_rng(0)
    source = Source(list(rng.normal(size=(30, 4)).astype(np.float32)), np.arange(30) % 3, "classification", CLASSES)
    rows = both(Transfer("rows", "feature_extraction"), source, list(rng.normal(size=(20, 4)).astype(np.float32)), seed=0)
    assert trained_methods(rows) == []
    assert message in made_by_training(rows, method, {}, epochs=1, lr=1e-3, recipe=Recipe()).fell_out


def test_random_weights_learn_on_at_their_own_rate_and_pretrained_ones_at_a_tenth():
    scratch = Plan((Phase(5, (2e-3,) * 4, 2e-3),), reset=True)
    assert plan_of("mcc", scratch, 4, 7, 1e-2).phases == (Phase(7, (2e-3,) * 4, 2e-3),)
    assert plan_of("mcc", Plan(()), 4, 7, 1e-2).phases == (Phase(7, (1e-3,) * 4, 1e-2),)
    assert plan_of("shot", scratch, 4, 7, 1e-2).phases == (Phase(7, (2e-3,) * 4, 0.0),)
    tent = plan_of("tent", Plan(()), 4, 7, 1e-2)
    assert tent.phases == (Phase(1, (1e-3,) * 4, 0.0),) and tent.only == "norms" and not tent.supervised


def test_a_method_takes_of_the_recipe_what_suits_it():
    assert recipe_of("mcc", DEMANDING) == Recipe(
        batch_size=16, precision="fp32", class_weight="balanced", sampler="balanced", batch_norm="batch"
    )
    assert recipe_of("shot", DEMANDING) == Recipe(batch_size=16, precision="fp32", batch_norm="batch")
    assert recipe_of("tent", Recipe(rand_augment=5.0)) == Recipe(augment=False, batch_norm="batch")


@pytest.mark.parametrize(("method", "passes"), [("mcc", 2), ("shot", 2), ("tent", 1)])
def test_an_epoch_sees_all_of_a_target_that_is_larger_than_the_source(method, passes):
    small, told = made_sides(20, 50), []
    made_by_training(small, method, {}, epochs=2, lr=1e-3, recipe=Recipe(batch_size=16), progress=told.append)
    trained = [event for event in told if isinstance(event, Step) and event.what.startswith("training")]
    assert [event.done for event in trained if event.done == event.total] == [50] * passes


def test_shot_leaves_the_head_and_tent_all_but_scales_and_shifts_of_norms():
    before = sides().model.backbone_.state_dict()
    norms = {name for name, tensor in before.items() if tensor.ndim == 1 or not tensor.ndim}
    shot, tent, mcc = (
        made_by_training(sides(), name, {}, epochs=1, lr=1e-3, recipe=Recipe(batch_size=16)) for name in ("shot", "tent", "mcc")
    )

    def moved(one):
        return {name for name, tensor in one.model.backbone_.state_dict().items() if not torch.equal(tensor, before[name])}

    assert moved(tent) == norms and moved(shot) == moved(mcc) == set(before)
    for one, stays in ((shot, True), (tent, True), (mcc, False)):
        assert np.allclose(one.head.weight, sides().head.weight, atol=1e-7) == stays


def test_adabn_sees_each_domain_with_its_own_statistics():
    one = made_by_training(sides(), ADABN, {}, epochs=1, lr=1e-3, recipe=Recipe())
    np.testing.assert_array_equal(one.learned, sides().learned_rows)
    np.testing.assert_array_equal(one.held_outputs, sides().head.outputs(sides().held_rows))
    expected = Transfer.predict_outputs(sides().model, sides().others)
    model = one.model
    assert not np.allclose(model.predict_outputs(sides().others), expected)
    theirs = adapt_statistics(sides().model.backbone_, sides().others).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.backbone_.state_dict().items())


def test_source_only_with_a_trained_head_is_handed_over_as_it_was_judged():
    judged = made(sides(), SOURCE_ONLY, {})
    np.testing.assert_allclose(shipped(sides(), judged).predict_outputs(sides().others), judged.outputs, atol=1e-6)
