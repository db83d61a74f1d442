"""The command `graft pretrain`: what of its flags reaches the library, what it prints, and what it refuses before anything is loaded."""

import shlex
import sys
from types import SimpleNamespace

import pytest
from pretrain_samples import Told, pictures, registered
from test_report_pretraining import record

from graft import cli


@pytest.fixture
def asked(monkeypatch):
    """What a stand-in for the function was called with; it gives back a record."""
    import graft.pretraining

    calls = []

    def stand_in(data, **settings):
        calls.append((data, settings))
        return SimpleNamespace(record=stand_in.answer)

    stand_in.answer = record()
    monkeypatch.setattr(graft.pretraining, "pretrain", stand_in)
    return calls, stand_in


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["graft", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code or 0, *capsys.readouterr()


def test_every_flag_reaches_the_library(asked, monkeypatch, capsys):
    flags = shlex.split(
        "--from tiny:image --method simclr --teacher timm:a --teacher timm:b --label kind --text title --image photo --epochs 7 "
        "--judge other.csv --set batch_size=32 --seed 3"
    )
    assert command(monkeypatch, capsys, "pretrain", "photos", "--out", "x", *flags)[0] == 0
    ((data, settings),) = asked[0]
    assert data == "photos" and settings.pop("progress") is not None and settings.pop("command").startswith("graft pretrain photos")
    assert str(settings.pop("out")) == "x"
    assert settings == {
        "start": "tiny:image",
        "method": "simclr",
        "teachers": ["timm:a", "timm:b"],
        "label": "kind",
        "epochs": 7,
        "budget": None,
        "judge": "other.csv",
        "recipe": {"batch_size": 32},
        "roles": {"text": ["title"], "image": "photo"},
        "seed": 3,
    }


def test_a_budget_is_given_in_seconds(asked, monkeypatch, capsys):
    command(monkeypatch, capsys, "pretrain", "photos", "--out", "x", "--budget", "2m")
    assert asked[0][0][1]["budget"] == 120


def test_it_prints_what_was_made_and_whether_it_helped(asked, monkeypatch, capsys):
    asked[1].answer = record(findings=[{"kind": "unreadable", "severity": "problem", "message": "1 item is torn", "items": ("a.png",)}])
    _, out, _ = command(monkeypatch, capsys, "pretrain", "photos", "--out", "x")
    assert "untrained:timm:resnet18@96px learned from 4,321 images by simclr, 2 epochs in 2 min 3 s." in out
    assert "It helps: on 300 images" in out and "problem: 1 item is torn" in out and "checkpoint:x" in out and "labels: by folder" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--budget soon", "budget 'soon': expected a time above zero"),
        ("--set batchsize=3", "unknown key 'batchsize'"),
    ],
)
def test_a_slip_in_a_flag_is_one_message(asked, monkeypatch, capsys, flags, message):
    code, _, error = command(monkeypatch, capsys, "pretrain", "photos", "--out", "x", *flags.split())
    assert code == 2 and message in error and not asked[0]


def test_a_real_one_leaves_its_folder(tmp_path, monkeypatch, capsys):
    data = pictures(tmp_path / "data", n=6)
    with registered("told", Told):
        flags = ["--from", "tiny:image", "--method", "told", "--epochs", "1", "--set", "batch_size=4"]
        code, _, error = command(monkeypatch, capsys, "pretrain", data, "--out", tmp_path / "out", *flags)
        assert (code, "plan: 1 epoch of told on" in error) == (0, True)
        assert "in batches of 4" in (tmp_path / "out" / "README.md").read_text("utf-8")
        code, _, error = command(monkeypatch, capsys, "pretrain", data, "--out", tmp_path / "out", *flags[:-2])
        assert code == 2 and "holds a run with other settings" in error and "batch_size" in error


def test_pretexts_are_listed_with_their_sources(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "list", "pretexts")
    assert code == 0 and "simclr" in out and "Chen et al. 2020" in out
