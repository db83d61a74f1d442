"""Transfer: a scikit-learn estimator over backbones, strategies and heads."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from graft import transfer
from graft.backbones.tiny import load as tiny
from graft.errors import Diverged, GraftError
from graft.features import States, extract
from graft.records import Note, Phase, Plan, Recipe
from graft.strategies import STRATEGIES
from graft.train import train
from graft.transfer import Transfer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def pictures(n=40, seed=0):
    """Dark and bright noise: two classes that any network tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return [rng.integers(0, 80, (24, 24, 3), dtype=np.uint8) + np.uint8(150 * label) for label in y], np.array(["dark", "bright"])[y]


def texts(n=60):
    rng = np.random.default_rng(0)
    words = {"fruit": ["apple", "pear", "plum", "fig"], "metal": ["iron", "zinc", "lead", "tin"]}
    y = [["fruit", "metal"][i % 2] for i in range(n)]
    return [" ".join(rng.choice(words[label], 3)) for label in y], y


def test_texts_are_told_apart_and_probabilities_sum_to_one():
    X, y = texts()
    model = Transfer("tiny:text").fit(X[:40], y[:40])
    assert model.score(X[40:], y[40:]) == 1.0
    probabilities = model.predict_proba(X[40:])
    assert probabilities.shape == (20, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    assert list(model.classes_) == ["fruit", "metal"]


def test_paths_pictures_and_arrays_give_the_same_predictions(tmp_path):
    arrays, y = pictures()
    paths = []
    for number, array in enumerate(arrays):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(array).save(paths[-1])
    model = Transfer("tiny:image").fit(arrays, y)
    expected = model.predict_proba(arrays)
    np.testing.assert_allclose(model.predict_proba([Image.fromarray(array) for array in arrays]), expected)
    np.testing.assert_allclose(model.predict_proba([str(path) for path in paths]), expected)
    np.testing.assert_allclose(model.predict_proba(pd.DataFrame({"image": [str(path) for path in paths]})), expected)


def test_a_stacked_array_of_pictures_is_one_item_each():
    arrays, y = pictures()
    assert Transfer("tiny:image").fit(np.stack(arrays), y).score(np.stack(arrays), y) == 1.0


def test_scikit_learn_can_clone_search_and_cross_validate():
    X, y = texts(40)
    model = Transfer("tiny:text", head="ridge")
    assert clone(model).get_params()["head"] == "ridge"
    assert cross_val_score(model, X, y, cv=2).mean() > 0.9
    search = GridSearchCV(model, {"head": ["ridge", "logistic"]}, cv=2).fit(X, y)
    assert search.best_params_["head"] in ("ridge", "logistic")
    piped = make_pipeline(FunctionTransformer(lambda X: [text.upper() for text in X]), model)
    assert piped.fit(X, y).score(X, y) == 1.0


def test_whole_number_labels_stay_whole_numbers():
    X, y = texts(40)
    model = Transfer("tiny:text").fit(X, [7 if label == "fruit" else 3 for label in y])
    assert model.classes_.tolist() == [3, 7]
    assert set(model.predict(X)) == {3, 7}


def test_numbers_with_fractions_are_a_regression():
    X, _ = texts(60)
    y = np.array([text.count("apple") + 0.5 for text in X])
    model = Transfer("tiny:text").fit(X, y)
    assert model.task_ == "regression"
    assert model.score(X, y) > 0.5
    with pytest.raises(AttributeError, match="no attribute 'predict_proba'") as error:
        model.predict_proba(X)
    assert "this model is a regression, of numbers, and has no classes. Use predict." in str(error.value.__cause__)


def test_lists_of_labels_are_multilabel():
    X, _ = texts(60)
    y = [[word for word in ("apple", "iron") if word in text] for text in X]
    model = Transfer("tiny:text").fit(X, y)
    assert model.task_ == "multilabel"
    assert list(model.classes_) == ["apple", "iron"]
    assert model.score(X, y) > 0.9


# What a backbone lacks: no tiny one has attention; tiny:text has no batch normalisation, convolution, or classifier that co-tuning trains.
REFUSED = {
    ("stochnorm", "text"): "stochnorm: .* no batch normalisation",
    ("lora_attention", "image"): "lora: .* no attention layer",
    ("lora_attention", "text"): "lora: .* no attention layer",
    ("lora_convolutions", "text"): "lora: .* no ungrouped convolution layer",
    ("cotuning", "text"): "cotuning with tiny:text, .* without the classifier",
}


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_fits_predicts_repeats_and_is_saved(strategy, kind, tmp_path):
    X, y = texts(40) if kind == "text" else pictures()
    models = [Transfer(f"tiny:{kind}", strategy, epochs=2, lr=1e-2, random_state=1) for _ in range(2)]
    if (strategy, kind) in REFUSED:
        with pytest.raises(GraftError, match=REFUSED[strategy, kind]):
            models[0].fit(X, y)
        return
    first, second = (model.fit(X, y, others=X[:10]) for model in models)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    first.save(tmp_path)
    again = Transfer.load(tmp_path)
    assert again.plan_ == first.plan_
    np.testing.assert_allclose(again.predict_proba(X), first.predict_proba(X), atol=1e-6)


class _Forget(torch.nn.Module):
    """A last stage that keeps of each text only how long it is."""

    def forward(self, state):
        return state["attention_mask"].sum(1, keepdim=True) * torch.arange(1.0, 33.0)


def test_late_stages_know_what_the_last_one_has_forgotten_and_few_texts_begin_there():
    X, y = texts(96)
    X = [text + " and" * (i // 2 % 5) for i, text in enumerate(X)]
    backbone = tiny("text")
    backbone.stages[-1] = _Forget()
    assert Transfer(backbone, "feature_extraction").fit(X[:48], y[:48]).score(X[48:], y[48:]) < 0.7
    model = Transfer(backbone).fit(X[:48], y[:48])
    assert model.strategy_ == "late_stages" and model.plan_ == Plan((), tap="late")
    assert model.score(X[48:], y[48:]) == 1.0


def test_a_plan_and_a_function_are_taken_where_a_name_is():
    X, y = texts(40)

    def only_the_first(depth, epochs, lr):
        return Plan((Phase(epochs, tuple(lr * (group == 0) for group in range(depth)), lr),))

    for strategy in (only_the_first, only_the_first(4, 2, 1e-3)):
        model = Transfer("tiny:text", strategy, epochs=2).fit(X, y)
        before, after = tiny("text").groups(), model.backbone_.groups()
        moved = [
            any(not np.allclose(a.detach(), b.detach()) for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)
        ]
        assert moved == [True, False, False, False]


def test_auto_reads_the_features_once_and_solves_on_them_as_the_strategy_alone_would(monkeypatch):
    X, y = pictures()
    reads, read = [], transfer.extract
    monkeypatch.setattr(transfer, "extract", lambda *args, **named: reads.append(named["tap"]) or read(*args, **named))
    chosen = Transfer("tiny:image").fit(X, y)
    assert reads == ["stages"]
    alone = Transfer("tiny:image", chosen.strategy_).fit(X, y)
    np.testing.assert_allclose(chosen.predict_proba(X), alone.predict_proba(X), atol=1e-6)


def test_a_leading_phase_of_the_head_alone_is_solved_exactly():
    X, y = texts(40)
    probe = Transfer("tiny:text", "linear_probe").fit(X, y)
    frozen = Transfer("tiny:text", "feature_extraction").fit(X, y)
    assert probe.history_ == []
    np.testing.assert_allclose(probe.predict_proba(X), frozen.predict_proba(X))


def test_lp_ft_starts_from_the_solved_head():
    X, y = pictures(60)
    model = Transfer("tiny:image", "lp_ft", epochs=2, lr=1e-9).fit(X, y)
    assert {event.phase for event in model.history_} == {0}
    # At a rate of almost zero nothing moves, so what is left is the head that was solved for.
    assert model.score(X, y) == 1.0


def test_one_item_a_class_is_trained_on_without_holding_any_out():
    X, _ = texts(12)
    model = Transfer("tiny:text", "full", epochs=2).fit([f"{text} {i}" for i, text in enumerate(X)], [i % 11 for i in range(12)])
    assert [event.score for event in model.history_] == [None, None]


def test_a_tuned_regression_answers_in_the_unit_of_y():
    X, _ = pictures(60)
    y = np.array([float(array.mean()) + 1000.5 for array in X])
    model = Transfer("tiny:image", "full", epochs=8, lr=1e-2).fit(X, y)
    assert abs(model.predict(X).mean() - y.mean()) < 40


def test_a_fitted_transfer_leaves_the_given_backbone_alone():
    X, y = texts(40)
    backbone = tiny("text")
    before = backbone.fingerprint()
    Transfer(backbone, "full", epochs=1).fit(X, y)
    assert backbone.fingerprint() == before


@pytest.mark.parametrize("strategy", ["feature_extraction", "late_stages", "full"])
def test_predictions_after_load_equal_those_before(tmp_path, strategy):
    X, y = texts(40)
    model = Transfer("tiny:text", strategy, epochs=2).fit(X, y)
    model.save(tmp_path / "model")
    loaded = Transfer.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-6)
    assert loaded.predict(X).tolist() == model.predict(X).tolist()
    assert loaded.plan_ == model.plan_


def test_the_head_equals_scikit_learns_on_the_same_features():
    X, y = texts(40)
    backbone = tiny("text")
    features = extract(backbone, X)
    reference = LogisticRegression(C=1.0).fit(features, y)
    assert (Transfer(backbone, head="logistic").fit(X, y).predict(X) == reference.predict(features)).all()


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(GraftError, match=r"has no graft\.json, expected the folder of a run"):
        Transfer.load(tmp_path)
    with pytest.raises(GraftError, match="is no folder"):
        Transfer.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (["a", "b"], ["x"], "2 items and y has 1 labels"),
        (["a", "b"], ["x", "x"], "expected at least 2 classes"),
        (["a", 3], ["x", "y"], "X holds a int"),
        ("a", ["x"], "single string 'a'"),
    ],
)
def test_what_does_not_fit_is_said(X, y, message):
    with pytest.raises(GraftError, match=message):
        Transfer("tiny:text").fit(X, y)


