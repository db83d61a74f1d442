"""What a task is to the loop: its targets as a tensor, its loss, and what its logits say. Heavy: torch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from graft.records import Task

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def encoded(y: np.ndarray, task: Task) -> torch.Tensor:
    return torch.from_numpy(np.asarray(y)).long() if task == "classification" else torch.from_numpy(np.asarray(y)).float()


def task_loss(task: Task, weight: torch.Tensor | None) -> Loss:
    if task == "classification":
        return lambda logits, target: functional.cross_entropy(logits, target, weight)
    if task == "multilabel":
        return lambda logits, target: functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
    return lambda logits, target: functional.mse_loss(logits.squeeze(1), target)


def class_weights(
    task: Task, y: np.ndarray, classes: int, class_weight: str | Sequence[float] | None, device: torch.device
) -> torch.Tensor | None:
    """(c,) weights: of each class, or of each label's positives for multilabel. A class without items weighs 1."""
    if class_weight is None:
        return None
    weights = np.asarray(class_weight)
    if isinstance(class_weight, str):
        if task == "classification":
            counts = np.bincount(y, minlength=classes)
            weights = np.where(counts, len(y) / (np.maximum(counts, 1) * np.count_nonzero(counts)), 1.0)
        else:
            counts = y.sum(0)
            weights = np.where(counts, (len(y) - counts) / np.maximum(counts, 1), 1.0)
    return torch.as_tensor(weights, dtype=torch.float32, device=device)


def decode(logits: torch.Tensor, task: Task) -> np.ndarray:
    """Logits (n, c) -> outputs, float64: probabilities whose rows sum to 1, independent probabilities, or values (n,)."""
    logits = logits.detach().cpu().double()
    if task == "classification":
        return logits.softmax(1).numpy()
    return logits.sigmoid().numpy() if task == "multilabel" else logits.squeeze(1).numpy()
