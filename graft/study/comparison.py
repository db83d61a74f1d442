"""Strategies beside each other: the same folds, the same search of rates inside each, every pair's difference -> Comparison."""

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graft import __version__, interrupt, processes
from graft.auto import AUTO
from graft.backbones import load_backbone
from graft.budget import budget_seconds
from graft.data import Dataset, check, holdout, load
from graft.errors import Diverged, GraftError, raise_all
from graft.evaluate import holm, signed
from graft.features import States, remembered
from graft.files import replacing
from graft.records import Event, Note, Phase, Plan
from graft.report import write_comparison
from graft.strategies import STRATEGIES, Strategy, make_plan
from graft.study.judge import Judged, parts
from graft.study.keep import forgetting
from graft.study.material import Material, choose_metric
from graft.transfer import EPOCHS, Transfer
from graft.transfer.inputs import can_hold_out
from graft.transfer.speed import epoch_seconds, hash_of, training_speed

# The default rate of the head, and a half power of ten to either side.
RATES = (3e-4, 1e-3, 3e-3)
_HELD_SHARE = 0.2  # of a fold's training part, on which a rate is chosen
_LEAST_EPOCHS = 3  # below it a budget buys no comparison
_WARM_UP_ITEMS = 16
_SURE = 0.05  # of Holm's p, below which one is better


@dataclass(frozen=True)
class Point:
    """A learning curve after an epoch, over the folds: mean, and (lowest, highest fold).

    epoch: 0 before training. score: on the held-out part that rates are chosen on, in the metric's unit. loss: of training, None at
    epoch 0. seconds: since the fit began. A fold that ended early keeps its best score so far, which is what it leaves, and its last loss.
    """

    epoch: int
    score: float
    score_range: tuple[float, float]
    loss: float | None
    loss_range: tuple[float, float] | None
    seconds: float


