"""What a validator sees of a model, what several of them compute once, and the registries. numpy, SciPy and scikit-learn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.cluster import KMeans

from graft.errors import GraftError, raise_all
from graft.registry import Registry
from graft.scatter import effective_rank, one_thread
from graft.validators.ratios import density_ratio

# name -> (judged) -> a number, higher is better
VALIDATORS = Registry("validator")
# name -> (judged) -> accuracy to expect on the target, 0 to 1
ESTIMATES = Registry("estimate")

Judge = Callable[["Judged"], float]

# The most target items of which all pairs are looked at, or that a classifier is fitted on.
MOST_ITEMS = 2000
# Below any probability that tells; keeps logarithms finite.
TINY = 1e-12
# How far rows of probabilities may be from 1: float16 holds three digits.
_NOT_ONE = 1e-2
_HIGHEST_TEMPERATURE = 20.0


@dataclass(frozen=True)
class Judged:
    """A classifier of c classes, and what may be known of it without a target label.

    source: (v, e) features, as the model sees them, of source items that it did not learn from; source_labels: (v,) int;
    source_outputs: (v, c) its probabilities for them. learned: (n, e) features of the source items that it learned from;
    learned_labels: (n,) int. v and n may be 0 where only a fitted model is at hand. target: (m, e) features; target_outputs: (m, c)
    probabilities, m at least 1. predict: (features (k, e)) -> probabilities (k, c), the model's last layer.
    fit: (rows (k, e), labels (k,)) -> a function (rows) -> probabilities (., c): a new classifier of the same kind; rows are of at least
    two classes, not always of all. others: name -> (m, c) probabilities for the target of other models that were made on the same data;
    others_source: name -> (v, c) theirs for the same source items. prior: (c,) shares of the classes in the source. seed: of everything
    drawn. twin: one of another model with the very same rows and seed, whose findings about rows alone are then taken over. Raises
    GraftError naming everything that does not fit together.
    """

    source: np.ndarray
    source_labels: np.ndarray
    source_outputs: np.ndarray
    learned: np.ndarray
    learned_labels: np.ndarray
    target: np.ndarray
    target_outputs: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]
    prior: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    others_source: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    twin: "Judged | None" = None

    def __post_init__(self) -> None:
        raise_all(list(_problems(self)))

    def lacks(self, what: str) -> str:
        """What is missing of "source", "learned", "others" or "line", in words; "" where nothing is."""
        if what == "source":
            return "" if len(self.source) else "got 0 source items that the model did not learn from, expected at least 1"
        if what == "learned":
            return "" if len(self.learned) else "got 0 source items that the model learned from, expected at least 1"
        if what == "others":
            return "" if self.others else "got no other model, expected at least 1 in others"
        assert what == "line"
        shared = len(self.on_both_sides)
        return "" if shared >= 2 else f"got {shared} models in both others and others_source, expected at least 2"

    def has_rows(self, source: np.ndarray, learned: np.ndarray, target: np.ndarray) -> bool:
        """Whether its rows are these very arrays."""
        return self.source is source and self.learned is learned and self.target is target

    @property
    def on_both_sides(self) -> list[str]:
        """Names of the other models whose outputs for the held-out source are known too."""
        return [name for name in self.others if name in self.others_source]

    @cached_property
    def predicted(self) -> np.ndarray:
        """(m,) int: the class that the model gives each target item."""
        return self.target_outputs.argmax(axis=1)

    @cached_property
    def right(self) -> np.ndarray:
        """(v,) bool: whether the model is right about a held-out source item."""
        return self.source_outputs.argmax(axis=1) == self.source_labels

    @cached_property
    def drawn(self) -> np.ndarray:
        """Indices of at most 2,000 target items: all, or drawn with the seed by place, so that models of one run are judged on the same."""
        m = len(self.target)
        return np.arange(m) if m <= MOST_ITEMS else np.sort(np.random.default_rng(self.seed).choice(m, MOST_ITEMS, replace=False))

    @cached_property
    def importance(self) -> np.ndarray:
        """(v,) positive: how much more frequent items like each held-out one are in the target than in the source; see `density_ratio`."""
        if self.twin is not None:
            return self.twin.importance
        return density_ratio(self.learned, self.target, self.source, self.seed)

    @cached_property
    def rank(self) -> float:
        """How many directions the drawn target items fill; see `effective_rank`."""
        return effective_rank(self.target[self.drawn].astype(float)) if self.twin is None else self.twin.rank

    @cached_property
    def comes_back(self) -> np.ndarray:
        """(v,) bool: whether a new classifier, taught the drawn target items with the model's labels, is right about a source item."""
        rows, labels = self.target[self.drawn], self.predicted[self.drawn]
        if (labels == labels[0]).all():
            return np.asarray(self.source_labels == labels[0])
        return np.asarray(self.fit(rows, labels)(self.source).argmax(axis=1) == self.source_labels)

    @cached_property
    def calibrated(self) -> tuple[np.ndarray, np.ndarray]:
        """source_outputs (v, c) and target_outputs (m, c) after the temperature, 1/20 to 20, with the least log loss on held-out items.

        Source: Guo et al. 2017, arXiv:1706.04599.
        """
        source, target = (np.log(np.maximum(outputs.astype(float), TINY)) for outputs in (self.source_outputs, self.target_outputs))
        places = np.arange(len(source))

        def loss(log_temperature: float) -> float:
            found = softmax(source / np.exp(log_temperature), axis=1)[places, self.source_labels]
            return -float(np.log(np.maximum(found, TINY)).mean())

        widest = np.log(_HIGHEST_TEMPERATURE)
        temperature = np.exp(minimize_scalar(loss, bounds=(-widest, widest), method="bounded").x)
        return softmax(source / temperature, axis=1), softmax(target / temperature, axis=1)

    @cached_property
    def clusters(self) -> np.ndarray:
        """k-means clusters of the drawn target items, which start from the means of the predicted classes; (len(drawn),) int."""
        rows, labels = self.target[self.drawn].astype(float), self.predicted[self.drawn]
        distinct, same = np.unique(rows, axis=0, return_inverse=True)
        centres = np.unique([rows[labels == label].mean(axis=0) for label in np.unique(labels)], axis=0)
        if len(distinct) <= len(centres):
            return same.reshape(-1)
        return KMeans(len(centres), init=centres, n_init=1).fit(rows).labels_


