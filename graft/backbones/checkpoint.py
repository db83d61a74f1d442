"""`checkpoint:PATH`: weights in a local folder or file. Nothing here touches the network."""

from pathlib import Path
from typing import Any

from graft.backbones import _doodle, _folders, _keras, _networks, columns, hf, rows, sentence, signal, tiny, vectors
from graft.backbones.base import Backbone
from graft.errors import GraftError, near_miss

_ENDINGS = (".safetensors", ".pth", ".th", ".pt", ".bin")


def load(name: str) -> Backbone:
    """PATH is one of
    - a folder with model.safetensors and a config.json that names the "architecture" (timm's, cifar_resnet20 and the like, tiny:image,
      tiny:text, doodle, vectors, columns:mlp, signal:3), optionally "model_args" for it and timm's "pretrained_cfg" for the preprocessing;
    - a folder with model.safetensors and an architecture.json, a list of Keras layers (see `_keras.from_tensors`);
    - a Hugging Face or sentence-transformers folder;
    - a .safetensors, .pth, .th, .pt or .bin file of weights, with such a config.json beside it.
    PATH@ARCHITECTURE names the architecture where no config.json does. What a config.json holds as "card" (licence, pretrained_on,
    published, as text) is the backbone's card.

    Raises GraftError when there is nothing at PATH, the architecture is not named, or the weights do not fit.
    """
    shown = f"checkpoint:{name}"
    path, architecture = Path(name).expanduser(), ""
    if not path.exists() and "@" in name:
        location, _, architecture = name.rpartition("@")
        path = Path(location).expanduser()
    if not path.exists():
        raise GraftError(
            f"{shown}: there is no {path}.{_neighbour(path)} Give a folder of weights, or a file that ends in {', '.join(_ENDINGS)}."
        )
    folder = path if path.is_dir() else path.parent
    config = _folders.read_json(folder / "config.json") if (folder / "config.json").exists() and not architecture else {}
    backbone = _loaded(path, folder, config, architecture, shown)
    if "card" in config:
        backbone.card = _card(config["card"], folder / "config.json")
    return backbone


def _card(held: Any, path: Path) -> dict[str, str]:
    if not isinstance(held, dict) or not all(isinstance(text, str) for text in held.values()):
        raise GraftError(f'{path}: its card is {held!r}, expected names and texts, e.g. {{"licence": "mit", "pretrained_on": "..."}}.')
    return held


def _loaded(path: Path, folder: Path, config: dict[str, Any], architecture: str, shown: str) -> Backbone:
    if str(config.get("architecture")).startswith("rows:"):
        backbone = rows.load(config["architecture"].removeprefix("rows:"))
        backbone.name = shown
        return backbone
    weights = _weights(path, shown)
    if path.is_dir() and not architecture:
        if (folder / "modules.json").exists():
            return sentence.load_folder(folder, shown)
        if "model_type" in config:
            return hf.load_location(str(folder), shown)
        if "architecture" not in config and (folder / "architecture.json").exists():
            return _keras.from_tensors(_folders.read_json(folder / "architecture.json", list), _folders.read_tensors(weights), shown)
    architecture = architecture or config.get("architecture", "")
    if not isinstance(architecture, str) or not architecture:
        raise GraftError(
            f"{shown}: nothing says which network these weights belong to. Write {folder / 'config.json'} with "
            f'{{"architecture": NAME}}, or name it behind the path: checkpoint:{path}@NAME.{_guess(weights)}'
        )
    tensors = _folders.read_tensors(weights)
    if architecture == vectors.ARCHITECTURE:
        # Beside its weights it needs its words, which lie in the folder.
        return vectors.from_folder(folder, tensors, shown)
    family = "".join(architecture.partition(":")[:2])
    return _FAMILIES.get(family, _networks.from_tensors)({**config, "architecture": architecture}, tensors, shown)


def _tiny(config: dict[str, Any], tensors: _folders.Tensors, shown: str) -> Backbone:
    size = {"size_px": int(config["size_px"])} if "size_px" in config else {}
    backbone = tiny.load(config["architecture"].removeprefix("tiny:"), **size)
    _folders.fit(backbone, tensors, shown)
    backbone.name, backbone.classifier = shown, lambda: None
    return backbone


# Up to its colon, where it has one, the architecture says who makes a network of config and tensors; any other is timm's.
_FAMILIES = {
    "tiny:": _tiny,
    _doodle.ARCHITECTURE: _doodle.from_tensors,
    "columns:": columns.from_folder,
    "signal:": signal.from_folder,
}


def _weights(path: Path, shown: str) -> Path:
    """The file of weights that a path means."""
    if path.is_file():
        if path.suffix not in _ENDINGS:
            raise GraftError(
                f"{shown}: ends in {path.suffix or 'nothing'}, expected a folder or a file that ends in {', '.join(_ENDINGS)}."
            )
        return path
    found = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS)
    # Folders of transformers may hold several shards, which transformers puts together.
    if path / "model.safetensors" in found or len(found) == 1 or (found and (path / "config.json").exists()):
        return path / "model.safetensors" if path / "model.safetensors" in found else found[0]
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    if found:
        raise GraftError(f"{shown}: holds {len(found)} files of weights ({inside}), expected one. Name the file: checkpoint:{found[0]}")
    below = [*path.glob("*"), *path.glob("*/*")]
    deeper = sorted(entry for entry in below if (entry / "model.safetensors").exists() and (entry / "config.json").exists())
    hint = f" Did you mean 'checkpoint:{deeper[0]}'?" if deeper else ""
    raise GraftError(f"{shown}: holds {inside}, expected model.safetensors and config.json.{hint}")


def _neighbour(path: Path) -> str:
    return near_miss(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else ""


def _guess(weights: Path) -> str:
    """The near miss for a file called like the network in it, e.g. resnet50-0676ba61.pth."""
    stem: Any = weights.stem.partition("-")[0]
    known = _networks.library().list_models()
    return f" Did you mean 'checkpoint:{weights}@{stem}'?" if stem in known else near_miss(stem, known)