@dataclass(frozen=True)
class Rival:
    """One strategy of a comparison.

    score, interval (95 %), fold_scores: on the judged items. rates: the head's rate that was chosen in each fold, empty where nothing
    is trained by steps. seconds: of all it took, the search with it. plan: as in `Result.plan`, at the rate of the first fold.
    curve: one point where it has no epochs. keep: what its model of the first fold forgot of the source task, as `study.keep.forgetting`
    tells it; empty where none was named.
    """

    strategy: str
    score: float
    interval: tuple[float, float]
    fold_scores: list[float]
    rates: list[float]
    seconds: float
    plan: dict[str, Any]
    curve: list[Point]
    keep: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """Two strategies on the same items: fields of `Difference`, first minus second.

    interval and p are of this pair alone. adjusted_p: Holm's, for all pairs of the comparison. better: the name of the better one
    where adjusted_p is below 0.05, "" for a tie.
    """

    first: str
    second: str
    effect: float
    interval: tuple[float, float]
    p: float
    adjusted_p: float
    better: str
    n: int
    test: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. rivals: best mean score first. pairs: each two of them, the better mean first. Prints as a sentence."""

    data: str
    modality: str
    task: str
    metric: str
    backbone: str
    n_train: int
    n_test: int
    judged_on: str
    rivals: list[Rival]
    pairs: list[Pair]
    rates: list[float]
    epochs: int
    seed: int
    seconds: float
    notes: list[str] = field(default_factory=list)
    command: str = ""
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """Every number, as `comparison.json` holds it."""
        return asdict(self)

    def report(self, path: str | Path) -> None:
        """Write the page, one self-contained HTML file."""
        write_comparison(self.to_dict(), path)

    def write(self, folder: str | Path) -> None:
        """Leave comparison.html and comparison.json in a folder, which is made."""
        folder = Path(folder)
        self.report(folder / "comparison.html")
        # Last: where the numbers are, the page is too.
        with replacing(folder / "comparison.json") as file:
            json.dump(self.to_dict(), file, indent=1, ensure_ascii=False)

    def leaders(self) -> list[str]:
        """The strategy with the best mean, and those that tie with it."""
        best = self.rivals[0].strategy
        return [best, *(pair.second for pair in self.pairs if pair.first == best and not pair.better)]

    def __str__(self) -> str:
        leaders, names = self.leaders(), [rival.strategy for rival in self.rivals]
        test = f"{self.metric}, n = {self.n_test}" + (f", Holm over {len(self.pairs)} pairs" if len(self.pairs) > 1 else "")
        if len(leaders) == len(names):
            return f"No difference shown between {', '.join(names)} ({test})"
        behind = ", ".join(name for name in names if name not in leaders)
        first = f"{leaders[0]} is better than {behind}"
        tied = f", and ties with {', '.join(leaders[1:])}" if leaders[1:] else ""
        return f"{first}{tied} ({test})"


def compare(
    data: Any,
    backbone: str,
    strategies: "Sequence[str | Strategy]",
    *,
    rates: Sequence[float] = RATES,
    epochs: int = EPOCHS,
    metric: str | None = None,
    budget: str | float | None = None,
    seed: int = 0,
    progress: Callable[[Event], None] | None = None,
    command: str = "",
) -> Comparison:
    """Two or more strategies on one backbone, each with the same folds and the same search.

    data: a Dataset, or whatever `graft.load` takes. strategies: names, or functions (depth, epochs, lr) -> Plan; at least two.
    rates: of the head, tried for each strategy in each fold on a fifth of its training part; the best is played again on all of that
    part, then judged on the fold's test part, which nothing was chosen on. What is not trained by steps has no rate to choose.
    epochs: of each play, at most. budget: time to spend, "10m" or seconds; epochs are lowered for all alike until it is enough.
    seed: of everything drawn. progress: is told what happens. command: what repeats this, for the page.

    The judged items are the given test part, or each fold's test part in turn. Raises GraftError for what the caller can mend.
    Source of the tests: see `evaluate.verdict`, `evaluate.verdict_on_items`, `evaluate.holm`.
    """
    begun = time.perf_counter()
    named = _named(strategies, rates)
    seconds = None if budget is None else budget_seconds(budget)
    loaded = load_backbone(backbone)
    dataset = check(data if isinstance(data, Dataset) else load(data), progress=progress)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    cut = parts(dataset, seed)
    if not any(_trains(strategy, loaded.depth) for strategy in named.values()):
        cut = parts(dataset, seed, repeat=True)
    metric, why = choose_metric(dataset.task, dataset.target[cut.train], metric)
    material = Material(dataset, {backbone: loaded}, metric, seed, progress=progress)
    material.check_others(named)
    contest = Contest(material, backbone, Judged(material, cut), tuple(rates), epochs)
    contest.notes += [*dataset.notes, f"metric: {why}", f"judged on: {cut.words}"]
    if obstacle := contest.obstacle(named, seconds, begun):
        raise GraftError(f"compare: {obstacle}")
    return contest.compare(named, command, begun)


@dataclass
class _Play:
    """One strategy's curve on one fold: at each epoch what was scored, lost and spent so far. The first is before training."""

    scores: list[float]
    losses: list[float]
    seconds: list[float]


