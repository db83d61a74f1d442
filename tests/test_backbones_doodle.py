"""The network for drawings: what it reads of a picture, that it is a checkpoint like others, and what `shipped:doodle` can do."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from graft.backbones import _doodle, load_backbone


def stroke(side=100, box=(20, 30, 60, 80), ink=255, paper=0, width=4):
    image = Image.new("L", (side, side), paper)
    ImageDraw.Draw(image).line([box[:2], box[2:], (box[2], box[1])], fill=ink, width=width)
    return image


def prepared(*items, rng=None):
    return _doodle.prepare(items, rng)


def apart(one, other):
    return (one - other).abs().mean().item()


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (90, 140), (200, 180)])
def test_the_colour_of_ink_and_paper_does_not_count(ink, paper):
    # Levels of grey are whole numbers: of 20 between ink and paper each is a twentieth.
    assert apart(prepared(stroke()), prepared(stroke(ink=ink, paper=paper))) < 0.5 / abs(ink - paper)


def test_ink_that_covers_most_of_the_picture_is_still_ink():
    heavy = stroke(box=(10, 10, 80, 85), width=40)
    assert np.asarray(heavy).mean() > 128
    assert apart(prepared(heavy), prepared(Image.eval(heavy, lambda grey: 255 - grey))) < 1e-6 and prepared(heavy)[0, 0, 16, 16] == 1


def test_the_place_and_size_of_a_drawing_do_not_count():
    one, moved, other = prepared(stroke(), stroke(200, (110, 90, 190, 190), width=8), stroke(box=(20, 30, 60, 40)))
    assert 3 * apart(one, moved) < apart(one, other)


def test_a_picture_of_few_pixels_is_sharpened_when_it_is_enlarged():
    small = np.zeros((8, 8), np.uint8)
    small[2:6, 3] = small[5, 3:6] = 255

    def blurred(picture):
        ink = prepared(picture)[prepared(picture) > 0.05]
        return (ink < 0.95).double().mean().item()

    # Enlarged alone it has 0.93.
    assert blurred(small) < 0.85


def test_the_frame_is_what_its_docstring_says():
    """Truth: two dots a distance of 2 r apart spread by r along one axis: the standard deviation over both axes is r / sqrt(2)."""
    ink = torch.zeros(1, 1, 64, 64)
    ink[0, 0, 31, [15, 47]] = 1
    frame = _doodle.frames(ink)[0]
    assert frame[0, 0].item() == pytest.approx(2.2 * 0.5 / 2**0.5, rel=1e-4)
    # Middles of pixels: the 32nd of 64 lies half a pixel before the picture's middle.
    assert frame[:2, 2].tolist() == pytest.approx([-1 / 64, -1 / 64], abs=1e-6)


@pytest.mark.parametrize(("size", "mode"), [((8, 8), "L"), ((300, 40), "RGB"), ((28, 90), "RGBA"), ((1, 1), "1")])
def test_pictures_of_any_size_and_mode_are_read(size, mode):
    batch = prepared(Image.new(mode, size))
    assert batch.shape == (1, 1, 32, 32) and batch.isfinite().all() and not batch.any()


def test_a_drawing_that_is_not_square_keeps_its_proportions():
    tall = stroke().crop((10, 0, 70, 100))
    other = stroke().resize((100, 60))
    assert 5 * apart(prepared(stroke()), prepared(tall)) < apart(prepared(stroke()), prepared(other))


def test_random_views_differ_and_hang_on_the_generator_alone():
    first, again, second = (prepared(stroke(), stroke(), rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and apart(first, second) > 0.02 and apart(first[0], first[1]) > 0.02


def test_views_are_turned_scaled_and_moved_as_far_as_the_docstring_says_and_never_mirrored():
    """Truth: a uniform draw of half width a has the standard deviation a / sqrt(3); an area changes by the product of two scales."""
    drawn = _doodle._drawn(4000, np.random.default_rng(0)).double()
    degrees = torch.rad2deg(torch.atan2(drawn[:, 1, 0], drawn[:, 0, 0]))
    assert degrees.abs().max() <= 15 + 1e-4 and degrees.std().item() == pytest.approx(15 / 3**0.5, rel=0.05)
    areas = torch.linalg.det(drawn)
    assert 0.64 <= areas.min() < 0.7 and 1.38 < areas.max() <= 1.44
    # The frame is two half sides wide, so 0.2 of a half side is a tenth.
    assert drawn[:, :2, 2].std().item() == pytest.approx(0.2 / 3**0.5, rel=0.05) and drawn[:, :2, 2].abs().max() <= 0.2


def test_it_is_saved_loaded_reset_and_resized_as_others_are(tmp_path):
    backbone = _doodle.build("mine")
    backbone.save(tmp_path)
    batch = backbone.prepare([stroke(), stroke(50, (5, 5, 20, 40))])
    with torch.inference_mode():
        again = load_backbone(f"checkpoint:{tmp_path}")
        torch.testing.assert_close(again(batch), backbone(batch))
        assert sum(parameter.numel() for parameter in backbone.parameters()) == 1_099_376 and again.width == 256
        larger = backbone.at_size(64)
        assert larger.prepare([stroke()]).shape == (1, 1, 64, 64) and larger(larger.prepare([stroke()])).shape == (1, 256)
        larger.save(tmp_path / "larger")
        reloaded = load_backbone(f"checkpoint:{tmp_path / 'larger'}")
        assert reloaded.preprocessing["size_px"] == [64, 64]
        torch.testing.assert_close(reloaded(batch), backbone(batch))
    before = backbone.fingerprint()
    backbone.reset(3)
    once = backbone.fingerprint()
    backbone.reset(3)
    assert before != once == backbone.fingerprint()


def digit_accuracy(backbone, pictures, labels):
    """From five labels a class, on the rest."""
    with torch.inference_mode():
        rows = torch.nn.functional.normalize(backbone(backbone.prepare(pictures)), dim=1).numpy()
    known = np.concatenate([np.flatnonzero(labels == label)[:5] for label in range(10)])
    rest = np.setdiff1d(np.arange(len(labels)), known)
    return LogisticRegression(C=100, max_iter=1000).fit(rows[known], labels[known]).score(rows[rest], labels[rest])


def test_the_shipped_doodle_reads_digits_that_it_never_saw_from_a_few_labels():
    """Dark on bright as well as bright on dark, and better than the same network with random weights."""
    data = load_digits()
    pictures = list(np.round(data.images[:600] * 255 / 16).astype(np.uint8))
    backbone = load_backbone("shipped:doodle")
    accuracy = digit_accuracy(backbone, pictures, data.target[:600])
    assert accuracy > 0.83
    assert digit_accuracy(backbone, [255 - picture for picture in pictures], data.target[:600]) == pytest.approx(accuracy, abs=0.01)
    backbone.reset(0)
    assert digit_accuracy(backbone, pictures, data.target[:600]) < accuracy - 0.02
