"""DELTA: what stages give may not stray far from what they gave, least so in channels that matter. Heavy: torch."""

import torch
from torch import nn

from graft.backbones.base import Backbone, State, channels_last
from graft.losses.base import LOSSES, Added, Seen, Start
from graft.records import Plan, Step, Task

_ITEMS = 32  # that channels are weighed on
_MAP_STAGES, _TOKEN_STAGES = 4, 2
_SHARPNESS = 5.0  # by which standardised rises are divided before the softmax, as in the authors' code
_PROBE_DECAY, _PROBE_STEPS = 1e-2, 100


@LOSSES.add("Li et al. 2019, arXiv:1901.09229, equations 3 to 5", name="delta")
class Delta(Added):
    """Half the squared distance between what stages give now and what they gave at the start, weighted by channel.

    For maps (n, c, h, w): sum over stages and channels of c * attention * mean over places of the square, mean over items.
    The stages: of those that learn, the last of each size of map, at most the last four, as the paper takes a ResNet's four.
    Attention: of each channel, the softmax of the standardised rise of the loss where the channel is set to zero, divided by 5; on
    32 items, once before training, under a linear probe on the starting features.
    Transformers: token states (n, t, d) in the place of maps, padding left out; of the last two stages that learn, as each channel
    of an earlier one costs a run of all that lies above it. A backbone in one piece: its features.
    Differs: a channel is set to zero where its stage ends, the paper sets its filter to zero inside. The authors' code sums over the
    items of a batch (of 64, at strength 0.01); the mean is the same for every batch size (at 0.64).
    """

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        learning = [[group for group, rate in enumerate(phase.lr) if rate] for phase in plan.phases]
        firsts = [groups[0] for groups in learning if groups]
        if not firsts:
            return "delta in a plan in which no layer group learns, expected one: nothing could stray. Leave it out."
        if any(later > min(firsts[:place]) for place, later in enumerate(firsts) if place):
            return (
                "delta in a plan whose later phase freezes layer groups that an earlier one trained, expected phases that release more: "
                "what these groups gave at the start is then not known. Use full, partial or gradual_unfreeze rates."
            )
        return ""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.attention = weigh_channels(start)
        self._source = start.source(list(self.attention))

    def forward(self, seen: Seen) -> torch.Tensor:
        # Stages below a phase's boundary are as they were: their distance is zero.
        distances = [
            strayed(seen.states[stage - seen.boundary + 1], was, self.attention[stage]) for stage, was in self._source(seen).items()
        ]
        return torch.stack(distances).sum() if distances else seen.features.new_zeros(())


def strayed(now: State, was: State, attention: torch.Tensor) -> torch.Tensor:
    """Half the weighted squared distance of two states, mean over items. attention: (c,), sums to 1."""
    values, inside = by_place(now)
    square = (values - by_place(was)[0]).square() * inside[..., None]
    mean = square.sum(1) / inside.sum(1, keepdim=True).clamp(min=1)
    return 0.5 * len(attention) * (mean @ attention).mean()


def by_place(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (n, p, c), float32, and which of the p places count (n, p): all of a map, the tokens of a text."""
    if isinstance(state, dict):
        return state["hidden"].float(), state["attention_mask"].float()
    if state.ndim == 4 and not channels_last(state):
        state = state.permute(0, 2, 3, 1)
    values = (state.flatten(1, 2) if state.ndim == 4 else state.unflatten(0, (-1, 1)) if state.ndim == 2 else state).float()
    return values, values.new_ones(values.shape[:2])


def without(state: State, channel: int) -> State:
    """A copy of the state with a channel set to zero."""
    if isinstance(state, dict):
        return {**state, "hidden": without(state["hidden"], channel)}  # type: ignore[dict-item]
    off = state.clone()
    off.select(1 if state.ndim == 2 or (state.ndim == 4 and not channels_last(state)) else state.ndim - 1, channel).zero_()
    return off


def chosen_stages(states: dict[int, State]) -> list[int]:
    """Which of these stages are held. states: what each stage that learns gives, input side first."""
    maps = {stage: state for stage, state in states.items() if isinstance(state, torch.Tensor) and state.ndim == 4}
    if maps:
        # Of equal sizes the last stays.
        sizes = {state.shape[1:3] if channels_last(state) else state.shape[2:]: stage for stage, state in maps.items()}
        return sorted(sizes.values())[-_MAP_STAGES:]
    tokens = [stage for stage, state in states.items() if isinstance(state, dict) or state.ndim == 3]
    return tokens[-_TOKEN_STAGES:] or list(states)[-1:]


@torch.no_grad()
def weigh_channels(start: Start) -> dict[int, torch.Tensor]:
    """Attention (c,) by stage: how far the loss rises without each channel, standardised, divided by 5, through a softmax."""
    backbone, features = start.backbone, start.features()
    probe = fitted_probe(features, start)
    some = torch.randperm(len(features), generator=torch.Generator().manual_seed(start.seed))[:_ITEMS].tolist()
    backbone.eval()
    state = backbone.prepare([start.items[place] for place in some])
    device = start.target.device
    state = {name: tensor.to(device) for name, tensor in state.items()} if isinstance(state, dict) else state.to(device)
    states = {}
    for stage, module in enumerate(backbone.stages):
        state = module(state)
        if stage >= start.first:
            states[stage] = state
    target = start.target[some]
    attention = {}
    for stage in chosen_stages(states):
        rises = []
        channels = by_place(states[stage])[0].shape[-1]
        for channel in range(channels):
            # The loss of the whole network is the same for every channel, and leaves the standardised rise.
            rises.append(start.loss(probe(backbone(without(states[stage], channel), stage + 1)), target))
            start.progress(Step(f"weighing channels of {backbone.name}, {backbone.stage_names[stage]}", channel + 1, channels))
        rise = torch.stack(rises)
        attention[stage] = ((rise - rise.mean()) / rise.std(correction=0).clamp(min=1e-12) / _SHARPNESS).softmax(0)
    return attention


@torch.no_grad()
def fitted_probe(features: torch.Tensor, start: Start) -> nn.Module:
    """A linear head that knows the task: under a random one no channel would matter."""
    scale = features.std().clamp(min=1e-12)
    probe = nn.Linear(features.shape[1], start.head(features[:1]).shape[1], device=features.device)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimiser = torch.optim.LBFGS(probe.parameters(), max_iter=_PROBE_STEPS, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        with torch.enable_grad():
            optimiser.zero_grad()
            loss = start.loss(probe(features / scale), start.target) + 0.5 * _PROBE_DECAY * probe.weight.square().sum()
            loss.backward()
        return loss

    optimiser.step(step)
    probe.weight.div_(scale)
    return probe
