"""Transfer in scikit-learn's hands: its own checks, its searches, its parallel jobs."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from graft.backbones import load_backbone
from graft.errors import GraftError
from graft.features import cache_folder, extract
from graft.transfer import Transfer

# check -> why Transfer does not do what it asks for.
EXPECTED_TO_FAIL = {
    "auto": {
        "check_classifiers_regression_target": "where y decides, numbers with fractions are a regression, and there is nothing to refuse"
    },
    "classification": {},
    "regression": {},
}
CHECKS = [
    pytest.param(task, model, check, id=f"{task}-{getattr(check, 'func', check).__name__}")
    for task in EXPECTED_TO_FAIL
    for model, check in estimator_checks_generator(Transfer("rows", "feature_extraction", head="closed", task=task), legacy=True)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("task", "model", "check"), CHECKS)
def test_scikit_learns_own_checks_pass_or_have_a_reason(task, model, check):
    if getattr(check, "func", check).__name__ in EXPECTED_TO_FAIL[task]:
        # A check that begins to pass leaves the list.
        with pytest.raises(AssertionError):
            check(model)
    else:
        check(model)


def rows():
    return load_iris(return_X_y=True)


def probe(**settings):
    return Transfer("rows", "feature_extraction", **{"head": "closed", **settings})


def pictures(n=24):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return [rng.integers(0, 80, (24, 24, 3), dtype=np.uint8) + np.uint8(150 * label) for label in y], y


def words(n=24):
    return [f"{['apple pear', 'iron zinc'][i % 2]} {i}" for i in range(n)], np.arange(n) % 2


def test_rows_answer_as_the_head_alone_on_the_same_numbers():
    X, y = rows()
    y = X[:, 3]
    reference = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-6, 3, 10))).fit(X[::2, :3], y[::2])
    model = probe().fit(X[::2, :3], y[::2])
    assert model.score(X[1::2, :3], y[1::2]) == pytest.approx(reference.score(X[1::2, :3], y[1::2]), abs=0.01)


def test_features_given_as_rows_fit_as_the_backbone_that_gave_them():
    X, y = words()
    whole = Transfer("tiny:text", "feature_extraction").fit(X, y)
    parts = Transfer("rows", "feature_extraction").fit(extract(whole.backbone_, X), y)
    np.testing.assert_allclose(parts.predict_proba(extract(whole.backbone_, X)), whole.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("strategy", ["auto", "full", "lp_ft"])
def test_with_rows_every_strategy_is_a_head(strategy):
    X, y = rows()
    model = Transfer("rows", strategy, epochs=30, lr=3e-2, budget="5s").fit(X, y)
    assert model.backbone_.name == "rows:4" and model.n_features_in_ == 4
    if strategy == "auto":
        assert model.climb_.why == "stayed with the frozen probe: below the head there is nothing to retrain."
    assert model.score(X, y) > 0.9


def test_rows_are_not_kept_on_the_disk_a_second_time():
    X, y = rows()
    probe().fit(X, y)
    assert not (cache_folder() / "features").exists()


def test_rows_are_searched_piped_and_cloned():
    X, y = rows()
    piped = make_pipeline(StandardScaler(), PCA(3), probe())
    search = GridSearchCV(piped, {"pca__n_components": [1, 3], "transfer__head": ["lda", "ridge"]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.9 and search.best_params_["pca__n_components"] == 3
    assert clone(probe(random_state=3)).get_params() == probe(random_state=3).get_params()


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (Transfer("tiny:image", "full", epochs=2), pictures),
        (Transfer("tiny:text", "partial", epochs=2), words),
        (Transfer(load_backbone("tiny:image"), "cotuning", epochs=1), pictures),
        (probe(), rows),
    ],
    ids=["image", "text", "a Backbone with its classifier", "rows"],
)
def test_two_jobs_score_as_one(model, data):
    X, y = data()
    np.testing.assert_allclose(cross_val_score(model, X, y, cv=2, n_jobs=2), cross_val_score(model, X, y, cv=2), atol=1e-6)


@pytest.mark.parametrize(("name", "data"), [("tiny:image", pictures), ("tiny:text", words), ("rows", rows)])
@pytest.mark.parametrize("strategy", ["auto", "lp_ft"])
def test_a_pickled_model_predicts_the_same_and_can_be_fitted_again(name, data, strategy):
    X, y = data()
    model = Transfer(name, strategy, epochs=2).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)
    assert again.backbone_.name == model.backbone_.name and again.plan_ == model.plan_
    np.testing.assert_allclose(again.fit(X, y).predict_proba(X), model.predict_proba(X), atol=1e-6)


def test_what_it_is_to_scikit_learn_is_told_by_the_task_and_by_y():
    X, _ = rows()
    assert is_classifier(Transfer("rows")) and is_regressor(Transfer("rows", task="regression"))
    fitted = probe().fit(X, X[:, 0])
    assert is_regressor(fitted) and not is_classifier(fitted) and is_classifier(clone(fitted))
    assert not hasattr(fitted, "predict_proba") and hasattr(probe(), "predict_proba")
    # A scorer asks a classifier for its classes, which a regression has none of.
    assert cross_val_score(probe(), X, X[:, 3], scoring="r2", cv=3, error_score="raise").min() > 0
    assert Transfer("tiny:text").__sklearn_tags__().input_tags.string and not Transfer("rows:3").__sklearn_tags__().input_tags.string


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_names_of_columns_are_kept_and_held_against_later_tables(tmp_path):
    X, y = load_iris(return_X_y=True, as_frame=True)
    model = probe().fit(X, y)
    assert model.feature_names_in_.tolist() == list(X.columns)
    model.save(tmp_path)
    for each in (model, Transfer.load(tmp_path)):
        assert each.n_features_in_ == 4 and each.score(X, y) > 0.9
        with pytest.raises(ValueError, match="feature names should match"):
            each.predict(X[X.columns[::-1]])
        with pytest.raises(ValueError, match="has 3 features, but Transfer is expecting 4"):
            each.predict(X.to_numpy()[:, :3])


@pytest.mark.parametrize("dtype", ["int8", "bool", "<U3", "float64", "object"])
def test_classes_keep_the_type_of_y(dtype):
    X, _ = rows()
    y = (np.arange(150) < 50).astype(dtype)
    model = probe().fit(X, y)
    expected = np.unique(y)
    assert model.classes_.dtype == expected.dtype and model.classes_.tolist() == expected.tolist()
    assert model.predict(X).dtype == expected.dtype


def test_weights_of_classes_may_name_some_of_them():
    """Truth: a class of weight 3 counts as if each of its items were there three times."""
    X, y = rows()
    X, y = X[50:, :1], np.array(["a", "b"])[y[50:] - 1]
    plain, weighed = (probe(class_weight=weights).fit(X, y).predict_proba(X)[:, 1].mean() for weights in (None, {"b": 3}))
    balanced = probe(class_weight={"a": 1, "b": 1}).fit(X, y).predict_proba(X)[:, 1].mean()
    assert weighed > plain + 0.1 and balanced == pytest.approx(plain)
    with pytest.raises(ValueError, match="c"):
        probe(class_weight={"c": 2}).fit(X, y)


def test_rows_of_zero_and_one_are_scored_however_they_are_written():
    X, _ = rows()
    y = (X[:, :3] > np.median(X[:, :3], 0)).astype(int)
    model = probe().fit(X, y)
    expected = (model.predict(X) == y).all(1).mean()
    for form in (y, y.tolist(), list(y), y.astype(bool).tolist()):
        assert model.score(X, form) == expected > 0.5
        np.testing.assert_array_equal(probe().fit(X, form).predict(X), model.predict(X))


def test_labels_of_an_item_that_are_numbers_are_scored_by_their_names():
    X, y = rows()
    labels = [[int(label)] + [7] * int(row[0] > 5.8) for row, label in zip(X, y, strict=True)]
    model = probe().fit(X, labels)
    names = [[model.classes_[place] for place in np.flatnonzero(row)] for row in model.predict(X)]
    assert model.score(X, names) == 1.0 and model.score(X, labels) > 0.5


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        (csr_array(np.eye(4)), [0, 1, 0, 1], TypeError, "Sparse data was passed for X"),
        (np.full((4, 2), np.inf), [0, 1, 0, 1], ValueError, "Input X contains infinity"),
        (np.full((4, 2), 1e300), [0, 1, 0, 1], ValueError, "too large for dtype"),
        (np.zeros(4), [0, 1, 0, 1], ValueError, "Expected 2D array, got 1D array"),
        (pd.DataFrame({"a": ["x", "y"] * 2}), [0, 1, 0, 1], ValueError, "could not convert string to float"),
        (np.eye(4), None, GraftError, "requires y to be passed, but the target y is None"),
        (np.eye(1), [0], GraftError, r"X and y hold 1 items \(n_samples = 1\), expected at least 2"),
        (np.eye(4), [0.5, 1, 2, 3], GraftError, "y is continuous.*Pass task='regression'"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused(X, y, error, message):
    with pytest.raises(error, match=message):
        probe(task="classification").fit(X, y)
