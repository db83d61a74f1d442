"""`Adapt`: a model for a domain without labels, as a scikit-learn estimator."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from graft.adapt.course import AUTO, Asked, Outcome, adapt
from graft.adapt.guard import Known
from graft.adapt.predict import recorded
from graft.adapt.sides import Progress, Source, both, without_source
from graft.backbones.base import Backbone
from graft.budget import budget_seconds
from graft.errors import GraftError
from graft.records import Plan, Recipe
from graft.transfer import EPOCHS, LR, Transfer

UNKNOWN = "unknown"


class Adapt(ClassifierMixin, BaseEstimator):
    """A labelled source and an unlabelled target -> a model for the target, at least as good as source-only as far as can be told.

    backbone: a name or a Backbone, as `Transfer` takes it, or a fitted Transfer, whose backbone is then used as it is. strategy: how the
    source-only model is made, see `Transfer`; frozen features unless given. methods: names of adaptation methods (`graft list
    adaptations`), or "auto": all that suit, those that retrain the network only within a budget. task, head: see `Transfer`.
    epochs, lr, recipe: of what is trained. budget: time for methods that retrain, seconds or text ("5m"). guard: keep source-only where
    the evidence is not enough; False: take what looks best. unknown: answers below this probability are "unknown" (numeric classes: -1),
    in [0, 1); 0: never. random_state: seed of everything drawn.

    After fit: `model_` (a fitted Transfer for the target, which can be saved), `source_only_`, `outcome_` (candidates, outlooks,
    decision), `adapted_` (whether a method took the place of source-only), `reasons_`, `estimate_` (expected accuracy on the target with
    its interval; {} for a regression), `classes_`.
    No target label is read but those of `target_labels`.
    """

    def __init__(
        self,
        backbone: "str | Backbone | Transfer" = "sentence:minilm",
        strategy: "str | Plan" = "feature_extraction",
        *,
        methods: str | Sequence[str] = AUTO,
        task: str = "auto",
        head: str = "auto",
        epochs: int = EPOCHS,
        lr: float = LR,
        recipe: Recipe | None = None,
        budget: str | float | None = None,
        guard: bool = True,
        unknown: float = 0.0,
        random_state: int = 0,
    ) -> None:
        self.backbone = backbone
        self.strategy = strategy
        self.methods = methods
        self.task = task
        self.head = head
        self.epochs = epochs
        self.lr = lr
        self.recipe = recipe
        self.budget = budget
        self.guard = guard
        self.unknown = unknown
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        X_target: Any = None,
        *,
        sample_domain: Any = None,
        domains: Any = None,
        target_labels: Mapping[int, Any] | None = None,
        prior: Sequence[float] | None = None,
        progress: Progress = None,
    ) -> "Adapt":
        """X, y: n labelled items of the source. X_target: m items of the target. Returns self.

        sample_domain: in place of X_target, as skada takes it: (n,) numbers, X and y hold both sides; positive: a source domain, negative:
        the target, whose y is never read. domains: (n,) the source domain of each item, where there are several. target_labels: place in
        the target -> its label; the choice and the guard use them. prior: (c,) class shares in the source, where only a fitted model is
        given: then X and y are None, and only methods that need no source are tried; even shares unless given.
        Raises GraftError for what the caller can mend: an empty target, a target of other columns or width, a side that lacks, target
        labels of places or classes that are not there.
        """
        if not 0 <= self.unknown < 1:
            raise GraftError(f"unknown is {self.unknown}, expected a probability from 0 to below 1; 0 rejects nothing.")
        if sample_domain is not None:
            X, y, X_target, domains = _split(X, y, X_target, sample_domain)
        if X_target is None:
            raise GraftError("no target was given, expected its items in X_target, or sample_domain with negative numbers for them.")
        if X is None:
            model = self.backbone
            if not isinstance(model, Transfer) or not hasattr(model, "head_"):
                raise GraftError("no source was given and backbone is no fitted Transfer, expected one of them: fit(X, y, X_target).")
            sides = without_source(model, shares(model, prior), _items(model, X_target), self.random_state, progress)
        else:
            model = self._source_only()
            items, target, task, classes = model.prepare(X, y)
            parts = None if domains is None else np.unique(np.asarray(domains), return_inverse=True)[1]
            if parts is not None and len(parts) != len(target):
                raise GraftError(f"domains has {len(parts)} entries, X has {len(target)} items, expected one for each.")
            sides = both(model, Source(items, target, task, classes, parts), _items(model, X_target), self.random_state, progress)
        known, notes = known_labels(sides.model, target_labels, len(sides.others))
        for note in notes:
            warnings.warn(note, stacklevel=2)
        self._keep(adapt(sides, self._asked(), recorded(), known, progress))
        return self

    def _keep(self, outcome: Outcome) -> None:
        outlook = outcome.outlooks[outcome.decision.place]
        self.outcome_, self.model_, self.source_only_ = outcome, outcome.model, outcome.sides.model
        self.adapted_, self.reasons_ = outcome.decision.place > 0, outcome.decision.reasons
        self.estimate_ = {} if outlook is None else {"score": outlook.score, "interval": outlook.interval}
        self.classes_ = outcome.model.classes_

    def _asked(self) -> Asked:
        seconds = None if self.budget is None else budget_seconds(self.budget)
        return Asked(self.methods, seconds, self.epochs, self.lr, self.recipe or Recipe(), self.guard)

    def _source_only(self) -> Transfer:
        """The model to be fitted on the source. Of a fitted one the backbone serves, and what its head reads."""
        given: Any = self.backbone
        strategy: Any = self.strategy
        if isinstance(given, Transfer):
            given, strategy = given.backbone_, Plan((), tap=given.plan_.tap)
        return Transfer(
            given,
            strategy,
            task=self.task,
            head=self.head,
            epochs=self.epochs,
            lr=self.lr,
            recipe=self.recipe,
            random_state=self.random_state,
        )

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,) of items of the target; "unknown" (numeric classes: -1) below the asked probability. Of a regression values (n,)."""
        check_is_fitted(self, "model_")
        outputs = self.model_.predict_outputs(X)
        labels = self.model_.decode(outputs)
        if not self.unknown or self.model_.task_ == "regression":
            return labels
        numeric = np.issubdtype(self.classes_.dtype, np.number)
        return np.where(outputs.max(axis=1) < self.unknown, -1 if numeric else UNKNOWN, labels if numeric else labels.astype(object))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, c), columns in the order of `classes_`. A regression has none: GraftError."""
        check_is_fitted(self, "model_")
        if self.model_.task_ == "regression":
            raise GraftError("predict_proba of a regression, expected predict: it answers with numbers, not classes.")
        return self.model_.predict_outputs(X)


def _split(X: Any, y: Any, X_target: Any, sample_domain: Any) -> tuple[Any, Any, Any, np.ndarray]:
    """The two sides of what skada keeps in one array. The target's y is not looked at."""
    if X_target is not None:
        raise GraftError("both X_target and sample_domain were given, expected one of them to say what the target is.")
    side = np.asarray(sample_domain)
    if side.ndim != 1 or len(side) != len(X):
        raise GraftError(f"sample_domain has shape {side.shape}, X has {len(X)} items, expected one number for each.")
    here, there = np.flatnonzero(side > 0), np.flatnonzero(side < 0)
    if not len(here) or not len(there):
        raise GraftError(
            f"sample_domain has {len(here)} positive and {len(there)} negative numbers, expected some of both: "
            "positive for items of a source, negative for those of the target."
        )
    return _picked(X, here), _picked(y, here), _picked(X, there), side[here]


