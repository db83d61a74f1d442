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
from graft.pretext import PRETEXTS
from graft.records import BATCH_NORMS, PRECISIONS, SAMPLERS, SCHEDULES, TASKS, Plan, Recipe, Task
from graft.strategies import check_plan
from graft.train.added import loss_of
from graft.train.augment import MAGNITUDE
from graft.train.feeds import Lessons
from graft.train.tasks import Loss, class_weights, task_loss


def n_outputs(backbone: Backbone, head: nn.Module) -> int:
    """How many numbers the head gives for an item."""
    head.eval()
    with torch.no_grad():
        return head(torch.zeros(1, backbone.width, device=device_of(backbone))).shape[1]


def checked_loss(
    backbone: Backbone, head: nn.Module, plan: Plan, recipe: Recipe, lessons: Lessons, task: Task
) -> tuple[Loss, torch.Tensor | None]:
    """The loss that training goes by, and the weight of each class in it. Raises one GraftError that lists all that does not fit."""
    items, y, validation, others = lessons[:4]
    classes = n_outputs(backbone, head.to(device_of(backbone)))
    if task not in TASKS:
        raise GraftError(f"train: task is {task!r}, expected one of {', '.join(TASKS)}.{near_miss(task, TASKS)}")
    check_plan(plan, backbone.depth, f"train {backbone.name}")
    problems = [f"train: {refusal}" for name, _ in plan.losses if (refusal := loss_of(name).refusal(backbone, head, task, plan))]
    problems += other_problems(backbone, plan, recipe, others, lessons.teachers)
    for where, some, target in [("training", items, y)] + ([("validation", *validation)] if validation else []):
        if not len(some) and where == "training" and not plan.supervised and not len(target):
            continue
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
    raise_all(problems + recipe_problems(recipe, task, backbone, plan, validated=bool(validation)))
    weight = class_weights(task, y, classes, recipe.class_weight, device_of(backbone)) if plan.supervised else None
    return task_loss(task, weight, recipe.smoothing), weight


def other_problems(backbone: Backbone, plan: Plan, recipe: Recipe, others: Sequence[Any], teachers: Sequence[Backbone]) -> list[str]:
    """What is wrong with a plan that learns on unlabelled items of another domain, a message each."""
    problems, known = [], [(name, loss_of(name)) for name, _ in plan.losses]
    if not len(others):
        asking = [f"the loss {name}" for name, loss in known if loss.needs_others]
        asking += [] if plan.supervised else ["a plan that is not supervised"]
        if asking:
            problems.append(
                f"train: 0 others for {' and '.join(asking)}, expected unlabelled items of the other domain, for replay those of the "
            )
            problems[-1] += "source task. Pass others=[...], or take a plan that learns from labels alone, e.g. 'full'."
    for name, loss in known:
        if loss.needs_teachers and not teachers:
            problems.append(f"train: 0 teachers for the loss {name}, expected at least one network to learn from. Pass teachers=[...].")
        if not plan.supervised and not loss.alone:
            problems.append(f"train: the loss {name} in a plan that is not supervised, expected one that can do without labelled items: ")
            names = sorted(other for other in (*LOSSES, *PRETEXTS) if loss_of(other).alone)
            problems[-1] += f"{', '.join(names)}. Or let the plan be supervised."
        if loss.two_views and backbone.modality not in ("image", "text"):
            problems.append(
                f"train: the loss {name} with {backbone.name}, expected images or texts: {backbone.modality}s have no second view."
            )
    alone = [name for name, loss in known if loss.prepares]
    if alone and sum(loss.needs_others for _, loss in known) > 1:
        problems.append(f"train: the loss {alone[0]} beside others that read unlabelled items, expected it alone: it prepares its batches")
        problems[-1] += " itself. Leave one of them out."
    beside = [name for name, loss in known if loss.needs_others and not loss.raw]
    if beside and any(loss.raw for _, loss in known):
        raw = ", ".join(name for name, loss in known if loss.raw)
        problems.append(f"train: the losses {raw} beside {', '.join(beside)}, expected one kind: the first read what they make of a batch,")
        problems[-1] += " the others what training sees of it. Leave one of them out."
    if not plan.supervised:
        for name in ("class_weight", "smoothing"):
            if getattr(recipe, name):
                problems.append(
                    f"train: {name} is {getattr(recipe, name)!r} with a plan that is not supervised, expected none: no label is read."
                )
        if recipe.sampler == "balanced":
            problems.append("train: sampler is 'balanced' with a plan that is not supervised, expected 'shuffled': no label is read.")
    return problems


