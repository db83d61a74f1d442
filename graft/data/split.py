"""Draws folds, hold-outs and label budgets: stratified, reproducible, blocks kept on one side. numpy only."""

import numpy as np

from graft.errors import GraftError
from graft.records import Task

QUANTILES = 10  # bins in which the folds of a regression target are made alike


def folds(
    y: np.ndarray, task: Task, n_folds: int, seed: int, repeats: int = 1, blocks: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """n_folds x repeats pairs (train, test) of sorted indices; within a repeat each item is tested once.

    y: encoded target, see `Dataset`. Classes, label sets or quantiles are spread evenly over the folds.
    blocks: (n,) int; items with one number are never parted.
    Raises GraftError when there are fewer items (or blocks) than folds.
    Source: stratification as in scikit-learn's StratifiedGroupKFold, for label sets Sechidis et al. 2011,
    doi:10.1007/978-3-642-23808-6_10. Differs: one algorithm for all, items outside blocks are dealt class by class.
    """
    n_units = len(y) if blocks is None else len(np.unique(blocks))
    if n_units < 2:
        together = "" if blocks is None else ", all of one group or near-duplicates of each other, which stay together"
        raise GraftError(f"{len(y)} items{together}: no folds can be made, expected at least 2 that may be parted. Add others.")
    if not 2 <= n_folds <= n_units:
        unit = "items" if blocks is None else "items that may be parted (groups and near-duplicates stay together)"
        raise GraftError(f"got {n_folds} folds for {n_units} {unit}, expected 2 to {n_units} folds.")
    pairs = []
    for repeat in range(repeats):
        side = _deal(y, task, np.full(n_folds, 1 / n_folds), np.random.default_rng([seed, repeat]), blocks)
        pairs += [(np.flatnonzero(side != fold), np.flatnonzero(side == fold)) for fold in range(n_folds)]
    return pairs


def holdout(y: np.ndarray, task: Task, share: float, seed: int, blocks: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One pair (train, test) of sorted indices, about share of the items in test, dealt as in `folds`.

    Every class keeps at least one item in train, where blocks allow it.
    Raises GraftError for a share outside (0, 1), or when one side would be empty.
    """
    if not 0 < share < 1:
        raise GraftError(f"got share={share}, expected a share of the items between 0 and 1, such as 0.2.")
    side = _deal(y, task, np.array([1 - share, share]), np.random.default_rng(seed), blocks)
    if task == "classification":
        side = _keep_one_in_train(y, side, blocks)
        if not side.any():
            side = sparable(y, blocks).astype(int)
    train, test = np.flatnonzero(side == 0), np.flatnonzero(side == 1)
    if len(train) == 0 or len(test) == 0:
        raise GraftError(f"cannot hold out {share:g} of {len(y)} items: one side would be empty. Add items, or use another share.")
    return train, test


def draw(y: np.ndarray, task: Task, n: int, seed: int) -> np.ndarray:
    """Sorted indices of n items, with the shares of the classes kept and each class in it as soon as n allows.

    Nested: what is drawn for a smaller n with the same seed is part of what is drawn for a larger one.
    Raises GraftError when n is not in 1..len(y).
    """
    if not 1 <= n <= len(y):
        raise GraftError(f"got n={n} items to draw, expected 1 to {len(y)}.")
    rng = np.random.default_rng(seed)
    strata = _strata(y, task)
    place = np.empty(len(y))
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        # The k-th of m members stands at about k/m of the way, so that every beginning of the order has all strata in their shares.
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
        place[members[0]] = rng.random() - 1
    return np.sort(np.argsort(place, kind="stable")[:n])


def _strata(y: np.ndarray, task: Task) -> np.ndarray:
    """(n,) int: what is to be spread evenly. Classes; for label sets the rarest label of the item; for numbers the quantile."""
    if task == "classification":
        return y
    if task == "multilabel":
        counts = y.sum(axis=0)
        return np.where(y.any(axis=1), np.where(y > 0, counts, np.inf).argmin(axis=1), y.shape[1])
    ranks = np.argsort(np.argsort(y, kind="stable"), kind="stable")
    return ranks * min(QUANTILES, len(y)) // len(y)


def _deal(y: np.ndarray, task: Task, shares: np.ndarray, rng: np.random.Generator, blocks: np.ndarray | None) -> np.ndarray:
    """(n,) int: the side of each item, side s getting about shares[s] of all and of each class."""
    n = len(y)
    if task == "multilabel":
        traits = np.column_stack([y, np.ones(n)])
    else:
        traits = np.zeros((n, int(_strata(y, task).max()) + 2))
        traits[np.arange(n), _strata(y, task)] = 1
        traits[:, -1] = 1
    block = np.arange(n) if blocks is None else np.unique(blocks, return_inverse=True)[1]
    sizes = np.bincount(block)
    side = np.full(n, -1)
    # Large blocks first: the small ones can still even out what those unbalance.
    whole = np.argsort(-sizes + rng.random(len(sizes)), kind="stable")
    one_by_one = task == "multilabel"
    _place_blocks([b for b in whole if one_by_one or sizes[b] > 1], block, traits, shares, side, rng)
    if not one_by_one:
        _deal_single(_strata(y, task), shares, side, rng)
    return side


def _place_blocks(
    order: list[int], block: np.ndarray, traits: np.ndarray, shares: np.ndarray, side: np.ndarray, rng: np.random.Generator
) -> None:
    """Each block goes to the side where it unbalances the traits least. Fills in side."""
    if not order:
        return
    sums = np.zeros((int(block.max()) + 1, traits.shape[1]))
    np.add.at(sums, block, traits)
    total = np.maximum(traits.sum(axis=0), 1)
    if traits.shape[1] > 1 and all(sums[b, -1] == 1 for b in order):
        # Sechidis et al.: items with the rarest label first, while there is still a choice.
        rarest = np.where(sums[:, :-1] > 0, total[:-1], np.inf).min(axis=1)
        order = sorted(order, key=lambda b: rarest[b])
    filled = np.zeros((len(shares), traits.shape[1]))
    chosen = np.full(len(sums), -1)
    for b in order:
        # How full each side would be of the block's traits, against its share of them; rare traits weigh more.
        fullness = ((filled + sums[b] / 2) / shares[:, None] * (sums[b] / total**2)).sum(axis=1)
        best = np.flatnonzero(fullness <= fullness.min() * (1 + 1e-9))
        chosen[b] = best[0] if len(best) == 1 else rng.choice(best)
        filled[chosen[b]] += sums[b]
    placed = chosen[block] >= 0
    side[placed] = chosen[block][placed]


def _deal_single(strata: np.ndarray, shares: np.ndarray, side: np.ndarray, rng: np.random.Generator) -> None:
    """Items in no block are dealt stratum by stratum, so that each side comes to its share of it. Fills in side."""
    sizes = np.bincount(side[side >= 0], minlength=len(shares)).astype(float)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        there = np.bincount(side[members][side[members] >= 0], minlength=len(shares))
        singles = rng.permutation(members[side[members] < 0])
        lacking = np.maximum(len(members) * shares - there, 0)
        if len(singles) == 0:
            continue
        quota = lacking * len(singles) / lacking.sum()
        counts = np.floor(quota + 1e-9).astype(int)
        # Whole items that are left go where the fraction is largest, that of all strata so far among it: else a side with a small share
        # would get nothing from many small strata.
        spare = len(singles) - counts.sum()
        lacking = quota - counts + shares * sizes.sum() - sizes
        order = np.lexsort((rng.random(len(shares)), np.round((sizes + counts) / shares, 6), -np.round(lacking, 6)))
        counts[order[:spare]] += 1
        side[singles] = np.repeat(np.arange(len(shares)), counts)
        sizes += counts


def _keep_one_in_train(y: np.ndarray, side: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    """Moves one item, with its block, to train for each class that has none there."""
    side = side.copy()
    for label in np.setdiff1d(y, y[side == 0]):
        item = np.flatnonzero(y == label)[0]
        side[item if blocks is None else blocks == blocks[item]] = 0
    return side


def sparable(y: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    """(n,) bool: the first item, with its block, without which every class is still there; no item where there is none such."""
    none = np.zeros(len(y), bool)
    for item in range(len(y)):
        gone = np.arange(len(y)) == item if blocks is None else blocks == blocks[item]
        if len(np.unique(y[~gone])) == len(np.unique(y)):
            return gone
    return none
