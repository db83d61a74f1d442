"""The study: choosing inside, judging outside, controls beside, and the folder that is left."""

import csv
import json
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from graft import cli
from graft.backbones import load_backbone
from graft.data import load, load_unlabelled
from graft.errors import GraftError
from graft.records import Epoch, Note, Recipe
from graft.report.page import HEADLINES
from graft.strategies import full
from graft.study import comparison, judge, run, times
from graft.study.controls import Scratch
from graft.study.curve import labels_to_match
from graft.study.judge import parts
from graft.study.material import Candidate, Material
from graft.transfer import Transfer

FRUIT, METAL = ["apple", "pear", "plum", "fig"], ["iron", "zinc", "lead", "tin"]
FILLER = ["the", "a", "some", "my", "old", "new", "red", "small", "big", "very", "on", "in"]


pytestmark = pytest.mark.usefixtures("quick_studies")


def table(n=80, seed=0, split=False):
    """Texts that differ by one telling word among many others."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        words = [*rng.choice(FILLER, 5), rng.choice((FRUIT, METAL)[i % 2])]
        rows.append({"text": " ".join(rng.permutation(words)), "label": ("fruit", "metal")[i % 2]})
    frame = pd.DataFrame(rows)
    return frame.assign(split=np.where(np.arange(n) % 4 == 3, "test", "train")) if split else frame


def without_times(value):
    """A result without what is measured by a clock."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if not key.endswith("seconds")}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """One study by cross-validation, and the folder it left."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(times, "_LEAST_SCRATCH", 1.0)
        return run(table(), out=out, backbone="tiny:text"), out


def test_the_result_keeps_its_promised_keys(judged):
    study, out = judged
    result = json.loads((out / "result.json").read_text())
    promised = (
        "task metric n_train n_test score interval backbone strategy seeds seconds controls verdict candidates ranking findings versions"
    )
    assert set(promised.split()) <= set(result)
    assert set(result["verdict"]) == {"outcome", "effect", "interval", "against", "n", "test"}
    assert result["verdict"]["outcome"] in ("helps", "no difference shown", "hurts")
    assert result["task"] == "classification"
    assert result["n_test"] == 80
    assert set(result["controls"]) == {"from scratch", "TF-IDF + logistic regression"}
    for row in [*result["controls"].values(), *result["candidates"], *result["ranking"]]:
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
    assert study.result.score == result["score"]


def test_the_folder_holds_what_is_promised(judged):
    _, out = judged
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "config.yaml", "log.txt", "model", "predictions.csv", "report.html", "result.json",
    ]  # fmt: skip
    assert {path.name for path in (out / "model").iterdir()} == {"README.md", "backbone", "graft.json", "head.safetensors"}
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["seed"] == 0
    assert config["strategies"] == ["auto"]
    assert "chosen: tiny:text" in (out / "log.txt").read_text()


def test_every_held_out_answer_is_in_the_predictions(judged):
    study, out = judged
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {f"row {i}" for i in range(1, 81)}
    first = [row for row in rows if int(row["fold"]) < 5]
    accuracy = np.mean([row["label"] == row["prediction"] for row in rows])
    assert len(first) == 80
    assert accuracy == pytest.approx(study.result.score)
    assert float(rows[0]["probability fruit"]) + float(rows[0]["probability metal"]) == pytest.approx(1.0, abs=1e-5)


def test_the_page_is_written_and_says_the_verdict_first(judged):
    study, out = judged
    page = (out / "report.html").read_text()
    assert page.index(HEADLINES[study.verdict.outcome]) < page.index("TF-IDF + logistic regression")
    study.report(out.parent / "again.html")
    assert (out.parent / "again.html").read_text() == page


def test_the_shipped_model_predicts_after_loading(judged):
    study, out = judged
    texts = table(20, seed=5).text.tolist()
    np.testing.assert_allclose(Transfer.load(out).predict_proba(texts), study.model.predict_proba(texts), atol=1e-6)


def test_the_same_call_gives_the_same_numbers():
    frame = table(60, split=True)
    first, second = (run(frame, backbone="tiny:text", seed=3).result.to_dict() for _ in range(2))
    assert without_times(first) == without_times(second)


def test_a_given_test_part_is_judged_and_nothing_else():
    study = run(table(80, split=True), backbone="tiny:text")
    assert (study.result.n_train, study.result.n_test) == (60, 20)
    assert "given test part: 20 items" in study.result.judged_on
    assert study.verdict.test == "paired bootstrap over 20 items"


