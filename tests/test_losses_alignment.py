"""Losses that align two domains: each is its paper's equation, moves what it should, and helps on a shift that it is made for."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from test_losses import random, softmax, tensor
from test_train import RATE, load, make_head, play
from torch import nn
from torch.nn.functional import cross_entropy

from graft.losses import LOSSES, Added, Other, Seen, Start, adversarial
from graft.losses.adversarial import disparity, products, reverse, told_apart, warmth
from graft.losses.base import as_the_head, certainty, spread
from graft.losses.discrepancy import discrepancy, several_kernels, squared_distances
from graft.records import Phase, Plan
from graft.train.added import AddedLosses

# What learns from the other domain alone is tested in test_losses_target_alone.py, what keeps its features in test_losses_replay.py; ADDA
# can be played alone, but relates two.
NAMES = [name for name in LOSSES if LOSSES[name].needs_others and (name == "adda" or not LOSSES[name].alone) and name != "replay"]
OF_FEATURES = ("deep_coral", "dan", "dann", "cdan", "cdan_e", "mdd", "adda")
ANY_TASK = ("deep_coral", "dan", "dann")
CRITICS = ("dann", "cdan", "cdan_e", "mdd", "adda")
WIDTH, CLASSES = 6, 3


class Network(nn.Module):
    """Two layers, which say how wide they are, as a backbone does."""

    def __init__(self, inputs=8, width=32):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())

    def forward(self, rows):
        return self.layers(rows)


def start_of(features, classes=CLASSES, seed=0):
    """A start whose backbone gives these features (n, d)."""
    features = tensor(features)
    target = torch.zeros(len(features), dtype=torch.long)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = Network(width=features.shape[1])
        head = nn.Linear(features.shape[1], classes)
    return Start(backbone, head, [], target, "classification", cross_entropy, 0, seed, lambda: features, None, None, [None])


def make(name, features=None, seed=0, classes=CLASSES):
    return LOSSES[name](start_of(random(20, WIDTH, seed=9) if features is None else features, classes, seed))


def without_dropout(loss):
    """What is computed from a critic's weights can be computed again."""
    return loss.eval()


def both(n=5, k=4, progress=0.5, width=WIDTH, classes=CLASSES):
    """A batch of n items beside k of the other domain, all leaves that take a gradient."""
    rows = [
        tensor(random(*shape, seed=seed)).requires_grad_()
        for seed, shape in enumerate([(n, width), (n, classes), (k, width), (k, classes)])
    ]
    target = torch.zeros(n, dtype=torch.long)
    return Seen(0, [], rows[0], rows[1], target, None, False, Other([], rows[2], rows[3], torch.arange(k)), progress)


def leaves(seen):
    return {"features": seen.features, "logits": seen.logits, "other features": seen.other.features, "other logits": seen.other.logits}


def moved(seen):
    """Which of the batch's tensors have a gradient that is not 0."""
    return {name for name, leaf in leaves(seen).items() if leaf.grad is not None and leaf.grad.abs().max() > 0}


def value(name, seen, **made):
    return without_dropout(make(name, **made))(seen).item()


# what each is: the papers' equations


def test_deep_coral_is_the_distance_of_covariances():
    """Truth: Sun & Saenko 2016, equation 1, by numpy; then by hand: variances 2 and 8 of a feature of two."""
    seen = both()
    known = random(20, WIDTH, seed=9) * 3
    source, other = (rows.detach().numpy() / np.sqrt(known.var(0).mean()) for rows in (seen.features, seen.other.features))
    expected = np.square(np.cov(source.T) - np.cov(other.T)).sum() / (4 * WIDTH**2)
    assert value("deep_coral", seen, features=known) == pytest.approx(expected, rel=1e-5)
    narrow, wide = torch.tensor([[0.0, 5.0], [2.0, 5.0]]), torch.tensor([[0.0, 1.0], [4.0, 1.0]])
    by_hand = Seen(0, [], narrow, None, None, None, False, Other([], wide, None, None))
    # A spread of 1: the mean of variances 2 and 0.
    assert value("deep_coral", by_hand, features=[[-np.sqrt(2), 0.0], [np.sqrt(2), 0.0]]) == pytest.approx((8 - 2) ** 2 / 16)


