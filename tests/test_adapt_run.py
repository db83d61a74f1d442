"""`adapt_run` and `graft adapt`: the folder that is left, what may be a source and a target, and what the command says."""

import csv
import json
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from adapt_samples import MENDS, believes, untouchable
from PIL import Image
from typer.testing import CliRunner

from graft.adapt import adapt_run, estimator
from graft.adapt import run as running
from graft.cli import app
from graft.data import load, load_unlabelled
from graft.errors import GraftError
from graft.transfer import Transfer

CLASSES = ("ham", "spam")
WORDS = {"ham": "meeting minutes agenda report", "spam": "winner cheap prize offer"}


@pytest.fixture(autouse=True)
def believing(monkeypatch):
    """What recorded runs say is another test's."""
    for room in (estimator, running):
        monkeypatch.setattr(room, "recorded", lambda with_source=True: believes({MENDS: 2.0, "saerens": 1.0}))


def mails(n, style, seed=0):
    """n texts of both classes, half of each, in the words of one shop."""
    rng = np.random.default_rng(seed)
    labels = [CLASSES[k % 2] for k in range(n)]
    texts = [f"{style} {' '.join(rng.choice(WORDS[label].split(), 4))} {style} {rng.integers(10_000)}" for label in labels]
    return pd.DataFrame({"text": texts, "label": labels, "shop": [["north", "south"][k % 3 == 0] for k in range(n)]})


@pytest.fixture
def files(tmp_path):
    mails(40, "dear").to_csv(tmp_path / "mail.csv", index=False)
    mails(24, "yo", seed=1)[["text"]].to_csv(tmp_path / "chat.csv", index=False)
    return tmp_path


def adapted(files, out="run", **settings):
    given = {"backbone": "tiny:text", "methods": MENDS} | settings
    return adapt_run(str(files / "mail.csv"), str(files / "chat.csv"), out=files / out, **given)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- the folder


def test_a_run_leaves_a_whole_folder_whose_model_gives_its_predictions(files):
    found = adapted(files)
    left = {path.name for path in (files / "run").iterdir()}
    assert left == {"report.html", "result.json", "predictions.csv", "config.yaml", "log.txt", "model", ".lock"}
    result = json.loads((files / "run" / "result.json").read_text("utf-8"))
    assert (result["outcome"], result["method"], result["n_source"], result["n_target"]) == ("adapted", MENDS, 40, 24)
    assert result == json.loads(json.dumps(found.record.to_dict()))
    page = (files / "run" / "report.html").read_text("utf-8")
    assert "Adapted with standardise." in page and mails(24, "yo", seed=1)["text"][found.record.label_next[0]["place"]] in page
    predictions = rows_of(files / "run" / "predictions.csv")
    assert [row["id"] for row in predictions] == [f"row {n + 1}" for n in range(24)]
    texts = pd.read_csv(files / "chat.csv")["text"].tolist()
    for model in (Transfer.load(files / "run"), found.model):
        np.testing.assert_allclose(
            [[float(row[f"probability {name}"]) for name in CLASSES] for row in predictions], model.predict_proba(texts), atol=2e-4
        )
        assert model.predict(texts).tolist() == [row["prediction"] for row in predictions]
    assert Transfer.load(files / "run").strategy_ == "feature_extraction + standardise"
    log = (files / "run" / "log.txt").read_text("utf-8")
    assert "24 items without labels" in log and "done in" in log
    assert "standardise" in (files / "run" / "model" / "README.md").read_text("utf-8")


def test_the_settings_hold_all_that_decides_the_numbers(files):
    adapted(files, target_labels={"row 1": "ham", "row 2": "spam"}, unknown=0.5, seed=3, domain="shop")
    settings = yaml.safe_load((files / "run" / "config.yaml").read_text("utf-8"))
    expected = {
        "methods": [MENDS], "strategy": "feature_extraction", "domain": "shop", "unknown": 0.5, "guard": True, "epochs": 10, "recipe": {},
        "budget_seconds": None, "seed": 3, "items": [40, 24], "source_data": None, "target_labels": {"row 1": "ham", "row 2": "spam"},
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    assert len(settings["data_digest"]) == 32 and settings["backbone"] and settings["versions"]["graft"]


def test_the_same_call_again_gives_the_same_numbers(files):
    first = adapted(files)
    before = (files / "run" / "predictions.csv").read_bytes()
    again = adapted(files)
    assert (files / "run" / "predictions.csv").read_bytes() == before
    told, told_again = (one.record.to_dict() for one in (first, again))
    for each in (told, told_again):
        each.pop("seconds")
        for row in each["candidates"]:
            row.pop("seconds")
    assert told == told_again


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"backbone": "tiny:text-1"}, "backbone"),
        ({"methods": "coral"}, "methods"),
        ({"seed": 1}, "seed"),
        ({"unknown": 0.5}, "unknown"),
        ({"domain": "shop"}, "domain"),
        ({"guard": False}, "guard"),
    ],
)
def test_a_folder_of_other_settings_is_refused_with_the_difference(files, changed, name):
    adapted(files)
    before = (files / "run" / "result.json").read_bytes()
    with pytest.raises(GraftError, match=rf"holds a run with other settings, expected a new folder or the same settings:\n  {name}: "):
        adapted(files, **changed)
    assert (files / "run" / "result.json").read_bytes() == before


