"""Opening one image: whatever is wrong with the bytes is an OSError, and colours are what a viewer shows."""

import copy
import io
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from graft.errors import GraftError
from graft.items import Row, ZipEntry, content_key, open_image


def picture(seed=0, size=(64, 48)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_damaged_bytes_raise_nothing_but_oserror(kind):
    rng = np.random.default_rng(0)
    whole = encoded(picture(), kind)
    failures = 0
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, min(len(damaged), 120), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            open_image(bytes(damaged), at_least_px=32)
        except OSError:
            failures += 1
    assert failures > 20


@pytest.mark.parametrize("at_least_px", [None, 32])
def test_a_truncated_jpeg_is_noticed_at_reduced_size_too(at_least_px):
    whole = encoded(picture(size=(800, 600)), "JPEG")
    assert open_image(whole, at_least_px).mode == "RGB"
    with pytest.raises(OSError, match="truncated"):
        open_image(whole[: len(whole) * 2 // 3], at_least_px)


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(monkeypatch):
    """Truth: Pillow's own averaging of the whole picture in squares of 8 by 8 pixels, to three of 255 steps in the mean."""
    across, down = np.meshgrid(np.linspace(0, 255, 800), np.linspace(0, 255, 640))
    buffer = io.BytesIO()
    Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    asked, draft = [], JpegImageFile.draft

    def spied(self, mode, size):
        asked.append(size)
        return draft(self, mode, size)

    monkeypatch.setattr(JpegImageFile, "draft", spied)
    whole = open_image(buffer.getvalue())
    assert whole.size == (800, 640) and asked == []
    for at_least_px, size in ((80, (100, 80)), (81, (200, 160)), (700, (800, 640))):
        small = open_image(buffer.getvalue(), at_least_px)
        assert small.size == size and asked.pop() == (at_least_px, at_least_px)
        expected = np.asarray(whole.reduce(800 // size[0]), float)
        assert np.abs(np.asarray(small, float) - expected).mean() < 3


def test_a_sixteen_bit_image_keeps_its_greys():
    ramp = (np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4)
    seen = np.asarray(open_image(encoded(Image.fromarray(ramp))))[..., 0]
    assert np.array_equal(seen, ramp >> 8)


def test_transparent_pixels_are_shown_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(open_image(encoded(clear))).min() == 255


def test_a_photo_is_turned_upright_by_its_exif_tag():
    image = picture(size=(60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(image, "JPEG", exif=exif)).size == (40, 60)


def test_a_float_array_is_refused_with_its_shape_and_type():
    with pytest.raises(GraftError, match=r"shape \(4, 4, 3\) and type float64"):
        open_image(np.zeros((4, 4, 3)))


def test_the_same_content_has_one_key_wherever_it_lies(tmp_path):
    data = encoded(picture())
    (tmp_path / "a.png").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x/b.png", data)
    places = [data, str(tmp_path / "a.png"), ZipEntry(str(tmp_path / "b.zip"), "x/b.png"), {"bytes": data, "path": None}]
    assert len({content_key(place, "image") for place in places}) == 1
    assert content_key("a", "text") != content_key("b", "text")


def test_a_row_is_its_text_and_keeps_its_cells():
    row = Row("age: 39; work: private", {"age": 39.0, "work": "private", "note": None})
    assert isinstance(row, str) and row == "age: 39; work: private" and hash(row) == hash(str(row))
    for again in (pickle.loads(pickle.dumps(row)), copy.deepcopy(row)):
        assert type(again) is Row and again == row and again.cells == row.cells
    # A text backbone keeps the features that it has of the plain text.
    assert content_key(row, "text") == content_key(str(row), "text")


def test_a_row_is_known_by_its_cells_and_not_by_its_rounded_text():
    text = "pay: 1e+06"
    one, other = Row(text, {"pay": 1000001.0}), Row(text, {"pay": 1000002.0})
    assert content_key(one, "table") != content_key(other, "table")
    assert content_key(Row("", {"a": 1.0, "b": "x"}), "table") == content_key(Row("", {"b": "x", "a": 1.0}), "table")
    assert content_key(Row("", {"a": "1.0"}), "table") != content_key(Row("", {"a": 1.0}), "table")