def by_loops(kernel, n):
    """Gretton et al. 2012, lemma 6, as thuml/Transfer-Learning-Library fills its index matrix, for sides of different sizes."""
    total, k = 0.0, len(kernel) - n
    for i in range(n + k):
        for j in range(n + k):
            if i < n and j < n:
                total += (i != j) * kernel[i, j] / (n * (n - 1))
            elif i >= n and j >= n:
                total += (i != j) * kernel[i, j] / (k * (k - 1))
            else:
                total -= kernel[i, j] / (n * k)
    return total


def five_kernels(rows):
    square = np.square(rows[:, None] - rows[None]).sum(2)
    return sum(rbf_kernel(rows, gamma=1 / (2 * 2.0**power * square.mean())) for power in range(-3, 2))


def test_dan_is_the_discrepancy_under_five_kernels():
    """Truth: Long et al. 2015, section 3, with scikit-learn's kernels and the bandwidths of thuml/Transfer-Learning-Library."""
    seen = both()
    rows = np.concatenate([seen.features.detach().numpy(), seen.other.features.detach().numpy()])
    assert value("dan", seen) == pytest.approx(by_loops(five_kernels(rows), 5), rel=1e-4)


def test_jan_is_the_discrepancy_under_the_product_of_kernels():
    """Truth: Long et al. 2017, the empirical joint discrepancy, with scikit-learn's kernels."""
    seen = both()
    rows = np.concatenate([seen.features.detach().numpy(), seen.other.features.detach().numpy()])
    shares = softmax(np.concatenate([seen.logits.detach().numpy(), seen.other.logits.detach().numpy()]))
    kernel = five_kernels(rows) * rbf_kernel(shares, gamma=1 / (2 * 0.92**2))
    assert value("jan", seen) == pytest.approx(by_loops(kernel, 5), rel=1e-4)


def test_the_discrepancy_has_no_bias():
    """Closed form: equal batches of two items with kernel value v give v + v - 2 (1 + v) / 2; over many draws of one law the mean is 0."""
    v = 0.3
    kernel = torch.tensor([[1, v, 1, v], [v, 1, v, 1], [1, v, 1, v], [v, 1, v, 1]])
    assert discrepancy(kernel, 2).item() == pytest.approx(v - 1)
    rng = np.random.default_rng(0)
    values = [discrepancy(several_kernels(tensor(rng.normal(size=(9, 3)))), 5).item() for _ in range(2000)]
    # With the diagonal in, the mean would be about 0.9.
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values)) + 0.01


def test_distances_far_from_the_origin_keep_their_digits():
    rows = random(6, 4)
    expected = np.square(rows[:, None] - rows[None]).sum(2)
    np.testing.assert_allclose(squared_distances(tensor(rows + 1000)).numpy(), expected, rtol=1e-3, atol=2e-3)


def test_mcc_is_the_share_of_confusion_between_classes():
    """Truth: Jin et al. 2020, section 3, in loops; then by hand, items that are sure of one class each."""
    seen = both()
    shares = softmax(seen.other.logits.detach().numpy() / 2.5)
    weight = 1 + np.exp((shares * np.log(shares)).sum(1))
    weight *= len(shares) / weight.sum()
    confusion = np.zeros((CLASSES, CLASSES))
    for i in range(CLASSES):
        for j in range(CLASSES):
            confusion[i, j] = sum(weight[item] * shares[item, i] * shares[item, j] for item in range(len(shares)))
    confusion /= confusion.sum(1, keepdims=True)
    assert value("mcc", seen) == pytest.approx((confusion.sum() - np.trace(confusion)) / CLASSES, rel=1e-5)
    # One item between two classes: its transitions are half and half. One class is certain, one nowhere.
    logits = torch.tensor([[0.0, 0.0, -1e6, -1e6], [-1e6, -1e6, 0.0, -1e6]])
    by_hand = Seen(0, [], None, None, None, None, False, Other([], None, logits, None))
    assert value("mcc", by_hand, classes=4) == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)


