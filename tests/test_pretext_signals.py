"""Pretexts of signals: spans and crops as the papers draw them, their losses by equation, and their play in the loop."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from pretext_samples import RECIPE, alone, beside, killed_twice, playing  # noqa: F401
from test_backbones_signal import waves
from test_train import assert_same, numbers, weights

from graft.backbones import load_backbone
from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.pretext import PRETEXTS
from graft.pretext.signals import changed, crop, spans

NAMES = ("masked_segments", "contrastive_crops")


def signals():
    """Of different lengths."""
    return [item[:, : 60 + place % 37] for place, item in enumerate(waves(100)[0])]


def start(name, epochs=4, seed=0, backbone=None, **options):
    return playing(name, backbone or load_backbone("signal:2"), signals(), epochs, seed, **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_pretext_learns_and_repeats_itself(name):
    events, backbone = start(name, epochs=8)
    losses = [event.loss for event in events]
    assert np.isfinite(losses).all() and np.mean(losses[-2:]) < 0.9 * np.mean(losses[:2])
    assert backbone.fingerprint() != load_backbone("signal:2").fingerprint()
    (one, left), (other, right), (third, _) = (start(name, epochs=2, seed=seed) for seed in (0, 0, 1))
    one, other, third = list(one), list(other), list(third)
    assert numbers(one) == numbers(other) != numbers(third)
    assert_same(weights(left), weights(right))


@pytest.mark.parametrize("name", NAMES)
def test_every_pretext_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    events, whole = start(name, epochs=3)
    told = list(events)
    events, again = killed_twice(partial(start, name, epochs=3), monkeypatch, tmp_path / "unfinished")
    assert numbers(events) == numbers(told)
    assert_same(weights(again), weights(whole))


@pytest.mark.parametrize("name", NAMES)
def test_what_reads_no_signals_is_refused_and_the_source_is_told(name):
    with pytest.raises(GraftError, match=rf"losses \({name}\) with tiny:text, which reads texts, expected signals"):
        start(name, backbone=load("text"))
    assert PRETEXTS.describe(name).endswith(".") and "20" in PRETEXTS.sources[name]


def test_spans_are_as_long_and_as_many_as_the_papers():
    """Truth: Zerveas et al. 2021, section 3.3: geometric spans of mean 3, 15 % of all steps, between them mean (1 - r) / r x 3."""
    torch.manual_seed(0)
    hidden = spans(torch.zeros(200, 400, 3))
    assert hidden.shape == (200, 400, 3) and hidden.float().mean().item() == pytest.approx(0.15, abs=0.005)
    # From the start on as everywhere, and apart for each channel.
    assert hidden[:, :5].float().mean().item() == pytest.approx(0.15, abs=0.03)
    assert (hidden[..., 0] & hidden[..., 1]).float().mean().item() == pytest.approx(0.15**2, abs=0.004)
    lengths = {True: [], False: []}
    for line in hidden.transpose(1, 2).reshape(-1, 400).numpy():
        ends = np.flatnonzero(np.diff(line)) + 1
        for begin, end in itertools.pairwise(ends):
            lengths[bool(line[begin])].append(end - begin)
    assert np.mean(lengths[True]) == pytest.approx(3, abs=0.1)
    # Long ones that reach an end are not counted.
    assert np.mean(lengths[False]) == pytest.approx(17, abs=1.5)
    # A geometric length of mean 3 is 1 with a chance of a third.
    assert np.mean(np.array(lengths[True]) == 1) == pytest.approx(1 / 3, abs=0.02)


def test_the_loss_is_the_mean_squared_error_on_what_is_hidden():
    """Truth: Zerveas et al. 2021, equation 4, step by step, of signals of different lengths."""

    def by_hand(loss, seen, batch):
        signal, there = batch["hidden"], batch["attention_mask"]
        hidden = spans(signal)
        given = signal.clone()
        given[hidden] = 0.0
        places = seen.run({"hidden": given, "attention_mask": there}, 4)["hidden"]
        errors = []
        for item, step, channel in np.argwhere(hidden.numpy()).tolist():
            if there[item, step]:
                said = loss.decode(places[item, step // 16])[step % 16 * 2 + channel]
                errors.append((said - signal[item, step, channel]) ** 2)
        return torch.stack(errors).mean()

    with beside("masked_segments", by_hand) as kept:
        list(start("spy", epochs=1)[0])
    assert kept and all(one == pytest.approx(other, rel=1e-4) for one, other in kept)


@pytest.mark.parametrize("share", [0.5, 0.73, 1.0])
def test_crops_are_parts_of_the_signal_that_overlap(share):
    torch.manual_seed(0)
    steps = torch.tensor([16, 33, 60])
    signal, mask = torch.zeros(3, 60, 2), torch.arange(60) < steps[:, None]
    # Each step tells its number.
    signal[:] = torch.arange(1, 61)[None, :, None] * torch.tensor([1, 100])
    batch = {"hidden": signal * mask[..., None], "attention_mask": mask.float()}
    starts = []
    for _ in range(100):
        one, other = crop(batch, share), crop(batch, share)
        for item, whole in enumerate(steps.tolist()):
            kept = [int(each["attention_mask"][item].sum()) for each in (one, other)]
            assert kept == [np.ceil(share * whole)] * 2
            told = [each["hidden"][item, : kept[0], 0] for each in (one, other)]
            assert all((each.diff() == 1).all() and each[0] >= 1 and each[-1] <= whole for each in told)
            assert not one["hidden"][item, kept[0] :].any()
            assert share == 0.5 or set(told[0].tolist()) & set(told[1].tolist())
            starts.append((item, int(told[0][0])))
    # Every start that leaves room is drawn, of the shortest at least.
    assert {begin for item, begin in starts if item == 0} == set(range(1, 16 - int(np.ceil(share * 16)) + 2))


def test_a_changed_signal_is_scaled_by_channel_and_noisy():
    torch.manual_seed(0)
    signal = torch.full((400, 50, 2), 10.0)
    mask = torch.ones(400, 50)
    mask[:, 40:] = 0
    given = changed({"hidden": signal * mask[..., None], "attention_mask": mask})["hidden"]
    assert not given[:, 40:].any()
    factor, noise = given[:, :40].mean(1) / 10, (given[:, :40] - given[:, :40].mean(1, keepdim=True)).std()
    assert factor.mean().item() == pytest.approx(1, abs=0.03) and factor.std().item() == pytest.approx(0.2, abs=0.02)
    assert noise.item() == pytest.approx(0.1, abs=0.005)
    assert abs(np.corrcoef(factor.T.numpy())[0, 1]) < 0.15


def test_two_crops_of_a_signal_are_told_from_all_others():
    """Truth: Chen et al. 2020, equation 1, written out for crops that are drawn again from the same random numbers."""

    def by_hand(loss, seen, batch):
        share = 0.5 + 0.5 * torch.rand(()).item()
        one, other = (seen.run(changed(crop(batch, share)), None) for _ in range(2))
        z = loss.project(torch.cat([one, other])).detach()
        n = len(one)
        s = np.array([[float(a @ b / (a.norm() * b.norm())) for b in z] for a in z]) / 0.2
        return np.mean([np.log(sum(np.exp(s[i, k]) for k in range(2 * n) if k != i)) - s[i, (i + n) % (2 * n)] for i in range(2 * n)])

    with beside("contrastive_crops", by_hand) as kept:
        list(start("spy", epochs=1)[0])
    assert kept and all(one == pytest.approx(other, rel=1e-3) for one, other in kept)
