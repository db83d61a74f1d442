"""An adaptation from data on disk to a folder: `graft adapt`. Loads, calls, writes; decides nothing."""

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graft import interrupt
from graft.adapt import tell
from graft.adapt.course import AUTO, Asked, Outcome, adapt
from graft.adapt.estimator import UNKNOWN, known_labels, shares
from graft.adapt.guard import Known
from graft.adapt.predict import recorded
from graft.adapt.sides import Sides, Source, both, without_source
from graft.backbones import load_backbone, shortlist
from graft.budget import budget_seconds
from graft.data import Dataset, load, load_unlabelled
from graft.data import check as checked_data
from graft.errors import GraftError
from graft.items import open_image
from graft.outputs import cells
from graft.records import Adaptation, Event, Mistake, Plan, Recipe
from graft.report import adaptation_card, write_adaptation
from graft.runs import Log, folder, versions
from graft.transfer import EPOCHS, Transfer

Progress = Callable[[Event], None] | None


@dataclass
class Adapted:
    """What `adapt_run` found. record: every number. model: fitted, to ship. label_next: the items to label next."""

    record: Adaptation
    model: Transfer
    outcome: Outcome
    label_next: list[Mistake]

    def report(self, path: str | Path) -> None:
        """Write the page, one self-contained HTML file."""
        write_adaptation(self.record, path, label_next=self.label_next)


def adapt_run(
    source: Any,
    target: Any,
    *,
    out: str | Path | None = None,
    source_data: Any = None,
    backbone: str | None = None,
    strategy: str = "feature_extraction",
    methods: str | Sequence[str] = AUTO,
    domain: str | None = None,
    target_labels: str | Path | Mapping[str, Any] | None = None,
    unknown: float = 0.0,
    guard: bool = True,
    epochs: int = EPOCHS,
    budget: str | float | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    roles: Mapping[str, Any] | None = None,
    progress: Progress = None,
    command: str = "",
) -> Adapted:
    """Adapt to a target without labels, and leave a folder: page, numbers, model, predictions of the target.

    source: labelled data as `graft.load` takes it, or the folder of a run, whose model is then adapted; source_data: in that case the
    labelled data that it was fitted on, where they are at hand. target: data without labels; what labels it has are not read.
    backbone, strategy: how the source-only model is made; the first of the shortlist, frozen, unless given. methods, guard, budget,
    epochs, recipe: see `Adapt`. domain: column of the source that names its domains. target_labels: id of a target item -> its label, or
    a CSV with the columns id and label. unknown: predictions below this probability are written as "unknown". roles: for `load` (label,
    text, image, split, group, task). out: the folder.

    Raises GraftError for what the caller can mend.
    """
    begun = time.perf_counter()
    if not 0 <= unknown < 1:
        raise GraftError(f"unknown is {unknown}, expected a probability from 0 to below 1; 0 rejects nothing.")
    seconds = None if budget is None else budget_seconds(budget)
    path = None if out is None else folder.prepare(out)
    with interrupt.listening(), folder.held(path) if path else nullcontext():
        log = Log(progress)
        fitted = Transfer.load(source) if _is_run(source) else None
        labelled = source if fitted is None else source_data
        dataset = None if labelled is None else _labelled(labelled, domain, dict(roles or {}), log)
        model = _source_only(fitted, dataset, backbone, strategy, epochs, recipe, seed)
        others = _unlabelled(target, fitted, dataset)
        config = {
            "source": str(source),
            "target": others.name,
            "items": [0 if dataset is None else len(dataset), len(others)],
            "methods": list([methods] if isinstance(methods, str) else methods),
            "strategy": strategy,
            "seed": seed,
            "budget_seconds": seconds,
            "unknown": unknown,
            "guard": guard,
            "versions": versions(),
        }
        if path:
            log.open(path / "log.txt", folder.begin(path, config))
        log.note(f"{others.name}: {len(others)} items without labels")
        sides = _sides(model, dataset, domain, others, seed, path, source, log)
        known, foreign = _known(sides, others, target_labels)
        asked = Asked(methods, seconds, epochs, recipe=recipe or Recipe(), guard=guard)
        outcome = adapt(sides, asked, recorded(), known, log)
        record = tell.record(
            outcome,
            source=dataset.name if dataset else str(source),
            target=others.name,
            names=others.ids,
            notes=[*(dataset.notes if dataset else ()), *others.notes, *foreign],
            findings=[asdict(finding) for finding in (dataset.findings if dataset else ())],
            domains=_domain_names(dataset, domain),
            modality=model.backbone_.modality,
            command=command,
            seconds=time.perf_counter() - begun,
            versions=versions(),
        )
        found = Adapted(record, outcome.model, outcome, [_shown(others, row) for row in record.label_next])
        if path:
            header, rows = predictions(outcome, others, unknown)
            folder.write(path, record.to_dict(), found.model, adaptation_card(record), header, rows, config, found.report)
            folder.finish(path)
        return found


def _is_run(source: Any) -> bool:
    return isinstance(source, str | Path) and any((Path(source) / name).is_file() for name in ("graft.json", "model/graft.json"))


