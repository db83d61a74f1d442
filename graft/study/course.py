"""The course of a study, step by step: plan the time, rank, afford, choose, judge, control, look back, compare. Writes no result."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graft import interrupt, processes
from graft.auto import AUTO
from graft.data import Dataset
from graft.errors import Diverged
from graft.recipes import settings_of
from graft.records import Recipe, Verdict
from graft.runs import Log
from graft.strategies import STRATEGIES
from graft.study.comparison import RATES, Comparison, Contest
from graft.study.controls import SCRATCH, Classical, Scratch
from graft.study.curve import label_curve
from graft.study.judge import TRANSFER, Judged, Parts, judge_classical, judge_scratch, judge_transfer, parts
from graft.study.keep import forgetting
from graft.study.material import Candidate, Choice, Material
from graft.study.start import gain
from graft.study.times import Clock, affordable
from graft.transfer import EPOCHS, Transfer


@dataclass
class Course:
    """A study under way. Each step is called once, in the order of the methods, and leaves what the next ones need.

    judged: the data, and who is judged on what. strategies: those that compete. budget: seconds, None without a limit.
    begun: by `time.perf_counter`. notes: choices made for the user, in words; steps add to them.
    """

    judged: Judged
    strategies: list[str]
    budget: float | None
    begun: float
    notes: list[str]
    log: Log
    earlier: float = 0.0  # seconds that an interrupted run has spent
    missing: list[str] = field(default_factory=list)  # what Ctrl-C left out, in words
    # Set by plan_time,
    clock: Clock = field(init=False)
    # by rank,
    ranking: list[dict[str, Any]] = field(init=False)
    ranking_begun: float = field(init=False)
    # by afford,
    classical: Classical = field(init=False)
    # by choose,
    choice: Choice = field(init=False)
    model: Transfer = field(init=False)
    chosen: Candidate = field(init=False)
    # by judge,
    transfer_seconds: float = field(init=False)
    # by control,
    scratch: Scratch = field(init=False)
    controls: dict[str, dict[str, Any]] = field(init=False)
    curve: dict[str, Any] = field(init=False)
    verdict: Verdict = field(init=False)
    # by look_back,
    kept: dict[str, Any] = field(init=False)
    pretraining: dict[str, Any] = field(init=False)
    # and by compare.
    comparison: Comparison | None = None

    @property
    def material(self) -> Material:
        return self.judged.material

    @property
    def cut(self) -> Parts:
        return self.judged.parts

    @property
    def settings(self) -> dict[str, Any]:
        """What decisions about time are remembered by; steps add to it."""
        return self.clock.settings

    def plan_time(self) -> None:
        """Say what the time will go to. Raises GraftError where the budget allows no study."""
        material, folds = self.material, self.cut.folds
        settings = {
            "data": material.dataset.name,
            "items": len(material.dataset),
            "task": material.task,
            "metric": material.metric,
            "backbones": list(material.backbones),
            "strategies": self.strategies,
            "seed": material.seed,
            "budget_seconds": self.budget,
            "folds": len(folds),
            "recipe": settings_of(material.recipe or Recipe()),
        }
        n_train, n_fits = round(np.mean([len(train) for train, _ in folds])), len(folds) + (not self.cut.one_test)
        self.clock = Clock(material, self.budget, self.begun, n_train, n_fits, settings, self.earlier)
        self.clock.refuse_too_little()
        self.log.say(self.clock.words(plays=len(RATES) + 1))

    def rank(self) -> None:
        """Backbones by their frozen features."""
        self.ranking_begun = self.material.now()
        self.ranking = self.material.rank(self.cut.train)
        self.log.note("ranking: " + ", ".join(f"{row['backbone']} {row['score']:.3f}" for row in self.ranking))

    def afford(self) -> None:
        """Keep the strategies that the budget allows; judge on repeated folds where none of them retrains."""
        material = self.material
        self.classical = Classical(material)
        # The first fold, which repeated folds begin with too, tells what the others will take.
        self.judged.outputs[self.classical.name] = [self.classical.fit_and_predict(*self.cut.folds[0])]
        if AUTO in self.strategies:
            shared = sum(row["seconds"] for row in self.ranking)
            material.budget = self.budget
            material.fit_seconds = self.clock.fit_seconds(shared, self.classical.seconds * len(self.cut.folds))
        # By a clock, so by the first process's.
        self.strategies, dropped = processes.from_first(affordable(self.clock, self.strategies))
        if dropped:
            self.notes.append(f"left out, as the budget of {self.budget:.0f} s does not allow them: {', '.join(dropped)}")
        if not any(material.trains(Candidate(name, strategy)) for name in material.backbones for strategy in self.strategies):
            self.judged.parts = parts(material.dataset, material.seed, repeat=True, budgeted=self.budget is not None)
        self.notes.append(f"judged on: {self.cut.words}")
        self.settings.update(judged_on=self.cut.words, strategies=self.strategies)

    def choose(self) -> None:
        """The best candidate by the training items, fitted on all of them: the model to ship."""
        material = self.material
        self.choice = material.choose(self.cut.train, self.strategies, self.ranking)
        if interrupt.asked() and len(self.strategies) > 1:
            compared = [row["strategy"] for row in self.choice.rows] or [self.choice.candidate.strategy]
            if dropped := [name for name in self.strategies if name not in compared]:
                self.missing.append(f"not compared: {', '.join(dropped)}")
            self.strategies = compared
        before = interrupt.asked()
        self.model = material.fit(self.choice.candidate, self.cut.train)
        if interrupt.asked() and not before:
            if self.cut.one_test:
                self.missing.append("the model was trained for a part of its epochs, and is judged as it is")
            else:
                # The folds are played whole, and stand for a model that is.
                self.model = material.fit(self.choice.candidate, self.cut.train)
        self.model.columns_ = {name: column.kind for name, column in material.dataset.columns.items()}
        self.chosen = Candidate(self.choice.candidate.backbone, self.model.strategy_)

    def judge(self) -> None:
        """Answers for the items that are judged: of the model on a single test part, else of what each fold chooses."""
        material = self.material
        n_folds = len(self.cut.folds)
        if self.cut.one_test:
            self.judged.outputs[TRANSFER] = [self.model.predict_outputs(material.items(self.cut.folds[0][1]))]
            self.judged.choices = [self.choice]
        else:
            judge_transfer(self.judged, self.strategies)
        if (n_judged := len(self.cut.folds)) < n_folds:
            self.missing.append(f"judged on {n_judged} of {n_folds} folds")
        self.log.note(f"chosen: {self.chosen.backbone}, {self.chosen.strategy}")
        if self.model.climb_:
            self.notes.append(f"auto {self.model.climb_.why}")
        spent = material.now() - self.ranking_begun - self.classical.seconds
        self.transfer_seconds = spent + sum(material.extraction_seconds.values()) - material.extracting

    def control(self) -> None:
        """The controls on the same folds, the label curve, and the verdict against the better control."""
        plan = self.clock.scratch_plan(self.chosen.backbone, self.transfer_seconds, len(self.cut.folds))
        self.settings["from_scratch"] = asdict(plan)
        judge_classical(self.judged, self.classical)
        self.scratch = Scratch(self.clock, self.chosen.backbone, plan)
        judge_scratch(self.judged, self.scratch)
        from_scratch = self._control_row(SCRATCH, self.scratch.seconds, self.scratch.note())
        self.controls = {
            SCRATCH: {**from_scratch, "transfer_seconds": self.transfer_seconds},
            self.classical.name: self._control_row(self.classical.name, self.classical.seconds, ""),
        }
        self.log.note("controls: " + ", ".join(f"{name} {row['score']:.3f}" for name, row in self.controls.items()))
        self.curve = {} if interrupt.asked() else label_curve(self.judged, self.chosen, self.classical, self.scratch, self.clock)
        if interrupt.asked():
            self.missing.append(f"from-scratch control with {self.scratch.seconds:.0f} of the {plan.seconds * plan.folds:.0f} s it is due")
            if not self.curve:
                self.missing.append("no label curve")
        elif not self.curve and self.budget is not None:
            self.notes.append("no label curve: the budget does not reach for training on fewer labels as well")
        self.verdict = self.judged.verdict(self.judged.better_control())
        self.log.note(str(self.verdict))

    def look_back(self, source: Dataset | None) -> None:
        """What the model forgot of the source task, where one was named; what a pretraining gave, where its card says where it began.

        source: the items of it that are judged, none of those that are replayed.
        """
        start = self.material.backbones[self.chosen.backbone]
        self.pretraining = gain(self.material, self.chosen.backbone, self.cut)
        if self.pretraining:
            self.log.note(self.pretraining["sentence"])
        told: dict[str, Any] = {"seed": self.material.seed, "replayed": len(self.material.others), "progress": self.log}
        self.kept = {} if source is None else forgetting(source, start, self.model, **told)
        if self.kept:
            self.log.note(self.kept["sentence"])

    def _control_row(self, name: str, seconds: float, note: str) -> dict[str, Any]:
        score = self.judged.score(name)
        folds = len(self.judged.outputs[name])
        return {"score": score.value, "interval": score.interval, "seconds": seconds, "folds": folds, "note": note}

    def compare(self, command: str, source: Dataset | None = None) -> None:
        """Strategies that were named, beside each other at their best rates, on the folds that were judged: told, nothing is chosen by it.

        command: what repeats the run. source: as for `look_back`. What keeps from comparing is noted.
        """
        named = {name: STRATEGIES[name] for name in self.strategies if name != AUTO}
        if len(named) < 2:
            return
        contest = Contest(self.material, self.chosen.backbone, Judged(self.material, self.cut), RATES, EPOCHS, source=source)
        if obstacle := contest.obstacle(named, self.budget, self.begun - self.earlier):
            self.notes.append(f"strategies were not set beside each other: {obstacle}")
            return
        try:
            self.comparison = contest.compare(named, command, time.perf_counter())
            self.log.note(f"strategies beside each other: {self.comparison}")
        except Diverged as error:
            self.notes.append(f"strategies were not set beside each other: {error}")
        except interrupt.Interrupted:
            self.missing.append("no strategies beside each other")
