"""`auto`: starts from the probe, goes on while held-out items support it, and says why it stopped."""

import numpy as np
import pytest

from graft.auto import DEARER, FREE, climb, n_parts

N = 200


class Bought:
    """A budget that buys what it is told: epochs, a number or strategy -> number, and parts."""

    def __init__(self, epochs, parts=1):
        self.asked, self._epochs, self._parts = [], epochs, parts

    def parts(self, wanted, strategies, least):
        self.least = least
        return min(wanted, self._parts)

    def epochs(self, strategy, parts):
        assert parts == self._parts
        self.asked.append(strategy)
        return self._epochs(strategy) if callable(self._epochs) else self._epochs


TARGET = np.arange(N) % 2


def answering(wrong, log=None):
    """An `answer` whose strategies are wrong on so many of the first items they are asked for in each call, in a share of the items."""

    def answer(strategy, epochs, fitted, held):
        assert not set(fitted) & set(held)
        if log is not None:
            log.append((strategy, epochs, len(held)))
        outputs = np.full((len(held), 2), 0.1)
        outputs[np.arange(len(held)), TARGET[held]] = 0.9
        bad = np.isin(held, np.flatnonzero(np.arange(N) % 100 < 100 * wrong[strategy]))
        outputs[bad] = outputs[bad][:, ::-1]
        return outputs

    return answer


def came_to(wrong, modality="image", time_left=None, log=None, **options):
    wrong = {**dict.fromkeys((*FREE[modality], *DEARER[modality]), 0.3), **wrong}
    return climb(answering(wrong, log), TARGET, "classification", "accuracy", modality=modality, seed=0, time_left=time_left, **options)


def test_a_probe_that_is_hardly_wrong_is_kept_and_nothing_else_is_tried():
    log = []
    climbed = came_to({"feature_extraction": 0.04}, log=log)
    assert climbed.strategy == "feature_extraction" and {name for name, *_ in log} == {"feature_extraction"}
    assert "wrong on 8 of 200 held-out items, and below 9 a gain cannot be told from chance" in climbed.why
    assert [(rung.strategy, rung.score.value, rung.score.n) for rung in climbed.rungs] == [("feature_extraction", pytest.approx(0.96), 200)]


def test_what_is_clearly_better_takes_the_place_of_the_best_so_far():
    climbed = came_to({"head2toe": 0.1})
    assert climbed.strategy == "head2toe"
    assert [rung.why.rpartition(": ")[2] for rung in climbed.rungs] == ["what the others are compared with", "kept"]
    assert climbed.why.startswith("stayed with head2toe: there is no budget")


def test_a_gain_within_its_standard_error_is_not_kept():
    # One item of 200 better: 0.005, with a standard error of 0.0086 as one item is added in favour of each side.
    assert came_to({"feature_extraction": 0.30, "head2toe": 0.295}).strategy == "feature_extraction"
    assert came_to({"feature_extraction": 0.30, "head2toe": 0.26}).strategy == "head2toe"


def test_every_item_is_answered_for_once_by_what_is_free_and_a_fifth_by_what_is_dearer():
    log = []
    came_to({}, log=log)
    assert [held for name, _, held in log if name == "head2toe"] == [40] * 5
    # Nothing is trained to compare them: epochs are 0.
    assert {epochs for _, epochs, _ in log} == {0}
    log.clear()
    climbed = came_to({"lp_ft": 0.0}, modality="text", time_left=Bought(7), log=log)
    assert [held for name, _, held in log if name == "feature_extraction"] == [40] * 5 + [40]
    assert [(epochs, held) for name, epochs, held in log if name == "lp_ft"] == [(7, 40)]
    assert (climbed.strategy, climbed.epochs) == ("lp_ft", 7)
    assert climbed.why == "lp_ft: better than feature_extraction on held-out items by more than the standard error."


def test_what_trains_answers_for_every_item_where_there_is_time_for_it():
    log = []
    climbed = came_to({"lp_ft": 0.2}, modality="text", time_left=Bought(7, parts=5), log=log)
    assert [(epochs, held) for name, epochs, held in log if name == "lp_ft"] == [(7, 40)] * 5
    assert climbed.strategy == "lp_ft" and climbed.rungs[-1].score.n == 200


@pytest.mark.parametrize(("n", "parts"), [(20, 5), (500, 5), (501, 5), (1000, 3), (2500, 1), (10**6, 1)])
def test_of_many_items_as_many_folds_are_played_as_hold_five_hundred(n, parts):
    assert n_parts(n) == parts


def test_time_is_asked_for_each_strategy_that_trains_and_none_is_played_without():
    bought, log = Bought(lambda strategy: 5 if strategy == "l2_sp" else 0), []
    climbed = came_to({}, modality="text", time_left=bought, log=log)
    assert bought.asked == ["lp_ft", "partial", "l2_sp"]
    assert {name for name, *_ in log} == {"feature_extraction", "late_stages", "l2_sp"}
    assert climbed.strategy == "feature_extraction"
    assert "l2_sp did not do better on held-out items" in climbed.why
    assert "allows nothing dearer" in came_to({}, modality="text", time_left=Bought(0)).why


def test_too_few_held_out_mistakes_end_it_before_anything_trains():
    log = []
    climbed = came_to({"feature_extraction": 0.1}, modality="text", time_left=Bought(5), log=log)
    assert {name for name, *_ in log} == {"feature_extraction", "late_stages"}
    assert climbed.strategy == "feature_extraction" and "of 40 held-out items" in climbed.why


