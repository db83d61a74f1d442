"""An image network that was cut into stages -> Backbone. Serves every source of image networks. Heavy: torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graft.backbones import _folders, _images
from graft.backbones._trial import tried
from graft.backbones.base import Backbone
from graft.device import seeded


def as_backbone(
    stages: Sequence[tuple[str, nn.Module]] | None,
    whole: nn.Module,
    name: str,
    preprocessing: dict[str, Any],
    card: dict[str, str],
    *,
    untrained: Callable[[], Backbone],
    write: Callable[[Backbone, Path, dict[str, str]], None],
    resized: Callable[[int], Backbone],
    classifier: Callable[[], nn.Module | None] = lambda: None,
) -> Backbone:
    """The stages where they give what the whole gives, else one stage, with a warning (see `tried`).

    whole: a module around the network, its `network`, in evaluation mode. preprocessing: as `_images.preprocessing_of` gives it.
    untrained: the same backbone with weights drawn from torch's global generator. write: (backbone, folder, names) -> None, where
    names are what the network calls the tensors of the backbone. resized, classifier: see Backbone.
    """
    whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.rand(1, 1 if preprocessing.get("grey") else 3, *preprocessing["size_px"], generator=torch.Generator().manual_seed(0))
    kept, width = tried(stages, whole, image, name)
    names = _folders.own_names(whole.network, kept)  # type: ignore[arg-type]

    def fresh(seed: int) -> Backbone:
        with seeded(seed):
            return untrained()

    return Backbone(
        name=name,
        modality="image",
        width=width,
        stages=kept,
        prepare=_images.preparer(preprocessing),
        fresh=fresh,
        write=lambda backbone, folder: write(backbone, folder, names),
        preprocessing=preprocessing,
        card=card,
        classifier=classifier,
        resized=resized,
    )