def test_an_unknown_task_gets_the_near_miss():
    with pytest.raises(GraftError, match="Did you mean 'classification'"):
        Transfer("tiny:text", task="clasification").fit(["a", "b"], ["x", "y"])


def test_a_keeper_of_states_serves_several_fits():
    X, y = texts()
    target = (np.array(y) == "metal").astype(int)
    backbone, prepared = tiny("text"), []
    prepare = backbone._prepare
    with States() as states:
        for expected in (True, False):
            prepared.clear()
            backbone._prepare = lambda items, rng: (prepared.extend(items), prepare(items, rng))[1]
            model = Transfer(backbone, "partial").fit_encoded(X, target, "classification", ["fruit", "metal"], states=states)
            assert model.history_ and set(prepared).issuperset(X) == expected


def test_a_recipe_is_played_with_three_epochs_of_patience_unless_it_has_its_own(monkeypatch):
    seen = []

    def spy(*args, recipe, **options):
        seen.append(recipe)
        return train(*args, recipe=recipe, **options)

    monkeypatch.setattr("graft.transfer.train", spy)
    X, y = pictures()
    for recipe in (None, Recipe(mixup=0.2), Recipe(patience=7, class_weight="balanced", items_per_epoch=9)):
        Transfer("tiny:image", "full", epochs=2, recipe=recipe).fit(X, y)
    assert seen == [Recipe(patience=3), Recipe(mixup=0.2, patience=3), Recipe(patience=7, class_weight="balanced", items_per_epoch=9)]


