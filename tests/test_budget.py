"""Budgets in words, and as limits."""

import math

import pytest

from graft.budget import Spent, budget_seconds, check, left, within
from graft.errors import GraftError


@pytest.mark.parametrize(
    ("budget", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), ("600", 600), (45, 45), (0.5, 0.5), (" 3 min ", 180)]
)
def test_budgets_are_read_as_people_write_them(budget, seconds):
    assert budget_seconds(budget) == seconds


@pytest.mark.parametrize("budget", ["", "ten minutes", "10 parsecs", "-5m", "0", "m", "1h30m", "nan", "inf", "1e400", True])
def test_what_is_no_budget_is_answered_with_examples(budget):
    with pytest.raises(GraftError, match=r"budget .*: expected a time above zero: .* e\.g\. 90s, 10m, 2h, 1\.5h"):
        budget_seconds(budget)


def test_a_limit_counts_down_and_ends_with_its_block():
    assert left() == math.inf
    check("nothing in particular")
    with within(60.0):
        assert 59.0 < left() <= 60.0
        check("the first half")
    assert left() == math.inf


def test_what_is_under_way_when_time_is_up_is_named():
    with within(1e-9), pytest.raises(Spent, match="the budget was spent before the second half was finished, expected more time"):
        check("the second half")


def test_a_limit_within_another_is_never_longer():
    with within(1.0):
        with within(60.0):
            assert left() <= 1.0
        with within(0.5):
            assert left() <= 0.5
        assert 0.5 < left() <= 1.0


def test_an_error_ends_the_limit():
    with pytest.raises(ZeroDivisionError), within(1e-9):
        raise ZeroDivisionError
    assert left() == math.inf
