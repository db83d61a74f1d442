"""What an encoder of columns is taught by rows without labels: hidden cells, and rows whose cells were exchanged. Heavy: torch."""

import torch
from torch.nn import functional

from graft.backbones.columns import MISSING, sizes_of
from graft.losses import Seen, Start
from graft.pretext.base import PRETEXTS, Pretext, features_of, tensors_of
from graft.pretext.contrastive import info_nce
from graft.pretext.projectors import mlp

Batch = dict[str, torch.Tensor]

HIDDEN_SHARE = 0.3  # Huang et al. 2020, section 3, masked language modelling; p_m of Yoon et al. 2020, section 5, is the same
CORRUPTED_SHARE = 0.6  # Bahri et al. 2022, section 4
TEMPERATURE = 1.0  # the same
_WIDTH = 256  # of the projection's two layers, the same


@PRETEXTS.add("Yoon et al. 2020 (VIME), equation 4; Huang et al. 2020, arXiv:2012.06678, section 3", name="masked_cells")
class MaskedCells(Pretext):
    """Three cells in ten are hidden and predicted from the rest: cross-entropy for categories, squared error for numbers.

    The mean is over hidden cells. Numbers are in standard deviations of their column. Differs: a hidden cell is read as a missing one, so
    that the encoder learns to do without a column, where VIME puts a value of another row; what was missing is not predicted; nor is
    the mask, as by VIME.
    """

    modalities = ("table",)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        columns, width = start.backbone.preprocessing, start.backbone.width
        self.sizes = sizes_of(columns)
        self.decode = mlp(start, (width, width, len(columns["numbers"]) + sum(self.sizes)), normalised=False)

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = tensors_of(seen)
        hidden = torch.rand(cells_of(batch), device=batch["numbers"].device) < HIDDEN_SHARE
        return cell_loss(self.decode(features_of(seen, hide(batch, hidden))), batch, hidden, self.sizes)


@PRETEXTS.add("Bahri et al. 2022, arXiv:2106.15147, algorithm 1", name="scarf")
class Scarf(Pretext):
    """A row is told from the others of its batch by a copy of which six cells in ten come from other rows.

    Differs: a cell comes from a row of the batch, where the paper draws from the training set; without the constant log n of its loss.
    """

    modalities = ("table",)
    batch_size = 128  # the paper, section 4

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.project = mlp(start, (start.backbone.width, _WIDTH, _WIDTH), normalised=False)

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = tensors_of(seen)
        other = corrupted(batch, CORRUPTED_SHARE)
        return info_nce(self.project(features_of(seen, batch)), self.project(features_of(seen, other)), TEMPERATURE)


def cells_of(batch: Batch) -> tuple[int, int]:
    """(n, columns), those of numbers first."""
    return len(batch["numbers"]), batch["numbers"].shape[1] + batch["codes"].shape[1]


def hide(batch: Batch, hidden: torch.Tensor) -> Batch:
    """The batch in which these cells (n, columns) of bool are missing."""
    p = batch["numbers"].shape[1]
    return {
        "numbers": batch["numbers"].masked_fill(hidden[:, :p], torch.nan),
        "codes": batch["codes"].masked_fill(hidden[:, p:], MISSING),
    }


def cell_loss(said: torch.Tensor, batch: Batch, hidden: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Mean over the cells that are hidden and were there of squared error (numbers) or cross-entropy in nats (categories).

    said: (n, p + sum of sizes): the p numbers, then logits of the codes of each column of categories. sizes: codes of each.
    """
    numbers, codes = batch["numbers"], batch["codes"]
    p = numbers.shape[1]
    wanted = hidden & torch.cat([~numbers.isnan(), codes != MISSING], 1)
    errors = [(said[:, :p] - numbers.nan_to_num()).square()]
    for column, logits in enumerate(said[:, p:].split(sizes, 1) if sizes else ()):
        errors.append(functional.cross_entropy(logits, codes[:, column], reduction="none").unsqueeze(1))
    return (torch.cat(errors, 1) * wanted).sum() / wanted.sum().clamp(min=1)


def corrupted(batch: Batch, share: float) -> Batch:
    """The batch with a share of the cells of each row, rounded down, from rows drawn for each cell at random from the batch."""
    n, columns = cells_of(batch)
    device, p = batch["numbers"].device, batch["numbers"].shape[1]
    swapped = torch.rand(n, columns, device=device).argsort(1) < int(share * columns)
    donors = torch.randint(n, (n, columns), device=device)
    return {
        "numbers": torch.where(swapped[:, :p], batch["numbers"].gather(0, donors[:, :p]), batch["numbers"]),
        "codes": torch.where(swapped[:, p:], batch["codes"].gather(0, donors[:, p:]), batch["codes"]),
    }
