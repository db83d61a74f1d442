"""Each modality's classical baseline learns what is there to learn, and takes awkward inputs."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from graft.baselines import NAMES, baseline_features, fit_baseline
from graft.errors import GraftError
from graft.evaluate import measure
from graft.records import TASKS

WORDS = {0: ["refund", "money", "charge"], 1: ["card", "lost", "stolen"], 2: ["login", "password", "reset"]}


def inputs_of(modality, labels, seed=0):
    """Made-up items that tell their label, and baseline features of them."""
    rng = np.random.default_rng(seed)
    if modality == "text":
        filler = ["please", "hello", "my", "the", "now"]
        items = [" ".join(rng.permutation([*rng.choice(WORDS[label], 2), *rng.choice(filler, 2)])) for label in labels]
    elif modality == "image":
        items = []
        for label in labels:
            image = rng.integers(0, 60, (40, 40, 3)).astype(np.uint8)
            image[..., label] += 120
            items.append(image)
    else:
        items = pd.DataFrame(
            {
                "size": rng.normal(size=len(labels)) + 3 * np.asarray(labels),
                "shop": [("north", "south", "east")[label] if rng.random() < 0.9 else None for label in labels],
                "new": rng.random(len(labels)) < 0.5,
            }
        )
    return baseline_features(modality, items)


def target_of(task, labels):
    if task == "classification":
        return labels
    return (labels[:, None] == [[0, 1, 2]]).astype(float) if task == "multilabel" else 2.0 * labels + 1


def take(inputs, index):
    if isinstance(inputs, pd.DataFrame):
        return inputs.iloc[index]
    return inputs[index] if isinstance(inputs, np.ndarray) else [inputs[i] for i in index]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("modality", list(NAMES))
def test_a_baseline_learns_what_is_there_to_learn_and_repeats(modality, task):
    labels = np.random.default_rng(1).integers(3, size=150)
    inputs, y = inputs_of(modality, labels), target_of(task, labels)
    fitted, again = (fit_baseline(modality, task, take(inputs, np.arange(100)), y[:100], seed=0) for _ in range(2))
    outputs = fitted.outputs(take(inputs, np.arange(100, 150)))
    assert outputs.shape == ((50,) if task == "regression" else (50, 3))
    assert (outputs == again.outputs(take(inputs, np.arange(100, 150)))).all()
    if task == "classification":
        assert outputs.sum(axis=1) == pytest.approx(np.ones(50))
    metric = {"classification": "accuracy", "multilabel": "micro_f1", "regression": "r2"}[task]
    assert measure(metric, y[100:], outputs) > 0.7
    assert fitted.name == NAMES[modality]


@pytest.mark.parametrize("modality", list(NAMES))
def test_few_items_and_classes_not_met_are_no_trouble(modality):
    labels = np.array([0, 0, 2, 2])
    inputs = inputs_of(modality, labels)
    outputs = fit_baseline(modality, "classification", inputs, labels, seed=0, n_classes=4).outputs(inputs)
    assert outputs.shape == (4, 4) and (outputs[:, [1, 3]] == 0).all()
    pair = take(inputs, np.array([0, 2]))
    assert fit_baseline(modality, "classification", pair, labels[[0, 2]], seed=0).outputs(pair).shape == (2, 3)


@pytest.mark.parametrize("modality", list(NAMES))
def test_balanced_weights_and_blocks_are_taken(modality):
    labels = np.array([0] * 40 + [1] * 8)
    inputs = inputs_of(modality, labels)
    fitted = fit_baseline(modality, "classification", inputs, labels, seed=0, class_weight="balanced", blocks=np.arange(48) // 2)
    assert measure("balanced_accuracy", labels, fitted.outputs(inputs)) > 0.8


def test_a_label_that_every_item_has_keeps_off_certainty():
    labels = np.random.default_rng(1).integers(2, size=30)
    inputs, y = inputs_of("text", labels), np.column_stack([labels, np.ones(30), np.zeros(30)]).astype(float)
    outputs = fit_baseline("text", "multilabel", inputs, y, seed=0).outputs(inputs)
    assert outputs[:, 1] == pytest.approx(31 / 32) and outputs[:, 2] == pytest.approx(1 / 32)


def test_texts_without_words_are_read_by_their_characters():
    texts = ["!!!", "???", "!!!", "???"] * 5
    y = np.array([0, 1] * 10)
    assert measure("accuracy", y, fit_baseline("text", "classification", texts, y, seed=0).outputs(texts)) == 1.0
    # Three of the four are what is fitted on first, to choose a strength.
    with pytest.raises(GraftError, match="none of 3 texts holds a character"):
        fit_baseline("text", "classification", ["", "", " ", ""], np.array([0, 1, 0, 1]), seed=0)


def test_image_features_are_the_same_for_a_path_and_its_pixels(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8))
    image.save(tmp_path / "a.png")
    events = []
    features = baseline_features("image", [str(tmp_path / "a.png"), image], events.append)
    assert features.shape == (2, 1892) and (features[0] == features[1]).all()
    # The histogram part holds roots of shares.
    assert (features[:, 1764:] ** 2).sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (events[-1].done, events[-1].total) == (2, 2)


def test_tables_may_hold_dates_many_categories_and_values_not_met_before():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=600)
    table = pd.DataFrame(
        {
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(y * 40 + rng.integers(30, size=600), unit="D"),
            "code": [f"c{i}" for i in range(600)],
            "empty": [None] * 600,
        }
    )
    fitted = fit_baseline("table", "classification", table, y, seed=0)
    later = table.assign(code="never met", empty="now filled")
    assert measure("accuracy", y, fitted.outputs(later)) > 0.95
    with pytest.raises(GraftError, match="lacks the columns day, code"):
        fitted.outputs(table[["empty"]])


def test_an_unknown_modality_and_a_single_class_are_said():
    with pytest.raises(GraftError, match=r"modality 'texts', expected one of text, image, table. Did you mean 'text'\?"):
        fit_baseline("texts", "classification", ["a"], np.array([0]), seed=0)
    with pytest.raises(GraftError, match=r"modality 'img'"):
        baseline_features("img", [])
    with pytest.raises(GraftError, match=r"2 items of 1 class, expected at least 2"):
        fit_baseline("text", "classification", ["a", "b"], np.array([1, 1]), seed=0)
