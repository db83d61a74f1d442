"""What the README and CONTRIBUTING say works: Python blocks run, commands, flags, targets, extras and files exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import typer

from graft import cli

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")


def blocks(language):
    """(page, text) of every fenced block of a language."""
    for page in PAGES:
        for text in re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE):
            yield page, text


def commands():
    """The words of every command line in the sh blocks, comments left out."""
    return [words for _, text in blocks("sh") for line in text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_runs(quick_studies, page, tmp_path):
    # Blocks of one page build on each other. In a process of its own, what they register stays out of the other tests.
    shutil.copytree(ROOT / "demo", tmp_path / "demo")
    code = "\n".join(text for where, text in blocks("python") if where == page)
    assert code
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRAFT_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_exists_with_its_flags(words):
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        assert set(re.search(r"graft\[(.*)\]", arguments[-1])[1].split(",")) <= set(extras)
    else:
        assert program == "graft", f"the pages tell people to type {program!r}"
        command = typer.main.get_command(cli.app).commands[arguments[0]]
        known = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known


def test_the_file_tree_is_the_one_on_disk():
    (tree,) = re.findall(r"^```\n(graft/\n.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    inside = {name for line in tree.splitlines() if line.startswith("  ") for name in re.findall(r"[\w/]+(?:\.py|/)", line[:24])}
    on_disk = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "graft").iterdir()
        if path.name not in ("__pycache__", "__main__.py", "py.typed")
    }
    assert inside == on_disk


def test_the_demo_is_what_the_readme_says():
    demo = pd.read_csv(ROOT / "demo" / "messages.csv")
    assert list(demo.columns) == ["text", "intent"]
    assert f"{len(demo)} customer messages" in (ROOT / "README.md").read_text("utf-8")
    assert demo["intent"].nunique() == 10
    assert not demo["text"].str.lower().duplicated().any() and demo["text"].str.strip().ne("").all()