def recipe_problems(recipe: Recipe, task: Task, backbone: Backbone, plan: Plan, *, validated: bool) -> list[str]:
    """What is wrong with a recipe for this task, backbone and plan, a message each. validated: there is a validation part."""
    problems = []
    for name, allowed in (("precision", PRECISIONS), ("batch_norm", BATCH_NORMS), ("schedule", SCHEDULES), ("sampler", SAMPLERS)):
        value = getattr(recipe, name)
        if value not in allowed:
            problems.append(f"train: {name} is {value!r}, expected one of {', '.join(allowed)}.{near_miss(value, allowed)}")
    if recipe.augment not in (True, False, "auto"):
        problems.append(f"train: augment is {recipe.augment!r}, expected True, False or 'auto'.{near_miss(recipe.augment, ('auto',))}")
    elif recipe.augment == "auto" and not validated:
        problems.append("train: augment is 'auto' without a validation part to measure it on. Give one, or say True or False.")
    if recipe.accumulate < 1:
        problems.append(f"train: accumulate is {recipe.accumulate}, expected at least 1 batch a step.")
    if recipe.clip_norm is not None and not recipe.clip_norm > 0:
        problems.append(f"train: clip_norm is {recipe.clip_norm}, expected a length above 0, or None for any.")
    for name in ("averaging", "smoothing", "dropout", "word_deletion", "word_swap", "token_dropout"):
        if not 0 <= getattr(recipe, name) < 1:
            problems.append(f"train: {name} is {getattr(recipe, name)}, expected 0 (none) or more, and less than 1.")
    for name in ("mixup", "cutmix"):
        if not 0 <= getattr(recipe, name) < np.inf:
            problems.append(f"train: {name} is {getattr(recipe, name)}, expected a finite number, 0 (none) or more, e.g. 0.2.")
    if not 0 <= recipe.rand_augment <= MAGNITUDE:
        problems.append(f"train: rand_augment is {recipe.rand_augment}, expected 0 (none) to {MAGNITUDE:g}.")
    for name, reads in (("rand_augment", "image"), ("word_deletion", "text"), ("word_swap", "text"), ("token_dropout", "text")):
        value = getattr(recipe, name)
        if value and backbone.modality != reads:
            problems.append(
                f"train: {name} is {value} for {backbone.name}, which reads {backbone.modality}s, expected 0: it is for {reads}s."
            )
        elif value and recipe.augment is False:
            problems.append(f"train: {name} is {value} with augment=False, expected 0, or augment=True.")
    if recipe.sampler == "balanced" and task != "classification":
        problems.append(f"train: sampler is 'balanced' with a {task} task, expected 'shuffled': there are no single classes to balance.")
    if recipe.smoothing and task == "regression":
        problems.append(f"train: smoothing is {recipe.smoothing} with a regression, expected 0 as there are no classes.")
    names = ", ".join(name for name, _ in plan.losses)
    if names and (recipe.mixup or recipe.cutmix):
        problems.append(f"train: mixup is {recipe.mixup} and cutmix {recipe.cutmix} with the added losses {names}, expected 0: those")
        problems[-1] += " compare items of one class each. Leave one of the two out."
    if recipe.cutmix and backbone.modality != "image":
        problems.append(f"train: cutmix is {recipe.cutmix} for {backbone.modality}s, expected 0: it cuts images. Use mixup.")
    elif recipe.cutmix:
        for number, phase in enumerate(plan.phases, 1):
            if not phase.lr[0]:
                problems.append(
                    f"train: cutmix is {recipe.cutmix} and phase {number} freezes the first layer group, expected 0: what is kept of the "
                    "frozen stages is no image to cut. Use mixup, or a strategy in which all learns, e.g. 'full'."
                )
    return problems
