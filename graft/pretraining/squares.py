"""Images decoded once: squares in one file on the disk, as the judged view cuts them. Pillow and numpy; never sees a network."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from graft import processes
from graft.device import threads
from graft.features import cache_folder
from graft.files import replacing
from graft.items import open_image
from graft.records import Step

_AT_ONCE = 512  # images between two reports of progress
_LIMIT_BYTES = 16 * 1024**3
_SHARE_OF_FREE = 0.5  # of the disk: the results must find a place too


def side_of(preprocessing: dict[str, Any]) -> int | None:
    """Side in px of the squares that a backbone's judged views are cut from; None where they are cut from no square."""
    if preprocessing.get("crop_mode") == "border":
        return None
    return int(np.max(preprocessing.get("resize_px") or preprocessing["size_px"]))


@contextmanager
def packed(
    items: Sequence[Any], preprocessing: dict[str, Any], folder: Path | None, progress: Callable[[Step], None]
) -> Iterator[tuple[Sequence[Any], str]]:
    """Within, the images as (n, s, s, 3) uint8 in a memory-mapped file, which hold all that a view is cut from; and what is to be told.

    Where the disk has no room for them, or views are cut from no square, the items as they are. folder: where the file lies and stays,
    so that an interrupted run finds it; a temporary one in the cache folder unless given. Resized by the backbone's own filter, the
    judged view of a square is that of the image.
    Raises OSError for an image that cannot be read.
    """
    side = side_of(preprocessing)
    if side is None:
        yield items, "images are decoded in each epoch: this backbone cuts its views from no square"
        return
    place = folder or cache_folder()
    place.mkdir(parents=True, exist_ok=True)
    size = len(items) * side * side * 3
    free = shutil.disk_usage(place).free
    if size > min(_LIMIT_BYTES, free * _SHARE_OF_FREE):
        yield (
            items,
            f"images are decoded in each epoch: as squares of {side} px they take {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
        )
        return
    if folder is None:
        with TemporaryDirectory(dir=place) as temporary:
            yield _mapped(items, preprocessing, side, Path(temporary), progress), ""
        return
    yield _mapped(items, preprocessing, side, folder, progress), ""


def _mapped(items: Sequence[Any], preprocessing: dict[str, Any], side: int, folder: Path, progress: Callable[[Step], None]) -> Any:
    path, shape = folder / "images.npy", (len(items), side, side, 3)
    if processes.first() and not path.exists():
        with replacing(path, "wb") as file:
            squares = np.lib.format.open_memmap(file.name, "w+", np.uint8, shape)
            resample = getattr(Image.Resampling, preprocessing.get("interpolation", "bicubic").upper())
            squash = preprocessing.get("crop_mode", "squash") == "squash"

            def fill(place: int) -> None:
                squares[place] = _square(items[place], side, resample, squash)

            with ThreadPoolExecutor(threads(len(items))) as pool:
                for start in range(0, len(items), _AT_ONCE):
                    part = range(start, min(start + _AT_ONCE, len(items)))
                    list(pool.map(fill, part))
                    progress(Step("decoding images", part.stop, len(items)))
            squares.flush()
    processes.wait()
    mapped = np.lib.format.open_memmap(path, "r")
    assert mapped.shape == shape, "the folder's settings, which hold a digest of the data, have decided that these are the images"
    return mapped


def _square(item: Any, side: int, resample: Image.Resampling, squash: bool) -> np.ndarray:
    """(side, side, 3): the whole image, or its middle with the shorter side at its full length, as the judged view has it."""
    image = open_image(item, side)
    if squash:
        return np.asarray(image.resize((side, side), resample))
    short = min(image.size)
    # Fractions cut off, as torchvision's Resize of the shorter side does.
    width, height = (side if one == short else int(side * one / short) for one in image.size)
    image = image.resize((width, height), resample)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))
