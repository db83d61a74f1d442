"""Inlays: each computes what its paper says, nothing else moves, and nothing of them is left behind."""

import copy

import numpy as np
import pytest
import torch
from backbone_samples import save_text
from torch import nn
from torch.nn import functional

from graft import inlays
from graft.backbones.checkpoint import load as load_checkpoint
from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.features import extract
from graft.inlays import low_rank, stochnorm
from graft.records import Phase, Plan, Recipe
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


def make_data(kind):
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    images = [np.full((32, 32, 3), 60 + 120 * label, np.uint8) + rng.integers(0, 40, (32, 32, 3), dtype=np.uint8) for label in y]
    return images if kind == "image" else [f"w{label} v{rng.integers(9)}" for label in y], y


def trained(kind, recipe=Recipe(), **fields):
    """A backbone after three epochs of a plan with these fields, and the names of what moved."""
    backbone, before = load(kind), load(kind).state_dict()
    items, y = make_data(kind)
    torch.manual_seed(0)
    plan = Plan((Phase(3, (1e-2,) * 4, 1e-2),), **fields)
    list(train(backbone, nn.Linear(32, 2), plan, items, y, task="classification", recipe=recipe))
    return backbone, {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_changes_the_weights_by_the_rank_and_nothing_else(kind):
    backbone, before = load(kind), load(kind).state_dict()
    items, y = make_data(kind)
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


class Block(nn.Module):
    """The names of a transformer's block, and a convolution beside."""

    def __init__(self):
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(4, 12), "proj": nn.Linear(4, 4)})
        self.mlp = nn.Linear(4, 4)
        self.convolution = nn.Conv2d(4, 4, 3)


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(4, 4)


def test_lora_on_attention_or_convolutions_finds_those_alone():
    block, by_class = Block(), nn.ModuleList([SelfAttention(), nn.Linear(4, 4)])
    attention = [block.attn["qkv"], block.attn["proj"], by_class[0].query]
    assert low_rank.add_lora([block, by_class], 2, "attention", seed=0) == attention
    assert low_rank.add_lora([Block()], 2, "convolutions", seed=0)[0].weight.ndim == 4
    assert len(low_rank.add_lora([Block()], 2, "convolutions", seed=0)) == 1
    itself = SelfAttention()
    assert low_rank.add_lora([itself], 2, "attention", seed=0) == [itself.query]


# Query, key, value and output, of three blocks; GPT-2 computes the first three in one layer.
@pytest.mark.parametrize(("family", "number"), [("BERT", 12), ("MPNet", 12), ("DistilBERT", 12), ("GPT-2", 6), ("T5 (encoder)", 12)])
def test_attention_is_found_in_the_stages_of_every_family(family, number, tmp_path):
    save_text(family, tmp_path)
    stages = load_checkpoint(str(tmp_path)).stages
    assert len(low_rank.add_lora(stages, 2, "attention", seed=0)) == number
    # Each block alike, and nothing outside them.
    assert {sum(isinstance(module, low_rank.LowRank) for module in stage.modules()) for stage in stages} == {0, number // 3}


@pytest.mark.parametrize(("kind", "on", "what"), [("image", "attention", "attention"), ("text", "convolutions", "ungrouped convolution")])
def test_lora_on_what_a_network_lacks_is_refused(kind, on, what):
    items, y = make_data(kind)
    plan = Plan((Phase(3, (1e-2,) * 4, 1e-2),), lora_rank=2, lora_on=on)
    with pytest.raises(GraftError, match=f"lora: the layer groups that learn hold no {what} layer .* Use 'lora' on all layers, or 'full'"):
        list(train(load(kind), nn.Linear(32, 2), plan, items, y, task="classification"))


def drawn(layer, generator):
    """The layer's bottleneck, with numbers in the half that starts at zero."""
    bottleneck = layer.parametrizations["weight"][0]
    with torch.no_grad():
        bottleneck.up.normal_(generator=generator)
    return bottleneck


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_an_adapter_beside_a_convolution_is_a_1x1_convolution(side, stride):
    """Truth: y = f * x + diag_1(alpha) * x, Rebuffi et al. 2018, section 3.1; 1e-5 is float32 rounding."""
    generator = torch.Generator().manual_seed(0)
    layer, x = nn.Conv2d(6, 4, side, stride, side // 2), torch.randn(2, 6, 9, 9, generator=generator)
    plain = layer(x).detach()
    layers = low_rank.add_adapters([layer], 3, seed=0)
    torch.testing.assert_close(layer(x), plain)
    alpha = drawn(layer, generator)
    narrow = functional.conv2d(x, alpha.down[:, :, None, None], stride=stride)
    expected = plain + functional.conv2d(narrow, alpha.up[:, :, None, None])
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0.0)
    low_rank.merge(layers)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0.0)
    assert type(layer) is nn.Conv2d and list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("bias", [True, False])
