"""Alignment and transport of features: against the papers' equations or a reference library, and on shifts with a known answer."""

import numpy as np
import pytest
import scipy.linalg
from sklearn.linear_model import LogisticRegression

from graft.errors import GraftError
from graft.heads import fit_head
from graft.shift import SHIFTS, Domains, transport

LINEAR = ("coral", "subspace", "tca", "jda", "mmd_projection")
TRANSPORTS = ("optimal_transport", "joint_transport")
ALL = LINEAR + TRANSPORTS


def domains_of(source, labels, target, task="classification", n_classes=None, domains=None):
    c = 0 if task == "regression" else (n_classes or int(labels.max()) + 1)

    def fit(rows, y, weights):
        assert weights is None
        return fit_head(rows, y, task, kind="closed", n_classes=c or None)

    source, target = source.astype(np.float32), target.astype(np.float32)
    prior = np.bincount(labels, minlength=c) / len(labels) if c else np.ones(1)
    return Domains(source, labels, target, task, c, fit(source, labels, None), fit, prior, domains=domains)


def adapt(name, domains, **settings):
    if name in TRANSPORTS:
        pytest.importorskip("ot")
    return SHIFTS[name](domains, **settings)


def blobs(seed=0, n=120, m=90, d=6, c=3):
    """Classes around different means; the target is stretched and moved."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(c, d)) * 2
    mix = rng.normal(size=(d, d))
    labels, hidden = rng.integers(0, c, n), rng.integers(0, c, m)
    source = (means[labels] + rng.normal(size=(n, d))) @ mix
    target = (means[hidden] + rng.normal(size=(m, d))) @ mix * rng.uniform(0.7, 1.4, d) + rng.normal(size=d)
    return domains_of(source, labels, target, n_classes=c)


def same_up_to_signs(first, second, atol):
    signs = np.sign((first * second).sum(axis=0))
    np.testing.assert_allclose(first * signs, second, atol=atol)


def both_sides(domains):
    return np.concatenate([domains.source, domains.target]).astype(float)


def recorded(domains):
    """The domains, and a list of what is fitted from now on."""
    calls = []

    def fit(rows, y, weights):
        calls.append((rows, y))
        return domains.fit(rows, y, weights)

    return Domains(**{**vars(domains), "fit": fit}), calls


# --- each method against its equation or a reference ---


def test_coral_gives_the_source_the_mean_and_the_covariance_of_the_target():
    domains = blobs()
    mapped = adapt("coral", domains, shrinkage=1e-7).source
    np.testing.assert_allclose(mapped.mean(axis=0), domains.target.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(np.cov(mapped.T), np.cov(domains.target.T) * (90 - 1) / 90 * 120 / (120 - 1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("d", [6, 300], ids=["fewer features than items", "more features than items"])
@pytest.mark.parametrize("shrinkage", [0.5, 0.1, 1.0])
def test_coral_moves_the_source_as_skada_does(d, shrinkage):
    adapter = pytest.importorskip("skada").CORALAdapter(reg=shrinkage)
    domains = blobs(d=d)
    sides = np.repeat([1, -2], [120, 90])
    # skada centres the target instead of moving the source to it.
    expected = adapter.fit_transform(both_sides(domains), sample_domain=sides)[:120] + domains.target.mean(axis=0)
    adapted = adapt("coral", domains, shrinkage=shrinkage)
    np.testing.assert_allclose(adapted.source, expected, atol=1e-3 * expected.std())
    unseen = domains.source[:20] + np.random.default_rng(1).normal(size=(20, d)).astype(np.float32)
    expected = adapter.transform(unseen.astype(float), sample_domain=np.ones(20), allow_source=True) + domains.target.mean(axis=0)
    np.testing.assert_allclose(adapted.read_source(unseen), expected, atol=1e-3 * expected.std())


def test_subspace_gives_skadas_coordinates():
    adapter = pytest.importorskip("skada").SubspaceAlignmentAdapter(n_components=3)
    domains = blobs()
    expected = adapter.fit_transform(both_sides(domains), sample_domain=np.repeat([1, -2], [120, 90]))
    adapted = adapt("subspace", domains, width=3)
    found = np.concatenate([adapted.source, adapted.target])
    assert found.shape == expected.shape == (210, 3)
    # An axis has no sign of its own.
    off = np.abs(found * np.sign((found * expected).sum(axis=0)) - expected)
    assert off.max() < 1e-4 * expected.std()


def mean_variance(rows):
    return rows.var(axis=0).sum() / rows.shape[1]


def test_tca_solves_the_papers_kernel_eigenproblem_with_the_length_of_the_axes():
    domains = blobs()
    rows, n, m = both_sides(domains), 120, 90
    kernel, side = rows @ rows.T, np.repeat([1 / n, -1 / m], [n, m])
    centring = np.eye(n + m) - 1 / (n + m)
    # Pan et al., unsupervised TCA, with L = side side': |W|^2 would be W'W, |A|^2 is W'KW.
    held = kernel @ np.outer(side, side) @ kernel + 0.3 * mean_variance(rows) * kernel
    values, vectors = scipy.linalg.eig(np.linalg.pinv(held, rcond=1e-10, hermitian=True) @ kernel @ centring @ kernel)
    best = np.argsort(-values.real)[:4]
    expected = centring @ kernel @ vectors[:, best].real
    expected /= expected.std(axis=0)  # W'KHKW = I, per item
    adapted = adapt("tca", domains, width=4, strength=0.3)
    found = np.concatenate([adapted.source, adapted.target])
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(4), atol=1e-4)
    same_up_to_signs(found - found.mean(axis=0), expected, atol=1e-3)


def test_jda_solves_the_papers_eigenproblem_in_its_first_round():
    domains = blobs()
    rows, n, m, balance = both_sides(domains), 120, 90, 0.7
    believed = domains.head.outputs(domains.target).argmax(axis=1)
    side = np.repeat([1 / n, -1 / m], [n, m])
    distances = (1 - balance) * np.outer(side, side)
    for number in range(3):
        of_source, of_target = domains.labels == number, believed == number
        assert of_source.any() and of_target.any()
        side = np.concatenate([of_source / of_source.sum(), -(of_target / of_target.sum())])
        distances += balance * np.outer(side, side)
    centring = np.eye(n + m) - 1 / (n + m)
    # X M X' + strength I against X H X', as in Long et al., with the distances weighed as by Wang et al.
    held = rows.T @ distances @ rows + 0.2 * mean_variance(rows) * np.eye(rows.shape[1])
    _, axes = scipy.linalg.eigh(held, rows.T @ centring @ rows / (n + m))
    adapted = adapt("jda", domains, width=3, strength=0.2, balance=balance, rounds=1)
    same_up_to_signs(np.concatenate([adapted.source, adapted.target]), (rows - rows.mean(axis=0)) @ axes[:, :3], atol=1e-3)


def test_jda_that_ignores_classes_is_tca():
    domains = blobs()
    np.testing.assert_array_equal(
        adapt("jda", domains, width=3, strength=0.2, balance=0.0).target, adapt("tca", domains, width=3, strength=0.2).target
    )
    assert np.abs(adapt("jda", domains, width=3, balance=0.9).target - adapt("tca", domains, width=3).target).max() > 0.01


def test_jda_reads_the_head_of_the_round_before_and_ends_when_no_predicted_class_changes():
    source, labels, target, _ = classes_moved(np.random.default_rng(0))
    domains, calls = recorded(domains_of(source, labels, target))
    first, second = (adapt("jda", domains, width=2, strength=0.01, rounds=rounds) for rounds in (1, 2))
    continued = adapt("jda", Domains(**{**vars(domains), "head": first.head}), width=2, strength=0.01, rounds=1)
    np.testing.assert_array_equal(continued.target, second.target)
    assert np.abs(first.target - second.target).max() > 0.01
    calls.clear()
    adapt("jda", domains, width=2, strength=0.01, rounds=100)
    assert 2 < len(calls) < 20


def several_domains():
    """Two source domains and the target, of 100 items each, at different places."""
    rng = np.random.default_rng(0)
    mix, places = rng.normal(size=(5, 5)), rng.normal(size=(3, 5)) * 3
    labels = rng.integers(0, 2, 200)
    rows = [rng.normal(size=(100, 5)) @ mix + place for place in places]
    source = np.concatenate(rows[:2])
    source[:, 0] += labels
    return domains_of(source, labels, rows[2], domains=np.repeat([0, 1], 100))


def test_mmd_projection_is_leace_with_the_domain_as_the_concept():
    domains = several_domains()
    rows, concept = both_sides(domains), np.repeat(np.eye(3), 100, axis=0)
    # Belrose et al., Theorem 4.3: x - W^+ P W (x - mean), W = C^-1/2, P the projection onto the columns of W C_xz.
    centred = rows - rows.mean(axis=0)
    whiten = np.linalg.inv(scipy.linalg.sqrtm(centred.T @ centred / 300).real)
    crossed = whiten @ centred.T @ (concept - concept.mean(axis=0))
    expected = rows - centred @ (np.linalg.inv(whiten) @ crossed @ np.linalg.pinv(crossed, rcond=1e-9) @ whiten).T
    adapted = adapt("mmd_projection", domains, shrinkage=1e-9)
    np.testing.assert_allclose(np.concatenate([adapted.source, adapted.target]), expected, atol=1e-3)


def test_mmd_projection_at_full_shrinkage_removes_the_direction_of_the_difference():
    domains = blobs()
    rows = both_sides(domains) - both_sides(domains).mean(axis=0)
    gap = domains.source.mean(axis=0) - domains.target.mean(axis=0)
    expected = rows - np.outer(rows @ gap, gap) / (gap @ gap) + both_sides(domains).mean(axis=0)
    adapted = adapt("mmd_projection", domains, shrinkage=1.0)
    np.testing.assert_allclose(np.concatenate([adapted.source, adapted.target]), expected, atol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.01, 0.1, 1.0])
def test_mmd_projection_leaves_no_difference_of_means_and_nothing_that_tells_domains_apart(shrinkage):
    domains = several_domains()
    adapted = adapt("mmd_projection", domains, shrinkage=shrinkage)
    before, after = (
        max(np.linalg.norm(source[domains.domains == name].mean(axis=0) - target.mean(axis=0)) for name in (0, 1))
        for source, target in ((domains.source, domains.target), (adapted.source, adapted.target))
    )
    assert before > 3 and after < 1e-4
    side = np.repeat([0, 1, 2], 100)

    def told_apart(rows):
        return LogisticRegression(max_iter=1000).fit(rows, side).score(rows, side)

    assert told_apart(both_sides(domains)) > 0.9
    # Chance is a third; a fit on 300 items finds a little in their noise.
    assert told_apart(np.concatenate([adapted.source, adapted.target])) < 0.45


def test_the_class_regularised_plan_is_pots():
    ot = pytest.importorskip("ot")
    domains = blobs(n=40, m=30)
    cost = transport._cost(domains.source, domains.target)
    # POT's group sums are masses, ours shares of a target item: 30 times as large, so that the root of 30 moves into the strength.
    expected = ot.da.sinkhorn_lpl1_mm(np.full(40, 1 / 40), domains.labels, np.full(30, 1 / 30), cost, 0.3, eta=0.2 / np.sqrt(30))
    found = transport._plan(cost, domains.labels, 0.3, 0.2, floor=30 * 1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - transport._plan(cost, None, 0.3, 0.2)).max() > 1e-5


@pytest.mark.parametrize("limit", [2000, 60], ids=["all transported", "some move as the nearest does"])
def test_optimal_transport_maps_to_pots_barycentres(limit, monkeypatch):
    ot = pytest.importorskip("ot")
    domains = blobs()
    monkeypatch.setattr(transport, "_MOST", limit)
    some, others = transport._drawn(domains)
    assert (len(some), len(others)) == ((120, 90) if limit == 2000 else (60, 60))
    if limit == 60:
        shares = np.bincount(domains.labels[some]) / 60
        np.testing.assert_allclose(shares, domains.prior, atol=0.02)
    source, target = (side.astype(float) for side in (domains.source[some], domains.target[others]))
    reference = ot.da.SinkhornTransport(reg_e=0.3, norm="median", max_iter=5000, tol=1e-10, out_of_sample_map="ferradans")
    reference.fit(Xs=source, Xt=target)
    adapted = adapt("optimal_transport", domains, entropy=0.3, class_strength=0.0)
    np.testing.assert_allclose(adapted.source[some], reference.transform(source), atol=1e-3)
    np.testing.assert_allclose(adapted.source, reference.transform(domains.source.astype(float)), atol=1e-3)
    unseen = domains.source[:20].astype(float) + np.random.default_rng(1).normal(size=(20, 6))
    np.testing.assert_allclose(adapted.read_source(unseen), reference.transform(unseen), atol=1e-3)


def test_a_plan_that_has_not_converged_is_said_to_be_none(monkeypatch):
    pytest.importorskip("ot")
    monkeypatch.setattr(transport, "_INNER_ROUNDS", 1)
    with pytest.warns(
        UserWarning, match=r"entropy=0\.001: target items get \d+% more or less than their due after 1 rounds.*larger entropy"
    ):
        adapt("optimal_transport", blobs(), entropy=0.001)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_joint_transport_hands_on_the_labels_of_a_shifted_copy(task):
    """A translation is the cheapest transport to a translated copy, whichever its size: the labels that arrive are the right ones."""
    rng = np.random.default_rng(0)
    source = rng.normal(size=(80, 4))
    labels = (source[:, 0] > 0).astype(int) if task == "classification" else source[:, 0] + 0.5 * source[:, 1]
    order = rng.permutation(80)
    domains, calls = recorded(domains_of(source, labels, source[order] + 3.0, task=task))
    adapted = adapt("joint_transport", domains, distance_weight=1000.0)
    rows, given = calls[-1]
    np.testing.assert_array_equal(rows, domains.target)
    np.testing.assert_allclose(given, labels[order], atol=1e-9)
    assert adapted.read_source(domains.source) is domains.source and len(calls) == 1


def test_joint_transport_takes_pots_plan_for_the_papers_cost():
    ot = pytest.importorskip("ot")
    domains, calls = recorded(blobs(n=40, m=30))
    adapt("joint_transport", domains, distance_weight=2.0, rounds=1)
    distances = ot.dist(domains.source.astype(float), domains.target.astype(float))
    said = domains.head.outputs(domains.target)
    errors = ((np.eye(3)[domains.labels][:, None] - said[None]) ** 2).sum(axis=2)
    plan = ot.emd([], [], 2.0 * distances / np.median(distances) + errors)
    mass = np.stack([plan[domains.labels == number].sum(axis=0) for number in range(3)], axis=1)
    # With a head that is unsure the labels alone would be another matter: the distances have a say.
    np.testing.assert_array_equal(calls[-1][1], mass.argmax(axis=1))
    assert (mass.argmax(axis=1) != said.argmax(axis=1)).any()


# --- what all of them owe ---


@pytest.mark.parametrize("name", ALL)
def test_the_folded_head_says_of_raw_rows_what_the_inner_head_says_of_mapped_ones(name):
    domains = blobs(d=40)
    adapted = adapt(name, domains)
    np.testing.assert_allclose(adapted.head.logits(domains.target), adapted.inner.logits(adapted.target), atol=2e-3)
    np.testing.assert_allclose(adapted.read_source(domains.source), adapted.source, atol=1e-4)
    assert adapted.head.mean.shape == (40,) and adapted.source.dtype == adapted.target.dtype == np.float32


@pytest.mark.parametrize("name", ALL)
def test_the_same_domains_give_the_same_head(name, monkeypatch):
    monkeypatch.setattr(transport, "_MOST", 50)
    first, second = (adapt(name, blobs()) for _ in range(2))
    np.testing.assert_array_equal(first.head.weight, second.head.weight)
    np.testing.assert_array_equal(first.source, second.source)


@pytest.mark.parametrize("name", [name for name in ALL if name != "jda"])
def test_a_regression_is_adapted_too(name):
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(100, 5)), rng.normal(size=(80, 5))
    truth = target @ np.arange(1.0, 6.0)
    domains = domains_of(source, source @ np.arange(1.0, 6.0), target + 2.0 * np.eye(5)[4], task="regression")
    # With as many axes as features tca leaves out none.
    outputs = adapt(name, domains, **({"width": 4} if name == "tca" else {})).head.outputs(domains.target)
    assert outputs.shape == (80,)
    before = np.abs(domains.head.outputs(domains.target) - truth).mean()
    assert np.abs(outputs - truth).mean() < 0.75 * before


# --- shifts with a known answer ---


def stretched(rng, n=300):
    """The target is stretched fourfold along one diagonal and moved: classes differ along both."""
    labels, hidden = rng.integers(0, 2, n), rng.integers(0, 2, n)
    means = np.array([[-1.0, 1.0, 0, 0], [1.0, 0.0, 0, 0]]) * 1.5
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    stretch = np.eye(4)
    stretch[:2, :2] = turn @ np.diag([4.0, 0.5]) @ turn.T
    target = (means[hidden] + rng.normal(size=(n, 4))) @ stretch + np.array([12.0, -6.0, 1.0, 0.0])
    return means[labels] + rng.normal(size=(n, 4)), labels, target, hidden


def one_axis_moved(rng, n=300):
    """Two axes tell the classes apart; in the target the one that tells more is moved by three times the distance of the classes."""
    labels, hidden = rng.integers(0, 2, n), rng.integers(0, 2, n)
    source, target = rng.normal(size=(n, 6)) * 0.5, rng.normal(size=(n, 6)) * 0.5
    source[:, 0] += 2 * labels
    target[:, 0] += 2 * hidden + 6
    source[:, 1] += 1.5 * labels
    target[:, 1] += 1.5 * hidden
    return source, labels, target, hidden


def classes_moved(rng, n=300):
    """As above, but on the first axis the two classes change sides, and the mean of all items stays where it is."""
    source, labels, target, hidden = one_axis_moved(rng, n)
    target[:, 0] += 1.2 - 0.4 * hidden - 2 * hidden - 6
    return source, labels, target, hidden


def turned(rng, n=300):
    """Three classes around the origin; the target is turned by 50 degrees, where the border of two classes is at 60."""
    labels, hidden = rng.integers(0, 3, n), rng.integers(0, 3, n)
    angles, turn = np.arange(3) * 2 * np.pi / 3, np.deg2rad(50)
    means = 4 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return means[labels] + rng.normal(size=(n, 2)), labels, (means[hidden] + rng.normal(size=(n, 2))) @ rotation, hidden


# (method, settings, shift, margin in accuracy over source-only). `tca`, `jda` and `mmd_projection` only leave axes out, so that they cannot
# undo a turn or a stretch; `subspace` and `coral` know means and covariances alone, which a turn of round classes does not change.
KNOWN = [
    ("coral", {"shrinkage": 0.01}, stretched, 0.2),
    ("subspace", {"width": 3}, one_axis_moved, 0.3),
    ("tca", {"width": 2, "strength": 0.01}, one_axis_moved, 0.3),
    ("jda", {"width": 2, "strength": 0.01}, classes_moved, 0.15),
    ("mmd_projection", {"shrinkage": 0.1}, one_axis_moved, 0.3),
    ("optimal_transport", {}, turned, 0.15),
    ("joint_transport", {}, turned, 0.15),
]


@pytest.mark.parametrize(("name", "settings", "shift", "margin"), KNOWN, ids=[name for name, *_ in KNOWN])
def test_a_shift_that_the_method_is_made_for_is_undone(name, settings, shift, margin):
    source, labels, target, hidden = shift(np.random.default_rng(0))
    domains = domains_of(source, labels, target)
    right = [
        (head.outputs(domains.target).argmax(axis=1) == hidden).mean() for head in (domains.head, adapt(name, domains, **settings).head)
    ]
    assert right[1] > right[0] + margin, right


# --- degenerate input ---


@pytest.mark.parametrize("name", ALL)
def test_constant_features_and_few_target_items_are_no_obstacle(name):
    domains = blobs(m=8, d=40)
    source, target = domains.source.copy(), domains.target.copy()
    source[:, 3] = target[:, 3] = 7.0
    target[:, 4] = 0.0
    adapted = adapt(name, domains_of(source, domains.labels, target))
    assert np.isfinite(adapted.head.logits(target)).all() and np.isfinite(adapted.source).all()


@pytest.mark.parametrize("name", ALL)
def test_a_class_that_the_target_lacks_is_no_obstacle(name):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    means = np.array([[8.0, 0, 0], [0, 8.0, 0], [0, 0, 8.0]])
    source = means[labels] + rng.normal(size=(90, 3))
    hidden = rng.integers(0, 2, 60)
    domains = domains_of(source, labels, means[hidden] + rng.normal(size=(60, 3)))
    assert set(domains.head.outputs(domains.target).argmax(axis=1)) == {0, 1}
    outputs = adapt(name, domains).head.outputs(domains.target)
    assert outputs.shape == (60, 3) and np.isfinite(outputs).all()


@pytest.mark.parametrize("name", ALL)
def test_one_target_item_is_refused(name):
    with pytest.raises(GraftError, match="items of the target: 1, expected at least 2"):
        adapt(name, blobs(m=1))


@pytest.mark.parametrize("name", ALL)
def test_a_side_that_does_not_vary_is_refused(name):
    domains = blobs()
    with pytest.raises(GraftError, match="all 90 items of the target have the same features"):
        adapt(name, domains_of(domains.source, domains.labels, np.ones_like(domains.target)))


def test_sides_that_mostly_lie_on_one_point_are_refused_by_transport():
    pytest.importorskip("ot")
    source, target = np.zeros((20, 2)), np.zeros((20, 2))
    source[0], target[0] = 1.0, 1.0
    with pytest.raises(GraftError, match="20 source and 20 target items lie at a median distance of 0"):
        adapt("optimal_transport", domains_of(source, np.arange(20) % 2, target))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("coral", {"shrinkage": 0.0}, "shrinkage is 0.0, expected above 0, at most 1"),
        ("mmd_projection", {"shrinkage": 1.5}, "shrinkage is 1.5, expected above 0, at most 1"),
        ("subspace", {"width": 0}, "width is 0, expected at least 1"),
        ("tca", {"strength": 0}, "strength is 0, expected above 0"),
        ("jda", {"balance": -0.1}, "balance is -0.1, expected at least 0, at most 1"),
        ("jda", {"rounds": 0}, "rounds is 0, expected at least 1"),
        ("optimal_transport", {"entropy": 0.0}, "entropy is 0.0, expected above 0"),
        ("optimal_transport", {"class_strength": -1}, "class_strength is -1, expected at least 0"),
        ("joint_transport", {"distance_weight": float("nan")}, "distance_weight is nan, expected above 0"),
    ],
)
def test_settings_out_of_range_are_named(name, settings, message):
    with pytest.raises(GraftError, match=message):
        adapt(name, blobs(), **settings)


def test_every_problem_is_told_at_once():
    with pytest.raises(GraftError, match=r"(?s)3 problems.*width.*strength.*target"):
        adapt("tca", blobs(m=1), width=0, strength=0)
