"""What every pretext is made from; their registry. Heavy: torch."""

import copy
from collections.abc import Iterator

import torch
from torch import nn

from graft.backbones.base import Backbone, State
from graft.losses import Added, Seen
from graft.losses.base import other_of
from graft.records import Phase, Plan, Task
from graft.registry import Registry

# name -> a subclass of Pretext
PRETEXTS = Registry("pretext")


class Pretext(Added):
    """A task that needs no label: `forward` makes of a prepared batch what the network shall read, runs it, and gives a scalar.

    modalities: of the backbones that it can teach. highest_rate: of AdamW, for random weights; pretrained ones learn at a tenth of
    it. batch_size: of its source, or what two processor cores can do. Random numbers come from torch's global generator, which the loop
    seeds for each epoch, so that an epoch can be repeated.
    """

    needs_others = True
    alone = True
    raw = True
    modalities: tuple[str, ...] = ()
    highest_rate: float = 1e-3
    batch_size: int = 256

    @classmethod
    def refusal(cls, backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        """As of every loss. A subclass that wants more adds to it."""
        names = ", ".join(name for name, _ in plan.losses)
        if backbone.modality not in cls.modalities:
            return f"losses ({names}) with {backbone.name}, which reads {backbone.modality}s, expected {' or '.join(cls.modalities)}s."
        if not all(phase.lr[0] for phase in plan.phases):
            return f"losses ({names}) in a plan that freezes the first layer group, expected all to learn: they change what it reads."
        return ""

    def rate(self, phase: Phase) -> float:
        """What is new learns as fast as the network does: both are far from what they will be."""
        return max(phase.lr)


def batch_of(seen: Seen) -> State:
    """The prepared batch, as the first stage takes it."""
    return other_of(seen).states[0]


def tensors_of(seen: Seen) -> dict[str, torch.Tensor]:
    """The prepared batch of items that are read as several tensors: tokens, cells, signals."""
    batch = batch_of(seen)
    assert isinstance(batch, dict), "such a batch is a dict"
    return batch


def run(seen: Seen, state: State, stop: int | None = None) -> State:
    """What the network gives of a batch that the pretext made: its features (n, d) in float32, or the state before stage `stop`."""
    assert seen.run is not None, "the loop gives a raw loss what runs the network"
    given = seen.run(state, stop)
    return given.float() if isinstance(given, torch.Tensor) and stop is None else given


def features_of(seen: Seen, state: State) -> torch.Tensor:
    """(n, d) float32 features of a batch that the pretext made, with gradients."""
    features = run(seen, state)
    assert isinstance(features, torch.Tensor), "the last stage pools"
    return features


class Follower(nn.Module):
    """A copy of the network and of what stands behind it that learns nothing itself: its weights follow by an exponential moving average.

    Its numbers are buffers, so that they are kept with the run and no optimiser moves them.
    Source: Tarvainen & Valpola 2017, arXiv:1703.01780, equation 4; the statistics of batch normalisation are copied as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # In a tuple: as a submodule its parameters would learn.
        self._twin = (copy.deepcopy(network).requires_grad_(False),)
        for number, tensor in enumerate(self._tensors()):
            self.register_buffer(f"tensor{number}", tensor)

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self.twin.state_dict(keep_vars=True).values()

    @property
    def twin(self) -> nn.Module:
        return self._twin[0]

    @torch.no_grad()
    def follow(self, network: nn.Module, decay: float) -> None:
        """Each number becomes decay x itself + (1 - decay) x the network's."""
        learned = {id(parameter) for parameter in self.twin.parameters()}
        for mine, theirs in zip(self._tensors(), network.state_dict(keep_vars=True).values(), strict=True):
            if id(mine) in learned:
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)

    @torch.no_grad()
    def __call__(self, seen: Seen, state: State) -> torch.Tensor:
        """(n, ...) float32 of what the twin gives of a batch, without gradients, in the precision of training."""
        device = next(iter(self._tensors())).device
        with torch.autocast(device.type, torch.bfloat16, enabled=seen.bf16):
            given = self.twin(state)
        return given.float()
