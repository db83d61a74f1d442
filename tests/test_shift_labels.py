"""Estimates of label shift, self-training, T3A and SHOT's clusters, held against their papers, official code and known answers."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import softmax
from test_shift import made_of, shifted, without_source

from graft.shift import SHIFTS
from graft.shift.label_shift import bbse_shares, saerens_shares
from graft.shift.self_training import balanced_labels, clustered_labels

# Label shift.


def outputs_of_counts(table):
    """(n, c) certain outputs and labels (n,) of which table[i][j] items of class j were predicted as i."""
    table = np.array(table)
    i, j = (index.ravel() for index in np.indices(table.shape))
    return np.repeat(np.eye(len(table))[i], table.ravel(), axis=0), np.repeat(j, table.ravel())


@pytest.mark.parametrize("soft", [True, False])
def test_bbse_finds_the_shares_that_a_known_confusion_turns_into_what_is_predicted(soft):
    # Of class 0, 80 % are right; of class 1, 70 %; of class 2, 90 %.
    held_out, labels = outputs_of_counts([[800, 100, 50], [100, 350, 50], [100, 50, 900]])
    rates = np.array([[0.8, 0.2, 0.05], [0.1, 0.7, 0.05], [0.1, 0.1, 0.9]])
    seen = rates @ [0.1, 0.7, 0.2]
    target = np.repeat(np.eye(3), np.round(seen * 2000).astype(int), axis=0)
    assert bbse_shares(held_out, labels, target, soft=soft) == pytest.approx([0.1, 0.7, 0.2], abs=1e-6)


def test_bbse_by_probabilities_uses_their_means():
    held_out, labels = np.array([[0.8, 0.2], [0.3, 0.7]] * 500), np.arange(1000) % 2
    target = np.tile([[0.4, 0.6]], (1000, 1))
    # 0.8 q + 0.3 (1 - q) = 0.4
    assert bbse_shares(held_out, labels, target) == pytest.approx([0.2, 0.8], abs=1e-6)


def test_bbse_never_gives_a_class_less_than_nothing():
    held_out, labels = outputs_of_counts([[400, 200], [100, 300]])
    # More is predicted as 0 than any mix of the classes could be: 0.9 > 0.8.
    shares = bbse_shares(held_out, labels, np.repeat(np.eye(2), [900, 100], axis=0))
    assert shares == pytest.approx([1, 0], abs=0.02)


def test_bbse_holds_to_the_sources_shares_where_classes_cannot_be_told_apart():
    held_out, labels = outputs_of_counts([[100, 100, 0], [100, 100, 0], [0, 0, 400]])
    shares = bbse_shares(held_out, labels, np.repeat(np.eye(3), [31, 29, 20], axis=0))
    assert shares == pytest.approx([0.375, 0.375, 0.25], abs=0.03)


def test_bbse_leaves_out_a_class_that_the_source_lacks():
    held_out, labels = outputs_of_counts([[800, 0, 200], [0, 0, 0], [200, 0, 800]])
    shares = bbse_shares(held_out, labels, np.repeat(np.eye(3), [740, 0, 260], axis=0))
    assert shares == pytest.approx([0.9, 0, 0.1], abs=1e-6)


def test_saerens_finds_the_likeliest_shares():
    """One input of two values; the likelihood of the first is 0.8 and 0.3: the shares that give its frequency are the likeliest."""
    prior = np.array([0.6, 0.4])
    likelihood = np.array([[0.8, 0.3], [0.2, 0.7]])
    posterior = likelihood * prior / (likelihood * prior).sum(axis=1, keepdims=True)
    # 0.8 q + 0.3 (1 - q) = 0.45
    assert saerens_shares(posterior[np.repeat([0, 1], [45, 55])], prior) == pytest.approx([0.3, 0.7], abs=1e-4)


def test_saerens_ends_in_a_fixed_point_of_its_equation():
    rng = np.random.default_rng(0)
    outputs, prior = softmax(2 * rng.normal(size=(300, 4)) + [0, 1, 0, 0], axis=1), np.array([0.1, 0.2, 0.3, 0.4])
    shares = saerens_shares(outputs, prior)
    posterior = outputs * shares / prior
    posterior /= posterior.sum(axis=1, keepdims=True)
    assert shares.sum() == pytest.approx(1) and posterior.mean(axis=0) == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("name", ["bbse", "saerens"])
def test_the_head_gives_bayes_rule_under_the_new_shares(name):
    """Saerens et al. 2002, eq. 2.4."""
    domains, _ = shifted("label", 3)
    adapted = SHIFTS[name](domains)
    outputs = domains.head.outputs(domains.target)
    shares = bbse_shares(domains.held_out, domains.labels, outputs) if name == "bbse" else saerens_shares(outputs, domains.prior)
    by_hand = outputs * shares / domains.prior
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    assert adapted.head.outputs(domains.target) == pytest.approx(by_hand, abs=1e-4)
    weights = (shares / domains.prior)[domains.labels]
    assert adapted.weights == pytest.approx(weights / weights.mean(), abs=1e-5)


@pytest.mark.parametrize("estimate", ["bbse", "saerens"])
def test_estimated_shares_are_near_the_true_ones(estimate):
    domains, truth = shifted("label", 4, n=3000, m=3000)
    outputs = domains.head.outputs(domains.target)
    shares = bbse_shares(domains.held_out, domains.labels, outputs) if estimate == "bbse" else saerens_shares(outputs, domains.prior)
    # Two to three standard errors of a share among classes that overlap.
    assert shares == pytest.approx(np.bincount(truth) / 3000, abs=0.04)


def test_a_class_that_seems_gone_keeps_one_items_worth():
    domains, _ = shifted("same", 3)
    domains = replace(domains, target=domains.target[domains.head.outputs(domains.target).argmax(axis=1) != 2])
    moved = SHIFTS["saerens"](domains).head.bias - domains.head.bias
    assert moved[2] >= np.log(1 / (len(domains.target) + 3) / domains.prior[2]) - 1e-5


# Self-training.


@pytest.mark.parametrize("share", [0.2, 0.55, 1.0])
def test_balanced_labels_are_those_of_the_paper(share):
    """Zou et al. 2018, Algorithm 2 and eq. 5, one item at a time."""
    outputs = softmax(np.random.default_rng(0).normal([1.5, 0, 0, -1], size=(200, 4)), axis=1)
    by_hand, threshold = np.full(200, -1), {}
    for k in range(4):
        sure = sorted((row[k] for row in outputs if row.argmax() == k), reverse=True)
        threshold[k] = sure[int(np.ceil(share * len(sure))) - 1]
    for index, row in enumerate(outputs):
        ratios = [row[k] / threshold[k] for k in range(4)]
        if max(ratios) >= 1:
            by_hand[index] = int(np.argmax(ratios))
    labels = balanced_labels(outputs, share)
    assert (labels == by_hand).all() and set(labels) >= {0, 1, 2, 3}


def test_rounds_take_more_and_more_of_the_target_and_the_last_fit_sees_all_of_the_source():
    domains, _ = shifted("same", 3)
    seen = []

    def fit(rows, labels, weights):
        seen.append((len(rows), None if weights is None else weights[-1] / weights[0]))
        return domains.fit(rows, labels, weights)

    SHIFTS["pseudo_labels"](replace(domains, fit=fit), rounds=4, most=0.8)
    of_target = [n - 160 for n, _ in seen[1:5]]
    assert seen[0] == (160, None) and of_target == sorted(of_target) and of_target[0] >= 30 and of_target[-1] == pytest.approx(120, abs=10)
    # 200 source and 150 target items, each side as heavy as the other where all of it is labelled.
    assert seen[5][0] == 200 + of_target[-1] and seen[5][1] == pytest.approx(200 / 150)


def collapsing(domains, broken_from, broken):
    """The domains with a fit whose heads are spoiled from a call on, counted from 1."""
    calls = []

    def fit(rows, labels, weights):
        head = domains.fit(rows, labels, weights)
        calls.append((rows, labels))
        return broken(head) if len(calls) >= broken_from else head

    return replace(domains, fit=fit), calls


COLLAPSES = {
    "a class vanishes": lambda head: replace(head, bias=head.bias - np.float32([0, 0, 1000])),
    "confidence falls": lambda head: replace(head, weight=head.weight / 10, bias=head.bias / 10),
    "the source is forgotten": lambda head: replace(head, weight=head.weight[:, [1, 2, 0]], bias=head.bias[[1, 2, 0]]),
}


@pytest.mark.parametrize("case", COLLAPSES)
def test_a_first_round_that_collapses_leaves_the_head_as_it_is(case):
    domains, _ = shifted("same", 3)
    # The first call is the head that the rounds are compared with.
    spoiled, calls = collapsing(domains, 2, COLLAPSES[case])
    assert SHIFTS["pseudo_labels"](spoiled).head is domains.head and len(calls) == 2


@pytest.mark.parametrize("case", COLLAPSES)
def test_a_later_round_that_collapses_is_taken_back(case):
    domains, _ = shifted("same", 3)
    spoiled, calls = collapsing(domains, 3, COLLAPSES[case])
    SHIFTS["pseudo_labels"](spoiled)
    rounds = [len(rows) - 160 for rows, _ in calls[1:-1]]
    assert len(rounds) == 2 and len(calls[-1][0]) == 200 + rounds[0]


def test_without_a_collapse_all_rounds_are_played():
    spoiled, calls = collapsing(shifted("same", 3)[0], 99, None)
    SHIFTS["pseudo_labels"](spoiled, rounds=3)
    assert len(calls) == 1 + 3 + 1


def test_self_training_without_the_source_learns_from_the_target_alone():
    domains, truth = shifted("rotation", 3, m=400)
    spoiled, calls = collapsing(without_source(domains), 99, None)
    adapted = SHIFTS["pseudo_labels"](spoiled)
    assert all(len(rows) <= 400 for rows, _ in calls)
    right = [(head.outputs(domains.target).argmax(axis=1) == truth).mean() for head in (adapted.head, domains.head)]
    assert right[0] >= right[1]


# T3A.


def t3a_by_the_official_code(head, target, keep, batch):
    """matsuolab/T3A, domainbed/adapt_algorithms.py, class T3A, step by step over batches -> logits (m, c) at the end."""

    def classifier(rows):
        return rows @ head.weight + head.bias

    def entropy(logits):
        p = softmax(logits, axis=1)
        return -(p * np.log(p)).sum(axis=1)

    c = head.weight.shape[1]
    rows = (target - head.mean) / head.scale
    supports = head.weight.T
    labels, ent = classifier(supports).argmax(axis=1), entropy(classifier(supports))
    for start in range(0, len(rows), batch):
        z = rows[start : start + batch]
        supports = np.concatenate([supports, z])
        labels, ent = np.r_[labels, classifier(z).argmax(axis=1)], np.r_[ent, entropy(classifier(z))]
        kept = []
        for k in range(c):
            of_it = np.flatnonzero(labels == k)
            kept.append(of_it[np.argsort(ent[of_it])][: keep or None])
        kept = np.concatenate(kept)
        supports, labels, ent = supports[kept], labels[kept], ent[kept]
    directions = supports / np.linalg.norm(supports, axis=1, keepdims=True)
    weights = directions.T @ np.eye(c)[labels]
    return rows @ (weights / np.linalg.norm(weights, axis=0))


@pytest.mark.parametrize("keep", [1, 5, 20, None])
@pytest.mark.parametrize("batch", [32, 1000])
def test_t3a_is_the_official_algorithm_up_to_one_temperature(keep, batch):
    domains, _ = shifted("rotation", 5)
    adapted = SHIFTS["t3a"](domains, keep=keep)
    theirs, ours = t3a_by_the_official_code(domains.head, domains.target, keep, batch), adapted.head.logits(domains.target)
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).all()
    stretch = (ours * theirs).sum() / (theirs**2).sum()
    assert ours == pytest.approx(stretch * theirs, abs=1e-3 * float(np.abs(ours).max()))


def test_t3a_is_as_sure_on_the_whole_as_the_head_was():
    domains, _ = shifted("mean", 5)
    before, after = (head.outputs(domains.target) for head in (domains.head, SHIFTS["t3a"](domains).head))
    entropies = [-(each * np.log(each + 1e-300)).sum(axis=1).mean() for each in (before, after)]
    assert entropies[1] == pytest.approx(entropies[0], rel=0.01)


@pytest.mark.parametrize("name", ["t3a", "pseudo_labels", "shot_labels", "bbse", "saerens"])
def test_a_class_that_the_source_lacks_is_not_predicted(name):
    domains, _ = shifted("same", 3)
    domains = made_of(domains.source, np.where(domains.labels == 1, 0, domains.labels), domains.target, "classification", 3)
    assert SHIFTS[name](domains).head.outputs(domains.target)[:, 1].max() < 1e-6


# SHOT.


def labels_by_the_official_code(rows, outputs):
    """tim-learn/SHOT, object/image_target.py, obtain_label with distance="cosine" and threshold=0."""
    predict, k = outputs.argmax(axis=1), outputs.shape[1]
    fea = np.c_[rows, np.ones(len(rows))]
    fea = (fea.T / np.linalg.norm(fea, axis=1)).T
    aff = outputs
    initc = aff.T @ fea / (1e-8 + aff.sum(axis=0)[:, None])
    labelset = np.flatnonzero(np.eye(k)[predict].sum(axis=0) > 0)
    pred_label = labelset[cdist(fea, initc[labelset], "cosine").argmin(axis=1)]
    for _ in range(1):
        aff = np.eye(k)[pred_label]
        initc = aff.T @ fea / (1e-8 + aff.sum(axis=0)[:, None])
        pred_label = labelset[cdist(fea, initc[labelset], "cosine").argmin(axis=1)]
    return pred_label


def test_clusters_are_those_of_shots_code():
    rng = np.random.default_rng(0)
    rows, outputs = rng.normal(size=(200, 6)), softmax(3 * rng.normal(size=(200, 5)) - [0, 0, 0, 0, 50], axis=1)
    labels = clustered_labels(rows, outputs)
    assert (labels == labels_by_the_official_code(rows, outputs)).all() and set(labels) == {0, 1, 2, 3}


def test_shot_fits_a_head_on_the_clusters_of_the_target_alone():
    domains, _ = shifted("mean", 3)
    spoiled, calls = collapsing(domains, 99, None)
    SHIFTS["shot_labels"](spoiled)
    rows = (domains.target - domains.head.mean) / domains.head.scale
    ((fitted, labels),) = calls
    assert (fitted == domains.target).all() and (labels == labels_by_the_official_code(rows, domains.head.outputs(domains.target))).all()
