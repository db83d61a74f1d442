"""Models on made domains whose true target accuracy is known, for the tests of validators."""

from dataclasses import replace

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from graft.validators import Judged

CLASSES, WIDTH = 3, 8


def linear(weight, bias):
    return lambda rows: softmax(rows @ weight + bias, axis=1)


def fit(rows, labels):
    """Logistic regression; classes that were not seen have probability 0."""
    model = LogisticRegression(C=1.0).fit(rows, labels)

    def outputs(others):
        whole = np.zeros((len(others), CLASSES))
        whole[:, model.classes_] = model.predict_proba(others)
        return whole

    return outputs


def domains(m=300, n=300, shift=1.0, seed=0, gap=2.0, prior=None):
    """Source (n, d) with labels, target (m, d) with labels; the target's classes are moved by `shift`, each in its own direction."""
    rng = np.random.default_rng(seed)
    means = gap * rng.normal(size=(CLASSES, WIDTH)) / np.sqrt(2)
    moves = shift * (rng.normal(size=WIDTH) + 0.5 * rng.normal(size=(CLASSES, WIDTH)))
    labels, target_labels = rng.choice(CLASSES, n), rng.choice(CLASSES, m, p=prior)
    source = means[labels] + rng.normal(size=(n, WIDTH))
    return source, labels, (means + moves)[target_labels] + rng.normal(size=(m, WIDTH)), target_labels


def judged(predict, source, labels, target, **more):
    """A Judged whose model is `predict`; a third of the source is held out."""
    v = len(source) // 3
    return Judged(
        source=source[:v],
        source_labels=labels[:v],
        source_outputs=predict(source[:v]),
        learned=source[v:],
        learned_labels=labels[v:],
        target=target,
        target_outputs=predict(target),
        predict=predict,
        fit=fit,
        prior=np.bincount(labels[v:], minlength=CLASSES) / (len(labels) - v),
        **more,
    )


def with_others(model, count=3, seed=5):
    """The same, beside models that are it with other last layers."""
    others, others_source = {}, {}
    for k in range(count):
        noise = np.random.default_rng(seed + k).normal(size=(CLASSES, CLASSES)) * 0.4
        others[f"model {k}"] = softmax(np.log(model.target_outputs + 1e-6) @ (np.eye(CLASSES) + noise), axis=1)
        others_source[f"model {k}"] = softmax(np.log(model.source_outputs + 1e-6) @ (np.eye(CLASSES) + noise), axis=1)
    return replace(model, others=others, others_source=others_source)


def sample(m=300, n=300, shift=0.6, seed=0):
    """A model that learned the source alone, with others beside it."""
    source, labels, target, _ = domains(m, n, shift, seed)
    return with_others(judged(fit(source[n // 3 :], labels[n // 3 :]), source, labels, target))


def family(seed, shift=0.8, m=300, n=600):
    """Models from the source-only one to one that knows the target's labels, past the first, and spoiled ones; their true accuracies."""
    source, labels, target, truth = domains(m, n, shift, seed)
    v, rng = n // 3, np.random.default_rng(seed)
    own = LogisticRegression(C=1.0).fit(source[v:], labels[v:])
    ideal = LogisticRegression(C=1.0).fit(np.concatenate([target, source[v:]]), np.concatenate([truth, labels[v:]]))
    models = []
    for share in np.linspace(-1, 1, 7):
        weight, bias = ((1 - share) * a + share * b for a, b in ((own.coef_.T, ideal.coef_.T), (own.intercept_, ideal.intercept_)))
        models.append(linear(weight, bias))
    for _ in range(3):
        models.append(linear(own.coef_.T + 0.5 * rng.normal(size=(WIDTH, CLASSES)), own.intercept_ + 1.5 * rng.normal(size=CLASSES)))
    found = [judged(model, source, labels, target) for model in models]
    for k, model in enumerate(found):
        rest = {str(i): other for i, other in enumerate(found) if i != k}
        others = {name: other.target_outputs for name, other in rest.items()}
        found[k] = replace(model, others=others, others_source={name: other.source_outputs for name, other in rest.items()})
    return found, np.array([(model.predicted == truth).mean() for model in found])
