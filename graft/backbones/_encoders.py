"""transformers' text encoders as backbones: config, tokenizer, weights, pooling. Serves the sources hf, sentence and checkpoint."""

import contextlib
import copy
import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from graft import torchvision_ops
from graft.backbones import _folders, _text_stages
from graft.backbones._trial import tried
from graft.backbones.base import Backbone, State, Vocabulary
from graft.device import seeded
from graft.errors import GraftError
from graft.optional import require

# Where neither tokenizer nor config names a limit.
_DEFAULT_TOKENS = 512
# What was in a text model's files but not in its encoder: poolers and heads of its pretraining.
_DROPPED = ("pooler", "cls", "lm_head", "classifier", "qa_outputs", "vocab_", "decoder", "discriminator_predictions", "generator_")


@dataclass(frozen=True)
class Pooling:
    """How tokens become one vector. modes: as in `_text_stages.POOLINGS`. dense: layers behind the pooling. normalise: to length one."""

    modes: tuple[str, ...] = ("mean",)
    dense: tuple[tuple[dict[str, Any], _folders.Tensors | None], ...] = ()
    normalise: bool = False
    max_tokens: int | None = None
    prompt: str = ""


def load(location: str, name: str, pooling: Pooling) -> Backbone:
    """The text encoder at a local folder or hub name.

    location: what transformers' `from_pretrained` takes. name: as the user wrote it.
    Raises GraftError where files are missing, cannot be had, or do not fit; for encoder-decoders without a separate encoder too.
    """
    transformers = library()
    with quiet(), explained(location, name):
        config = transformers.AutoConfig.from_pretrained(location, local_files_only=is_local(location))
        tokenizer = transformers.AutoTokenizer.from_pretrained(location, local_files_only=is_local(location))
        # Without tokenizer files transformers makes up an empty vocabulary, in which every word is unknown, and says nothing.
        if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
            raise GraftError(f"{name}: has no tokenizer files. Add those it was trained with (tokenizer.json, or vocab.txt and the like).")
        network = pretrained(_auto_class(config), location, name)
    return _assemble(network, config, tokenizer, pooling, name, read_card(location))


def library() -> Any:
    torchvision_ops.ensure()
    return require("transformers", "text")


def is_local(location: str) -> bool:
    """A local folder is never looked up on the hub; transformers would otherwise ask it for files the folder lacks."""
    return Path(location).expanduser().is_dir()


def pretrained(auto_class: Any, location: str, name: str) -> nn.Module:
    """The network with its weights as float32. Raises GraftError listing weights that are missing or of another shape."""
    network, info = auto_class.from_pretrained(location, local_files_only=is_local(location), dtype=torch.float32, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_DROPPED))
    other_shape = sorted(str(key) for key in info["mismatched_keys"])
    if missing or other_shape:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:5])})"
            for what, keys in (("missing", missing), ("of another shape", other_shape))
            if keys
        ]
        raise GraftError(
            f"{name}: the weights do not fit {type(network).__name__}: {'; '.join(parts)}. "
            "Check that weights and config.json belong together."
        )
    return network.eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers' progress bars and reports of dropped heads are held back; what matters of them is raised by `pretrained`."""
    log = library().utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def explained(location: str, name: str) -> Iterator[None]:
    """Turn transformers' errors about files and hub names into one GraftError."""
    try:
        yield
    except GraftError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        if is_local(location):
            found = ", ".join(sorted(os.listdir(location))[:8]) or "nothing"
            raise GraftError(
                f"{name}: transformers cannot load this folder ({type(error).__name__}: {reason}). It holds {found}; expected config.json, "
                "tokenizer files and model.safetensors, as save_pretrained writes them."
            ) from error
        raise GraftError(
            f"{name}: could not be had ({type(error).__name__}: {reason}). Check the name, allow the network "
            "(unset HF_HUB_OFFLINE), or download it where there is one and give the folder: checkpoint:PATH."
        ) from error


def _auto_class(config: Any) -> Any:
    transformers = library()
    # T5 and its kin: the encoder alone reads a text, the decoder would only cost time.
    return transformers.AutoModelForTextEncoding if config.is_encoder_decoder else transformers.AutoModel


