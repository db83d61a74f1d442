"""A time budget in words: "90s", "10m", "2h". Standard library only."""

import math
import re

from graft.errors import GraftError

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
