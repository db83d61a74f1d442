"""A time budget: in words ("90s", "10m", "2h"), and as a limit that whoever is at work asks about. Standard library only."""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from graft.errors import GraftError

_ends = math.inf

_UNIT_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def budget_seconds(budget: str | float) -> float:
    """The seconds a budget stands for.

    budget: a number of seconds, or text: a number and s, m or h, e.g. "90s", "10m", "1.5h", "600".
    Raises GraftError when it is neither, or not above zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)", str(budget).strip().lower())
    unit = _UNIT_SECONDS.get(match[2]) if match else None
    seconds = float(match[1]) * unit if match and unit else math.nan
    if not 0 < seconds < math.inf:
        raise GraftError(f"budget {budget!r}: expected a time above zero: seconds, or a number with s, m or h, e.g. 90s, 10m, 2h, 1.5h.")
    return seconds


class Spent(GraftError):
    """Work was ended because its time was up."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Within, time is up after so many seconds, or when a limit around this one says so: training ends at its next step, `check` raises.

    One limit a process: threads share it.
    """
    global _ends
    before = _ends
    _ends = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _ends = before


def left() -> float:
    """Seconds until time is up: below 0 afterwards, infinite outside of `within`."""
    return _ends - time.monotonic()


def check(what: str) -> None:
    """Raise Spent where time is up. what: is under way, for the message."""
    if left() <= 0:
        raise Spent(f"the budget was spent before {what} was finished, expected more time. Name a larger budget.")
