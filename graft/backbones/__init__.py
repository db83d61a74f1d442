"""Pretrained networks by name: `SOURCE:NAME`. One file per source; a new file dropped in here is a new source."""

import importlib
import importlib.util
import os
import pkgutil
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from graft.backbones._catalogue import Entry, Row, Speed, about_ms, catalogue, entry_of, measured_speed, recorded
from graft.device import chosen
from graft.errors import GraftError, near_miss

if TYPE_CHECKING:
    from graft.backbones.base import Backbone

__all__ = [
    "SOURCES",
    "Entry",
    "Speed",
    "about_ms",
    "build",
    "catalogue",
    "entry_of",
    "load_backbone",
    "measured_speed",
    "offline",
    "on_disk",
    "shortlist",
]

# Every file here is a source of weights and has `load(name)`, but for base.py and those that begin with an underscore.
SOURCES: tuple[str, ...] = tuple(
    sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != "base" and found.name[0] != "_")
)

# What may stand behind any name: another size of images, or the first layers only.
_VARIANT = re.compile(r"(.+)@([1-9]\d*)(px|layers?)")
# What this source is given goes on to another source, which reads such an ending itself.
_PASSES_ON = "untrained"


def load_backbone(name: str, device: str | None = None) -> "Backbone":
    """The backbone called SOURCE:NAME, e.g. "timm:resnet18", "sentence:minilm", "checkpoint:weights/mine".

    Behind a name of an image network, `@96px` gives it images of 96 x 96 px; behind a name of a text encoder, `@3layers` ends it after
    its third transformer layer. The weights stay the same. In front, `untrained:` replaces them by random ones.
    device: where it lives, and with it all that is computed or trained with it; see `graft.device.chosen`.
    Raises GraftError for an unknown source, with the near miss, and for a device that is not there; the source itself raises for a name
    it cannot load.
    """
    return build(name, "load").to(chosen(device))


def build(name: str, how: str) -> "Backbone":
    """As `load_backbone`, made by the source's function called `how` where it has one, else by its `load`."""
    source, colon, rest = name.partition(":")
    if source in SOURCES and colon and rest:
        module = importlib.import_module(f"{__name__}.{source}")
        make = getattr(module, how, module.load)
        variant = _VARIANT.fullmatch(rest)
        # A folder may really be called so.
        if variant is None or source == _PASSES_ON or Path(rest).expanduser().exists():
            return make(rest)
        whole: Backbone = make(variant[1])
        return whole.at_size(int(variant[2])) if variant[3] == "px" else whole.first_layers(int(variant[2]))
    if Path(name).expanduser().exists():
        raise GraftError(f"backbone {name!r} is a path, expected SOURCE:NAME. Did you mean 'checkpoint:{name}'?")
    if source in SOURCES:
        raise GraftError(f"backbone {name!r} has no name behind the source, expected {source}:NAME.")
    hint = near_miss(name, [f"{known}:{rest}" for known in SOURCES]) if colon else _missing_source(name)
    raise GraftError(f"backbone {name!r}: expected SOURCE:NAME with one of the sources {', '.join(SOURCES)}.{hint}")


def _missing_source(name: str) -> str:
    """The near miss of a name that came without its source."""
    if name in ("image", "text"):
        return f" Did you mean 'tiny:{name}'?"
    if name.lower() in ("minilm", "all-minilm-l6-v2"):
        return " Did you mean 'sentence:minilm'?"
    if importlib.util.find_spec("timm") is not None:
        from graft import torchvision_ops

        torchvision_ops.ensure()
        import timm

        if timm.is_model(name):
            return f" Did you mean 'timm:{name}'?"
    return f" Did you mean 'hf:{name}' or 'timm:{name}'?"


def on_disk(modality: str) -> list[str]:
    """Backbones of a modality's shortlist that load now without a network: from an installed package, or from the hub's cache.

    modality: "image", "text" or "table" (rows are read as text). Local folders are named by their owner.
    """
    return [row.entry.name for row in _shortlisted(modality) if row.entry.on_disk]


def shortlist(modality: str) -> list[str]:
    """Candidates where none are named: what is on the disk; where that is only what graft ships and the hub answers, its small ones too."""
    local = on_disk(modality)
    if any(not name.startswith("shipped:") for name in local) or offline():
        return local
    return local + [row.entry.name for row in _shortlisted(modality) if not row.package]


def _shortlisted(modality: str) -> list[Row]:
    """The catalogue's shortlist of a modality. Of the same weights in a package and on the hub the package's stay, if installed."""
    marked = [row for row in recorded() if row.shortlist and row.entry.modality == ("image" if modality == "image" else "text")]
    carried = {row.repository for row in marked if row.package and row.entry.on_disk}
    return [row for row in marked if row.package or row.repository not in carried]


def offline() -> bool:
    """Whether weights cannot be downloaded now: HF_HUB_OFFLINE says so, or the hub does not answer within seconds."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or not _hub_answers()


def _hub_answers() -> bool:
    """Whether the hub can be reached at all, in seconds; its own library tries for a minute a name before it gives up."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=3):
            return True
    except OSError:
        return False
