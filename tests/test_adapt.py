"""`Adapt`: which labels it reads, both ways of calling it, what it refuses, and what scikit-learn asks of an estimator."""

import warnings

import numpy as np
import pandas as pd
import pytest
from adapt_samples import MENDS, believes, domains, numbers, untouchable
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.metrics import r2_score
from sklearn.utils.estimator_checks import estimator_checks_generator

from graft.adapt import Adapt, course, estimator
from graft.errors import GraftError
from graft.shift import SHIFTS
from graft.transfer import Transfer


@pytest.fixture(autouse=True)
def believing(monkeypatch):
    """What recorded runs say is another test's: here the method that mends the made shift is known to."""
    monkeypatch.setattr(estimator, "recorded", lambda with_source=True: believes({MENDS: 2.0}))


def adapting(**settings):
    return Adapt("rows", **{"methods": MENDS, **settings})


@pytest.fixture
def one_setting(monkeypatch):
    """Every method with its default setting alone, which is quicker."""
    for name in SHIFTS:
        monkeypatch.setattr(SHIFTS[name], "grid", SHIFTS[name].grid[:1])


@pytest.fixture(scope="module")
def data():
    return domains()


# -- what it is for


def test_a_method_that_helps_takes_the_place_of_source_only(data):
    X, y, target, truth = data
    model = adapting().fit(X, y, target)
    assert model.adapted_ and model.outcome_.chosen.method == MENDS
    assert model.score(target, truth) >= model.source_only_.score(target, truth) + 0.05
    low, high = model.estimate_["interval"]
    assert 0 <= low < model.estimate_["score"] < high <= 1
    assert model.reasons_[0]["speaks"] == "for" and f"{MENDS} is expected to change accuracy by" in model.reasons_[0]["words"]


def test_what_no_one_believes_in_leaves_source_only(data, monkeypatch):
    X, y, target, _ = data
    monkeypatch.setattr(estimator, "recorded", lambda with_source=True: believes({MENDS: 0.1}, spread=0.2))
    model = adapting().fit(X, y, target)
    assert not model.adapted_ and model.outcome_.chosen.method == "source_only"
    # Of all of the source in the end, with the kind of head that was chosen on most of it.
    sides = model.outcome_.sides
    order = np.concatenate([sides.learned, sides.held])
    by_hand = sides.fit(X[order].astype(np.float32), y[order]).outputs(target.astype(np.float32))
    np.testing.assert_allclose(model.predict_proba(target), by_hand, atol=1e-6)
    assert not np.allclose(model.predict_proba(target), model.source_only_.predict_proba(target))
    assert adapting(guard=False).fit(X, y, target).adapted_


def test_the_chosen_method_is_made_again_with_all_of_the_source(data):
    """Truth: what ships equals the method called by hand on the whole source."""
    X, y, target, _ = data
    model = adapting().fit(X, y, target)
    sides = model.outcome_.sides
    order = np.concatenate([sides.learned, sides.held])
    rows = X[order].astype(np.float32)
    whole = sides.whole(sides.fit(rows, y[order]))
    by_hand = SHIFTS[MENDS](whole, **model.outcome_.chosen.settings).head.outputs(target.astype(np.float32))
    np.testing.assert_allclose(model.predict_proba(target), by_hand, atol=1e-6)
    assert len(sides.learned) + len(sides.held) == len(X) and len(sides.held) == 12


# -- labels of the target


def test_no_label_of_the_target_is_touched_in_skadas_form(data, one_setting):
    X, y, target, _ = data
    both, side = np.concatenate([X, target]), np.repeat([1, -2], [len(X), len(target)])
    labels = np.concatenate([y.astype(object), untouchable(len(target))])
    with pytest.raises(AssertionError, match="was touched"):
        str(labels[-1])
    model = adapting(methods="auto").fit(both, labels, sample_domain=side)
    assert {*SHIFTS, "average"} == {one.method for one in model.outcome_.made} and not any(
        "touched" in one.fell_out for one in model.outcome_.made
    )
    listed = adapting().fit(both.tolist(), list(labels), sample_domain=side.tolist())
    np.testing.assert_array_equal(listed.predict_proba(target), adapting().fit(X, y, target).predict_proba(target))


