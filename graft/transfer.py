"""`Transfer`: a pretrained backbone put to work on labelled items, as a scikit-learn estimator."""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from graft.auto import AUTO, FREE, PROBE, Climb, climb, free
from graft.backbones import load_backbone
from graft.backbones.base import Backbone
from graft.budget import budget_seconds
from graft.data import View, encode_target, holdout, load_unlabelled, sparable
from graft.errors import GraftError, near_miss
from graft.evaluate import METRICS, default_metric, signed
from graft.features import States, device_of, extract, machine, remembered, throughput
from graft.heads import LINKS, LinearHead, fit_head
from graft.outputs import decision
from graft.records import TASKS, Epoch, Event, Phase, Plan, Recipe, Task
from graft.strategies import make_plan
from graft.train import Checkpoints, train

FORMAT = 1  # of the saved folder
EPOCHS, LR = 10, 1e-3  # what strategies are called with unless told otherwise
_VALIDATION_SHARE = 0.2
_VALIDATION_AT_MOST = 500  # items: more would cost time and hardly sharpen the score
_LEAST_TO_HOLD_OUT = 10
# With fewer labels a class than this, a start that is already good loses more by giving some up than early stopping gains.
_FEW_A_CLASS = 20
_LEAST_EPOCHS = 3  # of retraining that is worth trying
_SPEED_ITEMS = 64  # enough to measure the speed of training by
_PATIENCE = 3  # epochs without a better validation score before a phase ends

Progress = Callable[[Event], None] | None