@dataclass
class Contest:
    """Where strategies are compared: the data, the folds, the rates. First `obstacle` is asked, then `compare`.

    source: the items of the source task that are judged, where one is named: what each strategy forgot of it is told.
    """

    material: Material
    backbone: str
    judged: Judged
    rates: tuple[float, ...]
    epochs: int
    notes: list[str] = field(default_factory=list)
    source: Dataset | None = None

    def plan(self, strategy: Strategy, lr: float) -> Plan:
        return make_plan(strategy, self.material.backbones[self.backbone].depth, self.epochs, lr)

    def trains(self, strategy: Strategy) -> bool:
        return _trains(strategy, self.material.backbones[self.backbone].depth)

    def starts_solved(self, strategy: Strategy) -> bool:
        """Whether it starts from a head that is solved for on the backbone's features."""
        plan = self.plan(strategy, self.rates[0])
        return plan.tap == "pooled" and not plan.reset and (not plan.phases or not any(plan.phases[0].lr))

    def obstacle(self, named: Mapping[str, Strategy], budget: float | None, begun: float) -> str:
        """Why these strategies cannot be compared, "" where they can; epochs are then what the budget buys for all.

        budget: seconds since begun, by `time.perf_counter`; None without a limit.
        """
        material, folds = self.material, self.judged.parts.folds
        for train, _ in folds:
            if not can_hold_out(material.target[train], material.task, material.blocks_of(train)):
                return (
                    f"{material.dataset.name} has too few items to hold some out for choosing rates: {len(train)} in a training part, "
                    "expected 10, with two of each class. Add items."
                )
        trained = {name: strategy for name, strategy in named.items() if self.trains(strategy)}
        if budget is None or not trained:
            return ""
        backbone = material.backbones[self.backbone]
        everything = material.items(np.arange(len(material.target)))
        n_train = max(len(train) for train, _ in folds)
        speed = training_speed(backbone, everything, material.target, material.task)
        fits = len(folds) * (len(self.rates) + 1)
        an_epoch = fits * sum(epoch_seconds(backbone, strategy, n_train, speed) for strategy in trained.values())
        about = f"{backbone.fingerprint()} {hash_of(material.target)} {sorted(named)} {self.rates} {self.epochs} {budget} {material.seed}"
        left, wanted = budget - (time.perf_counter() - begun), self.epochs
        # A clock decides this once; the same call then does the same again.
        epochs = remembered(f"comparison epochs {about}", lambda: float(min(wanted, int(left / an_epoch))))
        self.epochs = int(processes.from_first(epochs))
        if self.epochs < min(_LEAST_EPOCHS, wanted):
            least = math.ceil(budget - left + 1.1 * min(_LEAST_EPOCHS, wanted) * an_epoch)
            return (
                f"budget {budget:g}s: {len(trained)} strategies that train, {fits} plays each, take about {an_epoch:.0f} s an epoch here, "
                f"expected a budget for {_LEAST_EPOCHS} epochs. The smallest that works is about --budget {least}s; fewer strategies, "
                "rates or items take less."
            )
        if self.epochs < wanted:
            short = f"epochs: {self.epochs} instead of {wanted} for every strategy, as the budget of {budget:.0f} s buys no more"
            self.notes.append(short)
        return ""

    def compare(self, named: Mapping[str, Strategy], command: str, begun: float) -> Comparison:
        """Every strategy searched, fitted and judged. begun: by `time.perf_counter`. command: what repeats it, for the page.

        Who diverges at every rate is left out, and noted. Raises Diverged where fewer than two are left, and interrupt.Interrupted
        after a Ctrl-C that is listened to.
        """
        material, dataset = self.material, self.material.dataset
        # Before any strategy is timed: what the first of them would pay for, the others would find.
        material.features(self.backbone)
        self.warm_up()
        rivals, failure = [], None
        for name, strategy in named.items():
            if material.progress:
                material.progress(Note(f"comparing: {name}"))
            try:
                rivals.append(self.rival(name, strategy))
            except Diverged as error:
                failure = error
                self.notes.append(f"left out: {name}: {error}")
                del self.judged.outputs[name]
        if failure and len(rivals) < 2:
            raise failure
        rivals.sort(key=lambda rival: -signed(material.metric, rival.score))
        cut, rates = self.judged.parts, self.rates
        call = f"graft.compare({dataset.name!r}, {self.backbone!r}, {list(named)!r}, rates={rates!r}, seed={material.seed})"
        return Comparison(
            data=dataset.name,
            modality=dataset.modality,
            task=material.task,
            metric=material.metric,
            backbone=self.backbone,
            n_train=round(np.mean([len(train) for train, _ in cut.folds])),
            n_test=self.judged.score(rivals[0].strategy).n,
            judged_on=cut.words,
            rivals=rivals,
            pairs=_pairs(self.judged, [rival.strategy for rival in rivals]),
            rates=list(rates),
            epochs=self.epochs,
            seed=material.seed,
            seconds=time.perf_counter() - begun,
            notes=self.notes,
            command=command or call,
        )

    def warm_up(self) -> None:
        """Train a few items for nothing: libraries load what they need, and the choice of precision is made."""
        depth, target = self.material.backbones[self.backbone].depth, self.material.target
        few = np.linspace(0, len(target) - 1, min(_WARM_UP_ITEMS, len(target))).astype(int)
        self.fit(lambda *_: Plan((Phase(1, (1e-9,) * depth, 1e-9),)), 1e-9, few, None, few)

    def rival(self, name: str, strategy: Strategy) -> Rival:
        """The strategy searched, fitted and judged on every fold."""
        material, folds = self.material, self.judged.parts.folds
        begun = time.perf_counter()
        plays: list[_Play] = []
        chosen: list[float] = []
        kept: dict[str, Any] = {}
        self.judged.outputs[name] = []
        # Each its own: kept states of one would make the next look quicker than it is.
        with States() as states:
            for train, test in folds:
                rate, play = self.search(name, len(plays), strategy, states)
                model, _ = self.fit(strategy, rate, train, states)
                if model.diverged_:
                    self.notes.append(f"{name}, judged in fold {len(plays) + 1} as it was before: {model.diverged_}")
                self.judged.outputs[name].append(model.predict_outputs(material.items(test), progress=material.progress))
                plays.append(play)
                chosen.append(rate)
                if self.source is not None and not kept:
                    looked = time.perf_counter()
                    kept = self.forgotten(model)
                    begun += time.perf_counter() - looked
        score, trains = self.judged.score(name), self.trains(strategy)
        return Rival(
            strategy=name,
            score=score.value,
            interval=score.interval,
            fold_scores=self.judged.scores(name),
            rates=chosen if trains else [],
            seconds=time.perf_counter() - begun + self.extraction(strategy, len(material.target)),
            plan={"groups": list(material.backbones[self.backbone].stage_names), **asdict(self.plan(strategy, chosen[0]))},
            curve=_curve(plays, material.metric),
            keep=kept,
        )

    def forgotten(self, model: Transfer) -> dict[str, Any]:
        """What a model forgot of the source task."""
        material = self.material
        assert self.source is not None
        told: dict[str, Any] = {"seed": material.seed, "replayed": len(material.others), "progress": material.progress}
        return forgetting(self.source, material.backbones[self.backbone], model, **told)

    def extraction(self, strategy: Strategy, n: int) -> float:
        """Seconds of extracting n items, for a strategy that reads the features which all share."""
        seconds = self.material.extraction_seconds[self.backbone] * n / len(self.material.target)
        return seconds if self.starts_solved(strategy) else 0.0

    def search(self, name: str, fold: int, strategy: Strategy, states: States) -> tuple[float, _Play]:
        """(rate, its curve): the rate that does best on a held-out fifth of a fold's training part; ties go to the first.

        A rate at which training diverges is out, and noted. Raises what the last one raised where all of them are.
        """
        train = self.judged.parts.folds[fold][0]
        material = self.material
        fitted, held = holdout(material.target[train], material.task, _HELD_SHARE, material.seed, blocks=material.blocks_of(train))
        inner, validation = train[fitted], train[held]
        # Validation scores of a regression are those of a target of scale 1.
        unit = float(material.target[inner].std()) if material.metric in ("mae", "rmse") else 1.0
        trains, best, failure = self.trains(strategy), None, None
        start = self.frozen(inner, validation) if trains and self.starts_solved(strategy) else None
        for rate in self.rates if trains else self.rates[:1]:
            try:
                model, seconds = self.fit(strategy, rate, inner, states, validation)
                if model.diverged_:
                    raise Diverged(model.diverged_)
            except Diverged as error:
                failure = error
                self.notes.append(f"rate {rate:g} of {name}, fold {fold + 1}: {error}")
                continue
            score = self.score(model, validation)
            spent = seconds - sum(epoch.seconds for epoch in model.history_) + self.extraction(strategy, len(inner))
            before = score if not model.history_ else math.nan if start is None else start
            play = _Play([before], [math.nan], [spent])
            for epoch in model.history_:
                play.scores.append(math.nan if epoch.score is None else signed(material.metric, epoch.score * unit))
                play.losses.append(epoch.loss)
                play.seconds.append(play.seconds[-1] + epoch.seconds)
            value = signed(material.metric, score)
            if best is None or value > best[0]:
                best = (value, rate, play)
        if best is None:
            assert failure is not None
            raise failure
        return best[1:]

    def fit(
        self, strategy: Strategy, rate: float, index: np.ndarray, states: States | None = None, validation: np.ndarray | None = None
    ) -> tuple[Transfer, float]:
        """(the strategy fitted on these items, seconds). validation: items for early stopping."""
        material, begun = self.material, time.perf_counter()
        backbone = material.backbones[self.backbone]
        model = Transfer(backbone, strategy, epochs=self.epochs, lr=rate, recipe=material.recipe, random_state=material.seed)
        model.fit_encoded(
            material.items(index),
            material.target[index],
            material.task,
            material.dataset.classes,
            blocks=material.blocks_of(index),
            validation=None if validation is None else (material.items(validation), material.target[validation]),
            metric=material.metric,
            others=material.others,
            states=states,
            progress=material.progress,
        )
        if interrupt.asked():
            raise interrupt.Interrupted
        return model, time.perf_counter() - begun

    def frozen(self, index: np.ndarray, judged: np.ndarray) -> float:
        """The score of a head on frozen features: where a strategy that starts from a solved head begins."""
        return self.score(self.fit(STRATEGIES["feature_extraction"], self.rates[0], index)[0], judged)

    def score(self, model: Transfer, index: np.ndarray) -> float:
        """The metric, in its own unit, on these items."""
        return signed(self.material.metric, self.material.better(model.predict_outputs(self.material.items(index)), index))


