"""What a network for signals is taught without labels: hidden spans, and two crops of the same signal. Heavy: torch."""

import torch

from graft.losses import Seen, Start
from graft.pretext.base import PRETEXTS, Pretext, features_of, run, tensors_of
from graft.pretext.contrastive import nt_xent
from graft.pretext.projectors import mlp

Batch = dict[str, torch.Tensor]

HIDDEN_SHARE, SPAN_STEPS = 0.15, 3.0  # r and l_m of Zerveas et al. 2021, section 3.3
LEAST_CROP = 0.5  # of the steps: two crops then share a step
NOISE, SCALE = 0.1, 0.2  # standard deviations of what is added, and of the factor around 1
TEMPERATURE = 0.2  # tau of Eldele et al. 2021, section 4.2


@PRETEXTS.add("Zerveas et al. 2021, arXiv:2010.02803, equation 4", name="masked_segments")
class MaskedSegments(Pretext):
    """Spans of each channel, three steps long on average and 15 % of all, are hidden and predicted: the mean squared error on them.

    Differs: the network is a convolutional one; each of its last places tells the steps that it stands for.
    """

    modalities = ("signal",)
    batch_size = 128  # the paper, appendix A

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        # All stages but the last, which pools, halve the steps.
        self.last = start.backbone.depth - 1
        self.channels, self.steps = start.backbone.preprocessing["channels"], 2**self.last
        self.decode = mlp(start, (start.backbone.width, self.channels * self.steps))

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = tensors_of(seen)
        signal, there = batch["hidden"], batch["attention_mask"].bool()
        hidden = spans(signal) & there.unsqueeze(-1)
        state = run(seen, {**batch, "hidden": signal.masked_fill(hidden, 0.0)}, self.last)
        assert isinstance(state, dict)
        said = self.decode(state["hidden"].float()).unflatten(2, (self.steps, self.channels)).flatten(1, 2)
        return ((said[:, : signal.shape[1]] - signal).square() * hidden).sum() / hidden.sum().clamp(min=1)


@PRETEXTS.add("Mohsenvand et al. 2020 (SeqCLR); loss: Chen et al. 2020, arXiv:2002.05709, equation 1", name="contrastive_crops")
class ContrastiveCrops(Pretext):
    """Two crops of a signal that overlap, each scaled and with noise, are told from all others of the batch.

    Crops are as long as each other, half of the signal to all of it. Each channel is multiplied by a factor around 1 (standard deviation
    0.2) and noise (0.1) is added: the weak view of Eldele et al. 2021, arXiv:2106.14112, section 3.1. Differs: their strengths, which
    are ours for signals of standard deviation 1, and crops for that paper's permuted segments.
    """

    modalities = ("signal",)
    batch_size = 128  # Eldele et al. 2021, section 4.2

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        width = start.backbone.width
        self.project = mlp(start, (width, width, width))

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = tensors_of(seen)
        share = LEAST_CROP + (1 - LEAST_CROP) * torch.rand(()).item()
        one, other = (features_of(seen, changed(crop(batch, share))) for _ in range(2))
        return nt_xent(self.project(torch.cat([one, other])), TEMPERATURE)


def spans(signal: torch.Tensor) -> torch.Tensor:
    """What is hidden of a signal (n, t, c), of its shape: lengths of hidden spans and of those between are geometric, for each channel."""
    (n, steps, channels), device = signal.shape, signal.device
    ends = torch.tensor([1 / SPAN_STEPS, HIDDEN_SHARE / (1 - HIDDEN_SHARE) / SPAN_STEPS], device=device)  # chance that a step is the last
    first = (torch.rand(n, channels, 1, device=device) < HIDDEN_SHARE).long()
    # No span is shorter than a step: so many fill the signal.
    kinds = (torch.arange(steps, device=device) + 1 - first) % 2
    lengths = (torch.rand(n, channels, steps, device=device).clamp(min=1e-7).log() / (1 - ends[kinds]).log()).ceil().clamp(min=1)
    places = torch.arange(steps, device=device, dtype=lengths.dtype).expand(n, channels, steps).contiguous()
    number = torch.searchsorted(lengths.cumsum(2), places, right=True)
    return (kinds.gather(2, number.clamp(max=steps - 1)) == 0).transpose(1, 2)


def crop(batch: Batch, share: float) -> Batch:
    """Of each item a share of its steps, rounded up, from a random start on."""
    signal, mask = batch["hidden"], batch["attention_mask"]
    whole = mask.sum(1)
    kept = (share * whole).ceil().long()
    start = (torch.rand(len(signal), device=signal.device) * (whole - kept + 1)).long()
    steps = torch.arange(int(kept.max()), device=signal.device)
    inside = steps < kept.unsqueeze(1)
    places = (start.unsqueeze(1) + steps).clamp(max=signal.shape[1] - 1)
    taken = signal.gather(1, places.unsqueeze(-1).expand(-1, -1, signal.shape[2]))
    return {"hidden": taken * inside.unsqueeze(-1), "attention_mask": inside.to(mask.dtype)}


def changed(batch: Batch) -> Batch:
    """Each channel of each item scaled, and noise added where there is signal."""
    signal, mask = batch["hidden"], batch["attention_mask"].unsqueeze(-1)
    factor = 1 + SCALE * torch.randn(len(signal), 1, signal.shape[2], device=signal.device)
    return {**batch, "hidden": signal * factor + NOISE * torch.randn_like(signal) * mask}
