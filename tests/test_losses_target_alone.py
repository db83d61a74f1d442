"""Losses that learn from unlabelled items: each is its paper's equation, written out by hand or transcribed from its authors' code."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from test_losses import random, softmax, tensor
from torch.nn.functional import cross_entropy

from graft.backbones.tiny import load
from graft.losses import LOSSES, Other, Seen
from graft.losses.target_alone import balanced_labels, entropy, flexible, information, pseudo_labels
from graft.records import Plan
from graft.strategies import make_plan

NAMES = ("entropy_minimisation", "shot", "consistency", "consistency_balanced", "pseudo")


class Started:
    target = torch.zeros(0)


def seen_of(logits, features=None, again=None, places=None):
    """A batch of the other domain alone."""
    features = torch.zeros(len(logits), 4) if features is None else features
    places = torch.arange(len(logits)) if places is None else places
    other = Other((), features, logits, places, None if again is None else torch.zeros(len(again), 4), again)
    return Seen(0, (), features, logits, torch.empty(0, dtype=torch.long), None, False, other)


def made(name, features=None, logits=None):
    """The loss, at the beginning of an epoch in which it may look at these."""
    loss = LOSSES[name](Started())
    loss.begin_epoch(lambda: (features, logits))
    return loss


def test_entropy_is_that_of_each_item():
    """Truth: Wang et al. 2021, section 3.1, H = -sum p log p, by numpy; sure and unsure rows in closed form."""
    logits = random(7, 4)
    shares = softmax(logits)
    expected = -(shares * np.log(shares)).sum(1)
    np.testing.assert_allclose(entropy(tensor(logits)), expected, rtol=1e-5)
    assert made("entropy_minimisation")(seen_of(tensor(logits))).item() == pytest.approx(expected.mean(), rel=1e-5)
    assert entropy(torch.zeros(1, 5)).item() == pytest.approx(math.log(5))
    assert entropy(torch.tensor([[2000.0, 0.0]])).item() == 0.0


def test_information_is_equation_3_of_shot():
    """Truth: L_ent + L_div; L_div = sum over classes of mean p log mean p. Its least value is -log c."""
    shares = softmax(random(9, 4))
    mean = shares.mean(0)
    expected = -(shares * np.log(shares)).sum(1).mean() + (mean * np.log(mean)).sum()
    assert information(tensor(np.log(shares))).item() == pytest.approx(expected, rel=1e-4)
    assert information(100 * torch.eye(4)).item() == pytest.approx(-math.log(4), rel=1e-5)


def labels_of_the_authors(all_fea, all_output, rounds=1):
    """`obtain_label` of SHOT's image_target.py, distance "cosine", threshold 0, in numpy; it has one round."""
    all_output = softmax(all_output)
    predict = all_output.argmax(1)
    all_fea = np.concatenate((all_fea, np.ones((len(all_fea), 1))), 1)
    all_fea = (all_fea.T / np.linalg.norm(all_fea, axis=1)).T
    K = all_output.shape[1]
    aff = all_output
    initc = aff.transpose().dot(all_fea)
    initc = initc / (1e-8 + aff.sum(axis=0)[:, None])
    cls_count = np.eye(K)[predict].sum(axis=0)
    labelset = np.where(cls_count > 0)[0]
    dd = cdist(all_fea, initc[labelset], "cosine")
    pred_label = labelset[dd.argmin(axis=1)]
    for _ in range(rounds):
        aff = np.eye(K)[pred_label]
        initc = aff.transpose().dot(all_fea)
        initc = initc / (1e-8 + aff.sum(axis=0)[:, None])
        dd = cdist(all_fea, initc[labelset], "cosine")
        pred_label = labelset[dd.argmin(axis=1)]
    return pred_label


@pytest.mark.parametrize("seed", range(5))
def test_pseudo_labels_are_those_of_shots_authors(seed):
    """Of items whose features and outputs disagree, and of a class that is never predicted."""
    centres = random(5, 16, seed=seed)
    true = np.arange(60) % 4
    features, logits = centres[true] + 3 * random(60, 16, seed=seed + 10), 1.5 * np.eye(5)[true] + random(60, 5, seed=seed + 20)
    logits[:, 4] -= 10
    expected = labels_of_the_authors(features, logits)
    assert (expected != logits.argmax(1)).any() and 4 not in expected
    assert (expected != labels_of_the_authors(features, logits, rounds=0)).any()
    np.testing.assert_array_equal(pseudo_labels(tensor(features), tensor(logits)), expected)


def test_shot_is_information_and_three_tenths_of_the_cross_entropy_with_its_labels():
    features, logits = tensor(random(20, 4)), tensor(3 * random(20, 3, seed=1))
    places = torch.tensor([4, 0, 17])
    labels = pseudo_labels(features, logits)[places]
    now = tensor(random(3, 3, seed=2))
    given = made("shot", features, logits)(seen_of(now, places=places))
    assert given.item() == pytest.approx((information(now) + 0.3 * cross_entropy(now, labels)).item(), rel=1e-5)


