"""Each validator and estimate against its paper's equation in plain loops, a reference library, a closed form, or true accuracies."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm, spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, calinski_harabasz_score, silhouette_score
from validator_samples import CLASSES, WIDTH, family, fit, judged, linear, sample

from graft.validators import ESTIMATES, VALIDATORS, Judged, density_ratio, evidence
from graft.validators.estimates import counts_of
from graft.validators.risks import controlled_risk, log_losses


def with_outputs(target_outputs, source_outputs=None, source_labels=None, **more):
    """A Judged with given outputs (m, c) for a target; the source is three sure and right items unless given."""
    target_outputs = np.asarray(target_outputs, float)
    c = target_outputs.shape[1]
    source_outputs = np.eye(c) if source_outputs is None else np.asarray(source_outputs, float)
    source_labels = source_outputs.argmax(axis=1) if source_labels is None else np.asarray(source_labels)
    return replace(
        sample(),
        source=np.zeros((len(source_outputs), WIDTH)),
        source_labels=source_labels,
        source_outputs=source_outputs,
        learned_labels=np.zeros(200, int),
        target=more.pop("target", np.zeros((len(target_outputs), WIDTH))),
        target_outputs=target_outputs,
        prior=more.pop("prior", np.full(c, 1 / c)),
        **{"others": {}, "others_source": {}, **more},
    )


def given(name, *outputs, **more):
    return (VALIDATORS if name in VALIDATORS else ESTIMATES)[name](with_outputs(*outputs, **more))


OUTPUTS = np.random.default_rng(0).dirichlet([0.4, 0.6, 0.8], 40)


# Outputs alone.


def test_entropy_and_infomax_are_sums_over_items_and_classes():
    mean, each = OUTPUTS.mean(axis=0), 0.0
    for row in OUTPUTS:
        each -= sum(p * np.log(p) for p in row) / len(OUTPUTS)
    assert given("entropy", OUTPUTS) == pytest.approx(-each, rel=1e-12)
    assert given("infomax", OUTPUTS) == pytest.approx(-sum(p * np.log(p) for p in mean) - each, rel=1e-12)


def test_a_sure_and_even_model_has_the_highest_infomax_and_nuclear_norm_and_a_collapsed_one_the_lowest():
    even, collapsed = np.eye(3)[[0, 1, 2] * 5], np.eye(3)[[0] * 15]
    assert given("infomax", even) == pytest.approx(np.log(3)) and given("infomax", collapsed) == 0
    assert given("bnm", even) == pytest.approx(1) and given("bnm", collapsed) == pytest.approx(1 / np.sqrt(3))
    assert given("entropy", even) == given("entropy", collapsed) == 0


def test_the_nuclear_norm_is_the_trace_of_the_root_of_the_gram_matrix():
    values = np.linalg.eigvalsh(OUTPUTS.T @ OUTPUTS)
    assert given("bnm", OUTPUTS) == pytest.approx(np.sqrt(values).sum() / np.sqrt(40 * 3), rel=1e-10)


def test_confidence_is_the_mean_of_the_highest():
    assert given("confidence", [[0.2, 0.8], [0.7, 0.3]]) == pytest.approx(0.75)


def test_class_balance_is_minus_the_divergence_from_the_prior():
    mean, prior = OUTPUTS.mean(axis=0), np.array([0.2, 0.3, 0.5])
    expected = -sum(q * np.log(q / p) for q, p in zip(mean, prior, strict=True))
    assert given("class_balance", OUTPUTS, prior=prior) == pytest.approx(expected, rel=1e-10)
    assert given("class_balance", OUTPUTS, prior=mean) == pytest.approx(0, abs=1e-12)


def test_soft_neighbourhood_density_is_the_authors_equation():
    total = 0.0
    for i, row in enumerate(OUTPUTS):
        others = [other for j, other in enumerate(OUTPUTS) if j != i]
        cosines = np.array([row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in others])
        share = softmax(cosines / 0.05)
        total -= (share * np.log(share)).sum() / len(OUTPUTS)
    assert given("snd", OUTPUTS) == pytest.approx(total, rel=1e-10)
    # Two tight groups of k items: each item has k - 1 neighbours, alike.
    assert given("snd", np.eye(2)[[0, 1] * 6]) == pytest.approx(np.log(5), abs=1e-6)


def test_agreement_counts_a_copy_not_at_all_and_twins_once():
    own, far = np.eye(3)[[0, 0, 1, 2]], np.eye(3)[[0, 1, 2, 0]]
    near = np.eye(3)[[0, 0, 1, 0]]
    assert given("agreement", own, others={"far": far, "near": near}) == pytest.approx((1 / 4 + 3 / 4) / 2)
    assert given("agreement", own, others={"far": far, "copy": own * 0.8 + 0.2 / 3, "near": near, "twin": near}) == pytest.approx(1 / 2)
    assert given("agreement", own, others={"copy": own}) == 0


# The source.


def test_source_risk_is_held_out_accuracy():
    assert given("source_risk", OUTPUTS, np.eye(3)[[0, 1, 2, 2]], [0, 1, 2, 1]) == 0.75


def test_density_ratios_are_those_of_two_known_densities():
    rng = np.random.default_rng(0)
    move = np.array([0.8, 0.0, 0.0, 0.0])
    learned, target, at = (rng.normal(size=(n, 4)) + k * move for n, k in ((2000, 0), (800, 1), (2000, 0)))
    weights = density_ratio(learned, target, at)
    # Two unit normals: log ratio = x.move - |move|^2 / 2. The allowance is a few times the standard error of a logistic coefficient, 0.04.
    assert np.log(weights) == pytest.approx(at @ move - 0.32, abs=0.35)
    assert weights.mean() == pytest.approx(1, abs=0.1)


def test_features_that_say_the_same_twice_or_nothing_do_not_change_density_ratios():
    rng = np.random.default_rng(0)
    learned, target, at = (rng.normal(size=(300, 4)) + k for k in (0, 1, 0))
    more = [np.column_stack([rows, rows @ np.ones(4), np.ones(300)]) for rows in (learned, target, at)]
    whole = [np.column_stack([rows, rows @ np.ones(4)]) for rows in (learned, target, at)]
    assert np.log(density_ratio(*more)) == pytest.approx(np.log(density_ratio(*whole)), abs=1e-6)


def test_density_ratios_are_near_1_where_domains_are_alike_and_cut_where_they_are_far_apart():
    rng = np.random.default_rng(1)
    learned, target, at = (rng.normal(size=(400, 20)) for _ in range(3))
    assert density_ratio(learned, target, at) == pytest.approx(np.ones(400), abs=0.5)
    far = density_ratio(learned, target + 50, np.concatenate([at, at[:1] + 50]))
    # The one item that looks like the target's is cut to sqrt(401) times the mean of the weights before the cut.
    alone = density_ratio(learned, target + 50, at[:1] + 50)[0]
    assert alone > 50 and far[:-1].max() < 0.1
    assert far[-1] == pytest.approx((alone + far[:-1].sum()) / np.sqrt(401), rel=1e-6)


def test_weighting_corrects_a_covariate_shift_that_plain_held_out_accuracy_does_not_see():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(6000, WIDTH)), rng.normal(size=(3000, WIDTH)) + 1.0 * np.eye(WIDTH)[0]

    def labels_of(rows):
        # Noise grows with the first feature: p(class | item) is one, p(item) moves to where it is noisy.
        noisy = rng.random(len(rows)) < 0.5 / (1 + np.exp(-2 * rows[:, 0]))
        return np.where(noisy, rng.choice(CLASSES, len(rows)), rows[:, 1:4].argmax(axis=1))

    model = judged(linear(8 * np.eye(WIDTH)[:, 1:4], np.zeros(3)), source, labels_of(source), target)
    true = (model.predicted == labels_of(target)).mean()
    plain, weighted = VALIDATORS["source_risk"](model), ESTIMATES["reweighted_source"](model)
    assert plain - true > 0.05 and abs(weighted - true) < 0.03
    # The same for risks: the target's own log loss.
    own = model.target_outputs[np.arange(3000), labels_of(target)]
    loss = -np.log(np.maximum(own, 1e-12)).mean()
    # 15 %: few held-out items lie where the target does.
    for name in ("iwcv", "dev", "devn"):
        assert abs(-VALIDATORS[name](model) - loss) < abs(log_losses(model).mean() - loss) / (1 if name == "devn" else 2), name
    assert -VALIDATORS["dev"](model) == pytest.approx(loss, rel=0.15)


def test_importance_weighted_risk_is_a_weighted_mean_of_log_losses():
    model = sample()
    weights = density_ratio(model.learned, model.target, model.source)
    losses = [-np.log(row[label]) for row, label in zip(model.source_outputs, model.source_labels, strict=True)]
    assert VALIDATORS["iwcv"](model) == pytest.approx(-sum(weights * losses) / sum(weights), rel=1e-10)


def authors_dev_risk(weight, error):
    """A transcription of the authors' `get_dev_risk`."""
    weighted = weight * error
    cov = np.cov(np.stack([weighted, weight], axis=1), rowvar=False)[0][1]
    eta = -cov / np.var(weight, ddof=1)
    return np.mean(weighted) + eta * np.mean(weight) - eta