def _assemble(network: Any, config: Any, tokenizer: Any, pooling: Pooling, name: str, card: dict[str, str]) -> Backbone:
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # On the left, padding would shift the positions of networks that count them from the first token.
    tokenizer.padding_side = "right"
    max_tokens = _max_tokens(pooling, tokenizer, config, network)
    preprocessing = {
        "tokenizer": _fingerprint(tokenizer),
        "max_tokens": max_tokens,
        "prompt": pooling.prompt,
        "pooling": [*pooling.modes, *(["dense"] * len(pooling.dense)), *(["normalise"] if pooling.normalise else [])],
    }
    prepare = _preparer(tokenizer, max_tokens, pooling.prompt)
    batch = prepare(["a first text", "and a second one that is longer"], None)
    stages, _ = tried(_text_stages.cut(network), _text_stages.Whole(network), batch, name)
    names = _folders.own_names(network, stages)
    tail, width = _tail(pooling, config, name)
    stages = [*stages, ("pool", tail)]

    def fresh(seed: int) -> Backbone:
        with seeded(seed), quiet():
            # A copy: T5 notes in its config that it has lost its decoder, and is then no longer loaded as an encoder.
            untrained = _auto_class(config).from_config(copy.deepcopy(config)).eval()
            without_weights = replace(pooling, dense=tuple((settings, None) for settings, _ in pooling.dense))
            return _assemble(untrained, config, tokenizer, without_weights, name, card)

    def shortened(layers: int) -> Backbone:
        shorter = copy.deepcopy(config)
        # Every family answers to this name, whatever its own is.
        shorter.num_hidden_layers = layers
        with quiet():
            network = _auto_class(shorter).from_config(copy.deepcopy(shorter)).eval()
        # What comes behind the pooling was trained on the last layer's tokens.
        return _assemble(network, shorter, tokenizer, replace(pooling, modes=("mean",), dense=()), name, card)

    def write(backbone: Backbone, folder: Path) -> None:
        _write(backbone, folder, names, config, tokenizer, pooling)

    return Backbone(
        name=name,
        modality="text",
        width=width,
        stages=stages,
        prepare=prepare,
        fresh=fresh,
        write=write,
        preprocessing=preprocessing,
        card=card,
        shortened=shortened,
        vocabulary=Vocabulary(
            len(tokenizer), tuple(sorted(set(tokenizer.all_special_ids))), tokenizer.mask_token_id, network.get_input_embeddings()
        ),
    )


def _preparer(tokenizer: Any, max_tokens: int, prompt: str) -> Callable[[Sequence[Any], np.random.Generator | None], Any]:
    def prepare(items: Sequence[Any], rng: np.random.Generator | None) -> State:
        texts = [prompt + str(item) for item in items]
        rows = tokenizer(texts, truncation=True, max_length=max_tokens)
        # A tokenizer without special tokens makes nothing of an empty text; a batch needs at least one position, even if masked.
        shortest = {"padding": "max_length", "max_length": 1} if not any(rows["input_ids"]) else {"padding": "longest"}
        batch = tokenizer.pad(rows, return_tensors="pt", **shortest)
        return {key: batch[key].long() for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}

    return prepare


def _max_tokens(pooling: Pooling, tokenizer: Any, config: Any, network: Any) -> int:
    limits = [pooling.max_tokens] if pooling.max_tokens else []
    # A tokenizer without a limit says so by a number of 10^30.
    if tokenizer.model_max_length < 10**6:
        limits.append(tokenizer.model_max_length)
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:
        table = getattr(getattr(network, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        # RoBERTa and its kin count positions from behind the padding's own.
        limits.append(positions if padding is None else positions - padding - 1)
    return int(min(limits, default=_DEFAULT_TOKENS))


def _fingerprint(tokenizer: Any) -> str:
    """32 hex digits over what decides how a text becomes token numbers."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two change with every call, and each call of ours sets them.
        described = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    else:
        described = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()


class _Dense(nn.Module):
    """sentence-transformers' layer behind the pooling."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        super().__init__()
        path = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        activation = getattr(nn, path.rpartition(".")[2], None) if path.startswith("torch.nn.") else None
        if activation is None:
            raise GraftError(
                f"{name}: a dense layer's activation_function is {path!r}, expected one of torch.nn, e.g. torch.nn.modules.activation.Tanh."
            )
        self.linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
        self.activation = activation()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.activation(self.linear(features))


def _tail(pooling: Pooling, config: Any, name: str) -> tuple[nn.Sequential, int]:
    """Pooling, dense layers, normalisation; and the width of what comes out."""
    tail: list[nn.Module] = [_text_stages.Pool(pooling.modes, name)]
    width = config.hidden_size * len(pooling.modes)
    for settings, tensors in pooling.dense:
        dense = _Dense(settings, name)
        if tensors is not None:
            _folders.fit(dense, tensors, f"{name}: dense layer")
        tail.append(dense)
        width = settings["out_features"]
    return nn.Sequential(*tail, *([_text_stages.Normalise()] if pooling.normalise else [])), width


def _write(backbone: Backbone, folder: Path, names: dict[str, str], config: Any, tokenizer: Any, pooling: Pooling) -> None:
    """A folder that graft, transformers and sentence-transformers all load."""
    tokenizer.save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    tail = backbone.stages[-1]
    assert isinstance(tail, nn.Sequential)
    _folders.write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": config.hidden_size, **{_LEGACY[mode]: mode in pooling.modes for mode in _text_stages.POOLINGS}},
    )
    for number, (settings, _) in enumerate(pooling.dense, 1):
        part = f"{number + 1}_Dense"
        modules.append((part, "Dense"))
        _folders.write_json(folder / part / "config.json", settings)
        _folders.write_tensors(folder / part / "model.safetensors", tail[number].state_dict())
    if pooling.normalise:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"} for n, (path, kind) in enumerate(modules)
    ]
    _folders.write_json(folder / "modules.json", listed)
    _folders.write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": backbone.preprocessing["max_tokens"], "do_lower_case": False}
    )
    if pooling.prompt:
        _folders.write_json(
            folder / "config_sentence_transformers.json", {"prompts": {"default": pooling.prompt}, "default_prompt_name": "default"}
        )
    _folders.write(backbone, folder, names, json.loads(config.to_json_string()))