def test_an_adapter_behind_a_linear_layer_is_a_residual_bottleneck(bias):
    """Truth: h + W_up W_down h on what the layer gives, Houlsby et al. 2019, figure 2, without the nonlinearity."""
    generator = torch.Generator().manual_seed(0)
    layer, x = nn.Linear(6, 8, bias), torch.randn(3, 6, generator=generator)
    plain = layer(x).detach()
    layers = low_rank.add_adapters([layer], 2, seed=0)
    torch.testing.assert_close(layer(x), plain)
    bottleneck = drawn(layer, generator)
    assert bottleneck.down.shape == (2, 8)
    expected = plain + plain @ bottleneck.down.T @ bottleneck.up.T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0.0)
    low_rank.merge(layers)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0.0)
    assert type(layer) is nn.Linear and list(layer.state_dict()) == ["weight", "bias"][: 1 + bias]
    assert all(isinstance(parameter, nn.Parameter) for parameter in layer.parameters())


def test_convolutions_without_a_centre_and_grouped_ones_get_no_adapter():
    net = nn.ModuleList([nn.Conv2d(4, 4, 4), nn.Conv2d(4, 4, (3, 2)), nn.Conv2d(4, 4, 3, groups=2), nn.Embedding(4, 4)])
    with pytest.raises(GraftError, match=r"adapters: the layer groups that learn hold no nn.Linear layer and no ungrouped convolution"):
        low_rank.add_adapters([net], 4, seed=0)


def test_adapters_move_weights_and_norms_and_a_saved_backbone_gives_the_same_features(tmp_path):
    backbone, moved = trained("image", adapter_width=4)
    norm = {"weight", "bias"}
    assert moved == {f"stages.{stage}.{name}" for stage in range(3) for name in ["0.weight", *(f"1.{part}" for part in norm)]}
    backbone.save(tmp_path / "saved")
    pictures, _ = make_data("image")
    again = extract(load_checkpoint(str(tmp_path / "saved")), pictures, cache=False)
    np.testing.assert_allclose(again, extract(backbone, pictures, cache=False), atol=1e-6)
    _, moved = trained("text", adapter_width=4)
    assert moved == {f"stages.{stage}.linear.{name}" for stage in (1, 2) for name in ("weight", "bias")}


def test_only_biases_move_and_normalisation_keeps_its_statistics():
    """Truth: Ben Zaken et al. 2022, section 3: all but the bias terms, and the head, are frozen."""
    assert trained("text", only="biases")[1] == {"stages.1.linear.bias", "stages.2.linear.bias"}
    assert trained("image", only="biases")[1] == {f"stages.{stage}.1.bias" for stage in range(3)}


def test_a_network_without_biases_has_none_to_learn():
    items, y = make_data("text")
    backbone = load("text")
    for stage in (1, 2):
        backbone.stages[stage].linear = nn.Linear(32, 32, bias=False)
    with pytest.raises(GraftError, match=r"bitfit: the layer groups that learn have no bias, expected at least one. Use 'lora' or 'full'"):
        list(train(backbone, nn.Linear(32, 2), Plan((Phase(3, (1e-2,) * 4, 1e-2),), only="biases"), items, y, task="classification"))


def test_a_parameter_is_a_bias_by_its_own_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_bias = nn.Parameter(torch.zeros(3))
            self.relative_position_bias_table = nn.Parameter(torch.zeros(3, 2))
            self.bias_norm = nn.LayerNorm(3)

    odd = Odd()
    assert [id(weights) for weights in inlays.learners(odd, Plan((), only="biases"))] == [id(odd.q_bias), id(odd.bias_norm.bias)]


@pytest.mark.parametrize("fields", [{"lora_rank": 2}, {"adapter_width": 2}, {"only": "biases"}], ids=str)
def test_a_stage_with_nothing_to_learn_lies_below_the_freeze_boundary(fields):
    backbone, seen = load("text"), []
    backbone.stages[0].register_forward_hook(lambda stage, inputs, output: seen.append(len(output["hidden"])))
    items, y = make_data("text")
    list(train(backbone, nn.Linear(32, 2), Plan((Phase(3, (1e-2,) * 4, 1e-2),), **fields), items, y, task="classification"))
    # Once for each text, as the embedding is frozen, and not once an epoch.
    assert sum(seen) == len(set(items))