def test_bnm_is_the_nuclear_norm_of_predictions():
    """Truth: Cui et al. 2020, by numpy; then the bounds: one class for all, and a class each."""
    seen = both()
    assert value("bnm", seen) == pytest.approx(-np.linalg.norm(softmax(seen.other.logits.detach().numpy()), "nuc") / 4, rel=1e-5)
    for logits, expected in ((torch.tensor([[50.0, 0.0]] * 4), -math.sqrt(4) / 4), (50 * torch.eye(4), -1.0)):
        assert value("bnm", Seen(0, [], None, None, None, None, False, Other([], None, logits, None))) == pytest.approx(expected)


def test_logits_that_are_no_numbers_reach_the_loop_as_such():
    logits = torch.full((2, 3), math.nan)
    assert math.isnan(value("bnm", Seen(0, [], None, None, None, None, False, Other([], None, logits, None))))


def test_the_gradient_is_reversed_and_weighs_as_the_schedule_says():
    """Truth: Ganin et al. 2016: 2 / (1 + exp(-10 p)) - 1."""
    for progress in (0.0, 0.1, 0.5, 0.99):
        assert warmth(progress) == pytest.approx(2 / (1 + math.exp(-10 * progress)) - 1)
        rows = tensor(random(2, 3)).requires_grad_()
        given = reverse(rows, warmth(progress))
        assert torch.equal(given, rows)
        (given * 5).sum().backward()
        torch.testing.assert_close(rows.grad, torch.full((2, 3), -5 * warmth(progress)))


def test_domains_are_told_apart_by_the_mean_of_both_sides():
    """Truth: Ganin et al. 2016, equation 9's terms by hand: chance is log 2, and a side counts alike whatever its size."""
    assert told_apart(torch.zeros(5), 2).item() == pytest.approx(math.log(2))
    scores, weight = random(5), np.array([0.5, 1.5, 1.2, 0.9, 0.9])
    said = 1 / (1 + np.exp(-scores))
    each = -np.concatenate([np.log(said[:2]), np.log(1 - said[2:])])
    assert told_apart(tensor(scores), 2).item() == pytest.approx((each[:2].mean() + each[2:].mean()) / 2, rel=1e-5)
    weighed = each * weight
    assert told_apart(tensor(scores), 2, tensor(weight)).item() == pytest.approx((weighed[:2].mean() + weighed[2:].mean()) / 2, rel=1e-5)


