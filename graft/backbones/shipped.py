"""`shipped:NAME`: small networks that come inside the package. No network, no other package's weights."""

from pathlib import Path

from graft.backbones import _folders, checkpoint
from graft.backbones.base import Backbone
from graft.errors import GraftError, near_miss

FOLDER = Path(__file__).parent / "_shipped"


def names() -> list[str]:
    """What comes with the package, as written behind "shipped:", in alphabetical order."""
    return sorted(folder.name for folder in FOLDER.glob("*") if (folder / "config.json").is_file())


def load(name: str) -> Backbone:
    """NAME is a folder of the package's `backbones/_shipped/`: model.safetensors, config.json and a card, README.md.

    The weights may be stored as halves; they compute in float32. "card" in config.json is the backbone's card.
    Raises GraftError for another NAME, with the near miss.
    """
    if name not in names():
        raise GraftError(
            f"shipped:{name}: graft comes with no such backbone, expected one of {', '.join(names())}.{near_miss(name, names())}"
        )
    folder = FOLDER / name
    backbone = checkpoint.load(str(folder))
    backbone.name = f"shipped:{name}"
    backbone.card = {**backbone.card, **_folders.read_json(folder / "config.json").get("card", {})}
    return backbone