class Transfer(ClassifierMixin, BaseEstimator):
    """A pretrained backbone, retrained as a strategy says, with a head of its own.

    backbone: a name ("sentence:minilm", "timm:resnet18", "checkpoint:FOLDER") or a Backbone.
    strategy: "auto", a name (`graft list strategies`), a function (depth, epochs, lr) -> Plan, or a Plan. "auto" starts from the
    frozen features and goes on only while held-out items support it, see `graft.auto.climb`.
    task: "classification", "multilabel" or "regression"; "auto" tells by y: numbers with fractions are a regression,
    a list of labels for each item (or a matrix of 0 and 1) is multi-label, all else is classification.
    head: kind of the closed-form or convex head ("logistic", "lda", "ridge"; "auto" chooses inside the training data, "closed"
    among those in closed form, the cheapest).
    epochs, lr: what the strategy is called with. lr is the head's rate; backbones learn at fractions of it.
    class_weight: None, or "balanced".
    budget: for "auto", seconds or text ("5m") to spend; None: nothing is retrained.
    random_state: seed of everything drawn; the same call twice gives the same model.

    After fit: `classes_`, `task_`, `plan_`, `backbone_`, `head_`, `history_` (an Epoch for each epoch trained),
    `columns_` (name -> kind of the table's columns that it reads, where a study knows them), `strategy_` (its name, the one
    that "auto" came to), `climb_` (what "auto" tried and why it stopped, else None).
    A leading phase in which only the head learns is convex, so its optimum is solved for instead of descended to.
    """

    def __init__(
        self,
        backbone: "str | Backbone" = "sentence:minilm",
        strategy: "str | Plan | Callable[..., Plan]" = AUTO,
        *,
        task: str = "auto",
        head: str = "auto",
        epochs: int = EPOCHS,
        lr: float = LR,
        class_weight: str | None = None,
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
        self.budget = budget
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "Transfer":
        """X: n file paths, PIL images, arrays (h, w[, 3]) of uint8, texts, or a DataFrame. y: n labels.

        groups: (n,), items that share a value stay on one side when something is held out for choosing. Returns self.
        Raises GraftError where X and y do not fit each other, the backbone or the task.
        """
        items = as_items(X, self._load_backbone().modality)
        if len(items) != len(y):
            raise GraftError(f"X has {len(items)} items and y has {len(y)} labels, expected one label an item.")
        task, target, classes = encode(y, self.task)
        return self.fit_encoded(items, target, task, classes, blocks=groups)

    def fit_encoded(
        self,
        items: Sequence[Any],
        target: np.ndarray,
        task: Task,
        classes: Sequence[Any],
        *,
        blocks: np.ndarray | None = None,
        validation: tuple[Sequence[Any], np.ndarray] | None = None,
        metric: str | None = None,
        items_per_epoch: int | None = None,
        states: States | None = None,
        checkpoints: Checkpoints | None = None,
        progress: Progress = None,
    ) -> "Transfer":
        """`fit` for what is already a Dataset's: items, and labels encoded as `encode` gives them.

        validation: (items, target) for early stopping; without it a fifth of the items, at most 500, is held out where the plan trains;
        of fewer than ten items, or twenty a class where the head starts solved, none is: the plan is played to its end.
        metric: name of the metric that early stopping watches. items_per_epoch: see `train`.
        states: keeps what frozen stages gave, for other fits of the same backbone. checkpoints: lets a fit that was interrupted go on.
        """
        clock = checkpoints.clock if checkpoints else time.perf_counter
        begun, backbone = clock(), self._load_backbone()
        kept = {"states": states, "checkpoints": checkpoints}
        self.columns_: dict[str, str] = {}
        self.task_, self.classes_ = task, np.asarray(classes, dtype=None if len(classes) else str)
        self.history_: list[Epoch] = []
        metric = metric or default_metric(task, target)[0]
        self.climb_, strategy, epochs = None, self.strategy, self.epochs
        read: dict[str, np.ndarray] = {}
        if isinstance(strategy, str) and strategy == AUTO:
            self.climb_, read = self._climb(backbone, items, target, task, metric, blocks, kept, lambda: clock() - begun, progress)
            strategy, epochs = self.climb_.strategy, max(self.climb_.epochs, 1)
        self.plan_ = strategy if isinstance(strategy, Plan) else make_plan(strategy, backbone.depth, epochs, self.lr)
        self.strategy_ = strategy if isinstance(strategy, str) else getattr(strategy, "__name__", "plan")
        phases = self.plan_.phases
        solved = not self.plan_.reset and (not phases or not any(phases[0].lr))
        if solved:
            phases = phases[1:]
        few = solved and len(target) < _FEW_A_CLASS * max(1, len(classes))
        if phases and validation is None and not few and can_hold_out(target, task, blocks):
            share = min(_VALIDATION_SHARE, _VALIDATION_AT_MOST / len(target))
            inner, held = holdout(target, task, share, self.random_state, blocks=blocks)
            validation = (View(items, held), target[held])
            items, target = View(items, inner), target[inner]
            blocks = None if blocks is None else np.asarray(blocks)[inner]
        head = None
        if solved:
            # Without phases nothing was held out, and what "auto" read is what is wanted.
            known = None if phases else read.get(self.strategy_)
            head = self._solve(self._views(backbone, items, self.plan_, progress) if known is None else known, target, blocks, self.head)
        if phases:
            backbone = copy.deepcopy(backbone)
            plan = Plan(phases, self.plan_.reset, self.plan_.lora_rank)
            head = self._train(backbone, head, plan, items, target, validation, metric, items_per_epoch, kept, progress)
        assert head is not None
        self.backbone_, self.head_, self.tuned_ = backbone, head, bool(phases)
        return self

    def _views(self, backbone: Backbone, items: Sequence[Any], plan: Plan, progress: Progress) -> np.ndarray:
        """(views, n, d): what a head without phases reads, the judged view first."""
        number = plan.views if backbone.modality == "image" else 1
        views = [extract(backbone, items, tap=plan.tap, view=view, progress=progress) for view in range(number)]
        # A single view is not copied: it may be a file that does not fit into memory.
        return np.stack(views) if number > 1 else views[0][None]

    def _solve(self, views: np.ndarray, target: np.ndarray, blocks: np.ndarray | None, kind: str) -> LinearHead:
        """The head of a kind on all views (v, n, d) of the items."""
        number, n, width = views.shape
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
            class_weight=self.class_weight,
            seed=self.random_state,
            blocks=blocks,
        )

    def _climb(
        self,
        backbone: Backbone,
        items: Sequence[Any],
        target: np.ndarray,
        task: Task,
        metric: str,
        blocks: np.ndarray | None,
        kept: dict[str, Any],
        spent: Callable[[], float],
        progress: Progress,
    ) -> tuple[Climb, dict[str, np.ndarray]]:
        """What "auto" comes to on these items, and strategy -> features (views, n, d) that it read on the way."""
        read: dict[str, np.ndarray] = {}
        widest = FREE[backbone.modality][-1]
        if widest in free(backbone.modality, len(target)):
            # The output of several stages holds the pooled features too: one pass of the network serves both.
            read[widest] = self._views(backbone, items, make_plan(widest, backbone.depth, 1, self.lr), progress)
            read[PROBE] = read[widest][..., -backbone.width :]

        def answer(strategy: str, epochs: int, fitted: np.ndarray, held: np.ndarray) -> np.ndarray:
            plan = make_plan(strategy, backbone.depth, max(epochs, 1), self.lr)
            inner = None if blocks is None else np.asarray(blocks)[fitted]
            if not plan.phases:
                if strategy not in read:
                    read[strategy] = self._views(backbone, items, plan, progress)
                kind = "closed" if self.head == "auto" and not epochs else self.head
                return self._solve(read[strategy][:, fitted], target[fitted], inner, kind).outputs(read[strategy][0, held])
            model = clone(self).set_params(backbone=backbone, strategy=strategy, epochs=epochs)
            some, classes = View(items, fitted), self.classes_.tolist()
            model.fit_encoded(some, target[fitted], task, classes, blocks=inner, metric=metric, progress=progress, **kept)
            return model.predict_outputs(View(items, held))

        epochs_for = None
        if self.budget is not None:
            seconds = budget_seconds(self.budget)
            about = f"{backbone.fingerprint()} {len(target)} {hash_of(target)} {seconds} {metric} {self.random_state}"

            def epochs_for(strategy: str, strategies_left: int) -> int:
                def decide() -> float:
                    left = seconds - spent()
                    plan = make_plan(strategy, backbone.depth, self.epochs, self.lr)
                    if not plan.phases:
                        # A view is extracted once, whoever reads it; of the plain one the pooled features are there already.
                        passes = plan.views - (plan.tap == "pooled")
                        return float(passes * len(target) / throughput(backbone, items) < left / strategies_left)
                    # Tried on four fifths, and where it is kept fitted again on all.
                    each = 2 * epoch_seconds(backbone, strategy, len(target), training_speed(backbone, items, target, task))
                    epochs = int(left / strategies_left / each)
                    return min(self.epochs, epochs) if epochs >= _LEAST_EPOCHS else 0

                # A clock decides this once; the same call then does the same again.
                return int(remembered(f"epochs {strategy} {about}", decide))

        found = climb(
            answer,
            target,
            task,
            metric,
            modality=backbone.modality,
            seed=self.random_state,
            blocks=blocks,
            epochs_for=epochs_for,
        )
        return found, read

    def _train(
        self,
        backbone: Backbone,
        start: LinearHead | None,
        plan: Plan,
        items: Sequence[Any],
        target: np.ndarray,
        validation: Any,
        metric: str,
        items_per_epoch: int | None,
        kept: dict[str, Any],
        progress: Progress,
    ) -> LinearHead:
        regression = self.task_ == "regression"
        # A network learns a target of mean 0 and scale 1; the head gives it back in the user's unit.
        centre, scale = (float(target.mean()), float(target.std()) or 1.0) if regression else (0.0, 1.0)
        head = _torch_head(start, backbone.width, max(1, len(self.classes_)), centre, scale, self.random_state)

        def better(y: np.ndarray, outputs: np.ndarray) -> float:
            return signed(metric, METRICS[metric](y, outputs))

        if regression:
            target = (target - centre) / scale
        if regression and validation:
            validation = (validation[0], (validation[1] - centre) / scale)
        for event in train(
            backbone,
            head,
            plan,
            items,
            target,
            task=self.task_,
            validation=validation,
            recipe=Recipe(
                class_weight=self.class_weight,
                patience=self._patience(plan) if validation else None,
                items_per_epoch=items_per_epoch,
            ),
            metric=better,
            seed=self.random_state,
            progress=progress,
            **kept,
        ):
            self.history_.append(event)
            if progress:
                progress(event)
        return _linear_head(head, self.task_, centre, scale)

    def _patience(self, plan: Plan) -> int:
        # Random weights may stand still for many epochs before they learn: they get a third of what there is.
        return max(_PATIENCE, math.ceil(sum(phase.epochs for phase in plan.phases) / 3)) if plan.reset else _PATIENCE

    def predict_outputs(self, X: Any, progress: Progress = None) -> np.ndarray:
        """Classification and multi-label: probabilities (n, c). Regression: values (n,)."""
        check_is_fitted(self, "head_")
        items = as_items(X, self.backbone_.modality)
        # A tuned backbone is one of many that a study makes: its features would fill the disk and never be asked for again.
        features = extract(self.backbone_, items, tap=self.plan_.tap, cache=not self.tuned_, progress=progress)
        return self.head_.outputs(features)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, c), columns in the order of `classes_`. Raises GraftError on a regression."""
        check_is_fitted(self, "head_")
        if self.task_ == "regression":
            raise GraftError("predict_proba: this model was fitted on numbers (a regression) and has no classes. Use predict.")
        return self.predict_outputs(X)

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,); for multi-label a matrix (n, c) of 0 and 1; for a regression values (n,)."""
        return self.decode(self.predict_outputs(X))

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """What `predict` answers, from the outputs of `predict_outputs`."""
        decided = decision(outputs, self.task_)
        return self.classes_[decided] if self.task_ == "classification" else decided

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy, or for a regression R2."""
        from sklearn.metrics import accuracy_score, r2_score

        judge = r2_score if self.task_ == "regression" else accuracy_score
        truth = self._indicators(y) if self.task_ == "multilabel" else np.asarray(y)
        return float(judge(truth, self.predict(X), sample_weight=sample_weight))

    def _indicators(self, y: Any) -> np.ndarray:
        """(n, c) of 0 and 1, from such a matrix or from a list of labels for each item."""
        return np.asarray(y) if getattr(y, "ndim", 1) == 2 else np.array([[int(name in labels) for name in self.classes_] for labels in y])

    def save(self, folder: str | Path) -> None:
        """Write a folder that `Transfer.load` opens again: backbone, head (safetensors), classes, preprocessing."""
        check_is_fitted(self, "head_")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone_.save(folder / "backbone")
        # safetensors writes a transposed array's memory as it lies, and so another matrix.
        save_file({name: np.ascontiguousarray(array) for name, array in self.head_.to_arrays().items()}, folder / "head.safetensors")
        about = {
            "format": FORMAT,
            "task": self.task_,
            "classes": self.classes_.tolist(),
            "head": {"kind": self.head_.kind, "strength": self.head_.strength},
            "backbone": self.backbone_.name,
            "tuned": self.tuned_,
            "plan": {
                "phases": [vars(phase) for phase in self.plan_.phases],
                "reset": self.plan_.reset,
                "lora_rank": self.plan_.lora_rank,
                "tap": self.plan_.tap,
                "views": self.plan_.views,
            },
            "strategy": self.strategy_,
            "preprocessing": self.backbone_.preprocessing,
            "columns": self.columns_,
        }
        (folder / "graft.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Transfer":
        """A model saved by `save`; the folder of a run is opened at its `model/`.

        Raises GraftError when the folder holds no model, or one written by a newer graft.
        """
        folder = Path(folder)
        if not (folder / "graft.json").is_file() and (folder / "model" / "graft.json").is_file():
            folder = folder / "model"
        if not (folder / "graft.json").is_file():
            what = "has no graft.json" if folder.is_dir() else "is no folder"
            raise GraftError(f"{folder} {what}, expected the folder of a run (`graft run DATA --out RUN`) or its model/.")
        about = json.loads((folder / "graft.json").read_text(encoding="utf-8"))
        if about["format"] > FORMAT:
            raise GraftError(f"{folder} is written in format {about['format']}, this graft reads up to {FORMAT}. Run: pip install -U graft")
        model = cls(backbone=about["backbone"], task=about["task"])
        model.backbone_ = load_backbone(f"checkpoint:{folder / 'backbone'}")
        model.backbone_.name = about["backbone"]
        model.head_ = LinearHead.from_arrays(load_file(folder / "head.safetensors"))
        model.columns_ = about["columns"]
        model.task_, model.tuned_, model.history_ = about["task"], about["tuned"], []
        model.classes_ = np.asarray(about["classes"], dtype=None if about["classes"] else str)
        plan = about["plan"]
        phases = tuple(Phase(**{**phase, "lr": tuple(phase["lr"])}) for phase in plan["phases"])
        model.plan_ = Plan(phases, plan["reset"], plan["lora_rank"], plan["tap"], plan.get("views", 1))
        model.strategy_, model.climb_ = about.get("strategy", "plan"), None
        return model

    def _load_backbone(self) -> Backbone:
        return load_backbone(self.backbone) if isinstance(self.backbone, str) else self.backbone


def can_hold_out(target: np.ndarray, task: Task, blocks: np.ndarray | None) -> bool:
    """Whether a fifth of the items (or of their blocks) can be spared for choosing: there are ten, and enough beyond one of each class."""
    if task == "classification" and not sparable(target, blocks).any():
        return False
    spare = len(target) - (len(np.unique(target)) if task == "classification" else 0)
    n_units = len(target) if blocks is None else len(np.unique(blocks))
    return n_units >= _LEAST_TO_HOLD_OUT and spare >= _VALIDATION_SHARE * len(target)


def as_items(X: Any, modality: str) -> list[Any]:
    """X as `Transfer.fit` takes it -> a list of items for a backbone of this modality."""
    if isinstance(X, pd.DataFrame):
        return list(load_unlabelled(X, modality=modality).items)
    if isinstance(X, str | Path):
        raise GraftError(f"X is the single string {str(X)!r}, expected a list of {'texts' if modality == 'text' else 'images'}.")
    items = X.tolist() if isinstance(X, np.ndarray) and X.ndim == 1 else list(X)
    if modality == "text":
        wrong = next((item for item in items if not isinstance(item, str)), None)
        if wrong is not None:
            raise GraftError(f"X holds a {type(wrong).__name__}, expected texts (str), since the backbone reads text.")
    return items


def encode(y: Any, task: str = "auto") -> tuple[Task, np.ndarray, list[Any]]:
    """(task, target, classes). target: encoded as in `graft.data.Dataset`; classes keep the type that y has.

    Raises GraftError on an unknown task, missing labels, or a single class.
    """
    if task not in ("auto", *TASKS):
        raise GraftError(f"task {task!r}, expected 'auto', {', '.join(map(repr, TASKS))}.{near_miss(task, TASKS)}")
    values = list(y)
    if task == "auto":
        lists = any(isinstance(labels, list | tuple | set) for labels in values)
        # Unlike a column of a table, whole numbers are classes here, as everywhere in scikit-learn.
        kind = "multilabel" if lists or getattr(y, "ndim", 1) == 2 else type_of_target(values)
        task = {"multilabel": "multilabel", "continuous": "regression"}.get(kind, "classification")
    encoded = encode_target(values, task)  # type: ignore[arg-type]
    if encoded.task == "classification":
        classes, target = np.unique(np.asarray(values), return_inverse=True)
        return "classification", target.astype(np.int64), classes.tolist()
    return encoded.task, encoded.y, list(encoded.classes)


def training_speed(backbone: Backbone, items: Sequence[Any], target: np.ndarray, task: Task) -> float:
    """Items a second that the whole network learns from, from preparing to the optimiser's step; measured once and remembered."""

    def measure() -> float:
        index = np.linspace(0, len(target) - 1, min(_SPEED_ITEMS, len(target))).astype(int)
        # Two epochs: the first one warms up.
        model = Transfer(backbone, Plan((Phase(2, (1e-9,) * backbone.depth, 1e-9),)))
        classes = [] if task == "regression" else list(range(target.shape[1] if target.ndim == 2 else int(target.max()) + 1))
        model.fit_encoded(View(items, index), target[index], task, classes)
        if len(model.history_) < 2:
            # A Ctrl-C cut it short; one that has come already does not.
            model.fit_encoded(View(items, index), target[index], task, classes)
        return len(index) / model.history_[-1].seconds

    return remembered(f"training {machine(device_of(backbone))} {backbone.fingerprint()} {len(target)} {hash_of(target)}", measure)


