"""What learns instead of a layer's weight, and is merged into it at the end: low-rank updates and adapters. Heavy: torch.

peft is not used here: it wraps a model and renames its parameters, while a backbone's stages must stay what they are. A
parametrisation of each weight leaves them in place and merges in one call.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

from graft.errors import GraftError

_WHERE = {"all": "linear or convolution", "attention": "attention", "convolutions": "ungrouped convolution"}


class LowRank(nn.Module):
    """weight -> weight + up @ down, with the weight seen as a matrix (outputs, everything else).

    weight: at least 2-d; its shape, type and device are taken. down: (rank, inputs), random. up: (outputs, rank), zero, so that
    training starts at the weight itself. The paper's factor alpha / rank is 1.
    """

    def __init__(self, weight: torch.Tensor, inputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, weight.shape[0], inputs)
        # Kaiming's uniform bound, as Hu et al.'s code draws A.
        down = (torch.rand(rank, inputs, generator=generator) * 2 - 1) / inputs**0.5
        self.down = nn.Parameter(down.to(weight.device, weight.dtype))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, device=weight.device, dtype=weight.dtype))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class Serial(LowRank):
    """weight -> weight + up @ down @ weight, and the same for the bias: x + up @ down @ x on what the layer gives."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ (self.down @ weight)


class Parallel(LowRank):
    """weight -> weight with up @ down added at its centre: a 1x1 convolution with the layer's stride beside it."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        rows, columns = weight.shape[2] // 2, weight.shape[3] // 2
        beside = (self.up @ self.down)[:, :, None, None]
        return weight + nn.functional.pad(beside, (columns, columns, rows, rows))


def add_lora(stages: Iterable[nn.Module], rank: int, on: str, seed: int) -> list[nn.Module]:
    """Put a low-rank update on the stages' layers. Returns those layers.

    rank: lowered to a layer's own where that is smaller. on: "all" linear and ungrouped convolution layers; those of "attention",
    which stand in a module whose name or class says so; or the ungrouped "convolutions".
    Source: Hu et al. 2021, arXiv:2106.09685, equation 3. Differs: "all", where the paper adapts the attention projections only.
    Raises GraftError when the stages hold no such layer.
    """
    # By the weight's shape, not by class: the layers of GPT-2 are linear but no nn.Linear.
    layers = [
        module
        for stage in stages
        for module in (_in_attention(stage) if on == "attention" else stage.modules())
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        and not isinstance(module, nn.Embedding)
        and ((weight.ndim == 2 and on != "convolutions") or (weight.ndim == 4 and getattr(module, "groups", 1) == 1))
    ]
    if not layers:
        instead = "'full' or 'partial'" if on == "all" else "'lora' on all layers, or 'full'"
        raise GraftError(f"lora: the layer groups that learn hold no {_WHERE[on]} layer to put an update on. Use {instead}.")
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        update = LowRank(weight.detach(), weight[0].numel(), rank, generator)
        parametrize.register_parametrization(layer, "weight", update)
    return layers


def add_adapters(stages: Iterable[nn.Module], width: int, seed: int) -> list[nn.Module]:
    """Put a linear bottleneck behind every linear layer and beside every convolution of the stages. Returns those layers.

    width: of the bottleneck, lowered to a layer's own where that is smaller. Linear layers: nn.Linear, so not those of GPT-2.
    Convolutions: ungrouped, with a kernel of odd sides, since others have no centre.
    Source: Rebuffi et al. 2018, arXiv:1803.10082, section 3.1, the parallel 1x1 adapter; Houlsby et al. 2019, arXiv:1902.00751,
    section 2.1, the serial bottleneck. Differs: without the bottleneck's nonlinearity, so that it merges into the weights and the
    model runs as fast as before, and behind every linear layer, where Houlsby et al. follow the two sublayers of a block.
    Raises GraftError when the stages hold no such layer.
    """
    layers: list[nn.Linear | nn.Conv2d] = [
        module
        for stage in stages
        for module in stage.modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.groups == 1 and all(side % 2 for side in module.kernel_size))
    ]
    if not layers:
        raise GraftError(
            "adapters: the layer groups that learn hold no nn.Linear layer and no ungrouped convolution with a kernel of odd sides "
            "to put one on. Use 'lora' or 'full'."
        )
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        weight = layer.weight.detach()
        if isinstance(layer, nn.Conv2d):
            parametrize.register_parametrization(layer, "weight", Parallel(weight, weight.shape[1], width, generator))
            continue
        behind = Serial(weight, weight.shape[0], width, generator)
        # One module for both: what stands behind a layer sees its bias too.
        for name in ("weight", "bias") if layer.bias is not None else ("weight",):
            parametrize.register_parametrization(layer, name, behind)
    return list(layers)


def merge(layers: Iterable[nn.Module]) -> None:
    """Add each layer's update to its weight and take it off again: the stage is what it was, with new weights."""
    for layer in layers:
        order = [name for name in ("weight", "bias") if parametrize.is_parametrized(layer, name)]
        for name in order:
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
        # The weight is back, but last; fingerprints and files go by the order, and there it comes first.
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if name not in order:
                delattr(layer, name)
                layer.register_parameter(name, parameter)


def _in_attention(stage: nn.Module) -> list[nn.Module]:
    """The modules of a stage that are, or lie within, one that is called attention."""
    named = list(stage.named_modules())
    above = [path and f"{path}." for path, module in named if _says_attention(path) or _says_attention(type(module).__name__)]
    return [module for path, module in named if f"{path}.".startswith(tuple(above))]


def _says_attention(name: str) -> bool:
    return "attn" in name.lower() or "attention" in name.lower()
