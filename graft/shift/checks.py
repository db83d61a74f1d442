"""What methods refuse: settings out of range, and sides that say nothing of how they spread. numpy only."""

import numpy as np

from graft.errors import raise_all
from graft.shift.base import Domains


def bounds(name: str, value: float, *, above: float = -np.inf, least: float = -np.inf, most: float = np.inf) -> list[str]:
    """What is wrong with a setting, in at most one sentence: it must be greater than `above` and lie between `least` and `most`."""
    if value > above and least <= value <= most:
        return []
    low = f"above {above:g}" if above > -np.inf else f"at least {least:g}"
    return [f"{name} is {value}, expected {low}" + (f", at most {most:g}" if most < np.inf else "")]


def check_sides(domains: Domains, *problems: str) -> None:
    """Raise GraftError, with the problems that were found before, where a side has fewer than two items, or items all alike."""
    found = list(problems)
    for name, side in (("source", domains.source), ("target", domains.target)):
        if len(side) < 2:
            found.append(f"items of the {name}: {len(side)}, expected at least 2 to know how it spreads. Add items to it")
        elif not np.ptp(side, axis=0).any():
            found.append(
                f"all {len(side)} items of the {name} have the same features, expected some that vary. "
                "Look at the items, or at the backbone"
            )
    raise_all(found)
