"""`timm:NAME`: image networks of the timm library with their published weights. Also builds what image checkpoints name."""

import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from graft import torchvision_ops
from graft.backbones import _folders, _images, _vision_stages
from graft.backbones.base import Backbone
from graft.errors import GraftError, near_miss
from graft.optional import require

_KEPT = ("input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "license", "description", "url", "hf_hub_id")


def load(name: str) -> Backbone:
    """NAME as timm knows it ("resnet18", "resnet18.a1_in1k"), or a repository of timm weights on the hub ("owner/model").

    Weights come from the local cache or, where the network is allowed, from the hub.
    Raises GraftError for a name timm does not know, and where the weights cannot be had.
    """
    timm = _library()
    if "/" not in name:
        _check_name(name, f"timm:{name}")
    known = f"hf-hub:{name}" if "/" in name and not name.startswith("hf-hub:") else name
    try:
        network = timm.create_model(known, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        # RuntimeError is what timm raises for a network that was published without weights.
        raise GraftError(
            f"timm:{name}: its weights could not be had ({type(error).__name__}: {str(error).partition(chr(10))[0]}). Allow the network (unset "
            "HF_HUB_OFFLINE), or download them where there is one and give the folder: checkpoint:PATH."
        ) from error
    published = network.pretrained_cfg
    recipe = {"architecture": published["architecture"], "num_classes": 0, "model_args": {}, "pretrained_cfg": published}
    return assemble(network, recipe, f"timm:{name}")


def from_tensors(recipe: dict[str, Any], tensors: _folders.Tensors, name: str) -> Backbone:
    """The network that a checkpoint's config names, with the checkpoint's weights and without its classifier.

    recipe: "architecture" (a timm name), optional "model_args" and "pretrained_cfg", as in the config.json of timm's hub folders.
    Raises GraftError when timm does not know the architecture or its arguments, or the weights do not fit.
    """
    network = create(recipe, name)
    classifier = recipe.get("pretrained_cfg", {}).get("classifier") or network.default_cfg.get("classifier") or ()
    head = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    # Inception's second classifier is a head too.
    head += ("AuxLogits",)
    if not set(network.state_dict()) <= set(tensors):
        # The original authors' names, which timm translates when it loads the same file from the hub.
        translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if translate is not None:
            tensors = translate(tensors, network)
    _folders.fit(network, tensors, name, head)
    return assemble(network, recipe, name)


def create(recipe: dict[str, Any], name: str) -> nn.Module:
    """The recipe's network with random weights and no classifier."""
    timm = _library()
    architecture, arguments = recipe["architecture"], dict(recipe.get("model_args") or {})
    _check_name(architecture, name)
    generator = _GENERATORS.get(architecture.partition(".")[0])
    try:
        if generator and "channel_multiplier" in arguments:
            efficientnet = sys.modules["timm.models.efficientnet"]
            return getattr(efficientnet, generator)(architecture.partition(".")[0], num_classes=0, **arguments)
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except TypeError as error:
        raise GraftError(f"{name}: timm's {architecture} does not take model_args {arguments} ({error}). Correct them in config.json.") from error


# Widths that timm can build but has no name for: its named functions fix the multiplier.
_GENERATORS = {"mobilenetv1_100": "_gen_mobilenet_v1", "mobilenetv2_100": "_gen_mobilenet_v2"}


def assemble(network: nn.Module, recipe: dict[str, Any], name: str) -> Backbone:
    """A timm network without classifier -> Backbone. One stage, with a warning, where its family is not known.

    recipe: what builds the same network again; its "pretrained_cfg" gives the preprocessing.
    """
    published = recipe.get("pretrained_cfg") or dict(getattr(network, "default_cfg", {}))
    recipe = {**recipe, "num_classes": 0, "pretrained_cfg": {key: published[key] for key in _KEPT if published.get(key) is not None}}
    preprocessing = _images.preprocessing_of(published, name)
    network = network.eval().to(memory_format=torch.channels_last)
    stages, width = _stages(network, preprocessing["size_px"], name)
    names = _folders.own_names(network, stages)

    def fresh(seed: int) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return assemble(create(recipe, name), recipe, name)

    def write(backbone: Backbone, folder: Path) -> None:
        _folders.write(backbone, folder, names, recipe)

    return Backbone(
        name=name,
        modality="image",
        width=width,
        stages=stages,
        prepare=_images.preparer(preprocessing),
        fresh=fresh,
        write=write,
        preprocessing=preprocessing,
        card=_card(published),
    )


def _stages(network: nn.Module, size_px: list[int], name: str) -> tuple[_vision_stages.Stages, int]:
    """The network's stages and its width; they are tried on one image, so a member of a family that is built otherwise is noticed."""
    whole = _vision_stages.Whole(network)
    image = torch.rand(1, 3, *size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = whole(image)
        stages = _vision_stages.cut(network)
        if stages is not None:
            state = image
            for _, stage in stages:
                state = stage.eval()(state)
            kept = {id(parameter) for _, stage in stages for parameter in stage.parameters()}
            same = state.shape == expected.shape and torch.allclose(state, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
            if same and kept == {id(parameter) for parameter in network.parameters()}:
                return stages, expected.shape[1]
    warnings.warn(
        f"{name}: graft does not know how {type(network).__name__} is built, so it is one layer group: strategies that treat "
        "lower and upper layers differently will treat it as a whole.",
        stacklevel=4,
    )
    return [("network", whole)], expected.shape[1]


def _card(published: dict[str, Any]) -> dict[str, str]:
    hub = str(published.get("hf_hub_id") or "")
    card = {
        "licence": published.get("license"),
        "pretrained_on": published.get("description") or published.get("tag"),
        "published": published.get("url") or (f"https://huggingface.co/{hub}" if "/" in hub.strip("/") else ""),
    }
    return {key: str(value) for key, value in card.items() if value}


def _library() -> ModuleType:
    torchvision_ops.ensure()
    return require("timm", "image")


def _check_name(architecture: str, where: str) -> None:
    timm = _library()
    if not timm.is_model(architecture):
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise GraftError(
            f"{where}: timm {timm.__version__} has no network called {architecture!r}.{near_miss(architecture, known)} "
            "timm.list_models() lists all."
        )
