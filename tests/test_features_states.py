"""What frozen stages gave is kept: exact, in any batch, within its limits, and gone afterwards."""

import copy
import errno
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from graft.backbones.tiny import load
from graft.features import States


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def token_states(lengths, left=False, width=4, seed=0):
    """A padded batch of token states, its padding filled with numbers that must not matter."""
    rng, longest = np.random.default_rng(seed), max(lengths)
    mask = np.array([[0] * (longest - n) + [1] * n if left else [1] * n + [0] * (longest - n) for n in lengths])
    hidden = rng.normal(size=(len(lengths), longest, width))
    return {
        "hidden": torch.from_numpy(hidden).float(),
        "attention_mask": torch.from_numpy(mask),
        "token_type_ids": torch.from_numpy(rng.integers(0, 2, mask.shape) * mask),
    }


def padding_left(backbone):
    """The backbone with a tokenizer that pads in front, as XLNet's does."""
    prepare = backbone._prepare
    backbone._prepare = lambda items, rng: {name: tensor.flip(1) for name, tensor in prepare(items, rng).items()}
    return backbone


def test_images_come_back_bit_for_bit_in_any_order_and_layout():
    state = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    with States() as states:
        shelf = states.open(load("image"), 1)
        shelf.add(list("abc"), state[:3])
        shelf.add(list("de"), state[3:])
        taken = shelf.take(list("dab"))
        assert torch.equal(taken, state[[3, 0, 1]])
        assert taken.is_contiguous(memory_format=torch.channels_last)
        taken.zero_()
        assert torch.equal(shelf.take(list("a")), state[:1])


@pytest.mark.parametrize("left", [False, True])
def test_texts_come_back_in_another_batch_padded_on_their_tokenizers_side(left):
    state = token_states([2, 5, 3], left)
    with States() as states:
        shelf = states.open(padding_left(load("text")) if left else load("text"), 1)
        shelf.add(list("abc"), state)
        taken = shelf.take(list("ca"))
    expected = {"attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1] if left else [1, 1, 0]])}
    for name in ("hidden", "token_type_ids"):
        rows = [state[name][2, -3:], state[name][0, -2:]] if left else [state[name][2, :3], state[name][0, :2]]
        nothing = torch.zeros_like(rows[0][:1])
        expected[name] = torch.stack([rows[0], torch.cat([nothing, rows[1]] if left else [rows[1], nothing])])
    for name, tensor in expected.items():
        assert torch.equal(taken[name], tensor), name


def test_a_text_without_tokens_keeps_one_masked_position():
    state = token_states([2, 0])
    with States() as states:
        shelf = states.open(load("text"), 1)
        shelf.add(list("ab"), state)
        assert shelf.take(["b"])["attention_mask"].tolist() == [[0]]


def test_bf16_takes_half_the_room_and_rounds_to_three_digits():
    """Truth: bfloat16 has 8 significant bits, so rounding to it errs by at most 2^-8 of a number; whole numbers stay exact."""
    state = token_states([3, 4])
    with States() as states:
        exact, rounded = states.open(load("text"), 1), states.open(load("text"), 1, torch.bfloat16)
        for shelf in (exact, rounded):
            shelf.add(list("ab"), state)
        taken = rounded.take(list("ab"))
        inside = state["attention_mask"].bool()
        torch.testing.assert_close(taken["hidden"][inside], state["hidden"][inside], rtol=2**-8, atol=0.0)
        assert not torch.equal(taken["hidden"][inside], state["hidden"][inside])
        assert taken["hidden"].dtype == torch.float32
        assert torch.equal(taken["token_type_ids"], state["token_type_ids"])
        assert exact.bytes - rounded.bytes == 7 * 4 * 2


def test_the_deepest_shallower_shelf_of_unchanged_stages_is_below():
    backbone = load("text")
    with States() as states:
        first, second = states.open(backbone, 1), states.open(backbone, 2)
        assert states.open(backbone, 2) is second and second.below is first and first.below is None
        assert states.open(backbone, 3).below is second
        assert states.open(backbone, 3, torch.bfloat16).below is None
        assert states.open(copy.deepcopy(backbone), 2) is second
        with torch.no_grad():
            backbone.stages[1].linear.weight.add_(1.0)
        moved = states.open(backbone, 3)
        assert moved is not states.open(load("text"), 3) and moved.below is first


def test_the_limit_is_kept_and_named():
    with States(limit_bytes=100) as states:
        shelf = states.open(load("image"), 1)
        shelf.add(["a"], torch.ones(1, 20))
        with pytest.warns(UserWarning, match=r"cannot be kept in full .*half of the disk's free space.*computed in each epoch"):
            shelf.add(["b"], torch.ones(1, 20))
        assert shelf.full and "a" in shelf and "b" not in shelf
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shelf.add(["c"], torch.ones(1, 20))
        assert torch.equal(shelf.take(["a"]), torch.ones(1, 20))
        states.drop(shelf)
        assert not states.full


def test_a_disk_that_fills_up_is_named_and_what_was_kept_stays(monkeypatch):
    with States() as states:
        shelf = states.open(load("image"), 1)
        shelf.add(["a"], torch.full((1, 20), 2.0))
        rows = shelf._rows[""]

        class Full:
            def __getattr__(self, name):
                return getattr(rows_file, name)

            def write(self, data):
                raise OSError(errno.ENOSPC, "No space left on device")

        rows_file, rows._file = rows._file, Full()
        with pytest.warns(UserWarning, match="No space left on device"):
            shelf.add(["b"], torch.ones(1, 20))
        assert "b" not in shelf and torch.equal(shelf.take(["a"]), torch.full((1, 20), 2.0))


def test_a_folder_that_cannot_be_written_is_named(cache):
    cache.write_text("a file where the folder should be")
    with States() as states:
        shelf = states.open(load("image"), 1)
        with pytest.warns(UserWarning, match="set GRAFT_CACHE to a folder"):
            shelf.add(["a"], torch.ones(1, 20))
        assert shelf.full and "a" not in shelf


@pytest.mark.skipif(os.name != "posix", reason="a killed process is POSIX's")
def test_a_killed_process_leaves_no_file(cache):
    code = """
import os, signal, torch
from graft.backbones.tiny import load
from graft.features import States
shelf = States().open(load("image"), 1)
shelf.add(["a"], torch.ones(1, 1000))
assert "a" in shelf
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "GRAFT_CACHE": str(cache)}).returncode == -signal.SIGKILL
    assert (cache / "states").is_dir() and [path for path in cache.rglob("*") if path.is_file()] == []
