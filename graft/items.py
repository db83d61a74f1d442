"""One item of a data set: how an image is opened, what an item's content hashes to. Pillow and numpy only."""

import hashlib
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from graft.errors import GraftError

# What Pillow and zipfile raise, besides OSError, on bytes that are no whole image: found by feeding them damaged files.
_DAMAGE = (
    Image.DecompressionBombError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class ZipEntry:
    """A file inside a .zip archive, read when it is needed."""

    archive: str
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"


class Row(str):
    """A table row: the text that a text backbone reads ("age: 39; work: private"), and its cells for who reads columns.

    cells: {column: value}, in the table's order; value is a float, a str, or None where the cell is missing. Two rows may read alike and
    have different cells, as the text rounds numbers.
    """

    cells: dict[str, float | str | None]

    def __new__(cls, text: str, cells: dict[str, float | str | None]) -> "Row":
        row = super().__new__(cls, text)
        row.cells = cells
        return row

    def __reduce__(self) -> tuple[type["Row"], tuple[str, dict[str, float | str | None]]]:
        return Row, (str(self), self.cells)


@lru_cache(maxsize=8)
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def read_bytes(item: Any) -> bytes:
    """The encoded bytes behind a path, a ZipEntry, bytes, or a Hugging Face image ({"bytes", "path"})."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, ZipEntry):
        return _archive(item.archive).read(item.name)
    if isinstance(item, dict):
        return item["bytes"] if item.get("bytes") is not None else Path(item["path"]).read_bytes()
    return Path(item).read_bytes()


def open_image(item: Any, at_least_px: int | None = None) -> Image.Image:
    """The decoded RGB image, upright by its EXIF tag.

    item: path, ZipEntry, encoded bytes, Hugging Face image dict, PIL image, or array (h, w) or (h, w, 3) of uint8.
    at_least_px: the shorter side that is needed; a JPEG may then be decoded at a reduced size no smaller than it.
    Raises OSError (Pillow's UnidentifiedImageError among them) when the bytes are no whole image.
    """
    if isinstance(item, Image.Image):
        image = item
    elif isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim not in (2, 3):
            raise GraftError(
                f"an image array has shape {item.shape} and type {item.dtype}, expected (h, w) or (h, w, 3) of uint8 in 0..255"
            )
        image = Image.fromarray(item)
    else:
        image = _decode(item, at_least_px)
    if image.mode.startswith("I;16"):
        # Pillow clips at 255 here, which turns a 16-bit image white; the upper byte is what a viewer shows.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "LA", "PA", "RGBA"):
        # Transparent parts are shown on white, as a viewer shows them; a plain convert would show hidden colours.
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _decode(item: Any, at_least_px: int | None) -> Image.Image:
    """The image in encoded bytes, all of it read, upright. Raises OSError whatever is wrong with the bytes."""
    try:
        image = Image.open(io.BytesIO(read_bytes(item)))
        if at_least_px is not None and image.format == "JPEG":
            image.draft("RGB", (at_least_px, at_least_px))
        image.load()
        return ImageOps.exif_transpose(image)
    except _DAMAGE as error:
        raise OSError(f"no whole image: {error}") from error


def content_key(item: Any, modality: str) -> bytes:
    """16 bytes that name an item's content: equal content, equal key, wherever the file lies.

    modality: "text" (item is a str), "table" (a Row), "image" (anything `open_image` takes), "row" or "signal" (an array).
    """
    if modality == "table":
        # Columns of another order are the same row.
        payload = b"cells\0" + repr(sorted(item.cells.items())).encode("utf-8", "surrogatepass")
    elif modality == "text":
        payload = b"text\0" + str(item).encode("utf-8", "surrogatepass")
    elif isinstance(item, Image.Image):
        payload = f"pixels\0{item.mode}\0{item.size}\0".encode() + item.tobytes()
    elif isinstance(item, np.ndarray):
        payload = f"array\0{item.dtype}\0{item.shape}\0".encode() + np.ascontiguousarray(item).tobytes()
    else:
        payload = read_bytes(item)
    return hashlib.blake2b(payload, digest_size=16).digest()
