"""A fitted model adapted without labels: better than it was where the shift can be undone, and a model like any other."""

import copy
from functools import cache

import numpy as np
import pytest

from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.records import Phase, Plan, Recipe
from graft.testtime import adapt_statistics
from graft.transfer import Transfer
from graft.transfer.adapting import adapt_trained

NOTHING = ([], np.empty(0, int))


def gratings(n, seed, shifted=False):
    """n pictures of 3 classes, stripes of one direction each in noise; shifted: brighter, and at a third of the contrast."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    across, down = np.meshgrid(np.arange(32), np.arange(32))
    pictures = []
    for label in y:
        wave = (across, down, across + down)[label] * rng.uniform(0.7, 0.9) + rng.uniform(0, 6.3)
        grey = 110 + 45 * np.sin(wave)[..., None] + rng.normal(0, 30, (32, 32, 3))
        pictures.append(np.clip(150 + (grey - 110) / 3 if shifted else grey, 0, 255).astype(np.uint8))
    return pictures, y


@cache
def source():
    """A model that learned the gratings. Of shifted ones it never sees the third class, so that `pseudo` has `messages`."""
    items, y = gratings(180, 0)
    plan = Plan((Phase(12, (1e-2,) * 4, 1e-2),))
    recipe = Recipe(batch_norm="batch", precision="fp32", augment=False)
    return Transfer(load("image"), plan, recipe=recipe).fit(items, y)


TENT = Plan((Phase(6, (3e-3,) * 4, 0.0),), losses=(("entropy_minimisation", 1.0),), supervised=False, only="norms")
SHOT = Plan((Phase(6, (1e-3,) * 4, 0.0),), losses=(("shot", 1.0),), supervised=False)
FIXMATCH = Plan((Phase(6, (1e-3,) * 4, 1e-3),), losses=(("consistency", 1.0),))


@pytest.mark.parametrize("plan", [TENT, SHOT, FIXMATCH, "statistics"], ids=["tent", "shot", "fixmatch", "adabn"])
def test_adapted_to_other_brightness_and_contrast_it_is_better_than_source_only(plan):
    model, (others, _), (held, truth) = source(), gratings(150, 1, shifted=True), gratings(150, 2, shifted=True)
    before = model.score(held, truth)
    assert model.score(*gratings(150, 3)) > 0.9 and before < 0.7
    if plan == "statistics":
        adapted = copy.copy(model)
        adapted.backbone_ = adapt_statistics(model.backbone_, others)
    else:
        items, y = gratings(180, 0) if plan.supervised else NOTHING
        recipe = Recipe(batch_norm="batch", precision="fp32", augment=False)
        adapted = adapt_trained(model, plan, items, y, others, recipe=recipe)
    # A tenth of 150 items is more than two standard errors of a share.
    assert adapted.score(held, truth) >= before + 0.1


KNOWN = (["low", "small", "short", "thin"], ["high", "large", "long", "wide"])
NEW = [[f"{word}{number}" for number in range(8)] for word in ("new", "other")]


def messages(n, seed, known):
    """n texts of 2 classes and six words, so many of which (drawn from `known`) are words of the source, the rest new ones of the class.

    With most words known a text is read rightly and surely, so that self-training is told what the new ones stand for.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    texts = []
    for label in y:
        count = rng.choice(known)
        words = [*rng.choice(KNOWN[label], count), *rng.choice(NEW[label], 6 - count)]
        texts.append(" ".join(rng.permutation(words)))
    return texts, y


def test_self_training_learns_new_words_from_texts_in_which_known_ones_stand_beside_them():
    (items, y), (others, _), (held, truth) = messages(120, 10, [6]), messages(150, 20, [1, 2, 3, 4]), messages(150, 30, [1, 2])
    recipe = Recipe(precision="fp32")
    model = Transfer(load("text"), Plan((Phase(8, (1e-2,) * 4, 1e-2),)), recipe=recipe).fit(items, y)
    before = model.score(held, truth)
    assert model.score(*messages(150, 40, [6])) > 0.95 and before < 0.7

    def after(strength):
        plan = Plan((Phase(16, (1e-2,) * 4, 1e-2),), losses=(("pseudo", strength),))
        return adapt_trained(model, plan, items, y, others, recipe=recipe).score(held, truth)

    # As above. It is the method that mends, not that the source is trained on for longer.
    assert after(1.0) >= before + 0.1 > after(1e-9)


def test_the_given_model_stays_and_the_new_one_is_saved_and_loaded(tmp_path):
    model, (others, _) = source(), gratings(40, 1, shifted=True)
    before = model.predict_proba(others)
    told = []
    plan = Plan((Phase(2, (1e-3,) * 4, 0.0),), losses=(("shot", 1.0),), supervised=False, only="norms")
    adapted = adapt_trained(model, plan, *NOTHING, others, recipe=Recipe(batch_norm="batch"), progress=told.append)
    np.testing.assert_array_equal(model.predict_proba(others), before)
    assert not np.allclose(adapted.predict_proba(others), before)
    assert adapted.plan_ == plan and adapted.strategy_ == "shot" and len(adapted.history_) == 2 != len(model.history_)
    assert sum(type(event).__name__ == "Epoch" for event in told) == 2
    adapted.save(tmp_path / "model")
    again = Transfer.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict_proba(others), adapted.predict_proba(others), atol=1e-6)
    assert again.plan_ == plan and again.classes_.tolist() == [0, 1, 2]


def test_the_start_is_the_fitted_head_on_the_fitted_backbone():
    """Truth: at a rate of next to nothing the model says what it said, a closed-form head and a regression's unit included."""
    texts = [f"w{number % 7} w{number % 5}" for number in range(40)]
    for y in (np.arange(40) % 5 == 0, 100.0 + 0.5 * np.arange(40)):
        model = Transfer(load("text"), "feature_extraction").fit(texts, y)
        plan = Plan((Phase(1, (1e-12,) * 4, 1e-12),))
        target = y.astype(int) if model.task_ == "classification" else y
        adapted = adapt_trained(model, plan, texts, target, texts)
        np.testing.assert_allclose(adapted.predict_outputs(texts), model.predict_outputs(texts), atol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "strategy", "plan", "message"),
    [
        ("rows", "feature_extraction", SHOT, r"rows:4 has no layers that learn, expected a network"),
        (load("text"), "late_stages", SHOT, r"head of this model reads 'late' outputs of tiny:text, expected 'pooled'"),
        (load("text"), "feature_extraction", Plan(()), r"the plan has no phases, expected one in which something learns"),
        (load("text"), "feature_extraction", SHOT, r"0 others for the loss shot and a plan that is not supervised"),
    ],
)
def test_what_cannot_be_adapted_is_refused(backbone, strategy, plan, message):
    X = np.random.default_rng(0).normal(size=(12, 4)) if backbone == "rows" else [f"w{number}" for number in range(12)]
    model = Transfer(backbone, strategy).fit(X, np.arange(12) % 2)
    with pytest.raises(GraftError, match=message):
        adapt_trained(model, plan, *NOTHING, [])
