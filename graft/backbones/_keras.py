"""A network written down as a list of Keras layers (architecture.json): built in torch, cut into stages at each pooling. Heavy: torch."""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graft.backbones import _folders, _images
from graft.backbones._image_network import as_backbone
from graft.backbones.base import Backbone
from graft.errors import GraftError, near_miss

Layers = list[dict[str, Any]]
# Channels, height, width; or a number of features alone.
Shape = tuple[int, ...]
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(1),
}
# What a classifier may end in: its logits are wanted, so these are left out of it.
_OUTPUTS = ("linear", "softmax", "sigmoid")
# What would change the result and is not built here, with the values that change nothing.
_USUAL: dict[str, Any] = {"dilation_rate": [1, 1], "groups": 1, "data_format": "channels_last", "axis": [-1, 3], "keepdims": False}


def from_tensors(layers: Layers, tensors: _folders.Tensors, name: str) -> Backbone:
    """The network that a list of Keras layers describes, with these weights and without its classifier.

    layers: as in a Keras model's config: "type" is one of InputLayer, Conv2D, BatchNormalization, LeakyReLU, MaxPooling2D,
    GlobalAveragePooling2D, Flatten, Dense, Dropout, Activation; "name", and the layer's own settings; what is missing has Keras's default
    (a Dropout without a rate drops nothing). The first names its "batch_input_shape": (null, height, width, channels), 1 for grey or 3.
    tensors: called NAME.weight, NAME.bias, NAME.running_mean, NAME.running_var, in PyTorch's layout but for a Dense layer behind a
    Flatten, whose inputs are in Keras's order: rows, columns, channels.
    Images are scaled to 0..1; the shorter side is fitted and the middle taken. Grey is Pillow's luma. Colours stay as they come: a
    network of white strokes on black (Quick, Draw!) wants such images.
    The classifier is the last layer with weights, a Dense or a 1 x 1 Conv2D before a global average, if it ends in linear, softmax or
    sigmoid.
    Raises GraftError for a layer or setting that is not known here, and where the weights do not fit.
    """
    _check(layers, name)
    body, head = _without_classifier(layers)
    network, stages, _ = _build(body, name)
    _folders.fit(network, tensors, name, (head,) if head else ())
    return _assemble(layers, network, stages, name, lambda: _classifier(tensors, head))