def epoch_seconds(backbone: Backbone, strategy: str, n_items: int, training_speed: float) -> float:
    """Seconds that an epoch of the strategy takes, about: of what is frozen nothing is run but once.

    training_speed: items a second that the whole network learns from; a third of that time is the forward pass.
    """
    phases = make_plan(strategy, backbone.depth, 2, 1e-3).phases
    learning = [next((group for group, rate in enumerate(phase.lr) if rate), backbone.depth) for phase in phases]
    share = 1 - min(learning) / backbone.depth
    return n_items / training_speed * (share + (1 - share) / 3 / _LEAST_EPOCHS)


def hash_of(target: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(target).tobytes(), digest_size=8).hexdigest()


def _torch_head(start: LinearHead | None, width: int, outputs: int, centre: float, scale: float, seed: int) -> torch.nn.Linear:
    """A linear layer, small and random, or equal to a fitted head."""
    head = torch.nn.Linear(width, outputs)
    with torch.no_grad():
        if start is None:
            generator = torch.Generator().manual_seed(seed)
            head.weight.normal_(0.0, 0.01, generator=generator)
            head.bias.zero_()
        else:
            # mean and scale of the features are folded into weight and bias.
            weight = start.weight / start.scale[:, None]
            bias = (start.bias - start.mean @ weight - centre) / scale
            head.weight.copy_(torch.as_tensor(weight.T / scale))
            head.bias.copy_(torch.as_tensor(bias))
    return head


def _linear_head(head: torch.nn.Linear, task: Task, centre: float, scale: float) -> LinearHead:
    weight = head.weight.detach().numpy().T.astype(np.float64) * scale
    bias = head.bias.detach().numpy().astype(np.float64) * scale + centre
    width = len(weight)
    return LinearHead(mean=np.zeros(width), scale=np.ones(width), weight=weight, bias=bias, link=LINKS[task], kind="trained", strength=0.0)
