"""How much more frequent items are in the target than in the source: weights from a classifier of the two. numpy and scikit-learn."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd

from graft.scatter import in_own_order, one_thread

# Of each side, and the axes that are looked along: more of either changes little and costs more.
_MOST_ITEMS = 2000
_MOST_AXES = 64
# Harrell et al. 1984, doi:10.1002/sim.4780030207: about ten items for each weight of a logistic regression.
_ITEMS_AN_AXIS = 10
_FOLDS = 5
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_NO_SPREAD = 1e-6


@one_thread
def density_ratio(learned: np.ndarray, target: np.ndarray, at: np.ndarray, seed: int = 0) -> np.ndarray:
    """p(x | target) / p(x | source) at each row of `at`, as a logistic classifier of the two domains sees it; (v,), all above 0.

    learned: (n, e) rows of the source, target: (m, e), at: (v, e) rows of the source that are not among the learned ones. seed: of what
    is drawn above 2,000 items a side. The classifier looks along principal axes of equal spread; of several strengths of its penalty that
    with the least log loss on held-out folds is taken, and the folds' log odds are averaged, so that domains which cannot be told apart
    weigh about 1 everywhere. Odds are at most as many to one as there are items; weights above sqrt(v) times their mean are cut to it.
    1 everywhere where a side has fewer than two items or no feature varies: nothing tells the domains apart there.
    Source: Bickel et al. 2007, doi:10.1145/1273496.1273507, for the ratio; Ionides 2008, doi:10.1198/106186008X320456, for the cut.
    """
    rng = np.random.default_rng(seed)
    sides = [_drawn(side, rng) for side in (learned, target)]
    folds = min(_FOLDS, *map(len, sides))
    rows = np.concatenate(sides).astype(np.float64)
    if not len(at) or folds < 2 or not (rows != rows[0]).any():
        return np.ones(len(at))
    centre, axes = _spread_axes(rows, seed)
    rows, at = (rows - centre) @ axes, (at - centre) @ axes
    of_target = np.arange(len(rows)) >= len(sides[0])
    # The k-th item of a side, in an order of its own, stands in fold k mod 5: the same folds however the items came.
    fold = np.concatenate([_places(side) % folds for side in sides])
    best, odds = np.inf, np.zeros(len(at))
    for strength in _STRENGTHS:
        loss, by_fold = 0.0, []
        for left_out in range(folds):
            kept = fold != left_out
            model = LogisticRegression(C=strength, solver="newton-cholesky").fit(rows[kept], of_target[kept])
            signs = np.where(of_target[~kept], -1.0, 1.0)
            loss += float(np.logaddexp(0.0, signs * model.decision_function(rows[~kept])).sum())
            by_fold.append(model.decision_function(at))
        if loss < best:
            best, odds = loss, np.mean(by_fold, axis=0)
    most = np.log(len(rows))
    weights = np.exp(np.clip(odds, -most, most)) * len(sides[0]) / len(sides[1])
    return np.minimum(weights, np.sqrt(len(at)) * weights.mean())


def _drawn(side: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return side if len(side) <= _MOST_ITEMS else side[np.sort(rng.choice(len(side), _MOST_ITEMS, replace=False))]


def _spread_axes(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows' mean (e,) and their first principal axes (e, r), scaled so that rows have variance 1 along each."""
    centre = rows.mean(axis=0)
    size = min(_MOST_AXES, rows.shape[1], max(1, len(rows) // _ITEMS_AN_AXIS))
    _, lengths, axes = randomized_svd(rows - centre, size, random_state=seed)
    kept = lengths > _NO_SPREAD * lengths[0]
    return centre, axes[kept].T / lengths[kept] * np.sqrt(len(rows))


def _places(rows: np.ndarray) -> np.ndarray:
    """(n,) the place of each row in an order that hangs on the rows alone."""
    places = np.empty(len(rows), int)
    places[in_own_order(rows, np.zeros(len(rows)))] = np.arange(len(rows))
    return places
