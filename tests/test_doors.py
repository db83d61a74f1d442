"""The doors open fast and load nothing heavy; what they hand out is there."""

import json
import os
import subprocess
import sys

import pytest

import graft

HEAVY = [
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "skimage",
    "PIL",
    "matplotlib",
    "datasets",
    "timm",
    "transformers",
    "rich",
]


def loaded_by(code):
    """The heavy libraries in a fresh interpreter after it has run `code`."""
    report = f"import sys, json; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def processor_seconds(*arguments):
    """Least processor time of three runs of a fresh interpreter. Unlike the clock it does not count waiting for other tests."""

    def once():
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once() for _ in range(3))


def test_import_graft_loads_nothing_heavy():
    assert loaded_by("import graft") == []


def test_help_loads_nothing_heavy():
    assert loaded_by("from graft.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass") == []


def test_help_of_a_command_loads_nothing_heavy():
    assert loaded_by("from graft.cli import app\ntry:\n    app(['adapt', '--help'])\nexcept SystemExit:\n    pass") == []


def test_listing_strategies_loads_no_torch():
    assert "torch" not in loaded_by("from graft.cli import app\ntry:\n    app(['list', 'strategies'])\nexcept SystemExit:\n    pass")


def test_import_graft_is_fast():
    assert processor_seconds("-c", "import graft") < 0.1


def test_help_is_fast():
    assert processor_seconds("-m", "graft", "--help") < 0.3


def test_help_of_a_command_is_fast():
    assert processor_seconds("-m", "graft", "adapt", "--help") < 0.3


@pytest.mark.parametrize("name", graft.__all__)
def test_every_door_opens(name):
    assert callable(getattr(graft, name))
    assert name in dir(graft)


def test_a_door_that_is_not_there_names_those_that_are():
    with pytest.raises(
        AttributeError, match=r"no attribute 'ran', expected one of Adapt, Transfer, check, compare, load, pretrain, rank, run"
    ):
        graft.ran  # noqa: B018
