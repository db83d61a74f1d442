"""`columns:KIND`: the columns of a table, numbers and categories, as a small network that another table can start from."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from graft.backbones import _folders
from graft.backbones.base import Backbone
from graft.device import seeded
from graft.errors import GraftError, near_miss
from graft.items import Row

KINDS = ("mlp", "transformer")
# Codes of a category column; its own categories follow.
MISSING, UNKNOWN, KNOWN = 0, 1, 2
_MOST_CATEGORIES = 1000
_BINS = 12
_DROPOUT = 0.1
# kind -> (numbers of a column's token, of the features, blocks). Gorishniy et al. 2021, arXiv:2106.11959, search around such sizes.
_SIZES = {"mlp": (16, 256, 2), "transformer": (64, 64, 3)}
_HEADS = 8


class Typed(Protocol):
    """What `fresh` reads of a `graft.data.Dataset`: each column has `kind`, `values` and, where it holds categories, those."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> Mapping[str, Any]: ...


def load(name: str) -> Backbone:
    """Always raises GraftError: an encoder is made of a table's own columns, and a name alone has none."""
    hint = "" if name in KINDS else f" There is {' and '.join(f'columns:{kind}' for kind in KINDS)}.{near_miss(name, KINDS)}"
    raise GraftError(
        f"columns:{name}: a name without a table, expected an encoder that was made of one.{hint} "
        "Make it with graft pretrain TABLE --out FOLDER, and name checkpoint:FOLDER."
    )


def fresh(dataset: Typed, kind: str = "mlp", seed: int = 0) -> Backbone:
    """An untrained encoder of a data set's columns of numbers and categories.

    kind: "mlp" puts the columns' tokens side by side, residual layers above; "transformer" lets them attend to each other.
    Of each column of numbers it keeps mean, standard deviation and at most 12 bins, of each column of categories the 1000 most frequent
    that occur twice or more; others are "unknown", which is so learned. A missing cell is a learned token of its column.
    Raises GraftError for another kind, and where no column holds numbers or categories.
    Source: Gorishniy et al. 2021, arXiv:2106.11959 (both networks), and 2022, arXiv:2203.05556, section 3.2 (numbers as how far they
    reach into each bin). Differs: half of the bins' edges are quantiles of the distinct values, or a column that is mostly zero had none;
    numbers beyond the outermost edge count as that edge; the transformer's tokens are averaged.
    """
    if kind not in KINDS:
        raise GraftError(f"columns: kind is {kind!r}, expected {' or '.join(map(repr, KINDS))}.{near_miss(kind, KINDS)}")
    numbers = {name: _statistics(column.values) for name, column in dataset.columns.items() if column.kind == "number"}
    words = {name: column.values for name, column in dataset.columns.items() if column.kind == "category"}
    categories = {
        name: [word for word, times in Counter(word for word in values if word is not None).most_common(_MOST_CATEGORIES) if times > 1]
        for name, values in words.items()
    }
    if not numbers and not categories:
        kinds = ", ".join(sorted({column.kind for column in dataset.columns.values()})) or "nothing"
        raise GraftError(f"columns: {dataset.name} holds columns of {kinds}, expected at least one of numbers or categories.")
    return _build({"numbers": numbers, "categories": {name: sorted(known) for name, known in categories.items()}}, kind, seed)


def from_folder(config: Mapping[str, Any], tensors: _folders.Tensors, shown: str) -> Backbone:
    """What `Backbone.save` wrote: config.json names the architecture, e.g. "columns:mlp", and the columns."""
    kind = str(config["architecture"]).removeprefix("columns:")
    if kind not in KINDS or not isinstance(config.get("numbers"), dict) or not isinstance(config.get("categories"), dict):
        raise GraftError(
            f"{shown}: config.json has the architecture {config['architecture']!r} and the keys {', '.join(config)}, "
            f"expected {' or '.join(f'columns:{kind}' for kind in KINDS)} with numbers and categories. Write it with Backbone.save."
        )
    backbone = _build({"numbers": config["numbers"], "categories": config["categories"]}, kind, 0)
    _folders.fit(backbone, tensors, shown)
    backbone.name, backbone.card = shown, {}
    return backbone


def _build(columns: dict[str, Any], kind: str, seed: int) -> Backbone:
    numbers, categories = columns["numbers"], columns["categories"]
    size, width, blocks = _SIZES[kind]
    with seeded(seed):
        stages: list[tuple[str, nn.Module]] = [("embed", Embed([about["edges"] for about in numbers.values()], sizes_of(columns), size))]
        if kind == "mlp":
            stages += [("join", _Join((len(numbers) + len(categories)) * size, width))]
            stages += [(f"block{number}", _Block(width)) for number in range(1, blocks + 1)]
            stages += [("pool", nn.LayerNorm(width))]
        else:
            stages += [
                (f"block{number}", nn.TransformerEncoderLayer(size, _HEADS, 2 * size, _DROPOUT, "gelu", batch_first=True, norm_first=True))
                for number in range(1, blocks + 1)
            ]
            stages += [("pool", _Mean(size))]
    return Backbone(
        name=f"columns:{kind}",
        modality="table",
        width=width,
        stages=stages,
        prepare=partial(_prepare, columns, set()),
        fresh=lambda seed: _build(columns, kind, seed),
        write=partial(_write, {"architecture": f"columns:{kind}", **columns}),
        preprocessing=columns,
        card={"licence": "Apache-2.0", "pretrained_on": "nothing: random weights"},
    )


def _write(config: dict[str, Any], backbone: Backbone, folder: Path) -> None:
    _folders.write(backbone, folder, {name: name for name in backbone.state_dict()}, config)


