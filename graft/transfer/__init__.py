"""`Transfer`: a pretrained backbone put to work on labelled items, as a scikit-learn estimator."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import RegressorTags, Tags
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from graft.auto import AUTO, FREE, PROBE, Climb, climb, free, once
from graft.backbones import load_backbone
from graft.backbones.base import Backbone
from graft.budget import budget_seconds
from graft.data import View, holdout
from graft.errors import Diverged, GraftError, near_miss
from graft.evaluate import METRICS, default_metric, signed
from graft.features import States, extract
from graft.heads import LinearHead, fit_head
from graft.outputs import UNKNOWN, decision
from graft.records import Epoch, Event, Note, Plan, Recipe, Task
from graft.strategies import make_plan
from graft.train import Checkpoints, asks_for_others, find_rate, highest, scaled, train
from graft.train.layer import linear_head, torch_head
from graft.transfer import saved
from graft.transfer.inputs import VALIDATION_SHARE, Given, as_items, can_hold_out, encode, indicators, is_numeric
from graft.transfer.speed import AT_MOST_AN_EPOCH, Within

__all__ = ["EPOCHS", "LR", "Transfer"]

ROWS = "rows"  # the backbone whose width is told by X
EPOCHS, LR = 10, 1e-3  # what strategies are called with unless told otherwise
_VALIDATION_AT_MOST = 500  # items: more would cost time and hardly sharpen the score
# With fewer labels a class than this, a start that is already good loses more by giving some up than early stopping gains.
_FEW_A_CLASS = 20
_PATIENCE = 3  # epochs without a better validation score before a phase ends, at least

Progress = Callable[[Event], None] | None


class Transfer(ClassifierMixin, BaseEstimator):
    """A pretrained backbone, retrained as a strategy says, with a head of its own.

    backbone: a name ("sentence:minilm", "timm:resnet18", "checkpoint:FOLDER") or a Backbone; "rows" reads rows of numbers as they
    are, such as features that another model gave: only the head learns.
    strategy: "auto", a name (`graft list strategies`), a function (depth, epochs, lr) -> Plan, or a Plan. "auto" starts from the
    frozen features and goes on only while held-out items support it, see `graft.auto.climb`.
    task: "classification", "multilabel" or "regression"; "auto" tells by y: numbers with fractions are a regression,
    a list of labels for each item (or a matrix of 0 and 1) is multi-label, all else is classification.
    head: kind of the closed-form or convex head ("logistic", "lda", "ridge"; "auto" chooses inside the training data, "closed"
    among those in closed form, the cheapest).
    epochs, lr: what the strategy is called with; of more than 2,000 items an epoch of "auto" is of 2,000. lr is the head's rate;
    backbones learn at fractions of it. "auto": raised until the loss no longer falls, see `graft.train.find_rate`; for a Plan, all its
    rates are scaled alike.
    class_weight: None, "balanced", or {class: weight}; a class that is not named weighs 1.
    recipe: how the plan is played, see `graft.records.Recipe`; without a patience of its own, a third
    of the plan's epochs, at least three.
    test_views: of each image that predictions are averaged over: the judged one, and random ones.
    budget: for "auto", seconds or text ("5m") to spend; None: nothing is retrained. Unlike `graft run` it refuses none: extraction and
    the frozen head take what they take, and what is left goes to retraining.
    random_state: seed of everything drawn; the same call twice gives the same model.

    After fit: `classes_`, `task_`, `plan_`, `backbone_`, `head_`, `history_` (an Epoch for each epoch trained),
    `n_features_in_` and `feature_names_in_` (of rows),
    `lr_` (the rate it trained at; of an "auto" that trained nothing, the one it would start from),
    `columns_` (name -> kind of the table's columns that it reads, where a study knows them), `strategy_` (its name, the one
    that "auto" came to), `climb_` (what "auto" tried and why it stopped, else None), `unknown_` (the probability below which
    `predict` answers "unknown"; 0: never, but where an adaptation was asked to), `diverged_` (where the loss became infinite or no
    number, and at which rate; "" where it did not. A warning says it, and the best weights from before it are the model's).
    A leading phase in which only the head learns is convex: its optimum is solved for instead of descended to, and the next phase has
    its epochs too.
    """

    def __init__(
        self,
        backbone: "str | Backbone" = "sentence:minilm",
        strategy: "str | Plan | Callable[..., Plan]" = AUTO,
        *,
        task: str = "auto",
        head: str = "auto",
        epochs: int = EPOCHS,
        lr: float | str = LR,
        class_weight: str | dict[Any, float] | None = None,
        recipe: Recipe | None = None,
        test_views: int = 1,
        budget: str | float | None = None,
        random_state: int = 0,
    ) -> None:
        self.backbone = backbone
        self.strategy = strategy
        self.task = task
        self.head = head
        self.epochs = epochs
        self.lr = lr
        self.class_weight = class_weight
        self.recipe = recipe
        self.test_views = test_views
        self.budget = budget
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None, others: Any = None) -> "Transfer":
        """X: n file paths, PIL images, arrays (h, w[, 3]) of uint8, texts, or a DataFrame; for "rows" numbers (n, d). y: n labels.

        groups: (n,), items that share a value stay on one side when something is held out for choosing. others: items like X, without
        labels, that a strategy learns from beside it, as "replay" does from the source task's. Returns self.
        Raises GraftError where X and y do not fit each other, the backbone or the task, where a strategy lacks its others, and where random
        weights diverge in their first epoch; of rows that are not finite, sparse or no numbers scikit-learn's own ValueError or TypeError.
        """
        # Of rows X tells the width.
        backbone = None if self.backbone == ROWS else self._load_backbone()
        items, target, task, classes = self._prepared(X, y, backbone)
        beside = () if others is None else self._items(others, backbone.modality if backbone else "row")
        return self.fit_encoded(items, target, task, classes, blocks=groups, others=beside, backbone=backbone)

    def prepare(self, X: Any, y: Any) -> tuple[Sequence[Any], np.ndarray, Task, Sequence[Any] | np.ndarray]:
        """(items, target, task, classes) as `fit_encoded` takes them, of X and y as `fit` does; raises as that does."""
        return self._prepared(X, y, None if self.backbone == ROWS else self._load_backbone())

    def prepare_items(self, X: Any) -> Sequence[Any]:
        """X as what the model reads, once `prepare` or `fit` has seen what it is fitted on; raises as `predict` does."""
        fitted = getattr(self, "backbone_", None)
        modality = fitted.modality if fitted else "row" if self.backbone == ROWS else self._load_backbone().modality
        return self._items(X, modality)

    def _prepared(self, X: Any, y: Any, backbone: Backbone | None) -> tuple[Sequence[Any], np.ndarray, Task, Sequence[Any] | np.ndarray]:
        if y is None:
            raise GraftError("fit requires y to be passed, but the target y is None: expected a label for each item.")
        if not hasattr(y, "__len__"):
            y = np.asarray(y)
        items = self._items(X, backbone.modality if backbone else "row", fitting=True)
        if len(items) != len(y):
            raise GraftError(f"X has {len(items)} items and y has {len(y)} labels, expected one label an item.")
        task, target, classes = encode(y, self.task)
        return items, target, task, classes

    def fit_encoded(
        self,
        items: Sequence[Any],
        target: np.ndarray,
        task: Task,
        classes: Sequence[Any] | np.ndarray,
        *,
        blocks: np.ndarray | None = None,
        validation: tuple[Sequence[Any], np.ndarray] | None = None,
        metric: str | None = None,
        items_per_epoch: int | None = None,
        others: Sequence[Any] = (),
        states: States | None = None,
        checkpoints: Checkpoints | None = None,
        backbone: Backbone | None = None,
        progress: Progress = None,
    ) -> "Transfer":
        """`fit` for what is already a Dataset's: items, and labels encoded as `encode` gives them.

        validation: (items, target) for early stopping; without it a fifth of the items, at most 500, is held out where the plan trains;
        of fewer than ten items, or twenty a class where the head starts solved, none is: the plan is played to its end.
        metric: name of the metric that early stopping watches. items_per_epoch, others: see `train`; "auto" asks for no others.
        states: keeps what frozen stages gave, for other fits of the same backbone. checkpoints: lets a fit that was interrupted go on.
        backbone: the one that is named, where it is loaded already.
        """
        clock = checkpoints.clock if checkpoints else time.perf_counter
        begun, backbone = clock(), backbone or self._load_backbone(items)
        kept = {"states": states, "checkpoints": checkpoints, "progress": progress}
        if isinstance(self.lr, str) and self.lr != AUTO:
            raise GraftError(f"lr is {self.lr!r}, expected a rate above 0, e.g. 1e-3, or 'auto'.{near_miss(self.lr, [AUTO])}")
        self.lr_ = LR if isinstance(self.lr, str) else self.lr
        self.columns_: dict[str, str] = {}
        self.unknown_ = 0.0
        self.task_, self.classes_ = task, np.asarray(classes, dtype=None if len(classes) else str)
        self.history_: list[Epoch] = []
        self.diverged_ = ""
        given = Given(items, target, task, metric or default_metric(task, target)[0], blocks)
        self.climb_, strategy, epochs = None, self.strategy, self.epochs
        read: dict[str, np.ndarray] = {}
        if isinstance(strategy, str) and strategy == AUTO:
            if items_per_epoch is None and not (self.recipe and self.recipe.items_per_epoch) and len(given) > AT_MOST_AN_EPOCH:
                items_per_epoch = AT_MOST_AN_EPOCH
            self.climb_, read, fitted = self._climb(backbone, given, kept, lambda: clock() - begun, items_per_epoch)
            strategy, epochs = self.climb_.strategy, max(self.climb_.epochs, 1)
            if fitted is not None:
                return self._taken_over(fitted)
        self.plan_ = strategy if isinstance(strategy, Plan) else make_plan(strategy, backbone.depth, epochs, self.lr_)
        self.strategy_ = strategy if isinstance(strategy, str) else getattr(strategy, "__name__", "plan")
        phases = self.plan_.phases
        if asks_for_others(self.plan_) and not len(others):
            raise GraftError(
                f"strategy {self.strategy_}: 0 others, expected items to learn from beside the labelled ones, for replay the source "
                "task's. Give them: Transfer(...).fit(X, y, others=[...]), or graft run DATA --keep SOURCE; or use 'full' or 'l2_sp'."
            )
        # With losses of the plan's own the optimum of a head is another one, which only descent finds.
        solved = not self.plan_.reset and (not phases or (not any(phases[0].lr) and not self.plan_.losses))
        if solved and phases:
            probe, *behind = phases
            if behind:
                # Solving costs no epochs: they go to what is trained.
                behind[0] = replace(behind[0], epochs=behind[0].epochs + probe.epochs)
            phases = tuple(behind)
        few = solved and len(target) < _FEW_A_CLASS * max(1, len(classes))
        if phases and validation is None and not few and can_hold_out(target, task, blocks):
            share = min(VALIDATION_SHARE, _VALIDATION_AT_MOST / len(given))
            inner, held = holdout(target, task, share, self.random_state, blocks=blocks)
            validation = (View(items, held), target[held])
            given = given.part(inner)
        head = None
        if solved:
            # Without phases nothing was held out, and what "auto" read is what is wanted.
            views = None if phases else read.get(self.strategy_)
            if views is None:
                views = self._views(backbone, given.items, self.plan_, progress)
            head = self._solve(views, given, self.head)
        if phases:
            backbone = copy.deepcopy(backbone)
            plan = replace(self.plan_, phases=phases)
            head = self._train(backbone, head, plan, given, validation, items_per_epoch, kept | {"others": others})
        assert head is not None
        self.backbone_, self.head_, self.tuned_ = backbone, head, bool(phases)
        return self

    def _views(self, backbone: Backbone, items: Sequence[Any], plan: Plan, progress: Progress) -> np.ndarray:
        """(views, n, d): what a head without phases reads, the judged view first."""
        number = plan.views if backbone.modality == "image" else 1
        views = [extract(backbone, items, tap=plan.tap, view=view, progress=progress) for view in range(number)]
        # A single view is not copied: it may be a file that does not fit into memory.
        return np.stack(views) if number > 1 else views[0][None]

    def _solve(self, views: np.ndarray, given: Given, kind: str) -> LinearHead:
        """The head of a kind on all views (v, n, d) of the given items."""
        number, n, width = views.shape
        target, blocks = given.target, given.blocks
        if number > 1:
            # The views of one item are no independent evidence: they stay on one side when the head is chosen.
            blocks = np.tile(np.arange(n) if blocks is None else blocks, number)
            target = np.concatenate([target] * number)
        return fit_head(
            views.reshape(number * n, width),
            target,
            self.task_,
            kind=kind,
            n_classes=len(self.classes_) or None,
            class_weight=self._class_weight(),
            seed=self.random_state,
            blocks=blocks,
        )

    def _taken_over(self, fitted: "Transfer") -> "Transfer":
        """This model as one that was fitted on nearly all of the same items."""
        assert self.climb_ is not None
        self.climb_ = replace(
            self.climb_, why=f"{self.climb_.why} The model that answered is kept, without the items that it answered for."
        )
        for name in ("plan_", "strategy_", "lr_", "history_", "backbone_", "head_", "tuned_", "diverged_"):
            setattr(self, name, getattr(fitted, name))
        return self

    def _climb(
        self, backbone: Backbone, given: Given, kept: dict[str, Any], spent: Callable[[], float], items_per_epoch: int | None
    ) -> tuple[Climb, dict[str, np.ndarray], "Transfer | None"]:
        """What "auto" comes to on these items, strategy -> features (views, n, d) that it read on the way, and the model to keep as it is.

        None where it is still to be fitted.
        """
        read: dict[str, np.ndarray] = {}
        fits: dict[str, Transfer] = {}
        widest = FREE[backbone.modality][-1]
        if widest in free(backbone.modality, len(given)):
            # The output of several stages holds the pooled features too: one pass of the network serves both.
            read[widest] = self._views(backbone, given.items, make_plan(widest, backbone.depth, 1, self.lr_), kept["progress"])
            read[PROBE] = read[widest][..., -backbone.width :]

        def answer(strategy: str, epochs: int, fitted: np.ndarray, held: np.ndarray) -> np.ndarray:
            plan, some = make_plan(strategy, backbone.depth, max(epochs, 1), self.lr_), given.part(fitted)
            if not plan.phases:
                if strategy not in read:
                    read[strategy] = self._views(backbone, given.items, plan, kept["progress"])
                kind = "closed" if self.head == "auto" and not epochs else self.head
                return self._solve(read[strategy][:, fitted], some, kind).outputs(read[strategy][0, held])
            model = clone(self).set_params(backbone=backbone, strategy=strategy, epochs=epochs)
            model.fit_encoded(
                some.items, some.target, some.task, self.classes_, blocks=some.blocks, metric=some.metric, items_per_epoch=items_per_epoch,
                **kept,
            )  # fmt: skip
            if once(len(given)):
                fits[strategy] = model
            return model.predict_outputs(View(given.items, held))

        found = climb(
            answer,
            given.target,
            given.task,
            given.metric,
            modality=backbone.modality,
            seed=self.random_state,
            blocks=given.blocks,
            time_left=None
            if self.budget is None
            else Within(budget_seconds(self.budget), spent, backbone, given, self.epochs, self.random_state, items_per_epoch),
        )
        return found, read, fits.get(found.strategy)

    def _train(
        self,
        backbone: Backbone,
        start: LinearHead | None,
        plan: Plan,
        given: Given,
        validation: Any,
        items_per_epoch: int | None,
        kept: dict[str, Any],
    ) -> LinearHead:
        target, progress = given.target, kept["progress"]
        regression = self.task_ == "regression"
        # A network learns a target of mean 0 and scale 1; the head gives it back in the user's unit.
        centre, scale = (float(target.mean()), float(target.std()) or 1.0) if regression else (0.0, 1.0)
        head = torch_head(start, backbone.width, max(1, len(self.classes_)), centre, scale, self.random_state)

        def better(y: np.ndarray, outputs: np.ndarray) -> float:
            return signed(given.metric, METRICS[given.metric](y, outputs))

        if regression:
            target = (target - centre) / scale
        if regression and validation:
            validation = (validation[0], (validation[1] - centre) / scale)
        recipe = self._recipe(plan, items_per_epoch, bool(validation))
        told: dict[str, Any] = {"task": self.task_, "recipe": recipe, "seed": self.random_state}
        if self.lr == AUTO:
            beside = {name: kept[name] for name in ("states", "others")}
            rate, _ = find_rate(backbone, head, plan, given.items, target, progress=progress, **beside, **told)
            factor = rate / highest(plan)
            plan, self.plan_, self.lr_ = scaled(plan, factor), scaled(self.plan_, factor), self.lr_ * factor
            if progress:
                progress(Note(f"learning rate: {self.lr_:.3g}, half way down the longest fall of the loss"))
        try:
            for event in train(backbone, head, plan, given.items, target, validation=validation, metric=better, **told, **kept):
                if isinstance(event, Epoch):
                    self.history_.append(event)
                if progress:
                    progress(event)
        except Diverged as error:
            # Random weights are no model: something was solved for or learned, or there is nothing to keep.
            if start is None and not any(math.isfinite(epoch.loss) for epoch in self.history_):
                raise
            self.diverged_ = str(error)
            warnings.warn(self.diverged_, stacklevel=2)
        return linear_head(head, self.task_, centre, scale)

    def _recipe(self, plan: Plan, items_per_epoch: int | None, validated: bool) -> Recipe:
        given = self.recipe or Recipe()
        if given.augment == "auto" and not validated:
            warnings.warn("augment is 'auto', and too few items to hold some out to measure it on: it stays on.", stacklevel=2)
            given = replace(given, augment=True)
        return replace(
            given,
            class_weight=self._class_weight(),
            patience=None if not validated else self._patience(plan) if given.patience is None else given.patience,
            items_per_epoch=items_per_epoch or given.items_per_epoch,
        )

    def _class_weight(self) -> Any:
        given = self.recipe.class_weight if self.recipe else None
        if self.class_weight is not None and given is not None:
            raise GraftError(f"class_weight is {self.class_weight!r}, and {given!r} in the recipe, expected one of them.")
        if isinstance(self.class_weight, dict):
            return compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
        return given if self.class_weight is None else self.class_weight

    def _patience(self, plan: Plan) -> int:
        # Random weights may stand still for many epochs before they learn, and so may a random head of few items: a third of what there is.
        return max(_PATIENCE, math.ceil(sum(phase.epochs for phase in plan.phases) / 3))

    def predict_outputs(self, X: Any, progress: Progress = None, views: int | None = None) -> np.ndarray:
        """Classification and multi-label: probabilities (n, c). Regression: values (n,).

        views: of each image that the outputs are averaged over, the judged one first; `test_views` unless given. Texts have one.
        """
        check_is_fitted(self, "head_")
        number = self.test_views if views is None else views
        if number < 1 or (number > 1 and self.backbone_.modality != "image"):
            kind = self.backbone_.modality
            most = "1 or more" if kind == "image" else f"1, as a {kind} has no other view"
            raise GraftError(f"{number} views of each {kind} to predict from, expected {most}. See test_views, or --views.")
        items = self._items(X, self.backbone_.modality)
        # A tuned backbone is one of many that a study makes: its features would fill the disk and never be asked for again.
        kept: dict[str, Any] = {"tap": self.plan_.tap, "cache": not self.tuned_, "progress": progress}
        outputs = [self.head_.outputs(extract(self.backbone_, items, view=view, **kept)) for view in range(number)]
        return np.mean(outputs, 0) if number > 1 else outputs[0]

    def _has_classes(self) -> bool:
        if getattr(self, "task_", self.task) == "regression":
            raise AttributeError("predict_proba: this model is a regression, of numbers, and has no classes. Use predict.")
        return True

    @available_if(_has_classes)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, c), columns in the order of `classes_`. A regression has no such method (AttributeError)."""
        return self.predict_outputs(X)

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,); for multi-label a matrix (n, c) of 0 and 1; for a regression values (n,)."""
        return self.decode(self.predict_outputs(X))

    def decode(self, outputs: np.ndarray, unknown: float | None = None) -> np.ndarray:
        """What `predict` answers, from the outputs of `predict_outputs`.

        unknown: of one class an item, "unknown" (numeric classes: -1) where none has this probability; `unknown_` unless given.
        """
        decided = decision(outputs, self.task_)
        if self.task_ != "classification":
            return decided
        labels, share = self.classes_[decided], self.unknown_ if unknown is None else unknown
        if not share:
            return labels
        numeric = is_numeric(self.classes_)
        # Unsigned numbers hold no -1.
        labels = labels.astype(np.result_type(labels.dtype, np.int8) if numeric else object)
        return np.where(outputs.max(axis=1) < share, -1 if numeric else UNKNOWN, labels)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy, or for a regression R2."""
        from sklearn.metrics import accuracy_score, r2_score

        judge = r2_score if self.task_ == "regression" else accuracy_score
        truth = indicators(y, self.classes_.tolist()) if self.task_ == "multilabel" else np.asarray(y)
        return float(judge(truth, self.predict(X), sample_weight=sample_weight))

    def save(self, folder: str | Path) -> None:
        """Write a folder that `Transfer.load` opens again: backbone, head (safetensors), classes, preprocessing."""
        check_is_fitted(self, "head_")
        saved.write(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> "Transfer":
        """A model saved by `save`; the folder of a run is opened at its `model/`.

        Raises GraftError when the folder holds no model, or one written by a newer graft.
        """
        return saved.read(cls, Path(folder))

    def _load_backbone(self, items: Sequence[Any] = ()) -> Backbone:
        """items: what it will read, which tell how wide "rows" are."""
        if not isinstance(self.backbone, str):
            return self.backbone
        return load_backbone(f"{ROWS}:{len(items[0])}" if self.backbone == ROWS else self.backbone)

    def _items(self, X: Any, modality: str, fitting: bool = False) -> Sequence[Any]:
        """X as what a backbone of this modality reads. Rows are checked as every estimator of scikit-learn does."""
        return validate_data(self, X, reset=fitting, dtype=np.float32) if modality == "row" else as_items(X, modality)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # "auto" is a classifier until y has told otherwise.
        task = getattr(self, "task_", self.task)
        if task == "regression":
            tags.estimator_type, tags.classifier_tags, tags.regressor_tags = "regressor", None, RegressorTags()
        else:
            tags.classifier_tags.multi_label = task in ("auto", "multilabel")
        given = self.backbone
        rows = given.partition(":")[0] == ROWS if isinstance(given, str) else getattr(given, "modality", None) == "row"
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = rows, not rows, not rows
        return tags
