"""Training goes on from its checkpoints: wherever it is broken off, the numbers are those of a run that was not."""

import errno
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import RECIPE, assert_same, load, make_data, make_head, numbers, weights

from graft import files, interrupt
from graft.features import States
from graft.records import Phase, Plan, Recipe
from graft.strategies import STRATEGIES, make_plan
from graft.train import checkpoint, train
from graft.train.checkpoint import Checkpoints


@pytest.fixture(autouse=True)
def one_thread():
    """Bit for bit needs sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Makes what another process would: the same folder, nothing remembered. Written after each epoch, whatever it costs."""
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", np.inf)
    return lambda: Checkpoints(tmp_path / "unfinished", "accuracy")


def start(kind, plan, checkpoints=None, states=None, task="classification", **options):
    """(events to come, backbone, head) of a fit of 3 epochs."""
    backbone, head = load(kind), make_head()
    plan = make_plan(plan, backbone.depth, 3, 1e-2) if isinstance(plan, str) else plan
    items, y = options.pop("data", None) or make_data(kind, 27)
    options.setdefault("validation", make_data(kind, 13, seed=1))
    recipe = Recipe(**{"precision": "fp32", **{name: options.pop(name) for name in RECIPE & set(options)}})
    events = train(backbone, head, plan, items, y, task=task, recipe=recipe, states=states, checkpoints=checkpoints, **options)
    return events, backbone, head


def play(*arguments, **options):
    events, *modules = start(*arguments, **options)
    return list(events), weights(*modules)


def broken_off(after, *arguments, **options):
    """A fit that is left after so many epochs, as by a kill between two of them."""
    events, *_ = start(*arguments, **options)
    for _ in range(after):
        next(events)
    events.close()


# tiny:text has neither the classifier that co-tuning goes on training nor batch normalisation or convolutions, and no tiny one attention.
REFUSED = {("lora_attention", "image"), *((name, "text") for name in ("cotuning", "stochnorm", "lora_attention", "lora_convolutions"))}
PLAYED = [(strategy, kind) for strategy in STRATEGIES for kind in ("image", "text") if (strategy, kind) not in REFUSED]


@pytest.mark.parametrize(("strategy", "kind"), PLAYED)
def test_every_strategy_goes_on_bit_for_bit_after_each_epoch(kind, strategy, checkpoints):
    options = {"batch_size": 8, "others": make_data(kind, 21, seed=4)[0]}
    whole, left = play(kind, strategy, **options)
    for after in range(len(whole) + 1):
        broken_off(after, kind, strategy, checkpoints(), **options)
    # Each was broken off one epoch later, and went on from the one before.
    events, other = play(kind, strategy, checkpoints(), **options)
    assert numbers(events) == numbers(whole)
    assert_same(other, left)


@pytest.mark.parametrize("after", [1, 2, 4, 6])
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"validation": None},
        {"augment": False, "items_per_epoch": 16},
        {"class_weight": "balanced"},
        {"precision": "bf16"},
        {"averaging": 0.9, "schedule": "one_cycle"},
        {"accumulate": 2, "clip_norm": 0.5, "smoothing": 0.1, "dropout": 0.2},
        {"sampler": "balanced", "mixup": 0.2},
    ],
    ids=str,
)
def test_what_the_recipe_asks_for_goes_on_too(options, after, checkpoints):
    rates = (0.0, 0.0, 1e-2, 1e-2)
    plan = Plan((Phase(3, rates, 1e-2), Phase(3, (0.0, 1e-2, 1e-2, 1e-2), 3e-2, anchor=0.1)))
    whole, left = play("image", plan, batch_size=8, **options)
    broken_off(min(after, len(whole)), "image", plan, checkpoints(), batch_size=8, **options)
    events, other = play("image", plan, checkpoints(), batch_size=8, **options)
    assert numbers(events) == numbers(whole)
    assert_same(other, left)


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("name", ["shot", "consistency", "pseudo", "consistency_balanced"])
@pytest.mark.parametrize(("kind", "supervised"), [("image", True), ("text", False)])
def test_unlabelled_items_of_another_domain_go_on_too(name, kind, supervised, after, checkpoints):
    rates = (0.0, 0.0, 1e-2, 1e-2)
    phases = (Phase(3, rates, 1e-2), Phase(3, (0.0, 1e-2, 1e-2, 1e-2), 3e-2 * supervised))
    plan = Plan(phases, losses=((name, 1.0),), supervised=supervised)
    options = {"batch_size": 8, "others": make_data(kind, 21, seed=4)[0], "augment": kind == "image"}
    whole, left = play(kind, plan, **options)
    broken_off(after, kind, plan, checkpoints(), **options)
    events, other = play(kind, plan, checkpoints(), **options)
    assert numbers(events) == numbers(whole)
    assert_same(other, left)
    opened = checkpoints()
    play(kind, plan, checkpoints=opened, **{**options, "others": make_data(kind, 21, seed=6)[0]})
    assert opened.seconds == 0


