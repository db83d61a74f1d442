"""What every candidate of a study is fitted on: the data, the backbones, their features, and the folds."""

import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graft import interrupt
from graft.auto import AUTO, DEARER
from graft.backbones.base import Backbone
from graft.data import Dataset, View, folds, holdout
from graft.errors import Diverged, GraftError, near_miss, raise_all
from graft.evaluate import METRICS, default_metric, interval_over_items, measure, metrics_for, signed
from graft.features import States, extract, throughput
from graft.heads import cross_validate, fit_head
from graft.records import Event, Plan, Recipe, Score, Task
from graft.strategies import STRATEGIES, Strategy, make_plan
from graft.train import Checkpoints, asks_for_others
from graft.train.check import recipe_problems
from graft.transfer import EPOCHS, LR, Transfer
from graft.transfer.inputs import can_hold_out
from graft.transferability.base import FEWEST_ITEMS
from graft.transferability.evidence import logme

Progress = Callable[[Event], None] | None

_INNER_FOLDS, _FEW, _MANY = 5, 500, 2000
_HELD_SHARE = 0.2


@dataclass(frozen=True)
class Candidate:
    """A backbone and what to do with it."""

    backbone: str
    strategy: str


@dataclass
class Material:
    """A checked data set with what is computed from it once: backbones loaded, features extracted.

    backbones: by name. metric: name of the one that is chosen by. tap: what is read off the backbones at once. fit_seconds: for
    each fit of `auto`; None: it retrains nothing. budget: seconds of the whole study, None without a limit. others: items of the source
    task, for strategies that replay them. Choosing and judging get their items by index (n,) into the data set.
    """

    dataset: Dataset
    backbones: dict[str, Backbone]
    metric: str
    seed: int
    tap: str = "pooled"
    progress: Progress = None
    fit_seconds: float | None = None
    budget: float | None = None
    recipe: Recipe | None = None
    speeds: dict[str, float] = field(default_factory=dict)
    # What extracting takes, also where the features were found on the disk; and what it took this time.
    extraction_seconds: dict[str, float] = field(default_factory=dict)
    extracting: float = 0.0
    # Folds share items, and every candidate the pretrained stages: what they gave is kept for all fits of the study.
    states: States = field(default_factory=States)
    checkpoints: Checkpoints | None = None
    others: Sequence[Any] = ()
    _features: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, backbone in self.backbones.items():
            if backbone.modality not in (("text", "table") if self.dataset.modality == "table" else (self.dataset.modality,)):
                reads, holds = backbone.modality, self.dataset.modality
                raise GraftError(f"backbone {name} reads {reads}s, {self.dataset.name} holds {holds}s. Name another backbone.")
            self.speeds[name] = throughput(backbone, self.dataset.items, tap=self.tap)
            self.extraction_seconds[name] = len(self.dataset) / self.speeds[name]
        assert self.dataset.task is not None and self.dataset.target is not None  # what `load` gives is labelled
        self.task, self.target = self.dataset.task, self.dataset.target
        self.blocks = self.dataset.blocks()

    def now(self) -> float:
        """Seconds, from any start; those that an interrupted run trained before count too, once what they gave was found."""
        return self.checkpoints.clock() if self.checkpoints else time.perf_counter()

    def features(self, name: str, tap: str = "pooled") -> np.ndarray:
        """(n, d) of every item, extracted once."""
        if tap == "pooled" != self.tap:
            # The output of several stages holds the pooled features too: one pass of the network serves both.
            return self.features(name, self.tap)[:, -self.backbones[name].width :]
        if (name, tap) not in self._features:
            begun = time.perf_counter()
            self._features[name, tap] = extract(self.backbones[name], self.dataset.items, tap=tap, progress=self.progress)
            self.extracting += time.perf_counter() - begun
            self.extraction_seconds[name] = max(self.extraction_seconds[name], time.perf_counter() - begun)
        return self._features[name, tap]

    def items(self, index: np.ndarray) -> Sequence[Any]:
        return View(self.dataset.items, index)

    def blocks_of(self, index: np.ndarray) -> np.ndarray | None:
        return None if self.blocks is None else self.blocks[index]

    def better(self, outputs: np.ndarray, index: np.ndarray) -> float:
        """The metric of outputs for these items, turned so that greater is better."""
        return signed(self.metric, measure(self.metric, self.target[index], outputs))

    def inner_folds(self, index: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Folds of these items, as positions in index: choosing happens on them alone."""
        blocks = self.blocks_of(index)
        n_units = len(index) if blocks is None else len(np.unique(blocks))
        # Where items are many, halves of them tell as much as fifths of few.
        k = _INNER_FOLDS if len(index) <= _MANY else 2
        return folds(self.target[index], self.task, min(k, n_units), self.seed, blocks=blocks)

    def fit(self, candidate: Candidate, index: np.ndarray) -> Transfer:
        """The candidate fitted on these items, as a model."""
        model = Transfer(
            self.backbones[candidate.backbone], candidate.strategy, budget=self.fit_seconds, recipe=self.recipe, random_state=self.seed
        )
        self.fit_model(model, index, states=self.states)
        if model.climb_ and self.budget is not None:
            model.climb_ = model.climb_.of_study(self.budget)
        return model

    def fit_model(
        self, model: Transfer, index: np.ndarray, *, states: States | None = None, items_per_epoch: int | None = None
    ) -> Transfer:
        """The model, fitted on these items with what the data set says of them. states, items_per_epoch: see `Transfer.fit_encoded`."""
        return model.fit_encoded(
            self.items(index),
            self.target[index],
            self.task,
            self.dataset.classes,
            blocks=self.blocks_of(index),
            metric=self.metric,
            items_per_epoch=items_per_epoch,
            others=self.others,
            states=states,
            checkpoints=self.checkpoints,
            progress=self.progress,
        )

    def fit_and_predict(self, candidate: Candidate, index: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """Outputs for the judged items of the candidate fitted on the items in index."""
        if candidate.strategy == AUTO or self.trains(candidate) or self.plan(candidate).views > 1:
            return self.fit(candidate, index).predict_outputs(self.items(judged))
        features = self.features(candidate.backbone, self.plan(candidate).tap)
        head = fit_head(features[index], self.target[index], self.task, **self.head_settings(index))
        return head.outputs(features[judged])

    def plan(self, candidate: Candidate) -> Plan:
        """What a named strategy will do."""
        return make_plan(candidate.strategy, self.backbones[candidate.backbone].depth, EPOCHS, LR)

    def check_recipe(self, strategies: Sequence[str]) -> None:
        """Raise one GraftError that lists all in which the recipe does not suit what may be trained, before any time is spent.

        One for strategies that lack the items of a source task comes first.
        """
        self.check_others({name: name for name in strategies})
        problems: dict[str, str] = {}
        for backbone in self.backbones:
            rungs = DEARER[self.backbones[backbone].modality]
            names = [name for strategy in strategies for name in (rungs if strategy == AUTO else (strategy,))]
            for name in dict.fromkeys([*names, "scratch"]):
                plan = self.plan(Candidate(backbone, name))
                # A head that begins a plan is solved, not trained.
                phases = tuple(itertools.dropwhile(lambda phase: not any(phase.lr), plan.phases))
                plan, recipe = replace(plan, phases=phases), self.recipe or Recipe()
                for problem in recipe_problems(recipe, self.task, self.backbones[backbone], plan, validated=True):
                    problems.setdefault(problem, f"strategy {name}: {problem}")
        raise_all(list(problems.values()))

    def check_others(self, named: "Mapping[str, str | Strategy]") -> None:
        """Raise a GraftError where some of these strategies learn from items of the source task beside these, and there are none."""
        asking = [] if len(self.others) else [name for name, strategy in named.items() if replays(strategy, self.backbones)]
        if asking:
            raise GraftError(
                f"strategy {', '.join(asking)}: no source task, expected one, whose items are replayed. Name its data: "
                "graft run DATA --keep SOURCE, in Python graft.run(..., keep=...); two or more strategies are set beside each other there "
                "too. Or use 'l2_sp' or 'wise_ft', which hold the weights without it."
            )

    def trains(self, candidate: Candidate) -> bool:
        """Whether it may move the backbone: a head alone is solved for on frozen features."""
        if candidate.strategy == AUTO:
            return self.fit_seconds is not None
        return any(any(phase.lr) for phase in self.plan(candidate).phases)

    def held_out(self, features: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Outputs for the items in index, each from a head that was fitted without it. features: (n, d) of these items."""
        return cross_validate(features, self.target[index], self.task, self.inner_folds(index), **self.head_settings(index))

    def rank(self, index: np.ndarray) -> list[dict[str, Any]]:
        """Backbones by the cross-validated score of a head on their frozen features, best first.

        Those that are level with the first are ordered by LogME, where it says something, then by speed.
        Rows: backbone, score, interval (95 %, over items), seconds (extraction and heads), cost (items a second).

        `graft rank` corrects this score by recorded runs, see `graft.transferability.predict`. Here that would take further scores of each
        backbone in each fold, and on recorded runs what it gains over the head alone is, but for 0.1 to 0.3 points, what LogME gains among
        those that are level: see benchmarks/README.md.
        """
        rows: list[dict[str, Any]] = []
        for name in self.backbones:
            features = self.features(name)[index]
            begun = time.perf_counter()
            outputs = self.held_out(features, index)
            score = interval_over_items(self.metric, self.target[index], outputs, self.seed)
            spent = self.extraction_seconds[name] + time.perf_counter() - begun
            rows.append({"backbone": name, "score": score.value, "interval": score.interval, "seconds": spent, "cost": self.speeds[name]})
        rows.sort(key=lambda row: (-signed(self.metric, row["score"]), -row["cost"]))
        level = [row for row in rows if row["score"] == rows[0]["score"]]
        if len(level) > 1 and self.task == "classification":
            level.sort(key=lambda row: -_evidence(self.features(row["backbone"])[index], self.target[index]))
        return level + rows[len(level) :]

    def choose(self, index: np.ndarray, strategies: Sequence[str], ranking: Sequence[dict[str, Any]] | None = None) -> "Choice":
        """The best candidate, by what these items alone say.

        The backbone is the first of the ranking. Strategies compete on the same held-out items; the cheaper wins a tie, and
        where there are too few items to hold some out. Who had no turn when the user asked for an end is dropped, and, after a warning,
        who diverges. Raises Diverged where all do.
        """
        if ranking is None and len(self.backbones) > 1:
            ranking = self.rank(index)
        backbone = ranking[0]["backbone"] if ranking else next(iter(self.backbones))
        rivals = [Candidate(backbone, strategy) for strategy in strategies]
        if len(rivals) == 1 or not can_hold_out(self.target[index], self.task, self.blocks_of(index)):
            return Choice(rivals[0], [])
        rows, scores = [], {}
        parts = self._compared_on(index, any(self.trains(rival) for rival in rivals))
        judged = np.concatenate([held for _, held in parts])
        for rival in list(rivals):
            begun, before = self.now(), interrupt.asked()
            try:
                outputs = np.concatenate([self.fit_and_predict(rival, fitted, held) for fitted, held in parts])
            except Diverged as error:
                rivals.remove(rival)
                if not rivals:
                    raise
                warnings.warn(f"strategy {rival.strategy} is left out: {error}", stacklevel=2)
                continue
            if interrupt.asked() and not before:
                # This one was cut short: it cannot be compared.
                break
            scores[rival] = self.better(outputs, judged)
            score = interval_over_items(self.metric, self.target[judged], outputs, self.seed)
            rows.append(_row(rival, score, self.now() - begun))
        # Cut short before any was compared, the cheapest is left.
        return Choice(max(scores, key=lambda rival: scores[rival], default=rivals[0]), rows)

    def _compared_on(self, index: np.ndarray, training: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """(fitted on, compared on) parts of these items: the given validation part where there is one, each item once where
        items are few and no rival trains, else one held-out fifth."""
        if self.dataset.split is not None and "test" in self.dataset.split:
            given = self.dataset.split[index] == "validation"
            if given.any() and not given.all():
                return [(index[~given], index[given])]
        if not training and len(index) <= _FEW:
            return [(index[fitted], index[held]) for fitted, held in self.inner_folds(index)]
        fitted, held = holdout(self.target[index], self.task, _HELD_SHARE, self.seed, blocks=self.blocks_of(index))
        return [(index[fitted], index[held])]

    def head_settings(self, index: np.ndarray) -> dict[str, Any]:
        weights = self.recipe.class_weight if self.recipe else None
        classes = len(self.dataset.classes) or None
        return {"n_classes": classes, "class_weight": weights, "seed": self.seed, "blocks": self.blocks_of(index)}


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, and a row for each rival: backbone, strategy, score, interval, n, seconds; none without a rival."""

    candidate: Candidate
    rows: list[dict[str, Any]]


def _evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME; -inf where it says nothing: for a dead network, too few items, or labels that are all one class or all different."""
    says = len(labels) >= FEWEST_ITEMS and 1 < len(np.unique(labels)) < len(labels) and np.ptp(features, axis=0).any()
    return logme(features, labels) if says else -math.inf


def _row(candidate: Candidate, score: Score, seconds: float) -> dict[str, Any]:
    return {
        "backbone": candidate.backbone,
        "strategy": candidate.strategy,
        "score": score.value,
        "interval": score.interval,
        "n": score.n,
        "seconds": seconds,
    }


def choose_metric(task: Task, target: np.ndarray, metric: str | None) -> tuple[str, str]:
    """The metric to choose by, and why in words. target: of the training items. Raises GraftError for one that does not judge this task."""
    if metric is None:
        return default_metric(task, target)
    if metric not in METRICS or task not in METRICS[metric].tasks:
        allowed = metrics_for(task)
        raise GraftError(f"metric {metric!r} does not judge {task}, expected one of {', '.join(allowed)}.{near_miss(metric, allowed)}")
    return metric, f"{metric}, as asked for"


def replays(strategy: "str | Strategy", backbones: Mapping[str, Backbone]) -> bool:
    """Whether it learns from items of the source task beside the labelled ones."""
    plans = (make_plan(strategy, backbone.depth, EPOCHS, LR) for backbone in backbones.values()) if strategy != AUTO else ()
    return any(asks_for_others(plan) for plan in plans)


def known_strategies(names: Sequence[str]) -> list[str]:
    """The names, each checked; the scratch control is no way to transfer."""
    for name in names:
        if not isinstance(name, str):
            called = getattr(name, "__name__", repr(name))
            raise GraftError(
                f"strategy {called}: a {type(name).__name__}, expected a name, which config.yaml can hold. Give the function one by "
                "@STRATEGIES.add(SOURCE) of graft.strategies, and name that; Transfer and graft.compare take it as it is."
            )
        if name != AUTO:
            STRATEGIES[name]
        if name == "scratch":
            raise GraftError("strategy 'scratch' is the control of every run, expected one that starts from pretrained weights.")
    return list(dict.fromkeys(names))