def sizes_of(columns: Mapping[str, Any]) -> list[int]:
    """How many codes each column of categories has: "missing", "unknown" and those it knows. columns: an encoder's `preprocessing`."""
    return [KNOWN + len(known) for known in columns["categories"].values()]


def _statistics(values: Any) -> dict[str, Any]:
    """Mean, standard deviation (1 where nothing varies) and, in units of it from the mean, edges of bins of a column of numbers."""
    there = np.asarray(values[:], np.float64)
    there = there[np.isfinite(there)]
    if not len(there):
        return {"mean": 0.0, "std": 1.0, "edges": []}
    mean, std = float(there.mean()), float(there.std()) or 1.0
    shares = np.linspace(0, 1, _BINS // 2 + 1)
    edges = np.unique(np.concatenate([np.quantile(there, shares), np.quantile(np.unique(there), shares)]))
    return {"mean": mean, "std": std, "edges": ((edges - mean) / std).tolist()}


def _prepare(columns: dict[str, Any], told: set[tuple[str, ...]], items: Sequence[Any], rng: np.random.Generator | None) -> Any:
    """{"numbers": (n, p) float32, standardised, NaN where missing; "codes": (n, q) int64}. told: what was already warned of."""
    wrong = next((item for item in items if not isinstance(item, Row)), None)
    if wrong is not None:
        raise GraftError(f"columns: was given a {type(wrong).__name__}, expected rows of a table: `items` of what graft.load gives.")
    rows = [item.cells for item in items]
    given, known = {name for cells in rows for name in cells}, {*columns["numbers"], *columns["categories"]}
    if not given & known:
        raise GraftError(
            f"columns: the table has the columns {', '.join(sorted(given)) or '(none)'}, expected some of those that the encoder knows: "
            f"{', '.join(sorted(known))}. Rename the columns that mean the same."
        )
    _tell(sorted(given - known), sorted(known - given), told)
    numbers = [[_number(cells.get(name), name) for name in columns["numbers"]] for cells in rows]
    mean = np.array([about["mean"] for about in columns["numbers"].values()])
    std = np.array([about["std"] for about in columns["numbers"].values()])
    places = [{word: code for code, word in enumerate(words, KNOWN)} for words in columns["categories"].values()]
    codes = [[_code(cells.get(name), place) for name, place in zip(columns["categories"], places, strict=True)] for cells in rows]
    standardised = (np.array(numbers, np.float64).reshape(len(rows), len(mean)) - mean) / std
    return {
        "numbers": torch.from_numpy(standardised.astype(np.float32)),
        "codes": torch.from_numpy(np.array(codes, np.int64).reshape(len(rows), len(places))),
    }


def _tell(strange: list[str], absent: list[str], told: set[tuple[str, ...]]) -> None:
    """Warn once of columns that only one side has."""
    key = (*strange, "", *absent)
    if key in told or not (strange or absent):
        return
    told.add(key)
    parts = [f"left out: {', '.join(strange)}, which it was not made with"] if strange else []
    parts += [f"read as missing: {', '.join(absent)}, which this table lacks"] if absent else []
    warnings.warn(f"encoder of columns: {'; '.join(parts)}.", stacklevel=4)


def _number(value: Any, name: str) -> float:
    try:
        return np.nan if value is None else float(value)
    except ValueError as error:
        raise GraftError(f"columns: {name} holds {value!r}, expected numbers, as the encoder was made with. Rename the column.") from error


def _code(value: Any, place: Mapping[str, int]) -> int:
    return MISSING if value is None else place.get(f"{value:g}" if isinstance(value, float) else value, UNKNOWN)


class Embed(nn.Module):
    """Numbers (n, p) and codes (n, q) -> tokens (n, p + q, d), one a column."""

    low: torch.Tensor
    span: torch.Tensor
    first: torch.Tensor

    def __init__(self, edges: Sequence[Sequence[float]], sizes: Sequence[int], size: int) -> None:
        super().__init__()
        bins = max([1, *(len(one) - 1 for one in edges)])
        # No number reaches into a bin that a column does not have.
        low, span = torch.full((len(edges), bins), torch.inf), torch.ones(len(edges), bins)
        for row, one in enumerate(edges):
            if len(one) > 1:
                low[row, : len(one) - 1] = torch.tensor(one[:-1])
                span[row, : len(one) - 1] = torch.tensor(one).diff()
        starts = np.cumsum([0, *sizes])
        for name, buffer in (("low", low), ("span", span), ("first", torch.from_numpy(starts[:-1].astype(np.int64)))):
            # They are told by the columns, which are saved beside the weights.
            self.register_buffer(name, buffer, persistent=False)
        self.slopes = nn.Parameter(torch.randn(len(edges), bins, size) / bins**0.5)
        self.base, self.missing = nn.Parameter(torch.randn(len(edges), size)), nn.Parameter(torch.randn(len(edges), size))
        self.table = nn.Embedding(int(starts[-1]), size)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        numbers = batch["numbers"].unsqueeze(-1)
        reach = ((numbers.nan_to_num() - self.low) / self.span).clamp(0, 1)
        tokens = torch.einsum("npk,pkd->npd", reach, self.slopes) + self.base
        tokens = torch.where(numbers.isnan(), self.missing, tokens)
        return torch.cat([tokens, self.table(batch["codes"] + self.first)], 1)


class _Join(nn.Sequential):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(nn.Flatten(1), nn.Linear(width_in, width))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Dropout(_DROPOUT), nn.Linear(width, width), nn.Dropout(_DROPOUT)
        )

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return state + self.layers(state)


class _Mean(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(tokens).mean(1)
