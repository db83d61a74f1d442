"""What every validator and estimate owes, whatever its formula: a run over all registered names. Their truth is in another file."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.special import softmax
from validator_samples import CLASSES, WIDTH, domains, fit, judged, linear, sample, with_others

from graft.errors import GraftError
from graft.validators import ESTIMATES, VALIDATORS, Judged, base, density_ratio, evidence

EVERY = {**{name: VALIDATORS[name] for name in VALIDATORS}, **{name: ESTIMATES[name] for name in ESTIMATES}}
every_judge = pytest.mark.parametrize("name", list(EVERY))
every_estimate = pytest.mark.parametrize("name", list(ESTIMATES))

# Stated in the docstrings; c = 3, m = 300, e = 8. What is not here may be any finite number.
RANGES = {
    "source_risk": (0, 1), "iwcv": (-27.7, 0), "reverse": (0, 1), "reverse_weighted": (0, 1),
    "entropy": (-np.log(3), 0), "infomax": (0, np.log(3)),
    "confidence": (1 / 3, 1), "class_balance": (-27.7, 0), "snd": (0, np.log(299)), "bnm": (0, 1), "agreement": (0, 1), "rankme": (1, 8),
    "silhouette": (-1, 1), "calinski": (0, np.inf), "class_ami": (-1, 1), "class_ss": (-1, 1), "mixval": (0, 1),
    **dict.fromkeys(ESTIMATES, (0, 1)),
}  # fmt: skip


def constant(probabilities=(1.0, 0.0, 0.0)):
    return lambda rows: np.tile(probabilities, (len(rows), 1))


def degenerate():
    """What can go wrong, by name."""
    source, labels, target, _ = domains(m=60, n=90)
    model = fit(source, labels)
    yield "one class for all", judged(constant(), source, labels, target)
    yield "no opinion", judged(constant((1 / 3, 1 / 3, 1 / 3)), source, labels, target)
    yield "one target item", judged(model, source, labels, target[:1])
    yield "two target items", judged(model, source, labels, target[:2])
    yield "one source item", replace(judged(model, source, labels, target), **_held_out(source, labels, model, 1))
    yield "constant features", judged(model, 0 * source + 1, labels, 0 * target + 1)
    yield "features of 0", judged(model, 0 * source, labels, 0 * target)
    yield "constant target", judged(model, source, labels, 0 * target + 1)
    yield "items that come twice", judged(model, source, labels, np.repeat(target[:4], 10, axis=0))
    two = np.repeat(target[:2], [3, 3], axis=0)
    yield "fewer distinct items than classes", replace(judged(model, source, labels, two), target_outputs=np.eye(3)[[0, 0, 1, 1, 2, 2]])
    yield "far apart", judged(model, source, labels, target + 1000)
    yield "always wrong", judged(linear(np.zeros((WIDTH, 3)), np.array([0, 0, 50.0])), source, labels * 0, target)
    yield "one learned item", replace(judged(model, source, labels, target), learned=source[:1], learned_labels=labels[:1])
    yield "a class that the source lacks", judged(model, source, np.minimum(labels, 1), target)
    yield "features that are huge", judged(model, source * 1e15, labels, target * 1e15)
    yield "float32", judged(lambda rows: model(rows).astype(np.float32), source.astype(np.float32), labels, target.astype(np.float32))


def _held_out(source, labels, model, v):
    return {"source": source[:v], "source_labels": labels[:v], "source_outputs": model(source[:v])}


# Made once: what several judges use is kept with the model.
DEGENERATE = {what: with_others(model) for what, model in degenerate()}


@every_judge
def test_it_is_one_finite_float_within_its_range(name):
    value = EVERY[name](sample())
    assert type(value) is float and np.isfinite(value)
    low, high = RANGES.get(name, (-np.inf, np.inf))
    assert low <= value <= high


@every_judge
@pytest.mark.parametrize("what", DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_a_degenerate_input_gives_a_finite_number_and_no_warning(name, what):
    model = DEGENERATE[what]
    value = EVERY[name](model)
    low, high = RANGES.get(name, (-np.inf, np.inf))
    if name == "snd":
        high = np.log(max(1, len(model.target) - 1))
    # 1e-6: outputs in float32 sum to 1 within that.
    assert np.isfinite(value) and low - 1e-6 <= value <= high + 1e-6


@every_judge
def test_the_same_again_gives_the_same(name):
    assert EVERY[name](sample()) == EVERY[name](sample())


@every_judge
def test_what_it_is_given_stays_as_it_is(name):
    model, before = sample(), sample()
    EVERY[name](model)
    for field in fields(Judged):
        value, old = getattr(model, field.name), getattr(before, field.name)
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, old), field.name
        elif isinstance(value, dict):
            assert all(np.array_equal(value[key], old[key]) for key in old), field.name


@every_judge
def test_the_order_of_target_items_does_not_matter(name):
    model = sample()
    order = np.random.default_rng(3).permutation(len(model.target))
    turned = replace(
        model,
        target=model.target[order],
        target_outputs=model.target_outputs[order],
        others={key: rows[order] for key, rows in model.others.items()},
    )
    # 1e-4: a refitted classifier stops elsewhere within its tolerance.
    assert EVERY[name](turned) == pytest.approx(EVERY[name](model), rel=1e-4)


@every_judge
def test_the_order_of_source_items_does_not_matter(name):
    model = sample()
    order, learned = np.random.default_rng(3).permutation(len(model.source)), np.random.default_rng(4).permutation(len(model.learned))
    turned = replace(
        model,
        source=model.source[order],
        source_labels=model.source_labels[order],
        source_outputs=model.source_outputs[order],
        learned=model.learned[learned],
        learned_labels=model.learned_labels[learned],
        others_source={key: rows[order] for key, rows in model.others_source.items()},
    )
    assert EVERY[name](turned) == pytest.approx(EVERY[name](model), rel=1e-4)


@every_judge
def test_the_names_of_classes_do_not_matter(name):
    model = sample()
    new = np.array([2, 0, 1])  # class k is now called new[k]
    old = np.argsort(new)
    turned = replace(
        model,
        source_labels=new[model.source_labels],
        source_outputs=model.source_outputs[:, old],
        learned_labels=new[model.learned_labels],
        target_outputs=model.target_outputs[:, old],
        predict=lambda rows: model.predict(rows)[:, old],
        prior=model.prior[old],
        others={key: rows[:, old] for key, rows in model.others.items()},
        others_source={key: rows[:, old] for key, rows in model.others_source.items()},
    )
    assert EVERY[name](turned) == pytest.approx(EVERY[name](model), rel=1e-4)


@every_judge
def test_where_something_is_lacking_it_says_what(name):
    model = sample()
    bare = replace(
        model,
        **{name: getattr(model, name)[:0] for name in ("source", "source_labels", "source_outputs", "learned", "learned_labels")},
        others={},
        others_source={},
    )
    if not EVERY[name].needs:
        assert np.isfinite(EVERY[name](bare))
        return
    with pytest.raises(GraftError, match=f"{name}: got (0|no).*expected at least") as caught:
        EVERY[name](bare)
    assert "infomax" in str(caught.value)


def test_agreement_on_a_line_needs_three_models():
    model = sample()
    with pytest.raises(GraftError, match="agreement_on_line: got 1 models in both others and others_source, expected at least 2"):
        ESTIMATES["agreement_on_line"](replace(model, others_source={"model 0": model.others_source["model 0"]}))


@every_estimate
def test_a_target_like_the_source_gets_about_the_true_accuracy(name):
    source, labels, target, truth = domains(m=1500, n=3000, shift=0.0)
    model = with_others(judged(fit(source[1000:], labels[1000:]), source, labels, target))
    accuracy = (model.predicted == truth).mean()
    # Two standard errors of an accuracy on 1,000 held-out and 1,500 target items, and a hundredth for what the method itself errs.
    allowed = 0.01 + 2 * np.sqrt(accuracy * (1 - accuracy) * (1 / 1000 + 1 / 1500))
    assert ESTIMATES[name](model) == pytest.approx(accuracy, abs=allowed)


def test_evidence_holds_every_name_and_what_each_says_alone():
    found = evidence(sample())
    assert set(found) == {*VALIDATORS, *ESTIMATES} and len(found) == len(VALIDATORS) + len(ESTIMATES)
    assert found == {name: EVERY[name](sample()) for name in found}


def test_evidence_leaves_out_what_cannot_be_had():
    model = replace(sample(), others={}, others_source={})
    assert {*VALIDATORS, *ESTIMATES} - set(evidence(model)) == {"agreement", "agreement_on_line"}
    bare = replace(model, **{name: getattr(model, name)[:0] for name in ("source", "source_labels", "source_outputs")})
    assert {"infomax", "mixval", "class_ami"} <= set(evidence(bare)) and not {"source_risk", "dev", "atc"} & set(evidence(bare))


def test_evidence_fits_one_density_ratio(monkeypatch):
    calls = []
    monkeypatch.setattr("graft.validators.base.density_ratio", lambda *sides: calls.append(1) or density_ratio(*sides))
    evidence(sample())
    assert calls == [1]


def test_above_two_thousand_items_a_draw_with_the_seed_is_looked_at():
    rng = np.random.default_rng(0)
    outputs = softmax(3 * rng.normal(size=(2500, CLASSES)), axis=1)
    model = replace(sample(), target=rng.normal(size=(2500, WIDTH)), target_outputs=outputs, others={}, others_source={})
    assert len(model.drawn) == 2000 and len(set(model.drawn)) == 2000 and (model.drawn != replace(model, seed=1).drawn).any()
    assert VALIDATORS["snd"](model) < np.log(1999) and VALIDATORS["snd"](model) != VALIDATORS["snd"](replace(model, seed=1))


def test_everything_that_does_not_fit_is_named_at_once():
    model = sample()
    with pytest.raises(GraftError) as caught:
        replace(
            model,
            target=np.where(np.arange(300)[:, None] == 7, np.nan, model.target),
            source=model.source[:, :5],
            target_outputs=np.log(model.target_outputs),
            source_labels=model.source_labels + 1,
            others={"other": np.zeros((4, 3))},
        )
    words = str(caught.value)
    assert "source has shape (100, 5), expected (items, 8)" in words and "target of 1 of 300 items is not finite" in words
    assert "target_outputs holds" in words and "expected probabilities that sum to 1. Apply a softmax first." in words
    assert "expected (100,) integers from 0 to 2" in words and "others['other'] has shape (4, 3), expected (300, 3)" in words


def test_a_target_without_items_is_refused():
    model = sample()
    with pytest.raises(GraftError, match="target has 0 items, expected at least 1"):
        replace(model, target=model.target[:0], target_outputs=model.target_outputs[:0], others={}, others_source={})


@pytest.mark.parametrize("v", [0, 1, 100])
def test_density_ratios_are_finite_and_above_0(v):
    source, _, target, _ = domains(m=80, n=200)
    for sides in ((source, target + 100), (source, target[:1]), (source[:1], target), (0 * source, 0 * target)):
        weights = density_ratio(*sides, source[:v] if v <= len(source) else source)
        assert weights.shape == (v,) and np.isfinite(weights).all() and (weights > 0).all()


def test_what_hangs_on_rows_alone_is_taken_from_the_twin_and_is_the_same(monkeypatch):
    one = sample()
    asked = []
    monkeypatch.setattr(base, "density_ratio", lambda *given: asked.append(given) or density_ratio(*given))
    # The other model errs otherwise: all that looks at outputs must differ.
    other = {"target_outputs": one.target_outputs[:, [1, 2, 0]], "source_outputs": one.source_outputs[:, [1, 2, 0]]}
    alone = evidence(replace(one, **other))
    assert evidence(replace(one, **other, twin=one)) == alone != evidence(one) and len(asked) == 2


def test_a_twin_has_the_very_same_rows():
    one = sample()
    for change in ({"target": one.target + 1}, {"seed": 5}):
        with pytest.raises(GraftError, match="twin has other rows or another seed, expected the very same arrays"):
            replace(one, **change, twin=one)