def forward_by_numpy(network, rows):
    """A critic without dropout."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in linear:
        rows = rows @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        rows = np.maximum(rows, 0) if layer is not linear[-1] else rows
    return rows


def scaled_by_numpy(rows, known):
    return (rows.detach().numpy() - known.mean(0)) / np.sqrt(known.var(0).mean())


def entropy_weight(shares):
    weight = 1 + np.exp((shares * np.log(shares)).sum(1))
    return weight / weight.mean()


@pytest.mark.parametrize(("name", "drawn"), [("dann", False), ("cdan", False), ("cdan", True), ("cdan_e", False), ("cdan_e", True)])
def test_a_critic_is_asked_for_the_domain(name, drawn, monkeypatch):
    """Truth: Ganin et al. 2016 and Long et al. 2018, equations of the multilinear map and of entropy conditioning, in numpy."""
    monkeypatch.setattr(adversarial, "_MOST_PRODUCTS", WIDTH * CLASSES - drawn)
    known, seen = random(20, WIDTH, seed=9) * 2 + 1, both()
    loss = without_dropout(make(name, features=known))
    rows = scaled_by_numpy(torch.cat([seen.features, seen.other.features]), known)
    shares = softmax(torch.cat([seen.logits, seen.other.logits]).detach().numpy())
    weight = np.ones(9)
    network = loss.critic if name == "dann" else loss.conditioned.critic
    if name != "dann" and drawn:
        of_features, of_classes = (matrix.numpy() for matrix in loss.conditioned.drawn)
        assert of_features.shape == (WIDTH, 1024) and of_classes.shape == (CLASSES, 1024)
        rows = (rows @ of_features) * (shares @ of_classes) / np.sqrt(1024)
    elif name != "dann":
        rows = np.stack([np.outer(share, row).ravel() for share, row in zip(shares, rows, strict=True)])
    if name == "cdan_e":
        weight = np.concatenate([entropy_weight(shares[:5]), entropy_weight(shares[5:])])
    said = 1 / (1 + np.exp(-forward_by_numpy(network, rows)[:, 0]))
    each = -np.concatenate([np.log(said[:5]), np.log(1 - said[5:])]) * weight
    assert loss(seen).item() == pytest.approx((each[:5].mean() + each[5:].mean()) / 2, rel=1e-4)


def test_random_products_stand_for_all_of_them():
    """Truth: Long et al. 2018, theorem 1: inner products of the random ones are those of all, without bias."""
    rows, shares = random(2, WIDTH), softmax(random(2, CLASSES, seed=1))
    generator = torch.Generator().manual_seed(0)
    drawn = tuple(torch.randn(size, 200_000, generator=generator) for size in (WIDTH, CLASSES))
    whole, some = products(tensor(rows), tensor(shares), None), products(tensor(rows), tensor(shares), drawn)
    np.testing.assert_allclose(whole @ whole.T, (rows @ rows.T) * (shares @ shares.T), rtol=1e-5)
    # The standard error is about 3 / sqrt(200000) of the value.
    np.testing.assert_allclose(some @ some.T, whole @ whole.T, rtol=0.05, atol=0.02)


def test_certain_items_weigh_more():
    weight = certainty(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    # 1 + exp(0) and 1 + exp(-log 2), by their mean.
    np.testing.assert_allclose(weight.numpy(), [2 / 1.75, 1.5 / 1.75], rtol=1e-6)


def test_mdd_is_the_margin_of_a_second_classifier():
    """Truth: Zhang et al. 2019, section 4, in numpy with gamma 4; log(1 - p) stays finite where p rounds to 1."""
    known, seen = random(20, WIDTH, seed=9), both()
    loss = without_dropout(make("mdd", features=known))
    source, other = (softmax(forward_by_numpy(loss.second, scaled_by_numpy(rows, known))) for rows in (seen.features, seen.other.features))
    said = [logits.detach().numpy().argmax(1) for logits in (seen.logits, seen.other.logits)]
    agrees = -np.log(source[np.arange(5), said[0]]).mean()
    disagrees = -np.log(1 - other[np.arange(4), said[1]]).mean()
    assert loss(seen).item() == pytest.approx(4 * agrees + disagrees, rel=1e-4)
    # What features get: the second classifier's gradient times -0.1, 0.1 being what the paper's weight goes to.
    given = torch.autograd.grad(loss(seen), seen.features)[0]
    scores = loss.second(loss.scaled(seen.features))
    plain = torch.autograd.grad(4 * cross_entropy(scores, torch.as_tensor(said[0])), seen.features)[0]
    torch.testing.assert_close(given, -0.1 * warmth(0.5) * plain)
    sure = torch.tensor([[100.0, 0.0]])
    assert disparity(sure, torch.tensor([0]), sure, torch.tensor([0])).item() == pytest.approx(100.0)


def test_adda_moves_the_other_domain_towards_the_features_of_the_start():
    """Truth: Tzeng et al. 2017, equation 9, in numpy: the critic's loss, and what features get of -log D."""
    known, seen = random(1, WIDTH, seed=9), both(progress=0.3)
    loss = without_dropout(make("adda", features=known))
    # One known item: whatever is drawn is known here, and scaled to zero.
    other = seen.other.features.detach().numpy() - known
    critic = 1 / (1 + np.exp(-forward_by_numpy(loss.critic, np.concatenate([np.zeros((4, WIDTH)), other]))[:, 0]))
    apart = (-np.log(critic[:4]).mean() - np.log(1 - critic[4:]).mean()) / 2
    given = loss(seen)
    assert given.item() == pytest.approx(apart - warmth(0.3) * np.log(critic[4:]).mean(), rel=1e-4)
    given.backward()
    # The critic learns from the first part alone, features from the second alone.
    grown = {name: parameter.grad.clone() for name, parameter in loss.named_parameters()}
    loss.zero_grad()
    rows = seen.other.features.detach().requires_grad_()
    scores = loss.critic(torch.cat([torch.zeros(4, WIDTH), loss.scaled(rows)]))[:, 0]
    told_apart(scores, 4).backward(retain_graph=True)
    for name, parameter in loss.named_parameters():
        torch.testing.assert_close(grown[name], parameter.grad)
    (expected,) = torch.autograd.grad(-warmth(0.3) * torch.log(torch.sigmoid(scores[4:])).mean(), rows)
    torch.testing.assert_close(seen.other.features.grad, expected)
    assert moved(seen) == {"other features"}


