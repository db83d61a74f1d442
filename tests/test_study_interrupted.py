"""A study that is killed goes on where it was; one that is asked to end says what is missing; a folder holds one run."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image
from test_study import table, without_times

from graft import files
from graft.errors import GraftError
from graft.features import cache_folder
from graft.records import Epoch, Note, Recipe
from graft.runs import Log, folder
from graft.study import run
from graft.study.course import Course
from graft.study.material import Material
from graft.study.times import Clock

pytestmark = pytest.mark.usefixtures("quick_studies")


def pictures(folder, n=32):
    """A folder of n pictures of two classes that differ little; a quarter of them is the test part."""
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / ("test" if i % 8 in (1, 2) else "train") / ("dark", "bright")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(20 * (i % 2), 120 + 20 * (i % 2), (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


class Starter:
    """Starts `graft` again and again from one process that has imported everything, since that takes longer than the runs."""

    SCRIPT = """
import os, shlex, sys
import torch, graft.cli, graft.study, graft.report, sklearn.linear_model, skimage.feature, PIL.PngImagePlugin
from graft.study import times
times._LEAST_SCRATCH = 0.3
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = ["graft", *shlex.split(line)]
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        graft.cli.main()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

    def __init__(self, cache):
        environment = {**os.environ, "GRAFT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, *arguments):
        self.process.stdin.write(" ".join(map(str, arguments)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self):
        return int(self.process.stdout.readline())


@pytest.fixture
def starter(tmp_path):
    starter = Starter(tmp_path / "cache")
    yield starter
    starter.process.stdin.close()
    starter.process.wait()


def test_a_run_killed_at_random_points_ends_with_the_numbers_of_one_that_was_not(tmp_path, starter):
    arguments = ["run", pictures(tmp_path / "data"), "--backbone", "tiny:image", "--strategy", "partial", "--strategy", "full"]
    begun = time.perf_counter()
    starter.start(*arguments, "--out", tmp_path / "whole")
    assert starter.wait() == 0
    took = time.perf_counter() - begun
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    draw, killed = random.Random(0), 0
    for _ in range(4):
        child = starter.start(*arguments, "--out", tmp_path / "killed")
        time.sleep(draw.uniform(0.1, 0.3) * took)
        os.kill(child, signal.SIGKILL)
        killed += starter.wait() == -signal.SIGKILL
    assert killed >= 3
    starter.start(*arguments, "--out", tmp_path / "killed")
    assert starter.wait() == 0
    resumed = json.loads((tmp_path / "killed" / "result.json").read_text())
    for result in (whole, resumed):
        del result["command"]
    assert without_times(resumed) == without_times(whole)
    assert (tmp_path / "killed" / "predictions.csv").read_text() == (tmp_path / "whole" / "predictions.csv").read_text()
    assert "going on with a run that was interrupted after" in (tmp_path / "killed" / "log.txt").read_text()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == sorted(path.name for path in (tmp_path / "whole").iterdir())


class Stopped(Exception):
    """Stands for a kill: nothing in graft knows it."""


def stopping_after(n_epochs):
    """A progress that ends the run at an epoch."""
    epochs = itertools.count(1)

    def tell(event):
        if isinstance(event, Epoch) and next(epochs) == n_epochs:
            raise Stopped

    return tell


def press():
    os.kill(os.getpid(), signal.SIGINT)


def pressing_after(n_epochs, epoch=None):
    """A progress that presses Ctrl-C at the n-th epoch, or the n-th of this number."""
    epochs = itertools.count(1)

    def tell(event):
        if isinstance(event, Epoch) and epoch in (None, event.epoch) and next(epochs) == n_epochs:
            press()

    return tell


NAMED = {"backbone": "tiny:text", "strategy": ["partial", "full"]}


def hard(n=80, split=False):
    """A table of which some labels are drawn at random: nothing is trivially right."""
    frame, rng = table(n, split=split), np.random.default_rng(0)
    return frame.assign(label=np.where(rng.random(n) < 0.3, rng.permutation(frame.label), frame.label))


def test_an_interrupted_run_counts_the_time_of_the_first_attempt_and_repeats_its_epochs(tmp_path):
    frame = hard(split=True)
    with pytest.raises(Stopped):
        run(frame, out=tmp_path / "run", progress=stopping_after(6), **NAMED)
    assert (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run" / "result.json").exists()
    log = (tmp_path / "run" / "log.txt").read_text()
    notes = []
    study = run(frame, out=tmp_path / "run", progress=lambda event: notes.append(event) if isinstance(event, Note) else None, **NAMED)
    assert "going on with a run that was interrupted after" in notes[0].text
    assert (tmp_path / "run" / "log.txt").read_text().startswith(log)
    earlier = float(log.splitlines()[-1].split()[0])
    assert study.result.seconds > earlier > 0
    whole = run(frame, **NAMED).result
    assert without_times(study.result.candidates) == without_times(whole.candidates)
    assert without_times(study.result.verdict) == without_times(whole.verdict)
    assert not (tmp_path / "run" / "unfinished").exists()


def test_a_folder_of_another_run_is_refused_with_each_difference(tmp_path):
    frame = table(40)
    run(frame, out=tmp_path, backbone="tiny:text")
    other = frame.assign(text=frame.text + " more")
    with pytest.raises(GraftError) as refused:
        run(other, out=tmp_path, backbone="tiny:text-1", seed=1, budget="30s")
    message = str(refused.value)
    assert f"{tmp_path} holds a run with other settings" in message
    assert "seed: 0 there, 1 now" in message and "budget_seconds: None there, 30.0 now" in message
    assert "data_digest: " in message and "backbones: " in message and "tiny:text-1" in message
    assert "versions" not in message
    assert "Name another folder with --out, or delete this one." in message
    (tmp_path / "config.yaml").write_text("[not a run")
    with pytest.raises(GraftError, match="seed: not told there, 0 now"):
        run(frame, out=tmp_path, backbone="tiny:text")


@pytest.mark.parametrize("wrong", [{"recipe": Recipe(mixup=-1)}, {"strategy": "stochnorm"}])
def test_a_run_that_was_refused_leaves_its_folder_to_a_mended_one(tmp_path, wrong):
    with pytest.raises(GraftError, match=r"mixup is -1|stochnorm: the layer groups that learn hold no batch normalisation"):
        run(table(40), out=tmp_path, backbone="tiny:text", **wrong)
    run(table(40), out=tmp_path, backbone="tiny:text")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["strategies"] == ["auto"]
    assert "going on" not in (tmp_path / "log.txt").read_text()
    with pytest.raises(GraftError):
        run(table(40), out=tmp_path, backbone="tiny:text", **wrong)
    assert (tmp_path / "config.yaml").exists()


def test_a_run_that_was_refused_late_keeps_what_it_had_trained(tmp_path, monkeypatch):
    def refuse(*_):
        raise GraftError("late")

    monkeypatch.setattr(Course, "look_back", refuse)
    with pytest.raises(GraftError, match="late"):
        run(table(40), out=tmp_path, **NAMED)
    assert not (tmp_path / "config.yaml").exists() and list((tmp_path / "unfinished").glob("*.safetensors"))


def test_a_finished_run_is_computed_again_to_the_same_numbers_and_says_so(tmp_path):
    first = run(table(40), out=tmp_path, backbone="tiny:text").result.to_dict()
    again = run(table(40), out=tmp_path, backbone="tiny:text").result.to_dict()
    assert without_times(first) == without_times(again)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["from_scratch"] and config["strategies_tried"] == ["auto"]
    assert "this run was finished before; it is computed again" in (tmp_path / "log.txt").read_text()


def test_the_settings_are_there_before_time_is_spent(tmp_path, monkeypatch):
    def stop(self):
        raise Stopped

    monkeypatch.setattr(Clock, "refuse_too_little", stop)
    with pytest.raises(Stopped):
        run(table(40), out=tmp_path, backbone="tiny:text", seed=4)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["seed"] == 4 and list(config["backbones"]) == ["tiny:text"] and config["versions"]["graft"]


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0")
    for name in (".result.json.123", ".report.html.9", "unfinished/.a.safetensors.7", ".model.abc/head.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / ".mine").write_text("kept")
    assert folder.begin(tmp_path, {"seed": 0})
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine", "config.yaml", "unfinished"]


def test_ctrl_c_while_strategies_are_compared_drops_those_without_a_turn_and_the_same_call_completes(tmp_path):
    frame = hard(split=True)
    whole = run(frame, **NAMED).result
    assert {row["strategy"] for row in whole.candidates} == {"partial", "full"}
    # The second fit of all is that of the second strategy.
    result = run(frame, out=tmp_path, progress=pressing_after(2, epoch=0), **NAMED).result
    assert len(result.candidates) == 1
    (dropped,) = {"partial", "full"} - {result.strategy}
    assert result.interrupted.startswith(f"interrupted by Ctrl-C: not compared: {dropped}; ")
    assert "no label curve" in result.interrupted
    assert result.notes[0] == result.interrupted
    assert result.label_curve == {}
    page = (tmp_path / "report.html").read_text()
    assert page.index("Interrupted by Ctrl-C: not compared") < page.index("With and without transfer")
    assert (tmp_path / "unfinished").is_dir()
    completed = run(frame, out=tmp_path, **NAMED).result
    assert completed.interrupted == "" and not (tmp_path / "unfinished").exists()
    assert without_times(completed.candidates) == without_times(whole.candidates)
    assert completed.score == whole.score


def test_ctrl_c_while_strategies_are_set_beside_each_other_leaves_only_that_out(tmp_path):
    def pressing(event):
        if isinstance(event, Note) and event.text.startswith("comparing: "):
            press()

    study = run(hard(split=True), out=tmp_path, progress=pressing, **NAMED)
    assert study.comparison is None and not (tmp_path / "comparison.html").exists()
    assert "interrupted by Ctrl-C: no strategies beside each other; the same command" in study.result.interrupted
    assert study.result.label_curve and (tmp_path / "unfinished").is_dir()


def test_ctrl_c_in_the_folds_keeps_those_that_are_whole(monkeypatch):
    """Ctrl-C in the third fold: it is dropped, and the first two are those of a whole run."""
    named = {"backbone": "tiny:text", "strategy": "full"}
    whole = run(hard(40), **named)
    answered = itertools.count(1)
    answer = Material.fit_and_predict

    def pressed_in_the_third(self, *arguments):
        if next(answered) == 3:
            press()
        return answer(self, *arguments)

    monkeypatch.setattr(Material, "fit_and_predict", pressed_in_the_third)
    study = run(hard(40), **named)
    assert "judged on 2 of 5 folds" in study.result.interrupted
    assert study.result.controls["from scratch"]["folds"] == 2
    assert study.fold_scores["transfer"] == whole.fold_scores["transfer"][:2]


def test_ctrl_c_on_a_given_test_part_judges_the_model_as_it_is():
    frame = hard(split=True)
    study = run(frame, progress=pressing_after(2), backbone="tiny:text", strategy="full")
    assert "trained for a part of its epochs" in study.result.interrupted
    assert len(study.model.history_) == 2
    assert study.result.controls["from scratch"]["score"] is not None


def test_what_ctrl_c_cut_short_is_not_remembered():
    """A run that is whole decides as if the interrupted one had never been."""

    def remembered():
        texts = [json.loads(path.read_text())["what"] for path in (cache_folder() / "measured").rglob("*.json")]
        return {what for what in ("scratch seconds", "attempts from scratch in fold 0") if any(text.startswith(what) for text in texts)}

    named = {"backbone": "tiny:text", "strategy": "full"}
    run(hard(split=True), progress=pressing_after(2), **named)
    assert remembered() == set()
    run(hard(split=True), **named)
    assert remembered() == {"scratch seconds", "attempts from scratch in fold 0"}


def test_a_second_ctrl_c_ends_at_once():
    epochs = itertools.count(1)

    def tell(event):
        if isinstance(event, Epoch) and next(epochs) == 3:
            press()
            press()

    with pytest.raises(KeyboardInterrupt):
        run(hard(40), progress=tell, **NAMED)


def test_the_command_ends_with_130_after_a_second_ctrl_c_and_goes_on(tmp_path, starter):
    data = pictures(tmp_path / "data")
    out = tmp_path / "run"
    child = starter.start("run", data, "--out", out, "--backbone", "tiny:image", "--strategy", "full")
    while not (out / "log.txt").exists() or "epoch 1" not in (out / "log.txt").read_text():
        time.sleep(0.02)
    for _ in range(2):
        os.kill(child, signal.SIGINT)
        time.sleep(0.05)
    assert starter.wait() == 130
    assert (out / "unfinished").is_dir() and not (out / "result.json").exists()
    starter.start("run", data, "--out", out, "--backbone", "tiny:image", "--strategy", "full")
    assert starter.wait() == 0
    assert json.loads((out / "result.json").read_text())["interrupted"] == ""


def test_a_second_run_into_the_same_folder_is_refused_until_the_first_is_gone(tmp_path, starter):
    data, out = pictures(tmp_path / "data"), tmp_path / "run"
    command = ["run", data, "--out", out, "--backbone", "tiny:image", "--strategy", "full"]
    child = starter.start(*command)
    while not (out / "log.txt").exists() or "epoch 1" not in (out / "log.txt").read_text():
        time.sleep(0.02)
    os.kill(child, signal.SIGSTOP)
    log, settings = (out / "log.txt").read_bytes(), (out / "config.yaml").stat().st_mtime_ns
    second = subprocess.run([sys.executable, "-m", "graft", *map(str, command)], capture_output=True, text=True)
    # Before anything is asked: a failure would leave it stopped for ever.
    os.kill(child, signal.SIGKILL)
    assert starter.wait() == -signal.SIGKILL and (out / ".holder").exists()
    said = " ".join(second.stderr.split())
    assert second.returncode and f"{out} is being written by another run (process {child} on " in said
    assert "Wait until that run ends, stop it, or name another folder with --out." in said
    assert ((out / "log.txt").read_bytes(), (out / "config.yaml").stat().st_mtime_ns) == (log, settings)
    starter.start(*command)
    assert starter.wait() == 0
    assert (out / "result.json").exists() and not (out / ".holder").exists()


def test_a_run_that_fails_lets_go_of_its_folder(tmp_path):
    with pytest.raises(Stopped):
        run(table(40), out=tmp_path, progress=stopping_after(1), **NAMED)
    with folder.held(tmp_path), pytest.raises(GraftError, match=rf"another run \(process {os.getpid()} on "):
        run(table(40), out=tmp_path, **NAMED)
    with folder.held(tmp_path):
        pass


def test_a_full_disk_is_said_with_the_folder_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    fsync = os.fsync

    def full(number):
        name = os.readlink(f"/proc/self/fd/{number}")
        if "report.html" in name:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(GraftError, match=r"the results cannot be written \(.*No space left.*Free some space .* goes on from .*unfinished"):
        run(table(40), out=tmp_path, backbone="tiny:text")
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "result.json").exists()
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]
    monkeypatch.setattr(files.os, "fsync", fsync)
    run(table(40), out=tmp_path, backbone="tiny:text")
    assert (tmp_path / "result.json").exists()


def test_a_budget_counts_what_an_earlier_attempt_spent_and_does_not_refuse_to_go_on():
    class Few:
        """As much of a Material as a clock asks for."""

    clock = Clock(Few(), 100.0, time.perf_counter(), 10, 2, {}, earlier=60.0)
    assert clock.left() == pytest.approx(40.0, abs=1.0)
    clock.estimate = lambda: 50.0
    clock.refuse_too_little()


def test_a_log_goes_on_behind_the_last_time_stamp_of_a_torn_file(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes("     1.0 s  begun\n    12.5 s  phase 1, épo".encode()[:-4])
    log = Log(None)
    log.note("read before the file was known")
    assert log.open(path, goes_on=True) == 12.5
    lines = path.read_text("utf-8", "replace").splitlines()
    assert lines[0] == "     1.0 s  begun" and float(lines[-1].split()[0]) >= 12.5 and lines[-1].endswith("file was known")