def test_skadas_form_gives_what_two_arguments_give(data):
    X, y, target, truth = data
    mixed = np.random.default_rng(1).permutation(len(X) + len(target))
    both, labels = np.concatenate([X, target])[mixed], np.concatenate([y, truth])[mixed]
    side = np.repeat([3, -1], [len(X), len(target)])[mixed]
    here, there = side > 0, side < 0
    by_domain = adapting().fit(both, labels, sample_domain=side)
    by_two = adapting().fit(both[here], labels[here], both[there])
    np.testing.assert_array_equal(by_domain.predict_proba(target), by_two.predict_proba(target))
    assert by_domain.reasons_ == by_two.reasons_


def test_several_source_domains_are_told_in_either_form(data):
    X, y, target, _ = data
    shop = np.where(np.arange(len(X)) % 2, "north", "south")
    named = adapting().fit(X, y, target, domains=shop)
    side = np.concatenate([np.where(shop == "north", 1, 2), np.full(len(target), -1)])
    signed = adapting().fit(np.concatenate([X, target]), np.concatenate([y, np.zeros(len(target), int)]), sample_domain=side)
    np.testing.assert_array_equal(named.outcome_.sides.source.domains, np.where(shop == "north", 0, 1))
    np.testing.assert_array_equal(signed.outcome_.sides.source.domains, named.outcome_.sides.source.domains)
    alone = adapting().fit(X, y, target, domains=np.ones(len(X))).outcome_.sides.source
    assert alone.domains is None


def test_given_target_labels_are_checked_on_and_others_left_alone(data):
    X, y, target, truth = data
    model = adapting().fit(X, y, target, target_labels={place: truth[place] for place in range(20)})
    checked = model.outcome_.decision.checked
    assert checked["n"] == 20 and checked["score"] == (model.outcome_.chosen.outputs[:20].argmax(1) == truth[:20]).mean()
    assert checked["interval"][0] < checked["score"] <= checked["interval"][1] and checked["verdict"]["n"] == 20


def test_a_label_may_be_written_as_text_or_as_another_number(data):
    X, y, target, truth = data
    as_text = {place: str(truth[place]) for place in range(10)}
    as_float = {np.int64(place): float(truth[place]) for place in range(10)}
    found = [adapting().fit(X, y, target, target_labels=each).outcome_.known for each in (as_text, as_float)]
    for known in found:
        assert known.places.tolist() == list(range(10)) and known.labels.tolist() == truth[:10].tolist()


def test_a_class_that_the_source_lacks_is_told_left_out_and_rejected_on_request(data, tmp_path):
    X, y, target, truth = data
    strange = np.concatenate([target, np.full((10, 4), 40.0)])
    labels = {place: ["ham", "spam"][truth[place]] for place in range(10)} | {50: "phish", 51: "phish"}
    names = np.array(["ham", "spam"])[y]
    with pytest.warns(
        UserWarning, match=r"2 of 12 labelled target items are of classes that the source does not know \(phish\): an open set"
    ):
        model = adapting(unknown=0.9).fit(X, names, strange, target_labels=labels)
    assert model.outcome_.decision.checked["n"] == 10
    answers, unsure = model.predict(target), model.predict_proba(target).max(1) < 0.9
    assert 0 < unsure.sum() < len(target)
    assert (answers[unsure] == "unknown").all() and set(answers[~unsure]) <= {"ham", "spam"}
    model.model_.save(tmp_path / "model")
    assert (Transfer.load(tmp_path / "model").predict(target) == answers).all()
    assert set(model.set_params(unknown=0.0).predict(target)) <= {"ham", "spam"}


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
def test_numeric_classes_are_rejected_as_minus_one(data, dtype):
    X, y, target, _ = data
    model = adapting(unknown=0.999).fit(X, y.astype(dtype), target)
    answers = model.predict(target)
    unsure = model.predict_proba(target).max(1) < 0.999
    assert 0 < unsure.sum() < len(target)
    assert (answers[unsure] == -1).all() and np.isin(answers[~unsure], [0, 1]).all() and np.issubdtype(answers.dtype, np.number)


# -- forms of X, and what is given


