"""The only training loop: plays a Plan on a backbone and a head, and yields what happened. Heavy: torch."""

import copy
import itertools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones.base import Backbone
from graft.features import Progress, States, device_of, extract
from graft.optional import require
from graft.records import Epoch, Note, Plan, Recipe, Task
from graft.train.added import asks_for_others
from graft.train.check import checked_loss
from graft.train.checkpoint import Checkpoints
from graft.train.feeds import Labelled, Lessons
from graft.train.finder import find_rate, highest, scaled
from graft.train.judging import Metric
from graft.train.loop import Run
from graft.train.tasks import decode
from graft.train.trial import measured

__all__ = ["Checkpoints", "asks_for_others", "decode", "find_rate", "highest", "predict_outputs", "scaled", "tensorboard_writer", "train"]


def train(
    backbone: Backbone,
    head: nn.Module,
    plan: Plan,
    items: Sequence[Any],
    y: np.ndarray,
    *,
    task: Task,
    others: Sequence[Any] = (),
    teachers: Sequence[Backbone] = (),
    validation: Labelled | None = None,
    metric: Metric | None = None,
    recipe: Recipe = Recipe(),
    seed: int = 0,
    states: States | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> Generator[Epoch | Note, None, None]:
    """Train backbone and head in place as the plan says; yields an Epoch after each, and a Note on what was decided meanwhile.

    head: maps features (n, d) to logits (n, c), or (n, 1) for regression. items: n of the backbone's modality.
    y: encoded targets, see Dataset.target; regression targets are best standardised.
    others: m items of another domain, without labels. Where a loss of the plan asks for them, each batch comes with as many of them, from
    a shuffled pass without end; other plans leave them unread. A plan that is not supervised is played on them alone: an epoch is a pass
    over them, and items and y may be empty. teachers: networks that some losses learn from; they stay as they are.
    validation: (items, y) scored before the first and after every epoch. metric: (y, outputs) -> number, higher is
    better; the negative loss unless given.
    recipe: batch size, early stopping, precision and the like. states: keeps what frozen stages gave beyond this call, for others that
    start from the same weights. progress: is told a Step after each batch.
    checkpoints: keeps after each epoch what the next one needs: the same call in another process tells the same epochs again, goes on
    from there and ends with the same numbers, on the CPU in fp32 to the bit. What one kind of device wrote another goes on from.

    With a validation part the best weights so far start each phase and are what is left at the end, the starting weights
    among them; without one the last finished epoch is. This holds however it ends: finished, closed early, on an error, or by a first
    Ctrl-C within `interrupt.listening`, or when the time of `budget.within` is up. A plan that ends with an average is left with that
    when it is finished, which scores no worse; see `ends`.
    Rates rise over the first tenth of a phase and fall to zero along a cosine, unless the recipe says otherwise.
    A plan without phases trains nothing.
    Stages below the first that learns are run once and their output is kept on disk, in the precision that training computes
    in; a phase with a deeper boundary goes on from there. Without augmentation in fp32 the result is that of running them
    each time, to 1e-5. With it, each image has a few random views, drawn once and taken in turn; see `feed.count_views`.
    Raises GraftError at once for arguments that do not fit, before the first epoch where the backbone has no layer for what the
    plan builds in, and while training when the loss is no finite number; in bf16 the phase is begun again in fp32 instead, with a
    warning.
    """
    lessons = Lessons(items, y, validation, others, teachers)
    loss, weight = checked_loss(backbone, head, plan, recipe, lessons, task)

    def play() -> Generator[Epoch | Note, None, None]:
        chosen = recipe
        if recipe.augment == "auto":

            def make(plan: Plan, recipe: Recipe) -> Run:
                one, other = copy.deepcopy(backbone), copy.deepcopy(head)
                return Run(one, other, plan, recipe, task, loss, metric, seed, states, progress, weight=weight)

            chosen = yield from measured(make, plan, recipe, backbone.modality, lessons)
        run = Run(backbone, head, plan, chosen, task, loss, metric, seed, states, progress, checkpoints, weight=weight)
        yield from run.play(lessons)

    return play()


def predict_outputs(
    backbone: Backbone,
    head: nn.Module,
    items: Sequence[Any],
    task: Task,
    *,
    batch_size: int = 64,
    cache: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """What a trained backbone and head say: probabilities (n, c), or values (n,) for regression.

    cache: keep the features on disk; off by default, as those of a trained backbone are rarely wanted again.
    """
    features = extract(backbone, items, batch_size=batch_size, cache=cache, progress=progress)
    head.to(device_of(backbone)).eval()
    with torch.inference_mode():
        return decode(head(torch.from_numpy(features).to(device_of(backbone))), task)


def tensorboard_writer(folder: str | Path) -> Callable[[Epoch], None]:
    """A consumer of `train`'s events that writes loss and score to a TensorBoard folder, one step an epoch.

    Raises GraftError naming the install command where the package `tensorboard` is missing.
    """
    require("tensorboard", "tensorboard")
    writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))
    steps = itertools.count(1)

    def write(event: Epoch) -> None:
        step = next(steps)
        writer.add_scalar("loss", event.loss, step)
        if event.score is not None:
            writer.add_scalar("validation score", event.score, step)
        writer.flush()

    return write
