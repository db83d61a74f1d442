"""What a plan builds into a backbone's layers while they learn, and which of their parameters do. Heavy: torch.

An inlay leaves no trace: at the end it is merged into the weights, or taken out.
"""

from collections.abc import Callable, Iterable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from graft.errors import GraftError
from graft.inlays import low_rank, stochnorm
from graft.records import Plan


def set_in(stages: Sequence[nn.Module], plan: Plan, seed: int) -> Callable[[], None]:
    """Build into the stages what the plan asks for. Returns what takes it out again, updates merged into the weights.

    seed: of what is drawn for updates and adapters.
    Raises GraftError, with nothing built in, when no layer of the stages can take it, or none of their parameters would learn.
    """
    layers: list[nn.Module] = []
    if plan.lora_rank:
        layers = low_rank.add_lora(stages, plan.lora_rank, plan.lora_on, seed)
    elif plan.adapter_width:
        layers = low_rank.add_adapters(stages, plan.adapter_width, seed)
    elif plan.stochnorm:
        batch_norms = [layer for layer in _norms(stages) if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
        if not batch_norms:
            raise GraftError(
                "stochnorm: the layer groups that learn hold no batch normalisation with moving statistics, as is usual of "
                "transformers and text networks. Use 'full', or a backbone with it, such as a ResNet."
            )
        stochnorm.add(batch_norms, plan.stochnorm)
        return lambda: stochnorm.remove(batch_norms)
    elif plan.only == "norms" and not any(learners(stage, plan) for stage in stages):
        raise GraftError(
            "only 'norms': the layer groups that learn have no normalisation with scales and shifts, expected at least one. "
            "Use only 'biases' or 'all', or a backbone with it, such as a ResNet or a transformer."
        )
    elif plan.only == "biases" and not any(learners(stage, plan) for stage in stages):
        raise GraftError("bitfit: the layer groups that learn have no bias, expected at least one. Use 'lora' or 'full'.")
    return lambda: low_rank.merge(layers)


def learners(stage: nn.Module, plan: Plan) -> list[nn.Parameter]:
    """The parameters of a stage that learn once its rate is above 0, after `set_in`.

    Biases are parameters of one axis that are called so. With batch normalisation those are its shifts, not its scales.
    Beside adapters the scales and shifts of normalisation layers learn, as in both papers; with "norms" they alone do, as in TENT
    (Wang et al. 2021, arXiv:2006.10726, section 3.2.1).
    """
    if plan.lora_rank or plan.adapter_width:
        built = [module for module in stage.modules() if isinstance(module, low_rank.LowRank)]
        return _of(stage, built + (_scaling(stage) if plan.adapter_width else []))
    if plan.only == "norms":
        return _of(stage, _scaling(stage))
    if plan.only == "biases":
        return [weights for name, weights in stage.named_parameters() if weights.ndim == 1 and "bias" in name.rpartition(".")[2]]
    return list(stage.parameters())


def train_only(stage: nn.Module, plan: Plan) -> None:
    """Freeze what of a stage does not learn. Where its normalisation does not, neither do its moving statistics."""
    learning = {id(parameter) for parameter in learners(stage, plan)}
    for parameter in stage.parameters():
        parameter.requires_grad_(id(parameter) in learning)
    if plan.lora_rank or plan.only == "biases":
        for layer in _norms([stage]):
            layer.eval()


def hold_statistics(stage: nn.Module) -> None:
    """Let batch normalisation use its moving statistics, and keep them, while its scales and shifts learn."""
    for layer in _norms([stage]):
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            layer.eval()


def _scaling(stage: nn.Module) -> list[nn.Module]:
    """Normalisation of any kind; families have classes of their own for it, which are called so."""
    return [module for module in stage.modules() if "norm" in type(module).__name__.lower()]


def _of(stage: nn.Module, modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The modules' own parameters, each listed once, as in the stage."""
    wanted = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    return [parameter for parameter in stage.parameters() if id(parameter) in wanted]


def _norms(stages: Iterable[nn.Module]) -> list[_NormBase]:
    return [module for stage in stages for module in stage.modules() if isinstance(module, _NormBase)]
