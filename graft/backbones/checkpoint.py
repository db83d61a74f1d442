"""`checkpoint:PATH`: weights in a local folder or file. Nothing here touches the network."""

from pathlib import Path

from graft.backbones import _folders, tiny
from graft.backbones import timm as timm_source
from graft.backbones.base import Backbone
from graft.errors import GraftError


def load(name: str) -> Backbone:
    folder = Path(name).expanduser()
    config = _folders.read_json(folder / "config.json")
    tensors = _folders.read_tensors(folder / "model.safetensors")
    return timm_source.from_tensors(config, tensors, f"checkpoint:{name}")
