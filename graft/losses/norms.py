"""Added losses that are a norm: of a batch's features, or of the head's weights. Heavy: torch."""

import torch

from graft.losses.base import LOSSES, Added, Seen, Start


@LOSSES.add("Chen et al. 2019, NeurIPS, Catastrophic Forgetting Meets Negative Transfer, equation 4", name="bss")
class BatchSpectralShrinkage(Added):
    """The sum of the k = 1 smallest squared singular values of a batch's features (n, d).

    What little varies in pretrained features transfers badly; shrinking it holds back what would hurt.
    """

    smallest = 1

    def forward(self, seen: Seen) -> torch.Tensor:
        return torch.linalg.svdvals(seen.features)[-self.smallest :].square().sum()


@LOSSES.add("Li et al. 2018, arXiv:1802.01483, section 3: beta / 2 * |w of the head|^2", name="head_norm")
class HeadNorm(Added):
    """Half the squared norm of all the head's weights, biases among them."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        # A tuple hides them from nn.Module, which would count the head's weights as this loss's own.
        self._weights = tuple(start.head.parameters())

    def forward(self, seen: Seen) -> torch.Tensor:
        return 0.5 * torch.stack([weight.square().sum() for weight in self._weights]).sum()
