"""`timm:NAME`: image networks of the timm library with their published weights."""

from torch import nn

from graft.backbones import _networks
from graft.backbones.base import Backbone
from graft.errors import GraftError


def load(name: str, pretrained: bool = True) -> Backbone:
    """NAME as timm knows it ("resnet18", "resnet18.a1_in1k"), or a repository of timm weights on the hub ("owner/model").

    Weights come from the local cache or, where the network is allowed, from the hub; pretrained=False wants none.
    Raises GraftError for a name timm does not know, and where the weights cannot be had.
    """
    timm = _networks.library()
    if "/" not in name:
        _networks.check_name(name, f"timm:{name}")
    known = f"hf-hub:{name}" if "/" in name and not name.startswith("hf-hub:") else name
    try:
        network = timm.create_model(known, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        # RuntimeError is what timm raises for a network that was published without weights.
        raise GraftError(
            f"timm:{name}: its weights could not be had ({type(error).__name__}: {str(error).partition(chr(10))[0]}). Allow the network "
            "(unset HF_HUB_OFFLINE), or download them where there is one and give the folder: checkpoint:PATH."
        ) from error
    published = network.pretrained_cfg
    recipe = {"architecture": published["architecture"], "num_classes": 0, "model_args": {}, "pretrained_cfg": published}

    def classifier() -> nn.Module | None:
        # Loaded a second time, from timm's own cache, only where it is asked for.
        layer = timm.create_model(known, pretrained=True).get_classifier()
        return layer if isinstance(layer, nn.Linear) else None

    return _networks.assemble(network, recipe, f"timm:{name}", classifier)


def untrained(name: str) -> Backbone:
    """As `load`, with random weights: nothing is downloaded for a NAME that timm knows."""
    return load(name, pretrained=False)
