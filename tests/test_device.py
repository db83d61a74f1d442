"""Where networks compute: which device is taken, what is refused, and that nothing of PyTorch's own settings is left changed."""

import os
import pickle
from unittest import mock

import pytest
import torch

from graft import device
from graft.backbones import load_backbone
from graft.cli import app, choose_device
from graft.device import chosen, named, seeded, tf32
from graft.errors import GraftError

NEW = hasattr(torch.backends.cudnn, "conv")  # PyTorch 2.9 and later


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    for name in ("GRAFT_DEVICE", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def two_gpus(monkeypatch):
    """A computer whose PyTorch says that it has two GPUs; nothing can be put there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_without_a_gpu_networks_stay_on_the_processor(no_gpu):
    assert chosen() == torch.device("cpu") and named() is None
    backbone = load_backbone("tiny:image")
    assert {weight.device.type for weight in backbone.parameters()} == {"cpu"}


def test_with_a_gpu_the_current_one_is_taken_unless_another_is_named(two_gpus, monkeypatch):
    assert chosen() == chosen("cuda") == torch.device("cuda", 1)
    assert chosen("cuda:0") == torch.device("cuda", 0) and chosen("cpu") == torch.device("cpu")
    monkeypatch.setenv("GRAFT_DEVICE", "cpu")
    assert chosen() == torch.device("cpu"), "the variable decides where nothing is named"
    assert chosen("cuda:0") == torch.device("cuda", 0), "what is named goes before the variable"


def test_an_apple_gpu_is_taken_by_name_alone(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert chosen() == torch.device("cpu") and chosen("mps") == torch.device("mps")


def test_each_of_several_processes_takes_its_own_gpu(two_gpus, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for place in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", place)
        assert chosen() == chosen("cuda") == torch.device("cuda", int(place))
    with pytest.raises(GraftError, match=r"device cuda:0: several processes would share one GPU.*Say cuda"):
        chosen("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(GraftError, match=r"process 2 of this computer: expected a GPU of number 2, PyTorch finds 2.*at most 2 processes"):
        chosen()
    assert chosen("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", r"device cuda: PyTorch \S+ finds no GPU.*GRAFT_DEVICE=cpu"),
        ("cuda:1", r"device cuda:1: PyTorch \S+ finds no GPU"),
        ("mps", r"device mps: PyTorch \S+ finds no Apple GPU"),
        ("gpu", r"device is 'gpu', expected cpu, cuda, cuda:N"),
        ("cudaa", r"device is 'cudaa', expected .* Did you mean 'cuda'"),
        ("cpu:0", r"device is 'cpu:0', expected"),
    ],
)
def test_a_device_that_is_not_there_is_refused(no_gpu, name, message):
    with pytest.raises(GraftError, match=message):
        load_backbone("tiny:image", device=name)


def test_a_gpu_beyond_the_last_is_refused(two_gpus):
    with pytest.raises(GraftError, match=r"device cuda:2: expected a GPU of number 2, PyTorch finds 2, counted from 0. Name one of 0 to 1"):
        chosen("cuda:2")


def test_a_misspelt_variable_is_named(monkeypatch):
    monkeypatch.setenv("GRAFT_DEVICE", "cdua")
    with pytest.raises(GraftError, match=r"GRAFT_DEVICE is 'cdua', expected cpu, .* Did you mean 'cuda'"):
        load_backbone("tiny:image")


def test_the_flag_before_a_command_says_what_the_variable_does(monkeypatch):
    monkeypatch.setenv("GRAFT_DEVICE", "cuda")
    choose_device("cpu")
    assert os.environ["GRAFT_DEVICE"] == "cpu"
    choose_device(None)
    assert os.environ["GRAFT_DEVICE"] == "cpu"
    with pytest.raises(GraftError, match="device is 'tpu'"):
        choose_device("tpu")
    assert app.registered_callback is not None and app.registered_callback.callback is choose_device


def test_a_backbone_is_moved_to_the_device_that_is_chosen(monkeypatch):
    # There is no second device here that can compute; one that holds no numbers shows where the weights went.
    monkeypatch.setattr("graft.backbones.chosen", lambda name: torch.device("meta"))
    backbone = load_backbone("tiny:image")
    assert {weight.device.type for weight in backbone.parameters()} == {"meta"}


def test_what_is_pickled_comes_back_on_the_device_chosen_there(monkeypatch):
    written = pickle.dumps(load_backbone("tiny:image"))
    monkeypatch.setattr("graft.backbones.chosen", lambda name: torch.device("meta"))
    assert {weight.device.type for weight in pickle.loads(written).parameters()} == {"meta"}


def test_seeded_draws_are_those_of_manual_seed_and_leave_no_trace():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        wanted, before = torch.rand(4), torch.get_rng_state()
        with seeded(5):
            drawn = torch.rand(4)
        assert torch.equal(drawn, wanted) and torch.equal(torch.get_rng_state(), before)


def test_seeding_for_the_processor_does_not_touch_gpus():
    with mock.patch("torch.cuda.manual_seed") as one, mock.patch("torch.cuda.manual_seed_all") as all_of_them:
        with seeded(5):
            pass
        with seeded(5, torch.device("cpu")):
            pass
    assert not one.called and not all_of_them.called


def _settings():
    if not NEW:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    one = torch.backends.cudnn
    return tuple(setting.fp32_precision for setting in (torch.backends.cuda.matmul, one.conv, one.rnn))


@pytest.mark.parametrize("set_before", [None, "old", "new"])
@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_holds_within_and_not_after(allowed, set_before):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    at_first = _settings()
    try:
        if set_before == "old":
            matmul.allow_tf32, cudnn.allow_tf32 = not allowed, not allowed
        elif set_before == "new" and NEW:
            matmul.fp32_precision = cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee" if allowed else "tf32"
        before = _settings()
        with pytest.raises(KeyError), tf32(torch.device("cuda"), allowed):
            assert set(_settings()) == ({"tf32" if allowed else "ieee"} if NEW else {allowed})
            raise KeyError
        assert _settings() == before
        with tf32(torch.device("cpu"), allowed):
            assert _settings() == before
        if set_before == "old":
            assert (matmul.allow_tf32, cudnn.allow_tf32) == (not allowed, not allowed), "the old settings can still be read"
    finally:
        _put_back(at_first)


def _put_back(values):
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    if NEW:
        one = torch.backends.cudnn
        for setting, value in zip((torch.backends.cuda.matmul, one.conv, one.rnn), values, strict=True):
            setting.fp32_precision = value


@pytest.mark.parametrize(("cores", "items", "expected"), [(1, 5, 1), (2, 5, 2), (30, 5, 5), (30, 100, 8), (4, 0, 1)])
def test_items_are_prepared_by_a_thread_a_core_and_no_more_than_eight(monkeypatch, cores, items, expected):
    monkeypatch.setattr(device, "cores", lambda: cores)
    assert device.threads(items) == expected
