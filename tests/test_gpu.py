"""On a GPU: the numbers of the CPU. Skipped where PyTorch finds none; `pytest tests/test_gpu.py` on a machine that has one runs all."""

import numpy as np
import pytest
import torch
from test_train import make_data, make_head, weights

from graft import Transfer
from graft.backbones import load_backbone
from graft.device import chosen, seeded
from graft.features import RUNTIMES, extract, has_bfloat16, pinned, to_device
from graft.records import Epoch, Recipe
from graft.strategies import make_plan
from graft.train import checkpoint, train
from graft.train.checkpoint import Checkpoints

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

FP32 = Recipe(precision="fp32", augment=False, dropout=0.0)


def played(device, strategy, kind="image", recipe=FP32, after=None, **options):
    """(losses, backbone, head) of a fit of 3 epochs on a device; left after some epochs where that is said."""
    backbone, head = load_backbone(f"tiny:{kind}", device), make_head()
    items, y = make_data(kind, 27)
    plan = make_plan(strategy, backbone.depth, 3, 1e-2)
    events = train(backbone, head, plan, items, y, task="classification", recipe=recipe, validation=make_data(kind, 13, seed=1), **options)
    losses = []
    for event in events:
        losses += [event.loss] if isinstance(event, Epoch) else []
        if len(losses) == after:
            break
    return losses, backbone, head


def test_a_gpu_is_taken_unasked():
    assert chosen().type == "cuda"
    assert {weight.device.type for weight in load_backbone("tiny:text").parameters()} == {"cuda"}


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("strategy", ["full", "lp_ft", "lora", "l2_sp", "delta"])
def test_losses_are_those_of_the_cpu(strategy, kind):
    """Truth: the CPU's, to 1e-3: float32 without TF32, the same draws of batches and starting weights, no dropout."""
    there, *modules = played("cuda", strategy, kind)
    here = played("cpu", strategy, kind)[0]
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-3)
    assert {tensor.device.type for module in modules for tensor in module.state_dict().values()} == {"cuda"}


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_losses_in_less_precision_are_near_and_settings_are_put_back(precision):
    """Truth: bf16 keeps 8 bits and TF32 11, so that the first epoch's loss is within 5 % of the CPU's in float32."""
    if precision == "bf16" and not has_bfloat16(chosen()):
        pytest.skip("this GPU has no bfloat16")
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    there = played("cuda", "full", recipe=Recipe(precision=precision, augment=False))[0]
    assert there[0] == pytest.approx(played("cpu", "full")[0][0], rel=0.05)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize("devices", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_where_it_was_broken_off_on_either_device(devices, tmp_path, monkeypatch):
    """Truth: the losses of a run that was not broken off, to 1e-3; averaged weights and the optimiser's moments are taken along."""
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", np.inf)
    recipe = Recipe(precision="fp32", augment=False, dropout=0.0, averaging=0.9)
    first, second = devices
    whole = played(first, "full", recipe=recipe)[0]
    part = played(first, "full", recipe=recipe, after=2, checkpoints=Checkpoints(tmp_path))[0]
    again, *modules = played(second, "full", recipe=recipe, checkpoints=Checkpoints(tmp_path))
    assert again[:2] == part, "what was played is told again, not played again"
    np.testing.assert_allclose(again, whole, rtol=1e-3, atol=1e-3)
    assert {tensor.device.type for module in modules for tensor in module.state_dict().values()} == {second}


def test_dropout_is_drawn_by_the_seed_and_leaves_the_generators_alone():
    recipe = Recipe(precision="fp32", augment=False, dropout=0.3)
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    one = played("cuda", "full", recipe=recipe)[0]
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.cuda.manual_seed(4)
    np.testing.assert_allclose(played("cuda", "full", recipe=recipe)[0], one, rtol=1e-3)


def test_seeded_draws_on_the_gpu_are_those_of_manual_seed():
    device = chosen()
    with seeded(5, device):
        drawn = torch.rand(4, device=device)
    with torch.random.fork_rng([device]):
        torch.manual_seed(5)
        assert torch.equal(torch.rand(4, device=device), drawn)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("name", [name for name in RUNTIMES if "cuda" in RUNTIMES[name].devices and name != "compile"])
def test_features_point_where_those_of_the_cpu_do(name, kind):
    """Truth: the CPU's in float32: a cosine of at least 0.999, and to 1e-4 where the runtime keeps all digits."""
    if RUNTIMES[name].precision == "bfloat16" and not has_bfloat16(chosen()):
        pytest.skip("this GPU has no bfloat16")
    if RUNTIMES[name].precision == "tf32" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    items = make_data(kind, 70)[0]
    here = extract(load_backbone(f"tiny:{kind}", "cpu"), items, runtime="torch", cache=False)
    there = extract(load_backbone(f"tiny:{kind}", "cuda"), items, runtime=name, cache=False, batch_size=32)
    cosine = (here * there).sum(1) / np.linalg.norm(here, axis=1) / np.linalg.norm(there, axis=1)
    assert cosine.min() >= 0.999
    if RUNTIMES[name].precision == "float32":
        np.testing.assert_allclose(there, here, atol=1e-4)


def test_features_of_either_device_are_found_by_the_other():
    items = make_data("image", 9)[0]
    there = extract(load_backbone("tiny:image", "cuda"), items)
    backbone = load_backbone("tiny:image", "cpu")
    assert backbone.fingerprint() == load_backbone("tiny:image", "cuda").fingerprint()
    backbone._prepare = None  # nothing is left to read
    assert np.array_equal(extract(backbone, items), there)


def test_batches_are_pinned_and_arrive_whole():
    device = chosen()
    maps = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    state = pinned({"hidden": torch.randn(4, 5), "maps": maps}, device)
    assert isinstance(state, dict) and all(tensor.is_pinned() for tensor in state.values())
    assert state["maps"].is_contiguous(memory_format=torch.channels_last)
    arrived = to_device(state, device)
    assert all(torch.equal(arrived[name].cpu(), tensor) for name, tensor in state.items())


@pytest.mark.parametrize("strategy", ["feature_extraction", "lp_ft"])
def test_a_model_saved_from_a_gpu_says_the_same_on_a_cpu(strategy, tmp_path, monkeypatch):
    items, y = make_data("text", 30)
    model = Transfer("tiny:text", strategy, epochs=2, recipe=FP32).fit(items, y)
    model.save(tmp_path)
    said = model.predict_proba(items)
    monkeypatch.setenv("GRAFT_DEVICE", "cpu")
    loaded = Transfer.load(tmp_path)
    assert {tensor.device.type for tensor in weights(loaded.backbone_).values()} == {"cpu"}
    np.testing.assert_allclose(loaded.predict_proba(items), said, atol=1e-3)