# What the files of sentence-transformers call the poolings. Its newer releases write the plain names, and read both.
_LEGACY = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def read_pooling(folder: Path, name: str) -> Pooling:
    """What modules.json of a sentence-transformers folder says happens behind the encoder.

    Raises GraftError for a module other than Transformer, Pooling, Dense, Normalize.
    """
    modules = _folders.read_json(folder / "modules.json", list)
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Dense", "Normalize"})
    if unknown or kinds[:2] != ["Transformer", "Pooling"]:
        raise GraftError(
            f"{name}: its modules are {', '.join(kinds)}, expected Transformer, Pooling, then Dense or Normalize. Choose another model."
        )
    if modules[0].get("path"):
        raise GraftError(
            f"{name}: its encoder lies in {modules[0]['path']!r}, expected it in the folder itself. Give that folder as hf: or checkpoint:."
        )
    modes: tuple[str, ...] = ()
    dense = []
    for module, kind in zip(modules, kinds, strict=True):
        part = folder / module["path"]
        if kind == "Pooling":
            settings = _folders.read_json(part / "config.json")
            if settings.get("include_prompt") is False:
                raise GraftError(
                    f"{name}: its pooling leaves the prompt out (include_prompt), which graft does not do. Choose another model."
                )
            chosen = settings.get("pooling_mode") or [mode for mode, key in _LEGACY.items() if settings.get(key)] or "mean"
            modes = (chosen,) if isinstance(chosen, str) else tuple(chosen)
        elif kind == "Dense":
            weights = part / "model.safetensors"
            tensors = _folders.read_tensors(weights if weights.exists() else part / "pytorch_model.bin")
            dense.append((_folders.read_json(part / "config.json"), tensors))
    return Pooling(modes, tuple(dense), kinds[-1] == "Normalize", _limit(folder), _prompt(folder))


def _limit(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    return _folders.read_json(path).get("max_seq_length") if path.exists() else None


def _prompt(folder: Path) -> str:
    path = folder / "config_sentence_transformers.json"
    settings = _folders.read_json(path) if path.exists() else {}
    return (settings.get("prompts") or {}).get(settings.get("default_prompt_name"), "")


def read_card(location: str) -> dict[str, str]:
    """Licence and training data from the front matter of a local README.md; the page of a hub name."""
    if not is_local(location):
        return {"published": f"https://huggingface.co/{location}"}
    readme = Path(location).expanduser() / "README.md"
    matter = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8"), re.DOTALL) if readme.exists() else None
    if matter is None:
        return {}
    # Only two keys are wanted, so the front matter is not worth a YAML parser and its errors.
    licence = re.search(r"^licen[sc]e:\s*(\S+)", matter[1], re.MULTILINE)
    listed = re.search(r"^datasets:\s*\n((?:\s*-\s*\S+\s*\n?)+)", matter[1], re.MULTILINE)
    card = {"licence": licence[1] if licence else "", "pretrained_on": ", ".join(re.findall(r"-\s*(\S+)", listed[1])) if listed else ""}
    return {key: value for key, value in card.items() if value}
