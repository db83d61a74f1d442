"""`hf:NAME`: text encoders and image networks of the transformers library, from the hub or a local folder."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from graft.backbones import _encoders, _folders
from graft.backbones._image_network import as_backbone
from graft.backbones.base import Backbone
from graft.errors import GraftError

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in the order of Pillow's numbers


def load(name: str) -> Backbone:
    """NAME is a hub name ("distilbert-base-uncased", "facebook/dinov2-small") or a local folder.

    A text becomes the mean over its tokens, as sentence-transformers does for a model without a pooling of its own. An image
    becomes what its network pools, or the class token of a vision transformer.
    Raises GraftError where files are missing or cannot be had, and for a model that is neither.
    """
    return load_location(str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name, f"hf:{name}")


def load_location(location: str, shown: str) -> Backbone:
    """As `load`, with the name for the user given apart."""
    settings = _image_settings(location, shown)
    return _encoders.load(location, shown, _encoders.Pooling()) if settings is None else _load_image(location, settings, shown)


def _image_settings(location: str, shown: str) -> dict[str, Any] | None:
    """What preprocessor_config.json says about images; None where the model reads no images."""
    transformers = _encoders.library()
    with _encoders.quiet(), _encoders.explained(location, shown):
        config = transformers.AutoConfig.from_pretrained(location, local_files_only=_encoders.is_local(location))
        mapping = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        if config.model_type not in mapping:
            return None
        if hasattr(config, "vision_config"):
            raise GraftError(
                f"{shown}: {config.model_type} reads images and texts together, expected a network of images alone. timm has the image "
                "towers of such models, e.g. timm:vit_base_patch16_clip_224.openai."
            )
        mixin = transformers.image_processing_base.ImageProcessingMixin
        return mixin.get_image_processor_dict(location, local_files_only=_encoders.is_local(location))[0]


def _load_image(location: str, settings: dict[str, Any], shown: str) -> Backbone:
    transformers = _encoders.library()
    with _encoders.quiet(), _encoders.explained(location, shown):
        network = _encoders.pretrained(transformers.AutoModel, location, shown)
    return _assemble(network, settings, shown, _encoders.read_card(location))


def preprocessing_of(settings: dict[str, Any], shown: str) -> dict[str, Any]:
    """preprocessor_config.json -> the keys of `_images.preprocessing_of`."""
    size, crop = settings.get("size", 224), settings.get("crop_size")
    size = (
        {"shortest_edge": size}
        if isinstance(size, int) and crop
        else {"height": size, "width": size}
        if isinstance(size, int)
        else dict(size)
    )
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    factor = settings.get("rescale_factor", 1 / 255)
    if settings.get("do_rescale", True) and abs(factor * 255 - 1) > 1e-3:
        raise GraftError(f"{shown}: rescale_factor {factor}, expected 1/255 (pixels in 0..1). Choose another checkpoint.")
    if "shortest_edge" in size:
        edge = size["shortest_edge"]
        share = settings.get("crop_pct")
        if share and edge < 384:  # ConvNeXt's own rule: below 384 px, enlarge and crop
            target, resize = [edge, edge], [int(edge / share)] * 2
        else:
            target = [crop["height"], crop["width"]] if crop and settings.get("do_center_crop", True) else [edge, edge]
            resize = [edge, edge]
        mode = "center"
    elif "height" in size:
        resize = [size["height"], size["width"]]
        target = [crop["height"], crop["width"]] if crop and settings.get("do_center_crop") else resize
        mode = "squash"
    else:
        raise GraftError(f"{shown}: size {size} in preprocessor_config.json, expected shortest_edge, or height and width.")
    normalised = settings.get("do_normalize", True)
    return {
        "size_px": target,
        "resize_px": resize,
        "crop_mode": mode,
        "interpolation": _FILTERS[settings.get("resample", 2)],
        "mean": list(settings.get("image_mean", [0.5] * 3)) if normalised else [0.0] * 3,
        "std": list(settings.get("image_std", [0.5] * 3)) if normalised else [1.0] * 3,
    }


def _at_size(settings: dict[str, Any], preprocessing: dict[str, Any], size_px: int) -> dict[str, Any]:
    """preprocessor_config.json for another size; resize and crop keep their ratio."""
    if preprocessing["crop_mode"] == "squash":
        sides = zip(("height", "width"), preprocessing["resize_px"], preprocessing["size_px"], strict=True)
        resize = {side: round(size_px * own / target) for side, own, target in sides}
        crop = {"crop_size": {"height": size_px, "width": size_px}} if settings.get("do_center_crop") else {}
        return {**settings, "size": resize, **crop}
    if settings.get("crop_pct"):
        return {**settings, "size": {"shortest_edge": size_px}}
    own, target = preprocessing["resize_px"][0], preprocessing["size_px"][0]
    return {**settings, "size": {"shortest_edge": round(size_px * own / target)}, "crop_size": {"height": size_px, "width": size_px}}


class _Patches(nn.Module):
    """Pixels -> what the first layer takes, whatever the library wraps it in."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        output = self.embeddings(batch)
        return output[0] if isinstance(output, tuple) else output


class _Layer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output = self.layer(hidden)
        return output[0] if isinstance(output, tuple) else output


class _ClassToken(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.norm(hidden)[:, 0]


class _Mean(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.norm(maps.mean((-2, -1)))


class _Whole(nn.Module):
    """A network in one piece: its pooled output, else its class token."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        output = self.network(pixel_values=batch)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def _cut(network: Any) -> list[tuple[str, nn.Module]] | None:
    kind = network.config.model_type
    if kind in ("vit", "deit", "dinov2"):
        layers = network.layers if hasattr(network, "layers") else network.encoder.layer
        stages = [(f"layer{number}", _Layer(layer)) for number, layer in enumerate(layers, 1)]
        return [("embeddings", _Patches(network.embeddings)), *stages, ("pool", _ClassToken(network.layernorm))]
    if kind == "resnet":
        stages = [(f"stage{number}", stage) for number, stage in enumerate(network.encoder.stages, 1)]
        return [("embedder", network.embedder), *stages, ("pool", nn.Sequential(network.pooler, nn.Flatten()))]
    if kind == "convnext":
        stages = [(f"stage{number}", stage) for number, stage in enumerate(network.encoder.stages, 1)]
        return [("embeddings", network.embeddings), *stages, ("pool", _Mean(network.layernorm))]
    return None


def _assemble(network: Any, settings: dict[str, Any], shown: str, card: dict[str, str]) -> Backbone:
    preprocessing = preprocessing_of(settings, shown)
    config = network.config
    if config.model_type in ("vit", "deit") and getattr(network, "pooler", None) is not None:
        # Classifiers are saved without this layer, so it would be random; the class token is what they use.
        network.pooler = None

    def untrained() -> Backbone:
        with _encoders.quiet():
            return _assemble(_encoders.library().AutoModel.from_config(config).eval(), settings, shown, card)

    def write(backbone: Backbone, folder: Path, names: dict[str, str]) -> None:
        _folders.write_json(folder / "preprocessor_config.json", settings)
        _folders.write(backbone, folder, names, config.to_dict())

    def resized(size_px: int) -> Backbone:
        with _encoders.quiet():
            other = _encoders.library().AutoModel.from_config(config).eval()
        return _assemble(other, _at_size(settings, preprocessing, size_px), shown, card)

    return as_backbone(_cut(network), _Whole(network), shown, preprocessing, card, untrained=untrained, write=write, resized=resized)