def test_a_folder_of_other_data_is_refused(files):
    adapted(files)
    mails(24, "hey", seed=5)[["text"]].to_csv(files / "chat.csv", index=False)
    with pytest.raises(GraftError, match="data_digest"):
        adapted(files)


def test_without_a_folder_nothing_is_written(files):
    found = adapt_run(files / "mail.csv", files / "chat.csv", backbone="tiny:text", methods=MENDS)
    assert found.record.outcome == "adapted" and sorted(path.name for path in files.iterdir() if path.suffix) == ["chat.csv", "mail.csv"]
    found.report(files / "page.html")
    assert "Adapted with standardise." in (files / "page.html").read_text("utf-8")


# -- labels of the target


def test_no_label_in_a_targets_table_is_touched():
    target = mails(24, "yo", seed=1)
    # Also where the table is one in memory, whose columns of objects would be turned into words.
    poisoned = target.assign(label=pd.Series(untouchable(24)))[["text", "label"]]
    told = [
        adapt_run(mails(40, "dear"), each, backbone="tiny:text", methods=MENDS).record.to_dict()["candidates"]
        for each in (target[["text"]], poisoned)
    ]
    assert [row["validators"] for row in told[0]] == [row["validators"] for row in told[1]]


def test_labels_that_a_target_file_has_change_nothing(files):
    target = mails(24, "yo", seed=1)
    written = []
    for name, labels in {"true": target["label"], "false": target["label"][::-1].tolist(), "strange": [f"x{n}" for n in range(24)]}.items():
        target.assign(label=labels).to_csv(files / "chat.csv", index=False)
        found = adapted(files, name)
        written.append((files / name / "predictions.csv").read_bytes())
    assert len(set(written)) == 1
    assert "target: label: column 'label' (recognised by its name), not read" in found.record.notes


def test_a_target_that_is_a_data_set_loses_its_labels():
    # All of one class: of data with labels that would be refused.
    frame = mails(24, "yo", seed=1)
    labelled, of_one_class = load(frame).take(np.arange(0, 24, 2)), frame["text"][::2].tolist()
    assert set(labelled.target.tolist()) == {0}
    told = [adapt_run(load(mails(40, "dear")), each, backbone="tiny:text", methods=MENDS).record for each in (labelled, of_one_class)]
    assert [row["validators"] for row in told[0].candidates] == [row["validators"] for row in told[1].candidates]
    with pytest.raises(GraftError, match="holds items of kind table, expected text as in the source"):
        adapt_run(mails(40, "dear"), load_unlabelled(pd.DataFrame({"a": [1.0] * 12})), backbone="tiny:text")


def test_given_target_labels_are_read_from_a_file_and_checked_on(files):
    truth = mails(24, "yo", seed=1)["label"]
    table = pd.DataFrame({"id": [f"row {n + 1}" for n in range(24)], "label": [*truth[:14], *[""] * 10]})
    table.to_csv(files / "few.csv", index=False)
    found = adapted(files, target_labels=files / "few.csv")
    assert found.record.checked["n"] == 14
    predictions = rows_of(files / "run" / "predictions.csv")[:14]
    judged = np.mean([row["prediction"] == label for row, label in zip(predictions, truth[:14], strict=True)])
    assert found.record.checked["score"] == pytest.approx(judged, abs=1 / 14)
    assert {row["id"] for row in found.record.label_next} <= {f"row {n}" for n in range(15, 25)}
    by_name = adapted(files, "again", target_labels={f"row {n + 1}": truth[n] for n in range(14)})
    assert by_name.record.checked == found.record.checked


def test_a_class_unknown_to_the_source_is_a_note(files):
    labels = {"row 1": "ham", "row 2": "spam", "row 3": "phish"}
    found = adapted(files, target_labels=labels, unknown=0.6)
    assert any("1 of 3 labelled target items are of classes that the source does not know (phish)" in note for note in found.record.notes)
    assert found.record.checked["n"] == 2


