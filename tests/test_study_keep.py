"""Forgetting: nothing without retraining, only what moved under a turn of the features, all of it where they are wiped out."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from graft.backbones import load_backbone
from graft.data import check, load
from graft.errors import GraftError
from graft.study import run
from graft.study.keep import forgetting, source_task
from graft.transfer import Transfer

pytestmark = pytest.mark.usefixtures("quick_studies")


def table(n=60, seed=0, words=(("apple", "pear"), ("iron", "zinc")), names=("fruit", "metal")):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        said = [*rng.choice(["the", "a", "old", "red", "big"], 3), *[rng.choice(words[i % 2])] * 3]
        rows.append({"text": " ".join(rng.permutation(said)), "label": names[i % 2]})
    return pd.DataFrame(rows)


class Noise(torch.nn.Module):
    def forward(self, features):
        return torch.randn(features.shape, generator=torch.Generator().manual_seed(int(1e6 * features.abs().sum())))


class Mirror(torch.nn.Module):
    def forward(self, features):
        return -features


@pytest.fixture
def source():
    return check(load(table()))


@pytest.fixture
def model():
    """A fitted model that says its backbone, here an untouched copy, was tuned."""
    made = Transfer("tiny:text", "feature_extraction").fit(table(20).text.tolist(), table(20).label.tolist())
    made.backbone_, made.tuned_ = copy.deepcopy(made.backbone_), True
    return made


def test_the_same_features_forget_nothing(source, model):
    found = forgetting(source, load_backbone("tiny:text"), model)
    assert found["before"]["score"] > 0.7
    for name in ("same_head", "new_head"):
        assert found[name]["score"] == found["before"]["score"]
        assert found[name]["change"]["effect"] == 0.0
    assert found["sentence"].count("no difference shown") == 2


def test_features_that_only_moved_serve_a_new_head_as_well_as_before(source, model):
    last = model.backbone_.stages[-1]
    model.backbone_.stages[-1] = torch.nn.Sequential(last, Mirror())
    found = forgetting(source, load_backbone("tiny:text"), model)
    # A head knows no sign: solved for anew on mirrored features it answers the same, while the old one says the opposite.
    assert found["new_head"]["score"] == pytest.approx(found["before"]["score"], abs=0.02)
    assert found["same_head"]["change"]["interval"][1] < 0
    assert "with the head of before" in found["sentence"] and found["sentence"].count(": lost") == 1


def test_features_that_are_wiped_out_are_lost_to_any_head(source, model):
    model.backbone_.stages[-1] = torch.nn.Sequential(model.backbone_.stages[-1], Noise())
    found = forgetting(source, load_backbone("tiny:text"), model)
    for name in ("same_head", "new_head"):
        assert found[name]["score"] == pytest.approx(0.5, abs=0.2)
        assert found[name]["change"]["effect"] == pytest.approx(found[name]["score"] - found["before"]["score"])
        assert found[name]["change"]["interval"][1] < 0


def test_the_source_is_judged_on_its_own_test_part_where_it_has_one(model):
    frame = table(80).assign(split=np.where(np.arange(80) // 2 % 2, "test", "train"))
    found = forgetting(check(load(frame)), load_backbone("tiny:text"), model)
    assert found["n_test"] == len(check(load(frame))) - found["n_train"]
    assert "given test part" in found["judged_on"] and "bootstrap" in found["new_head"]["change"]["test"]


def test_a_source_of_another_kind_is_refused_before_time_is_spent(tmp_path):
    for n in range(4):
        (tmp_path / "pictures" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (9, 9, 3), np.uint8)).save(
            tmp_path / "pictures" / "ab"[n % 2] / f"{n}.png"
        )
    with pytest.raises(GraftError, match=r"holds images and .* holds texts, expected the same kind of inputs"):
        source_task(tmp_path / "pictures", load(table()))


def test_a_run_tells_what_it_kept(tmp_path):
    other = table(40, seed=1, words=(("north", "south"), ("uncle", "aunt")), names=("place", "person"))
    study = run(table(), backbone="tiny:text", strategy="full", keep=other, out=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["keep"]
    assert kept["retrained"] and set(kept) > {"before", "same_head", "new_head", "sentence"}
    assert kept["sentence"] == study.result.keep["sentence"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'id="keep"' in page and "after, the same head" in page
    assert kept["sentence"] in (tmp_path / "run" / "log.txt").read_text()


def test_where_nothing_was_retrained_nothing_can_have_been_forgotten(tmp_path):
    study = run(table(), backbone="tiny:text", strategy="feature_extraction", keep=table(40, seed=1), out=tmp_path / "run")
    assert "Nothing was retrained, so nothing of" in study.result.keep["sentence"]
    assert "same_head" not in study.result.keep and study.result.keep["before"]["score"] > 0.5
    assert "Nothing was retrained, so nothing of" in (tmp_path / "run" / "report.html").read_text()


def test_a_folder_of_a_run_with_another_source_is_refused(tmp_path):
    named = {"backbone": "tiny:text", "strategy": "feature_extraction", "out": tmp_path / "run"}
    run(table(40), keep=table(40, seed=1), **named)
    with pytest.raises(GraftError, match=r"holds a run with other settings.*\n  keep_digest: \w+ there, \w+ now"):
        run(table(40), keep=table(40, seed=2), **named)
    with pytest.raises(GraftError, match=r"\n  keep: .* there, None now"):
        run(table(40), **named)


def test_without_a_source_nothing_is_said_of_it(tmp_path):
    study = run(table(40), backbone="tiny:text", strategy="feature_extraction", out=tmp_path / "run")
    assert study.result.keep == {}
    assert 'id="keep"' not in (tmp_path / "run" / "report.html").read_text()
