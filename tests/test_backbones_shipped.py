"""`shipped:NAME`: what is found inside the package, how it is stored, and that it is there without a network."""

import json
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from backbone_samples import pictures
from safetensors import safe_open
from safetensors.torch import save_file

from graft import backbones
from graft.backbones import catalogue, load_backbone, on_disk, shipped, shortlist
from graft.errors import GraftError


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A package that ships one tiny network, its weights as halves."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    network = load_backbone("tiny:image-1")
    network.save(tmp_path / "small")
    halves = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in network.state_dict().items()}
    save_file(halves, tmp_path / "small" / "model.safetensors")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    (tmp_path / "small" / "config.json").write_text(json.dumps({**config, "card": {"licence": "MIT", "pretrained_on": "pictures"}}))
    (tmp_path / "unfinished").mkdir()
    return network


def test_what_is_shipped_is_a_checkpoint_whose_halves_are_widened(sample):
    backbone = load_backbone("shipped:small")
    assert backbone.name == "shipped:small" and backbone.card["licence"] == "MIT" and backbone.card["pretrained_on"] == "pictures"
    assert {tensor.dtype for tensor in backbone.state_dict().values()} == {torch.float32, torch.int64}
    for name, tensor in sample.state_dict().items():
        torch.testing.assert_close(backbone.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert load_backbone("shipped:small@48px").prepare(pictures(40)).shape[2:] == (48, 48)
    assert load_backbone("untrained:shipped:small").card["pretrained_on"] == "nothing: random weights"


def test_a_name_that_is_not_shipped_is_refused_with_the_near_miss(sample):
    with pytest.raises(
        GraftError, match=r"shipped:smal: graft comes with no such backbone, expected one of small\. Did you mean 'small'\?"
    ):
        load_backbone("shipped:smal")
    with pytest.raises(GraftError, match=r"shipped:unfinished: graft comes with no such"):
        load_backbone("shipped:unfinished")


@pytest.mark.parametrize("name", shipped.names())
def test_what_comes_with_the_package_is_small_known_and_ready(name, monkeypatch):
    folder = shipped.FOLDER / name
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    for section in ("## What it saw", "## How it was judged", "## What it is bad at", "## How it was made"):
        assert section in card
    backbone = load_backbone(f"shipped:{name}")
    assert sum(parameter.numel() for parameter in backbone.parameters()) <= 2_000_000
    entry = next(entry for entry in catalogue(modality="image", on_disk=True) if entry.name == f"shipped:{name}")
    assert backbones.entry_of(backbone).parameters == entry.parameters and entry.licence == backbone.card["licence"].lower()
    with torch.inference_mode():
        features = backbone(backbone.prepare(pictures(160)))
    assert features.isfinite().all() and features.std(0).max() > 0.01
    with safe_open(folder / "model.safetensors", "pt") as file:
        # Matrices as halves: what is stored as float32 besides is small.
        assert {file.get_tensor(key).dtype for key in file.keys() if file.get_tensor(key).ndim > 1} == {torch.float16}  # noqa: SIM118


def test_what_is_shipped_is_there_without_a_network_and_beside_the_hub(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    expected = [f"shipped:{name}" for name in shipped.names() if name == "image"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert shortlist("image") == on_disk("image") == expected
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(backbones, "_hub_answers", lambda: True)
    assert shortlist("image")[: len(expected)] == expected and len(shortlist("image")) > len(expected)


def test_what_is_shipped_goes_into_the_wheel():
    root = Path(__file__).parents[1]
    package_data = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["graft"]
    files = [f"backbones/_shipped/{name}/{file}" for name in ["image"] for file in ("model.safetensors", "config.json", "README.md")]
    assert all(any(fnmatch(file, pattern) for pattern in package_data) for file in files)