@pytest.mark.parametrize("after", [1, 3])
def test_frozen_stages_meet_others_in_the_batches_of_then(after, checkpoints, monkeypatch):
    """Of a stage whose output hangs on the size of its batch, as rounding does; a loss looks at all others before they are trained on."""
    plain = load

    def sized(kind):
        backbone = plain(kind)
        backbone.stages[0].register_forward_hook(lambda stage, inputs, output: output + 0.01 * len(output))
        return backbone

    monkeypatch.setitem(start.__globals__, "load", sized)
    plan = Plan((Phase(4, (0.0, 0.0, 1e-2, 1e-2), 0.0),), losses=(("shot", 1.0),), supervised=False)
    options = {"batch_size": 8, "others": make_data("image", 21, seed=4)[0], "augment": False, "validation": None}
    whole, left = play("image", plan, **options)
    broken_off(after, "image", plan, checkpoints(), **options)
    events, other = play("image", plan, checkpoints(), **options)
    assert numbers(events) == numbers(whole)
    assert_same(other, left)


def test_epochs_that_are_told_again_are_not_played_again(checkpoints):
    whole, _ = play("text", "full")
    broken_off(2, "text", "full", checkpoints())
    opened, steps = checkpoints(), []
    events, _ = play("text", "full", opened, progress=lambda step: steps.append(step) if step.done == step.total else None)
    assert len(events) == 3 and len(steps) == 1
    assert opened.seconds >= sum(event.seconds for event in events[:2]) > 0
    finished, steps[:] = checkpoints(), []
    again, _ = play("text", "full", finished, progress=steps.append)
    assert numbers(again) == numbers(whole) and steps == []


def test_the_clock_counts_what_another_process_trained_once(tmp_path):
    """Truth: 10 s there put the clock forward by 10 s; what was trained here, and the same file again, by nothing."""
    there = Checkpoints(tmp_path).open("a fit")
    there.begun -= 10.0
    there.write({"phase": 0})
    here = Checkpoints(tmp_path)
    for _ in range(2):
        again = here.open("a fit")
        again.read()
        assert here.seconds == pytest.approx(10.0, abs=0.5)
    again.begun -= 5.0
    again.write({"phase": 1})
    here.open("a fit").read()
    assert here.seconds == pytest.approx(10.0, abs=0.5)


def test_a_fit_that_another_seed_data_or_rate_would_make_otherwise_is_begun_anew(checkpoints):
    items, y = make_data("text", 27)
    base = {"data": (items, y), "seed": 0}
    play("text", "full", checkpoints(), **base)
    others = [
        {"seed": 1},
        {"data": ([*items[:-1], "another text"], y)},
        {"data": (items, np.roll(y, 1))},
        {"validation": make_data("text", 13, seed=2)},
        {"batch_size": 9},
        {"plan": "partial"},
        {"class_weight": [1.0, 1.0, 1.0]},
    ]
    for other in others:
        opened = checkpoints()
        play("text", **{"plan": "full", "checkpoints": opened, **base, **other})
        assert opened.seconds == 0, other
    opened = checkpoints()
    opened.about = "macro_f1"
    play("text", "full", opened, **base)
    assert opened.seconds == 0
    same = checkpoints()
    play("text", "full", same, **base)
    assert same.seconds > 0


def test_a_later_fit_finds_the_states_that_a_finished_one_had_kept(checkpoints):
    """Two fits share what the frozen stages gave; the second is the same whether the first one was played or only told again."""

    def both(first, second):
        with States() as states:
            items, y = make_data("text", 27)
            play("text", "partial", first, states, data=(items, y), batch_size=8)
            return play("text", "partial", second, states, data=(items[::-1], y[::-1].copy()), batch_size=5, seed=1)

    events, left = both(None, None)
    kept = checkpoints()
    both(kept, None)
    again = checkpoints()
    events_again, left_again = both(again, None)
    assert again.seconds > 0
    assert numbers(events_again) == numbers(events)
    assert_same(left_again, left)


def test_a_torn_file_is_named_and_the_fit_begins_anew(checkpoints):
    whole, left = play("text", "full")
    broken_off(2, "text", "full", checkpoints())
    (file,) = checkpoints().folder.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    with pytest.warns(UserWarning, match=rf"{file.name}: cannot be read .*; this fit begins anew"):
        events, other = play("text", "full", checkpoints())
    assert numbers(events) == numbers(whole)
    assert_same(other, left)


