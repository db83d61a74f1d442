"""Where transformers' text encoders are cut into stages, and how tokens become one vector. One small function a family.

Between stages a state holds "hidden" (n, t, d), "attention_mask" (n, t) of 0/1, and "token_type_ids" (n, t) where the tokenizer gives
them: t tokens, d wide. What a layer needs beyond that (masks, position biases) it makes itself, so the state stays small.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from graft.errors import GraftError

Stages = list[tuple[str, nn.Module]]
Tokens = dict[str, torch.Tensor]
_FAMILIES: dict[str, Callable[[Any], Stages]] = {}

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def cut(network: Any) -> Stages | None:
    """The stages of a transformers encoder up to its last hidden state, or None for a family that is not known here.

    Every parameter is in one stage. The last stage still gives a state; a pooling follows.
    """
    family = _FAMILIES.get(network.config.model_type)
    return family(network) if family else None


class Step(nn.Module):
    """One stage: a function of the state and of some modules, whose output is the new hidden state.

    modules: owned, their parameters are this stage's group. borrowed: owned by another stage, or weightless.
    """

    def __init__(self, function: Callable[..., torch.Tensor], *modules: nn.Module, borrowed: Sequence[Any] = ()) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self._function = function
        # A tuple hides them from nn.Module, which would count their parameters twice.
        self._borrowed = tuple(borrowed)

    def forward(self, state: Tokens) -> Tokens:
        hidden = self._function(state, *self.parts, *self._borrowed)
        return {**{name: value for name, value in state.items() if name != "input_ids"}, "hidden": hidden}


class Whole(nn.Module):
    """An encoder in one piece: the only stage of an unknown family."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tokens) -> Tokens:
        return {"hidden": self.network(**batch).last_hidden_state, "attention_mask": batch["attention_mask"]}


class Pool(nn.Module):
    """Tokens -> one vector: the named poolings side by side, (n, d * number of poolings), as sentence-transformers defines them."""

    def __init__(self, modes: Sequence[str], where: str) -> None:
        super().__init__()
        unknown = [mode for mode in modes if mode not in POOLINGS]
        if unknown or not modes:
            raise GraftError(f"{where}: pooling {', '.join(map(repr, unknown)) or '(none)'}, expected one of {', '.join(POOLINGS)}.")
        self.modes = tuple(modes)

    def forward(self, state: Tokens) -> torch.Tensor:
        hidden = state["hidden"]
        mask = state["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        # A text without a single token gives zeros, not a division by zero.
        count = mask.sum(1).clamp(min=1e-9)
        pooled = []
        for mode in self.modes:
            if mode == "mean":
                pooled.append((hidden * mask).sum(1) / count)
            elif mode == "cls":
                pooled.append(hidden[:, 0])
            elif mode == "max":
                pooled.append(hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).amax(1))
            elif mode == "mean_sqrt_len_tokens":
                pooled.append((hidden * mask).sum(1) / count.sqrt())
            elif mode == "weightedmean":
                weights = mask * torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype).view(1, -1, 1)
                pooled.append((hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9))
            else:
                last = (state["attention_mask"].sum(1) - 1).clamp(min=0)
                pooled.append(hidden[torch.arange(len(hidden), device=hidden.device), last])
        return torch.cat(pooled, 1)