def _labelled(data: Any, domain: str | None, roles: dict[str, Any], log: Log) -> Dataset:
    if domain is not None:
        if roles.get("group"):
            raise GraftError(f"both a group ({roles['group']}) and a domain ({domain}) were named, expected one of them.")
        roles["group"] = domain
    return checked_data(data if isinstance(data, Dataset) else load(data, **roles), progress=log)


def _source_only(
    fitted: Transfer | None,
    dataset: Dataset | None,
    backbone: str | None,
    strategy: str,
    epochs: int,
    recipe: Recipe | None,
    seed: int,
) -> Transfer:
    """The model to be fitted on the source; the fitted one itself where there is no source."""
    if fitted is not None and dataset is None:
        return fitted
    if fitted is not None:
        return Transfer(fitted.backbone_, Plan((), tap=fitted.plan_.tap), random_state=seed)
    assert dataset is not None
    loaded = load_backbone(backbone or shortlist(dataset.modality)[0])
    return Transfer(loaded, strategy, epochs=epochs, recipe=recipe, random_state=seed)


def _unlabelled(target: Any, fitted: Transfer | None, dataset: Dataset | None) -> Dataset:
    """The target, read as the source is."""
    if isinstance(target, Dataset):
        return target
    if dataset is not None:
        columns = {name: column.kind for name, column in dataset.columns.items()}
        return load_unlabelled(target, modality=dataset.modality, columns=columns)
    assert fitted is not None
    reads = "table" if {"number", "category"} & set(fitted.columns_.values()) else fitted.backbone_.modality
    return load_unlabelled(target, modality=reads, columns=fitted.columns_ or None)


def _sides(
    model: Transfer, dataset: Dataset | None, domain: str | None, others: Dataset, seed: int, path: Path | None, run: Any, log: Log
) -> Sides:
    if dataset is None:
        return without_source(model, shares(model, _prior_of(run, model)), others.items, seed, log)
    assert dataset.task is not None and dataset.target is not None  # what `load` gives is labelled
    domains, blocks = None, dataset.blocks()
    if domain is not None and dataset.group is not None:
        domains, blocks = np.unique(dataset.group, return_inverse=True)[1], dataset.cluster
    return both(model, Source(dataset.items, dataset.target, dataset.task, dataset.classes, domains, blocks), others.items, seed, log)


def _prior_of(run: Any, model: Transfer) -> list[float] | None:
    """Shares of the classes among what the run was judged on; None where its numbers are not at hand."""
    path = Path(run) / "result.json"
    if not path.is_file():
        return None
    counts = {row["class"]: row["n"] for row in json.loads(path.read_text(encoding="utf-8")).get("per_class", ())}
    return [counts.get(str(name), 0) for name in model.classes_] if counts else None


def _domain_names(dataset: Dataset | None, domain: str | None) -> list[str]:
    return [] if domain is None or dataset is None or dataset.group is None else np.unique(dataset.group).tolist()


def _known(sides: Sides, others: Dataset, given: str | Path | Mapping[str, Any] | None) -> tuple[Known | None, list[str]]:
    """The given target labels by place, and a note on those of classes that the source does not know, which are left out."""
    if given is None:
        return None, []
    if not isinstance(given, Mapping):
        given = _read_labels(Path(given))
    places = {str(name): place for place, name in enumerate(others.ids)}
    if strange := [name for name in given if str(name) not in places]:
        raise GraftError(
            f"target labels: {len(strange)} of {len(given)} ids are none of the target's, e.g. {strange[0]!r}, expected ids as in "
            f"predictions.csv, e.g. {others.ids[0]!r}."
        )
    return known_labels(sides.model, {places[str(name)]: label for name, label in given.items()}, len(others))


def _read_labels(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise GraftError(f"{path}: there is no such file, expected a CSV with the columns id and label.")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"id", "label"} <= set(reader.fieldnames or ()):
            raise GraftError(f"{path}: has the columns {', '.join(reader.fieldnames or ())}, expected id and label.")
        # A row without a label is one that is still to be labelled.
        return {row["id"]: row["label"] for row in reader if row["label"]}


def predictions(outcome: Outcome, others: Dataset, unknown: float) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of predictions.csv: every target item."""
    model = outcome.model
    classes = [] if model.task_ == "regression" else [str(name) for name in model.classes_]
    outputs = model.head_.outputs(outcome.sides.target_rows if outcome.chosen.model is None else outcome.chosen.target)
    rows = []
    for name, output in zip(others.ids, outputs, strict=True):
        row = [name, *cells(output, model.task_, classes)]
        if unknown and classes and output.max() < unknown:
            row[1] = UNKNOWN
        rows.append(row)
    return ["id", "prediction", *(f"probability {name}" for name in classes)], rows


def _shown(others: Dataset, row: Mapping[str, Any]) -> Mistake:
    """An item to label next, for the page."""
    item = others.items[row["place"]]
    image = open_image(item, 160) if others.modality == "image" else None
    text = None if image else str(item)
    return Mistake(row["id"], true="", predicted=row["predicted"], probability=row["probability"], text=text, image=image)
