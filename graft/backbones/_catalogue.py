"""What is known of backbones before one is loaded: catalogue.csv, filtered. Standard library only; the speed alone needs torch."""

import csv
import dataclasses
import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from graft.errors import GraftError, near_miss

if TYPE_CHECKING:
    from graft.backbones.base import Backbone

MODALITIES = ("image", "text")
# Texts are compared at one length, whatever the longest is that a network takes.
TOKENS = 128
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Entry:
    """What is known of one backbone.

    name: as it is loaded. modality: "image" or "text". parameters: numbers in it, without its old classifier. input: what it takes of an
    item, e.g. "224 px", "256 tokens", "" where unknown. size_px: side of its images. gmacs: multiply-adds for one item, in thousand
    millions; a text is counted at 128 tokens. licence: of the weights, "" where none was found. pretrained_on: the data.
    published: a published score in percent on `benchmark`. on_disk: whether it loads without a network. writes: numbers that its layers
    write for one item, in millions: where multiply-adds are few, these take the time.
    """

    name: str
    modality: str
    parameters: int
    input: str
    size_px: int | None
    gmacs: float | None
    licence: str
    pretrained_on: str
    published: float | None
    benchmark: str
    on_disk: bool
    writes: float | None = None


class Speed(NamedTuple):
    """What this machine does a second: thousand million multiply-adds of a wide layer, million numbers that a thin one writes."""

    gmacs: float
    writes: float


@dataclass(frozen=True)
class Row:
    """A line of the file: the entry, the package (graft among them) or the hub's repository of the weights, and whether it is tried where
    none is named."""

    entry: Entry
    package: str
    repository: str
    shortlist: bool


def catalogue(
    *,
    modality: str | None = None,
    max_parameters: float | None = None,
    licence: str | None = None,
    max_ms: float | None = None,
    on_disk: bool | None = None,
    speed: Speed | None = None,
) -> list[Entry]:
    """The backbones of the catalogue that pass every filter, those on the disk first, then the smaller first.

    modality: "image", "text" or "table" (rows are read as text). max_parameters: at most so many. licence: "apache-2.0" and the like,
    in any case; an unknown licence passes none. max_ms: at most so many milliseconds an item, see `about_ms`. on_disk: True: only
    what loads without a network; False: only what does not. speed: this machine's; measured once a process where it is needed and not
    given.
    Raises GraftError for an unknown modality or licence, and limits that are not positive.
    """
    wanted = "text" if modality == "table" else modality
    entries = [row.entry for row in recorded()]
    if wanted is not None and wanted not in MODALITIES:
        raise GraftError(f"modality is {modality!r}, expected one of {', '.join(MODALITIES)}.{near_miss(modality, MODALITIES)}")
    licences = sorted({entry.licence for entry in entries if entry.licence})
    if licence is not None and licence.lower() not in licences:
        raise GraftError(f"licence is {licence!r}, expected one of {', '.join(licences)}.{near_miss(licence, licences)}")
    for what, limit in (("max_parameters", max_parameters), ("max_ms", max_ms)):
        # Written so that a limit that is no number fails too.
        if limit is not None and not limit > 0:
            raise GraftError(f"{what} is {limit}, expected more than 0.")
    kept = [
        entry
        for entry in entries
        if (wanted is None or entry.modality == wanted)
        and (max_parameters is None or entry.parameters <= max_parameters)
        and (licence is None or entry.licence == licence.lower())
        and (on_disk is None or entry.on_disk == on_disk)
    ]
    if max_ms is not None:
        here = speed or measured_speed()
        kept = [entry for entry in kept if about_ms(entry, here) <= max_ms]
    return sorted(kept, key=lambda entry: (not entry.on_disk, MODALITIES.index(entry.modality), entry.parameters))


def about_ms(entry: Entry, speed: Speed) -> float:
    """Milliseconds an item, about: what the network multiplies and what it writes, over this machine's speed in each.

    Infinite where the work was not counted. Decoding and preparing an item is not in it.
    """
    if entry.gmacs is None or entry.writes is None:
        return math.inf
    return 1000 * (entry.gmacs / speed.gmacs + entry.writes / speed.writes)


@cache
def measured_speed() -> Speed:
    """This machine's, in PyTorch with its present threads. Takes half a second, once a process."""
    from graft.backbones import _count

    return _count.speed()


def entry_of(backbone: "Backbone") -> Entry:
    """What is known of a loaded backbone: counted parameters and multiply-adds, the facts of its card or of the catalogue."""
    from graft.backbones import _count

    known = {row.entry.name: row.entry for row in recorded()}.get(backbone.name)
    size = backbone.preprocessing.get("size_px")
    size_px = size if isinstance(size, int) or size is None else int(size[0])
    tokens = backbone.preprocessing.get("max_tokens")
    gmacs, writes = _count.work_of(backbone)
    counted = Entry(
        name=backbone.name,
        modality=backbone.modality,
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        input=f"{size_px} px" if size_px else f"{tokens} tokens" if tokens else "",
        size_px=size_px,
        gmacs=gmacs,
        licence=backbone.card.get("licence", "").lower(),
        pretrained_on=backbone.card.get("pretrained_on", ""),
        published=None,
        benchmark="",
        on_disk=True,
        writes=writes,
    )
    if known is None:
        return counted
    return dataclasses.replace(
        counted,
        licence=known.licence or counted.licence,
        pretrained_on=known.pretrained_on or counted.pretrained_on,
        published=known.published,
        benchmark=known.benchmark,
    )


def recorded() -> list[Row]:
    """The whole file, in its order. What is on the disk is looked up anew each time."""
    with (Path(__file__).parent / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> Row:
    size_px = int(line["size_px"]) if line["size_px"] else None
    entry = Entry(
        name=line["name"],
        modality=line["modality"],
        parameters=int(line["parameters"]),
        input=f"{size_px} px" if size_px else f"{line['tokens']} tokens" if line["tokens"] else "",
        size_px=size_px,
        gmacs=float(line["gmacs"]) if line["gmacs"] else None,
        licence=line["licence"],
        pretrained_on=line["pretrained_on"],
        published=float(line["published"]) if line["published"] else None,
        benchmark=line["benchmark"],
        on_disk=_is_on_disk(line["package"], line["repository"]),
        writes=float(line["writes"]) if line["writes"] else None,
    )
    return Row(entry, line["package"], line["repository"], line["shortlist"] == "yes")


def _is_on_disk(package: str, repository: str) -> bool:
    """Whether an installed package, graft itself among them, carries the weights, or the hub's cache holds them."""
    if package:
        return importlib.util.find_spec(package) is not None
    if importlib.util.find_spec("huggingface_hub") is None:
        return False
    from huggingface_hub import try_to_load_from_cache

    # What is known to be absent is answered by a marker, not by a path.
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in _WEIGHTS)
