"""What a study tells: its result, its predictions and its mistakes. Fits and judges nothing."""

import time
from dataclasses import asdict
from typing import Any

from graft.evaluate import confusion, per_class
from graft.items import open_image
from graft.outputs import cells, decision, words
from graft.records import Mistake, Result, Score
from graft.runs import versions
from graft.study.course import Course
from graft.study.judge import TRANSFER, Judged, most_wrong
from graft.study.material import Candidate, Material

_MISTAKES = 12


def result(course: Course, command: str) -> Result:
    """Every number of a study whose steps are done. command: what repeats it; made from the course where it is empty."""
    judged, material, dataset = course.judged, course.material, course.material.dataset
    score, (index, outputs) = judged.score(TRANSFER), judged.first_pass()
    target, names, task = material.target[index], list(material.backbones), material.task
    interrupted = f"interrupted by Ctrl-C: {'; '.join(course.missing)}; the same command goes on from here" if course.missing else ""
    call = f"graft.run({dataset.name!r}, backbone={names!r}, strategy={course.strategies!r}, seed={material.seed})"
    return Result(
        task=task,
        metric=material.metric,
        n_train=course.clock.n_train,
        n_test=len(index),
        score=score.value,
        interval=score.interval,
        backbone=course.chosen.backbone,
        strategy=course.chosen.strategy,
        seeds=[material.seed],
        seconds=course.earlier + time.perf_counter() - course.begun,
        controls=course.controls,
        verdict=asdict(course.verdict),
        candidates=course.choice.rows or _tried(course) or [_row(course.chosen, score, course.transfer_seconds)],
        ranking=course.ranking,
        findings=[asdict(finding) for finding in dataset.findings],
        versions=versions(),
        data=dataset.name,
        modality=dataset.modality,
        classes=list(dataset.classes),
        notes=[*([interrupted] if interrupted else []), *course.notes],
        judged_on=course.cut.words,
        metrics={name: {"score": each.value, "interval": each.interval} for name, each in judged.metrics().items()},
        per_class=per_class(target, outputs, dataset.classes) if task != "regression" else [],
        confusion=confusion(target, outputs).tolist() if task == "classification" else [],
        label_curve=course.curve,
        weights=[_weights(material, name) for name in names],
        plan={"groups": list(material.backbones[course.chosen.backbone].stage_names), **asdict(course.model.plan_)},
        keep=course.kept,
        pretraining=course.pretraining,
        compared=str(course.comparison or ""),
        command=command or call,
        interrupted=interrupted,
    )


def _tried(course: Course) -> list[dict[str, Any]]:
    """What `auto` tried on the way to the model."""
    climb = course.model.climb_
    return [_row(Candidate(course.chosen.backbone, rung.strategy), rung.score, rung.seconds) for rung in (climb.rungs if climb else ())]


def _row(candidate: Candidate, score: Score, seconds: float) -> dict[str, Any]:
    return {**asdict(candidate), "score": score.value, "interval": score.interval, "n": score.n, "seconds": seconds}


def predictions(judged: Judged) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of predictions.csv: every held-out answer, each with its fold."""
    material = judged.material
    dataset, classes = material.dataset, material.dataset.classes
    header = ["id", "fold", "label", "prediction", *(f"probability {name}" for name in classes)]
    rows = []
    for fold, ((_, test), outputs) in enumerate(zip(judged.parts.folds, judged.outputs[TRANSFER], strict=True)):
        for i, output in zip(test, outputs, strict=True):
            label = words(material.target[i], material.task, classes)
            rows.append([dataset.ids[i], fold, label, *cells(output, material.task, classes)])
    return header, rows


def mistakes(judged: Judged) -> list[Mistake]:
    """What the model was most wrong about, the surest first."""
    material, (index, outputs) = judged.material, judged.first_pass()
    dataset, task, classes = material.dataset, material.task, material.dataset.classes
    wrong = []
    for place in most_wrong(material, index, outputs)[:_MISTAKES]:
        item, output = dataset.items[int(index[place])], outputs[place]
        image = open_image(item, 160) if dataset.modality == "image" else None
        wrong.append(
            Mistake(
                id=str(dataset.ids[index[place]]),
                true=words(material.target[index[place]], task, classes),
                predicted=words(decision(output, task), task, classes),
                probability=float(output.max()) if task == "classification" else None,
                text=None if image else str(item),
                image=image,
            )
        )
    return wrong


def _weights(material: Material, name: str) -> dict[str, Any]:
    backbone = material.backbones[name]
    return {
        "backbone": name,
        "licence": backbone.card.get("licence", ""),
        "pretrained_on": backbone.card.get("pretrained_on", ""),
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "fingerprint": backbone.fingerprint(),
    }
