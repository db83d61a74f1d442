"""What a network says of items in the view that is judged, and what that is worth. Heavy: torch. Never trains."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from graft import processes
from graft.backbones.base import Backbone
from graft.features import device_of, one_ahead
from graft.records import Task
from graft.train.ends import Reached
from graft.train.feed import Feed
from graft.train.tasks import decode, encoded, task_loss

Metric = Callable[[np.ndarray, np.ndarray], float]


def over(backbone: Backbone, head: nn.Module, feed: Feed, bf16: bool, what: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What is made of the features of all items of a feed, on the CPU. what: (k, d) -> (k, ...), float32. Processes share the work."""
    backbone.eval()
    head.eval()
    batches = feed.batches(None)
    mine, parts = processes.share(batches), []
    with torch.no_grad():
        for batch, ready in zip(mine, one_ahead(lambda batch: feed.prepare(batch, None), mine), strict=True):
            with torch.autocast(device_of(backbone).type, torch.bfloat16, enabled=bf16):
                features = backbone(feed.state(batch, None, ready), start=feed.boundary)
            parts.append(what(features.float()).cpu())
    # In the order of the batches, whoever ran them.
    everyone = processes.gathered(parts)
    parts = [everyone[place % len(everyone)][place // len(everyone)] for place in range(len(batches))]
    return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(batches)))]


def reached(logits: torch.Tensor, y: Any, task: Task, metric: Metric | None) -> Reached:
    """The metric and the loss of what is said of items, (n, c); what is no number counts as worst."""
    minus_loss = -task_loss(task, None)(logits, encoded(y, task)).item()
    score = metric(y, decode(logits, task)) if metric else minus_loss
    return Reached(*(-math.inf if math.isnan(value) else float(value) for value in (score, minus_loss)))