def _named(strategies: "Sequence[str | Strategy]", rates: Sequence[float]) -> dict[str, Strategy]:
    """Name -> strategy, each checked. Raises one GraftError that lists all that is wrong."""
    problems = []
    if AUTO in strategies:
        problems.append("compare: 'auto' chooses among strategies itself, expected strategies that are one plan each. Leave it out.")
    named: dict[str, Strategy] = {}
    for strategy in strategies:
        name = strategy if isinstance(strategy, str) else getattr(strategy, "__name__", repr(strategy))
        if strategy != AUTO and name in named and named[name] is not STRATEGIES.resolve(strategy):
            problems.append(f"compare: two strategies are called {name!r}, expected a name of its own for each. Rename one function.")
        elif strategy != AUTO:
            named[name] = STRATEGIES.resolve(strategy)
    if len(named) < 2 and not problems:
        problems.append(f"compare: got {len(named)} strategies, expected at least two different ones. See: graft list strategies")
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        problems.append(f"compare: rates are {tuple(rates)}, expected one or more finite numbers above 0, e.g. {RATES}.")
    raise_all(problems)
    return named


def _trains(strategy: Strategy, depth: int) -> bool:
    """Whether a layer group learns: a head alone is solved for, and no rate changes it."""
    plan = make_plan(strategy, depth, EPOCHS, RATES[0])
    return plan.reset or any(any(phase.lr) for phase in plan.phases)


