"""What a study tells: the rows of its result, its predictions and mistakes, in words. Fits and judges nothing."""

import importlib.metadata
import platform
from dataclasses import asdict
from typing import Any

import numpy as np

from graft import __version__
from graft.items import open_image
from graft.outputs import cells, decision, words
from graft.records import Mistake
from graft.study.controls import SCRATCH, Classical, Scratch
from graft.study.judge import TRANSFER, Judged, most_wrong
from graft.study.material import Candidate, Material
from graft.transfer import Transfer

_MISTAKES = 12
_LIBRARIES = ("numpy", "scikit-learn", "torch", "timm", "transformers", "pandas", "pyarrow", "pillow")


def control_rows(judged: Judged, classical: Classical, scratch: Scratch) -> dict[str, dict[str, Any]]:
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


def tried(model: Transfer, chosen: Candidate) -> list[dict[str, Any]]:
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


def judged_row(candidate: Candidate, judged: Judged, seconds: float) -> dict[str, Any]:
    score = judged.score(TRANSFER)
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


def mistakes(material: Material, index: np.ndarray, outputs: np.ndarray) -> list[Mistake]:
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


def weights(material: Material, name: str) -> dict[str, Any]:
    backbone = material.backbones[name]
    return {
        "backbone": name,
        "licence": backbone.card.get("licence", ""),
        "pretrained_on": backbone.card.get("pretrained_on", ""),
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "fingerprint": backbone.fingerprint(),
    }


def versions() -> dict[str, str]:
    found = {"graft": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found