# which way they pull


@pytest.mark.parametrize("name", CRITICS)
def test_the_critic_learns_and_features_move_to_confuse_it(name):
    """One step of the critic lowers its loss; one step of features, the critic held, raises what it was told to lower."""
    loss, seen = without_dropout(make(name)), both(20, 20)
    apart = copy.copy(seen)
    loss(seen).backward()
    steps = {leaf: leaves(seen)[leaf].grad for leaf in moved(seen)}
    assert set(steps) == ({"other features"} if name == "adda" else {"features", "other features"})

    def critics_loss(at):
        # Without progress nothing of ADDA's other term is left.
        torch.manual_seed(0)
        return loss(Seen(0, [], at["features"], seen.logits, seen.target, None, False, other_at(at), 0.0)).item()

    def other_at(at):
        return Other([], at["other features"], seen.other.logits, seen.other.places)

    here = {leaf: leaves(apart)[leaf].detach() for leaf in ("features", "other features")}
    there = {leaf: rows - 0.1 * steps.get(leaf, 0.0) for leaf, rows in here.items()}
    torch.manual_seed(0)
    before = critics_loss(here)
    assert critics_loss(there) > before
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter -= 1e-2 * parameter.grad
    assert critics_loss(here) < before


@pytest.mark.parametrize("name", NAMES)
def test_what_a_loss_moves(name):
    """Features of both sides, or predictions; a reversed gradient is 0 before the first step."""
    seen = both()
    make(name)(seen).backward()
    wanted = {"mcc": {"other logits"}, "bnm": {"other logits"}, "adda": {"other features"}, "jan": set(leaves(seen))}
    assert moved(seen) == wanted.get(name, {"features", "other features"})
    early = both(progress=0.0)
    make(name)(early).backward()
    assert moved(early) == (set() if name in CRITICS else moved(seen))


# what each of them owes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "k"), [(8, 8), (1, 1), (1, 7), (7, 1), (3, 40)])
def test_a_loss_is_a_finite_number_for_sides_of_any_size(name, n, k):
    seen = both(n, k)
    given = make(name)(seen)
    assert given.shape == () and given.dtype == torch.float32 and math.isfinite(given.item())
    given.backward()
    assert all(leaf.grad is None or torch.isfinite(leaf.grad).all() for leaf in leaves(seen).values())
    assert any(leaf.grad is not None for leaf in leaves(seen).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", ["equal", "huge", "sure"])
def test_a_loss_stays_finite_on_rows_of_no_use(name, rows):
    """All items alike, features far out, or logits that leave classes out."""
    seen = both(6, 6)
    with torch.no_grad():
        for leaf in leaves(seen).values():
            leaf.copy_({"equal": torch.ones_like(leaf), "huge": leaf * 1e4, "sure": leaf}[rows])
        if rows == "sure":
            seen.other.logits[:] = torch.tensor([1e4, 0.0, -1e4])
    given = make(name, features=np.ones((20, WIDTH)) if rows == "equal" else None)(seen)
    given.backward()
    assert math.isfinite(given.item())
    assert all(leaf.grad is None or torch.isfinite(leaf.grad).all() for leaf in leaves(seen).values())


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_repeats_itself_and_leaves_the_random_state(name):
    """Dropout and draws hang on the global state, which the loop sets for each epoch; what is made hangs on the run's seed."""
    before = torch.get_rng_state()
    loss = make(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    values = []
    for one in (loss, loss, make(name)):
        torch.manual_seed(0)
        values.append(one(both()).item())
    assert values[0] == values[1] == values[2]
    torch.manual_seed(0)
    assert (make(name, seed=1)(both()).item() != values[0]) == (name in CRITICS)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_a_loss_are_put_back_with_the_network(name):
    loss, other = make(name), make(name, seed=1)
    assert list(loss.state_dict()) == [key for key, _ in loss.named_parameters()]
    assert bool(loss.state_dict()) == (name in CRITICS)
    other.load_state_dict(loss.state_dict())
    values = []
    for one in (loss, other):
        torch.manual_seed(0)
        values.append(one(both()).item())
    assert values[0] == values[1]


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize(("width", "hidden"), [(6, 64), (80, 80), (1280, 1024)])
def test_a_critic_is_as_wide_as_the_features(name, width, hidden):
    loss = make(name, features=random(3, width))
    assert {parameter.shape[0] for parameter in loss.parameters()} == {hidden, CLASSES if name == "mdd" else 1}
    # Neither what is drawn nor where features began is kept with the weights.
    inputs = {"cdan": min(width * CLASSES, 1024 if width * CLASSES > 4096 else 4096)}.get(name.removesuffix("_e"), width)
    assert max(parameter.shape[-1] for parameter in loss.parameters()) == max(hidden, inputs)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("mcc", "bnm")])
