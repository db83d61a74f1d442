"""`graft list backbones`: the catalogue as a table, filtered. Heavy rooms are opened for --max-ms alone."""

import re
from functools import cache

import typer

from graft import backbones
from graft.backbones import Entry, Speed
from graft.cli.show import Rows, print_table
from graft.errors import GraftError

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def list_backbones(
    modality: str | None, max_parameters: str | None, licence: str | None, max_ms: float | None, on_disk: bool | None
) -> None:
    """Print the backbones that pass every filter. Without a network, only those on the disk unless --anywhere is given."""
    most = None if max_parameters is None else count_of(max_parameters)
    # --anywhere says that the disk does not matter; only without either is the network looked for.
    local = True if on_disk or (on_disk is None and backbones.offline()) else None
    entries = backbones.catalogue(modality=modality, max_parameters=most, licence=licence, on_disk=local)
    times: dict[str, str] | None = None
    if max_ms is not None:
        if not max_ms > 0:
            raise GraftError(f"--max-ms is {max_ms}, expected more than 0.")
        known = {entry.name: _milliseconds(entry) for entry in entries}
        entries = [entry for entry in entries if known[entry.name][0] <= max_ms]
        times = {name: f"{'' if measured else 'about '}{ms:.1f}" for name, (ms, measured) in known.items()}
    if not entries:
        named = {"--modality": modality, "--max-parameters": max_parameters, "--licence": licence, "--max-ms": max_ms}
        raise GraftError(_nothing([f"{name} {value}" for name, value in named.items() if value is not None], local, on_disk is None))
    print_table(*backbone_rows(entries, times))
    if local and on_disk is None:
        typer.echo("\nThe hub does not answer: only what is on this disk. --anywhere lists the rest.")
    if times is not None:
        typer.echo(
            f"\nms: an item, as a run measured it here; about: estimated from the multiply-adds ({_speed().gmacs:.0f} G a second here) and "
            f"from what the layers write ({_speed().writes:.0f} M a second), nothing decoded, texts of 128 tokens."
        )


def backbone_rows(entries: list[Entry] | None = None, times: dict[str, str] | None = None) -> Rows:
    """The header and a row a backbone; all of the catalogue unless given. times: name -> milliseconds in words, adds a column."""
    header = ("backbone", "reads", "parameters", "input", "multiply-adds", "licence", "pretrained on", "published", "weights")
    rows = []
    for entry in backbones.catalogue() if entries is None else entries:
        cells = (
            entry.name,
            entry.modality,
            f"{entry.parameters / 1e6:.1f} M",
            entry.input,
            "" if entry.gmacs is None else f"{entry.gmacs:.2f} G",
            entry.licence or "unknown",
            entry.pretrained_on or "unknown",
            "" if entry.published is None else f"{entry.published:.1f} {entry.benchmark}",
            "on this disk" if entry.on_disk else "to download",
        )
        rows.append(cells if times is None else (*cells, times[entry.name]))
    return (header if times is None else (*header, "ms")), rows


def count_of(text: str) -> float:
    """ "5M", "300k", "1.5b" or a plain number -> the number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", text.strip().lower())
    if found is None:
        raise GraftError(f"--max-parameters is {text!r}, expected a number, or one that ends in k, M or B, e.g. 5M.")
    return float(found[1]) * _SUFFIXES[found[2]]


def _milliseconds(entry: Entry) -> tuple[float, bool]:
    """What an item takes here, and whether that was measured on real items; else it is estimated. Endless where nothing is known."""
    from graft.features import known_throughput

    measured = known_throughput(entry.name)
    if measured is not None:
        return 1000 / measured, True
    return backbones.about_ms(entry, _speed()), False


@cache
def _speed() -> Speed:
    """This machine's, measured once and found again in the cache folder."""
    import torch

    from graft.features import machine, remembered

    here = machine(torch.device("cpu"))
    gmacs = remembered(f"gmacs a second {here}", lambda: backbones.measured_speed().gmacs)
    return Speed(gmacs, remembered(f"million numbers written a second {here}", lambda: backbones.measured_speed().writes))


def _nothing(asked: list[str], local: bool | None, unasked: bool) -> str:
    """Which filters left nothing, and what to do about it."""
    where, way_out = ("in the catalogue", "") if not local else ("on this disk", ", or leave --on-disk out")
    if local and unasked:
        where, way_out = "on this disk (the hub does not answer)", ", or add --anywhere"
    passes = f"passes {', '.join(asked)}. Loosen one of them" if asked else "is known. Name one of your own: checkpoint:PATH"
    return f"no backbone {where} {passes}{way_out}; `graft list sources` says how other weights are named."