def test_a_frame_of_numbers_gives_what_an_array_gives(data):
    X, y, target, _ = data
    columns = ["a", "b", "c", "d"]
    framed = adapting().fit(pd.DataFrame(X, columns=columns), pd.Series(y), pd.DataFrame(target, columns=columns))
    np.testing.assert_allclose(
        framed.predict_proba(pd.DataFrame(target, columns=columns)), adapting().fit(X, y, target).predict_proba(target), atol=1e-6
    )
    assert framed.feature_names_in_.tolist() == columns and framed.n_features_in_ == 4
    both = pd.concat([pd.DataFrame(X, columns=columns), pd.DataFrame(target, columns=columns)])
    labels = pd.Series(np.concatenate([y.astype(object), untouchable(len(target))]))
    skada = adapting().fit(both, labels, sample_domain=np.repeat([1, -1], [len(X), len(target)]))
    np.testing.assert_array_equal(*(model.predict(pd.DataFrame(target, columns=columns)) for model in (skada, framed)))


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_state_alone(data, one_setting):
    X, y, target, _ = data
    np.random.seed(5)  # noqa: NPY002, what a user may have done
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (
        adapting(methods=[MENDS, "kliep", "pseudo_labels", "optimal_transport"], random_state=seed).fit(X, y, target) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(first.predict_proba(target), second.predict_proba(target))
    assert first.outcome_.told == second.outcome_.told and first.estimate_ == second.estimate_
    assert first.outcome_.sides.held.tolist() != other.outcome_.sides.held.tolist()


def test_a_regression_is_weighed_by_its_errors_and_has_no_estimate():
    X, y, target, truth = numbers()
    model = adapting(methods=[MENDS, "density_ratio"]).fit(X, y, target, target_labels=dict(enumerate(truth[:30].tolist())))
    assert model.adapted_ and model.outcome_.chosen.method == MENDS and model.estimate_ == {}
    assert model.score(target, truth) == pytest.approx(r2_score(truth, model.predict(target))) and model.score(target, truth) > 0.9
    assert model.source_only_.score(target, truth) < model.score(target, truth) - 0.1
    assert is_regressor(model) and not hasattr(model, "predict_proba") and model.predict(target).dtype.kind == "f"
    with pytest.raises(AttributeError, match="has no attribute 'predict_proba'"):
        model.predict_proba(target)


def test_a_fitted_model_is_adapted_without_its_source_and_stays_as_it_was(data):
    X, y, target, _ = data
    given = Transfer("rows", "feature_extraction").fit(X, y)
    head, answers = given.head_, given.predict_proba(target)
    model = Adapt(given, methods="saerens").fit(None, None, target, prior=[1, 3])
    assert given.head_ is head and given.strategy_ == "feature_extraction"
    np.testing.assert_array_equal(given.predict_proba(target), answers)
    assert model.outcome_.sides.prior.tolist() == [0.25, 0.75] and model.outcome_.sides.source is None
    assert Adapt(given, methods="saerens").fit(None, None, target).outcome_.sides.prior.tolist() == [0.5, 0.5]


def test_a_source_that_is_left_out_is_as_none(data):
    X, y, target, _ = data
    given = Transfer("rows", "feature_extraction").fit(X, y)
    answers = Adapt(given, methods="saerens").fit(X_target=target, prior=[1, 3]).predict_proba(target)
    np.testing.assert_array_equal(answers, Adapt(given, methods="saerens").fit(None, None, target, prior=[1, 3]).predict_proba(target))


def test_without_the_source_only_methods_that_need_none_are_tried(data):
    X, y, target, _ = data
    given = Transfer("rows", "feature_extraction").fit(X, y)
    model = Adapt(given).fit(None, None, target)
    assert {one.method for one in model.outcome_.made} == {"source_only", "saerens", "pseudo_labels", "t3a", "shot_labels", "average"}
    assert not any(one.fell_out for one in model.outcome_.made)
    assert "source_risk" not in model.outcome_.told[0] and "entropy" in model.outcome_.told[0]


def test_without_the_source_the_predictor_is_the_one_that_does_without(data, monkeypatch):
    X, y, target, _ = data
    asked = []

    def recorded(with_source=True):
        asked.append(with_source)
        return believes()

    monkeypatch.setattr(estimator, "recorded", recorded)
    given = Transfer("rows", "feature_extraction").fit(X, y)
    Adapt(given, methods="saerens").fit(None, None, target)
    adapting().fit(X, y, target)
    assert asked == [False, True]


def test_a_fitted_model_lends_its_backbone_where_the_source_is_given_too(data):
    X, y, target, _ = data
    given = Transfer("rows", "feature_extraction").fit(X[:30], y[:30])
    model = Adapt(given, methods=MENDS).fit(X, y, target)
    assert model.model_.backbone_ is given.backbone_ and len(model.outcome_.sides.learned) == 48
    np.testing.assert_allclose(model.predict_proba(target), adapting().fit(X, y, target).predict_proba(target), atol=1e-6)


# -- what is refused


def sides(**more):
    X, y, target, _ = domains()
    return {"X": X, "y": y, "X_target": target} | more


def both_in_one(**more):
    X, y, target, truth = domains()
    return {"X": np.concatenate([X, target]), "y": np.concatenate([y, truth]), "sample_domain": [1] * len(X) + [-1] * len(target)} | more


def of_one_model(**more):
    return {"X": None, "X_target": domains()[2]} | more


def fitted():
    X, y, _, _ = domains()
    return Transfer("rows", "feature_extraction").fit(X, y)


LABELS = dict.fromkeys(range(12), 0)
REFUSED = {
    "nothing at all": (Adapt(fitted()), {}, r"no target was given, expected its items in X_target"),
    "a target alone": (adapting(), {"X_target": domains()[2]}, r"no source was given and backbone is no fitted Transfer, expected one"),
    "no target": (adapting(), sides(X_target=None), r"no target was given, expected its items in X_target, or sample_domain"),
    "empty target": (adapting(), sides(X_target=np.empty((0, 4))), r"the target holds no items, expected some to adapt to"),
    "one item": (adapting(), sides(X_target=np.ones((1, 4))), r"the target holds 1 item, expected at least 10: fewer show no domain"),
    "few items": (adapting(), sides(X_target=np.ones((9, 4))), r"the target holds 9 items, expected at least 10"),
    "small source": (adapting(), sides(X=np.eye(8, 4), y=[0, 1] * 4), r"the source holds 8 labelled items, expected at least 10"),
    "other width": (adapting(), sides(X_target=np.ones((20, 3))), r"the target has rows of 3 numbers, the source of 4, expected the same"),
    "other columns": (
        adapting(),
        sides(X=pd.DataFrame(domains()[0], columns=list("abcd")), X_target=pd.DataFrame(domains()[2], columns=list("abce"))),
        r"feature names should match those that were passed during fit",
    ),
    "items all alike": (adapting(), sides(X_target=np.ones((20, 4))), r"source-only: it makes all 20 items of the target alike, expected"),
    "no shared class": (
        adapting(),
        sides(target_labels={0: "x", 1: "y"}),
        r"the target's labels are x, y, the source's classes 0, 1: they share none. Is this the same task\?",
    ),
    "places beyond": (adapting(), sides(target_labels=LABELS | {50: 0}), r"1 places that are not there, e.g. 50, expected .* 0 to 49"),
    "negative places": (adapting(), sides(target_labels={-1: 0, -2: 1}), r"2 places that are not there, e.g. -1"),
    "places by name": (adapting(), sides(target_labels={"row 1": 0}), r"e.g. 'row 1', expected whole numbers from 0 to 49"),
    "one label": (adapting(), sides(target_labels={3: 0}), r"target_labels holds 1 label of a class of the source, expected at least 2"),
    "one number": (
        adapting(),
        dict(zip(("X", "y", "X_target"), numbers(), strict=False)) | {"target_labels": {0: 2.5}},
        r"target_labels holds 1 number, expected at least 2, better 10 to 50",
    ),
    "no number": (
        adapting(),
        dict(zip(("X", "y", "X_target"), numbers(), strict=False)) | {"target_labels": {0: "high", 1: 2}},
        r"target_labels of a regression: could not convert string to float: 'high', expected a number",
    ),
    "unknown method": (adapting(methods="corall"), sides(), r"method 'corall', expected 'auto' or some of .*\. Did you mean 'coral'\?"),
    "method to retrain without a budget": (adapting(methods="dann"), sides(), r"method dann retrains the network, expected a budget"),
    "method to retrain no layers": (
        adapting(methods="dann", budget="5s"),
        sides(),
        r"method dann retrains layers, of which rows:4 has none",
    ),
    "method without its source": (
        Adapt(fitted(), methods="coral"),
        of_one_model(),
        r"method coral needs the source's items, and only the fitted model was given, expected one of source_only, saerens",
    ),
    "method for another task": (
        adapting(methods="saerens"),
        dict(zip(("X", "y", "X_target"), numbers(), strict=False)),
        r"method saerens does not serve regression, expected one of .*coral",
    ),
    "a target of other columns": (
        adapting(),
        {
            "X": pd.DataFrame(domains()[0], columns=list("abcd")),
            "y": domains()[1],
            "X_target": pd.DataFrame(domains()[2], columns=list("abce")),
        },
        r"^the target: (?s:.*)unseen at fit time:\n- e\n(?s:.*)now missing:\n- d",
    ),
    "a target that is not finite": (adapting(), sides(X_target=np.full((20, 4), np.nan)), r"^the target: Input X contains NaN"),
    "sample_domain without its name": (
        adapting(),
        both_in_one(X_target=np.repeat([1.0, -1.0], [60, 50]), sample_domain=None),
        r"^X_target has shape \(110,\), expected rows of 4 numbers as in the source, \(m, 4\). .* sample_domain=",
    ),
    "sample_domain of another length": (
        adapting(),
        both_in_one(sample_domain=[1, -1]),
        r"sample_domain has shape \(2,\).* X has 110 items",
    ),
    "sample_domain in columns": (
        adapting(),
        both_in_one(sample_domain=np.ones((110, 1))),
        r"sample_domain has shape \(110, 1\).* expected one number for each",
    ),
    "sample_domain of one sign": (
        adapting(),
        both_in_one(sample_domain=[1] * 110),
        r"110 positive and 0 negative numbers, expected some of",
    ),
    "sample_domain of zeros": (
        adapting(),
        both_in_one(sample_domain=[1] * 60 + [0] * 10 + [-1] * 40),
        r"expected one number for each, none of them 0 or nan",
    ),
    "sample_domain of names": (adapting(), both_in_one(sample_domain=["s"] * 110), r"expected one number for each"),
    "two targets": (adapting(), both_in_one(X_target=np.ones((20, 4))), r"both X_target and sample_domain were given, expected one"),
    "domains told twice": (adapting(), both_in_one(domains=np.ones(110)), r"both domains and sample_domain were given, expected one"),
    "short y": (adapting(), both_in_one(y=np.ones(60)), r"y has 60 entries, X has 110 items, expected one for each"),
    "y without labels": (adapting(), both_in_one(y=None), r"sample_domain was given without X or y, expected both"),
    "no y": (adapting(), sides(y=None), r"fit requires y to be passed, but the target y is None"),
    "domains of another length": (adapting(), sides(domains=[1, 2]), r"domains has shape \(2,\), X has 60 items, expected one for each"),
    "prior of another length": (Adapt(fitted()), of_one_model(prior=[1]), r"prior is \[1\], expected 2 shares of at least 0, .* 0, 1"),
    "negative prior": (Adapt(fitted()), of_one_model(prior=[-1, 2]), r"expected 2 shares of at least 0"),
    "prior of nothing": (Adapt(fitted()), of_one_model(prior=[np.nan, 2]), r"expected 2 shares of at least 0"),
    "prior beside a source": (adapting(), sides(prior=[1, 1]), r"prior was given beside X and y, which tell the shares"),
    "neither source nor model": (adapting(), of_one_model(), r"no source was given and backbone is no fitted Transfer, expected one"),
    "y without X": (Adapt(fitted()), of_one_model(y=[0, 1]), r"y without X, expected the source's items in X too"),
    "a model never fitted": (Adapt(Transfer("rows")), sides(), r"backbone is a Transfer that was never fitted, expected a fitted one"),
    "several labels": (
        adapting(),
        sides(y=np.eye(2)[domains()[1]].astype(int)),
        r"the source has several labels an item, expected one class",
    ),
    "several labels of a model": (
        Adapt(Transfer("rows", "feature_extraction").fit(domains()[0], np.stack([domains()[1]] * 2, 1))),
        of_one_model(),
        r"the model has several labels an item, expected one class or one number",
    ),
    "unknown of one": (adapting(unknown=1.0), sides(), r"unknown is 1.0, expected a probability from 0 to below 1; 0 rejects nothing"),
    "unknown below zero": (adapting(unknown=-0.1), sides(), r"unknown is -0.1, expected a probability"),
    "a class called unknown": (
        adapting(unknown=0.5),
        sides(y=np.array(["a", "unknown"])[domains()[1]]),
        r"'unknown' is a class of the source",
    ),
    "a class of minus one": (adapting(unknown=0.5), sides(y=2 * domains()[1] - 1), r"-1 is a class of the source, expected a name"),
    "one class": (adapting(), sides(y=np.zeros(60, int)), r"class"),
    "a budget of no time": (adapting(budget="soon"), sides(), r"budget 'soon'"),
    "a regression alone": (
        Adapt(Transfer("rows", "feature_extraction").fit(*numbers()[:2])),
        {"X": None, "X_target": numbers()[2]},
        r"a regression without its source's items cannot be adapted: nothing tells its errors. Give the source, or target labels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_message(name):
    model, given, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        model.fit(**given)
    # Widths and columns of rows are scikit-learn's to refuse.
    assert isinstance(error.value, GraftError) or name == "other columns"
    assert not hasattr(model, "model_")


def test_a_name_that_is_not_there_is_told_before_any_fit(data, monkeypatch):
    X, y, target, _ = data
    monkeypatch.setattr(Transfer, "fit_encoded", lambda *_, **__: pytest.fail("the source-only model was fitted first"))
    with pytest.raises(GraftError, match="method 'corall'"):
        adapting(methods=["coral", "corall"]).fit(X, y, target)


def test_source_only_that_cannot_be_had_is_no_silent_fallback(data, monkeypatch):
    X, y, target, _ = data
    made = course.made

    def fails(sides, method, settings):
        from dataclasses import replace

        return replace(made(sides, method, settings), fell_out="features of 3 of 50 items are not finite")

    monkeypatch.setattr(course, "made", fails)
    with pytest.raises(GraftError, match="source-only: features of 3 of 50 items are not finite, expected"):
        adapting().fit(X, y, target)


# -- scikit-learn


def test_it_is_cloned_told_and_searched_like_any_estimator(data):
    X, y, target, _ = data
    model = adapting(random_state=3, unknown=0.2)
    assert clone(model).get_params() == model.get_params() and "random_state=3" in repr(model)
    assert clone(model).set_params(unknown=0.0).unknown == 0.0
    assert is_classifier(model) and is_regressor(Adapt("rows", task="regression")) and not is_classifier(Adapt("rows", task="regression"))
    given = Transfer("rows", "feature_extraction").fit(X, y)
    assert clone(Adapt(given)).backbone is given and "backbone=Transfer(" in repr(Adapt(given))
    with pytest.raises(ValueError, match="not fitted"):
        adapting().predict(target)


class OnItself(Adapt):
    """Adapted to the items that it learns from, as scikit-learn's checks know one X only."""

    def fit(self, X, y=None):
        return super().fit(X, y, X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags._skip_test = False
        return tags


# check -> why Adapt does not do what it asks for.
EXPECTED_TO_FAIL = {
    "check_classifiers_regression_target": "where y decides, numbers with fractions are a regression, and there is nothing to refuse",
}
CHECKS = [
    pytest.param(model, check, id=getattr(check, "func", check).__name__)
    for model, check in estimator_checks_generator(OnItself("rows", methods="source_only", head="closed"), legacy=True)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "check"), CHECKS)
def test_scikit_learns_own_checks_pass_or_have_a_reason(model, check):
    if getattr(check, "func", check).__name__ in EXPECTED_TO_FAIL:
        # A check that begins to pass leaves the list.
        with pytest.raises((AssertionError, ValueError)):
            check(model)
    else:
        check(model)


def test_a_fit_warns_of_nothing(data):
    X, y, target, _ = data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert adapting().fit(X, y, target).adapted_
