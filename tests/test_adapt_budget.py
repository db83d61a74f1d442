"""The budget of an adaptation: what retrains within it, what has no turn, and what it ends under way."""

import time

import numpy as np
import pytest
from adapt_samples import MENDS, believes

from graft.adapt import Adapt, course, estimator
from graft.records import Recipe


@pytest.fixture(autouse=True)
def believing(monkeypatch):
    """What recorded runs say is another test's: here the method that mends the made shift is known to."""
    monkeypatch.setattr(estimator, "recorded", lambda with_source=True: believes({MENDS: 2.0}))


def images(n, brighter):
    rng = np.random.default_rng(brighter)
    y = np.arange(n) % 2
    return [rng.integers(0, 60, (16, 16, 3), dtype=np.uint8) + np.uint8(90 * label + brighter) for label in y], y


def test_without_a_budget_nothing_retrains_and_with_one_something_does(monkeypatch):
    (X, y), (target, _) = images(24, 0), images(12, 80)
    monkeypatch.setattr(course, "methods_for", lambda sides: ["source_only", MENDS])
    settings = {"strategy": "feature_extraction", "head": "closed"}
    still = Adapt("tiny:image", **settings).fit(X, y, target)
    assert {one.method for one in still.outcome_.made} == {"source_only", MENDS}
    assert not any(one.model for one in still.outcome_.made)
    before = {name: value.clone() for name, value in still.source_only_.backbone_.state_dict().items()}
    trained = Adapt("tiny:image", methods=["adabn", "tent", "shot"], budget="60s", epochs=1, **settings).fit(X, y, target)
    kept = {one.method: one for one in trained.outcome_.made}
    assert list(kept) == ["source_only", "adabn", "tent", "shot"] and not any(one.fell_out for one in kept.values())
    # The source-only model is no worse for it: each method has a copy.
    after = trained.source_only_.backbone_.state_dict()
    assert all((after[name] == value).all() for name, value in before.items())
    moved = kept["shot"].model.backbone_.state_dict()
    assert any((moved[name] != value).any() for name, value in before.items())


def test_a_budget_that_is_spent_leaves_out_the_rest_and_says_so():
    (X, y), (target, _) = images(24, 0), images(12, 80)
    said = []
    model = Adapt("tiny:image", methods=[MENDS, "adabn", "tent", "shot"], budget="0.000000001s", epochs=1, head="closed")
    model.fit(X, y, target, progress=lambda event: said.append(getattr(event, "text", "")))
    assert [one.method for one in model.outcome_.made] == ["source_only"]
    note = f"the budget of 0 s does not allow more; without a turn: {MENDS}, adabn, tent, shot"
    assert note in said and list(model.outcome_.notes) == [note]


def test_a_slow_method_ends_with_the_budget_and_notes_say_so():
    (X, y), (target, _) = images(24, 0), images(12, 80)
    steps = []

    def slow(event):
        if getattr(event, "what", "").startswith("training"):
            steps.append(time.perf_counter())
            time.sleep(0.02)

    # A thousand epochs would take a minute at least, by the pauses alone.
    model = Adapt("tiny:image", methods=["mcc", "shot"], budget=2.0, epochs=1000, head="closed", recipe=Recipe(batch_size=4))
    model.fit(X, y, target, progress=slow)
    # One step may begin just before the end; on a busy machine it takes its time.
    assert steps[-1] - steps[0] < 10
    one = model.outcome_.made[1]
    played = len(one.model.history_)
    assert [each.method for each in model.outcome_.made] == ["source_only", "mcc"] and 0 < played < 1000 and not one.fell_out
    notes = [f"the budget ended mcc after {played} of 1000 epochs", "the budget of 2 s does not allow more; without a turn: shot"]
    assert list(model.outcome_.notes) == notes
