"""Weights in files: read safely, fitted to a network, written under the network's own names."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.files import replacing

Tensors = dict[str, torch.Tensor]
# What training scripts call the weights inside a checkpoint that holds more than weights.
_INSIDE = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "model.", "backbone.")


def read_json(path: Path, kind: type = dict) -> Any:
    """The object (or, with kind=list, the list) in a JSON file. Raises GraftError naming the file where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GraftError(f"{path}: cannot be read as JSON ({error}). Write or download it again.") from error
    if not isinstance(content, kind):
        raise GraftError(f"{path}: holds a {type(content).__name__}, expected a {kind.__name__}. Write or download it again.")
    return content


def read_tensors(path: Path) -> Tensors:
    """The named tensors of a .safetensors, .pth, .th, .pt or .bin file, halves widened to float32.

    A pickle is opened with `weights_only=True`, so no code in it runs. A training checkpoint's weights are found inside
    it, and a prefix common to all names ("module." and the like) is taken off.
    Raises GraftError when the file is damaged, or holds anything but plain tensors.
    """
    if path.suffix == ".safetensors":
        try:
            tensors: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise GraftError(f"{path}: cannot be read as safetensors ({error}). Download or save it again.") from error
    else:
        tensors = _unpickle(path)
    for inside in _INSIDE:
        if isinstance(tensors, dict) and isinstance(tensors.get(inside), dict):
            tensors = tensors[inside]
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise GraftError(
            f"{path}: holds {_describe(tensors)}, expected a dict of names and tensors (a state_dict), alone or under one of "
            f"{', '.join(_INSIDE)}. Save it with torch.save(model.state_dict(), path)."
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError) as error:
        raise GraftError(
            f"{path}: is no file of plain tensors, and graft runs no code from a checkpoint ({str(error).partition(chr(10))[0]}). "
            "In the program that made it, save the weights alone: torch.save(model.state_dict(), path), or as safetensors."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise GraftError(f"{path}: cannot be read as a PyTorch file ({error}). Download or save it again.") from error


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {', '.join(map(str, list(content)[:6])) or '(none)'}"
    return f"a {type(content).__name__}"


def fit(network: nn.Module, tensors: Tensors, where: str, head: Sequence[str] = ()) -> None:
    """Load the tensors into the network; every one of the network's must be there.

    head: names (or their beginnings, up to a dot) of the old classifier, which may be left over. where: what to name in an error.
    Raises GraftError listing what is missing, left over, or of another shape.
    """
    body = {name: tensor for name, tensor in tensors.items() if not any(name == part or name.startswith(part + ".") for part in head)}
    own = network.state_dict()
    # Checkpoints of before 2018 lack the counter of a BatchNorm; it does not change what a network computes.
    missing = [name for name in own if name not in body and not name.endswith("num_batches_tracked")]
    left_over = [name for name in body if name not in own]
    other_shape = [
        f"{name} {tuple(body[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in body and body[name].shape != own[name].shape
    ]
    if missing or left_over or other_shape:
        parts = [
            _listed("missing", missing, len(own)),
            _listed("left over", left_over, len(body)),
            _listed("of another shape", other_shape, len(own)),
        ]
        raise GraftError(
            f"{where}: the weights do not fit {type(network).__name__}: {'; '.join(filter(None, parts))}. "
            "Check the architecture (and its model_args) against the one that was trained."
        )
    network.load_state_dict(body, strict=False)


def _listed(what: str, names: list[str], total: int) -> str:
    if not names:
        return ""
    return f"{len(names)} of {total} tensors {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def own_names(network: nn.Module, stages: Sequence[tuple[str, nn.Module]]) -> dict[str, str]:
    """What the tensors of a Backbone made of these stages are called in the network that was cut into them."""
    names: dict[int, str] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        # Of tied weights the first name is the one that a load expects.
        names.setdefault(id(tensor), name)
    cut = nn.ModuleList(stage for _, stage in stages).state_dict(prefix="stages.", keep_vars=True)
    return {key: names[id(tensor)] for key, tensor in cut.items()}


def write(backbone: Backbone, folder: Path, names: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """config.json, and model.safetensors with the tensors that have a name, under the network's own names."""
    write_json(folder / "config.json", config)
    write_tensors(folder / "model.safetensors", {names[key]: tensor for key, tensor in backbone.state_dict().items() if key in names})


def write_json(path: Path, content: Any) -> None:
    """Settings as JSON, whole or not at all; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        json.dump(content, file, indent=1, default=list)


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Named tensors as safetensors, whole or not at all; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "wb") as file:
        # "format" is what transformers asks for before it reads a file.
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"}))
