"""Statistics of normalisation that are another domain's: closed forms, torch's own training mode, and the share of both."""

import numpy as np
import pytest
import torch
from test_train import load, make_data
from torch import nn

from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.features import extract
from graft.testtime import adapt_statistics


def network(*stages):
    """A network on rows of 4 numbers."""

    def prepare(items, rng):
        return torch.from_numpy(np.array(items, np.float32))

    return Backbone("a test", "row", 4, list(zip("abcd", stages, strict=False)), prepare, None, None, {}, {})


def rows(n, seed=0):
    return list(np.random.default_rng(seed).normal(3.0, [1.0, 2.0, 0.5, 4.0], (n, 4)).astype(np.float32))


def test_statistics_are_those_of_all_that_the_layer_is_given_however_it_is_batched():
    """Truth: behind a linear map W x + b, mean W m + b and variance diag(W C W^T), C the unbiased covariance of the rows."""
    torch.manual_seed(0)
    linear, items = nn.Linear(4, 4), rows(37)
    backbone = network(linear, nn.BatchNorm1d(4))
    cov, mean = np.cov(np.array(items, np.float64).T), np.mean(items, 0, dtype=np.float64)
    weight, bias = (part.detach().double().numpy() for part in (linear.weight, linear.bias))
    for batch_size in (2, 5, 64):
        layer = adapt_statistics(backbone, items, batch_size=batch_size).stages[1]
        np.testing.assert_allclose(layer.running_mean, weight @ mean + bias, rtol=1e-5)
        np.testing.assert_allclose(layer.running_var, np.diag(weight @ cov @ weight.T), rtol=1e-5)
    assert torch.equal(backbone.stages[1].running_mean, torch.zeros(4))


def test_a_share_mixes_them_with_what_the_network_came_with():
    """Truth: Schneider et al. 2020, equation 1, N / (N + n) of the old statistics."""
    backbone, items = network(nn.BatchNorm1d(4)), rows(30)
    backbone.stages[0].running_mean.fill_(-1.0)
    backbone.stages[0].running_var.fill_(7.0)
    old = 16
    layer = adapt_statistics(backbone, items, share=30 / (30 + old)).stages[0]
    stacked = np.array(items, np.float64)
    np.testing.assert_allclose(layer.running_mean, (30 * stacked.mean(0) - old) / 46, rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, (30 * stacked.var(0, ddof=1) + old * 7) / 46, rtol=1e-5)
    untouched = adapt_statistics(backbone, items, share=0.0).stages[0]
    assert torch.equal(untouched.running_mean, torch.full((4,), -1.0)) and torch.equal(untouched.running_var, torch.full((4,), 7.0))


def test_one_batch_leaves_what_torchs_training_mode_would():
    """Truth: BatchNorm2d layers of momentum None in training mode, over one batch, layer upon layer."""
    items, _ = make_data("image", 20)
    backbone, reference = load("image"), load("image")
    for layer in reference.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            layer.train()
    with torch.no_grad():
        reference(reference.prepare(items))
    twin = adapt_statistics(backbone, items)
    for name, tensor in twin.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor, reference.state_dict()[name], atol=1e-5, rtol=1e-4)


def test_the_given_network_stays_and_its_copy_is_one_like_it(tmp_path):
    items, _ = make_data("image", 9)
    backbone = load("image")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    twin = adapt_statistics(backbone, items)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert twin.fingerprint() != backbone.fingerprint() and not twin.training
    assert not any(layer._forward_pre_hooks for layer in twin.modules())
    assert not np.allclose(extract(twin, items), extract(backbone, items))


@pytest.mark.parametrize(
    ("backbone", "n", "options", "message"),
    [
        (load("text"), 3, {}, r"tiny:text has no batch normalisation with statistics, expected a layer of it"),
        (network(nn.BatchNorm1d(4, track_running_stats=False)), 3, {}, r"a test has no batch normalisation with statistics"),
        (load("image"), 1, {}, r"adapt_statistics: 1 items, expected at least 2"),
        (load("image"), 3, {"share": 1.5}, r"share is 1.5, expected 0 .* to 1"),
        (load("image"), 3, {"batch_size": 1}, r"batch_size is 1, expected at least 2"),
    ],
)
def test_what_cannot_be_had_is_refused(backbone, n, options, message):
    with pytest.raises(GraftError, match=message):
        adapt_statistics(backbone, ["a"] * n, **options)
