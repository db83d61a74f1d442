"""`graft.pretrain`: what is learned from, the folder that is left, killed runs, budgets, collapse, and each message."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pretrain_samples import Alike, Taught, Told, pictures, registered, texts

import graft
from graft.backbones import load_backbone
from graft.errors import GraftError
from graft.pretext import PRETEXTS
from graft.pretraining import course, methods, squares, times, watch
from graft.records import Note, Phase, Plan, Recipe


@pytest.fixture(autouse=True)
def pretexts():
    with registered("told", Told), registered("alike", Alike), registered("taught", Taught):
        yield


def made(data, out=None, **settings):
    given = {"start": "tiny:text" if isinstance(data, list) else "tiny:image", "method": "told", "epochs": 2} | settings
    return graft.pretrain(data, out=out, **given)


# -- what is left


def test_the_folder_is_a_backbone_with_its_card_its_page_and_every_number(tmp_path):
    found = made(str(pictures(tmp_path / "data")), tmp_path / "out")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"report.html", "result.json", "config.yaml", "log.txt", "README.md", "config.json", "model.safetensors", ".lock"}
    again = load_backbone(f"checkpoint:{tmp_path / 'out'}")
    assert again.fingerprint() == found.backbone.fingerprint() == found.record.fingerprint != load_backbone("tiny:image").fingerprint()
    assert again.card == found.backbone.card == {"start": "tiny:image", "pretrained_on": "48 images of data (told)"}
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert result == json.loads(json.dumps(found.record.to_dict()))
    assert (result["n_items"], result["helped"]["n"], result["epochs"], result["start"]) == (48, 12, 2, "tiny:image")
    assert [row["epoch"] for row in result["watched"]] == [0, 1, 2] and result["watched"][2]["loss"] < result["watched"][1]["loss"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "2 epochs of 48 images in batches of 16" in card and "a test, equation 1" in card
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Effective rank" in page and found.record.fingerprint in page
    log = (tmp_path / "out" / "log.txt").read_text("utf-8")
    assert "plan: 2 epochs of told on 48 images" in log and "epoch 2: loss" in log


def test_weights_learned_from_random_ones_learn_faster_than_pretrained_ones():
    untrained, trained = load_backbone("tiny:text"), load_backbone("tiny:text")
    trained.card = {"pretrained_on": "much"}
    assert methods.plan_of("told", untrained, 3).phases[0].lr == (1e-2,) * 4
    assert methods.plan_of("told", trained, 3).phases[0].lr == pytest.approx((1e-3,) * 4)
    assert methods.default_epochs("simclr", untrained) > methods.default_epochs("simclr", trained)


def test_a_second_pretraining_tells_what_both_saw(tmp_path):
    made(texts(), tmp_path / "first")
    (tmp_path / "first" / "config.json").write_text(
        (tmp_path / "first" / "config.json").read_text("utf-8").replace('"card": {', '"card": {"licence": "mit", '), "utf-8"
    )
    record = made(texts(), tmp_path / "second", start=f"checkpoint:{tmp_path / 'first'}").record
    assert record.pretrained_on == "40 texts of list of 40 items (told), then 40 texts of list of 40 items (told)"
    assert record.licence == "mit" and record.rate == pytest.approx(1e-3)
    assert 'license: "mit"' in (tmp_path / "second" / "README.md").read_text("utf-8")


def test_a_run_takes_the_folder_as_a_backbone_and_tells_its_card(tmp_path, quick_studies):
    data = str(pictures(tmp_path / "data"))
    made(data, tmp_path / "out")
    study = graft.run(data, backbone=f"checkpoint:{tmp_path / 'out'}", strategy="feature_extraction")
    assert study.result.weights[0]["pretrained_on"] == "48 images of data (told)"


# -- what is learned from


def test_labels_are_looked_at_and_not_learned_from(tmp_path, monkeypatch):
    data, seen = str(pictures(tmp_path / "data")), []
    monkeypatch.setattr(times, "seconds_an_item", lambda play, batch_size, n, **_: 1.0)
    monkeypatch.setattr("graft.pretraining.course.train", lambda *given, **named: seen.append((given, named)) or iter(()))
    with pytest.raises(GraftError, match="nothing was learned"):
        made(data)
    given, named = seen[-1]
    assert len(given[3]) == len(given[4]) == 0 and len(named["others"]) == 48


def test_what_is_judged_on_is_never_learned_from(tmp_path, monkeypatch):
    data = pictures(tmp_path / "data", n=20)
    for place in range(5):
        # The same picture without a label, as near as a copy is.
        (data / f"loose{place}.png").write_bytes((data / "bright" / f"{place}.png").read_bytes())
    record = made(str(data)).record
    bytes_of = {path: path.read_bytes() for path in data.rglob("*.png")}
    seen = []
    monkeypatch.setattr("graft.pretraining.course.Lesson.play", lambda self, *given, **_: seen.append(self.material) or iter(()))
    monkeypatch.setattr(times, "seconds_an_item", lambda play, batch_size, n, **_: play(n, print) or 1.0)
    with pytest.raises(GraftError):
        made(str(data))
    material = seen[0]
    held = {bytes_of[Path(item)] for item in material.judged.held}
    assert held and not held & {bytes_of[Path(item)] for item in material.items}
    # Of 45 items the 8 that are judged on, and copies of them, are left out.
    assert record.n_items == len(material.items) == 45 - sum(content in held for content in bytes_of.values())


def test_a_given_test_part_is_kept_for_judging(tmp_path):
    pictures(tmp_path / "data" / "train", n=12)
    pictures(tmp_path / "data" / "test", n=7, seed=1)
    record = made(str(tmp_path / "data")).record
    assert (record.n_items, record.helped["n"], record.helped["n_fitted"]) == (24, 14, 24)
    assert any("the given test part" in note for note in record.notes)


def test_a_folder_without_class_folders_is_learned_from(tmp_path):
    folder = pictures(tmp_path / "data") / "bright"
    record = made(str(folder)).record
    assert (record.n_items, record.helped) == (30, {})
    assert any("lie in no folder" in note for note in record.notes)
    assert {row["knn"] for row in record.watched} == {None}


def test_a_column_of_texts_and_a_frame_are_learned_from(tmp_path):
    frame = pd.DataFrame({"text": texts(), "label": ["ham", "spam"] * 20})
    frame.to_csv(tmp_path / "mail.csv", index=False)
    for data in (frame, str(tmp_path / "mail.csv")):
        record = made(data, start="tiny:text").record
        assert record.modality == "text" and record.n_items + record.helped["n"] == 40
    assert made(frame.drop(columns="label"), start="tiny:text", judge=frame).record.helped["n"] == 20


def test_broken_and_doubled_images_are_told(tmp_path):
    data = pictures(tmp_path / "data")
    (data / "bright" / "torn.png").write_bytes((data / "bright" / "0.png").read_bytes()[:200])
    (data / "bright" / "text.jpg").write_text("no image")
    (data / "dark" / "copy.png").write_bytes((data / "dark" / "1.png").read_bytes())
    (data / "notes.txt").write_text("hello")
    record = made(str(data)).record
    findings = {finding["kind"]: finding for finding in record.findings}
    assert set(findings["unreadable"]["items"]) == {"bright/torn.png", "bright/text.jpg"}
    assert "duplicates" in findings and any("notes.txt" in note for note in record.notes)
    assert record.n_items + record.helped["n"] == 61


@pytest.mark.parametrize("size", [(40, 32), (33, 90), (20, 20)])
def test_a_square_gives_the_view_that_its_image_gives(tmp_path, size):
    data = pictures(tmp_path / "data", n=2, size=size)
    items = [str(path) for path in sorted(data.rglob("*.png"))]
    from graft.backbones._images import preparer, preprocessing_of

    ours = preprocessing_of({"input_size": (3, 32, 32), "crop_pct": 0.8}, "a test")
    # The view of an image is cut and resized in one pass, that of its square in two, which rounds otherwise: these images are noise.
    rounding = 1 / 255 / max(ours["std"])
    for preprocessing, prepare, apart in ((ours, preparer(ours), rounding), ({"size_px": 32}, load_backbone("tiny:image")._prepare, 0)):
        with squares.packed(items, preprocessing, tmp_path, print) as (packed, note):
            assert packed.shape == (4, squares.side_of(preprocessing), squares.side_of(preprocessing), 3) and not note
            whole, ours_of_it = prepare(items, None), prepare(list(packed), None)
        # A place may round to its neighbour where the middle lies between two.
        shifts = [
            abs(whole[..., 2:-2, 2:-2] - ours_of_it.roll((y, x), (2, 3))[..., 2:-2, 2:-2]).mean() for y in (-1, 0, 1) for x in (-1, 0, 1)
        ]
        assert min(shifts) <= apart
        (tmp_path / "images.npy").unlink()


def test_images_that_do_not_fit_on_the_disk_are_decoded_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(squares, "_LIMIT_BYTES", 1000)
    record = made(str(pictures(tmp_path / "data"))).record
    assert any("decoded in each epoch" in note for note in record.notes)
    assert record.fingerprint != load_backbone("tiny:image").fingerprint()


# -- methods


def test_supervised_learns_from_labels_and_leaves_the_head_behind(tmp_path):
    frame = pd.DataFrame({"text": texts(120), "kind": ["ham", "spam"] * 60})
    found = graft.pretrain(frame, start="tiny:text", label="kind", epochs=8, recipe={"batch_size": 16})
    assert (found.record.method, found.record.batch_size) == ("supervised", 16)
    assert found.record.helped["result"]["score"] >= 0.9
    assert found.record.watched[-1]["loss"] < 0.7 * found.record.watched[1]["loss"]


def test_a_plan_says_rates_epochs_and_further_losses(tmp_path, monkeypatch):
    """Played as it is: the epochs of its phase at its rates, with the loss it adds; another plan in the same folder is refused."""
    played = []
    loop = course.train
    monkeypatch.setattr(course, "train", lambda *given, **named: (played.append(given[2]), loop(*given, **named))[1])
    plan = Plan((Phase(3, (2e-3,) * 4, 5e-3),), losses=(("cosface", 0.5),))
    given = {"start": "tiny:text", "label": "kind", "recipe": {"batch_size": 16}, "out": tmp_path / "out"}
    frame = pd.DataFrame({"text": texts(80), "kind": ["ham", "spam"] * 40})
    record = graft.pretrain(frame, plan=plan, **given).record
    assert played == [plan] and (record.epochs, record.planned_epochs, record.rate) == (3, 3, 2e-3)
    with pytest.raises(GraftError, match=r"plan: .*cosface.* there, .*smoother.* now"):
        graft.pretrain(frame, plan=replace(plan, losses=(("smoother", 0.5),)), **given)


RATES = (1e-3,) * 4
TOLD = Plan((Phase(1, RATES, 0.0),), losses=(("told", 1.0),), supervised=False)


@pytest.mark.parametrize(
    ("plan", "settings", "message"),
    [
        (Plan((Phase(1, RATES, 0.0),)), {}, "supervised=True and the losses none for method 'told', expected"),
        (replace(TOLD, supervised=True), {}, "supervised=True and the losses told for"),
        (TOLD, {"epochs": 1}, "beside a plan, expected a plan"),
        (TOLD, {"budget": "1m"}, "beside a plan, expected a plan"),
        (Plan(()), {}, "a plan of 0 phases, expected one"),
        (replace(TOLD, phases=(Phase(1, (1e-3,) * 7, 0.0),)), {}, "7 rates"),
    ],
)
def test_a_plan_that_is_not_the_methods_is_refused(plan, settings, message):
    with pytest.raises(GraftError, match=message):
        graft.pretrain(texts(), plan=plan, start="tiny:text", method="told", **settings)


def test_a_plan_without_labels_is_refused_for_supervised():
    frame = pd.DataFrame({"text": texts(), "kind": ["ham", "spam"] * 20})
    with pytest.raises(GraftError, match="supervised=False for method 'supervised'"):
        graft.pretrain(frame, plan=TOLD, start="tiny:text", label="kind")


def test_a_regression_is_learned_from_too():
    frame = pd.DataFrame({"text": texts(60), "price": np.tile([1.5, 1000.25], 30)})
    record = graft.pretrain(frame, start="tiny:text", label="price", epochs=4).record
    assert record.helped["metric"] == "r2" and record.watched[1]["loss"] < 10


def test_a_teacher_is_listened_to(tmp_path):
    record = made(texts(), method="taught", teachers="tiny:text-1").record
    assert record.teachers == ["tiny:text-1"] and "taught by tiny:text-1" in (graft.report.pretraining.made_sentence(record))


@pytest.mark.parametrize(("prepares", "said"), [(False, "about"), (True, "at most")])
def test_the_time_that_is_left_is_told_when_it_is_known(tmp_path, monkeypatch, prepares, said):
    """After the first epoch; after the second where a method prepares views, which the first epoch's clock has not seen."""
    monkeypatch.setattr(course.Lesson, "prepares", prepares)
    made(texts(), tmp_path / "out", epochs=3)
    lines = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8").splitlines()
    place = next(place for place, line in enumerate(lines) if "an epoch takes" in line)
    assert f": {said} " in lines[place] and f"epoch {1 + prepares}:" in lines[place - 1]