def test_a_loss_does_not_hang_on_the_unit_of_features(name, scale):
    known, values = random(20, WIDTH, seed=9), []
    for factor in (1.0, scale):
        seen = both()
        with torch.no_grad():
            seen.features.mul_(factor)
            seen.other.features.mul_(factor)
        torch.manual_seed(0)
        values.append(make(name, features=known * factor)(seen).item())
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_features_that_do_not_vary_have_a_spread_of_one():
    assert spread(torch.ones(3, 2)) == 1.0 and spread(torch.tensor([[1.0, 5.0], [3.0, 5.0]])) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_says_where_it_cannot_be_had(name):
    backbone, head = load("text"), make_head()
    moving, frozen = Plan((Phase(1, (0.0, RATE), RATE),)), Plan((Phase(1, (0.0, 0.0), RATE),))

    def refused(task, plan):
        return LOSSES[name].refusal(backbone, head, task, plan)

    assert refused("classification", moving) == ""
    told = refused("regression", moving)
    if name in ANY_TASK:
        assert told == ""
    else:
        assert told.startswith(f"{name} with the task regression, expected classification") and "Use deep_coral, dan or dann." in told
    told = refused("classification", frozen)
    if name in OF_FEATURES:
        assert told.startswith(f"{name} in a plan in which no layer group learns, expected one") and "Use mcc, bnm or jan" in told
    else:
        assert told == ""


# at what rate their weights learn


def test_a_critic_learns_at_the_rate_of_the_head():
    assert as_the_head(Phase(1, (0.0, 1e-4), 1e-3)) == 1e-3
    assert as_the_head(Phase(1, (0.0, 0.0), 1e-3)) == 1e-3
    # Where the head keeps still, ten times what the backbone learns at.
    assert as_the_head(Phase(1, (1e-5, 1e-4), 0.0)) == pytest.approx(1e-3)
    phase = Phase(1, (1e-5, 1e-4), 1e-2)
    (added,) = AddedLosses([(1.0, make("dann"))]).rated(phase)
    assert len(added[0]) == 6 and added[1] == 1e-2
    assert all(LOSSES[name].rate(None, phase) == (1e-2 if name in CRITICS else 1e-4) for name in NAMES)


class Watched(Added):
    """A loss with a weight of its own, for the loop."""

    made: list

    def __init__(self, start):
        super().__init__(start)
        self.weight = nn.Parameter(torch.zeros(2, 2))
        Watched.made.append(self)

    def forward(self, seen):
        return self.weight.sum()


class WatchedAsTheHead(Watched):
    def rate(self, phase):
        return as_the_head(phase)