def test_on_a_full_disk_training_goes_on_without_and_says_so_once(checkpoints, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    whole, left = play("text", "full")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.warns(UserWarning, match=r"unfinished: .*No space left on device.*Free some space there") as told:
        events, other = play("text", "full", checkpoints())
    assert len(told) == 1
    assert numbers(events) == numbers(whole)
    assert_same(other, left)
    assert list(checkpoints().folder.iterdir()) == []


def test_more_than_half_of_the_free_disk_is_not_taken(checkpoints, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE_OF_FREE", 0.0)
    with pytest.warns(UserWarning, match=r"MB, more than half of the \d+ MB that are free"):
        play("text", "full", checkpoints())
    assert list(checkpoints().folder.iterdir()) == []


def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path):
    opened = Checkpoints(tmp_path).open("a fit")
    assert opened.due()
    opened.write({"phase": 0})
    opened.cost = 10.0
    assert not opened.due()
    opened.written -= 200.0
    assert opened.due()


def test_what_was_written_is_read_to_the_bit(tmp_path):
    tied = torch.randn(3, 2)
    state = {
        "numbers": {0: {"step": torch.tensor(2.0), "moment": torch.randn(2, 3, dtype=torch.bfloat16)}, 7: {}},
        "list": [1, 2.5, None, True, "word", float("-inf"), 0.1 + 0.2],
        "tied": [tied, tied],
    }
    Checkpoints(tmp_path).open("a fit").write(state)
    read = Checkpoints(tmp_path).open("a fit").read()
    assert list(read["numbers"]) == [0, 7] and read["list"] == state["list"]
    for one, other in zip([*state["numbers"][0].values(), *state["tied"]], [*read["numbers"][0].values(), *read["tied"]], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_moments_are_laid_out_as_their_weights_are():
    """Truth: one step with moments read from a contiguous copy equals the step without a break."""

    def stepped(broken):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(layer.parameters(), fused=True)
        for _ in range(2):
            optimiser.zero_grad()
            (layer(torch.randn(2, 3, 5, 5)) ** 2).sum().backward()
            optimiser.step()
            if broken:
                state = optimiser.state_dict()
                moments = {
                    place: {name: moment.contiguous().clone() for name, moment in one.items()} for place, one in state["state"].items()
                }
                optimiser = torch.optim.AdamW(layer.parameters(), fused=True)
                checkpoint.load_optimiser(optimiser, {**state, "state": moments})
        return layer.weight

    torch.testing.assert_close(stepped(True), stepped(False), atol=0.0, rtol=0.0)


def test_ctrl_c_ends_a_fit_with_its_best_weights_and_leaves_it_to_be_gone_on_with(checkpoints):
    whole, left = play("text", "lp_ft", batch_size=8)
    with interrupt.listening():
        events, backbone, head = start("text", "lp_ft", checkpoints(), batch_size=8)
        played = [next(events), next(events)]
        os.kill(os.getpid(), signal.SIGINT)
        assert list(events) == []
        best = weights(backbone, head)
        # Whoever starts another fit after the request needs it.
        assert len(play("text", "lp_ft", batch_size=8)[0]) == len(whole)
    closed, *modules = start("text", "lp_ft", batch_size=8)
    for _ in range(2):
        next(closed)
    closed.close()
    assert_same(best, weights(*modules))
    assert numbers(played) == numbers(whole[:2])
    events, other = play("text", "lp_ft", checkpoints(), batch_size=8)
    assert numbers(events) == numbers(whole)
    assert_same(other, left)


def test_ctrl_c_in_the_middle_of_an_epoch_drops_that_epoch():
    with interrupt.listening():
        steps = []

        def press(step):
            steps.append(step)
            if len(steps) == 5:
                os.kill(os.getpid(), signal.SIGINT)

        events, _ = play("text", "full", batch_size=8, progress=press)
    assert len(events) == 1 and len(steps) == 5


def test_a_killed_process_leaves_a_file_that_is_gone_on_with(checkpoints, tmp_path):
    """SIGKILL in the middle of training, from outside; this process goes on."""
    script = (
        "import sys, torch; torch.set_num_threads(1); sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nimport numpy as np\n"
        "from test_train_checkpoint import start, Checkpoints\n"
        "from graft.train import checkpoint\n"
        "checkpoint._SHARE_OF_TIME = np.inf\n"
        "events, *_ = start('text', 'full', Checkpoints(Path(sys.argv[2]), 'accuracy'))\n"
        "for number, event in enumerate(events):\n"
        "    print(number, flush=True)\n"
        "    if number == 1: sys.stdin.read()\n"
    )
    folder = tmp_path / "unfinished"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline().strip() for _ in range(2)] == ["0", "1"]
        process.kill()
    whole, left = play("text", "full")
    opened = checkpoints()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events, other = play("text", "full", opened)
    assert opened.seconds > 0
    assert numbers(events) == numbers(whole)
    assert_same(other, left)