def test_class_weights_given_twice_are_named():
    model = Transfer("tiny:text", "full", class_weight="balanced", recipe=Recipe(class_weight=[1, 2]))
    with pytest.raises(GraftError, match=r"class_weight is 'balanced', and \[1, 2\] in the recipe, expected one of them"):
        model.fit(*texts())


def test_class_weights_of_a_recipe_turn_a_solved_head_too():
    X, y = texts()
    y = ["fruit" if i % 6 else "metal" for i in range(60)]
    plain, weighed = (Transfer("tiny:text", "feature_extraction", recipe=Recipe(class_weight=w)).fit(X, y) for w in (None, "balanced"))
    assert weighed.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean() + 0.1


@pytest.mark.parametrize("strategy", ["full", "lp_ft"])
def test_an_automatic_rate_is_found_told_and_trained_at(strategy, tmp_path):
    """Truth: a fit at the found rate is the same to the last digit."""
    X, y = texts()
    told = []
    model = Transfer("tiny:text", strategy, lr="auto", epochs=2)
    model.fit_encoded(X, np.arange(60) % 2, "classification", ["fruit", "metal"], progress=told.append)
    assert [event.text for event in told if isinstance(event, Note)] == [
        f"learning rate: {model.lr_:.3g}, half way down the longest fall of the loss"
    ]
    assert model.lr_ != 1e-3 and model.plan_.phases[0].head_lr == pytest.approx(model.lr_)
    given = Transfer("tiny:text", strategy, lr=model.lr_, epochs=2).fit(X, y)
    np.testing.assert_allclose(model.predict_outputs(X), given.predict_outputs(X), atol=1e-9)
    assert given.lr_ == model.lr_ and clone(model).lr == "auto"