def many(n):
    """A climb on n texts without a budget, and what was answered with."""
    target, log = np.arange(n) % 2, []

    def answer(strategy, epochs, fitted, held):
        log.append(strategy)
        wrong = np.arange(n)[held] % 10 < {"feature_extraction": 5, "late_stages": 2}[strategy]
        return np.eye(2)[target[held] ^ wrong]

    return climb(answer, target, "classification", "accuracy", modality="text", seed=0), log


def test_late_stages_of_up_to_five_hundred_texts_are_compared_without_a_budget():
    climbed, log = many(500)
    assert climbed.strategy == "late_stages" and set(log) == {"feature_extraction", "late_stages"}
    climbed, log = many(501)
    assert (climbed.strategy, climbed.rungs, log) == ("feature_extraction", (), [])
    assert climbed.why == "stayed with the frozen probe: there is no budget for finding out whether retraining pays."
    assert "Of so many items it often does: name one (--budget 10m)" in many(2500)[0].why


@pytest.mark.parametrize(("wrong", "least"), [(0.3, 2), (0.1, 4), (0.05, 7)])
def test_so_many_parts_are_asked_for_that_a_gain_could_be_shown(wrong, least):
    """A part of 40 items holds 12, 4 or 2 mistakes; nine, and half as many again, take so many parts."""
    bought = Bought(3, parts=5)
    came_to({"feature_extraction": wrong, "head2toe": wrong}, time_left=bought)
    assert bought.least == least


def test_nothing_is_known_of_mistakes_where_nothing_was_compared_for_free():
    bought = Bought(3)
    target = np.arange(600) % 2
    climb(lambda *asked: np.eye(2)[asked[-1] % 2], target, "classification", "accuracy", modality="text", seed=0, time_left=bought)
    assert bought.least == 1


def test_a_longer_budget_is_named_where_it_would_hold_out_more():
    assert came_to({"head2toe": 0.15}, time_left=Bought(3)).why.endswith("More labels would show more. So would a longer budget.")
    assert came_to({"head2toe": 0.04}, time_left=Bought(3)).why.endswith("More labels would show more.")


def test_too_few_items_are_not_held_out():
    climbed = climb(answering({}), np.arange(8) % 2, "classification", "accuracy", modality="text", seed=0)
    assert climbed.rungs == () and "8 items are too few to hold some out" in climbed.why
    blocks = np.repeat(np.arange(4), 50)
    assert "too few" in came_to({}, blocks=blocks).why
    one_each = climb(answering({}), np.arange(N), "classification", "accuracy", modality="text", seed=0)
    assert one_each.rungs == () and "200 items are too few to hold some out" in one_each.why


def test_a_class_of_one_item_keeps_nobody_from_comparing():
    target = np.where(np.arange(N) == 7, 2, TARGET)

    def answer(strategy, epochs, fitted, held):
        outputs = np.eye(3)[target[held]]
        return outputs[:, [1, 0, 2]] if strategy == "feature_extraction" else outputs

    climbed = climb(answer, target, "classification", "accuracy", modality="image", seed=0)
    assert climbed.strategy == "head2toe" and [rung.score.n for rung in climbed.rungs] == [N, N]


def test_a_regression_goes_on_whatever_its_error_is():
    target = np.linspace(0, 1, N)

    def answer(strategy, epochs, fitted, held):
        return target[held] + {"feature_extraction": 0.3, "head2toe": 0.1}[strategy]

    climbed = climb(answer, target, "regression", "mae", modality="image", seed=0)
    assert climbed.strategy == "head2toe" and len(climbed.rungs) == 2


def few_texts(n, wrong, classes=2, time_left=None):
    """A climb on n texts whose strategies are wrong on the items below so many."""
    target = np.arange(n) % classes

    def answer(strategy, epochs, fitted, held):
        return np.eye(classes)[(target[held] + (held < wrong[strategy])) % classes]

    return climb(answer, target, "classification", "accuracy", modality="text", seed=0, time_left=time_left)


@pytest.mark.parametrize(
    ("n", "classes", "first"),
    [(16, 2, "late_stages"), (48, 6, "late_stages"), (47, 6, "feature_extraction"), (99, 2, "late_stages"), (100, 2, "feature_extraction")],
)
def test_few_texts_with_eight_labels_a_class_begin_with_late_stages(n, classes, first):
    climbed = few_texts(n, {"feature_extraction": 10, "late_stages": 10}, classes)
    assert climbed.strategy == climbed.rungs[0].strategy == first
    assert ("as it did better on other sets of so few texts" in climbed.why) == (first == "late_stages")


def test_few_texts_go_back_to_the_probe_where_it_is_clearly_better():
    climbed = few_texts(48, {"feature_extraction": 6, "late_stages": 20})
    assert climbed.strategy == "feature_extraction" and [rung.strategy for rung in climbed.rungs] == ["late_stages", "feature_extraction"]
    assert few_texts(48, {"feature_extraction": 19, "late_stages": 20}).strategy == "late_stages"


def test_late_stages_of_many_texts_are_tried_where_there_is_a_budget():
    target, bought = np.arange(1000) % 2, Bought(lambda strategy: int(strategy == "late_stages"))

    def answer(strategy, epochs, fitted, held):
        return np.eye(2)[target[held] ^ (held % 10 < {"feature_extraction": 5, "late_stages": 2}[strategy])]

    climbed = climb(answer, target, "classification", "accuracy", modality="text", seed=0, time_left=bought)
    assert bought.asked == ["late_stages", "lp_ft", "partial", "l2_sp"]
    assert climbed.strategy == "late_stages"