def test_dev_is_the_authors_risk_and_devn_that_of_weights_over_their_maximum():
    model = sample()
    weights, losses = model.importance, log_losses(model)
    assert VALIDATORS["dev"](model) == pytest.approx(-authors_dev_risk(weights, losses), rel=1e-10)
    scaled = weights / weights.max()
    assert VALIDATORS["devn"](model) == pytest.approx(-authors_dev_risk(scaled - scaled.mean() + 1, losses), rel=1e-10)


def test_the_control_variate_lowers_the_variance_of_a_weighted_mean():
    rng = np.random.default_rng(0)
    plain, controlled = [], []
    for _ in range(500):
        weights, losses = rng.gamma(1.0, 1.0, 100), 0.5 + 0.1 * rng.normal(size=100)
        plain.append((weights * losses).mean())
        controlled.append(controlled_risk(weights, losses))
    assert np.mean(controlled) == pytest.approx(0.5, abs=0.005) and np.std(controlled) < np.std(plain) / 3


def test_reverse_fits_the_pseudo_labels_and_asks_the_source():
    model = sample()
    back = fit(model.target, model.predicted)(model.source).argmax(axis=1)
    assert VALIDATORS["reverse"](model) == (back == model.source_labels).mean()
    swapped = replace(model, target_outputs=model.target_outputs[:, [1, 2, 0]], others={}, others_source={})
    assert VALIDATORS["reverse"](swapped) < 0.2 < 0.8 < VALIDATORS["reverse"](model)