def test_what_is_too_unsure_is_written_as_unknown(files):
    adapted(files, "plain")
    plain = rows_of(files / "plain" / "predictions.csv")
    sure = [max(float(row[f"probability {name}"]) for name in CLASSES) for row in plain]
    asked = round(float(np.median(sure)), 3)
    found = adapted(files, unknown=asked)
    rows = rows_of(files / "run" / "predictions.csv")
    assert {row["prediction"] for row in plain} <= set(CLASSES)
    expected = ["unknown" if share < asked else row["prediction"] for row, share in zip(plain, sure, strict=True)]
    assert [row["prediction"] for row in rows] == expected and 0 < expected.count("unknown") < 24
    assert f'below a probability of {asked:g} are "unknown": {expected.count("unknown")} of the 24 ' in " ".join(found.record.notes)
    done = CliRunner().invoke(app, ["predict", str(files / "run"), str(files / "chat.csv"), "--out", str(files / "p.csv")])
    assert done.exit_code == 0 and [row["prediction"] for row in rows_of(files / "p.csv")] == expected


# -- what may be a source


def test_a_run_is_a_source_with_its_data_and_without(files):
    adapted(files, "first", methods="source_only")
    with_data = adapt_run(files / "first", files / "chat.csv", source_data=files / "mail.csv", methods=MENDS, out=files / "with")
    assert with_data.record.method == MENDS and with_data.record.n_source == 40
    alone = adapt_run(str(files / "first"), files / "chat.csv", methods="saerens", out=files / "without")
    assert alone.record.method == "saerens" and alone.record.n_source == 0 and alone.record.distances == {}
    assert any("does not tell them, so they are taken as even" in note for note in alone.record.notes)
    # Columns of the text are those that the first run was told of.
    assert Transfer.load(files / "without").columns_ == {"text": "text"}
    texts = pd.read_csv(files / "chat.csv")["text"].tolist()
    assert Transfer.load(files / "without").predict(texts).tolist() == [
        row["prediction"] for row in rows_of(files / "without" / "predictions.csv")
    ]


def test_a_judged_run_tells_the_shares_of_its_classes(files):
    adapted(files, "first", methods="source_only")
    path = files / "first" / "result.json"
    result = json.loads(path.read_text("utf-8")) | {"per_class": [{"class": "ham", "n": 30}, {"class": "spam", "n": 10}]}
    path.write_text(json.dumps(result), encoding="utf-8")
    found = adapt_run(files / "first", files / "chat.csv", methods="saerens")
    assert found.outcome.sides.prior.tolist() == [0.75, 0.25] and not any("taken as even" in note for note in found.record.notes)


def test_several_domains_are_named_and_kept_apart(files):
    found = adapted(files, domain="shop")
    assert found.record.domains == ["north", "south"]
    table = pd.read_csv(files / "mail.csv")
    assert found.outcome.sides.source.domains.tolist() == [int(shop == "south") for shop in table["shop"]]
    # Near-copies stay on one side; a domain is no such bond.
    sides = found.outcome.sides
    assert set(sides.source.domains[sides.held]) == set(sides.source.domains[sides.learned]) == {0, 1}


def test_a_table_of_numbers_keeps_its_columns_for_the_next_table(tmp_path):
    rng = np.random.default_rng(0)
    kind = np.array(["a", "b"])[np.arange(40) % 2]
    source = pd.DataFrame({"size": rng.normal(size=40).round(2), "kind": kind, "label": np.where(kind == "a", "x", "y")})
    found = adapt_run(source, source[["kind", "size"]].iloc[:20], out=tmp_path / "run", backbone="tiny:text", methods=MENDS)
    assert Transfer.load(tmp_path / "run").columns_ == {"size": "number", "kind": "category"} == found.model.columns_
    again = adapt_run(tmp_path / "run", source[["size", "kind"]].iloc[:20], methods="saerens")
    assert found.record.modality == again.record.modality == "table" and again.record.n_target == 20
    with pytest.raises(GraftError, match="lacks columns that the model was trained on: kind"):
        adapt_run(source, source[["size"]], backbone="tiny:text", methods=MENDS)


def pictures(folder, n, brighter, labelled=True):
    rng = np.random.default_rng(brighter)
    for k in range(n):
        place = folder / (["dark", "light"][k % 2] if labelled else "")
        place.mkdir(parents=True, exist_ok=True)
        array = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8) + np.uint8(90 * (k % 2) + brighter)
        Image.fromarray(array).save(place / f"{k}.png")


