"""`Adapt`: a model for a domain without labels, as a scikit-learn estimator."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from graft.adapt.course import AUTO, Asked, Outcome, adapt
from graft.adapt.guard import Known
from graft.adapt.predict import recorded
from graft.adapt.sides import Progress, Sides, Source, both, without_source
from graft.backbones.base import Backbone
from graft.budget import budget_seconds
from graft.errors import GraftError
from graft.outputs import UNKNOWN
from graft.records import Plan, Recipe
from graft.transfer import EPOCHS, LR, Transfer
from graft.transfer.inputs import is_numeric

_MORE_LABELS = "expected at least 2, better 10 to 50: one shows no difference."


class Adapt(ClassifierMixin, BaseEstimator):
    """A labelled source and an unlabelled target -> a model for the target, at least as good as source-only as far as can be told.

    backbone: a name or a Backbone, as `Transfer` takes it, or a fitted Transfer, whose backbone is then used as it is. strategy: how the
    source-only model is made, see `Transfer`; frozen features unless given. methods: names of adaptation methods (`graft list
    adaptations`), or "auto": all that suit, those that retrain the network only within a budget. task, head: see `Transfer`.
    epochs, lr, recipe: of what is trained. budget: time for all methods, seconds or text ("5m"), see `Asked`. guard: keep source-only
    where the evidence is not enough; False: take what looks best. unknown: answers below this probability are "unknown" (numeric
    classes: -1), in [0, 1); 0: never. random_state: seed of everything drawn.

    After fit: `model_` (a fitted Transfer for the target, which can be saved), `source_only_`, `outcome_` (candidates, outlooks,
    decision), `adapted_` (whether a method took the place of source-only), `reasons_`, `estimate_` (expected accuracy on the target with
    its interval; {} where nothing can be said, as of a regression), `classes_`, of rows `n_features_in_` and `feature_names_in_`.
    No target label is read but those of `target_labels`.
    A clone keeps a fitted Transfer that was given: it is what to adapt, not how to fit one.
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
        X: Any = None,
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
        given: then X and y are left out or None, and only methods that need no source are tried; even shares unless given.
        Raises GraftError for what the caller can mend: an empty target, a target of other columns or width, a side that lacks, target
        labels of places or classes that are not there, a method that cannot be had.
        """
        check_unknown(self.unknown)
        asked = self._asked()
        if sample_domain is not None:
            X, y, X_target, domains = _split(X, y, X_target, sample_domain, domains)
        if X_target is None:
            raise GraftError("no target was given, expected its items in X_target, or sample_domain with negative numbers for them.")
        if X is None:
            sides = self._given_alone(y, X_target, domains, prior, progress)
        else:
            if prior is not None:
                raise GraftError("prior was given beside X and y, which tell the shares of the classes, expected prior without a source.")
            model = self._source_only()
            items, target, task, classes = model.prepare(X, y)
            source = Source(items, target, task, classes, _parts(domains, len(target)))
            sides = both(model, source, _items(model, X_target), self.random_state, progress)
        check_unknown(self.unknown, sides.model.classes_)
        known, notes = known_labels(sides.model, target_labels, len(sides.others))
        for note in notes:
            warnings.warn(note, stacklevel=2)
        self._keep(adapt(sides, asked, recorded(sides.source is not None), known, progress))
        return self

    def _given_alone(self, y: Any, X_target: Any, domains: Any, prior: Sequence[float] | None, progress: Progress) -> Sides:
        """The sides where a fitted model came without its source."""
        model = self.backbone
        if not isinstance(model, Transfer) or not hasattr(model, "head_"):
            raise GraftError("no source was given and backbone is no fitted Transfer, expected one of them: fit(X, y, X_target).")
        if y is not None or domains is not None:
            given = " and ".join(name for name, one in (("y", y), ("domains", domains)) if one is not None)
            raise GraftError(f"{given} without X, expected the source's items in X too, or none of them to adapt the fitted model alone.")
        return without_source(model, shares(model, prior), _items(model, X_target), self.random_state, progress)

    def _keep(self, outcome: Outcome) -> None:
        outlook = outcome.outlooks[outcome.decision.place]
        self.outcome_, self.model_, self.source_only_ = outcome, outcome.model, outcome.sides.model
        self.model_.unknown_ = self.unknown
        self.adapted_, self.reasons_ = outcome.decision.place > 0, outcome.decision.reasons
        self.estimate_ = {"score": outlook.score, "interval": outlook.interval} if outlook and outlook.is_told else {}
        self.classes_ = outcome.model.classes_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(outcome.model, name):
                setattr(self, name, getattr(outcome.model, name))

    def _asked(self) -> Asked:
        seconds = None if self.budget is None else budget_seconds(self.budget)
        return Asked(self.methods, seconds, self.epochs, self.lr, self.recipe or Recipe(), self.guard)

    def _source_only(self) -> Transfer:
        """The model to be fitted on the source. Of a fitted one the backbone serves, and what its head reads."""
        given: Any = self.backbone
        strategy: Any = self.strategy
        if isinstance(given, Transfer):
            if not hasattr(given, "head_"):
                raise GraftError("backbone is a Transfer that was never fitted, expected a fitted one, or the name of a backbone.")
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
        return self.model_.decode(self.model_.predict_outputs(X), self.unknown)

    def _has_classes(self) -> bool:
        if (self.model_.task_ if hasattr(self, "model_") else self.task) == "regression":
            raise AttributeError("predict_proba: this model is a regression, of numbers, and has no classes. Use predict.")
        return True

    @available_if(_has_classes)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, c), columns in the order of `classes_`. A regression has no such method (AttributeError)."""
        check_is_fitted(self, "model_")
        return self.model_.predict_outputs(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy, an "unknown" counting as wrong; for a regression R2."""
        from sklearn.metrics import accuracy_score, r2_score

        judge = r2_score if self.model_.task_ == "regression" else accuracy_score
        return float(judge(np.asarray(y), self.predict(X), sample_weight=sample_weight))

    def __sklearn_clone__(self) -> "Adapt":
        # scikit-learn would clone a fitted Transfer to one that is not.
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Tags:
        given = getattr(self, "model_", self.backbone)
        tags = (given if isinstance(given, Transfer) else self._source_only()).__sklearn_tags__()
        if tags.classifier_tags:
            tags.classifier_tags.multi_label = False
        return tags


def check_unknown(share: float, classes: np.ndarray | None = None) -> None:
    """Raise GraftError for a probability outside [0, 1), and where a class is called what rejected answers are."""
    if not 0 <= share < 1:
        raise GraftError(f"unknown is {share}, expected a probability from 0 to below 1; 0 rejects nothing.")
    if share and classes is not None and (taken := -1 if is_numeric(classes) else UNKNOWN) in classes.tolist():
        raise GraftError(f"unknown is {share}, and {taken!r} is a class of the source, expected a name that is free. Rename that class.")


def _parts(domains: Any, n: int) -> np.ndarray | None:
    """(n,) int, the source domain of each item; None where there is one."""
    if domains is None:
        return None
    if np.shape(domains) != (n,):
        raise GraftError(f"domains has shape {np.shape(domains)}, X has {n} items, expected one for each.")
    names, parts = np.unique(np.asarray(domains), return_inverse=True)
    return parts if len(names) > 1 else None


def _split(X: Any, y: Any, X_target: Any, sample_domain: Any, domains: Any) -> tuple[Any, Any, Any, np.ndarray]:
    """The two sides of what skada keeps in one array. The target's y is not looked at."""
    for name, one in (("X_target", X_target), ("domains", domains)):
        if one is not None:
            raise GraftError(f"both {name} and sample_domain were given, expected one of them: sample_domain tells target and domains.")
    if X is None or y is None:
        raise GraftError("sample_domain was given without X or y, expected both: they hold the items of all domains.")
    side = np.asarray(sample_domain)
    if side.shape != (len(X),) or not np.issubdtype(side.dtype, np.number) or not (side != 0).all() or not np.isfinite(side).all():
        raise GraftError(
            f"sample_domain has shape {side.shape} of {side.dtype}, X has {len(X)} items, expected one number for each, "
            "none of them 0 or nan."
        )
    if len(y) != len(X):
        raise GraftError(f"y has {len(y)} entries, X has {len(X)} items, expected one for each; those of the target may be anything.")
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
    width = getattr(model, "n_features_in_", None)
    shape = (len(X_target),) if width is None else np.asarray(X_target).shape
    if shape[:1] == (0,):
        # Named as an empty target by who counts the items.
        return []
    if width is not None and len(shape) == 1:
        raise GraftError(
            f"X_target has shape {shape}, expected rows of {width} numbers as in the source, (m, {width}). "
            "One number an item that tells its domain goes by its name: sample_domain=..."
        )
    if len(shape) == 2 and shape[1] != width:
        raise GraftError(f"the target has rows of {shape[1]} numbers, the source of {width}, expected the same columns on both sides.")
    try:
        return model.prepare_items(X_target)
    except ValueError as error:
        # scikit-learn's words, and those of `Transfer`, do not say on which of the two sides.
        raise GraftError(f"the target: {error}") from error


def shares(model: Transfer, prior: Sequence[float] | None) -> np.ndarray:
    """(c,) shares of the classes with sum 1; even ones where none are given. Raises GraftError for another number, or negative ones."""
    c = len(model.classes_)
    if prior is None:
        return np.full(c, 1 / max(1, c))
    found = np.asarray(prior, float)
    if found.shape != (c,) or not np.isfinite(found).all() or (found < 0).any() or not found.sum() > 0:
        raise GraftError(
            f"prior is {prior}, expected {c} shares of at least 0, one for each of the classes {', '.join(map(str, model.classes_))}."
        )
    return found / found.sum()


def known_labels(model: Transfer, labels: Mapping[int, Any] | None, m: int) -> tuple[Known | None, list[str]]:
    """The given target labels, encoded as the source's are, and notes. m: items of the target.

    Classes that the source does not know (an open set) are told and left out: nothing here can learn them. Raises GraftError where no
    label is of a class of the source, and for places that are not there.
    """
    if not labels:
        return None, []
    if odd := [place for place in labels if not isinstance(place, int | np.integer) or not 0 <= place < m]:
        raise GraftError(
            f"target_labels names {len(odd)} places that are not there, e.g. {odd[0]!r}, expected whole numbers from 0 to {m - 1}: "
            f"the target has {m} items."
        )
    places = np.array(sorted(labels))
    given = [labels[place] for place in places.tolist()]
    if model.task_ == "regression":
        if len(given) < 2:
            raise GraftError(f"target_labels holds 1 number, {_MORE_LABELS}")
        return Known(places, _as_numbers(given)), []
    # As text too: a file holds nothing else.
    names: dict[Any, int] = {str(name): place for place, name in enumerate(model.classes_.tolist())}
    names |= {name: place for place, name in enumerate(model.classes_.tolist())}
    classes = [names.get(label, names.get(str(label), -1)) for label in given]
    there = np.array(classes) >= 0
    foreign = sorted({str(label) for label, place in zip(given, classes, strict=True) if place < 0})
    if not there.any():
        raise GraftError(
            f"the target's labels are {', '.join(foreign)}, the source's classes {', '.join(map(str, model.classes_))}: they share none. "
            "Is this the same task? Rename the classes, or take other data."
        )
    notes = []
    if foreign:
        notes.append(
            f"{int((~there).sum())} of {len(places)} labelled target items are of classes that the source does not know "
            f"({', '.join(foreign)}): an open set. They are left out; --unknown 0.5 (unknown=0.5) rejects answers below that probability."
        )
    if there.sum() < 2:
        raise GraftError(f"target_labels holds 1 label of a class of the source, {_MORE_LABELS}")
    return Known(places[there], np.array(classes)[there]), notes


def _as_numbers(labels: Sequence[Any]) -> np.ndarray:
    try:
        found = np.array([float(label) for label in labels])
    except (TypeError, ValueError) as error:
        raise GraftError(f"target_labels of a regression: {error}, expected a number for each place.") from error
    if bad := int((~np.isfinite(found)).sum()):
        raise GraftError(f"target_labels of a regression: {bad} of {len(found)} are not finite, expected numbers. Leave them out.")
    return found