def test_test_labels_cannot_influence_the_choice():
    frame = table(80, split=True)
    spoiled = frame.assign(label=np.where(frame.split == "test", frame.label[::-1].to_numpy(), frame.label))
    names = {"backbone": ["tiny:text", "tiny:text-1"], "strategy": ["feature_extraction", "head2toe"]}
    honest, other = (run(data, **names).result for data in (frame, spoiled))
    assert without_times(honest.candidates) == without_times(other.candidates)
    assert without_times(honest.ranking) == without_times(other.ranking)
    assert (honest.backbone, honest.strategy) == (other.backbone, other.strategy)


def test_choosing_sees_only_the_training_part_of_a_fold(monkeypatch):
    seen = []
    choose = Material.choose
    monkeypatch.setattr(Material, "choose", lambda self, index, *rest: seen.append(set(index.tolist())) or choose(self, index, *rest))
    run(table(40), backbone="tiny:text", strategy="feature_extraction")
    cut = parts(load(table(40)), 0, repeat=True)
    assert len(cut.folds) == 10
    assert seen[0] == set(range(40))
    for index, (train, test) in zip(seen[1:], cut.folds, strict=True):
        assert index == set(train.tolist())
        assert not index & set(test.tolist())


def test_of_backbones_whose_heads_are_level_the_evidence_decides(monkeypatch):
    y, rng = np.arange(40) % 2, np.random.default_rng(0)
    material = Material(load(table(40)), {name: load_backbone(name) for name in ("tiny:text", "tiny:text-1", "tiny:text-2")}, "accuracy", 0)
    noise = rng.normal(size=(40, 8))
    clear, dull = noise + 3 * y[:, None] * np.eye(8)[0], noise + y[:, None] * np.eye(8)[0]
    features = {"tiny:text": dull, "tiny:text-1": clear, "tiny:text-2": np.ones((40, 8))}
    material.speeds |= {"tiny:text": 9.0, "tiny:text-1": 5.0, "tiny:text-2": 10.0}
    monkeypatch.setattr(material, "features", features.__getitem__)
    monkeypatch.setattr(material, "held_out", lambda features, index: np.eye(2)[material.target[index]])
    # A dead network has no evidence, however fast it is.
    assert [row["backbone"] for row in material.rank(np.arange(40))] == ["tiny:text-1", "tiny:text", "tiny:text-2"]
    # Two items, of which no score can say anything: the fastest.
    assert material.rank(np.arange(2))[0]["backbone"] == "tiny:text-2"


def test_strategies_that_were_named_are_all_tried_without_a_budget():
    study = run(table(60, split=True), backbone="tiny:text", strategy=["partial", "feature_extraction"])
    assert {row["strategy"] for row in study.result.candidates} == {"partial", "feature_extraction"}


