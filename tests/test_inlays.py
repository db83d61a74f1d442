"""Low-rank updates: of the rank asked for, nothing else moves, and nothing of them is left behind."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.inlays import low_rank
from graft.records import Phase, Plan
from graft.train import train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def test_an_updated_layer_computes_weight_plus_up_times_down():
    """Truth: h = W x + B A x, Hu et al. 2021, equation 3, and the same after merging; 1e-6 is float32 rounding."""
    generator = torch.Generator().manual_seed(0)
    layer, x = nn.Linear(6, 4), torch.randn(3, 6, generator=generator)
    plain = layer(x).detach()
    layers = low_rank.add_lora([layer], 2, "all", seed=0)
    torch.testing.assert_close(layer(x), plain)
    update = layer.parametrizations["weight"][0]
    with torch.no_grad():
        update.up.normal_(generator=generator)
    expected = plain + x @ update.down.T @ update.up.T
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0.0)
    low_rank.merge(layers)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0.0)
    assert type(layer) is nn.Linear and list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_changes_the_weights_by_the_rank_and_nothing_else(kind):
    backbone, before = load(kind), load(kind).state_dict()
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    images = [np.full((32, 32, 3), 60 + 120 * label, np.uint8) + rng.integers(0, 40, (32, 32, 3), dtype=np.uint8) for label in y]
    items = images if kind == "image" else [f"w{label} v{rng.integers(9)}" for label in y]
    plan = Plan((Phase(3, (1e-2,) * 4, 1e-2),), lora_rank=2)
    list(train(backbone, nn.Linear(32, 2), plan, items, y, task="classification"))
    moved = {name: tensor - before[name] for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = (
        {"stages.0.0.weight", "stages.1.0.weight", "stages.2.0.weight"}
        if kind == "image"
        else {"stages.1.linear.weight", "stages.2.linear.weight"}
    )
    assert set(moved) == expected
    assert all(torch.linalg.matrix_rank(change.flatten(1), rtol=1e-3) == 2 for change in moved.values())


def test_layers_that_are_linear_by_shape_are_found_and_embeddings_and_grouped_convolutions_are_not():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 5))

    net = nn.ModuleList([Transposed(), nn.Embedding(5, 4), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1), nn.LayerNorm(4), nn.ReLU()])
    assert low_rank.add_lora([net], 8, "all", seed=0) == [net[0], net[3]]
    assert net[0].parametrizations["weight"][0].up.shape == (3, 3)
    assert net[3].parametrizations["weight"][0].down.shape == (2, 4)


def test_the_same_seed_draws_the_same_updates():
    one, other, third = (nn.Linear(6, 4) for _ in range(3))
    for layer, seed in ((one, 0), (other, 0), (third, 1)):
        low_rank.add_lora([layer], 2, "all", seed)
    downs = [layer.parametrizations["weight"][0].down for layer in (one, other, third)]
    assert torch.equal(downs[0], downs[1]) and not torch.equal(downs[0], downs[2])


def test_a_network_without_a_fitting_layer_is_refused_and_left_as_it_was():
    net = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(GraftError, match="lora: the layer groups that learn hold no linear or convolution layer"):
        low_rank.add_lora([net], 4, "all", seed=0)
    assert net.state_dict().keys() == before.keys()
