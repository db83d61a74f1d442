"""All that training makes follows its backbone: on a stand-in for a GPU every strategy, loss and pretext gives the CPU's numbers."""

import copy

import numpy as np
import pytest
import torch
from pretext_samples import playing
from stand_in import AWAY, Away, standing_in
from test_backbones_columns import dataset, people
from test_backbones_signal import waves
from test_train import make_data, make_head

from graft.backbones import columns, load_backbone
from graft.backbones.tiny import load
from graft.features import extract
from graft.losses import LOSSES
from graft.pretext import PRETEXTS
from graft.records import Epoch, Phase, Plan, Recipe
from graft.strategies import STRATEGIES, make_plan
from graft.testtime import adapt_statistics
from graft.train import checkpoint, train
from graft.train.checkpoint import Checkpoints
from graft.train.layer import linear_head

RECIPE = {"precision": "fp32", "batch_size": 6, "augment": False}
# What indexes a tensor by a Python list: PyTorch makes an index of it that the stand-in does not see.
BY_LISTS = ("delta", "masked_language")
# No tiny network has the dropout that SimCSE wants.
TAUGHT = [name for name in PRETEXTS if name not in (*BY_LISTS, "simcse")]
REFUSED = {("image", "lora_attention"), *(("text", name) for name in ("cotuning", "stochnorm", "lora_attention", "lora_convolutions"))}
BESIDE = [name for name in LOSSES if LOSSES[name].needs_others]


@pytest.fixture
def away(monkeypatch, tmp_path):
    """Plays on the stand-in what a function plays: (device to move to) -> anything."""

    def play(function):
        # Else the features that the CPU's run left would be found.
        monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "away"))
        with standing_in(monkeypatch):
            return function(AWAY)

    return play


def losses(events):
    return [event.loss for event in events if isinstance(event, Epoch)]


def test_the_stand_in_refuses_what_a_gpu_refuses(away):
    def mix(device):
        there, here = torch.ones(3).to(device), torch.ones(3)
        assert isinstance(there, Away) and there.device == AWAY and (there * 2 + torch.tensor(1.0)).cpu().tolist() == [3.0] * 3
        with pytest.raises(RuntimeError, match="one device"):
            there + here
        with pytest.raises(RuntimeError, match="one device"):
            torch.nn.Linear(3, 2)(there)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()

    away(mix)


def fitted(device, plan, kind, others=(), recipe=None, **options):
    backbone, head = load(kind).to(device), make_head()
    items, y = make_data(kind, 13)
    plan = make_plan(plan, backbone.depth, 2, 1e-2) if isinstance(plan, str) else plan
    recipe = Recipe(**(RECIPE | (recipe or {})))
    options = {"validation": make_data(kind, 7, seed=1)} | options
    said = losses(train(backbone, head, plan, items, y, task="classification", others=others, recipe=recipe, **options))
    assert {tensor.device.type for module in (backbone, head) for tensor in module.state_dict().values()} == {device.type}
    return said


CPU = torch.device("cpu")


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("kind", ["image", "text"])
def test_every_strategy(kind, strategy, away):
    if strategy in BY_LISTS:
        pytest.skip("it indexes by a list, which the stand-in cannot follow")
    if (kind, strategy) in REFUSED:
        pytest.skip("tiny:text has no classifier, batch normalisation or convolution, and no tiny one attention")
    others = make_data(kind, 9, seed=5)[0]
    here = fitted(CPU, strategy, kind, others)
    assert away(lambda device: fitted(device, strategy, kind, others)) == pytest.approx(here, rel=1e-5)


@pytest.mark.parametrize("name", BESIDE)
def test_every_loss_of_two_domains(name, away):
    plan = Plan((Phase(2, (1e-3,) * load("image").depth, 1e-2),), losses=((name, 0.5),))
    others = make_data("image", 9, seed=5)[0]
    here = fitted(CPU, plan, "image", others, {"augment": True})
    assert away(lambda device: fitted(device, plan, "image", others, {"augment": True})) == pytest.approx(here, rel=1e-5)


@pytest.mark.parametrize("setting", [{"mixup": 0.2}, {"cutmix": 0.2}, {"averaging": 0.9}, {"class_weight": "balanced"}, {"dropout": 0.3}])
def test_every_setting_that_makes_tensors(setting, away):
    here = fitted(CPU, "full", "image", recipe=setting)
    assert away(lambda device: fitted(device, "full", "image", recipe=setting)) == pytest.approx(here, rel=1e-5)


def reading(name):
    """(backbone, items) that a pretext teaches."""
    kinds = PRETEXTS[name].modalities
    if "image" in kinds or "text" in kinds:
        kind = "image" if "image" in kinds else "text"
        return load(kind), make_data(kind, 13)[0]
    if "table" in kinds:
        return columns.fresh(dataset(people(13))), list(dataset(people(13)).items)
    return load_backbone("signal:2", "cpu"), [item[:, : 60 + place % 7] for place, item in enumerate(waves(13)[0])]


@pytest.mark.parametrize("name", TAUGHT)
def test_every_pretext(name, away):
    def taught(device):
        backbone, items = reading(name)
        teachers = [copy.deepcopy(backbone)] if PRETEXTS[name].needs_teachers else []
        events, _ = playing(name, backbone.to(device), items, 2, teachers=teachers)
        return losses(events)

    here = taught(CPU)
    assert len(here) == 2 and away(taught) == pytest.approx(here, rel=1e-5)


@pytest.mark.parametrize("after", [CPU, AWAY], ids=str)
def test_a_run_goes_on_on_another_device(after, away, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", np.inf)
    before = AWAY if after is CPU else CPU
    whole = fitted(CPU, "lp_ft", "image", recipe={"averaging": 0.9})

    def broken_off(device):
        backbone, head, (items, y) = load("image").to(device), make_head(), make_data("image", 13)
        plan, recipe = make_plan("lp_ft", backbone.depth, 2, 1e-2), Recipe(**RECIPE, averaging=0.9)
        validation = make_data("image", 7, seed=1)
        checkpoints = Checkpoints(tmp_path)
        events = train(backbone, head, plan, items, y, task="classification", recipe=recipe, validation=validation, checkpoints=checkpoints)
        next(events)

    def go_on(device):
        return fitted(device, "lp_ft", "image", recipe={"averaging": 0.9}, checkpoints=Checkpoints(tmp_path))

    play = {CPU: lambda function: function(CPU), AWAY: away}
    play[before](broken_off)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert play[after](go_on) == pytest.approx(whole, rel=1e-5)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1, "the same file served both"


def test_features_and_statistics_and_what_is_saved(away, tmp_path):
    items = make_data("image", 9)[0]
    features, statistics = extract(load("image"), items), extract(adapt_statistics(load("image"), items), items, cache=False)

    def there(device):
        backbone = load("image").to(device)
        np.testing.assert_allclose(extract(backbone, items, cache=False), features, atol=1e-6)
        adapted = adapt_statistics(backbone, items)
        np.testing.assert_allclose(extract(adapted, items, cache=False), statistics, atol=1e-6)
        backbone.save(tmp_path / "saved")
        head = make_head().to(device)
        assert linear_head(head, "classification", 0.0, 1.0).weight.shape == (32, 3)
        assert backbone.fingerprint() == load("image").fingerprint()

    away(there)
    np.testing.assert_allclose(extract(load_backbone(f"checkpoint:{tmp_path / 'saved'}", "cpu"), items), features, atol=1e-6)