def many(n, per_group=None):
    """n different texts, three of four of one class. per_group: items of each group."""
    frame = pd.DataFrame({"text": [f"item {i}" for i in range(n)], "label": np.where(np.arange(n) % 4, "common", "rare")})
    return load(frame) if per_group is None else load(frame.assign(shop=np.arange(n) // per_group), group="shop")


@pytest.mark.parametrize(("n", "judged"), [(2500, 500), (12_000, 2000)])
def test_with_a_budget_so_many_items_are_judged_on_one_part(n, judged):
    dataset = many(n)
    cut = parts(dataset, 0, budgeted=True)
    ((train, test),) = cut.folds
    assert cut.one_test and train is cut.train and len(test) == judged
    assert sorted([*train, *test]) == list(range(n))
    np.testing.assert_allclose(np.bincount(dataset.target[test]) / judged, [0.75, 0.25], atol=1 / judged)
    assert cut.words.startswith(f"one part held out: {judged} items, trained on the other {n - judged}; ")


@pytest.mark.parametrize(("n", "per_group", "budgeted"), [(2500, None, False), (2499, None, True), (2700, 300, True)])
def test_without_a_budget_of_fewer_items_or_of_few_groups_folds_are_judged(n, per_group, budgeted):
    cut = parts(many(n, per_group), 0, budgeted=budgeted)
    assert len(cut.folds) == 5 and not cut.one_test


def test_one_part_parts_no_group():
    dataset = many(3000, per_group=7)
    cut = parts(dataset, 0, budgeted=True)
    ((train, test),) = cut.folds
    assert cut.one_test and not set(dataset.group[train]) & set(dataset.group[test])
    assert abs(len(test) - 600) <= 7 and "groups and near-copies kept together" in cut.words


def test_a_study_with_a_budget_is_judged_on_one_part_and_says_so(monkeypatch):
    monkeypatch.setattr(judge, "once", lambda n: n >= 100)
    study = run(table(100), backbone="tiny:text", strategy="feature_extraction", budget="60s")
    assert study.result.judged_on.startswith("one part held out") and f"judged on: {study.result.judged_on}" in study.notes
    assert study.verdict.test == f"paired bootstrap over {study.result.n_test} items"
    assert study.result.n_train + study.result.n_test == 100
    assert "cross-validation" in run(table(100), backbone="tiny:text", strategy="feature_extraction").result.judged_on


def test_strategies_that_were_named_are_set_beside_each_other_on_the_judged_items(tmp_path):
    study = run(table(60, split=True), backbone="tiny:text", strategy=["partial", "feature_extraction", "auto"], out=tmp_path / "r")
    found = study.comparison
    assert {rival.strategy for rival in found.rivals} == {"partial", "feature_extraction"}
    assert (found.judged_on, found.n_test) == (study.result.judged_on, study.result.n_test)
    assert study.result.compared == str(found)
    numbers = json.loads((tmp_path / "r" / "comparison.json").read_text())
    assert [rival["strategy"] for rival in numbers["rivals"]] == [rival.strategy for rival in found.rivals]
    assert 'href="comparison.html"' in (tmp_path / "r" / "report.html").read_text()
    assert "partial" in (tmp_path / "r" / "comparison.html").read_text()


def test_one_strategy_is_set_beside_nothing(tmp_path):
    study = run(table(60, split=True), backbone="tiny:text", strategy=["feature_extraction", "auto"], out=tmp_path / "r")
    assert study.comparison is None and study.result.compared == ""
    assert not (tmp_path / "r" / "comparison.html").exists()
    assert "comparison.html" not in (tmp_path / "r" / "report.html").read_text()


def test_a_budget_that_does_not_reach_for_a_comparison_says_so(monkeypatch):
    monkeypatch.setattr(comparison, "training_speed", lambda *_: 1.0)
    study = run(table(60, split=True), backbone="tiny:text", strategy=["partial", "feature_extraction"], budget=100)
    assert study.comparison is None
    assert any("strategies were not set beside each other: budget 100s: 1 strategies that train" in note for note in study.notes)


def test_a_given_validation_part_is_what_strategies_are_compared_on():
    frame = table(90, split=True)
    frame.loc[frame.index % 4 == 2, "split"] = "validation"
    material = Material(load(frame), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)
    cut = parts(load(frame), 0)
    ((fitted, held),) = material._compared_on(cut.train, training=True)
    assert set(frame.split[held]) == {"validation"}
    assert set(frame.split[fitted]) == {"train"}
    assert set(frame.split[cut.folds[0][1]]) == {"test"}


def test_the_from_scratch_control_gets_at_least_transfers_time(judged):
    study, _ = judged
    scratch = study.result.controls["from scratch"]
    assert scratch["folds"] >= 2
    # The floor of a second is more than this transfer takes; what counts is what was spent, not what was planned.
    assert scratch["seconds"] >= max(1.0, 1.1 * scratch["transfer_seconds"])
    assert scratch["transfer_seconds"] > 0
    assert "the best of" in scratch["note"] and "with early stopping" in scratch["note"]


@pytest.mark.parametrize(
    ("rates", "said"), [([1], ": one try at rate 0.001, "), ([2, 3], ": the best of 3 tries at rates 0.001, 0.003, 0.0003, ")]
)
def test_the_from_scratch_control_counts_its_tries(rates, said):
    scratch = Scratch(None, "tiny:text", times.ScratchPlan(10.0, len(rates), 3, 4, 60), rates=rates, epochs=[4] * len(rates))
    assert said in scratch.note()


def test_attempts_from_scratch_go_on_until_the_time_is_up_and_are_as_many_the_next_time(monkeypatch):
    material = Material(load(table(60)), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)
    clock = times.Clock(material, None, 0.0, 40, 2, {})
    train, test = np.arange(40), np.arange(40, 60)
    tried = []
    fit = Scratch._fit
    monkeypatch.setattr(Scratch, "_fit", lambda self, attempt, *rest: tried.append(attempt) or fit(self, attempt, *rest))
    first = Scratch(clock, "tiny:text", times.ScratchPlan(seconds=1.0, folds=2, rates=3, epochs=2, items_per_epoch=40))
    outputs = first.fit_and_predict(train, test)
    n_tried = len(tried)
    assert tried == list(range(n_tried)) and n_tried > 3 and first.seconds >= 1.0
    again = Scratch(clock, "tiny:text", times.ScratchPlan(seconds=0.0, folds=2, rates=3, epochs=2, items_per_epoch=40))
    np.testing.assert_array_equal(again.fit_and_predict(train, test), outputs)
    assert len(tried) == 2 * n_tried


def test_the_plan_for_the_time_is_said_before_it_is_spent():
    events = []
    run(table(40), backbone="tiny:text", progress=events.append)
    said = [place for place, event in enumerate(events) if isinstance(event, Note)]
    assert events[said[0]].text.startswith("estimate: about ")
    assert not any(isinstance(event, Epoch) for event in events[: said[0]])
    events.clear()
    run(table(40), backbone="tiny:text", budget="30s", progress=events.append)
    assert next(event.text for event in events if isinstance(event, Note)).startswith("plan for 30 s: extraction tiny:text at ")


def test_a_point_of_the_label_curve_is_left_out_where_a_budget_does_not_reach_for_it(monkeypatch):
    monkeypatch.setattr(times, "training_speed", lambda *_: 10.0)
    material = Material(load(table(60)), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)

    def allows(strategy, n, budget, name):
        clock = times.Clock(material, budget, time.perf_counter(), 40, 6, {"strategies": [strategy], "name": name})
        return clock.allows_point(Candidate("tiny:text", strategy), n, scratch=5.0)

    # Ten epochs of 20 items at 10 a second take 20 s, from scratch 5; twice that for all points, and 3 s for the page.
    assert allows("full", 20, 60.0, "enough") and not allows("full", 20, 45.0, "short")
    assert allows("full", 20, None, "no budget") and allows("feature_extraction", 20, 1.0, "nothing is trained")


def test_too_few_items_for_a_curve_still_have_its_last_point():
    """Of 40 training items no share reaches 16."""
    for budget in (None, 30):
        curves = run(table(50), backbone="tiny:text", strategy="feature_extraction", budget=budget).result.label_curve["curves"]
        assert {name: [point["n"] for point in points] for name, points in curves.items()} == {key: [40] for key in curves}


def test_a_budget_that_reaches_for_no_point_leaves_the_curve_out_and_says_so(monkeypatch):
    monkeypatch.setattr(times.Clock, "allows_point", lambda *_: False)
    study = run(table(100), backbone="tiny:text", strategy="feature_extraction", budget=30)
    assert study.result.label_curve == {} and study.result.interrupted == ""
    assert "no label curve: the budget does not reach for training on fewer labels as well" in study.notes


def test_the_estimate_counts_the_retraining_that_was_named(monkeypatch):
    monkeypatch.setattr(times, "training_speed", lambda *_: 10.0)
    material = Material(load(table(60)), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)

    def retraining(*strategies):
        return times.Clock(material, None, 0.0, 40, 6, {"strategies": [*strategies]}).retraining(plays=4)

    assert retraining("auto") == retraining("feature_extraction", "auto") == 0
    # Ten epochs of 40 items at 10 a second, tried and fitted in each of five folds and once for all; 1.43 times that from scratch.
    assert retraining("full") == pytest.approx(6 * 2 * 40 * 2.43)
    # Beside another: four plays more in each fold.
    assert retraining("full", "feature_extraction") == pytest.approx(6 * 2 * 40 * (2.43 + 2))


def test_with_a_budget_auto_retrains_and_the_budget_is_kept(monkeypatch):
    monkeypatch.setattr(times, "_LEAST_FIT", 0.2)
    begun = time.perf_counter()
    # Labels drawn at random: whatever is tried, enough held-out answers are wrong to go on.
    frame = table(200, split=True).assign(label=np.random.default_rng(0).choice(["fruit", "metal"], 200))
    study = run(frame, backbone="tiny:text", budget=12)
    assert time.perf_counter() - begun < 1.15 * 12
    assert {row["strategy"] for row in study.result.candidates} > {"feature_extraction"}
    assert any(note.startswith("auto ") for note in study.notes)


def test_pictures_work_end_to_end_with_broken_files(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("bright", 160)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(15):
            Image.fromarray(rng.integers(level, level + 60, (24, 24, 3), dtype=np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "dark" / "torn.jpg").write_bytes(b"no picture")
    study = run(tmp_path / "data", out=tmp_path / "run", backbone="tiny:image")
    assert study.result.n_test == 30
    assert any(finding["kind"] == "unreadable" and "dark/torn.jpg" in finding["items"] for finding in study.result.findings)
    assert study.result.score > 0.9
    assert set(study.result.controls) == {"from scratch", "HOG + colour histogram + logistic regression"}
    _, rows = cli.prediction_rows(Transfer.load(tmp_path / "run"), load_unlabelled(tmp_path / "data"))
    by_id = {row[0]: row for row in rows}
    assert len(by_id) == 31
    assert by_id["dark/torn.jpg"] == ["dark/torn.jpg", "", "", "", "cannot be read: not an image"]
    assert by_id["bright/3.png"][1] == "bright"


def test_a_regression_is_judged_by_r2():
    frame = table(60)
    frame["label"] = [3.5 * ("apple" in text) + 0.25 for text in frame.text]
    result = run(frame, backbone="tiny:text").result
    assert (result.task, result.metric) == ("regression", "r2")
    assert set(result.metrics) == {"r2", "mae", "rmse"}
    assert result.confusion == []


def test_several_labels_an_item_work():
    frame = table(60)
    frame["label"] = ["|".join(word for word in ("red", "big", "old") if word in text) or "none" for text in frame.text]
    result = run(frame, backbone="tiny:text").result
    assert (result.task, result.metric) == ("multilabel", "macro_f1")


def test_a_table_of_numbers_is_read_as_text_and_compared_with_boosting(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(20, 60, 60), "work": rng.choice(["office", "field"], 60)})
    frame["label"] = np.where(frame.work == "office", "yes", "no")
    result = run(frame, out=tmp_path, backbone="tiny:text").result
    assert Transfer.load(tmp_path).columns_ == {"age": "number", "work": "category"}
    assert result.modality == "table"
    assert "gradient boosting" in result.controls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "tiny:image"}, "reads images, .* holds texts"),
        ({"strategy": "lp_tf"}, "Did you mean 'lp_ft'"),
        ({"strategy": "scratch"}, "is the control of every run"),
        ({"metric": "r2"}, "does not judge classification, expected one of accuracy"),
        ({"budget": "soon"}, "expected a time above zero"),
    ],
)
def test_what_does_not_fit_is_said(arguments, message):
    with pytest.raises(GraftError, match=message):
        run(table(20), **{"backbone": "tiny:text", **arguments})