def _pairs(judged: Judged, names: Sequence[str]) -> list[Pair]:
    both = list(itertools.combinations(names, 2))
    differences = [judged.difference(*pair) for pair in both]
    adjusted = holm([difference.p for difference in differences])
    return [
        Pair(*pair, one.effect, one.interval, one.p, float(p), "" if p >= _SURE else pair[one.effect < 0], one.n, one.test)
        for pair, one, p in zip(both, differences, adjusted, strict=True)
    ]


def _curve(plays: Sequence[_Play], metric: str) -> list[Point]:
    """Means over the folds, epoch by epoch; see `Point` for folds that ended early."""
    points = []
    for epoch in range(max(len(play.scores) for play in plays)):
        at = [min(epoch, len(play.scores) - 1) for play in plays]
        scores = [
            play.scores[epoch] if epoch < len(play.scores) else max(play.scores, key=lambda score: _rank(metric, score)) for play in plays
        ]
        losses = [play.losses[place] for play, place in zip(plays, at, strict=True)]
        if not all(map(math.isfinite, scores)):
            continue  # a random head before its first epoch was not scored
        lost = all(map(math.isfinite, losses))
        points.append(
            Point(
                epoch,
                float(np.mean(scores)),
                (min(scores), max(scores)),
                float(np.mean(losses)) if lost else None,
                (min(losses), max(losses)) if lost else None,
                float(np.mean([play.seconds[place] for play, place in zip(plays, at, strict=True)])),
            )
        )
    return points


def _rank(metric: str, score: float) -> float:
    """Greater is better; what was not scored comes last."""
    return signed(metric, score) if math.isfinite(score) else -math.inf
