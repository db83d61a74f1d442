"""What a pretraining gave: nothing where nothing moved, a loss where the features were spoiled, silence where no start is known."""

import json

import pytest
import torch
from test_study_keep import table

from graft.backbones import load_backbone
from graft.data import check, load
from graft.study import run
from graft.study.judge import parts
from graft.study.material import Material
from graft.study.start import gain

pytestmark = pytest.mark.usefixtures("quick_studies")


@pytest.fixture
def made(tmp_path):
    """(backbone) -> the name of a checkpoint of it whose card says that it began as tiny:text."""

    def make(backbone, start="tiny:text"):
        backbone.card = {**backbone.card, "start": start}
        backbone.save(tmp_path / "made")
        return f"checkpoint:{tmp_path / 'made'}"

    return make


def of(name):
    dataset = check(load(table()))
    return gain(Material(dataset, {name: load_backbone(name)}, "accuracy", 0), name, parts(dataset, 0))


def test_the_same_weights_gain_nothing(made):
    found = of(made(load_backbone("tiny:text")))
    assert found["change"]["effect"] == 0.0 and found["before"] == found["after"] and found["before"]["score"] > 0.7
    assert "no difference shown" in found["sentence"] and "tiny:text, which it began with" in found["sentence"]


def test_spoiled_features_are_called_a_loss(made):
    backbone = load_backbone("tiny:text")
    with torch.no_grad():
        backbone.stages[0].table.weight.zero_()
    found = of(made(backbone))
    assert found["change"]["interval"][1] < 0 and "hurt" in found["sentence"]
    assert found["change"]["effect"] == pytest.approx(found["after"]["score"] - found["before"]["score"])


def test_a_start_that_cannot_be_had_is_told(made):
    found = of(made(load_backbone("tiny:text"), "timm:no_such_network"))
    assert set(found) == {"start", "sentence"} and "cannot be loaded here" in found["sentence"]


def test_a_run_tells_what_pretraining_gave_and_says_nothing_of_other_backbones(made, tmp_path):
    name = made(load_backbone("tiny:text"))
    study = run(table(40), backbone=name, strategy="feature_extraction", out=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["pretraining"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert kept["sentence"] == study.result.pretraining["sentence"] and 'id="pretraining"' in page and "where it began" in page
    assert kept["sentence"] in (tmp_path / "run" / "log.txt").read_text()
    other = run(table(40), backbone="tiny:text", strategy="feature_extraction", out=tmp_path / "other")
    assert other.result.pretraining == {} and 'id="pretraining"' not in (tmp_path / "other" / "report.html").read_text()
