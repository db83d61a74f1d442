"""What the loop hands the losses that a plan adds: the batch as it ran, and the network as it was. Heavy: torch."""

import copy
import math
from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from graft.backbones.base import Backbone, State
from graft.features import Progress, Shelf, States, device_of, extract, to_device
from graft.losses import LOSSES, Added, Seen, Start
from graft.pretext import PRETEXTS
from graft.records import Phase, Plan, Task
from graft.train.tasks import Loss


def loss_of(name: str) -> type[Added]:
    """The loss that a plan names, a pretext among them. Raises GraftError for an unknown name."""
    return PRETEXTS[name] if name in PRETEXTS else LOSSES[name]


def asks_for_others(plan: Plan) -> bool:
    """Whether a plan learns from items beside those that are labelled."""
    return not plan.supervised or any(loss_of(name).needs_others for name, _ in plan.losses)


class AddedLosses(nn.Module):
    """The losses of a plan with their strengths: together one number for a batch."""

    def __init__(self, losses: Sequence[tuple[float, Added]]) -> None:
        super().__init__()
        self.strengths = [strength for strength, _ in losses]
        self.members = tuple(loss for _, loss in losses)
        self.losses = nn.ModuleList(self.members)

    def rated(self, phase: Phase) -> list[tuple[list[nn.Parameter], float, bool]]:
        """What each loss has of its own, the rate that it learns at, and that it decays."""
        return [(list(loss.parameters()), loss.rate(phase), True) for loss in self.members]

    def begin_epoch(self, look: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Tell each loss that an epoch begins. look: as `Added.begin_epoch` has it; computed once, if it is asked for."""
        look = cache(look)
        for loss in self.losses:
            assert isinstance(loss, Added)
            loss.begin_epoch(look)

    def forward(self, seen: Seen, task_loss: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
        """The task's loss and all that is added to it, times a weight."""
        # A loss that is no number comes of features that are none, which a singular value decomposition would refuse.
        if not self.strengths or not math.isfinite(task_loss.item()):
            return task_loss
        if seen.other is not None and not seen.other.logits.isfinite().all():
            return task_loss * math.nan
        return task_loss + weight * sum(strength * loss(seen) for strength, loss in zip(self.strengths, self.losses, strict=True))


def made(
    plan: Plan,
    backbone: Backbone,
    head: nn.Module,
    items: Sequence[Any],
    target: torch.Tensor,
    task: Task,
    loss: Loss,
    seed: int,
    keeper: States,
    opened: list[Shelf],
    progress: Progress | None,
    others: Sequence[Any] = (),
    teachers: Sequence[Backbone] = (),
) -> AddedLosses:
    """The plan's losses, before the first step of a run. opened: is given the shelves that were opened for them."""
    if not plan.losses:
        return AddedLosses([])
    learning = [group for phase in plan.phases for group, rate in enumerate(phase.lr) if rate]
    first, device = min(learning, default=backbone.depth), device_of(backbone)
    target = target.to(device)

    def features(of: Sequence[Any] = items) -> torch.Tensor:
        return torch.from_numpy(np.array(extract(backbone, of, progress=progress))).to(device)

    def source(stages: Sequence[int]) -> "_Source":
        return _Source(backbone, first, stages, keeper, opened)

    told = progress or (lambda step: None)
    start = Start(
        backbone, head, items, target, task, loss, first, seed, features, source, told, others, teachers, partial(features, others)
    )
    return AddedLosses([(strength, loss_of(name)(start)) for name, strength in plan.losses])


class _Source:
    """What some stages gave before training, from a copy of the network; kept where the same view of an item comes again.

    first: the first stage that ever learns, so that what it takes is what it always took. stages: asked for, none below.
    """

    def __init__(self, backbone: Backbone, first: int, stages: Sequence[int], keeper: States, opened: list[Shelf]) -> None:
        self.first = first
        self.stages = copy.deepcopy(backbone.stages[first : max(stages) + 1]).eval().requires_grad_(False)
        self.shelves: dict[bool, dict[int, Shelf | None]] = {}
        # Opened now, as a shelf is known by the weights that the backbone has when it is opened.
        for bf16, dtype in ((False, torch.float32), (True, torch.bfloat16)):
            self.shelves[bf16] = {stage: keeper.open(backbone, stage + 1, dtype) if keeper.limit_bytes else None for stage in stages}
            opened += [shelf for shelf in self.shelves[bf16].values() if shelf]

    @torch.no_grad()
    def __call__(self, seen: Seen) -> dict[int, State]:
        device = seen.features.device
        shelves = {stage: shelf for stage, shelf in self.shelves[seen.bf16].items() if stage >= seen.boundary}
        if seen.keys is not None and all(shelf and key in shelf for shelf in shelves.values() for key in seen.keys):
            return {stage: to_device(shelf.take(seen.keys), device) for stage, shelf in shelves.items() if shelf}
        state, given = seen.states[0], {}
        with torch.autocast(device.type, torch.bfloat16, enabled=seen.bf16):
            # Stages from `first` to the boundary have not learnt yet: what they give is what they gave.
            for stage, module in enumerate(self.stages[seen.boundary - self.first :], seen.boundary):
                state = module(state)
                if stage in shelves:
                    given[stage] = state
        for stage, shelf in shelves.items():
            if shelf and seen.keys is not None:
                _keep(shelf, seen.keys, given[stage])
        return given


def _keep(shelf: Shelf, keys: Sequence[Hashable], state: State) -> None:
    """Put what is not there yet on the shelf, where there is room."""
    missing = {key: place for place, key in enumerate(keys) if key not in shelf}
    if missing and not shelf.full:
        places = list(missing.values())
        some = {name: tensor[places] for name, tensor in state.items()} if isinstance(state, dict) else state[places]
        shelf.add(list(missing), some)
