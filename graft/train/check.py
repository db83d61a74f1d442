"""What `train` is called with, checked before any time is spent. Heavy: torch, to ask the head how many outputs it has."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones.base import Backbone
from graft.errors import GraftError, near_miss, raise_all
from graft.features import device_of
from graft.losses import LOSSES
from graft.records import PRECISIONS, TASKS, Plan, Recipe, Task
from graft.strategies import check_plan
from graft.train.loop import Labelled


def n_outputs(backbone: Backbone, head: nn.Module) -> int:
    """How many numbers the head gives for an item."""
    head.eval()
    with torch.no_grad():
        return head(torch.zeros(1, backbone.width, device=device_of(backbone))).shape[1]


def check(
    backbone: Backbone,
    head: nn.Module,
    plan: Plan,
    recipe: Recipe,
    items: Sequence[Any],
    y: np.ndarray,
    task: Task,
    classes: int,
    validation: Labelled | None,
) -> None:
    """Raise one GraftError that lists all that does not fit."""
    if task not in TASKS:
        raise GraftError(f"train: task is {task!r}, expected one of {', '.join(TASKS)}.{near_miss(task, TASKS)}")
    check_plan(plan, backbone.depth, f"train {backbone.name}")
    problems = [f"train: {refusal}" for name, _ in plan.losses if (refusal := LOSSES[name].refusal(backbone, head, task, plan))]
    for where, some, target in [("training", items, y)] + ([("validation", *validation)] if validation else []):
        if not len(some):
            problems.append(f"train: 0 {where} items, expected at least 1.")
        elif len(some) != len(target):
            problems.append(f"train: {len(some)} {where} items and {len(target)} targets, expected one target an item.")
        elif task == "classification" and (np.min(target) < 0 or np.max(target) >= classes):
            problems.append(f"train: {where} targets run from {np.min(target)} to {np.max(target)}, expected 0 to {classes - 1}")
            problems[-1] += f" as the head has {classes} outputs. Encode the classes, or give the head one output a class."
        elif task == "multilabel" and np.shape(target) != (len(some), classes):
            problems.append(
                f"train: {where} targets have shape {np.shape(target)}, expected ({len(some)}, {classes}): one column a head output."
            )
        elif task == "regression" and (classes != 1 or np.ndim(target) != 1):
            problems.append(f"train: {classes} head outputs and {np.ndim(target)}-d {where} targets, expected 1 output and 1-d targets.")
    if recipe.batch_size < 1:
        problems.append(f"train: batch_size is {recipe.batch_size}, expected at least 1.")
    if recipe.items_per_epoch is not None and recipe.items_per_epoch < 1:
        problems.append(f"train: items_per_epoch is {recipe.items_per_epoch}, expected at least 1.")
    if recipe.patience is not None and (recipe.patience < 1 or not validation):
        problems.append(
            f"train: patience is {recipe.patience} {'with' if validation else 'without'} a validation part, expected at least 1, with one."
        )
    class_weight = recipe.class_weight
    if class_weight is not None and task == "regression":
        problems.append("train: class_weight with a regression, expected None as there are no classes.")
    elif isinstance(class_weight, str) and class_weight != "balanced":
        problems.append(f"train: class_weight is {class_weight!r}, expected 'balanced', one number a class, or None.")
    elif class_weight is not None and not isinstance(class_weight, str) and np.shape(class_weight) != (classes,):
        problems.append(f"train: class_weight has shape {np.shape(class_weight)}, expected ({classes},): one number a class.")
    if recipe.precision not in PRECISIONS:
        problems.append(f"train: precision is {recipe.precision!r}, expected one of {', '.join(PRECISIONS)}.")
        problems[-1] += near_miss(recipe.precision, PRECISIONS)
    raise_all(problems)
