"""The network for signals: what it reads, that a neighbour in the batch changes nothing, and that it is a backbone like any other."""

import copy
import pickle

import numpy as np
import pytest
import torch

import graft
from graft.backbones import entry_of, load_backbone
from graft.errors import GraftError
from graft.features import extract
from graft.items import content_key


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def waves(n=60, seed=0, steps=96):
    """Two channels, slow in the first class and fast in the second."""
    rng, time = np.random.default_rng(seed), np.arange(steps)
    y = np.arange(n) % 2
    phase, period = rng.uniform(0, 6, (n, 2, 1)), np.where(y, 7, 23)[:, None, None] * rng.uniform(0.8, 1.2, (n, 1, 1))
    return 5 + 3 * np.sin(2 * np.pi * time / period + phase) + rng.normal(0, 1, (n, 2, steps)), y


def features(backbone, items):
    with torch.inference_mode():
        return backbone(backbone.prepare(items))


def trained_statistics(backbone):
    """Random statistics of batch normalisation, which begin with those that hide a mistake."""
    with torch.no_grad():
        for layer in backbone.modules():
            if isinstance(layer, torch.nn.BatchNorm1d):
                layer.running_mean.uniform_(-1, 1)
                layer.bias.uniform_(-1, 1)
    return backbone


def test_each_channel_of_each_item_is_standardised():
    """Truth: by hand."""
    item = np.random.default_rng(0).normal([[100], [0]], [[50], [0.1]], (2, 40))
    item = np.vstack([item, np.full((1, 40), 7.0)])
    batch = load_backbone("signal:3").prepare([item])
    expected = (item - item.mean(1, keepdims=True)) / np.array([[item[0].std()], [item[1].std()], [1.0]])
    torch.testing.assert_close(batch["hidden"][0].T, torch.from_numpy(expected.astype(np.float32)))
    assert batch["attention_mask"].all()


@pytest.mark.parametrize("steps", [16, 17, 31, 50, 96])
def test_features_do_not_hang_on_longer_neighbours(steps):
    backbone = trained_statistics(load_backbone("signal:2"))
    short, long = waves(2, steps=steps)[0], waves(1, seed=1, steps=133)[0]
    alone = features(backbone, list(short))
    beside = features(backbone, [short[0], long[0], short[1]])
    torch.testing.assert_close(beside[[0, 2]], alone)
    torch.testing.assert_close(beside[1:2], features(backbone, list(long)))


def test_a_stage_is_a_convolution_as_torch_has_it():
    """Truth: the first stage, and the average over steps, by torch's own functions."""
    backbone = load_backbone("signal:2")
    items = waves(3)[0]
    batch, layer = backbone.prepare(list(items)), backbone.stages[0]
    with torch.inference_mode():
        expected = torch.nn.functional.conv1d(batch["hidden"].transpose(1, 2), layer.convolution.weight, stride=2, padding=3)
        given = backbone(batch, stop=1)["hidden"].transpose(1, 2)
        torch.testing.assert_close(given, (expected / (1 + layer.norm.eps) ** 0.5).relu())
        torch.testing.assert_close(backbone(batch), backbone(batch, stop=backbone.depth - 1)["hidden"].mean(1))


def test_it_is_small_and_every_parameter_is_in_one_group():
    backbone = load_backbone("signal:6")
    assert sum(parameter.numel() for parameter in backbone.parameters()) <= 300_000
    grouped = [id(parameter) for group in backbone.groups() for parameter in group]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for parameter in backbone.parameters()}
    assert entry_of(backbone).gmacs > 0 and backbone.card["pretrained_on"] == "nothing: random weights"
    batch = backbone.prepare([np.random.default_rng(0).normal(size=(6, 40))])
    with torch.inference_mode():
        for stage in range(1, backbone.depth):
            torch.testing.assert_close(backbone(backbone(batch, stop=stage), start=stage), backbone(batch))


def test_what_is_saved_pickled_or_copied_gives_the_same_features(tmp_path):
    backbone = trained_statistics(load_backbone("signal:2"))
    items = list(waves(4)[0])
    backbone.save(tmp_path)
    for again in (load_backbone(f"checkpoint:{tmp_path}"), pickle.loads(pickle.dumps(backbone)), copy.deepcopy(backbone)):
        assert again.fingerprint() == backbone.fingerprint()
        torch.testing.assert_close(features(again, items), features(backbone, items))
    backbone.reset(3)
    assert backbone.fingerprint() != again.fingerprint()


def test_weights_alone_are_read_where_the_architecture_is_named_behind_them(tmp_path):
    backbone = load_backbone("signal:2")
    backbone.save(tmp_path)
    assert load_backbone(f"checkpoint:{tmp_path / 'model.safetensors'}@signal:2").fingerprint() == backbone.fingerprint()


@pytest.mark.parametrize("listed", [False, True])
def test_signals_are_learned_from_an_array_or_a_list(listed, tmp_path):
    X, y = waves(100)
    fresh, truth = waves(40, seed=1)
    X, fresh = ([item[:, : 60 + place % 30] for place, item in enumerate(given)] if listed else given for given in (X, fresh))
    model = graft.Transfer("signal:2", "full", epochs=12, lr=3e-2).fit(X, y)
    assert model.score(fresh, truth) > 0.9
    model.save(tmp_path)
    np.testing.assert_allclose(graft.Transfer.load(tmp_path).predict_proba(fresh), model.predict_proba(fresh), atol=1e-5)


def test_features_are_kept_by_content(monkeypatch):
    backbone, items = load_backbone("signal:2"), list(waves(5)[0])
    first = extract(backbone, items)
    assert content_key(items[0], "signal") == content_key(items[0].copy(order="F"), "signal") != content_key(items[0].T, "signal")
    monkeypatch.setattr(type(backbone), "forward", lambda *arguments, **named: pytest.fail("computed again"))
    np.testing.assert_array_equal(extract(backbone, [item.copy() for item in items]), first)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((3, 40)), r"shape \(3, 40\) and type float64, expected numbers of shape \(2, t\) with t of at least 16: channels first"),
        (np.zeros((2, 15)), r"shape \(2, 15\)"),
        (np.zeros(40), r"shape \(40,\)"),
        (np.full((2, 40), "a"), r"type <U1"),
        (np.where(np.arange(40) < 2, np.nan, np.zeros((2, 40))), r"was given 4 values that are no number. Fill them in"),
    ],
)
def test_what_is_no_such_signal_is_refused(item, message):
    with pytest.raises(GraftError, match=message):
        load_backbone("signal:2").prepare([item])


@pytest.mark.parametrize("name", ["x", "0", "-1", "2.5"])
def test_a_name_without_a_number_of_channels_is_explained(name):
    with pytest.raises(GraftError, match=r"expected signal:C, C channels and at least 1"):
        load_backbone(f"signal:{name}")
