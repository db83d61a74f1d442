"""Strategies beside each other: the same folds and search for each, nothing chosen on what is judged, ties called ties."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from graft.data import check, load
from graft.errors import GraftError
from graft.records import Phase, Plan
from graft.report import write_comparison
from graft.strategies import STRATEGIES, full
from graft.study import comparison, run
from graft.study.comparison import Comparison, compare
from graft.study.judge import parts
from graft.transfer import Transfer

FRUIT, METAL = ["apple", "pear"], ["iron", "zinc"]
FILLER = ["the", "a", "some", "my", "old", "new", "red", "small", "big", "very", "on", "in"]
RATES = (1e-3, 1e-2)


def table(n=80, seed=0, split=False):
    """Texts of two classes that differ by a telling word, said twice."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        words = [*rng.choice(FILLER, 4), *[rng.choice((FRUIT, METAL)[i % 2])] * 2]
        rows.append({"text": " ".join(rng.permutation(words)), "label": ("fruit", "metal")[i % 2]})
    frame = pd.DataFrame(rows)
    return frame.assign(split=np.where(np.arange(n) % 4 > 1, "test", "train")) if split else frame


def forgetful(depth, epochs, lr):
    """Random weights, hardly trained: as good as guessing."""
    return Plan((Phase(1, (1e-9,) * depth, 1e-9),), reset=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return compare(table(), "tiny:text", ["feature_extraction", "lp_ft", "full", forgetful], rates=RATES, epochs=4)


def rival(found, name):
    return next(one for one in found.rivals if one.strategy == name)


def test_each_strategy_is_judged_on_every_fold_and_each_two_are_compared(found):
    assert isinstance(found, Comparison)
    assert {one.strategy for one in found.rivals} == {"feature_extraction", "lp_ft", "full", "forgetful"}
    assert all(len(one.fold_scores) == 5 and one.seconds > 0 for one in found.rivals)
    scores = [one.score for one in found.rivals]
    assert scores == sorted(scores, reverse=True)
    assert len(found.pairs) == 6 and all(pair.effect >= 0 for pair in found.pairs)
    for pair in found.pairs:
        first, second = (rival(found, name).fold_scores for name in (pair.first, pair.second))
        assert pair.effect == pytest.approx(np.mean(np.subtract(first, second)))


def test_a_frozen_head_scores_what_a_transfer_fitted_by_hand_does(found):
    dataset = check(load(table()))
    by_hand = []
    for train, test in parts(dataset, 0).folds:
        model = Transfer("tiny:text", "feature_extraction").fit([dataset.items[i] for i in train], dataset.target[train])
        by_hand.append(model.score([dataset.items[i] for i in test], dataset.target[test]))
    assert rival(found, "feature_extraction").fold_scores == pytest.approx(by_hand)


def test_what_trains_has_a_rate_of_the_list_for_each_fold_and_a_frozen_head_none(found):
    for name in ("lp_ft", "full"):
        assert len(rival(found, name).rates) == 5 and set(rival(found, name).rates) <= set(RATES)
    assert rival(found, "feature_extraction").rates == []


def test_the_better_one_is_named_and_a_tie_is_called_a_tie(found):
    pair = next(pair for pair in found.pairs if {pair.first, pair.second} == {"feature_extraction", "forgetful"})
    assert (pair.first, pair.better) == ("feature_extraction", "feature_extraction")
    assert pair.p <= pair.adjusted_p < 0.05 and pair.interval[0] > 0
    assert "forgetful" in str(found) and "is better than" in str(found)


def test_the_same_strategy_under_two_names_is_a_tie():
    def twin(depth, epochs, lr):
        return full(depth, epochs, lr)

    same = compare(table(40), "tiny:text", ["full", twin], rates=(1e-3,), epochs=2)
    (pair,) = same.pairs
    assert (pair.effect, pair.p, pair.adjusted_p, pair.better) == (0.0, 1.0, 1.0, "")
    assert str(same).startswith("No difference shown between")
    assert same.leaders() == [one.strategy for one in same.rivals]


def test_curves_start_from_the_solved_head_and_a_frozen_one_is_level(found):
    (level,) = rival(found, "feature_extraction").curve
    assert (level.epoch, level.loss) == (0, None)
    tuned = rival(found, "lp_ft").curve
    # The same head on the same items, before the first step.
    assert (tuned[0].epoch, tuned[0].score) == (0, pytest.approx(level.score))
    assert tuned[0].loss is None and all(point.loss > 0 for point in tuned[1:])
    assert rival(found, "full").curve[0].epoch == 1  # a random head was not scored before it learned
    for one in found.rivals:
        assert all(point.score_range[0] <= point.score <= point.score_range[1] for point in one.curve)
        assert all(before.seconds < after.seconds for before, after in pairwise(one.curve))


def test_a_fold_that_ended_early_keeps_its_best_score_and_its_last_loss():
    nan = float("nan")
    long = comparison._Play([0.5, 0.6, 0.7, 0.8], [nan, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    short = comparison._Play([0.5, 0.9, 0.4], [nan, 3.0, 2.5], [1.0, 1.5, 2.0])
    last = comparison._curve([long, short], "accuracy")[-1]
    assert (last.epoch, last.score, last.score_range) == (3, pytest.approx(0.85), (0.8, 0.9))
    assert (last.loss, last.seconds) == (1.75, 3.0)
    # Lower is better: the best is the least.
    assert comparison._curve([long, short], "log_loss")[-1].score == pytest.approx(0.6)


def test_nothing_is_chosen_on_what_is_judged_and_each_gets_the_same_search(monkeypatch):
    now, seen = {}, []
    search, fit = comparison.Contest.search, comparison.Contest.fit

    def watched_search(self, name, fold, *rest):
        now.update(name=name, fold=fold)
        return search(self, name, fold, *rest)

    def watched_fit(self, strategy, rate, index, states=None, validation=None):
        if now:
            judged = set(self.judged.parts.folds[now["fold"]][1].tolist())
            used = set(index.tolist()) | set([] if validation is None else validation.tolist())
            assert not used & judged
            if validation is not None:
                assert not set(index.tolist()) & set(validation.tolist())
            seen.append((now["name"], now["fold"], rate, strategy.__name__))
        return fit(self, strategy, rate, index, states, validation)

    monkeypatch.setattr(comparison.Contest, "search", watched_search)
    monkeypatch.setattr(comparison.Contest, "fit", watched_fit)
    found = compare(table(40), "tiny:text", ["full", "partial"], rates=RATES, epochs=2)
    for one in found.rivals:
        plays = [(fold, rate) for name, fold, rate, played in seen if name == one.strategy == played]
        assert len(plays) == 5 * (len(RATES) + 1)
        for fold in range(5):
            rates = [rate for where, rate in plays if where == fold]
            assert rates[:-1] == list(RATES) and rates[-1] == one.rates[fold]


def test_the_same_call_gives_the_same_numbers():
    first, second = (compare(table(40), "tiny:text", ["full", "feature_extraction"], rates=(1e-3,), epochs=2, seed=3) for _ in range(2))

    def timeless(found):
        rivals = [replace(one, seconds=0, curve=[replace(point, seconds=0) for point in one.curve]) for one in found.rivals]
        return replace(found, seconds=0, rivals=rivals)

    assert timeless(first) == timeless(second)


def test_a_given_test_part_is_judged_once_item_by_item():
    found = compare(table(80, split=True), "tiny:text", ["feature_extraction", "full"], rates=(1e-3,), epochs=2)
    assert "given test part" in found.judged_on and "paired bootstrap" in found.pairs[0].test
    assert all(len(one.fold_scores) == 1 for one in found.rivals)
    assert found.pairs[0].n == found.n_test


def test_heads_alone_are_judged_on_folds_dealt_twice():
    found = compare(table(40), "tiny:text", ["feature_extraction", "linear_probe"])
    assert "2 repeats" in found.judged_on and len(found.rivals[0].fold_scores) == 10
    assert found.pairs[0].better == ""


def test_a_rate_at_which_training_diverges_is_out_and_said():
    found = compare(table(40), "tiny:text", ["feature_extraction", "full"], rates=(1e-3, 1e38), epochs=2)
    assert rival(found, "full").rates == [1e-3] * 5
    assert sum("rate 1e+38 of full, fold" in note for note in found.notes) == 5
    with pytest.raises(GraftError, match="the loss became"):
        compare(table(40), "tiny:text", ["feature_extraction", "full"], rates=(1e38,), epochs=2)


def wild(depth, epochs, lr):
    """Diverges at every rate."""
    return Plan((Phase(epochs, (1e38,) * depth, 1e38),))


def test_a_strategy_that_diverges_at_every_rate_is_left_out_and_said():
    found = compare(table(40), "tiny:text", ["feature_extraction", wild, "full"], rates=(1e-3,), epochs=2)
    assert sorted(one.strategy for one in found.rivals) == ["feature_extraction", "full"] and len(found.pairs) == 1
    assert any("left out: wild: training tiny:text: the loss became" in note for note in found.notes)


@pytest.mark.usefixtures("quick_studies")
def test_a_run_goes_on_without_a_strategy_that_diverges(monkeypatch):
    monkeypatch.setitem(STRATEGIES._members, "wild", wild)
    with pytest.warns(UserWarning, match="strategy wild is left out: training tiny:text: the loss became"):
        study = run(table(160, split=True), backbone="tiny:text", strategy=["wild", "feature_extraction"])
    assert study.result.strategy == "feature_extraction" and study.comparison is None
    assert any("strategies were not set beside each other: training tiny:text: the loss became" in note for note in study.notes)


def test_a_regression_is_shown_in_the_targets_unit():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"text": [" ".join(rng.choice(FILLER, 4)) for _ in range(60)], "y": rng.normal(size=60)})
    small, large = (
        compare(frame.assign(y=frame.y * unit), "tiny:text", ["feature_extraction", "full"], rates=(1e-3,), epochs=2, metric="mae")
        for unit in (1.0, 100.0)
    )
    for name in ("feature_extraction", "full"):
        points = zip(rival(small, name).curve, rival(large, name).curve, strict=True)
        assert all(b.score == pytest.approx(100 * a.score, rel=0.01) for a, b in points)


def test_a_budget_lowers_the_epochs_of_all_or_says_what_would_do(monkeypatch):
    # 40 items at 1 a second: an epoch of `full` on 32 of them takes 32 s, and there are 10 plays.
    monkeypatch.setattr(comparison, "training_speed", lambda *_: 1.0)
    found = compare(table(40), "tiny:text", ["feature_extraction", "full"], rates=(1e-3,), epochs=10, budget=32 * 10 * 4 + 60)
    assert found.epochs == 4
    assert any("4 instead of 10 for every strategy" in note for note in found.notes)
    assert max(point.epoch for point in rival(found, "full").curve) <= 4
    with pytest.raises(GraftError, match=r"budget 100s: .* The smallest that works is about --budget 1\d\d\ds"):
        compare(table(40), "tiny:text", ["feature_extraction", "full"], rates=(1e-3,), epochs=10, budget=100)


@pytest.mark.parametrize(
    ("strategies", "rates", "message"),
    [
        (["full"], RATES, "got 1 strategies, expected at least two"),
        (["full", "full"], RATES, "got 1 strategies"),
        (["full", "auto"], RATES, "'auto' chooses among strategies itself"),
        (["full", "lp_tf"], RATES, "Did you mean 'lp_ft'"),
        (["full", "lp_ft"], (), r"rates are \(\), expected one or more"),
        (["full", "lp_ft"], (1e-3, -1.0), "rates are"),
        (["auto", "full"], (0.0,), "2 problems"),
    ],
)
def test_what_does_not_fit_is_said_at_once(strategies, rates, message):
    with pytest.raises(GraftError, match=message):
        compare("is never read", "tiny:text", strategies, rates=rates)


def test_two_functions_of_one_name_are_refused():
    def mine(depth, epochs, lr):
        return full(depth, epochs, lr)

    mine.__name__ = "full"
    with pytest.raises(GraftError, match="two strategies are called 'full'"):
        compare("is never read", "tiny:text", ["full", mine])


def test_too_few_items_to_choose_rates_on_are_refused():
    with pytest.raises(GraftError, match="too few items to hold some out"):
        compare(table(8), "tiny:text", ["full", "lp_ft"])


def test_the_folder_holds_the_numbers_and_the_page_that_is_made_of_them(found, tmp_path):
    found.write(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["comparison.html", "comparison.json"]
    numbers = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert numbers == json.loads(json.dumps(found.to_dict()))
    write_comparison(numbers, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == (tmp_path / "new" / "comparison.html").read_text()


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", -1), ("log_loss", 1)])
def test_the_rate_that_does_best_on_the_held_out_part_is_chosen(metric, sign, monkeypatch):
    # In the metric's own unit: the middle rate is the best whichever way is better.
    monkeypatch.setattr(comparison.Contest, "score", lambda self, model, index: sign * abs(np.log(model.lr / 1e-3)))
    found = compare(table(40), "tiny:text", ["feature_extraction", "full"], rates=(1e-4, 1e-3, 1e-2), epochs=1, metric=metric)
    assert rival(found, "full").rates == [1e-3] * 5
