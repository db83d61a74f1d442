"""Image networks by architecture name: built, filled with weights, cut into stages. Serves the sources timm and checkpoint."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from graft import torchvision_ops
from graft.backbones import _cifar_resnet, _folders, _images, _vision_stages
from graft.backbones._image_network import as_backbone
from graft.backbones.base import Backbone
from graft.errors import GraftError, near_miss
from graft.optional import require

_KEPT = (
    "input_size",
    "fixed_input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
    "license",
    "description",
    "url",
    "hf_hub_id",
)
# Widths that timm can build but has no name for: its named functions fix the multiplier.
_GENERATORS = {"mobilenetv1_100": "_gen_mobilenet_v1", "mobilenetv2_100": "_gen_mobilenet_v2"}


def from_tensors(recipe: dict[str, Any], tensors: _folders.Tensors, name: str) -> Backbone:
    """The network that a checkpoint's config names, with the checkpoint's weights and without its classifier.

    recipe: "architecture" (a timm name, or cifar_resnet20 and the like), optional "model_args" and
    "pretrained_cfg", as in the config.json of timm's hub folders.
    Raises GraftError when the architecture is unknown or its arguments, or the weights do not fit.
    """
    network = create(recipe, name)
    classifier = (recipe.get("pretrained_cfg") or {}).get("classifier") or network.default_cfg.get("classifier") or ()
    head = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    # Inception's second classifier is a head too.
    head += ("AuxLogits",)
    if not set(network.state_dict()) <= set(tensors):
        # The original authors' names, which timm translates when it loads the same file from the hub.
        translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if translate is not None:
            tensors = translate(tensors, network)
    _folders.fit(network, tensors, name, head)
    return assemble(network, recipe, name, lambda: _linear(tensors, head[0]) if len(head) == 2 else None)


def _linear(tensors: _folders.Tensors, name: str) -> nn.Linear | None:
    """The classifier called so among a checkpoint's tensors, None where it is not there or no linear layer."""
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    if weight is None or weight.ndim != 2:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def create(recipe: dict[str, Any], name: str) -> Any:
    """The recipe's network with random weights and no classifier."""
    architecture = recipe["architecture"]
    # timm writes the number of classes here too; the classifier is left out.
    arguments = {key: value for key, value in (recipe.get("model_args") or {}).items() if key != "num_classes"}
    if _cifar_resnet.is_name(architecture):
        return _cifar_resnet.CifarResNet(architecture)
    timm = library()
    check_name(architecture, name)
    generator = _GENERATORS.get(architecture.partition(".")[0])
    try:
        if generator and "channel_multiplier" in arguments:
            efficientnet = sys.modules["timm.models.efficientnet"]
            return getattr(efficientnet, generator)(architecture.partition(".")[0], num_classes=0, **arguments)
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except TypeError as error:
        raise GraftError(
            f"{name}: timm's {architecture} does not take model_args {arguments} ({error}). Correct them in config.json."
        ) from error


def assemble(network: Any, recipe: dict[str, Any], name: str, classifier: Callable[[], nn.Module | None] = lambda: None) -> Backbone:
    """A timm network without classifier -> Backbone. One stage, with a warning, where its family is not known.

    recipe: what builds the same network again; its "pretrained_cfg" gives the preprocessing. classifier: see Backbone.
    """
    published = recipe.get("pretrained_cfg") or dict(getattr(network, "default_cfg", {}))
    recipe = {**recipe, "num_classes": 0, "pretrained_cfg": {key: published[key] for key in _KEPT if published.get(key) is not None}}
    preprocessing = _images.preprocessing_of(published, name)
    network.eval()

    def write(backbone: Backbone, folder: Path, names: dict[str, str]) -> None:
        _folders.write(backbone, folder, names, recipe)

    def resized(size_px: int) -> Backbone:
        if published.get("fixed_input_size"):
            own = preprocessing["size_px"][0]
            raise GraftError(
                f"{name}@{size_px}px: the network takes images of {own} px only (timm's fixed_input_size). Leave @{size_px}px out, or take "
                "a convolutional network."
            )
        changed = {**recipe, "pretrained_cfg": {**recipe["pretrained_cfg"], "input_size": (3, size_px, size_px)}}
        return assemble(create(changed, name), changed, name)

    return as_backbone(
        _vision_stages.cut(network),
        _vision_stages.Whole(network),
        name,
        preprocessing,
        _card(published),
        untrained=lambda: assemble(create(recipe, name), recipe, name),
        write=write,
        resized=resized,
        classifier=classifier,
    )


def _card(published: dict[str, Any]) -> dict[str, str]:
    hub = str(published.get("hf_hub_id") or "")
    card = {
        "licence": published.get("license"),
        "pretrained_on": published.get("description") or published.get("tag"),
        "published": published.get("url") or (f"https://huggingface.co/{hub}" if "/" in hub.strip("/") else ""),
    }
    return {key: str(value) for key, value in card.items() if value}


def library() -> ModuleType:
    torchvision_ops.ensure()
    return require("timm", "image")


def check_name(architecture: str, where: str) -> None:
    timm = library()
    if not timm.is_model(architecture):
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise GraftError(
            f"{where}: timm {timm.__version__} has no network called {architecture!r}.{near_miss(architecture, known)} "
            "timm.list_models() lists all."
        )