def test_reverse_gives_the_one_class_back_that_was_predicted():
    model = replace(sample(), target_outputs=np.tile([0.0, 1.0, 0.0], (300, 1)), others={}, others_source={})
    assert VALIDATORS["reverse"](model) == (model.source_labels == 1).mean()


def threshold(rows, labels):
    """Classes 0 and 1 of (k, 1) rows, cut midway between them."""
    cut = (rows[labels == 0].max() + rows[labels == 1].min()) / 2
    return lambda some: np.eye(2)[(some[:, 0] > cut).astype(int)]


@pytest.mark.parametrize(("shift", "cut"), [(1.5, -1.0), (-1.0, 0.5), (0.0, 0.7)])
def test_weighted_reverse_validation_is_the_closed_form_of_a_shift_of_gaussians(shift, cut):
    # Source N(0, 1), target N(shift, 1), both of class 1 above 0; the model cuts at `cut`, and so does what learned its labels.
    rng = np.random.default_rng(0)
    learned, source = (rng.normal(size=(4000, 1)) for _ in range(2))
    target = rng.normal(shift, 1, size=(4000, 1))
    outputs = [np.eye(2)[(rows[:, 0] > cut).astype(int)] for rows in (source, target)]
    labels = [(rows[:, 0] > 0).astype(int) for rows in (source, learned)]
    model = Judged(source, labels[0], outputs[0], learned, labels[1], target, outputs[1], threshold, threshold, np.full(2, 0.5))
    plain, corrected = (1 - abs(norm.cdf(cut - mean) - norm.cdf(0 - mean)) for mean in (0, shift))
    # Three standard errors of a weighted mean of 4,000, of which exp(shift^2) count as one.
    off = 3 * np.sqrt(corrected * (1 - corrected) * np.exp(shift**2) / 4000)
    assert abs(VALIDATORS["reverse_weighted"](model) - corrected) < off
    assert abs(VALIDATORS["reverse"](model) - plain) < 3 * np.sqrt(plain * (1 - plain) / 4000)
    assert not shift or abs(plain - corrected) > 2 * off


