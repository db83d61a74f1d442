"""A fitted linear head as a layer that training moves, and back. Heavy: torch."""

import numpy as np
import torch

from graft.heads import LINKS, LinearHead
from graft.records import Task


def torch_head(start: LinearHead | None, width: int, outputs: int, centre: float, scale: float, seed: int) -> torch.nn.Linear:
    """A linear layer, small and random, or equal to a fitted head."""
    head = torch.nn.Linear(width, outputs)
    with torch.no_grad():
        if start is None:
            generator = torch.Generator().manual_seed(seed)
            head.weight.normal_(0.0, 0.01, generator=generator)
            head.bias.zero_()
        else:
            # mean and scale of the features are folded into weight and bias.
            weight = start.weight / start.scale[:, None]
            bias = (start.bias - start.mean @ weight - centre) / scale
            head.weight.copy_(torch.as_tensor(weight.T / scale))
            head.bias.copy_(torch.as_tensor(bias))
    return head


def linear_head(head: torch.nn.Linear, task: Task, centre: float, scale: float) -> LinearHead:
    weight = head.weight.detach().cpu().numpy().T.astype(np.float64) * scale
    bias = head.bias.detach().cpu().numpy().astype(np.float64) * scale + centre
    width = len(weight)
    return LinearHead(mean=np.zeros(width), scale=np.ones(width), weight=weight, bias=bias, link=LINKS[task], kind="trained", strength=0.0)
