"""`tiny:image` and `tiny:text`: random networks of a few thousand parameters, for tests and for trying things out."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from graft.backbones.base import Backbone, State, Vocabulary
from graft.device import seeded
from graft.errors import GraftError, near_miss
from graft.items import open_image

_SIZE_PX = 32
_VOCABULARY = 512


def load(name: str, size_px: int = _SIZE_PX) -> Backbone:
    """`image` or `text`, with `-SEED` behind it for other random weights, e.g. "image-1". size_px: of the images."""
    kind, _, seed = name.partition("-")
    if kind not in _BUILDERS or not (seed or "0").isdigit():
        raise GraftError(f"tiny:{name}: expected tiny:image or tiny:text, or with a seed, e.g. tiny:image-1.{near_miss(kind, _BUILDERS)}")
    return _build(kind, int(seed or 0), size_px)


def _build(kind: str, seed: int, size_px: int) -> Backbone:
    with seeded(seed):
        stages = _BUILDERS[kind]()
    return Backbone(
        name=f"tiny:{kind}-{seed}" if seed else f"tiny:{kind}",
        modality=kind,
        width=32,
        stages=stages,
        prepare=partial(_prepare_images, size_px) if kind == "image" else _prepare_texts,
        fresh=lambda seed: _build(kind, seed, size_px),
        write=_write,
        preprocessing={"size_px": size_px} if kind == "image" else {"vocabulary": _VOCABULARY},
        card={"licence": "Apache-2.0", "pretrained_on": "nothing: random weights"},
        classifier=lambda: _classifier(seed) if kind == "image" else None,
        resized=(lambda size_px: _build(kind, seed, size_px)) if kind == "image" else None,
        # No word has the number 0: it is padding, the empty text and what hides a word.
        vocabulary=Vocabulary(_VOCABULARY, (0,), 0, stages[0][1].table) if kind == "text" else None,
    )


def _classifier(seed: int) -> nn.Module:
    """Of ten classes of nothing, random as all else here."""
    with seeded(seed):
        return nn.Linear(32, 10)


class _Convolution(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU())


class _Pool(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3))


class _Embed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(_VOCABULARY, 32)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"hidden": self.table(batch["input_ids"]), "attention_mask": batch["attention_mask"]}


class _Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**state, "hidden": state["hidden"] + torch.tanh(self.linear(state["hidden"]))}


class _PoolTokens(nn.Module):
    def forward(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = state["attention_mask"].unsqueeze(-1).to(state["hidden"].dtype)
        return (state["hidden"] * mask).sum(1) / mask.sum(1)


_BUILDERS: dict[str, Any] = {
    "image": lambda: [("stem", _Convolution(3, 16)), ("layer1", _Convolution(16, 32)), ("layer2", _Convolution(32, 32)), ("pool", _Pool())],
    "text": lambda: [("embed", _Embed()), ("layer1", _Mix()), ("layer2", _Mix()), ("pool", _PoolTokens())],
}


def _prepare_images(size_px: int, items: Any, rng: np.random.Generator | None) -> State:
    arrays = [np.asarray(open_image(item, size_px).resize((size_px, size_px)), np.float32) / 127.5 - 1.0 for item in items]
    if rng is not None:
        arrays = [array[:, ::-1] if rng.random() < 0.5 else array for array in arrays]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _prepare_texts(items: Any, rng: np.random.Generator | None) -> State:
    rows = [[1 + _word_number(word) for word in str(item).lower().split()] or [0] for item in items]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def _word_number(word: str) -> int:
    # hash() differs from process to process; a digest does not.
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) % (_VOCABULARY - 1)


def _write(backbone: Backbone, folder: Path) -> None:
    size = {"size_px": backbone.preprocessing["size_px"]} if backbone.modality == "image" else {}
    (folder / "config.json").write_text(json.dumps({"architecture": f"tiny:{backbone.modality}", **size}, indent=1))
    save_file(backbone.state_dict(), folder / "model.safetensors")