# Groups.


def test_the_simplified_silhouette_is_a_loop_over_items():
    model = sample()
    means = {label: model.target[model.predicted == label].mean(axis=0) for label in set(model.predicted)}
    total = 0.0
    for row, label in zip(model.target, model.predicted, strict=True):
        own = np.linalg.norm(row - means[label])
        other = min(np.linalg.norm(row - mean) for key, mean in means.items() if key != label)
        total += (other - own) / max(own, other) / len(model.target)
    assert VALIDATORS["silhouette"](model) == pytest.approx(total, rel=1e-10)


def test_the_only_item_of_a_class_adds_nothing_to_the_silhouette():
    target = np.zeros((3, WIDTH))
    target[2] = 1
    assert given("silhouette", np.eye(3)[[0, 0, 1]], target=target) == pytest.approx(2 / 3)


def test_the_calinski_harabasz_index_is_that_of_scikit_learn():
    model = sample()
    assert VALIDATORS["calinski"](model) == pytest.approx(calinski_harabasz_score(model.target, model.predicted), rel=1e-10)


def test_class_ami_and_class_ss_are_those_of_scikit_learn_on_clusters_from_the_predicted_means():
    model = sample()
    centres = np.stack([model.target[model.predicted == label].mean(axis=0) for label in range(CLASSES)])
    clusters = KMeans(CLASSES, init=centres, n_init=1).fit_predict(model.target)
    assert VALIDATORS["class_ami"](model) == pytest.approx(adjusted_mutual_info_score(model.predicted, clusters), rel=1e-10)
    assert VALIDATORS["class_ss"](model) == pytest.approx(silhouette_score(model.target, clusters), rel=1e-10)


def test_rankme_counts_the_directions_of_equal_length():
    model = replace(sample(), target=np.eye(WIDTH)[[0, 1, 2, 3, 4] * 60])
    assert VALIDATORS["rankme"](model) == pytest.approx(5, abs=1e-4)


def test_mixtures_of_far_classes_follow_and_those_of_a_hesitant_model_do_not():
    rng = np.random.default_rng(0)
    target = 10 * np.eye(WIDTH)[rng.choice(3, 600)]
    sure = linear(np.eye(WIDTH)[:, :3], np.zeros(3))
    model = judged(sure, target, target[:, :3].argmax(axis=1), target)
    assert VALIDATORS["mixval"](model) == 1
    # A bias of 2 towards class 0 outweighs the tenth by which the nearer item is nearer, 10 x (0.55 - 0.45): class 0 takes its mixtures,
    # a third of all pairs of different classes have it as the farther one.
    biased = judged(linear(np.eye(WIDTH)[:, :3], np.array([2.0, 0, 0])), target, target[:, :3].argmax(axis=1), target)
    assert VALIDATORS["mixval"](biased) == pytest.approx(2 / 3, abs=0.06)