@pytest.mark.parametrize(("lr", "head_lr", "expected"), [(0.0, RATE, RATE), (RATE / 10, RATE, RATE), (RATE / 20, 0.0, RATE / 2)])
def test_the_loop_asks_each_loss_for_its_rate(lr, head_lr, expected, monkeypatch):
    """AdamW's steps under a constant gradient are its rate: 2 epochs of 2 batches, at a constant rate."""
    moved = {}
    plan = Plan((Phase(2, (lr,) * 4, head_lr),), losses=(("watched", 1.0),))
    for kind in (Watched, WatchedAsTheHead):
        monkeypatch.setattr(Watched, "made", [], raising=False)
        monkeypatch.setitem(LOSSES._members, "watched", kind)
        play("text", plan, schedule="constant")
        moved[kind] = -Watched.made[0].weight.mean().item()
    assert moved[WatchedAsTheHead] == pytest.approx(4 * expected, rel=0.01)
    assert moved[Watched] == pytest.approx(4 * lr, rel=0.01)


# what they are for


def shifted(seed, by):
    """300 items of two classes in 8 numbers; `by` moves all of them towards the other class, and along another number."""
    rng = np.random.default_rng(seed)
    y = np.arange(300) % 2
    rows = rng.normal(size=(300, 8)) * 0.7
    rows[:, 0] += 2.4 * y - 1.2
    rows[:, :2] += by
    return tensor(rows), torch.as_tensor(y)


def trained(name, strength, source, other, seed, begun=None, steps=300, batch=50, lr=1e-3):
    """Network and head after training on the source, with a loss beside it where one is named; without labels where it has `begun`."""
    torch.manual_seed(seed)
    network, head = copy.deepcopy(begun) if begun else (Network(), nn.Linear(32, 2))
    phase = Phase(1, (lr,), 0.0 if begun else 10 * lr)
    groups = [{"params": network.parameters(), "lr": lr}, {"params": head.parameters(), "lr": phase.head_lr}]
    loss = None
    if name:
        items, target = source
        start = Start(network, head, items, target, "classification", cross_entropy, 0, seed, lambda: network(items).detach(), None, None)
        loss = LOSSES[name](start)
        groups.append({"params": loss.parameters(), "lr": loss.rate(phase)})
    optimiser = torch.optim.AdamW(groups)
    for step in range(steps):
        mine, theirs = torch.randint(300, (2, batch))
        features, others = network(source[0][mine]), network(other[theirs])
        seen_other = Other([], others, head(others), theirs)
        seen = Seen(0, [], features, head(features), source[1][mine], None, False, seen_other, step / steps)
        total = (0.0 if begun else cross_entropy(seen.logits, seen.target)) + (strength * loss(seen) if loss else 0.0)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return network, head


def accuracy(model, part):
    with torch.no_grad():
        return (model[1](model[0](part[0])).argmax(1) == part[1]).float().mean().item()


@pytest.fixture(scope="module")
def source_only():
    """By seed: both sides, and the model that saw only one."""
    made = {}
    for seed in (0, 1):
        source, target = shifted(seed, (0.0, 0.0)), shifted(seed + 50, (1.1, 1.5))
        made[seed] = source, target, trained(None, 0.0, source, target[0], seed)
    return made


# strength, and by how much the mean accuracy on the target rises at least
LIFTS = {
    "deep_coral": (3.0, 0.02),  # blind to a shift, and sees only what the layers' ReLUs make of it
    "dan": (1.0, 0.06),
    "jan": (1.0, 0.06),
    "mcc": (3.0, 0.06),
    "bnm": (3.0, 0.06),
    "dann": (3.0, 0.06),
    "cdan": (3.0, 0.06),
    "cdan_e": (3.0, 0.06),
    "mdd": (3.0, 0.06),
    "adda": (1.0, 0.06),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_helps_where_one_domain_is_moved(name, source_only):
    strength, margin = LIFTS[name]
    before, after, kept = [], [], []
    for seed, (source, target, model) in source_only.items():
        adapted = trained(name, strength, source, target[0], seed, begun=model if name == "adda" else None)
        before.append(accuracy(model, target))
        after.append(accuracy(adapted, target))
        kept.append(accuracy(adapted, source))
    assert np.mean(after) > np.mean(before) + margin
    assert np.mean(kept) > 0.85
