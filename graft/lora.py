"""Low-rank updates: added to a stage's weights, trained instead of them, merged in at the end. Heavy: torch.

peft is not used here: it wraps a model and renames its parameters, while a backbone's stages must stay what they are. A
parametrisation of each weight leaves them in place and merges in one call.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

from graft.errors import GraftError


class LowRank(nn.Module):
    """weight -> weight + up @ down, with the weight seen as a matrix (outputs, everything else).

    down: (rank, inputs), random. up: (outputs, rank), zero, so that training starts at the weight itself.
    The paper's factor alpha / rank is 1.
    """

    def __init__(self, weight: torch.Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        # Kaiming's uniform bound, as Hu et al.'s code draws A.
        down = (torch.rand(rank, inputs, generator=generator) * 2 - 1) / inputs**0.5
        self.down = nn.Parameter(down.to(weight.device, weight.dtype))
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=weight.device, dtype=weight.dtype))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def add(stages: Iterable[nn.Module], rank: int, seed: int) -> list[nn.Module]:
    """Put a low-rank update on every linear and ungrouped convolution layer of the stages. Returns those layers.

    rank: lowered to a layer's own where that is smaller. Source: Hu et al. 2021, arXiv:2106.09685, equation 3. Differs:
    every layer, where the paper adapts the attention projections only.
    Raises GraftError when the stages hold no such layer.
    """
    # By the weight's shape, not by class: the layers of GPT-2 are linear but no nn.Linear.
    layers = [
        module
        for stage in stages
        for module in stage.modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        and not isinstance(module, nn.Embedding)
        and (weight.ndim == 2 or (weight.ndim == 4 and getattr(module, "groups", 1) == 1))
    ]
    if not layers:
        raise GraftError(
            "lora: the layer groups that learn hold no linear or convolution layer to put an update on. Use 'full' or 'partial'."
        )
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        update = LowRank(weight.detach(), min(rank, weight.shape[0], weight[0].numel()), generator)
        parametrize.register_parametrization(layer, "weight", update)
    return layers


def train_only_updates(stage: nn.Module) -> None:
    """Freeze everything in a stage but its low-rank updates, running averages of batch normalisation included."""
    updates = {id(parameter) for module in stage.modules() if isinstance(module, LowRank) for parameter in module.parameters()}
    for parameter in stage.parameters():
        parameter.requires_grad_(id(parameter) in updates)
    for module in stage.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()


def merge(layers: Iterable[nn.Module]) -> None:
    """Add each layer's update to its weight and take it off again: the stage is what it was, with new weights."""
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        # The weight is back, but last; fingerprints and files go by the order, and there it comes first.
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if name != "weight":
                delattr(layer, name)
                layer.register_parameter(name, parameter)