# Estimates.


def test_the_temperature_is_the_one_that_outputs_were_sharpened_by():
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(4000, 3))
    labels = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    model = with_outputs(softmax(3 * logits, axis=1), softmax(3 * logits, axis=1), labels)
    # 0.03: about four standard errors of a calibrated confidence over 4,000 items.
    assert model.calibrated[0] == pytest.approx(softmax(logits, axis=1), abs=0.03)
    assert ESTIMATES["average_confidence"](model) == pytest.approx(model.right.mean(), abs=0.02)
    assert VALIDATORS["confidence"](model) > model.right.mean() + 0.1


def authors_threshold(scores, right):
    """A transcription of the authors' `find_ATC_threshold`."""
    order = np.argsort(scores)
    false_alarms, misses = float((~right).sum()), 0.0
    best, threshold = abs(false_alarms - misses), 0.0
    for score, hit in zip(scores[order], right[order], strict=True):
        if hit:
            misses += 1
        else:
            false_alarms -= 1
        if abs(false_alarms - misses) < best:
            best, threshold = abs(false_alarms - misses), score
    return threshold


@pytest.mark.parametrize("name", ["atc", "atc_entropy"])
def test_average_thresholded_confidence_is_the_authors_where_scores_differ(name):
    rng = np.random.default_rng(2)
    source, target = rng.dirichlet([0.4, 0.6, 0.8], 200), rng.dirichlet([0.8, 0.9, 1.2], 300)
    labels = np.where(rng.random(200) < 0.7, source.argmax(axis=1), rng.choice(3, 200))
    model = with_outputs(target, source, labels)
    scores = [(p.max(axis=1) if name == "atc" else (p * np.log(p + 1e-20)).sum(axis=1)) for p in model.calibrated]
    threshold = authors_threshold(scores[0], model.right)
    assert ESTIMATES[name](model) == pytest.approx((scores[1] > threshold).mean(), abs=1e-12)


@pytest.mark.parametrize("name", ["atc", "atc_entropy", "doc"])
def test_a_target_that_is_the_held_out_source_gets_its_accuracy_also_where_scores_are_tied(name):
    outputs = np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6], [0.8, 0.2]])
    model = with_outputs(outputs, outputs, [0, 1, 1, 1, 0, 0])
    assert ESTIMATES[name](model) == pytest.approx(0.5, abs=1e-12)


def test_difference_of_confidences_is_one_fall_less_the_other():
    rng = np.random.default_rng(3)
    source, target = rng.dirichlet([0.4, 0.6, 0.8], 100), rng.dirichlet([2.0, 2.0, 2.0], 100)
    model = with_outputs(target, source, rng.choice(3, 100))
    fall = model.calibrated[0].max(axis=1).mean() - model.calibrated[1].max(axis=1).mean()
    assert fall > 0 and ESTIMATES["doc"](model) == pytest.approx(max(0, model.right.mean() - fall))


def test_confidence_optimal_transport_is_the_best_of_all_assignments():
    target = np.random.default_rng(4).dirichlet([1, 1, 1], 6)
    model = with_outputs(target, OUTPUTS, prior=np.array([0.5, 0.3, 0.2]))
    outputs = model.calibrated[1]
    onehot = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    best = min(np.abs(outputs - onehot[list(order)]).sum() / 2 / 6 for order in permutations(range(6)))
    assert ESTIMATES["cot"](model) == pytest.approx(1 - best, rel=1e-10)
    assert ESTIMATES["cot"](model) <= ESTIMATES["average_confidence"](model)


def test_confidence_optimal_transport_is_that_of_the_optimal_transport_library():
    ot = pytest.importorskip("ot")
    model = with_outputs(OUTPUTS, OUTPUTS, np.random.default_rng(0).choice(3, 40), prior=np.array([0.5, 0.25, 0.25]))
    costs = np.abs(model.calibrated[1][:, None] - np.eye(3)).sum(axis=2) / 2
    assert ESTIMATES["cot"](model) == pytest.approx(1 - ot.emd2(np.full(40, 1 / 40), np.array([0.5, 0.25, 0.25]), costs), rel=1e-9)


