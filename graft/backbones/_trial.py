"""Stages are tried before they are trusted: a member of a known family may be built otherwise than its siblings."""

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from graft.backbones.base import State


def tried(
    stages: Sequence[tuple[str, nn.Module]] | None, whole: nn.Module, batch: State, name: str
) -> tuple[list[tuple[str, nn.Module]], int]:
    """The stages, if run in order they give what the whole network gives; else the network as the only stage, with a warning.

    stages: None for an unknown family. whole: a module around the network, in evaluation mode.
    Returns the stages and the width d of their output.
    """
    with torch.inference_mode():
        expected = _output(whole(batch))
        if stages is not None:
            state = batch
            for _, stage in stages:
                state = stage.eval()(state)
            output = _output(state)
            same = output.shape == expected.shape and torch.allclose(output, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
            kept = {id(parameter) for _, stage in stages for parameter in stage.parameters()}
            if same and kept == {id(parameter) for parameter in whole.parameters()}:
                return list(stages), expected.shape[-1]
    warnings.warn(
        f"{name}: graft does not know how this network is built, so it is one layer group: strategies that treat lower and upper "
        "layers differently will treat it as a whole.",
        stacklevel=2,
    )
    return [("network", whole)], expected.shape[-1]


def _output(state: State) -> torch.Tensor:
    if isinstance(state, torch.Tensor):
        return state
    # What stands at padded positions is nobody's concern.
    return state["hidden"] * state["attention_mask"].unsqueeze(-1)