def test_images_are_shown_and_one_that_cannot_be_read_is_set_aside_and_named(tmp_path):
    pictures(tmp_path / "source", 24, 0)
    pictures(tmp_path / "target", 12, 80, labelled=False)
    (tmp_path / "target" / "torn.png").write_bytes(b"no image")
    found = adapt_run(tmp_path / "source", tmp_path / "target", out=tmp_path / "run", backbone="tiny:image", methods=MENDS)
    assert found.record.modality == "image" and found.record.n_target == 12
    (torn,) = [finding for finding in found.record.findings if "target" in finding["message"]]
    assert torn["message"].startswith("target: 1 item is unreadable and set aside: torn.png")
    assert len(rows_of(tmp_path / "run" / "predictions.csv")) == 12
    assert "data:image/" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_numbers_to_predict_are_written_as_numbers(tmp_path):
    rng = np.random.default_rng(0)
    size = rng.normal(size=60)
    source = pd.DataFrame({"size": size.round(3), "price": (3 * size + 0.1 * rng.normal(size=60)).round(3)})
    found = adapt_run(
        source,
        source[["size"]].iloc[:20] + 1,
        out=tmp_path / "run",
        backbone="tiny:text",
        methods="density_ratio",
        roles={"label": "price"},
    )
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    assert list(rows[0]) == ["id", "prediction"] and found.record.task == "regression" and found.record.estimate == {}
    assert np.isfinite([float(row["prediction"]) for row in rows]).all()
    assert json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["metric"] == "rmse"


# -- what is refused


def labels_file(folder, text):
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder / "labels.csv"


REFUSED = {
    "unknown of one": (lambda _: {"unknown": 1.0}, r"unknown is 1.0, expected a probability from 0 to below 1"),
    "a class called unknown": (
        lambda files: {"source": mails(40, "dear").replace({"label": {"spam": "unknown"}}), "unknown": 0.5},
        r"'unknown' is a class of the source",
    ),
    "unknown method": (lambda _: {"methods": ["corall"]}, r"method 'corall', .* Did you mean 'coral'\?"),
    "a method to retrain": (lambda _: {"methods": ["tent"]}, r"method tent retrains the network, expected a budget for it"),
    "no such source": (
        lambda files: {"source": str(files / "mial.csv")},
        r"mial.csv: no such file or folder: .* Did you mean 'mail.csv'\?",
    ),
    "no such target": (
        lambda files: {"target": str(files / "caht.csv")},
        r"caht.csv: no such file or folder: .* Did you mean 'chat.csv'\?",
    ),
    "an empty target": (lambda _: {"target": pd.DataFrame({"text": []})}, r"has no rows, expected at least one item"),
    "one target item": (lambda _: {"target": ["a single text"]}, r"the target holds 1 item, expected at least 10"),
    "data of a run that is none": (lambda files: {"source_data": files / "mail.csv"}, r"source_data was given, and the source is no run"),
    "no labels file": (
        lambda files: {"target_labels": files / "no.csv"},
        r"no.csv: there is no such file, expected a CSV with the columns id",
    ),
    "another labels file": (
        lambda files: {"target_labels": labels_file(files, "name,label\nrow 1,ham\n")},
        r"labels.csv: has the columns name, label, expected id and label",
    ),
    "a labels file to be filled in": (
        lambda files: {"target_labels": labels_file(files, "id,label\nrow 1,\n")},
        r"holds no label, expected",
    ),
    "two labels": (
        lambda files: {"target_labels": labels_file(files, "id,label\nrow 1,ham\nrow 1,spam\n")},
        r"'row 1' has two labels, expected one for each id",
    ),
    "strange ids": (
        lambda _: {"target_labels": {"row 1": "ham", "row 99": "ham"}},
        r"target labels: 1 of 2 ids are none of the target's, e.g. 'row 99', expected ids as in predictions.csv, e.g. 'row 1'",
    ),
    "no shared class": (
        lambda _: {"target_labels": {"row 1": "cat", "row 2": "dog"}},
        r"the target's labels are cat, dog, the source's classes ham, spam: they share none",
    ),
    "a group and a domain": (lambda _: {"domain": "shop", "roles": {"group": "shop"}}, r"both a group \(shop\) and a domain \(shop\)"),
    "a domain that is no column": (lambda _: {"domain": "shp"}, r"shp"),
    "a domain of a data set without": (
        lambda _: {"source": load(mails(40, "dear")), "domain": "shop"},
        r"domain shop was named, and the Dataset has no groups, expected load\(..., group='shop'\)",
    ),
    "roles of a data set": (
        lambda _: {"source": load(mails(40, "dear")), "roles": {"label": "label"}},
        r"roles \(label\) were named for a Dataset, which has them",
    ),
    "several labels": (
        lambda _: {
            "source": mails(40, "dear").assign(label=["a;b", "b", "a", "c;a"] * 10),
            "roles": {"label": "label", "task": "multilabel"},
        },
        r"the source has several labels an item, expected one class or one number",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_message_before_anything_is_left(files, name):
    more, message = REFUSED[name]
    given = {"source": str(files / "mail.csv"), "target": str(files / "chat.csv"), "backbone": "tiny:text", "methods": MENDS} | more(files)
    with pytest.raises(GraftError, match=message):
        adapt_run(given.pop("source"), given.pop("target"), out=files / "run", **given)
    assert not (files / "run" / "result.json").exists() and not (files / "run" / "model").exists()
    # What was refused does not claim the folder.
    assert not (files / "run" / "config.yaml").exists() and not (files / "run" / "unfinished").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"backbone": "tiny:text"}, r"backbone tiny:text was named, and the source is a run, expected neither: its own network serves"),
        ({"strategy": "lp_ft"}, r"strategy lp_ft was named, and the source is a run"),
        ({"domain": "shop"}, r"domain shop was named, and the source is a run alone, expected its data in source_data"),
        ({"methods": "coral"}, r"method coral needs the source's items, and only the fitted model was given"),
    ],
)
def test_what_a_run_cannot_give_is_refused(files, more, message):
    adapted(files, "first", methods="source_only")
    with pytest.raises(GraftError, match=message):
        adapt_run(files / "first", files / "chat.csv", **more)


