"""`rank`: predictions with doubt, groups and what is recommended of the leading one, few items for many candidates, the check."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import graft
from graft.backbones import load_backbone
from graft.data import Dataset, load
from graft.errors import GraftError
from graft.evaluate import measure
from graft.heads import fit_head
from graft.study import checking, ranking
from graft.study.checking import tau
from graft.study.material import Material
from graft.study.ranking import expected_loss, groups, p_best, ranked, recommended, rungs
from graft.transferability.predict import fit, read_evidence

pytestmark = pytest.mark.usefixtures("quick_studies")
WORDS = [f"word{number}" for number in range(40)]


def table(n=80, seed=0, noise=0.3):
    """Texts of five words; the label says whether more of them come from the first half, or, now and then, the opposite."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        places = rng.integers(len(WORDS), size=5)
        label = (places < len(WORDS) // 2).sum() >= 3
        rows.append({"text": " ".join(WORDS[place] for place in places), "label": "yes" if label ^ (rng.random() < noise) else "no"})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return graft.rank(table(), ["tiny:text", "tiny:text-1", "tiny:text-2"])


def test_every_candidate_has_a_prediction_with_doubt_and_cost(found):
    assert {row.backbone for row in found.rows} == {"tiny:text", "tiny:text-1", "tiny:text-2"}
    for row in found.rows:
        assert row.interval[0] < row.predicted < row.interval[1] and row.score == row.predicted
        assert row.parameters == sum(parameter.numel() for parameter in load_backbone(row.backbone).parameters())
        assert min(row.extract_seconds, row.train_seconds, row.serve_ms, row.seconds) > 0 and row.licence == "apache-2.0"
        assert {"logme", "knn", "gbc"} <= set(row.scores)
    assert sum(row.p_best for row in found.rows) == pytest.approx(1.0)
    assert [row.predicted for row in found.rows] == sorted((row.predicted for row in found.rows), reverse=True)


def test_the_recommended_one_is_of_the_leading_group_and_loses_little(found):
    (chosen,) = (row for row in found.rows if row.backbone == found.recommended)
    assert chosen.group == 1 and chosen.loss <= 0.02 and found.rows[0].loss == 0.0
    assert all(row.loss > 0 for row in found.rows[1:])
    assert str(found).startswith(f"Start from {found.recommended}")


def candidate(name, group, loss, milliseconds, parameters=1):
    return SimpleNamespace(backbone=name, group=group, loss=loss, serve_ms=milliseconds, parameters=parameters)


def test_the_cheapest_that_loses_little_is_recommended():
    rows = [
        candidate("leader", 1, 0.0, 9.0),
        candidate("cheap", 1, 0.015, 2.0),
        candidate("poor", 1, 0.1, 1.0),
        candidate("behind", 2, 0.01, 1.0),
    ]
    assert recommended(rows, 0.02) == "cheap"
    assert recommended(rows, 0.01) == recommended(rows, 0.0) == "leader"
    # Of one speed, the smaller.
    assert recommended([*rows, candidate("small", 1, 0.02, 2.0, 0)], 0.02) == "small"


def test_the_expected_loss_is_that_of_a_normal_difference():
    rng = np.random.default_rng(0)
    leader = rng.normal(0.8, 0.1, 200_000)
    draws = np.stack([leader - 0.01 + rng.normal(0, 0.02, 200_000), leader])
    # E max(z, 0) of z normal with mean 0.01 and deviation 0.02: 0.02 * (density(0.5) + 0.5 * P(0.5)).
    expected = 0.02 * (np.exp(-0.125) / np.sqrt(2 * np.pi) + 0.5 * 0.691462)
    assert expected_loss(draws, np.array([0.79, 0.8])) == pytest.approx([expected, 0.0], abs=2e-4)


def test_a_cheaper_one_is_named_with_what_it_may_lose(found):
    first, second = (replace(row, group=1, loss=loss) for row, loss in zip(found.rows, (0.0, 0.012), strict=False))
    cheaper = replace(found, rows=[first, second], recommended=second.backbone).sentence
    assert cheaper.endswith(
        f"cheaper than {first.backbone}, the first of 2 that these items cannot tell apart, and expected to lose 0.012 by that."
    )
    kept = replace(found, rows=[first, second], recommended=first.backbone).sentence
    assert kept.startswith(f"Start from {first.backbone}, the first of 2 that these items cannot tell apart: predicted")
    assert "lose" not in kept


def test_without_evidence_the_prediction_is_the_cross_validated_score():
    material = Material(load(table()), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)
    (row,), notes, seen = ranked(material, np.arange(80), fit([]))
    assert row.cross_validated == measure("accuracy", material.target, material.held_out(material.features("tiny:text"), np.arange(80)))
    # Half an item is added on both sides.
    assert row.predicted == pytest.approx((row.cross_validated * 80 + 0.5) / 81)
    assert not notes and seen["tiny:text"].extracted.all()


def test_scores_that_look_at_fewer_items_are_named(monkeypatch):
    monkeypatch.setattr(graft.transferability.similarity, "_PARC_ITEMS", 60)
    assert graft.rank(table(70), ["tiny:text"]).notes == ["scores of fewer items, drawn by class: parc of 60"]


def test_a_regression_is_ranked_by_its_own_metric():
    frame = table().assign(label=lambda one: one["text"].str.count("word1") + np.linspace(0, 0.5, 80))
    result = graft.rank(frame, ["tiny:text", "tiny:text-1"])
    assert result.metric == "r2" and "recorded runs are of accuracies" in result.basis
    assert all(row.predicted == row.cross_validated and "logme" in row.scores for row in result.rows)
    # No recorded run says how little of another metric is little.
    assert result.recommended == result.rows[0].backbone


def test_the_numbers_are_left_in_a_folder(found, tmp_path):
    found.write(tmp_path / "new")
    told = json.loads((tmp_path / "new" / "rank.json").read_text())
    assert {"backbone", "score", "interval", "seconds"} <= set(told["ranking"][0])
    assert told["recommended"] == found.recommended
    page = (tmp_path / "new" / "rank.html").read_text()
    assert f"Start from {found.recommended}" in page.replace("<wbr>", "") and "http" not in page.split("</style>")[1]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["rank.html", "rank.json"]


def test_groups_hold_who_cannot_be_told_from_their_leader():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.1, 2000)
    # The second errs with the first, the third by itself: 0.02 is then much for one and nothing for the other.
    draws = np.stack([0.80 + shared, 0.78 + shared + rng.normal(0, 0.001, 2000), 0.78 + rng.normal(0, 0.1, 2000), 0.2 + shared])
    assert groups(draws, np.array([0.80, 0.78, 0.78, 0.2])).tolist() == [1, 2, 1, 3]


