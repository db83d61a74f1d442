"""The command: flags in, words out, exit codes. The library behind it is played by stand-ins where it would take long."""

import csv
import errno
import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import graft
from graft import cli
from graft.adapt.trained import ADABN, TRAINED
from graft.cli.show import progress_bar
from graft.errors import GraftError, UnreadableItems
from graft.records import Epoch, Finding, Note, Recipe, Result, Step, Verdict
from graft.runs import folder as graft_folder
from graft.shift import SHIFTS
from graft.study import Ranked, Ranking

VERDICT = Verdict("helps", 0.12, (0.05, 0.19), "TF-IDF + logistic regression", 84, "paired bootstrap over items")
RESULT = Result(
    task="classification",
    metric="accuracy",
    n_train=335,
    n_test=84,
    score=0.81,
    interval=(0.72, 0.89),
    backbone="sentence:minilm",
    strategy="feature_extraction",
    seeds=[0],
    seconds=12.5,
    controls={"TF-IDF + logistic regression": {"score": 0.69, "interval": (0.6, 0.78)}, "[red]": {"score": 0.3, "interval": [0.2, 0.4]}},
    verdict={},
    candidates=[],
    ranking=[],
    findings=[{"kind": "unreadable", "severity": "problem", "message": "2 files cannot be read.", "items": ("a.jpg", "b.jpg")}],
    versions={},
)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `graft ARGUMENTS` in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["graft", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a made-up module in the place of `graft.NAME`."""

    def put(name, **members):
        module = ModuleType(f"graft.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, f"graft.{name}", module)
        monkeypatch.setattr(graft, name, module, raising=False)

    return put


def loads(**known):
    """A `load` that remembers how it was called."""
    calls = []

    def load(source, **columns):
        calls.append((source, columns))
        return SimpleNamespace(name=source, **known)

    return load, calls


def raises(error):
    def call(*_, **__):
        raise error

    return call


def test_what_the_user_can_mend_is_one_line_on_stderr_and_exit_code_two(command, stand_in):
    stand_in("data", load=raises(GraftError("flowers: no such folder. Did you mean 'flower'?")))
    assert command("check", "flowers") == (2, "", "graft: flowers: no such folder. Did you mean 'flower'?\n")


def test_a_fault_of_our_own_keeps_its_traceback(command, stand_in):
    stand_in("data", load=raises(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        command("check", "flowers")


@pytest.mark.parametrize(("name", "said"), [("/runs/page.html", "/runs/page.html"), (None, "the disk")])
def test_a_full_disk_is_one_line_and_another_fault_of_a_file_is_not(command, stand_in, name, said):
    stand_in("data", load=raises(OSError(errno.ENOSPC, "No space left on device", name)))
    code, _, err = command("check", "flowers")
    assert (code, err.count("\n")) == (2, 1) and err.startswith(f"graft: {said}: there is no room (No space left on device), expected")
    stand_in("data", load=raises(OSError(errno.EIO, "Input/output error", name)))
    with pytest.raises(OSError, match="Input/output"):
        command("check", "flowers")


def test_an_interrupt_ends_with_130(command, stand_in):
    stand_in("data", load=raises(KeyboardInterrupt()))
    code, _, err = command("check", "flowers")
    assert code == 130 and "Traceback" not in err


def test_a_mistyped_command_or_flag_names_the_near_miss(command):
    code, _, err = command("chekc", "flowers")
    assert code == 2 and "'check'" in err
    code, _, err = command("check", "flowers", "--lable", "x")
    assert code == 2 and "--label" in err


def test_a_wrong_budget_is_told_before_any_data_is_read(command, stand_in):
    stand_in("data", load=raises(AssertionError("was read")))
    code, _, err = command("run", "d.csv", "--out", "r", "--budget", "ten")
    assert code == 2 and err.startswith("graft: budget 'ten': expected")


def test_a_wrong_setting_is_told_before_any_data_is_read(command, stand_in):
    stand_in("data", load=raises(AssertionError("was read")))
    code, _, err = command("run", "d.csv", "--out", "r", "--set", "mixupp=1")
    assert code == 2 and err.startswith("graft: setting 'mixupp=1': unknown key 'mixupp', expected one of batch_size,")
    assert "Did you mean 'mixup'?" in err


def test_run_hands_every_flag_on_and_ends_with_verdict_table_and_page(command, stand_in):
    load, loaded = loads()
    stand_in("data", load=load)
    ran = []

    def run(data, **settings):
        ran.append(settings)
        return SimpleNamespace(result=replace(RESULT, compared="lp_ft ties with full"), verdict=VERDICT, notes=("label: column 'intent'",))

    stand_in("study", run=run)
    flags = ["--label", "intent", "--text", "title", "--text", "body", "--split", "part", "--group", "user", "--task", "classification"]
    choices = ["--backbone", "a:b", "--backbone", "c:d", "--strategy", "lp_ft", "--metric", "accuracy", "--budget", "2m", "--seed", "3"]
    choices += ["--set", "mixup=0.2", "--set", "schedule=one_cycle", "--keep", "s.csv"]
    code, out, _ = command("run", "d.csv", "--out", "runs/x", *flags, *choices)
    assert code == 0
    columns = {"label": "intent", "text": ["title", "body"], "image": None, "split": "part", "group": "user", "task": "classification"}
    assert loaded == [("d.csv", columns)]
    ran[0].pop("progress")
    assert ran[0].pop("command") == shlex.join(["graft", "run", "d.csv", "--out", "runs/x", *flags, *choices])
    wanted = {"backbone": ["a:b", "c:d"], "strategy": ["lp_ft"], "metric": "accuracy", "budget": 120.0, "seed": 3, "keep": "s.csv"}
    wanted["recipe"] = Recipe(mixup=0.2, schedule="one_cycle")
    assert ran == [{"out": Path("runs/x"), **wanted}]
    assert "label: column 'intent'" in out and "problem: 2 files cannot be read.\n  a.jpg\n  b.jpg\n" in out
    assert str(VERDICT) in out
    assert "sentence:minilm, feature_extraction" in out and "0.720 to 0.890" in out
    assert "control: [red]" in out  # a name in brackets is no markup
    assert str(Path("runs/x/report.html")) in out
    assert f"lp_ft ties with full\nStrategies beside each other: {Path('runs/x/comparison.html')}" in out


def test_run_leaves_choices_that_were_not_made_to_the_study(command, stand_in):
    stand_in("data", load=loads()[0])
    ran = []

    def run(data, **settings):
        ran.append(settings)
        return SimpleNamespace(result=RESULT, verdict=VERDICT, notes=())

    stand_in("study", run=run)
    command("run", "d.csv", "--out", "r")
    assert {name: ran[0][name] for name in ("backbone", "strategy", "metric", "budget", "recipe", "seed", "keep")} == {
        "backbone": None,
        "strategy": None,
        "metric": None,
        "budget": None,
        "recipe": None,
        "seed": 0,
        "keep": None,
    }


RANKED = Ranked(
    backbone="tiny:text", predicted=0.5, score=0.5, interval=(0.4, 0.6), cross_validated=0.49, n=40, p_best=0.75, group=1, loss=0.0,
    scores={"logme": -0.5}, extract_seconds=1.0, train_seconds=30.0, serve_ms=1.5, seconds=1.25, parameters=18_496, licence="",
)  # fmt: skip
DROPPED = replace(RANKED, backbone="tiny:text-1", group=None, p_best=0.25)
CHECK = {
    "strategy": "lp_ft", "n": 10,
    "candidates": [{"backbone": "tiny:text", "predicted": 0.5, "score": 0.52, "interval": (0.3, 0.7), "seconds": 9.0}],
    "correlation": 0.81, "correlation_interval": (0.5, 0.9), "best": "tiny:text-1", "regret": 0.011, "regret_interval": (-0.1, 0.2),
    "seconds_all": 40.0, "seconds_trusted": 10.0, "saved": 0.75,
}  # fmt: skip


def ranking_with(check=None):
    about = {"data": "d.csv", "task": "classification", "modality": "text", "metric": "accuracy", "n": 40, "seconds": 2.0, "seed": 0}
    return Ranking(rows=[RANKED, DROPPED], recommended="tiny:text", basis="guesses", notes=["dropped one"], check=check or {}, **about)


def test_rank_prints_a_table_and_the_recommendation_and_leaves_the_page(command, stand_in, tmp_path):
    asked = []
    stand_in("data", load=loads()[0])
    stand_in("study", rank=lambda *given, **named: asked.append((given[1], named)) or ranking_with(), folder=graft_folder)
    code, out, _ = command("rank", "d.csv", "--backbone", "tiny:text", "--out", tmp_path / "new", "--evidence", "mine.csv")
    assert code == 0 and "0.400 to 0.600" in out and "75%" in out and "dropped one" in out and "0.02 M" in out and "unknown" in out
    assert "Start from tiny:text: predicted accuracy 0.500" in out and "Based on guesses." in out
    assert json.loads((tmp_path / "new" / "rank.json").read_text())["ranking"][0]["seconds"] == 1.25
    assert [path.name for path in sorted((tmp_path / "new").iterdir())] == ["rank.html", "rank.json"]
    names, settings = asked[0]
    assert names == ["tiny:text"] and settings["check"] is None and settings["evidence"] == [Path("mine.csv")]


def test_rank_says_what_the_check_found(command, stand_in):
    asked = []
    stand_in("data", load=loads()[0])
    stand_in("study", rank=lambda *_, **named: asked.append(named) or ranking_with(CHECK))
    _, out, _ = command("rank", "d.csv", "--check", "--strategy", "full")
    assert asked[0]["check"] == "full"
    assert "Rank correlation (weighted Kendall tau): +0.81, 95 % interval +0.50 to +0.90, on 10 items" in out
    assert "Regret: 0.011, 95 % interval -0.100 to 0.200; the best was tiny:text-1" in out and "75% saved" in out
    assert "0.520" in out


def test_a_check_that_tells_nothing_and_saves_nothing_says_so(command, stand_in):
    told = CHECK | {"correlation": None, "correlation_interval": None, "seconds_trusted": 90.0, "saved": -1.25}
    stand_in("data", load=loads()[0])
    stand_in("study", rank=lambda *_, **named: ranking_with(told))
    _, out, _ = command("rank", "d.csv", "--check")
    assert "Rank correlation: none can be told, as all were predicted, or reached, the same." in out
    assert "90 s to rank and fine-tune one, 40 s to fine-tune all: nothing saved." in out


def test_rank_takes_no_strategy_where_nothing_is_trained(command):
    code, _, error = command("rank", "d.csv", "--strategy", "full")
    assert code == 2 and "--strategy full without --check" in error


def test_check_says_what_was_recognised_and_what_is_wrong(command, stand_in):
    known = {
        "modality": "image",
        "task": "classification",
        "classes": ("ant", "bee"),
        "split": np.array(["train", "train", "test"]),
        "notes": ("label: names of the folders",),
        "findings": (Finding("leak", "warning", "1 image is in train and in test.", tuple(f"{i}.jpg" for i in range(12))),),
    }

    class Items(SimpleNamespace):
        def __len__(self):
            return 3

    stand_in("data", load=lambda source, **_: Items(name=source, **known), check=lambda data, progress: data)
    code, out, _ = command("check", "bugs")
    assert code == 0
    assert out.startswith(
        "bugs: 3 items, image, classification\n2 classes: ant, bee\nsplits: train 2, test 1\nlabel: names of the folders\n"
    )
    assert out.endswith("warning: 1 image is in train and in test.\n" + "".join(f"  {i}.jpg\n" for i in range(10)) + "  and 2 more\n")


def test_plan_prints_a_rate_for_each_group_and_phase(command):
    code, out, _ = command("plan", "lp_ft", "--epochs", "4", "--lr", "0.01")
    assert code == 0 and "arXiv:2202.10054" in out
    drawn, told = (line.split() for line in out.splitlines() if line.startswith("group 1"))
    assert drawn[2] == "········▒▒▒▒▒▒▒▒" and told[2:] == ["frozen", "0.001"]
    assert "head    ████████▒▒▒▒▒▒▒▒\n" in out and "▒ 0.001   █ 0.01" in out


def test_plan_draws_its_chart_into_a_file(command, tmp_path):
    code, _, _ = command("plan", "lp_ft", "--chart", tmp_path / "new" / "plan.svg")
    assert code == 0 and (tmp_path / "new" / "plan.svg").read_text().startswith("<svg ")
    code, _, err = command("plan", "auto", "--chart", tmp_path / "auto.svg")
    assert code == 2 and "auto is no single plan" in err and not (tmp_path / "auto.svg").exists()


def test_auto_is_listed_and_its_way_up_is_shown(command):
    assert "auto" in command("list", "strategies")[1]
    code, out, _ = command("plan", "auto")
    assert code == 0 and "texts: feature_extraction, late_stages; where a budget is given, then lp_ft, partial, l2_sp" in out


def test_plan_names_the_groups_of_a_backbone(command):
    code, out, _ = command("plan", "full", "--backbone", "tiny:image")
    assert code == 0
    named = [line.split()[0] for line in out.splitlines() if line.startswith(("stem", "layer1", "layer2", "pool"))]
    # The chart has the output's side on top, the table the input's.
    assert named == ["pool", "layer2", "layer1", "stem", "stem", "layer1", "layer2", "pool"]


@pytest.mark.parametrize("family", cli._FAMILIES)
def test_every_family_is_listed_with_words_for_each_member(command, family):
    code, out, err = command("list", family)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 3


def test_every_adaptation_that_can_be_named_is_listed(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = command("list", "adaptations")
    named = {
        line.split()[0]
        for line in out.splitlines()
        if not line.startswith(" ") and re.search(r" (features|the network, with --budget) ", line)
    }
    assert code == 0 and named >= {*SHIFTS, ADABN, *TRAINED}
    assert re.search(r"^tent +the network, with --budget .* Wang et al. 2021", out, re.MULTILINE)


def listed(out):
    """The names in the table that was printed."""
    return [line.split()[0] for line in out.splitlines() if re.match(r"(timm|hf|sentence|shipped):", line)]


def test_backbones_are_listed_with_their_facts_and_filtered(command):
    code, out, err = command("list", "backbones", "--anywhere")
    assert (code, err) == (0, "") and len(listed(out)) >= 40
    row = next(line for line in out.splitlines() if line.startswith("timm:resnet18"))
    assert all(fact in row for fact in ("11.2 M", "224 px", "1.81 G", "apache-2.0", "ImageNet-1k", "71.5 ImageNet-1k top-1"))
    _, fewer, _ = command("list", "backbones", "--anywhere", "--modality", "image", "--max-parameters", "3.5m", "--licence", "apache-2.0")
    assert 3 < len(listed(fewer)) < 15 and all(name.startswith(("timm:", "shipped:")) for name in listed(fewer))


def test_without_a_network_only_what_is_on_the_disk_is_listed(command, monkeypatch):
    from graft import backbones

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    local = [entry.name for entry in backbones.catalogue(on_disk=True)]
    code, out, _ = command("list", "backbones")
    assert code == 0 and listed(out) == local and "--anywhere lists the rest" in out
    assert listed(command("list", "backbones", "--on-disk")[1]) == local


def test_a_measured_time_goes_before_an_estimated_one(command, monkeypatch):
    from graft import backbones, features
    from graft.cli import catalogue

    monkeypatch.setattr(catalogue, "_speed", lambda: backbones.Speed(100.0, 250.0))
    monkeypatch.setattr(features, "known_throughput", lambda name: 4.0 if name.startswith("timm:lcnet") else None)
    code, out, _ = command("list", "backbones", "--anywhere", "--max-ms", "30")
    rows = {line.split()[0]: line.split()[-2:] for line in out.splitlines() if line.startswith("timm:")}
    # 1.81 G over 100 G a second and 2.48 M numbers over 250 M a second; the other was measured at four items a second.
    assert code == 0 and rows["timm:resnet18.a1_in1k"] == ["about", "28.0"] and not any(name.startswith("timm:lcnet") for name in rows)
    _, out, _ = command("list", "backbones", "--anywhere", "--max-ms", "250")
    assert next(line for line in out.splitlines() if line.startswith("timm:lcnet")).split()[-1] == "250.0"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--anywhere", "--modality", "text", "--max-parameters", "1M"],
            "no backbone in the catalogue passes --modality text, --max-parameters 1M",
        ),
        (["--on-disk", "--max-parameters", "1k"], "on this disk passes --max-parameters 1k. Loosen one of them, or leave --on-disk out"),
        (["--max-parameters", "five"], "--max-parameters is 'five', expected a number, or one that ends in k, M or B"),
        (["--max-ms", "0"], "--max-ms is 0.0, expected more than 0"),
    ],
)
def test_a_filter_that_leaves_nothing_says_what_to_do(command, flags, said):
    code, _, err = command("list", "backbones", *flags)
    assert code == 2 and said in err


def test_a_filter_of_backbones_is_refused_for_another_family(command):
    code, _, err = command("list", "heads", "--max-ms", "3")
    assert code == 2 and "--max-ms: chooses among backbones, and heads were asked for" in err


def test_backbones_are_listed_without_torch():
    code = "import sys; from graft.cli import list_members; list_members('backbones', on_disk=False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_an_unknown_family_names_the_near_miss(command):
    code, _, err = command("list", "bakcbones")
    assert code == 2 and "expected one of backbones, strategies" in err and err.endswith("Did you mean 'backbones'?\n")


class Model:
    """A stand-in for a fitted Transfer: says how sure it is of the second class."""

    def __init__(self, task="classification", classes=("ant", "bee")):
        self.task_, self.classes_ = task, np.array(classes)
        self.backbone_ = SimpleNamespace(modality="image")
        self.columns_, self.unknown_ = {"image": "image"}, 0.0
        self.views = []

    def predict_outputs(self, items, views=None):
        from graft.items import open_image

        self.views.append(views)

        try:
            sure = np.array([np.asarray(open_image(item)).mean() / 255 for item in items])
        except OSError as error:
            raise UnreadableItems(str(error)) from None
        return sure if self.task_ == "regression" else np.stack([1 - sure, sure], 1)


@pytest.fixture
def images(tmp_path):
    """A dark image, a broken one, a light one."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (4, 4), (51, 51, 51)).save(folder / "dark.png")
    (folder / "broken.png").write_bytes(b"not an image")
    Image.new("RGB", (4, 4), (204, 204, 204)).save(folder / "light.png")
    names = ["dark.png", "broken.png", "light.png"]

    class Items(SimpleNamespace):
        def __len__(self):
            return 3

    return Items(modality="image", ids=names, items=[str(folder / name) for name in names])


def test_prediction_rows_hold_the_class_and_every_probability(images):
    header, rows = cli.prediction_rows(Model(), images)
    assert header == ["id", "prediction", "probability ant", "probability bee", "error"]
    rows = list(rows)
    assert rows[0] == ["dark.png", "ant", "0.800000", "0.200000", ""]
    assert rows[2] == ["light.png", "bee", "0.200000", "0.800000", ""]


def test_an_unreadable_input_keeps_its_row_and_is_named_on_stderr(images, capsys):
    broken = list(cli.prediction_rows(Model(), images)[1])[1]
    assert broken == ["broken.png", "", "", "", "cannot be read: not an image"]
    assert capsys.readouterr().err == "graft: broken.png: cannot be read: not an image\n"


def test_several_labels_are_joined_and_a_regression_has_no_probabilities(images):
    several = list(cli.prediction_rows(Model("multilabel"), images)[1])
    assert several[0][:2] == ["dark.png", "ant"]
    header, rows = cli.prediction_rows(Model("regression", ()), images)
    assert header == ["id", "prediction", "error"]
    assert [row[1] for row in rows] == ["0.2", "", "0.8"]


def test_predict_writes_the_same_csv_to_the_screen_and_to_a_file(command, stand_in, images, tmp_path):
    stand_in("data", load_unlabelled=lambda source, **_: images)
    stand_in("transfer", Transfer=SimpleNamespace(load=lambda folder: Model()))
    code, screen, _ = command("predict", "run", "in")
    assert code == 0 and len(list(csv.DictReader(io.StringIO(screen)))) == 3
    code, out, _ = command("predict", "run", "in", "--out", tmp_path / "new" / "predictions.csv")
    assert (code, out) == (0, "")
    assert (tmp_path / "new" / "predictions.csv").read_text() == screen


@pytest.mark.parametrize(("flags", "views"), [((), None), (("--views", "3"), 3)])
def test_predict_averages_over_the_views_that_are_asked_for(command, stand_in, images, flags, views):
    model = Model()
    stand_in("data", load_unlabelled=lambda source, **_: images)
    stand_in("transfer", Transfer=SimpleNamespace(load=lambda folder: model))
    assert command("predict", "run", "in", *flags)[0] == 0
    # A second time without the broken one.
    assert model.views == [views, views]


def test_progress_is_quiet_where_nobody_watches(capsys):
    with progress_bar() as progress:
        progress(Step("extracting", 1, 2))
        assert capsys.readouterr() == ("", "")
        progress(Note("estimate: about 9 s"))
    assert capsys.readouterr() == ("", "estimate: about 9 s\n")


def test_progress_moves_with_steps_and_epochs_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar() as progress:
        progress(Step("extracting tiny:text", 5, 10))
        progress(Step("extracting tiny:text", 10, 10))
        progress(Epoch(0, 1, 0.25, 0.875, 0.1))
    assert "training: phase 1, epoch 2, loss 0.250, score 0.875" in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "graft", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: " in done.stdout and "predict" in done.stdout


def test_compare_leaves_its_page_and_numbers_and_prints_every_pair(command, tmp_path):
    rows = [f"{word} the old {word},{label}" for n in range(20) for word, label in ((f"apple{n % 3}", "fruit"), (f"iron{n % 3}", "metal"))]
    (tmp_path / "d.csv").write_text("text,label\n" + "\n".join(f"{n} {row}" for n, row in enumerate(rows)))
    names = ["--strategy", "feature_extraction", "--strategy", "full", "--strategy", "partial"]
    flags = ["--backbone", "tiny:text", "--rate", "1e-3", "--epochs", "2", "--out", tmp_path / "out"]
    code, out, _ = command("compare", tmp_path / "d.csv", *names, *flags)
    assert code == 0 and sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.html", "comparison.json"]
    numbers = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert numbers["rates"] == [0.001] and numbers["epochs"] == 2 and numbers["command"].startswith("graft compare ")
    assert all(f"{pair['first']} - {pair['second']}" in out for pair in numbers["pairs"]) and len(numbers["pairs"]) == 3
    assert "first minus second" in out and str(tmp_path / "out" / "comparison.html") in out


def test_a_model_of_rows_is_not_asked_to_read_a_table(command, tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 3))
    graft.Transfer("rows", "feature_extraction", head="closed").fit(rows, rows[:, 0] > 0).save(tmp_path / "model")
    code, _, said = command("predict", tmp_path, tmp_path / "rows.csv")
    said = " ".join(said.split())
    assert (
        code
        and f"its model reads rows of 3 numbers, expected one of images or texts. In Python: graft.Transfer.load({str(tmp_path)!r})" in said
    )