def test_consistency_is_equation_4_of_fixmatch():
    """Truth: 1/k sum 1(max q >= 0.95) H(argmax q, p of the strong view); no gradient through the weak one."""
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 9.0]], requires_grad=True)
    again = tensor(random(3, 3)).requires_grad_()
    sure = softmax(logits.detach().numpy()).max(1)
    assert (sure >= 0.95).tolist() == [True, False, True]
    strong = np.log(softmax(again.detach().numpy()))
    loss = made("consistency")(seen_of(logits, again=again))
    assert loss.item() == pytest.approx(-(strong[0, 0] + strong[2, 2]) / 3, rel=1e-5)
    loss.backward()
    assert logits.grad is None and (again.grad.abs().sum(1) > 0).tolist() == [True, False, True]


def test_flexible_thresholds_are_those_of_flexmatch():
    """Truth: Zhang et al. 2021, equations 5, 11 and 12, by hand: 6 and 3 of 12 items are sure, then 2 and 1."""
    sure, unsure = [0.97, 0.02, 0.01], [0.5, 0.3, 0.2]
    many = torch.tensor([sure] * 6 + [sure[1::-1] + sure[2:]] * 3 + [unsure] * 3)
    x = 3 / 6
    np.testing.assert_allclose(flexible(many), [0.95, 0.95 * x / (2 - x), 0.0], rtol=1e-6)
    few = torch.tensor([sure] * 2 + [sure[1::-1] + sure[2:]] + [unsure] * 9)
    x = np.array([2, 1, 0]) / 9
    np.testing.assert_allclose(flexible(few), 0.95 * x / (2 - x), rtol=1e-6)


def test_balanced_consistency_lets_less_sure_items_of_a_rare_class_count():
    sure = torch.tensor([[9.0, 0.0]] * 6 + [[0.0, 9.0]] * 2)
    rare, frequent = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    loss = made("consistency_balanced", None, sure)
    # Sure by 0.73: above 0.95 (1/3) / (2 - 1/3) = 0.19, and below 0.95.
    assert loss(seen_of(rare, again=torch.zeros(1, 2))).item() == pytest.approx(math.log(2))
    assert loss(seen_of(frequent, again=torch.zeros(1, 2))).item() == 0.0
    assert made("consistency")(seen_of(rare, again=torch.zeros(1, 2))).item() == 0.0


def labels_by_hand(probabilities, share):
    """Zou et al. 2018, equation 8, with thresholds as their algorithm 2 sets them."""
    sure, predicted = probabilities.max(1), probabilities.argmax(1)
    thresholds = np.ones(probabilities.shape[1])
    for c in range(probabilities.shape[1]):
        ordered = np.sort(sure[predicted == c])[::-1]
        if int(share * len(ordered)):
            thresholds[c] = ordered[int(share * len(ordered)) - 1]
    ratio = probabilities / thresholds
    return np.where(ratio.max(1) >= 1, ratio.argmax(1), -1)


def test_labels_of_self_training_are_the_surest_share_of_each_class():
    probabilities = softmax(2 * random(200, 3) + [2, 1, 0])
    for share in (0.2, 0.5, 1.0):
        labels = balanced_labels(tensor(probabilities), share).numpy()
        np.testing.assert_array_equal(labels, labels_by_hand(probabilities, share))
    predicted = np.bincount(probabilities.argmax(1), minlength=3)
    assert predicted[0] > 2 * predicted[2]
    # As many of each class as its share, and of a class of few items one.
    assert (np.bincount(labels_by_hand(probabilities, 0.2) + 1, minlength=4)[1:] >= (0.2 * predicted).astype(int)).all()
    assert balanced_labels(torch.tensor([[0.6, 0.4], [0.4, 0.6]]), 0.2).tolist() == [0, 1]


def test_self_training_takes_more_items_each_epoch():
    """Truth: 20 % of the items of each class, 5 % more each epoch, at most 50 %; those without a label add nothing to the mean."""
    logits = torch.stack([torch.linspace(0.1, 5, 40), torch.zeros(40)], 1)
    loss = LOSSES["pseudo"](Started())
    for share in (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5):
        loss.begin_epoch(lambda: (None, logits))
        chosen = logits[-round(40 * share) :]
        expected = cross_entropy(chosen, torch.zeros(len(chosen), dtype=torch.long), reduction="sum") / 40
        assert loss(seen_of(logits)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert LOSSES["pseudo"](Started()).state_dict().keys() == {"rounds"}


@pytest.mark.parametrize("name", NAMES)
def test_each_needs_others_can_do_without_labels_and_needs_classes(name):
    loss, plan = LOSSES[name], Plan(make_plan("full", 4, 1, 1e-3).phases, losses=((name, 1.0),))
    assert loss.needs_others and loss.alone and loss.two_views == name.startswith("consistency")
    assert loss.refusal(load("text"), torch.nn.Linear(32, 3), "classification", plan) == ""
    said = loss.refusal(load("text"), torch.nn.Linear(32, 1), "regression", plan)
    assert name in said and "with the task regression, expected classification" in said
