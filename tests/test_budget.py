"""Budgets in words."""

import pytest

from graft.budget import budget_seconds
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
