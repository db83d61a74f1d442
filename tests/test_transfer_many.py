"""`auto` with a budget on very many items: shorter epochs, one held-out part, and the model that answered for it is kept."""

import numpy as np
import pytest
from sklearn.base import clone

from graft import Transfer
from graft.auto import DEARER, FREE, climb, once
from graft.backbones import load_backbone
from graft.data import View
from graft.records import Epoch, Recipe
from graft.strategies import make_plan
from graft.transfer import speed
from graft.transfer.inputs import Given

N = 2600


def texts(n):
    """Two classes that a head on a random network's features hardly tells apart: whether one of two words is there, and not both."""
    rng = np.random.default_rng(0)
    first, second = np.arange(n) % 2, np.arange(n) // 2 % 2
    filler = rng.choice(["so", "it", "was", "then"], (n, 3))
    found = [" ".join([*["left"] * a, *["right"] * b, *words]) for a, b, words in zip(first, second, filler, strict=True)]
    return found, first ^ second


@pytest.mark.parametrize(("n", "kept"), [(2499, False), (2500, True)])
def test_what_retrains_is_fitted_once_where_a_fifth_of_the_items_is_more_than_enough(n, kept):
    held_out, played = [], set()

    def answer(strategy, epochs, fitted, held):
        held_out.append(len(held))
        played.add(strategy)
        return np.eye(2)[(np.arange(n) % 2)[held] ^ (held % 10 < {"feature_extraction": 5}.get(strategy, 2))]

    class Bought:
        def parts(self, wanted, strategies, least):
            return 1

        def epochs(self, strategy, parts):
            return 3

    climb(answer, np.arange(n) % 2, "classification", "accuracy", modality="text", seed=0, time_left=Bought())
    assert once(n) == kept and held_out[-1] == 500
    assert held_out[-1] == pytest.approx(0.2 * n, abs=1)
    assert played == ({"feature_extraction", "lp_ft"} if kept else {"feature_extraction", *FREE["text"], *DEARER["text"]})


def within(n, seconds, monkeypatch, items_per_epoch=None, items_a_second=100.0):
    monkeypatch.setattr(speed, "training_speed", lambda *given: items_a_second)
    monkeypatch.setattr(speed, "throughput", lambda *given: 1e9)
    monkeypatch.setattr(speed, "remembered", lambda about, decide: decide())
    items, target = texts(n)
    given = Given(items, target, "classification", "accuracy")
    return speed.Within(seconds, lambda: 0.0, load_backbone("tiny:text"), given, 20, 0, items_per_epoch)


@pytest.mark.parametrize(
    ("n", "seconds", "expected"),
    [
        # 100 items a second. Few: an epoch of all 1,000 takes 10 s, and what is kept is fitted 1.8 times, in nine tenths of the time.
        (1000, 60, 3),
        (1000, 59, 0),
        (1000, 100, 5),
        (1000, 1000, 20),
        # Many items: an epoch is of 2,000, 20 s, and there is one fit.
        (4000, 67, 3),
        (4000, 66, 2),
        (4000, 45, 2),
        (4000, 44, 0),
        (4000, 230, 10),
        # Very few: ten epochs are the least, in which 500 items are seen; half a second each.
        (50, 10.1, 10),
        (50, 9.9, 0),
    ],
)
def test_a_strategy_may_take_the_time_that_is_left(monkeypatch, n, seconds, expected):
    bought = within(n, seconds, monkeypatch, 2000 if n > 2000 else None)
    assert bought.epochs("lp_ft", 1) == expected


@pytest.mark.parametrize(
    ("seconds", "least", "expected"),
    # An epoch takes 10 s: parts of which each has 20 epochs, else, for parts that show something, three.
    [(1200, 1, 5), (600, 1, 2), (600, 4, 4), (100, 1, 1), (100, 3, 2), (10, 3, 1), (600, 9, 5)],
)
def test_epochs_are_given_up_for_parts_that_could_show_a_gain(monkeypatch, seconds, least, expected):
    assert within(1000, seconds, monkeypatch).parts(5, ["lp_ft", "partial", "l2_sp"], least) == expected


def test_the_model_that_answered_is_kept(monkeypatch):
    """It is the strategy's own fit on all but the held-out items, in epochs of 2,000, and nothing is fitted again."""
    fitted = []
    plain = Transfer.fit_encoded

    def spying(self, items, *given, **named):
        fitted.append((self.strategy, len(items), named.get("items_per_epoch")))
        return plain(self, items, *given, **named)

    monkeypatch.setattr(Transfer, "fit_encoded", spying)
    monkeypatch.setattr(speed, "training_speed", lambda *given: 1e3)
    items, target = texts(N)
    model = Transfer("tiny:text", epochs=4, lr=3e-2, budget="2m", random_state=1).fit(items, target)
    assert model.strategy_ == "lp_ft" and model.tuned_
    trained = [one for one in fitted if one[0] != "auto"]
    assert trained == [("lp_ft", N - 500, 2000)]
    assert "The model that answered is kept" in model.climb_.why
    assert model.plan_ == make_plan("lp_ft", model.backbone_.depth, model.climb_.epochs, 3e-2)
    rungs = {rung.strategy: rung.score.value for rung in model.climb_.rungs}
    assert rungs["lp_ft"] > rungs["feature_extraction"]
    again = clone(model).fit(items, target)
    np.testing.assert_array_equal(again.predict_outputs(View(items, np.arange(50))), model.predict_outputs(View(items, np.arange(50))))


@pytest.mark.parametrize(("n", "recipe", "expected"), [(N, None, 2000), (1500, None, None), (N, Recipe(items_per_epoch=700), None)])
def test_epochs_are_short_of_many_items_unless_the_user_says_how_long(monkeypatch, n, recipe, expected):
    def climbing(self, backbone, given, kept, spent, items_per_epoch):
        raise RuntimeError(f"epochs of {items_per_epoch}")

    monkeypatch.setattr(Transfer, "_climb", climbing)
    items, target = texts(n)
    with pytest.raises(RuntimeError, match=f"epochs of {expected}"):
        Transfer("tiny:text", budget="2m", recipe=recipe).fit(items, target)


@pytest.mark.parametrize(
    ("seconds", "played", "expected"),
    [
        # Of 64 items, the first pass left out: the fastest of four.
        ((0.9, 0.4, 0.2, 0.3, 0.25), 5, 64 / 0.2),
        # No more passes than there is time for, but two of them.
        ((0.1, 1.0, 1.0, 0.5, 0.5), 3, 64 / 1.0),
        ((9.0, 4.0, 2.0, 2.0, 2.0), 2, 64 / 4.0),
    ],
)
def test_the_speed_of_training_is_that_of_the_fastest_pass(monkeypatch, seconds, played, expected):
    begun = []

    def passes(*given, **more):
        for number, each in enumerate(seconds, start=1):
            begun.append(number)
            yield Epoch(0, number, 0.5, 0.5, each)

    monkeypatch.setattr(speed, "train", passes)
    monkeypatch.setattr(speed, "remembered", lambda about, measure: measure())
    items, target = texts(100)
    assert speed.training_speed(load_backbone("tiny:text"), items, target, "classification") == pytest.approx(expected)
    assert begun == list(range(1, played + 1))
