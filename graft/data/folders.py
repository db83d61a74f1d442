"""Finds images and their labels in a folder, or in a .zip of one: root/class/img, root/split/class/img. No torch."""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from graft.errors import GraftError
from graft.items import ZipEntry
from graft.records import Finding

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass
class ImageFolder:
    """items: str paths or ZipEntry. ids: paths below the root. labels: class names, None where unlabelled. split: (n,) or None."""

    items: list[str | ZipEntry]
    ids: list[str]
    labels: list[str] | None = None
    split: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and not Path(name).name.startswith(".")


def some(names: Sequence[str], at_most: int = 5) -> str:
    """The first names, joined, and how many more there are: "a, b and 7 more"."""
    more = len(names) - at_most
    return ", ".join(str(name) for name in names[:at_most]) + (f" and {more} more" if more > 0 else "")


def list_images(path: Path) -> ImageFolder:
    """Every image below a folder or inside a .zip, sorted by path; other files are noted.

    A .zip that holds one top folder is entered, down to where the paths part.
    Raises GraftError when there is none, or when the archive is broken or encrypted.
    """
    names = _names_in_zip(path) if path.is_file() else _names_in_folder(path)
    images = sorted(name for name in names if is_image_name(name))
    others = sorted(name for name in names if not is_image_name(name))
    if not images:
        what = f"only other files: {some(others)}" if others else "nothing"
        raise GraftError(
            f"{path}: found no image in it, {what}. Expected images ({', '.join(IMAGE_ENDINGS)}) in one folder for each class."
        )
    if path.is_file():
        top = _common_top(images)
        found = ImageFolder([ZipEntry(str(path), name) for name in images], [name[len(top) :] for name in images])
    else:
        found = ImageFolder([str(path / name) for name in images], images)
    visible = [name for name in others if not Path(name).name.startswith(".") and Path(name).name not in ("Thumbs.db", "desktop.ini")]
    if others:
        found.notes.append(f"left aside, not images: {len(others)} file{'s' * (len(others) > 1)} ({some(visible or others, 3)})")
    return found


def read_folder(path: Path) -> ImageFolder:
    """The images below path with the labels and splits that the folder names give.

    Raises GraftError when the folders are not root/class/img or root/split/class/img, naming the near miss.
    """
    found = list_images(path)
    parts = [tuple(name.split("/")) for name in found.ids]
    tops = sorted({part[0] for part in parts if len(part) > 1})
    if not tops:
        raise GraftError(
            f"{path}: its {len(parts)} images lie in no folder, so they have no label. Expected one folder for each class: "
            f"{path.name}/CLASS/image.jpg{_table_beside(path)}."
        )
    _refuse_slips(path, parts, tops)
    if all(top.lower() in SPLIT_NAMES for top in tops):
        level, class_level = 0, 1
    elif all(len(part) > 2 and part[1].lower() in SPLIT_NAMES for part in parts):
        level, class_level = 1, 0
    else:
        level, class_level = None, 0
    # Below the class folder may come more folders; the class is what counts.
    deep_enough = [len(part) > (1 if level is None else 2) for part in parts]
    if not all(deep_enough):
        loose = [name for name, deep in zip(found.ids, deep_enough, strict=True) if not deep]
        message = f"{len(loose)} images lie outside the class folders and have no label, so they are left out"
        found.findings.append(Finding("unlabelled", "problem", message, tuple(loose)))
        keep = np.flatnonzero(deep_enough)
        found.items, found.ids, parts = [found.items[i] for i in keep], [found.ids[i] for i in keep], [parts[i] for i in keep]
    found.labels = [part[class_level] for part in parts]
    if any(len(part) > (2 if level is None else 3) for part in parts):
        found.notes.append("folders inside the class folders were entered; they do not count as classes")
    found.notes.append(f"label: name of the folder ({some(sorted(set(found.labels)))})")
    if level is not None:
        found.split = np.array([SPLIT_NAMES[part[level].lower()] for part in parts])
    _find_empty_classes(path, found, set(found.labels) | set(tops))
    return found