class Normalise(nn.Module):
    """Vectors of length one."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(features, dim=1)


def _family(*model_types: str) -> Callable[[Callable[[Any], Stages]], Callable[[Any], Stages]]:
    def put(function: Callable[[Any], Stages]) -> Callable[[Any], Stages]:
        _FAMILIES.update(dict.fromkeys(model_types, function))
        return function

    return put


def _layers(function: Callable[..., torch.Tensor], layers: Iterable[nn.Module], borrowed: Sequence[Any] = ()) -> Stages:
    return [(f"layer{number}", Step(function, layer, borrowed=borrowed)) for number, layer in enumerate(layers, 1)]


def _first(output: Any) -> torch.Tensor:
    """A layer gives its hidden state, or a tuple that begins with it, from one release of transformers to the next."""
    return output[0] if isinstance(output, tuple) else output


def _padding(state: Tokens) -> torch.Tensor | None:
    """What is added to attention scores: (n, 1, 1, t), 0 for a token, a very low number for padding. None without padding."""
    mask = state["attention_mask"]
    if bool(mask.all()):
        return None
    dtype = state["hidden"].dtype
    return (1 - mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


def _with_bias(state: Tokens, bias: torch.Tensor) -> torch.Tensor:
    padding = _padding(state)
    return bias if padding is None else bias + padding


@_family("bert", "roberta", "xlm-roberta", "camembert", "electra")
def _bert(net: Any) -> Stages:
    def embed(state: Tokens, embeddings: nn.Module, project: nn.Module | None = None) -> torch.Tensor:
        types = state.get("token_type_ids")
        hidden = embeddings(input_ids=state["input_ids"], **({} if types is None else {"token_type_ids": types}))
        return hidden if project is None else project(hidden)

    def attend(state: Tokens, layer: nn.Module) -> torch.Tensor:
        return _first(layer(state["hidden"], _padding(state)))

    first = [net.embeddings, net.embeddings_project] if hasattr(net, "embeddings_project") else [net.embeddings]
    return [("embeddings", Step(embed, *first)), *_layers(attend, net.encoder.layer)]


@_family("distilbert")
def _distilbert(net: Any) -> Stages:
    def embed(state: Tokens, embeddings: nn.Module) -> torch.Tensor:
        return embeddings(state["input_ids"])

    def attend(state: Tokens, layer: nn.Module) -> torch.Tensor:
        return _first(layer(state["hidden"], attention_mask=_padding(state)))

    return [("embeddings", Step(embed, net.embeddings)), *_layers(attend, net.transformer.layer)]


@_family("mpnet")
def _mpnet(net: Any) -> Stages:
    def embed(state: Tokens, embeddings: nn.Module, bias: nn.Module) -> torch.Tensor:
        return embeddings(input_ids=state["input_ids"])

    def attend(state: Tokens, layer: nn.Module, encoder: Any) -> torch.Tensor:
        # The bias table is shared by all layers and counts as part of the embeddings.
        bias = encoder.compute_position_bias(state["hidden"])
        return _first(layer(state["hidden"], _padding(state), position_bias=bias))

    embeddings = Step(embed, net.embeddings, net.encoder.relative_attention_bias)
    return [("embeddings", embeddings), *_layers(attend, net.encoder.layer, borrowed=(net.encoder,))]


@_family("gpt2")
def _gpt2(net: Any) -> Stages:
    def embed(state: Tokens, words: nn.Module, positions: nn.Module, dropout: nn.Module) -> torch.Tensor:
        ids = state["input_ids"]
        return dropout(words(ids) + positions(torch.arange(ids.shape[1], device=ids.device)))

    def attend(state: Tokens, block: nn.Module) -> torch.Tensor:
        hidden = state["hidden"]
        length = hidden.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
        blocked = later | (state["attention_mask"][:, None, None, :] == 0)
        # A token always sees itself: a row of the softmax with nothing allowed would be undefined.
        blocked = blocked & ~torch.eye(length, dtype=torch.bool, device=hidden.device)
        return _first(block(hidden, attention_mask=blocked.to(hidden.dtype) * torch.finfo(hidden.dtype).min))

    def normalise(state: Tokens, norm: nn.Module) -> torch.Tensor:
        return norm(state["hidden"])

    return [("embeddings", Step(embed, net.wte, net.wpe, net.drop)), *_layers(attend, net.h), ("norm", Step(normalise, net.ln_f))]


@_family("t5", "mt5")
def _t5(net: Any) -> Stages:
    encoder = net.encoder

    def embed(state: Tokens, words: nn.Module, dropout: nn.Module) -> torch.Tensor:
        return dropout(words(state["input_ids"]))

    def attend(state: Tokens, block: nn.Module, first_attention: Any) -> torch.Tensor:
        # The first block owns the table of position biases that all blocks share.
        length = state["hidden"].shape[1]
        bias = first_attention.compute_bias(length, length)
        return _first(block(state["hidden"], attention_mask=_padding(state), position_bias=bias))

    def normalise(state: Tokens, norm: nn.Module, dropout: nn.Module) -> torch.Tensor:
        return dropout(norm(state["hidden"]))

    return [
        ("embeddings", Step(embed, encoder.embed_tokens, encoder.dropout)),
        *_layers(attend, encoder.block, borrowed=(encoder.block[0].layer[0].SelfAttention,)),
        ("norm", Step(normalise, encoder.final_layer_norm, encoder.dropout)),
    ]


class _XLNetEmbeddings(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.word_embedding, self.dropout = net.word_embedding, net.dropout
        # Only XLNet's own pretraining uses it; it is kept so that saved weights are complete.
        self.mask_emb = net.mask_emb

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.word_embedding(ids))


@_family("xlnet")
def _xlnet(net: Any) -> Stages:
    def embed(state: Tokens, embeddings: nn.Module) -> torch.Tensor:
        return embeddings(state["input_ids"])

    def attend(state: Tokens, layer: nn.Module, whole: Any) -> torch.Tensor:
        hidden = state["hidden"].transpose(0, 1)  # XLNet's layers want (t, n, d)
        length, count = hidden.shape[:2]
        blocked = (state["attention_mask"] == 0).to(hidden.dtype).T[None, :, :, None]
        itself = torch.eye(length, device=hidden.device, dtype=hidden.dtype)[:, :, None, None]
        mask = ((blocked - itself) > 0).to(hidden.dtype)
        segments = None
        if "token_type_ids" in state:
            types = state["token_type_ids"].T
            segments = nn.functional.one_hot((types[:, None] != types[None, :]).long(), 2).to(hidden.dtype)
        positions = whole.dropout(whole.relative_positional_encoding(length, length, bsz=count, device=hidden.device))
        return layer(hidden, None, attn_mask_h=mask, attn_mask_g=None, r=positions, seg_mat=segments)[0].transpose(0, 1)

    def last(state: Tokens, dropout: nn.Module) -> torch.Tensor:
        return dropout(state["hidden"])

    stages = _layers(attend, net.layer, borrowed=(net,))
    return [("embeddings", Step(embed, _XLNetEmbeddings(net))), *stages, ("dropout", Step(last, net.dropout))]