def test_an_automatic_rate_trains_nothing_where_nothing_is_trained():
    assert Transfer("tiny:text", "feature_extraction", lr="auto").fit(*texts()).lr_ == 1e-3
    auto = Transfer("tiny:text", lr="auto").fit(*texts())
    assert (auto.lr_, auto.history_) == (1e-3, [])


def test_a_rate_that_is_a_word_is_named():
    with pytest.raises(GraftError, match=r"lr is 'atuo', expected a rate above 0, e.g. 1e-3, or 'auto'. Did you mean 'auto'\?"):
        Transfer("tiny:text", "full", lr="atuo").fit(*texts())


def test_predictions_over_views_are_the_mean_over_the_judged_one_and_random_ones(tmp_path):
    """Truth: probabilities of the head on each view's features, averaged."""
    X, y = pictures()
    model = Transfer("tiny:image", "feature_extraction", test_views=3).fit(X, y)
    each = [model.head_.outputs(extract(model.backbone_, X, view=view)) for view in range(3)]
    np.testing.assert_allclose(model.predict_outputs(X), np.mean(each, 0), atol=1e-12)
    np.testing.assert_array_equal(model.predict_outputs(X, views=1), each[0])
    assert np.abs(each[0] - each[1]).max() > 1e-6
    np.testing.assert_allclose(model.predict_outputs(X).sum(1), 1.0)
    model.save(tmp_path / "m")
    again = Transfer.load(tmp_path / "m")
    assert again.test_views == 3
    np.testing.assert_allclose(again.predict_outputs(X), model.predict_outputs(X), atol=1e-6)


@pytest.mark.parametrize(
    ("data", "views", "message"),
    [
        (pictures, 0, "0 views of each image to predict from, expected 1 or more"),
        (texts, 2, "2 views of each text .* expected 1, as a text"),
    ],
)
def test_views_that_cannot_be_had_are_named(data, views, message):
    X, y = data()
    model = Transfer("tiny:image" if data is pictures else "tiny:text", "feature_extraction").fit(X, y)
    with pytest.raises(GraftError, match=message):
        model.predict_outputs(X, views=views)


def test_automatic_augmentation_without_held_out_items_stays_on_and_says_so():
    X, y = pictures(8)
    with pytest.warns(UserWarning, match="augment is 'auto', and too few items to hold some out"):
        Transfer("tiny:image", "lp_ft", epochs=2, recipe=Recipe(augment="auto")).fit(X, y)
    told = []
    X, y = pictures(80)
    model = Transfer("tiny:image", "full", epochs=2, recipe=Recipe(augment="auto"))
    model.fit_encoded(X, np.arange(80) % 2, "classification", ["bright", "dark"], progress=told.append)
    assert [event.text[:12] for event in told if isinstance(event, Note)] == ["augmentation"] and len(model.history_) == 2


def test_of_a_rate_that_diverges_the_best_weights_are_kept_and_a_warning_names_it():
    X, y = pictures()
    plan = Plan((Phase(2, (1e-4,) * 4, 1e-3), Phase(2, (1e30,) * 4, 1e30)))
    with pytest.warns(UserWarning, match=r"loss became nan in phase 2, epoch \d.*highest rate was 1e\+30: try a tenth"):
        model = Transfer("tiny:image", plan, recipe=Recipe(precision="fp32")).fit(X, y)
    assert "phase 2" in model.diverged_ and np.isnan(model.history_[-1].loss)
    before = Transfer("tiny:image", Plan(plan.phases[:1]), recipe=Recipe(precision="fp32")).fit(X, y)
    assert before.diverged_ == ""
    # The second phase may take a good step before it diverges: what is kept is no worse than what it began with.
    assert np.isfinite(model.predict_proba(X)).all() and model.score(X, y) >= before.score(X, y) - 0.05


def test_random_weights_that_diverge_in_their_first_epoch_are_no_model():
    X, y = pictures(160)
    with pytest.raises(Diverged, match="phase 1, epoch 1"):
        Transfer("tiny:image", Plan((Phase(2, (1e30,) * 4, 1e30),))).fit(X, y)