def _refuse_slips(path: Path, parts: list[tuple[str, ...]], tops: list[str]) -> None:
    """Raise for the usual slips of layout: one level too high, splits without classes, splits beside other folders."""
    below = {top: sorted({part[1] for part in parts if part[0] == top and len(part) > 2}) for top in tops}
    splits = [top for top in tops if top.lower() in SPLIT_NAMES]
    if len(splits) == len(tops):
        if not any(below.values()):
            raise GraftError(
                f"{path}: got a folder of splits ({', '.join(splits)}) that hold images but no class folders. "
                f"Expected {path.name}/{splits[0]}/CLASS/image.jpg{_table_beside(path)}."
            )
        return
    if splits and all(below[split] for split in splits) and any(SPLIT_NAMES[split.lower()] == "train" for split in splits):
        others = [top for top in tops if top not in splits]
        raise GraftError(
            f"{path}: got a folder of splits ({', '.join(splits)}) with other folders beside them ({some(others)}), expected splits alone. "
            f"Move {some(others)} elsewhere. {_inside(path, splits[0])}"
        )
    if len(tops) == 1:
        inside = below[tops[0]]
        hint = (
            f"Did you mean {path}/{tops[0]!r}, which holds the folders {some(inside)}?"
            if len(inside) > 1
            else "Add a folder for each other class."
        )
        raise GraftError(f"{path}: found one class folder ({tops[0]}), expected at least 2. {hint}")
    shared = below[tops[0]]
    inner_splits = all(name.lower() in SPLIT_NAMES for name in shared)
    if len(shared) > 1 and not inner_splits and all(names == shared for names in below.values()):
        raise GraftError(
            f"{path}: got folders ({some(tops)}) that each hold the same folders ({some(shared)}): "
            f"splits or sources, where classes were expected. "
            f"{_inside(path, tops[0])} Splits are recognised by the names train, val and test."
        )


def _inside(path: Path, name: str) -> str:
    return f"Did you mean {path}/{name!r}?" if path.is_dir() else f"To use {name!r} alone, unpack the archive and name that folder."


def _find_empty_classes(path: Path, found: ImageFolder, used: set[str]) -> None:
    if path.is_file():
        return
    empty = sorted(
        entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith((".", "__")) and entry.name not in used
    )
    if empty:
        found.findings.append(Finding("empty-folder", "warning", f"folders without any image are no class: {some(empty)}", tuple(empty)))


def _table_beside(path: Path) -> str:
    """A hint where a table lies next to unlabelled images, for it may hold their labels."""
    if path.is_file():
        return ""
    tables = sorted(entry.name for entry in os.scandir(path) if entry.name.lower().endswith((".csv", ".tsv", ".jsonl", ".parquet")))
    return f", or a table of paths and labels: did you mean {path}/{tables[0]!r}?" if tables else ""


def _names_in_folder(root: Path) -> list[str]:
    """Paths of all files below root, with "/", hidden folders left out; links are followed, but never round in a circle."""
    names, seen, waiting = [], set(), [root]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in os.scandir(folder):
            if entry.is_dir():
                if not entry.name.startswith((".", "__MACOSX")):
                    waiting.append(Path(entry.path))
            else:
                names.append(Path(entry.path).relative_to(root).as_posix())
    return names


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except zipfile.BadZipFile as error:
        raise GraftError(f"{path}: cannot be read as a .zip archive ({error}). Copy or download it again.") from error
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise GraftError(f"{path}: is an encrypted .zip archive, expected a plain one. Unpack it and name the folder.")
    return [entry.filename for entry in entries if not any(part.startswith((".", "__MACOSX")) for part in entry.filename.split("/")[:-1])]


def _common_top(names: list[str]) -> str:
    """The folders that all paths share ("a/b/"), leaving one folder, the class, above each image."""
    folders = [name.split("/")[:-1] for name in names]
    shared: list[str] = []
    # The last folder of a path is its class, and never shared away.
    for level in zip(*(folder[:-1] for folder in folders), strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    # A lone "train" at the top is a split, not a wrapper.
    while shared and shared[-1].lower() in SPLIT_NAMES:
        shared = shared[:-1]
    return "".join(f"{folder}/" for folder in shared)
