"""Pretexts of tables: their losses by the papers' equations, what they change of a batch, and their play in the loop."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from pretext_samples import RECIPE, alone, beside, killed_twice, playing  # noqa: F401
from test_backbones_columns import dataset, people
from test_train import assert_same, numbers, weights
from torch import nn

from graft.backbones import columns
from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.pretext import PRETEXTS
from graft.pretext.contrastive import info_nce
from graft.pretext.rows import cell_loss, corrupted, hide
from graft.records import Phase, Plan
from graft.train import train

NAMES = ("masked_cells", "scarf")


def start(name, kind="mlp", epochs=4, seed=0, backbone=None, **options):
    return playing(name, backbone or columns.fresh(dataset(), kind), list(dataset().items), epochs, seed, **options)


def batch_of_rows(n=64):
    return columns.fresh(dataset(people(n))).prepare(list(dataset(people(n)).items))


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(NAMES, columns.KINDS)))
def test_every_pretext_learns_and_repeats_itself(name, kind):
    events, backbone = start(name, kind, epochs=12)
    losses = [event.loss for event in events]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < 0.97 * np.mean(losses[:3])
    assert backbone.fingerprint() != columns.fresh(dataset(), kind).fingerprint()
    (one, left), (other, right), (third, _) = (start(name, kind, epochs=2, seed=seed) for seed in (0, 0, 1))
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
def test_what_reads_no_columns_is_refused_and_the_source_is_told(name):
    with pytest.raises(GraftError, match=rf"losses \({name}\) with tiny:text, which reads texts, expected tables"):
        start(name, backbone=load("text"))
    assert PRETEXTS.describe(name).endswith(".") and "20" in PRETEXTS.sources[name]


def test_the_loss_of_cells_is_squared_error_and_cross_entropy_over_hidden_ones():
    """Truth: Yoon et al. 2020, equation 4 (numbers), cross-entropy (categories), cell by cell."""
    generator = torch.Generator().manual_seed(0)
    sizes = [4, 3]
    batch = {"numbers": torch.randn(6, 2, generator=generator), "codes": torch.stack([torch.arange(6) % 4, torch.arange(6) % 3], 1)}
    batch["numbers"][2, 1] = torch.nan
    hidden = torch.rand(6, 4, generator=generator) < 0.6
    said = torch.randn(6, 2 + 7, generator=generator)
    losses = []
    for row, column in itertools.product(range(6), range(4)):
        if not hidden[row, column]:
            continue
        if column < 2 and not batch["numbers"][row, column].isnan():
            losses.append((said[row, column] - batch["numbers"][row, column]) ** 2)
        elif column >= 2 and batch["codes"][row, column - 2] != columns.MISSING:
            logits = said[row, 2:6] if column == 2 else said[row, 6:]
            losses.append(-logits.log_softmax(0)[batch["codes"][row, column - 2]])
    assert hidden[2, 1] and 5 < len(losses) < int(hidden.sum())
    torch.testing.assert_close(cell_loss(said, batch, hidden, sizes), torch.stack(losses).mean())
    assert cell_loss(said, batch, torch.zeros_like(hidden), sizes) == 0


def test_hidden_cells_are_missing_and_others_stay():
    batch = batch_of_rows()
    hidden = torch.rand(64, 3) < 0.5
    given = hide(batch, hidden)
    assert given["numbers"][hidden[:, :2]].isnan().all() and (given["codes"][hidden[:, 2:]] == columns.MISSING).all()
    torch.testing.assert_close(given["numbers"][~hidden[:, :2]], batch["numbers"][~hidden[:, :2]], equal_nan=True)
    assert torch.equal(given["codes"][~hidden[:, 2:]], batch["codes"][~hidden[:, 2:]])


def test_six_cells_in_ten_come_from_the_marginals_of_the_batch():
    """Truth: Bahri et al. 2022, algorithm 1: q = floor(c M) cells of each row, each from the column's own values."""
    torch.manual_seed(0)
    n, p, q = 500, 6, 4
    batch = {"numbers": torch.arange(n * p, dtype=torch.float32).reshape(n, p), "codes": torch.arange(n * q).reshape(n, q) + 1}
    given = corrupted(batch, 0.6)
    moved = torch.cat([given["numbers"] != batch["numbers"], given["codes"] != batch["codes"]], 1)
    # floor(0.6 x 10) = 6; a row may be its own donor, once in 500.
    assert moved.sum(1).max() == 6 and moved.sum(1).float().mean() == pytest.approx(6 * (1 - 1 / n), abs=0.03)
    assert moved.float().mean(0).numpy() == pytest.approx(0.6, abs=0.08)
    # Each value comes from its own column, and cells of one row from different rows.
    assert torch.equal(given["numbers"] % p, batch["numbers"] % p) and torch.equal((given["codes"] - 1) % q, (batch["codes"] - 1) % q)
    donors = (given["numbers"][0][moved[0, :p]] // p).tolist()
    assert len(set(donors)) == len(donors) > 1


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_scarfs_loss_is_the_papers(temperature):
    """Truth: Bahri et al. 2022, algorithm 1, written out: 1/N sum of -log(exp(s_ii/t) / (1/N sum_k exp(s_ik/t))), less log N."""
    one, other = torch.randn(7, 5), torch.randn(7, 5)
    loss = 0.0
    for i in range(7):
        s = [float(one[i] @ other[k] / (one[i].norm() * other[k].norm())) for k in range(7)]
        loss -= np.log(np.exp(s[i] / temperature) / np.mean(np.exp(np.array(s) / temperature))) / 7
    assert info_nce(one, other, temperature).item() == pytest.approx(loss + np.log(7), abs=1e-5)


def scarf_by_hand(loss, seen, batch):
    other = corrupted(batch, 0.6)
    return info_nce(*(loss.project(seen.run(each, None)) for each in (batch, other)), 1.0)


def masked_cells_by_hand(loss, seen, batch):
    hidden = torch.rand(len(batch["codes"]), 3) < 0.3
    numbers, codes = batch["numbers"].clone(), batch["codes"].clone()
    numbers[hidden[:, :2]], codes[hidden[:, 2:]] = torch.nan, columns.MISSING
    return cell_loss(loss.decode(seen.run({"numbers": numbers, "codes": codes}, None)), batch, hidden, loss.sizes)


@pytest.mark.parametrize(("name", "by_hand"), [("scarf", scarf_by_hand), ("masked_cells", masked_cells_by_hand)])
def test_the_loss_is_of_what_the_network_says_of_the_changed_rows(name, by_hand):
    """Truth: played by hand through the encoder and what stands behind it, from the loop's random numbers."""
    with beside(name, by_hand) as kept:
        backbone = columns.fresh(dataset())
        # Without dropout both plays are the same.
        for layer in backbone.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        list(start("spy", epochs=1, backbone=backbone)[0])
    assert kept and all(one == pytest.approx(other, abs=1e-5) for one, other in kept)


def test_a_hidden_cell_is_read_off_its_copy():
    """Truth: of a table in which each column has a copy, a loss well below that of what cannot be known."""
    frame = people(400)
    frame["work again"] = frame["work"].map({"state": "s", "private": "p", "own": "o"})
    frame["age again"], frame["pay again"] = -frame["age"], frame["pay"]
    given = dataset(frame)
    backbone = columns.fresh(given)
    items = list(given.items)
    plan = Plan((Phase(30, (3e-3,) * backbone.depth, 0.0),), losses=(("masked_cells", 1.0),), supervised=False)
    events = list(
        train(backbone, nn.Linear(backbone.width, 1), plan, [], np.empty(0), task="regression", others=items, recipe=RECIPE, seed=0)
    )
    assert events[-1].loss < 0.8 * events[0].loss
