"""What every added loss is made from and what it sees of a batch; their registry. Heavy: torch."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graft.backbones.base import Backbone, State
from graft.records import Phase, Plan, Step, Task
from graft.registry import Registry

# name -> a subclass of Added
LOSSES = Registry("loss")

TaskLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Other:
    """A batch of k items of the other domain, without labels, as it has just run through the network beside the labelled one.

    states, features (k, d), logits (k, c): as those of `Seen`. places: (k,) of these items among `Start.others`.
    again_features, again_logits: of the same items in a second, stronger random view, for a loss that asks for it with `two_views`;
    None for the others.
    """

    states: Sequence[State]
    features: torch.Tensor
    logits: torch.Tensor
    places: torch.Tensor
    again_features: torch.Tensor | None = None
    again_logits: torch.Tensor | None = None


@dataclass(frozen=True)
class Seen:
    """A training batch of n items, as it has just run through the network.

    states: states[0] is what stage `boundary` took, states[i] what stage boundary + i - 1 gave, in the precision of training.
    features: (n, d) and logits: (n, c), float32, with gradients. target: (n,) or (n, c), as the task's loss takes it.
    keys: names of the items in these views, equal where the same view of an item comes again; None where each view is drawn once.
    bf16: whether the network computes in it. other: a batch of the other domain, where the run has one.
    progress: share of the phase's steps that are done, in [0, 1).
    run: (state, stop) -> what stages boundary .. stop - 1 (None: all) give of a state that stage `boundary` takes, in the precision of
    training, with gradients: for a loss that is `raw`.
    """

    boundary: int
    states: Sequence[State]
    features: torch.Tensor
    logits: torch.Tensor
    target: torch.Tensor
    keys: Sequence[Hashable] | None
    bf16: bool
    other: Other | None = None
    progress: float = 0.0
    run: "Callable[[State, int | None], State] | None" = None


# By stage, from the batch's boundary up: what it gave for these items before anything was trained, without gradients.
Source = Callable[[Seen], dict[int, State]]


@dataclass(frozen=True)
class Start:
    """What a run starts from, before its first step; each loss takes of it what it needs.

    backbone, head: training changes them in place, so a loss that needs them as they are makes a copy. items, target: of training.
    loss: the task's own, (logits, target) -> scalar. first: the first stage that learns in any phase, depth where none does.
    features: () -> (n, d), the starting backbone's features of the items in the view that is judged. source: (stages) -> a Source of
    what these stages, none below `first`, give at the start; it keeps what it computed where the same view comes again.
    progress: is told a Step. others: items of the other domain, without labels, empty where there are none. teachers: networks to learn
    from, in evaluation mode, on the backbone's device. other_features: () -> (m, d), as `features`, of the others.
    """

    backbone: Backbone
    head: nn.Module
    items: Sequence[Any]
    target: torch.Tensor
    task: Task
    loss: TaskLoss
    first: int
    seed: int
    features: Callable[[], torch.Tensor]
    source: Callable[[Sequence[int]], Source]
    progress: Callable[[Step], None]
    others: Sequence[Any] = ()
    teachers: Sequence[Backbone] = ()
    other_features: Callable[[], torch.Tensor] = lambda: torch.empty(0, 0)


class Added(nn.Module):
    """A loss beside the task's own, made once a run: `forward` gives a scalar for each batch, before its strength.

    Its parameters and buffers are kept and put back with the network's; what never changes in a run must be neither.
    needs_others: whether it can only be had where there are items of another domain. two_views: whether it wants those in a second view.
    as_judged: whether it wants those in the view that is judged, and no random one; all losses of its plan then get them so.
    alone: whether it can be had in a plan that is not `supervised`. There `Seen.features`, `logits` and `states` are those of `Seen.other`,
    and `Seen.target` is empty; `Start.items` and `target` are still of the first domain, and may be empty.
    raw: whether it takes the batch of others as it was prepared and runs the network itself on what it makes of it, with `Seen.run`. Then
    `Other.states` is that batch alone, and `Other.features` and `logits` are empty.
    prepares: whether it makes its batches itself, of `Start.others` at `Other.places`; `Other.states` is then one empty tensor.
    needs_teachers: whether it can only be had where there are networks to learn from.
    """

    needs_others = False
    two_views = False
    as_judged = False
    alone = False
    raw = False
    prepares = False
    needs_teachers = False

    def __init__(self, start: Start) -> None:
        super().__init__()

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        """Why this loss cannot be had here, what it expects, and what to do instead; "" where it can."""
        return ""

    def begin_epoch(self, look: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Is called before each epoch. look: () -> features (m, d) and logits (m, c) of all `Start.others` by now, as judged."""

    def rate(self, phase: Phase) -> float:
        """At what rate its parameters learn in a phase: the highest of the layer groups. See `as_the_head` for another."""
        return max(phase.lr)

    def forward(self, seen: Seen) -> torch.Tensor:
        raise NotImplementedError


def as_the_head(phase: Phase) -> float:
    """The rate of what starts from random weights: the head's, and where that is frozen ten times the highest of the layer groups.

    Source: thuml/Transfer-Learning-Library, where what is new learns ten times as fast as what is fine-tuned.
    """
    return phase.head_lr or 10 * max(phase.lr)


def other_of(seen: Seen) -> Other:
    """The batch of the other domain, which the loop gives every loss that `needs_others`."""
    assert seen.other is not None, "a loss that needs others was given a batch without one"
    return seen.other


def only_classes(name: str, task: Task, instead: str = "delta, bss or l2_sp") -> str:
    """The refusal of a loss that needs one class an item. instead: what serves other tasks."""
    if task == "classification":
        return ""
    return f"{name} with the task {task}, expected classification: it contrasts or relates classes, one an item. Use {instead}."


def only_moving(name: str, plan: Plan) -> str:
    """The refusal of a loss that pulls on features alone, in a plan in which they stay as they are."""
    if any(any(phase.lr) for phase in plan.phases):
        return ""
    return f"{name} in a plan in which no layer group learns, expected one: it moves features alone. Use mcc, bnm or jan."


def spread(features: torch.Tensor) -> float:
    """One standard deviation for all of (n, d): the root of the features' mean variance; 1 where nothing varies."""
    return float(features.var(0, correction=0).mean().sqrt()) or 1.0


def certainty(shares: torch.Tensor) -> torch.Tensor:
    """1 + e^-entropy of each row of probabilities (k, c), scaled to a mean of 1, without gradient: (k,)."""
    weight = 1 + torch.exp(-torch.special.entr(shares.detach()).sum(1))
    return weight / weight.mean()
