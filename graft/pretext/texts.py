"""What texts teach without labels: hidden tokens, two passes under dropout, a text from its vector; and not to forget. Heavy: torch."""

import copy

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, embedding, gelu, linear

from graft.backbones.base import Backbone, State, Vocabulary
from graft.device import seeded
from graft.features import device_of, to_device
from graft.losses import Seen, Start
from graft.pretext.base import PRETEXTS, Pretext, batch_of, features_of, run, tensors_of
from graft.pretext.contrastive import info_nce
from graft.records import Phase, Plan, Task

_HIDDEN = 0.15  # Devlin et al. 2019, section 3.1, as are the next two
_MASKED, _RANDOM = 0.8, 0.1
_TEMPERATURE = 0.05  # Gao et al. 2021, section 3
_DELETED = 0.6  # Wang et al. 2021, section 4.1
_ALONE = 0.2  # share of a phase in which what is new learns alone
_HEAD_WIDTH = 64  # of attention: Vaswani et al. 2017, section 3.2.2
_DROPOUT = 0.1  # section 5.4 there

Tokens = dict[str, torch.Tensor]


class _OfTokens(Pretext):
    """A pretext that reads and writes tokens, with a small network of its own behind the backbone.

    In the first fifth of a phase that learns alone, as what random weights ask of a pretrained network distorts it: Kumar et al. 2022,
    arXiv:2202.10054.
    """

    modalities = ("text",)
    batch_size = 32

    @classmethod
    def refusal(cls, backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        refused = super().refusal(backbone, head, task, plan)
        if not refused and backbone.vocabulary is None:
            names = ", ".join(name for name, _ in plan.losses)
            refused = f"losses ({names}) with {backbone.name}, which reads words or letters, expected a network of tokens. "
            refused += "Take one of the sources hf or sentence, e.g. sentence:minilm."
        return refused

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        assert start.backbone.vocabulary is not None, "refusal has spoken"
        # In a tuple: its table is the backbone's.
        self._vocabulary = (start.backbone.vocabulary,)

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary[0]

    def rate(self, phase: Phase) -> float:
        """At the highest rate, as from random weights, however slowly a pretrained network moves."""
        return max(self.highest_rate, *phase.lr)

    def read(self, seen: Seen, batch: Tokens, stop: int | None) -> tuple[State, torch.Tensor]:
        """What the network gives of a batch, and its table of tokens; both without gradients as long as what is new learns alone."""
        alone = seen.progress < _ALONE
        with torch.set_grad_enabled(not alone):
            state = run(seen, batch, stop)
        return state, self.vocabulary.table.weight.detach() if alone else self.vocabulary.table.weight


@PRETEXTS.add("Devlin et al. 2019, arXiv:1810.04805, sections 3.1 and A.1", name="masked_language")
class MaskedLanguage(_OfTokens):
    """Cross-entropy of the tokens that were hidden: 15 % of a text's own, at least one; see `hide`.

    What guesses them is BERT's: a layer, GELU, normalisation, and the network's own table of tokens with a bias for each.
    The rate is that of BERT's pretraining for random weights times ten, as few steps are made here.
    """

    highest_rate = 1e-3

    @classmethod
    def refusal(cls, backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        refused = super().refusal(backbone, head, task, plan)
        if not refused and backbone.vocabulary and backbone.vocabulary.mask is None:
            refused = f"masked_language with {backbone.name}, whose tokenizer has no token for a hidden one, expected a mask token. "
            refused += "Use tsdae or simcse."
        return refused

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        with seeded(start.seed):
            self.guess = Guess(tokens_width(start.backbone), self.vocabulary.table).to(start.target.device)

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = tensors_of(seen)
        shown, hidden = hide(batch, self.vocabulary)
        state, table = self.read(seen, shown, stop=-1)
        assert isinstance(state, dict), "the stage before the pooling gives tokens"
        return told(seen, self.guess, state["hidden"][hidden], table, batch["input_ids"][hidden])


@PRETEXTS.add("Gao et al. 2021, arXiv:2104.08821, equation 4", name="simcse")
class SimCSE(Pretext):
    """Cross-entropy of finding each text again among the batch by its features under another draw of dropout; cosines over 0.05."""

    modalities = ("text",)
    highest_rate = 3e-4
    batch_size = 64

    @classmethod
    def refusal(cls, backbone: Backbone, head: nn.Module, task: Task, plan: Plan) -> str:
        refused = super().refusal(backbone, head, task, plan)
        if not refused and not any(isinstance(module, nn.Dropout) and module.p > 0 for module in backbone.modules()):
            refused = f"simcse with {backbone.name}, which has no dropout, expected some: without it two passes are the same. "
            refused += "Use tsdae or masked_language."
        return refused

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = batch_of(seen)
        return info_nce(features_of(seen, batch), features_of(seen, batch), _TEMPERATURE)


@PRETEXTS.add("Wang et al. 2021, arXiv:2104.06979, sections 3 and 4.1", name="tsdae")
class Tsdae(_OfTokens):
    """Cross-entropy of each next token of a text, told from those before it and the features of the text without 60 % of its tokens.

    The decoder is one transformer layer that attends to the features alone; its vectors of tokens are the network's own table.
    Differs: tokens are deleted, the paper deletes words; the decoder's one layer is its own, the paper's shares the encoder's weights.
    """

    highest_rate = 3e-4

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        with seeded(start.seed):
            self.decoder = Decoder(start.backbone.width, self.vocabulary.table).to(start.target.device)

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = tensors_of(seen)
        features, table = self.read(seen, without(batch, self.vocabulary), stop=None)
        assert isinstance(features, torch.Tensor), "the last stage pools"
        with torch.autocast(features.device.type, torch.bfloat16, enabled=seen.bf16):
            hidden = self.decoder(features, batch["input_ids"][:, :-1], table)
        there = batch["attention_mask"][:, 1:].bool()
        return told(seen, self.decoder.guess, hidden[there], table, batch["input_ids"][:, 1:][there])


@PRETEXTS.add("Li & Hoiem 2016, arXiv:1606.09282, section 3, on features as Romero et al. 2015, arXiv:1412.6550", name="keep_features")
class KeepFeatures(Pretext):
    """Keeps what was known: 1 - the cosine of a text's features and those that the starting network gives, the mean over texts.

    Differs: both papers hold what the old network gives on new items, as here; the first as probabilities, the second as squares.
    """

    modalities = ("text",)
    highest_rate = 3e-4
    batch_size = 64

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        # In a tuple: it never changes, and is no part of what a run keeps.
        self._start = (copy.deepcopy(start.backbone).requires_grad_(False).eval(),)

    def forward(self, seen: Seen) -> torch.Tensor:
        batch = batch_of(seen)
        now = features_of(seen, batch)
        with torch.no_grad(), torch.autocast(now.device.type, torch.bfloat16, enabled=seen.bf16):
            was = self._start[0](batch)
        return (1 - cosine_similarity(now, was.float())).mean()


class Guess(nn.Module):
    """Vectors of tokens (k, d) and the table of all tokens (m, e) -> logits (k, m). table: as at the start."""

    def __init__(self, width: int, table: nn.Embedding) -> None:
        super().__init__()
        self.layer = nn.Linear(width, table.embedding_dim)
        self.norm = nn.LayerNorm(table.embedding_dim)
        self.bias = nn.Parameter(torch.zeros(table.num_embeddings))

    def forward(self, hidden: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return linear(self.norm(gelu(self.layer(hidden))), table, self.bias)


class Decoder(nn.Module):
    """Features (n, d), the tokens so far (n, t) and the table of all tokens (m, e) -> what is known of each next one (n, t, e).

    Positions are sines (Vaswani et al. 2017, section 3.5), so that a text may have any length. table: as at the start.
    """

    def __init__(self, width: int, table: nn.Embedding) -> None:
        super().__init__()
        inner = table.embedding_dim
        heads = next(heads for heads in range(max(1, inner // _HEAD_WIDTH), 0, -1) if inner % heads == 0)
        self.memory = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner)
        self.layer = nn.TransformerDecoderLayer(inner, heads, 4 * inner, _DROPOUT, "gelu", batch_first=True)
        self.guess = Guess(inner, table)

    def forward(self, features: torch.Tensor, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        before = self.norm(embedding(ids, table) + sines(length, table.shape[1]).to(table))
        # Padding stands last, where no token that counts looks.
        return self.layer(before, self.memory(features).unsqueeze(1), tgt_mask=later)


def sines(length: int, width: int) -> torch.Tensor:
    """(length, width) of positions, as Vaswani et al. 2017, section 3.5: sines in even places, cosines in odd ones."""
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]


@torch.no_grad()
def tokens_width(backbone: Backbone) -> int:
    """How wide a token is before the pooling."""
    backbone.eval()
    state = backbone(to_device(backbone.prepare(["a"]), device_of(backbone)), stop=-1)
    return state["hidden"].shape[-1]


def own(batch: Tokens, vocabulary: Vocabulary) -> torch.Tensor:
    """(n, t) bool: which tokens are a part of their text."""
    ids = batch["input_ids"]
    return batch["attention_mask"].bool() & ~torch.isin(ids, torch.tensor(vocabulary.special, device=ids.device))


def at_least_one(chosen: torch.Tensor, among: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """chosen and, where a row has none, that of its lowest draw; all (n, t), among: what may be chosen."""
    lowest = draws.masked_fill(~among, torch.inf).argmin(1, keepdim=True)
    lacking = among.any(1, keepdim=True) & ~chosen.any(1, keepdim=True)
    return chosen | torch.zeros_like(chosen).scatter(1, lowest, lacking)


def hide(batch: Tokens, vocabulary: Vocabulary) -> tuple[Tokens, torch.Tensor]:
    """A batch with some of its tokens hidden, and which (n, t): 15 % of each text's own, at least one where it has any.

    Of these 80 % become the mask, 10 % a random token that is not special, and 10 % stay.
    Source: Devlin et al. 2019, section 3.1. Differs: the number is drawn for each text, as in RoBERTa's code.
    """
    ids = batch["input_ids"]
    among, draws = own(batch, vocabulary), torch.rand(ids.shape, device=ids.device)
    hidden = at_least_one(among & (draws < _HIDDEN), among, draws)
    fate = torch.rand(ids.shape, device=ids.device)
    assert vocabulary.mask is not None, "refusal has spoken"
    others = torch.ones(vocabulary.size, dtype=torch.bool, device=ids.device)
    others[[number for number in vocabulary.special if number < vocabulary.size]] = False
    numbers = others.nonzero()[:, 0]
    drawn = numbers[torch.randint(len(numbers), ids.shape, device=ids.device)]
    shown = torch.where(hidden & (fate < _MASKED), vocabulary.mask, ids)
    shown = torch.where(hidden & (fate >= _MASKED) & (fate < _MASKED + _RANDOM), drawn, shown)
    return {**batch, "input_ids": shown}, hidden


def without(batch: Tokens, vocabulary: Vocabulary) -> Tokens:
    """A batch in which each text has lost 60 % of its own tokens, drawn for each, but for one; the others move up."""
    there = batch["attention_mask"].bool()
    among, draws = own(batch, vocabulary), torch.rand(there.shape, device=there.device)
    kept = (there & ~among) | at_least_one(among & (draws >= _DELETED), among, draws)
    # False sorts first: the kept come to the front in their order, and where they end the batch is cut.
    order = (~kept).long().argsort(dim=1, stable=True)[:, : max(1, int(kept.sum(1).max()))]
    shorter = {name: tensor.gather(1, order) for name, tensor in batch.items()}
    return {**shorter, "attention_mask": kept.long().gather(1, order)}


def told(seen: Seen, guess: Guess, hidden: torch.Tensor, table: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of tokens (k,) by their vectors (k, d); zero where there are none."""
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=seen.bf16):
        logits = guess(hidden, table)
    return cross_entropy(logits.float(), truth, reduction="sum") / max(1, len(truth))
