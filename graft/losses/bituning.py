"""Bi-tuning: items are contrasted with remembered ones, by the head and by a projector. Heavy: torch."""

import copy

import torch
from torch import nn
from torch.nn.functional import normalize

from graft.backbones.base import Backbone
from graft.device import seeded
from graft.losses.base import LOSSES, Added, Seen, Start, only_classes
from graft.records import Plan, Task

_WIDTH = 128  # of the projections, as in the paper's experiments
_KEPT = 40  # keys of each class; this, momentum and temperature are those of thuml/Transfer-Learning-Library
_MOMENTUM = 0.999
_TEMPERATURE = 0.07


@LOSSES.add("Zhong et al. 2020, arXiv:2011.06182, sections 3.2 and 3.3", name="bituning")
class BiTuning(Added):
    """Contrastive cross-entropy of the head plus categorical contrastive learning of a projector.

    A second, slowly following network (momentum 0.999) gives a key for each item; the last 40 keys of each class are kept. An item's
    positives are itself and the kept keys of its class. The head's term compares features (with a 1 for the bias) with the weights of
    the item's class; the projector's, projections with each other. Each is the mean of -log softmax over the positives, at
    temperature 0.07.
    Differs: a key is made from the same view as its query, where the paper draws a second one, so that what frozen stages gave
    serves both. The memory starts with the keys of training items in the view that is judged, the authors' code's with noise; it takes
    in a batch's keys after both terms are computed. The head's weights get this loss's gradient too, which the code withholds.
    """

    features: torch.Tensor
    projections: torch.Tensor
    counts: torch.Tensor

    @staticmethod
    def refusal(backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        if not (isinstance(head, nn.Linear) and head.bias is not None):
            return f"bituning with a head of type {type(head).__name__}, expected torch.nn.Linear with a bias: its weights are contrasted."
        return only_classes("bituning", task)

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        assert isinstance(start.head, nn.Linear), "refusal() was not asked"
        device, width, classes = start.target.device, start.backbone.width, start.head.out_features
        with seeded(start.seed):
            self.projector = nn.Linear(width, _WIDTH).to(device)
        self.first = start.first
        self._queries = (start.head, start.backbone.stages[start.first :])
        self.key_stages = copy.deepcopy(self._queries[1]).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.register_buffer("features", torch.zeros(classes, _KEPT, width + 1, device=device))
        self.register_buffer("projections", torch.zeros(classes, _KEPT, _WIDTH, device=device))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.long, device=device))
        order = torch.randperm(len(start.target), generator=torch.Generator().manual_seed(start.seed)).to(device)
        features = start.features()[order]
        self.remember(with_one(features), normalize(self.key_projector(features), dim=1), start.target[order])

    def forward(self, seen: Seen) -> torch.Tensor:
        head = self._queries[0]
        key_features = self.follow(seen)
        own = normalize(self.projector(seen.features), dim=1)
        with torch.no_grad():
            key = normalize(self.key_projector(key_features), dim=1)
        weights = normalize(torch.cat([head.weight, head.bias[:, None]], 1), dim=1)[seen.target]
        loss = contrast((weights * with_one(seen.features)).sum(1), weights, self.features, self.counts, seen.target)
        loss = loss + contrast((own * key).sum(1), own, self.projections, self.counts, seen.target)
        self.remember(with_one(key_features), key, seen.target)
        return loss

    @torch.no_grad()
    def follow(self, seen: Seen) -> torch.Tensor:
        """Move the key network towards the query's, and give its features of the batch, (n, d)."""
        stages = self._queries[1]
        for slow, quick in zip((self.key_stages, self.key_projector), (stages, self.projector), strict=True):
            for mine, theirs in zip(slow.parameters(), quick.parameters(), strict=True):
                mine.lerp_(theirs, 1 - _MOMENTUM)
        state = seen.states[0]
        with torch.autocast(seen.features.device.type, torch.bfloat16, enabled=seen.bf16):
            for stage, query in list(zip(self.key_stages, stages, strict=True))[seen.boundary - self.first :]:
                state = stage.train(query.training)(state)
        assert isinstance(state, torch.Tensor)
        return state.float()

    @torch.no_grad()
    def remember(self, features: torch.Tensor, projections: torch.Tensor, target: torch.Tensor) -> None:
        """Put each item's keys in the place of its class's oldest."""
        for place, label in enumerate(target.tolist()):
            slot = int(self.counts[label]) % _KEPT
            self.features[label, slot] = features[place]
            self.projections[label, slot] = projections[place]
            self.counts[label] += 1


def with_one(features: torch.Tensor) -> torch.Tensor:
    """(n, d) -> (n, d + 1) of length one, the last for the bias."""
    return normalize(torch.cat([features, features.new_ones(len(features), 1)], 1), dim=1)


def contrast(own: torch.Tensor, queries: torch.Tensor, memory: torch.Tensor, counts: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean over items of the mean over positives of -log softmax of similarity / temperature.

    own: (n,), each item's similarity with itself, its first positive. queries: (n, w). memory: (c, k, w), of which the first counts[class]
    are filled. target: (n,).
    """
    classes, kept = memory.shape[:2]
    filled = (torch.arange(kept, device=counts.device) < counts[:, None]).flatten()
    similar = queries @ memory.flatten(0, 1)[filled].T
    of_class = torch.arange(classes, device=counts.device).repeat_interleave(kept)[filled]
    positive = torch.cat([torch.ones_like(own, dtype=torch.bool)[:, None], of_class == target[:, None]], 1)
    log_share = (torch.cat([own[:, None], similar], 1) / _TEMPERATURE).log_softmax(1)
    return -((log_share * positive).sum(1) / positive.sum(1)).mean()