def _assemble(
    layers: Layers, network: nn.Module, stages: Sequence[tuple[str, nn.Module]], name: str, classifier: Callable[[], nn.Module | None]
) -> Backbone:
    channels, height, width = _input_shape(layers, name)
    config = {"input_size": (3, height, width), "crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    preprocessing = {**_images.preprocessing_of(config, name), **({"grey": True} if channels == 1 else {})}

    def random(changed: Layers) -> Backbone:
        other, cut, _ = _build(_without_classifier(changed)[0], name)
        return _assemble(changed, other, cut, name, lambda: None)

    def write(backbone: Backbone, folder: Path, names: dict[str, str]) -> None:
        _folders.write_json(folder / "architecture.json", layers)
        tensors = {names[key]: tensor for key, tensor in backbone.state_dict().items()}
        _folders.write_tensors(folder / "model.safetensors", tensors)

    return as_backbone(
        stages,
        _Whole(network),
        name,
        preprocessing,
        {},
        untrained=lambda: random(layers),
        write=write,
        resized=lambda size_px: random(_at_size(layers, size_px)),
        classifier=classifier,
    )


class _Whole(nn.Module):
    """All layers in one piece."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(batch)


def _check(layers: Layers, name: str) -> None:
    """Every layer's problem, raised at once."""
    problems = []
    for place, layer in enumerate(layers):
        where = f"layer {place} ({layer.get('name', 'no name') if isinstance(layer, dict) else layer})"
        if not isinstance(layer, dict) or not isinstance(layer.get("name"), str) or "." in layer["name"]:
            problems.append(f'{where}: expected {{"type": ..., "name": ...}} with a name without dots')
        elif layer.get("type") not in _BUILDERS:
            problems.append(
                f"{where}: type {layer.get('type')!r}, expected one of {', '.join(_BUILDERS)}.{near_miss(layer.get('type'), _BUILDERS)}"
            )
        else:
            if layer.get("activation", "linear") not in _ACTIVATIONS:
                problems.append(f"{where}: activation {layer['activation']!r}, expected one of {', '.join(_ACTIVATIONS)}")
            if layer.get("padding", "valid") not in ("valid", "same"):
                problems.append(f"{where}: padding {layer['padding']!r}, expected valid or same")
            problems += [
                f"{where}: {key} {layer[key]!r}, expected {_USUAL[key]!r}"
                for key in _USUAL
                if key in layer and layer[key] != _USUAL[key] and layer[key] not in (_USUAL[key] if key == "axis" else ())
            ]
    names = [layer["name"] for layer in layers if isinstance(layer, dict) and "name" in layer]
    if len(set(names)) < len(names):
        problems.append("two layers share a name")
    if problems or not layers:
        raise GraftError(f"{name}: architecture.json: {'; '.join(problems) or 'no layers'}. Correct it, or choose another network.")


def _input_shape(layers: Layers, name: str) -> Shape:
    shape: Sequence[Any] = layers[0].get("batch_input_shape") or layers[0].get("batch_shape") or ()
    if len(shape) != 4 or not all(isinstance(side, int) for side in shape[1:]) or shape[3] not in (1, 3):
        raise GraftError(
            f"{name}: architecture.json: batch_input_shape {shape} of the first layer, expected [null, height, width, channels] with 1 "
            "channel (grey) or 3 (red, green, blue)."
        )
    channels, height, width = shape[3], shape[1], shape[2]
    return channels, height, width


def _at_size(layers: Layers, size_px: int) -> Layers:
    changed = copy.deepcopy(layers)
    # Every layer that repeats the input's shape, as exported files do, is told the new one.
    for layer in changed:
        for key in {"batch_input_shape", "batch_shape"} & set(layer):
            layer[key] = [layer[key][0], size_px, size_px, layer[key][3]]
    return changed


def _without_classifier(layers: Layers) -> tuple[Layers, str]:
    """The layers but for the classifier and what has no meaning without it, and its name; all layers and "" where there is none."""
    weighted = [place for place, layer in enumerate(layers) if layer["type"] in ("Conv2D", "Dense")]
    if not weighted:
        return layers, ""
    last = layers[weighted[-1]]
    behind = [layer for layer in layers[weighted[-1] + 1 :] if layer["type"] != "Dropout"]
    outputs = [last.get("activation", "linear"), *(layer.get("activation", "linear") for layer in behind if layer["type"] == "Activation")]
    kinds = {layer["type"] for layer in behind} - {"Activation"}
    # The mean of logits is the logit of the mean only where nothing bends in between.
    average = (
        bool(behind)
        and behind[0]["type"] == "GlobalAveragePooling2D"
        and outputs[0] == "linear"
        and kinds <= {"GlobalAveragePooling2D", "Flatten"}
    )
    point = last["type"] == "Conv2D" and average and _pair(last["kernel_size"]) == _pair(last.get("strides", 1)) == (1, 1)
    if any(output not in _OUTPUTS for output in outputs) or not (point or (last["type"] == "Dense" and not kinds)):
        return layers, ""
    return [*layers[: weighted[-1]], *(layer for layer in behind if layer["type"] in ("GlobalAveragePooling2D", "Flatten"))], last["name"]


def _classifier(tensors: _folders.Tensors, name: str) -> nn.Linear | None:
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    if weight is None:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight.flatten(1)} if bias is None else {"weight": weight.flatten(1), "bias": bias})
    return layer


