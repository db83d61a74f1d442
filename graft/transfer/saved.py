"""The folder of a fitted `Transfer`: its backbone, head, classes and plan, written and opened again. Trains nothing."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from graft.backbones import load_backbone
from graft.errors import GraftError
from graft.heads import LinearHead
from graft.records import Phase, Plan

if TYPE_CHECKING:
    from graft.transfer import Transfer

FORMAT = 1  # of the folder


def write(model: "Transfer", folder: Path) -> None:
    """Leave a fitted model in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    model.backbone_.save(folder / "backbone")
    # safetensors writes a transposed array's memory as it lies, and so another matrix.
    save_file({name: np.ascontiguousarray(array) for name, array in model.head_.to_arrays().items()}, folder / "head.safetensors")
    about = {
        "format": FORMAT,
        "task": model.task_,
        "classes": model.classes_.tolist(),
        "head": {"kind": model.head_.kind, "strength": model.head_.strength},
        "backbone": model.backbone_.name,
        "tuned": model.tuned_,
        "plan": asdict(model.plan_),
        "strategy": model.strategy_,
        "preprocessing": model.backbone_.preprocessing,
        "columns": model.columns_,
        "test_views": model.test_views,
        "unknown": model.unknown_,
        "feature_names": getattr(model, "feature_names_in_", np.empty(0)).tolist(),
    }
    (folder / "graft.json").write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")


def read(make: "Callable[..., Transfer]", folder: Path) -> "Transfer":
    """The model that a folder holds, see `Transfer.load`. make: the class."""
    if not (folder / "graft.json").is_file() and (folder / "model" / "graft.json").is_file():
        folder = folder / "model"
    if not (folder / "graft.json").is_file():
        what = "has no graft.json" if folder.is_dir() else "is no folder"
        raise GraftError(f"{folder} {what}, expected the folder of a run (`graft run DATA --out RUN`) or its model/.")
    about = json.loads((folder / "graft.json").read_text(encoding="utf-8"))
    if about["format"] > FORMAT:
        raise GraftError(f"{folder} is written in format {about['format']}, this graft reads up to {FORMAT}. Run: pip install -U graft")
    model = make(backbone=about["backbone"], task=about["task"], test_views=about.get("test_views", 1))
    model.backbone_ = load_backbone(f"checkpoint:{folder / 'backbone'}")
    model.backbone_.name = about["backbone"]
    model.head_ = LinearHead.from_arrays(load_file(folder / "head.safetensors"))
    model.columns_, model.unknown_ = about["columns"], about.get("unknown", 0.0)
    if model.backbone_.modality == "row":
        model.n_features_in_ = model.backbone_.width
    if about.get("feature_names"):
        model.feature_names_in_ = np.array(about["feature_names"], dtype=object)
    model.task_, model.tuned_, model.history_ = about["task"], about["tuned"], []
    model.classes_ = np.asarray(about["classes"], dtype=None if about["classes"] else str)
    plan = about["plan"]
    phases = tuple(Phase(**{**phase, "lr": tuple(phase["lr"])}) for phase in plan["phases"])
    losses = tuple((name, strength) for name, strength in plan.get("losses", ()))
    model.plan_ = Plan(**{**plan, "phases": phases, "losses": losses})
    model.strategy_, model.climb_ = about.get("strategy", "plan"), None
    return model