def test_the_probability_of_being_best_is_a_share_of_draws():
    assert p_best(np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.5, 1.0]])).tolist() == [0.375, 0.625]


def test_twenty_candidates_are_halved_until_few_are_left():
    assert rungs(1600, 20, 2) == [200, 400, 800, 1600]
    assert rungs(1600, 3, 2) == [1600]
    # 4 items a class, and 64 in all, are the least that someone is dropped by.
    assert rungs(1600, 20, 100) == [400, 800, 1600]
    assert rungs(100, 20, 2) == [100]
    # What 20 candidates cost when a half goes on each time, in candidates on all items; the first items serve again.
    sizes, cost, left, before = rungs(1600, 20, 2), 0.0, 20, 0
    for size in sizes:
        cost, left, before = cost + left * (size - before) / 1600, -(-left // 2), size
    assert cost < 7


def test_few_candidates_are_halved_too_where_items_are_many():
    assert rungs(9_999, 3, 2) == [9_999]
    assert rungs(10_000, 3, 2) == [5_000, 10_000]
    assert rungs(100_000, 2, 2) == [6_250, 12_500, 25_000, 50_000, 100_000]
    assert rungs(100_000, 20, 2) == rungs(100_000, 2, 2)
    # Who has no rival is looked at once.
    assert rungs(100_000, 1, 2) == [100_000]


def test_of_few_candidates_on_many_items_only_those_told_apart_are_dropped(monkeypatch):
    monkeypatch.setattr(ranking, "_ENOUGH_ITEMS", 64)
    read = {}

    def told(backbone, items, **_):
        """Features that tell the label, or nothing."""
        read[backbone.name] = read.get(backbone.name, 0) + len(items)
        says = np.array([sum(int(word.removeprefix("word")) < len(WORDS) // 2 for word in text.split()) for text in items], float)
        noise = np.random.default_rng(len(items)).normal(size=(len(items), backbone.width))
        return (noise if backbone.name == "tiny:text-2" else noise * 0.1 + says[:, None]).astype(np.float32)

    monkeypatch.setattr(ranking, "extract", told)
    result = graft.rank(table(512, noise=0.0), ["tiny:text", "tiny:text-1", "tiny:text-2"])
    assert read == {"tiny:text": 512, "tiny:text-1": 512, "tiny:text-2": 64}
    assert {row.backbone: row.group for row in result.rows} == {"tiny:text": 1, "tiny:text-1": 1, "tiny:text-2": None}
    # Rungs on which nobody was dropped are not told of.
    assert result.notes == ["dropped on 64 of 512 items: tiny:text-2"]
    read.clear()
    alone = graft.rank(table(512, noise=0.0), ["tiny:text", "tiny:text-2"])
    assert alone.recommended == "tiny:text" and read == {"tiny:text": 512, "tiny:text-2": 64}


def test_of_many_candidates_few_are_run_on_all_items(monkeypatch):
    read = {}

    def counting(backbone, items, **settings):
        read[backbone.name] = read.get(backbone.name, 0) + len(items)
        return extract(backbone, items, **settings)

    extract = ranking.extract
    monkeypatch.setattr(ranking, "extract", counting)
    names = ["tiny:text", *(f"tiny:text-{number}" for number in range(1, 8))]
    result = graft.rank(table(256), names)
    dropped = [row for row in result.rows if row.group is None]
    assert dropped and all(row.n < 256 and read[row.backbone] == row.n for row in dropped)
    assert all(read[row.backbone] == 256 for row in result.rows if row.group)
    assert sum(row.p_best for row in result.rows) == pytest.approx(1.0)
    assert any(note.startswith(f"dropped on {dropped[-1].n} of 256 items: ") for note in result.notes)
    # Who was dropped last stands before who was dropped first.
    assert [row.n for row in result.rows] == sorted((row.n for row in result.rows), reverse=True)


def test_more_than_a_third_are_kept_before_someone_tied_is_dropped():
    tied = np.random.default_rng(0).normal(0, 1, (12, 500))
    order = list(range(12))
    assert ranking._kept(order, tied, 12) == order[:6]
    assert ranking._kept(order[:3], tied, 12) == order[:3]
    apart = tied + 100 * np.array([[1.0], *[[0.0]] * 11])
    assert ranking._kept(order[:5], apart, 12) == order[:3]
    # The last three need not be halved: who cannot be told from the leader stays.
    assert ranking._kept(order[:3], apart, 12) == order[:1]


def test_a_check_fine_tunes_all_and_says_what_the_ranking_was_worth(tmp_path):
    result = graft.rank(table(60), ["tiny:text", "tiny:text-1"], check="lp_ft")
    told = result.check
    true = {one["backbone"]: one["score"] for one in told["candidates"]}
    assert result.n == 45 and told["n"] == 15 and not any("check" in note for note in result.notes)
    assert told["regret"] == pytest.approx(max(true.values()) - true[result.recommended])
    assert told["saved"] == pytest.approx(1 - told["seconds_trusted"] / told["seconds_all"])
    result.write(tmp_path)
    assert "Was it right?" in (tmp_path / "rank.html").read_text()
    with open(tmp_path / "evidence.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["backbone"]: float(row["tuned"]) for row in rows} == true
    assert len(read_evidence(tmp_path / "evidence.csv")) == len(read_evidence()) + 2
    # The probe's truth: a head fitted on the ranked items alone, and judged on the others.
    material = Material(load(table(60)), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)
    index, held = graft.study.holdout(material.target, "classification", 0.25, 0)
    features = material.features("tiny:text")
    head = fit_head(features[index], material.target[index], "classification", n_classes=2, seed=0)
    probe = measure("accuracy", material.target[held], head.outputs(features[held]))
    assert {float(row["probe"]) for row in rows if row["backbone"] == "tiny:text"} == {probe}


@pytest.mark.parametrize(("strategy", "said"), [("feature_extraction", "feature_extraction"), ("auto", "auto without a time budget")])
def test_a_check_by_what_retrains_nothing_is_not_recorded_as_fine_tuned(strategy, said):
    result = graft.rank(table(40), ["tiny:text"], check=strategy)
    assert f"check: {said} retrains no candidate, a head on frozen features is what was reached" in result.notes
    assert [row.get("tuned", "") for row in result.evidence] == [""] and "probe" in result.evidence[0]


def test_regret_is_what_the_recommended_one_lost_against_the_best():
    y = np.arange(40) % 2
    answers = {"good": y, "fair": np.where(np.arange(40) < 10, 1 - y, y), "poor": 1 - y}
    material = SimpleNamespace(metric="accuracy", seed=0, target=y, fit_and_predict=lambda one, *_: np.eye(2)[answers[one.backbone]])
    rows = [SimpleNamespace(backbone=name, predicted=value) for name, value in (("fair", 0.9), ("good", 0.8), ("poor", 0.1))]
    told = checking.checked(material, np.arange(0), np.arange(40), rows, "fair", "full", 0.0)
    assert (told["best"], told["regret"]) == ("good", 0.25) and told["regret_interval"][0] > 0
    assert told["correlation"] == tau([0.9, 0.8, 0.1], [0.75, 1.0, 0.0]) and told["candidates"][0]["score"] == 0.75


def test_candidates_that_all_reach_the_same_have_no_correlation():
    y = np.arange(40) % 2
    material = SimpleNamespace(metric="accuracy", seed=0, target=y, fit_and_predict=lambda *_: np.eye(2)[y])
    rows = [SimpleNamespace(backbone=name, predicted=value) for name, value in (("a", 0.9), ("b", 0.8))]
    told = checking.checked(material, np.arange(0), np.arange(40), rows, "a", "full", 0.0)
    assert told["correlation"] is None and told["correlation_interval"] is None and told["regret"] == 0.0


def test_a_given_test_part_is_what_a_check_judges_on():
    frame = table(60).assign(split=np.where(np.arange(60) < 40, "train", "test"))
    result = graft.rank(frame, ["tiny:text", "tiny:text-1"], check="feature_extraction")
    assert (result.n, result.check["n"]) == (40, 20)


def test_rank_correlation_weighs_the_top_and_nothing_told_is_zero():
    assert tau([3, 2, 1], [0.9, 0.8, 0.7]) == pytest.approx(1.0)
    assert tau([1, 2, 3], [0.9, 0.8, 0.7]) == pytest.approx(-1.0)
    # Two at the top exchanged is worse than two at the bottom.
    assert tau([3, 4, 2, 1], [4, 3, 2, 1]) < tau([4, 3, 1, 2], [4, 3, 2, 1])
    assert tau([1, 1, 1], [3, 2, 1]) == 0.0


def test_candidates_of_which_only_one_is_checked_have_no_correlation():
    assert graft.rank(table(40), ["tiny:text"], check="feature_extraction").check["correlation"] is None


def test_a_backbone_that_gives_no_numbers_is_named(monkeypatch):
    def broken(backbone, items, **_):
        return np.full((len(items), backbone.width), np.nan if backbone.name == "tiny:text-1" else 1.0)

    monkeypatch.setattr(ranking, "extract", broken)
    with pytest.raises(GraftError, match=r"tiny:text-1: .*not finite"):
        graft.rank(table(40), ["tiny:text-1"])
    with pytest.raises(GraftError, match=r"tiny:text: .*the same for all 40 items"):
        graft.rank(table(40), ["tiny:text"])


def test_four_items_are_ranked_with_all_doubt():
    result = graft.rank(table(40).iloc[:8].groupby("label").head(2), ["tiny:text", "tiny:text-1"])
    assert result.n == 4
    assert all(row.interval[1] - row.interval[0] > 0.3 for row in result.rows)


def test_one_class_is_refused():
    with pytest.raises(GraftError, match="class"):
        graft.rank(table(20).assign(label="same"), ["tiny:text"])


def test_an_unknown_strategy_is_refused_before_time_is_spent(monkeypatch):
    monkeypatch.setattr(Dataset, "__len__", lambda _: pytest.fail("time was spent"))
    with pytest.raises(GraftError, match=r"lp_fr.*Did you mean 'lp_ft'"):
        graft.rank(table(20), ["tiny:text"], check="lp_fr")
    with pytest.raises(GraftError, match="'scratch' is the control"):
        graft.rank(table(20), ["tiny:text"], check="scratch")


def test_evidence_of_ones_own_changes_what_the_prediction_rests_on(tmp_path):
    header = ["data", "labels_a_class", "seed", "backbone", "classes", "n", "cross_validated", "n_judged", "probe", "logme"]
    rng = np.random.default_rng(0)
    rows = []
    for data in range(6):
        for place, quality in enumerate(rng.random(8)):
            rows.append([f"d{data}", 5, 0, f"b{place}", 2, 10, round(rng.binomial(10, quality) / 10, 1), 1000, round(quality, 3), quality])
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    result = graft.rank(table(40), ["tiny:text", "tiny:text-1"], evidence=[tmp_path / "mine.csv"])
    # Of texts, which these are: runs on images say nothing of them.
    recorded = len({row["data"] for row in read_evidence() if row["modality"] == "text"}) + 6
    assert recorded < len({row["data"] for row in read_evidence()}) + 6
    assert f"{recorded} data sets" in result.basis
    assert checking.predicts(Material(load(table(40)), {}, "accuracy", 0))
