"""Splits: disjoint, stratified, reproducible, blocks never parted."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from graft.data import draw, folds, holdout, sparable
from graft.errors import GraftError


def classes(n=200, shares=(0.6, 0.3, 0.1), seed=0):
    return np.random.default_rng(seed).choice(len(shares), n, p=shares)


def targets():
    rng = np.random.default_rng(1)
    return {
        "classification": classes(),
        "multilabel": (rng.random((200, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(float),
        "regression": rng.normal(size=200) ** 3,
    }


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("blocked", [False, True])
def test_every_item_is_tested_once_a_repeat(task, blocked):
    y = targets()[task]
    blocks = np.random.default_rng(2).integers(0, 60, len(y)) if blocked else None
    pairs = folds(y, task, 5, seed=0, repeats=2, blocks=blocks)
    assert len(pairs) == 10
    for repeat in (pairs[:5], pairs[5:]):
        assert np.array_equal(np.sort(np.concatenate([test for _, test in repeat])), np.arange(len(y)))
    for train, test in pairs:
        assert len(np.intersect1d(train, test)) == 0 and len(train) + len(test) == len(y)
        if blocks is not None:
            assert len(np.intersect1d(blocks[train], blocks[test])) == 0


def test_classes_are_spread_as_evenly_as_by_scikit_learn():
    y = classes(173)
    ours = [np.bincount(y[test], minlength=3) for _, test in folds(y, "classification", 5, seed=0)]
    theirs = [np.bincount(y[test], minlength=3) for _, test in StratifiedKFold(5).split(y[:, None], y)]
    assert np.ptp(ours, axis=0).max() <= 1 == np.ptp(theirs, axis=0).max()
    assert np.ptp(np.sum(ours, axis=1)) <= 1


def test_many_small_classes_do_not_unbalance_the_folds():
    y = np.repeat(np.arange(40), 3)
    sizes = [len(test) for _, test in folds(y, "classification", 5, seed=0)]
    assert max(sizes) - min(sizes) <= 1


def test_rare_labels_are_spread_over_the_folds():
    y = targets()["multilabel"]
    counts = np.array([y[test].sum(axis=0) for _, test in folds(y, "multilabel", 5, seed=0)])
    assert np.all(np.ptp(counts, axis=0) <= 3)
    assert np.ptp(counts[:, 3]) <= 1


def test_each_fold_of_a_skewed_number_sees_its_whole_range():
    y = targets()["regression"]
    medians = [np.median(y[test]) for _, test in folds(y, "regression", 5, seed=0)]
    unstratified = [np.median(part) for part in np.array_split(np.random.default_rng(0).permutation(y), 5)]
    assert np.std(medians) < np.std(unstratified)


def test_blocks_and_classes_are_balanced_together():
    y = classes(600)
    blocks = np.where(np.arange(600) < 300, np.arange(600) // 10, np.arange(600))
    counts = np.array([np.bincount(y[test], minlength=3) for _, test in folds(y, "classification", 5, seed=0, blocks=blocks)])
    assert np.ptp(counts, axis=0).max() <= 6


def test_the_same_seed_gives_the_same_folds_and_another_gives_others():
    y = classes()
    first, again, other = (np.concatenate([test for _, test in folds(y, "classification", 5, seed=seed)]) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_too_many_folds_name_both_numbers():
    with pytest.raises(GraftError, match="got 5 folds for 3 items, expected 2 to 3 folds"):
        folds(np.array([0, 1, 1]), "classification", 5, seed=0)
    with pytest.raises(GraftError, match="got 5 folds for 2 items that may be parted"):
        folds(classes(20), "classification", 5, seed=0, blocks=np.arange(20) % 2)


def test_items_that_all_stay_together_have_no_folds():
    with pytest.raises(GraftError, match=r"20 items, all of one group or near-duplicates .*expected at least 2 that may"):
        folds(classes(20), "classification", 2, seed=0, blocks=np.zeros(20, int))
    with pytest.raises(GraftError, match="1 items: no folds can be made"):
        folds(np.array([0]), "classification", 2, seed=0)


def test_a_holdout_takes_its_share_of_every_class():
    y = classes(300)
    train, test = holdout(y, "classification", 0.2, seed=0)
    assert np.all(np.abs(np.bincount(y[test]) - 0.2 * np.bincount(y)) <= 1)
    assert len(np.intersect1d(train, test)) == 0 and len(train) + len(test) == 300


def test_a_class_of_one_item_stays_in_train():
    y = np.array([0] * 20 + [1] * 20 + [2])
    for seed in range(10):
        train, _ = holdout(y, "classification", 0.5, seed=seed)
        assert 40 in train


def test_a_holdout_keeps_blocks_on_one_side():
    y, blocks = classes(300), np.random.default_rng(0).integers(0, 50, 300)
    train, test = holdout(y, "classification", 0.25, seed=0, blocks=blocks)
    assert len(np.intersect1d(blocks[train], blocks[test])) == 0
    assert 55 <= len(test) <= 95


def test_an_impossible_share_is_refused():
    with pytest.raises(GraftError, match=r"got share=1\.5"):
        holdout(classes(), "classification", 1.5, seed=0)
    with pytest.raises(GraftError, match=r"cannot hold out 0.2 of 4 items"):
        holdout(np.array([0, 0, 1, 1]), "classification", 0.2, seed=0, blocks=np.zeros(4, dtype=int))


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_a_smaller_draw_is_part_of_a_larger_one(task):
    y = targets()[task]
    drawn = [set(draw(y, task, n, seed=0)) for n in (5, 20, 100, 200)]
    assert [len(part) for part in drawn] == [5, 20, 100, 200]
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3]


def test_a_draw_holds_every_class_in_its_share():
    y = classes(1000, (0.7, 0.29, 0.01))
    assert set(y[draw(y, "classification", 3, seed=0)]) == {0, 1, 2}
    drawn = np.bincount(y[draw(y, "classification", 200, seed=0)])
    assert np.all(np.abs(drawn - 0.2 * np.bincount(y)) <= 2)


def test_a_draw_beyond_the_data_is_refused():
    with pytest.raises(GraftError, match="got n=201 items to draw, expected 1 to 200"):
        draw(classes(), "classification", 201, seed=0)


@pytest.mark.parametrize(("classes", "each", "held"), [(10, 2, 4), (7, 3, 4), (50, 2, 20)])
def test_many_small_classes_still_leave_a_fifth_to_hold_out(classes, each, held):
    y = np.repeat(np.arange(classes), each)
    train, test = holdout(y, "classification", 0.2, 0)
    assert len(test) == held
    assert set(y[train]) == set(y)


def test_where_every_held_out_block_is_needed_another_is_held_out():
    # Only the items of the last class may be spared, and 19 of 20 draws hold out others first.
    y, blocks = np.array([*range(18), 18, 18]), np.array([*range(18), 18, 19])
    for seed in range(20):
        train, test = holdout(y, "classification", 0.05, seed, blocks=blocks)
        assert len(test) and set(y[train]) == set(y) and not set(blocks[train]) & set(blocks[test])


def test_what_may_be_spared_leaves_every_class_behind():
    y = np.array([0, 0, 1, 1])
    assert sparable(y, None).tolist() == [True, False, False, False]
    assert sparable(y, np.array([5, 5, 6, 7])).tolist() == [False, False, True, False]
    assert not sparable(y, np.array([5, 5, 6, 6])).any()
