"""The command `graft adapt`: what of its flags reaches the library, and what it prints. The library behind it is a stand-in."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from adaptation_samples import images_adaptation, many_candidates_adaptation, regression_adaptation, texts_adaptation

import graft
from graft import cli

MAIL = "text,label,shop\n" + "".join(
    f"mail number {n} of many,{'spam' if n % 2 else 'ham'},{'north' if n % 3 else 'south'}\n" for n in range(12)
)
CHAT = "text,label,extra\n" + "".join(f"chat number {n} of many,secret,1\n" for n in range(5))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "mail.csv").write_text(MAIL)
    (tmp_path / "chat.csv").write_text(CHAT)
    return tmp_path / "mail.csv", tmp_path / "chat.csv"


@pytest.fixture
def asked(monkeypatch):
    """What a stand-in for `graft.adapt.adapt_run` was called with; it gives back what `answer` holds."""
    calls = []
    module = ModuleType("graft.adapt")

    def adapt_run(source, target, **settings):
        calls.append((source, target, settings))
        return SimpleNamespace(record=module.answer)

    module.answer, module.adapt_run = texts_adaptation(), adapt_run
    monkeypatch.setitem(sys.modules, "graft.adapt", module)
    monkeypatch.setattr(graft, "adapt", module, raising=False)
    return calls, module


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["graft", "adapt", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code or 0, *capsys.readouterr()


def test_every_flag_reaches_the_library(files, asked, monkeypatch, capsys):
    flags = shlex.split(
        "--label label --text text --image photo --task classification --domain shop --source-data more.csv --backbone tiny:text "
        "--strategy lp_ft --method coral --method saerens --target-labels few.csv --unknown 0.5 --no-guard --epochs 7 --budget 2m --seed 3"
    )
    given = [files[0], "--target", files[1], "--out", "runs/x", *flags]
    assert command(monkeypatch, capsys, *given)[0] == 0
    ((source, target, settings),) = asked[0]
    assert settings.pop("progress") is not None
    assert (source, target) == (str(files[0]), str(files[1]))
    assert settings == {
        "out": Path("runs/x"),
        "source_data": "more.csv",
        "backbone": "tiny:text",
        "strategy": "lp_ft",
        "methods": ["coral", "saerens"],
        "domain": "shop",
        "target_labels": Path("few.csv"),
        "unknown": 0.5,
        "guard": False,
        "epochs": 7,
        "budget": 120.0,
        "seed": 3,
        "roles": {"label": "label", "text": ["text"], "image": "photo", "task": "classification"},
        "command": shlex.join(["graft", "adapt", *map(str, given)]),
    }


def test_what_is_not_chosen_is_left_to_the_library(files, asked, monkeypatch, capsys):
    command(monkeypatch, capsys, files[0], "--target", files[1], "--out", "r")
    settings = asked[0][0][2]
    wanted = {
        "source_data": None, "domain": None, "backbone": None, "methods": "auto", "target_labels": None, "unknown": 0.0, "budget": None,
        "seed": 0, "guard": True, "epochs": 10, "roles": {}, "strategy": "feature_extraction",
    }  # fmt: skip
    assert {name: settings[name] for name in wanted} == wanted


def test_a_run_needs_no_other_folder_named_and_data_does(files, asked, monkeypatch, capsys, tmp_path):
    (tmp_path / "flowers" / "model").mkdir(parents=True)
    (tmp_path / "flowers" / "model" / "graft.json").write_text("{}")
    for run in (tmp_path / "flowers", tmp_path / "flowers" / "model"):
        code, out, _ = command(monkeypatch, capsys, run, "--target", files[1])
        assert code == 0 and asked[0][-1][2]["out"] == tmp_path / "flowers-to-chat"
        assert str(tmp_path / "flowers-to-chat" / "report.html") in out
    monkeypatch.chdir(tmp_path / "flowers")
    assert command(monkeypatch, capsys, ".", "--target", "..")[0] == 0
    assert asked[0][-1][2]["out"] == tmp_path.resolve() / f"flowers-to-{tmp_path.name}"
    code, _, err = command(monkeypatch, capsys, files[0], "--target", files[1])
    assert code == 2 and "mail.csv: is no run, and no folder for the results was named, expected one. Add --out RUN." in err
    assert len(asked[0]) == 3


def test_the_answer_the_reasons_and_the_candidates_are_printed(files, asked, monkeypatch, capsys):
    asked[1].answer = images_adaptation()
    _, out, _ = command(monkeypatch, capsys, files[0], "--target", files[1], "--out", "runs/x")
    said = " ".join(out.split())
    assert "Adapted from office/{amazon,dslr,webcam} to office/caltech with coral (strength 0.5)." in said
    assert "Expected accuracy on the target: 0.742" in said and "Checked on 200 images" in said
    assert "held-out source −0.012 against A little is lost on held-out items of the source." in said
    assert "coral (strength 0.5) 0.742 0.701 to 0.783 1.4" in said
    assert said.count("pseudo_labels") == 1 and "pseudo_labels (rounds 3) fell out: the class spam vanished in round 2" in said
    assert "note: 12 texts are in both domains." in said and str(Path("runs/x/report.html")) in out


def test_a_regression_prints_no_score_that_nobody_knows(files, asked, monkeypatch, capsys):
    asked[1].answer = replace(regression_adaptation(), reasons=[])
    _, out, _ = command(monkeypatch, capsys, files[0], "--target", files[1], "--out", "r")
    said = " ".join(out.split())
    assert "nothing honest can be said" in said and "importance_weights (clip 5) – no interval 1.0" in said and "evidence" not in said


def test_a_wrong_budget_is_told_before_any_data_is_read(asked, monkeypatch, capsys):
    code, _, err = command(monkeypatch, capsys, "nowhere.csv", "--target", "nowhere.csv", "--out", "r", "--budget", "ten")
    assert code == 2 and err.startswith("graft: budget 'ten': expected")


def test_of_many_candidates_the_best_and_source_only_are_printed(files, asked, monkeypatch, capsys):
    asked[1].answer = many_candidates_adaptation()
    _, out, _ = command(monkeypatch, capsys, files[0], "--target", files[1], "--out", "r")
    said = [line.split()[0] for line in out.splitlines() if line.startswith(("method_", "source_only", "coral"))]
    # 20 candidates: coral with 0.742 is the best, then method_17 with 0.67 down to method_7, and source-only with 0.3.
    assert said == ["coral", *(f"method_{n}" for n in range(17, 6, -1)), "source_only"]
    assert "and 7 candidates more, which the page tells of" in out