def test_signals_are_learned_from_as_arrays_and_files(tmp_path, monkeypatch):
    from graft.pretraining import signals

    rng = np.random.default_rng(0)
    array = rng.normal(size=(20, 3, 50))
    array[4, 0, 0] = np.nan
    np.save(tmp_path / "one.npy", array)
    np.savez(tmp_path / "more.npz", x=array, y=["a", "b"] * 10)
    for data in (array, str(tmp_path / "one.npy")):
        items, target, *_, findings = signals.read(data)
        assert len(items) == 19 and items[0].shape == (3, 50) and target is None
        assert findings[0].items == ("signal 4",)
    _, target, task, classes, _, _ = signals.read(str(tmp_path / "more.npz"))
    assert (task, classes, target.tolist()[:5]) == ("classification", ("a", "b"), [0, 1, 0, 1, 1])


def test_tables_and_signals_begin_with_an_encoder_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(size=60), "work": rng.choice(["a", "b"], 60), "label": ["x", "y"] * 30})
    table = graft.pretrain(frame, out=tmp_path / "table", epochs=1)
    assert (table.record.modality, table.record.method) == ("table", "scarf")
    assert [list(table.backbone.preprocessing[kind]) for kind in ("numbers", "categories")] == [["age"], ["work"]]
    signals = graft.pretrain(rng.normal(size=(20, 3, 64)), out=tmp_path / "signals", epochs=1)
    assert (signals.record.modality, signals.record.method, signals.record.start) == ("signal", "contrastive_crops", "signal:3")
    for found, name in ((table, "table"), (signals, "signals")):
        assert load_backbone(f"checkpoint:{tmp_path / name}").fingerprint() == found.record.fingerprint