@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 6), (8, 5, 6, 7)])
def test_stochastic_normalisation_draws_statistics_channel_by_channel(shape):
    """Truth: x_hat = (1 - s) x_hat_moving + s x_hat_batch, s ~ Bernoulli(p), then scale and shift; Kou et al. 2020, section 3.2."""
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    layer, x = kind(5), 3 * torch.randn(shape) + 1
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            tensor.uniform_(0.5, 1.5)
    axes = [0, *range(2, len(shape))]
    over = (1, -1, *[1] * (len(shape) - 2))
    mean, variance = x.mean(axes), x.var(axes, correction=0)
    start_mean, start_variance = layer.running_mean.clone(), layer.running_var.clone()
    moving = (x - start_mean.view(over)) / (start_variance.view(over) + layer.eps).sqrt()
    batch = (x - mean.view(over)) / (variance.view(over) + layer.eps).sqrt()
    stochnorm.add([layer], 0.5)
    torch.manual_seed(1)
    given = layer(x)
    torch.manual_seed(1)
    s = (torch.rand(5) < 0.5).float().view(over)
    assert 0 < s.sum() < 5
    expected = layer.weight.view(over) * ((1 - s) * moving + s * batch) + layer.bias.view(over)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0.0)
    # Moving statistics follow each batch once, whatever was drawn.
    torch.testing.assert_close(layer.running_mean, 0.9 * start_mean + 0.1 * mean)
    torch.testing.assert_close(layer.running_var, 0.9 * start_variance + 0.1 * x.var(axes))
    assert layer.num_batches_tracked == 1
    stochnorm.remove([layer])
    plain = kind(5)
    plain.load_state_dict(layer.state_dict())
    for training in (False, True):
        torch.testing.assert_close(layer.train(training)(x), plain.train(training)(x))


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_the_share_of_channels_that_use_the_batch_is_p(p):
    """0.05: more than five standard errors of a share of 4000."""
    layer = nn.BatchNorm1d(4000)
    stochnorm.add([layer], p)
    torch.manual_seed(0)
    # Moving statistics of a fresh layer leave a constant as it is; the batch's own make it 0.
    share = (layer(torch.full((2, 4000), 7.0))[0] < 1).float().mean().item()
    assert share == pytest.approx(p, abs=0.05)


def test_the_gradient_of_stochastic_normalisation_passes_through_both_branches():
    """Truth: each channel's gradient is that of batch normalisation in training mode, or in evaluation mode."""
    torch.manual_seed(0)
    layer, x, weigh = nn.BatchNorm1d(6), torch.randn(4, 6), torch.randn(4, 6)

    def gradient(module, training):
        given = x.clone().requires_grad_()
        (module.train(training)(given) * weigh).sum().backward()
        return given.grad

    moving = gradient(copy.deepcopy(layer), False)
    batch = gradient(copy.deepcopy(layer), True)
    stochnorm.add([layer], 0.5)
    torch.manual_seed(1)
    mixed = gradient(layer, True)
    torch.manual_seed(1)
    torch.testing.assert_close(mixed, torch.where(torch.rand(6) < 0.5, batch, moving))


def test_training_with_stochastic_normalisation_is_not_plain_training_and_leaves_plain_layers():
    backbone, moved = trained("image", stochnorm=0.5)
    plain, _ = trained("image", Recipe(batch_norm="batch"))
    always, _ = trained("image", stochnorm=1.0)
    assert "stages.0.1.running_mean" in moved
    assert not any("forward" in vars(module) for module in backbone.modules())
    assert not torch.equal(backbone.stages[0][0].weight, plain.stages[0][0].weight)
    # Where every channel uses the batch it is plain batch normalisation.
    for name, tensor in always.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name])


def test_a_network_without_batch_normalisation_is_refused():
    items, y = make_data("text")
    plan = Plan((Phase(3, (1e-2,) * 4, 1e-2),), stochnorm=0.5)
    with pytest.raises(GraftError, match=r"stochnorm: the layer groups that learn hold no batch normalisation .* such as a ResNet"):
        list(train(load("text"), nn.Linear(32, 2), plan, items, y, task="classification"))
    with pytest.raises(GraftError, match="no batch normalisation with moving statistics"):
        inlays.set_in([nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3, track_running_stats=True)], plan, 0)