def test_a_folder_that_cannot_be_written_is_known_before_time_is_spent(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GraftError, match="cannot be written to"):
        run(table(20), out=tmp_path / "file" / "run", backbone="tiny:text")


def test_without_any_pretrained_image_model_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("graft.study.shortlist", lambda modality: [])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(np.full((8, 8, 3), 10 * i + 100 * (name == "b"), np.uint8)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(GraftError, match=r"(?s)no pretrained image model on this disk.*--backbone checkpoint:FOLDER"):
        run(tmp_path)


def test_labels_to_match_is_read_off_in_log_n():
    assert labels_to_match([(10, 0.5), (100, 0.7)], 0.6) == 32
    assert labels_to_match([(10, 0.5), (100, 0.7)], 0.4) == 10
    assert labels_to_match([(10, 0.5), (100, 0.7)], 0.8) is None


def test_a_candidate_equals_its_model():
    material = Material(load(table(60)), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)
    train, test = np.arange(40), np.arange(40, 60)
    candidate = Candidate("tiny:text", "feature_extraction")
    model = material.fit(candidate, train)
    np.testing.assert_allclose(model.predict_outputs(material.items(test)), material.fit_and_predict(candidate, train, test), atol=1e-6)


def test_a_recipe_reaches_what_is_trained_the_control_and_the_settings(tmp_path, monkeypatch):
    seen, fit = [], Transfer.fit_encoded

    def spy(self, *args, **options):
        seen.append((self.strategy, self.recipe))
        return fit(self, *args, **options)

    monkeypatch.setattr(Transfer, "fit_encoded", spy)
    recipe = Recipe(word_swap=0.1, class_weight="balanced")
    run(table(40, split=True), out=tmp_path / "r", backbone="tiny:text", strategy="partial", recipe=recipe)
    assert {strategy for strategy, given in seen if given == recipe} == {"partial", "scratch"}
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["recipe"] == {"class_weight": "balanced", "word_swap": 0.1}


def test_a_recipe_that_suits_no_strategy_is_refused_before_any_time_is_spent(monkeypatch):
    monkeypatch.setattr(Material, "rank", lambda *_: pytest.fail("time was spent"))
    with pytest.raises(
        GraftError, match=r"(?s)2 problems:.*strategy lp_ft: train: dropout is 2.*strategy lp_ft: .*cutmix is 1.0 for texts"
    ):
        run(table(40, split=True), backbone="tiny:text", recipe=Recipe(dropout=2, cutmix=1.0))


@pytest.mark.parametrize("strategy", [full, ["partial", full]])
def test_a_function_for_a_strategy_is_refused_with_the_way_to_name_it(strategy):
    with pytest.raises(GraftError, match=r"strategy full: a function, expected a name.*@STRATEGIES.add\(SOURCE\)"):
        run(table(20), backbone="tiny:text", strategy=strategy)