def test_every_default_is_a_pretext_for_what_it_teaches():
    for modality, name in methods.DEFAULTS.items():
        assert modality in PRETEXTS[name].modalities and name in methods.METHODS
    # A row of the table that is no method would never be read.
    assert set(methods.METHODS) <= {*PRETEXTS, methods.SUPERVISED}


# -- collapse


def test_collapse_is_named_when_it_happens(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_SHARE_OF_TIME", np.inf)
    notes, data = [], str(pictures(tmp_path / "data", n=15))
    record = made(data, method="alike", epochs=40, recipe={"schedule": "constant", "precision": "fp32"}, progress=notes.append).record
    assert 1 < record.collapse["epoch"] < 40
    (told,) = [event.text for event in notes if isinstance(event, Note) and event.text.startswith("collapse")]
    assert f"collapse in epoch {record.collapse['epoch']}" in told and "vicreg" in told
    assert record.collapse["at_the_end"]
    page = graft.report.pretraining.render(record)
    assert "It collapsed." in page


def test_a_network_that_learns_does_not_collapse():
    assert made(texts(), epochs=20).record.collapse == {}


def test_a_look_is_what_its_formulas_say():
    rng = np.random.default_rng(0)
    direction, level = rng.normal(size=8), np.full(8, 3.0)
    same = np.tile(level, (40, 1))
    assert watch.look(same, None) == {"effective_rank": pytest.approx(1, abs=1e-3), "spread": 0.0, "knn": None}
    # One direction and a level: features fill at most two directions; the spread is that of the direction over the root mean square.
    steps = rng.normal(size=40)
    steps -= steps.mean()
    line = level + np.outer(steps, direction)
    looked = watch.look(line, np.repeat([0, 1], 20))
    assert 1 < looked["effective_rank"] < 2.001
    assert looked["spread"] == pytest.approx(np.sqrt((steps**2).mean() * (direction**2).mean() / (line**2).mean()))
    apart = np.concatenate([rng.normal(size=(20, 8)), rng.normal(size=(20, 8)) + 50])
    assert watch.look(apart, np.repeat([0, 1], 20))["knn"] == 1.0
    assert watch.look(np.full((4, 2), np.nan), None)["spread"] == 0.0


@pytest.mark.parametrize(
    ("rank", "spread", "reads_labels", "expected"),
    [
        (1.2, 0.5, False, "fill 1.2"),
        (2.1, 0.5, False, ""),
        (1.2, 0.5, True, ""),
        (9, 0.04, True, "differ by 0.04"),
        (9, 0.06, False, ""),
    ],
)
def test_collapse_is_a_tenth_of_the_rank_or_of_the_spread(rank, spread, reads_labels, expected):
    start = {"effective_rank": 11.0, "spread": 0.5}
    found = watch.collapsed(start, {"effective_rank": rank, "spread": spread}, reads_labels)
    assert expected in found and bool(found) == bool(expected)


# -- time


def test_a_budget_gives_as_many_epochs_as_fit():
    assert times.fitting(100, 10, 4, 5) == int((100 - 10 - 10) * 0.88 / 4)
    with pytest.raises(GraftError, match=r"budget of 20 s allows no epoch: one takes about 30 s.*smallest that works is about 6[01] s"):
        times.fitting(20, 10, 30, 5)


def test_a_budget_is_planned_and_kept_to(tmp_path, monkeypatch):
    notes = []
    # An epoch of 40 texts is taken to last 10 s.
    monkeypatch.setattr(times, "seconds_an_item", lambda *_, **__: 0.25)
    record = made(texts(), tmp_path / "out", epochs=None, budget="100s", progress=notes.append).record
    assert 1 < record.planned_epochs == record.epochs <= 8
    assert any(
        isinstance(event, Note) and f"plan: {record.epochs} epochs" in event.text and "of 1 min 40 s" in event.text for event in notes
    )


def test_the_pace_is_measured_where_one_batch_holds_all_items():
    # 17 items in batches of 16 are one batch: a last one of a single item joins the one before.
    assert made(texts(17)).record.epochs == 2


def test_the_pace_is_that_of_the_batches_behind_the_first():
    ticks = iter([0.0, 10.0, 11.0, 12.0, 13.0])

    def play(first, progress):
        assert first == 16
        for done in (4, 8, 12, 16):
            progress(graft.records.Step("training x", done, 16))

    with pytest.MonkeyPatch.context() as patch:
        next(ticks)
        patch.setattr(times.time, "perf_counter", lambda: next(ticks))
        assert times.seconds_an_item(play, 4, 100) == 0.25


# -- interrupted

SCRIPT = """
import os, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from pretrain_samples import Told, registered, texts
import graft
from graft.train import checkpoint
checkpoint._SHARE_OF_TIME = float("inf")
from graft.pretraining import course
course._SHARE_OF_TIME = float("inf")
from graft.records import Epoch
def tell(event):
    if isinstance(event, Epoch):
        print(event.epoch, flush=True)
        if event.epoch == int(sys.argv[3]):
            sys.stdin.read()
with registered("told", Told):
    graft.pretrain(texts(), out=sys.argv[2], start="tiny:text", method="told", epochs=5, progress=tell)
print("done", flush=True)
"""


def in_another_process(out, stop_at):
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(out), str(stop_at)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(tmp_path):
    with in_another_process(tmp_path / "killed", 2) as process:
        assert [process.stdout.readline().strip() for _ in range(3)] == ["0", "1", "2"]
        process.kill()
    latest = load_backbone(f"checkpoint:{tmp_path / 'killed' / 'unfinished' / 'latest'}")
    assert latest.card == {"start": "tiny:text", "pretrained_on": "40 texts of list of 40 items (told)"}
    with pytest.raises(GraftError, match=r"Did you mean 'checkpoint:.*unfinished/latest'"):
        load_backbone(f"checkpoint:{tmp_path / 'killed'}")
    told = []
    resumed = made(texts(), tmp_path / "killed", epochs=5, progress=told.append).record
    whole = made(texts(), tmp_path / "whole", epochs=5).record
    assert resumed.fingerprint == whole.fingerprint
    assert [row["loss"] for row in resumed.watched] == [row["loss"] for row in whole.watched]
    assert sum(type(event).__name__ == "Epoch" for event in told) == 2
    assert not (tmp_path / "killed" / "unfinished").exists()
    for column in ("effective_rank", "spread", "knn"):
        assert resumed.watched[-1][column] == whole.watched[-1][column]


def test_ctrl_c_leaves_what_is_learned_and_the_same_call_goes_on(tmp_path):
    def press(event):
        if type(event).__name__ == "Epoch" and event.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    record = made(texts(), tmp_path / "out", epochs=5, progress=press).record
    assert record.epochs == 2 and "2 of 5 epochs were played" in record.interrupted
    assert load_backbone(f"checkpoint:{tmp_path / 'out'}").fingerprint() == record.fingerprint
    assert record.interrupted in (tmp_path / "out" / "README.md").read_text("utf-8")
    done = made(texts(), tmp_path / "out", epochs=5).record
    assert done.interrupted == "" and done.fingerprint == made(texts(), epochs=5).record.fingerprint


def test_ctrl_c_before_anything_is_learned_says_so(tmp_path):
    def press(event):
        if type(event).__name__ == "Step" and event.what.startswith("training"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(GraftError, match="nothing was learned yet"):
        made(texts(), tmp_path / "out", progress=press)
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_another_setting_in_the_same_folder_is_refused_with_the_difference(tmp_path):
    made(texts(), tmp_path / "out")
    with pytest.raises(GraftError, match="epochs: 2 there, 3 now"):
        made(texts(), tmp_path / "out", epochs=3)
    with pytest.raises(GraftError, match="data_digest"):
        made(texts(seed=1), tmp_path / "out")


# -- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "tod"}, "unknown method 'tod', expected one of .*told.*Did you mean 'told'"),
        ({"epochs": 2, "budget": "5m"}, "a budget .5m. and 2 epochs were named, expected one"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"start": "tiny:image"}, "the start tiny:image reads images and list of 40 items holds texts"),
        ({"teachers": ["tiny:image"], "method": "taught"}, "the teacher tiny:image reads images"),
        ({"method": "taught"}, "method 'taught' without a teacher"),
        ({"teachers": ["tiny:text"]}, "method 'told' with 1 teachers, expected none"),
        ({"label": "kind"}, "label 'kind' was named for a list, expected none"),
        ({"method": "supervised"}, "has no labels .*expected some for the method supervised"),
        ({"recipe": Recipe(batch_size=0)}, "batch_size is 0"),
        ({"judge": "nowhere.csv"}, "nowhere.csv: no such file"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(GraftError, match=message):
        made(texts(), **settings)


def test_a_method_for_other_items_is_refused():
    with (
        registered("pixels", type("Pixels", (Told,), {"modalities": ("image",)})),
        pytest.raises(GraftError, match=r"method 'pixels' with tiny:text, which reads texts, expected one for them: .*told"),
    ):
        made(texts(), method="pixels")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "found no image in it"),
        (lambda folder: (folder / "a.txt").write_text("x"), "only other files: a.txt"),
        (lambda folder: (folder / "a.png").write_bytes(b"torn"), "none of its 1 items can be used"),
    ],
)
def test_a_folder_with_nothing_to_learn_from_is_refused(tmp_path, write, message):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    with pytest.raises(GraftError, match=message):
        made(str(tmp_path / "data"))


