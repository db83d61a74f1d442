"""Each domain brought to mean 0 and spread 1 by its own statistics. numpy only."""

from dataclasses import replace

import numpy as np

from graft.errors import GraftError
from graft.shift.base import Adapted, Domains, method


@method(
    "Li et al. 2016, Revisiting batch normalization for practical domain adaptation, arXiv:1603.04779, Algorithm 1",
    tasks=("classification", "regression"),
    grid=({}, {"spread": False}),
)
def standardise(domains: Domains, spread: bool = True) -> Adapted:
    """Every source domain and the target standardised feature by feature, each by its own mean and spread, and the head fitted again.

    spread: False brings means together alone. Raises GraftError for a domain of fewer than two items: its mean is the item.
    Source: Li et al. 2016, Algorithm 1. Differs: on the features, not inside the network. Where the domains differ in the mix of their
    classes, this takes that for a shift too.
    """
    names = np.zeros(len(domains.source), int) if domains.domains is None else np.asarray(domains.domains)
    statistics = {name: _statistics(domains.source[names == name], f"source domain {name}", spread) for name in np.unique(names)}

    def read_source(rows: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
        """(k, d) -> (k, d). of: (k,) the domain of each; where it is not told and there are several, the likeliest by a Gaussian each."""
        named = _likeliest(rows, statistics) if of is None else of
        means, scales = (np.stack([statistics[name][part] for name in named]) for part in (0, 1))
        return ((rows - means) / scales).astype(np.float32)

    source = read_source(domains.source, names)
    mean, scale = _statistics(domains.target, "the target", spread)
    inner = domains.fit(source, domains.labels, None)
    folded = replace(inner, mean=mean + scale * inner.mean, scale=scale * inner.scale)
    return Adapted(folded, inner, read_source, source, ((domains.target - mean) / scale).astype(np.float32))


def _likeliest(rows: np.ndarray, statistics: dict[int, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(k,) the domain under whose mean and scale each row is likeliest, features apart."""
    surprise = [((rows - mean) ** 2 / (2 * scale**2) + np.log(scale)).sum(axis=1) for mean, scale in statistics.values()]
    return np.array(list(statistics))[np.argmin(surprise, axis=0)]


def _statistics(rows: np.ndarray, which: str, spread: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and scale (d,) of a domain."""
    if len(rows) < 2:
        raise GraftError(f"method standardise: {which} has {len(rows)} item, expected at least 2 to know its mean and spread from.")
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    if not spread:
        return mean, np.ones_like(mean)
    deviation = rows.std(axis=0, dtype=np.float64)
    typical = float(np.sqrt((deviation**2).mean())) or 1.0
    # A feature that hardly varies is not blown up to the size of the others: what it shows then is noise.
    return mean, np.maximum(deviation, 0.01 * typical).astype(np.float32)
