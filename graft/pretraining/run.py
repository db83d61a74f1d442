"""A pretraining from data on disk to a folder that is a backbone: `graft pretrain`. Loads, calls, writes. Heavy: torch."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graft import interrupt, processes
from graft.backbones import load_backbone
from graft.backbones.base import Backbone
from graft.budget import budget_seconds
from graft.errors import GraftError
from graft.features import content_keys
from graft.pretraining import methods
from graft.pretraining.course import Course, Lesson
from graft.pretraining.material import Material, read
from graft.pretraining.methods import SUPERVISED
from graft.pretraining.start import begun_with, refuse_other_items
from graft.recipes import settings_of
from graft.records import Event, Plan, Pretraining, Recipe
from graft.report import write_pretraining
from graft.runs import Log, folder, versions

Progress = Callable[[Event], None] | None


@dataclass
class Pretrained:
    """What `pretrain` made. backbone: as `checkpoint:FOLDER` loads it. record: every number."""

    backbone: Backbone
    record: Pretraining


def pretrain(
    data: Any,
    *,
    out: str | Path | None = None,
    start: str | None = None,
    method: str | None = None,
    teachers: str | Sequence[str] = (),
    label: str | None = None,
    epochs: int | None = None,
    budget: str | float | None = None,
    seed: int = 0,
    recipe: Recipe | Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    judge: Any = None,
    roles: Mapping[str, Any] | None = None,
    progress: Progress = None,
    command: str = "",
) -> Pretrained:
    """Make a backbone from items without labels, or a better one from one there is.

    data: whatever `graft.load` takes, with labels or without; a list of images or texts; signals (n, channels, time), an array or an .npy
    or .npz file. out: the folder that becomes the backbone, `checkpoint:OUT`. start: the backbone to begin with, "untrained:..." for random
    weights; a default for the kind of items unless given. method: a pretext (`graft list pretexts`) or "supervised"; unless given the
    default of the kind of items, "distillation" with teachers, "supervised" with a label. teachers: backbones to learn from. label:
    column to learn from, or with another method to look at. epochs: passes over the items; budget: time instead, "20m" or seconds; the
    method's own number of epochs unless one is given. recipe: how it is played, or the fields in which that differs from the method's own
    recipe. plan: which rates and further losses, in place of the method's own and of a number of epochs. judge: labelled data that tell
    whether it helped. roles: for `load` (text, image).

    Labels that are there are not learned from, unless asked: some of those items are held out, and a probe on them tells whether it
    helped. Items that cannot be read are named in the findings and set aside. A killed run goes on with the same call, and ends with the
    same numbers; the first Ctrl-C leaves what is learned by then, and the same call goes on.
    Raises GraftError for what the caller can mend.
    """
    begun = time.perf_counter()
    seconds = None if budget is None else budget_seconds(budget)
    if seconds is not None and epochs is not None:
        raise GraftError(f"a budget ({budget}) and {epochs} epochs were named, expected one of them: a budget says how many epochs fit.")
    if plan is not None and (epochs is not None or budget is not None):
        raise GraftError("epochs or a budget were named beside a plan, expected a plan alone: its phases have their epochs.")
    if epochs is not None and epochs < 1:
        raise GraftError(f"epochs is {epochs}, expected at least 1.")
    path = None if out is None else folder.prepare(out)
    with interrupt.listening() if processes.count() == 1 else nullcontext(), folder.held(path) if path else nullcontext():
        log = Log(progress)
        learns_labels = method == SUPERVISED or (method is None and label is not None and not teachers)
        material = read(data, label=label, learns_labels=learns_labels, roles=roles or {}, judge=judge, seed=seed, log=log)
        backbone = begun_with(start, material, seed)
        taught_by = [load_backbone(name) for name in ([teachers] if isinstance(teachers, str) else teachers)]
        for teacher in taught_by:
            refuse_other_items(teacher, material, "the teacher")
        name = methods.chosen(method, backbone, labelled=label is not None, teachers=taught_by)
        if plan is not None:
            methods.refuse_other_plan(plan, name)
        lesson = Lesson(material, name, _recipe(name, recipe), taught_by, seed, plan)
        config = {
            "data": material.name,
            "items": len(material.items),
            "data_digest": _digest(material, backbone.modality) if path else "",
            "start": backbone.name,
            "start_digest": backbone.fingerprint(),
            "method": name,
            "teachers": [teacher.fingerprint() for teacher in taught_by],
            "epochs": epochs,
            "budget_seconds": seconds,
            "judged_on": None if material.judged is None else [material.judged.data, len(material.judged.held_target)],
            "recipe": settings_of(lesson.recipe),
            "plan": None if plan is None else json.loads(json.dumps(asdict(plan))),
            "seed": seed,
            "versions": versions(),
        }
        if path:
            goes_on = processes.from_first(folder.begin(path, config) if processes.first() else False)
            begun -= log.open(path / "log.txt", goes_on)
            if goes_on:
                log.say("going on with a pretraining that was interrupted")
        log.note(f"{material.name}: {len(material.items)} {material.modality}s to learn from, {name} from {backbone.name}")
        with folder.taken_back(path):
            course = Course(lesson, backbone, path, log, begun)
            with course.ready():
                course.plan_epochs(epochs, seconds)
                course.play()
            record = course.record(command)
        if path and processes.first():
            folder.write_backbone(
                path, record.to_dict(), lambda made: course.save(made, record), lambda page: write_pretraining(record, page)
            )
            if not record.interrupted:
                folder.finish(path)
            log.note(record.interrupted or f"done in {record.seconds:.0f} s")
        return Pretrained(backbone, record)


def _recipe(method: str, given: Recipe | Mapping[str, Any] | None) -> Recipe:
    return given if isinstance(given, Recipe) else replace(methods.recipe_of(method), **(given or {}))


def _digest(material: Material, modality: str) -> str:
    """Of the content of what is learned from, and of its labels where they are."""
    digest = hashlib.blake2b(content_keys(material.items, modality).tobytes(), digest_size=16)
    if material.target is not None:
        digest.update(np.ascontiguousarray(material.target).tobytes())
    return digest.hexdigest()