def test_a_single_item_is_refused():
    with pytest.raises(GraftError, match="1 items to learn from, expected at least 2"):
        made(["one text"])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no such file, expected an .npy or .npz"),
        (lambda path: path.write_text("x"), "cannot be read"),
        (lambda path: np.save(path.open("wb"), np.zeros((3, 4))), r"float64 of shape \(3, 4\), expected numbers \(n, channels, time\)"),
        (lambda path: np.save(path.open("wb"), np.full((3, 1, 4), np.nan)), "every one of its 3 signals"),
    ],
)
def test_files_that_hold_no_signals_are_refused(tmp_path, write, message):
    from graft.pretraining import signals

    write(tmp_path / "a.npy")
    with pytest.raises(GraftError, match=message):
        signals.read(str(tmp_path / "a.npy"))


def test_importing_the_room_leaves_the_door():
    from graft.pretraining import pretrain as inside

    assert graft.pretrain is inside
    with pytest.raises(GraftError, match="epochs is 0"):
        graft.pretrain(["a", "b"], epochs=0)


def test_only_a_network_that_knows_something_is_held_near_what_it_knew():
    backbone = load_backbone("tiny:text")
    fresh = methods.plan_of("masked_language", backbone, 2)
    backbone.card = {"pretrained_on": "many sentences"}
    continued = methods.plan_of("masked_language", backbone, 2)
    assert fresh.losses == (("masked_language", 1.0),)
    assert continued.losses == (("masked_language", 1.0), ("keep_features", 10.0))
    assert continued.phases[0].lr[0] == pytest.approx(fresh.phases[0].lr[0] / 10)