def _build(body: Layers, name: str) -> tuple[nn.Sequential, list[tuple[str, nn.Module]], Shape]:
    """The network with Keras's random weights, its stages, and the shape of what it gives.

    A stage ends with each max-pooling; what turns maps into a vector, and all behind it, is the last one.
    """
    shape = _input_shape(body, name)
    network = nn.Sequential()
    parts: list[list[nn.Module]] = [[]]
    flat = False
    for layer in body:
        module, shape = _BUILDERS[layer["type"]](layer, shape)
        steps = [(layer["name"], module)]
        if layer["type"] in ("Conv2D", "Dense") and layer.get("activation", "linear") != "linear":
            steps.append((f"{layer['name']}_{layer['activation']}", _ACTIVATIONS[layer["activation"]]()))
        if not flat and len(shape) == 1:
            flat = True
            # A Dropout alone before it is no layer group.
            parts += [[]] if any(step.state_dict() for step in parts[-1]) else []
        for called, step in steps:
            network.add_module(called, step)
            parts[-1].append(step)
        if layer["type"] == "MaxPooling2D":
            parts.append([])
    if not flat:
        # No layer of the list makes a vector of the maps: their mean is the feature, as for any other network.
        network.add_module("mean_over_places", _Average())
        parts.append([network[-1]])
        shape = shape[:1]
    kept = [nn.Sequential(*part) for part in parts if part]
    return network, [*((f"block{number}", part) for number, part in enumerate(kept[:-1], 1)), ("head", kept[-1])], shape


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _sides(shape: Shape, kernel: tuple[int, int], strides: tuple[int, int], same: bool) -> tuple[int, int]:
    return tuple(math.ceil(n / s) if same else (n - k) // s + 1 for n, k, s in zip(shape[1:], kernel, strides, strict=True))  # type: ignore[return-value]


def _padded(maps: torch.Tensor, kernel: tuple[int, int], strides: tuple[int, int], value: float) -> torch.Tensor:
    """Keras's "same": ceil(side / stride) places come out, and of an odd number of missing ones more are at the lower right.

    Source: https://www.tensorflow.org/api_docs/python/tf/nn, notes on padding.
    """
    around: list[int] = []
    for side, k, s in reversed(list(zip(maps.shape[2:], kernel, strides, strict=True))):
        missing = max((math.ceil(side / s) - 1) * s + k - side, 0)
        around += [missing // 2, missing - missing // 2]
    return nn.functional.pad(maps, around, value=value) if any(around) else maps


class _Convolution(nn.Conv2d):
    def __init__(self, channels: int, layer: dict[str, Any]) -> None:
        super().__init__(
            channels, layer["filters"], _pair(layer["kernel_size"]), _pair(layer.get("strides", 1)), bias=layer.get("use_bias", True)
        )
        self.same = layer.get("padding", "valid") == "same"
        _as_keras_begins(self)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return super().forward(_padded(maps, self.kernel_size, self.stride, 0.0) if self.same else maps)  # type: ignore[arg-type]


class _MaxPooling(nn.Module):
    def __init__(self, layer: dict[str, Any]) -> None:
        super().__init__()
        self.kernel = _pair(layer.get("pool_size", 2))
        self.strides = _pair(layer.get("strides") or self.kernel)
        self.same = layer.get("padding", "valid") == "same"

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        # What is added may never be the maximum.
        maps = _padded(maps, self.kernel, self.strides, -math.inf) if self.same else maps
        return nn.functional.max_pool2d(maps, self.kernel, self.strides)


class _Average(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3))


class _Flatten(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        # Keras keeps channels last, and its Dense layers expect them so.
        return maps.permute(0, 2, 3, 1).flatten(1) if maps.ndim == 4 else maps


def _as_keras_begins(layer: nn.Conv2d | nn.Linear) -> None:
    """Glorot's uniform weights and no bias, Keras's default."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _convolution(layer: dict[str, Any], shape: Shape) -> tuple[nn.Module, Shape]:
    built = _Convolution(shape[0], layer)
    return built, (built.out_channels, *_sides(shape, _pair(layer["kernel_size"]), _pair(layer.get("strides", 1)), built.same))


def _max_pooling(layer: dict[str, Any], shape: Shape) -> tuple[nn.Module, Shape]:
    built = _MaxPooling(layer)
    return built, (shape[0], *_sides(shape, built.kernel, built.strides, built.same))


def _normalisation(layer: dict[str, Any], shape: Shape) -> tuple[nn.Module, Shape]:
    kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    # Keras counts how much of the old is kept, PyTorch how much of the new is taken.
    return kind(shape[0], eps=layer.get("epsilon", 1e-3), momentum=1 - layer.get("momentum", 0.99)), shape


def _dense(layer: dict[str, Any], shape: Shape) -> tuple[nn.Module, Shape]:
    built = nn.Linear(shape[-1], layer["units"], bias=layer.get("use_bias", True))
    _as_keras_begins(built)
    return built, (layer["units"],)


_BUILDERS: dict[str, Callable[[dict[str, Any], Shape], tuple[nn.Module, Shape]]] = {
    "InputLayer": lambda layer, shape: (nn.Identity(), shape),
    "Conv2D": _convolution,
    "BatchNormalization": _normalisation,
    "LeakyReLU": lambda layer, shape: (nn.LeakyReLU(layer.get("alpha", layer.get("negative_slope", 0.3))), shape),
    "MaxPooling2D": _max_pooling,
    "GlobalAveragePooling2D": lambda layer, shape: (_Average(), shape[:1]),
    "Flatten": lambda layer, shape: (_Flatten(), (math.prod(shape),)),
    "Dense": _dense,
    "Dropout": lambda layer, shape: (nn.Dropout(layer.get("rate", 0.0)), shape),
    "Activation": lambda layer, shape: (_ACTIVATIONS[layer.get("activation", "linear")](), shape),
}