# -- the command


def command(*arguments):
    return CliRunner().invoke(app, ["adapt", *map(str, arguments)])


def test_the_command_leaves_the_folder_and_says_what_it_came_to(files):
    done = command(
        files / "mail.csv", "--target", files / "chat.csv", "--out", files / "run", "--backbone", "tiny:text", "--method", MENDS,
        "--method", "saerens", "--domain", "shop", "--unknown", "0.5", "--seed", "2",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert f"Adapted from {files / 'mail.csv'} to {files / 'chat.csv'} with standardise" in said
    assert "Expected accuracy on the target: 0." in said and "90 % interval" in said.replace("\N{NO-BREAK SPACE}", " ")
    assert "predicted gain" in said and "source_only" in said and "saerens" in said
    assert str(files / "run" / "report.html") in said
    settings = yaml.safe_load((files / "run" / "config.yaml").read_text("utf-8"))
    assert (settings["methods"], settings["domain"], settings["unknown"], settings["seed"]) == ([MENDS, "saerens"], "shop", 0.5, 2)
    assert (files / "run" / "result.json").exists()


def test_the_commands_own_predictions_are_those_of_graft_predict(files):
    given = ["--target", files / "chat.csv", "--out", files / "run", "--backbone", "tiny:text", "--method", MENDS]
    assert command(files / "mail.csv", *given).exit_code == 0
    done = CliRunner().invoke(app, ["predict", str(files / "run"), str(files / "chat.csv"), "--out", str(files / "p.csv")])
    assert done.exit_code == 0, done.output
    for name in ("prediction", "id"):
        assert [row[name] for row in rows_of(files / "p.csv")] == [row[name] for row in rows_of(files / "run" / "predictions.csv")]


def test_the_guard_can_be_turned_off_and_a_method_to_retrain_needs_a_budget(files, monkeypatch):
    monkeypatch.setattr(running, "recorded", lambda with_source=True: believes({MENDS: 0.1}, spread=0.5))
    given = [files / "mail.csv", "--target", files / "chat.csv", "--backbone", "tiny:text", "--method", MENDS]
    guarded, free = (command(*given, "--out", files / name, *more) for name, more in {"a": (), "b": ("--no-guard",)}.items())
    assert "is kept for" in " ".join(guarded.stdout.split()) and "Adapted from" in free.stdout
    refused = command(*given, "--out", files / "c", "--method", "tent")
    assert isinstance(refused.exception, GraftError) and "--budget 10m" in str(refused.exception)


def test_the_command_prints_one_line_for_what_can_be_mended(files, monkeypatch, capsys):
    from graft import cli

    monkeypatch.setattr(
        sys, "argv", ["graft", "adapt", str(files / "mail.csv"), "--target", str(files / "no.csv"), "--out", str(files / "run")]
    )
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2 and capsys.readouterr().err.startswith("graft: ")
