"""What a task is to the loop: its targets as a tensor, its loss, and what its logits say. Heavy: torch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from graft.records import Task

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def encoded(y: np.ndarray, task: Task) -> torch.Tensor:
    return torch.from_numpy(np.asarray(y)).long() if task == "classification" else torch.from_numpy(np.asarray(y)).float()


def task_loss(task: Task, weight: torch.Tensor | None, smoothing: float = 0.0) -> Loss:
    """The mean loss of a batch. smoothing: share of each target spread evenly over the classes, or over yes and no for multilabel.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    if task == "classification":
        return lambda logits, target: functional.cross_entropy(logits, target, weight, label_smoothing=smoothing)
    if task == "multilabel":
        return lambda logits, target: functional.binary_cross_entropy_with_logits(
            logits, target * (1 - smoothing) + smoothing / 2 if smoothing else target, pos_weight=weight
        )
    return lambda logits, target: functional.mse_loss(logits.squeeze(1), target)


def mass(task: Task, target: torch.Tensor, weight: torch.Tensor | None) -> float:
    """By what the loss of a batch is divided: its items, or their classes' weights. Batches of one step are weighed by it."""
    return float(weight.cpu()[target].sum()) if task == "classification" and weight is not None else float(len(target))


def balanced(target: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Places (n,) of an epoch in which all classes are equally frequent, to one; the items of a class differ in frequency by one at most.

    target: (n,) classes; those without an item are left out.
    Source: class-aware sampling, Shen et al. 2016, arXiv:1512.05830, section 4.1.
    """
    y = target.numpy()
    classes = rng.permutation(np.unique(y))
    chosen = []
    for position, label in enumerate(classes):
        places = np.flatnonzero(y == label)
        wanted = len(y) // len(classes) + (position < len(y) % len(classes))
        whole, rest = divmod(wanted, len(places))
        chosen += [np.tile(places, whole), rng.permutation(places)[:rest]]
    return rng.permutation(np.concatenate(chosen))


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
