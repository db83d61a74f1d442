"""`vectors:PATH`: the mean of word vectors from an .npz file, as GloVe's and word2vec's are. The simplest text backbone."""

import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones import _folders
from graft.backbones.base import Backbone, State
from graft.device import seeded
from graft.errors import GraftError

ARCHITECTURE = "vectors"
_VOCABULARY = "vocabulary.json"
# Letters and digits, and apostrophes inside a word.
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def load(name: str) -> Backbone:
    """NAME is the path of an .npz file with `words` (m,) of text and `vectors` (m, d) of numbers.

    A text becomes the mean of the vectors of its words, counted as often as they stand there; a text without a known word becomes zeros.
    A word is looked up as it is written, then in lower case, then in parts at its apostrophes; punctuation is left out.
    Raises GraftError where there is no such file, or it holds something else.
    """
    shown, path = f"vectors:{name}", Path(name).expanduser()
    if not path.is_file():
        raise GraftError(f"{shown}: there is no file {path}, expected an .npz with words and vectors.")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {key: file[key] for key in file.files} if isinstance(file, np.lib.npyio.NpzFile) else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GraftError(
            f"{shown}: cannot be read ({error}). Write it with np.savez(path, words=..., vectors=...), words as text."
        ) from error
    words, vectors = held.get("words"), held.get("vectors")
    if words is None or vectors is None:
        raise GraftError(
            f"{shown}: holds {', '.join(held) or 'one array'}, expected words and vectors: np.savez(path, words=..., vectors=...)."
        )
    if (
        words.dtype.kind != "U"
        or vectors.dtype.kind != "f"
        or words.ndim != 1
        or vectors.ndim != 2
        or len(words) != len(vectors)
        or not len(words)
    ):
        raise GraftError(
            f"{shown}: words are {words.dtype} of shape {words.shape}, vectors {vectors.dtype} of shape {vectors.shape}; expected m "
            "words of text and floats (m, d)."
        )
    if not np.isfinite(vectors).all():
        raise GraftError(
            f"{shown}: {int((~np.isfinite(vectors)).any(1).sum())} of {len(words)} vectors hold what is no number. Leave them out."
        )
    return _assemble(words.tolist(), torch.from_numpy(vectors.astype(np.float32)), shown)


def from_folder(folder: Path, tensors: _folders.Tensors, shown: str) -> Backbone:
    """What `Backbone.save` wrote: the weights, and the words in a file beside them."""
    words = _folders.read_json(folder / _VOCABULARY, list)
    stage = _MeanOfWords(torch.empty(len(words), next(iter(tensors.values())).shape[-1]))
    _folders.fit(stage, tensors, shown)
    return _assemble(words, stage.table.weight.detach(), shown)


def _assemble(words: list[str], vectors: torch.Tensor, name: str) -> Backbone:
    # Of a word that is listed twice the first, more frequent one counts.
    numbers = {word: number for number, word in reversed(list(enumerate(words)))}

    def fresh(seed: int) -> Backbone:
        with seeded(seed):
            return _assemble(words, torch.randn(vectors.shape), name)

    def write(backbone: Backbone, folder: Path) -> None:
        _folders.write_json(folder / _VOCABULARY, words)
        _folders.write(backbone, folder, {"stages.0.table.weight": "table.weight"}, {"architecture": ARCHITECTURE})

    return Backbone(
        name=name,
        modality="text",
        width=vectors.shape[1],
        stages=[("words", _MeanOfWords(vectors))],
        prepare=partial(_prepare, numbers),
        fresh=fresh,
        write=write,
        preprocessing={"words": hashlib.blake2b(json.dumps(words).encode(), digest_size=16).hexdigest()},
        card={},
    )


class _MeanOfWords(nn.Module):
    """Numbers of words (n, t) and their mask -> (n, d)."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(vectors.clone(), freeze=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = batch["attention_mask"].unsqueeze(-1).to(self.table.weight.dtype)
        # No known word at all: zeros, not a division by zero.
        return (self.table(batch["input_ids"]) * mask).sum(1) / mask.sum(1).clamp(min=1)


def _prepare(numbers: dict[str, int], items: Sequence[Any], rng: np.random.Generator | None) -> State:
    rows = [[numbers[word] for found in _WORD.findall(str(item)) for word in _known(found, numbers)] for item in items]
    longest = max(1, *map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def _known(word: str, numbers: dict[str, int]) -> list[str]:
    """The word as the vocabulary has it, else those of its parts that it has."""
    for written in (word, word.lower(), word.lower().replace("’", "'")):
        if written in numbers:
            return [written]
    return [part for part in re.split(r"['’]", word.lower()) if part in numbers]