def test_counts_keep_their_sum_and_their_shares():
    assert counts_of(np.array([0.5, 0.3, 0.2]), 6).tolist() == [3, 2, 1] and counts_of(np.ones(3), 2).sum() == 2


def test_agreement_on_a_line_finds_the_accuracy_of_models_that_err_apart():
    # Two classes and independent errors: agreement of two models of accuracies a and b is ab + (1-a)(1-b), a line in the small.
    rng = np.random.default_rng(0)
    n, source, target = 20000, {}, {}
    truth = rng.choice(2, n)
    for k, (before, after) in enumerate([(0.95, 0.85), (0.92, 0.81), (0.9, 0.785), (0.88, 0.76)]):
        source[f"m{k}"] = np.eye(2)[np.where(rng.random(n) < before, truth, 1 - truth)]
        target[f"m{k}"] = np.eye(2)[np.where(rng.random(n) < after, truth, 1 - truth)]
    others = {name: target[name] for name in list(target)[1:]}
    model = with_outputs(target["m0"], source["m0"], truth, others=others, others_source={name: source[name] for name in others})
    found = ESTIMATES["agreement_on_line"](model)
    names = list(source)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    along = [norm.ppf((source[a][:, 0] == source[b][:, 0]).mean()) for a, b in pairs]
    up = [norm.ppf((target[a][:, 0] == target[b][:, 0]).mean()) for a, b in pairs]
    slope, bias = np.polyfit(along, up, 1)
    assert found == pytest.approx(norm.cdf(slope * norm.ppf((source["m0"].argmax(axis=1) == truth).mean()) + bias), rel=1e-9)
    assert found == pytest.approx(0.85, abs=0.05) and ESTIMATES["agreement_on_line"](replace(model, seed=1)) == found


# True accuracies.

# The target lies where few source items do, so that weighted source items say little of it (their truth test is a covariate shift);
# entropy and confidence see no more than how sure a model is, mixtures how wide its margins are; soft neighbourhood density, rankme and
# the clusters' silhouette look at how dense outputs lie, or at the features, which are the same for all of these models.
UNSUITED = {"iwcv", "dev", "devn", "reweighted_source", "reverse_weighted", "entropy", "confidence", "mixval", "snd", "rankme", "class_ss"}


@pytest.fixture(scope="module")
def families():
    """Of each of five shifts: evidence on ten models, and their true accuracies."""
    return [([evidence(model) for model in models], accuracy) for models, accuracy in (family(seed) for seed in (1, 2, 5, 6, 7))]


@pytest.mark.parametrize("name", sorted({*VALIDATORS, *ESTIMATES} - UNSUITED))
def test_models_are_ranked_as_their_true_accuracies_are(families, name):
    ranks = [spearmanr([found[name] for found in evidences], accuracy).statistic for evidences, accuracy in families]
    assert np.mean(ranks) > 0.2, ranks


@pytest.mark.parametrize("name", ["infomax", "bnm", "calinski", "class_ami", "cot"])
def test_the_best_validators_rank_almost_as_the_truth_does(families, name):
    ranks = [spearmanr([found[name] for found in evidences], accuracy).statistic for evidences, accuracy in families]
    assert np.mean(ranks) > 0.8, ranks


@pytest.mark.parametrize("name", sorted({*ESTIMATES} - UNSUITED))
def test_estimates_are_nearer_to_the_target_accuracy_than_that_on_the_source(families, name):
    errors = [abs(found[name] - true) for evidences, accuracy in families for found, true in zip(evidences, accuracy, strict=True)]
    plain = [abs(found["source_risk"] - true) for evidences, accuracy in families for found, true in zip(evidences, accuracy, strict=True)]
    assert np.mean(errors) < np.mean(plain)