def _picked(X: Any, places: np.ndarray) -> Any:
    if hasattr(X, "iloc"):
        return X.iloc[places]
    return X[places] if isinstance(X, np.ndarray) else [X[place] for place in places]


def _items(model: Transfer, X_target: Any) -> Sequence[Any]:
    shape, width = np.shape(X_target), getattr(model, "n_features_in_", None)
    if width is not None and len(shape) == 2 and shape[0] and shape[1] != width:
        raise GraftError(f"the target has rows of {shape[1]} numbers, the source of {width}, expected the same columns on both sides.")
    # An empty target is named as such, before anyone asks for its shape.
    return model.prepare_items(X_target) if len(X_target) else []


def shares(model: Transfer, prior: Sequence[float] | None) -> np.ndarray:
    """(c,) shares of the classes with sum 1; even ones where none are given. Raises GraftError for another number, or negative ones."""
    c = len(model.classes_)
    if prior is None:
        return np.full(c, 1 / max(1, c))
    found = np.asarray(prior, float)
    if found.shape != (c,) or (found < 0).any() or not found.sum() > 0:
        raise GraftError(f"prior is {prior}, expected {c} shares, one for each of the classes {', '.join(map(str, model.classes_))}.")
    return found / found.sum()


def known_labels(model: Transfer, labels: Mapping[int, Any] | None, m: int) -> tuple[Known | None, list[str]]:
    """The given target labels, encoded as the source's are, and notes. m: items of the target.

    Classes that the source does not know (an open set) are told and left out: nothing here can learn them. Raises GraftError where no
    label is of a class of the source, and for places that are not there.
    """
    if not labels:
        return None, []
    places = np.array(sorted(labels))
    if places.min() < 0 or places.max() >= m:
        raise GraftError(
            f"target_labels names the places {places.min()} to {places.max()}, expected 0 to {m - 1}: the target has {m} items."
        )
    if model.task_ == "regression":
        return Known(places, np.array([float(labels[place]) for place in places.tolist()])), []
    names: dict[Any, int] = {str(name): place for place, name in enumerate(model.classes_.tolist())}
    there = np.array([str(labels[place]) in names for place in places.tolist()])
    foreign, classes = sorted({str(labels[place]) for place in places[~there].tolist()}), ", ".join(map(str, model.classes_))
    if not there.any():
        raise GraftError(
            f"the target's labels are {', '.join(foreign)}, the source's classes {classes}: they share none. "
            "Is this the same task? Rename the classes, or take other data."
        )
    notes = []
    if foreign:
        notes.append(
            f"{int((~there).sum())} of {len(places)} labelled target items are of classes that the source does not know "
            f"({', '.join(foreign)}): an open set. They are left out; --unknown 0.5 (unknown=0.5) rejects answers below that probability."
        )
    known = places[there]
    return Known(known, np.array([names[str(labels[place])] for place in known.tolist()])), notes
