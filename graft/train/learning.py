"""What of a network learns in a phase, at which rates, and what pulls on it. Heavy: torch."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from graft import inlays
from graft.backbones.base import Backbone
from graft.records import Phase, Plan, Recipe
from graft.train.added import AddedLosses

_WEIGHT_DECAY = 0.01  # AdamW's default in PyTorch


def learns(backbone: Backbone, plan: Plan, phase: Phase) -> list[bool]:
    """Whether each layer group does in this phase."""
    return [rate > 0 and bool(inlays.learners(stage, plan)) for rate, stage in zip(phase.lr, backbone.stages, strict=True)]


def training_mode(backbone: Backbone, head: nn.Module, plan: Plan, recipe: Recipe, phase: Phase, learning: Sequence[bool]) -> None:
    """What learns is in training mode and has gradients; what is frozen has neither. learning: of each layer group."""
    backbone.set_trainable(learning)
    for stage, trained in zip(backbone.stages, learning, strict=True):
        if trained:
            inlays.train_only(stage, plan)
            # A head solved on features, and weights that few items move, are at home with the statistics they came with.
            if recipe.batch_norm == "moving" and not plan.reset and not plan.stochnorm:
                inlays.hold_statistics(stage)
    head.train(phase.head_lr > 0)
    head.requires_grad_(phase.head_lr > 0)


def optimiser(backbone: Backbone, head: nn.Module, added: AddedLosses, phase: Phase) -> torch.optim.Optimizer:
    """AdamW with the phase's rates on what has gradients. added: the losses of the plan, which say at what rates they learn."""
    rated = [(group, rate, phase.anchor == 0) for group, rate in zip(backbone.groups(), phase.lr, strict=True)]
    rated += [(list(head.parameters()), phase.head_lr, True), *added.rated(phase)]
    groups = []
    for parameters, rate, decays in rated:
        # The anchor takes the place of weight decay; biases and norms are never decayed.
        matrices = [parameter for parameter in parameters if parameter.requires_grad and parameter.ndim > 1 and decays]
        rest = [parameter for parameter in parameters if parameter.requires_grad and not (parameter.ndim > 1 and decays)]
        groups.append({"params": matrices, "lr": rate, "weight_decay": _WEIGHT_DECAY})
        groups.append({"params": rest, "lr": rate, "weight_decay": 0.0})
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def pull(backbone: Backbone, start: Mapping[nn.Parameter, torch.Tensor], phase: Phase, learning: Sequence[bool]) -> None:
    """Add the gradient of anchor / 2 * |w - w_start|^2. start: the backbone's weights before training."""
    if phase.anchor:
        for group, trained in zip(backbone.groups(), learning, strict=True):
            for parameter in group if trained else ():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - start[parameter], alpha=phase.anchor)
