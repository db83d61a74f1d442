"""What every backbone is: stages that run in order, and how items become a batch. Heavy: torch."""

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.errors import GraftError
from graft.files import replacing

# A batch and every state between stages: a tensor or a dict of tensors, items along the first axis of each.
State = torch.Tensor | dict[str, torch.Tensor]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of which a text network reads, each a number.

    size: numbers run from 0 to size - 1. special: those that stand for no part of a text (padding, begin, end and the like). mask: the one
    of them that stands for a hidden token; None where the network has none. table: their vectors, at least `size` rows, of the first stage.
    """

    size: int
    special: tuple[int, ...]
    mask: int | None
    table: nn.Embedding


class Backbone(nn.Module):
    """A pretrained network without its head, as a list of stages.

    name: as the user wrote it, e.g. "timm:resnet18". modality: "image", "text", "table", "signal" or "row".
    width: d, length of a feature vector.
    stages: each maps a State to a State; the last gives the pooled features (n, d). A layer group is the parameters of
    one stage, and every parameter is in exactly one.
    stage_names: one word each, e.g. "stem", "layer1", "pool".
    prepare: (items, rng) -> batch. rng None: the view that is judged; a numpy Generator: a random training view, where
    the modality has one.
    fresh: (seed) -> an untrained backbone of the same architecture, for the from-scratch control.
    write: (backbone, folder) -> None. Writes config, preprocessing and weights so that `checkpoint:FOLDER` loads it again.
    preprocessing: everything that decides what `prepare` gives (size, mean, tokenizer, ...), as plain values.
    card: "licence", "pretrained_on", "published" where known, as text.
    classifier: () -> the layer that the network was pretrained with behind these features, (n, d) -> logits (n, source classes), a new
    copy each time; None where the weights came without it. It is no part of the backbone: not trained, saved or reset with it.
    resized: (size_px) -> the same network for square images of that side, with any weights; None where items are no images.
    shortened: (layers) -> the same network with its first transformer layers only, with any weights; None where it has none.
    vocabulary: where it reads tokens and pools them in its last stage, so that the state before is a dict of "hidden" (n, t, d) and
    "attention_mask" (n, t), and a batch one of "input_ids" and "attention_mask", both (n, t); None for all others.

    It is pickled as what `save` writes, and its classifier; it comes back in evaluation mode, on the device chosen where it is read.
    """

    def __init__(
        self,
        name: str,
        modality: str,
        width: int,
        stages: Sequence[tuple[str, nn.Module]],
        prepare: Callable[[Sequence[Any], np.random.Generator | None], State],
        fresh: Callable[[int], "Backbone"],
        write: Callable[["Backbone", Path], None],
        preprocessing: dict[str, Any],
        card: dict[str, str],
        classifier: Callable[[], nn.Module | None] = lambda: None,
        resized: "Callable[[int], Backbone] | None" = None,
        shortened: "Callable[[int], Backbone] | None" = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__()
        self.name, self.modality, self.width = name, modality, width
        self.stage_names = tuple(stage_name for stage_name, _ in stages)
        self.stages = nn.ModuleList(stage for _, stage in stages)
        self._prepare, self._fresh, self._write = prepare, fresh, write
        self.preprocessing, self.card, self.classifier = preprocessing, card, classifier
        self._resized, self._shortened = resized, shortened
        self.vocabulary = vocabulary
        self.eval()

    @property
    def depth(self) -> int:
        """Number of layer groups, one for each stage (a stage may have no parameters)."""
        return len(self.stages)

    @property
    def device(self) -> torch.device:
        """The one that holds its weights."""
        return next((tensor.device for tensor in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    def prepare(self, items: Sequence[Any], rng: np.random.Generator | None = None) -> State:
        """n items -> the batch that the first stage takes. rng: draws a training view; None: the view that is judged."""
        return self._prepare(items, rng)

    def forward(self, state: State, start: int = 0, stop: int | None = None) -> State:
        """Run stages start..stop-1 on the output of stage start-1; all of them on a batch gives features (n, d)."""
        for stage in self.stages[start:stop]:
            state = stage(state)
        return state

    def groups(self) -> list[list[nn.Parameter]]:
        """The parameters of each stage, input side first."""
        return [list(stage.parameters()) for stage in self.stages]

    def set_trainable(self, trainable: Sequence[bool]) -> None:
        """Per stage: True learns and is in training mode, False is frozen and in evaluation mode."""
        assert len(trainable) == self.depth
        for stage, learns in zip(self.stages, trainable, strict=True):
            stage.train(learns)
            stage.requires_grad_(learns)

    def reset(self, seed: int = 0) -> None:
        """Replace the weights by fresh random ones, as its family initialises them."""
        self.load_state_dict(self._fresh(seed).state_dict())

    def at_size(self, size_px: int) -> "Backbone":
        """A copy with the same weights that takes square images of size_px a side.

        Raises GraftError where the items are no images, and for a size that the network cannot take.
        """
        shown = f"{self.name}@{size_px}px"
        if self._resized is None:
            raise GraftError(f"{shown}: {self.name} reads {self.modality}s, which have no size in pixels. Leave @{size_px}px out.")
        try:
            other = self._resized(size_px)
            other._adopt(self)
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, GraftError):
                raise
            own = " x ".join(map(str, np.unique(self.preprocessing["size_px"])))
            raise GraftError(
                f"{shown}: the network cannot take images of {size_px} px ({str(error).partition(chr(10))[0]}). "
                f"It was made for {own} px; name a size nearer to it, or none."
            ) from error
        other.name, other.classifier = shown, self.classifier
        return other

    def first_layers(self, layers: int) -> "Backbone":
        """A copy of a text encoder that ends after its first transformer layers, whose tokens are averaged.

        Raises GraftError where it has no such layers, or not so many.
        """
        shown, own = f"{self.name}@{layers}layers", sum(name.startswith("layer") for name in self.stage_names)
        if self._shortened is None or not own:
            raise GraftError(f"{shown}: graft knows no transformer layers of a text encoder in it. Leave @{layers}layers out.")
        if not 1 <= layers <= own:
            raise GraftError(f"{shown}: it has {own} layers, expected 1 to {own} of them.")
        other = self._shortened(layers)
        other._adopt(self)
        other.name = shown
        return other

    def _adopt(self, other: "Backbone") -> None:
        """Take the weights of the other's stages of the same names, and its device."""
        self.to(other.device)
        theirs = dict(zip(other.stage_names, other.stages, strict=True))
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            if stage.state_dict():
                stage.load_state_dict(theirs[name].state_dict())

    def save(self, folder: str | Path) -> None:
        """Write a folder that `checkpoint:FOLDER` loads to the same features and the same card, which config.json holds as "card"."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._write(self, folder)
        config = folder / "config.json"
        held = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
        with replacing(config) as file:
            json.dump({**held, "card": self.card}, file, indent=1)

    def fingerprint(self) -> str:
        """32 hex digits over weights and preprocessing: equal digits, equal features."""
        digest = hashlib.blake2b(json.dumps(self.preprocessing, sort_keys=True).encode(), digest_size=16)
        for key, tensor in self.state_dict().items():
            digest.update(f"{key}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Callable[..., "Backbone"], tuple[Any, ...]]:
        # What prepares, resets and writes may be closures over a library's objects, which cannot be pickled.
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            files = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        return _from_files, (files, self.name, self.card, self.classifier())

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        # `copy` would otherwise go through the files of `__reduce__`.
        memo[id(self)] = twin = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


def _from_files(files: dict[str, bytes], name: str, card: dict[str, str], classifier: nn.Module | None) -> Backbone:
    """The backbone that `save` wrote as these files, relative path -> content."""
    from graft.backbones import load_backbone

    with tempfile.TemporaryDirectory() as folder:
        for relative, content in files.items():
            path = Path(folder, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        backbone = load_backbone(f"checkpoint:{folder}")
    backbone.name, backbone.card = name, card
    backbone.classifier = lambda: copy.deepcopy(classifier)
    return backbone


def channels_last(maps: torch.Tensor) -> bool:
    """Whether maps are (n, h, w, c), as Swin's, and not (n, c, h, w); images here are square."""
    return maps.shape[1] == maps.shape[2] != maps.shape[3]
