"""The scripts of demo/: what they write is the same each time, has its classes, and `graft run` makes sense of it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import graft
from graft.backbones import shipped

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def images():
    spec = importlib.util.spec_from_file_location("demo_images", ROOT / "demo" / "images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_digits_are_scikit_learns_dark_on_white(images, tmp_path):
    images.digits(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == list("0123456789")
    assert len(list(tmp_path.rglob("*.png"))) == 10 * images.DIGITS
    first = np.asarray(Image.open(tmp_path / "3" / "000.png"), float)
    scan = load_digits().images[load_digits().target == 3][0]
    np.testing.assert_allclose((255 - first) / 255 * 16, scan, atol=0.1)


def test_the_shapes_are_the_same_each_time_and_no_two_alike(images, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SHAPES", 3)
    images.shapes(tmp_path / "one")
    images.shapes(tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png"))
    assert {file.parts[0] for file in files} == {"circle", "triangle", "square", "star", "cross"} and len(files) == 15
    contents = [(tmp_path / "one" / file).read_bytes() for file in files]
    assert contents == [(tmp_path / "two" / file).read_bytes() for file in files]
    assert len(set(contents)) == len(contents)


def test_a_shape_has_the_area_of_its_name(images, monkeypatch):
    """Truth: areas of regular figures of radius r: circle pi r^2, square 2 r^2, triangle 3 sqrt(3) / 4 r^2, in pixels of one colour."""
    areas = {"circle": np.pi, "square": 2.0, "triangle": 3 * 3**0.5 / 4, "star": 5 * 0.4 * np.sin(np.pi / 5), "cross": 8 * 0.3 - 4 * 0.09}
    for name, area in areas.items():
        image = np.asarray(images.shape(name, np.random.default_rng(4)))
        # The ground is noisy, so the commonest colour is the figure's.
        counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)[1]
        rng = np.random.default_rng(4)
        rng.uniform(0, np.pi), rng.uniform(3, 12), rng.uniform(0, 255, (2, 3)), rng.uniform(0, 0.6), rng.normal(0, 8, (96, 96, 3))
        rng.uniform(-40, 40, 3)
        radius = rng.uniform(0.2, 0.4) * 96
        assert counts.max() == pytest.approx(area * radius**2, rel=0.12), name


@pytest.mark.skipif("image" not in shipped.names(), reason="shipped:image is not in this package")
def test_a_run_on_digits_without_a_network_or_a_named_backbone_is_sane(images, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(images, "DIGITS", 12)
    images.digits(tmp_path / "digits")
    study = graft.run(str(tmp_path / "digits"), out=str(tmp_path / "run"))
    assert study.result.backbone == "shipped:image" and study.result.n_test == 120
    # A tenth is chance.
    assert study.result.score > 0.4
