"""The one error a caller can mend, and the near miss that goes with it. Standard library only."""

from collections.abc import Iterable
from difflib import get_close_matches


class GraftError(ValueError):
    """What the caller can mend. The message says where, what came, what was expected, what to do next."""


class UnreadableItems(GraftError):
    """Items that no one can read: files that are gone, torn, or no images."""


class Diverged(GraftError):
    """Training whose loss is no finite number any more: a lower rate may mend it."""


def near_miss(value: object, allowed: Iterable[object]) -> str:
    """The end of an error message: " Did you mean 'x'?" where an allowed value is close, else "".

    value: what came. allowed: what was expected. Case is ignored.
    """
    by_lower = {str(name).lower(): str(name) for name in allowed}
    close = get_close_matches(str(value).lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def raise_all(problems: list[str]) -> None:
    """Raise one GraftError that holds every problem of one input; do nothing where there is none."""
    if len(problems) == 1:
        raise GraftError(problems[0])
    if problems:
        raise GraftError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))