def needs(*what: str) -> Callable[[Judge], Judge]:
    """Decorator: a judge asks for these, "source", "learned", "others" or "line", and raises GraftError where they are lacking."""

    def put(judge: Judge) -> Judge:
        @one_thread
        @wraps(judge)
        def checked(judged: Judged) -> float:
            if lacking := [words for name in what if (words := judged.lacks(name))]:
                raise GraftError(f"{judge.__name__}: {'; '.join(lacking)}. Use one that needs the target alone, such as infomax.")
            return float(judge(judged))

        checked.needs = what  # type: ignore[attr-defined]
        return checked

    return put


def _problems(judged: Judged) -> list[str]:
    """Everything about the arrays that does not fit, in words."""
    problems = []
    features = {"source": judged.source, "learned": judged.learned, "target": judged.target}
    for name, rows in features.items():
        if rows.ndim != 2 or rows.shape[1:] != judged.target.shape[1:]:
            problems.append(f"judged: {name} has shape {rows.shape}, expected (items, {judged.target.shape[-1]}) as the target.")
        elif bad := int((~np.isfinite(rows)).any(axis=1).sum()):
            problems.append(f"judged: {name} of {bad} of {len(rows)} items is not finite, expected numbers. Look at those items.")
    if not len(judged.target):
        problems.append("judged: target has 0 items, expected at least 1.")
    c, m, v = len(judged.prior), len(judged.target), len(judged.source)
    outputs = {"target_outputs": (judged.target_outputs, m), "source_outputs": (judged.source_outputs, v)}
    outputs |= {f"others[{name!r}]": (rows, m) for name, rows in judged.others.items()}
    outputs |= {f"others_source[{name!r}]": (rows, v) for name, rows in judged.others_source.items()}
    for name, (rows, items) in outputs.items():
        if rows.shape != (items, c):
            problems.append(f"judged: {name} has shape {rows.shape}, expected ({items}, {c}): a row an item, a column a class of prior.")
        elif items and not (np.isfinite(rows).all() and (rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) <= _NOT_ONE).all()):
            problems.append(
                f"judged: {name} holds {rows.min():.4g} to {rows.max():.4g}, expected probabilities that sum to 1. Apply a softmax first."
            )
    other = judged.twin
    if other is not None and not (judged.has_rows(other.source, other.learned, other.target) and judged.seed == other.seed):
        problems.append("judged: twin has other rows or another seed, expected the very same arrays. Leave it out.")
    labels = {"source_labels": (judged.source_labels, v), "learned_labels": (judged.learned_labels, len(judged.learned))}
    for name, (own, items) in labels.items():
        if own.shape != (items,) or (items and not (np.issubdtype(own.dtype, np.integer) and own.min() >= 0 and own.max() < c)):
            problems.append(f"judged: {name} has shape {own.shape} of {own.dtype}, expected ({items},) integers from 0 to {c - 1}.")
    return problems
