"""`untrained:SOURCE:NAME`: the network of any other source with random weights, to see what its pretraining is worth."""

from graft import backbones
from graft.backbones import _cifar_resnet, _networks
from graft.backbones.base import Backbone
from graft.errors import GraftError


def load(name: str) -> Backbone:
    """NAME is a whole name of another source, e.g. "timm:resnet18", "checkpoint:weights/mine@96px", "sentence:minilm@3layers", or
    one of the networks for 32 x 32 images that no source has by name: "cifar_resnet20", 32, 44, 56, 110.

    The weights are those of seed 0, as the network's family initialises them; preprocessing and tokenizer stay the named network's. A
    source with a function `untrained` is not asked for weights at all.
    Raises GraftError as the other source does, and for "untrained:" twice.
    """
    if name.startswith("untrained:"):
        raise GraftError(f"untrained:{name}: is untrained twice, expected another source behind untrained:, e.g. untrained:timm:resnet18.")
    if _cifar_resnet.is_name(name):
        recipe = {"architecture": name}
        backbone = _networks.assemble(_networks.create(recipe, name), recipe, name)
    else:
        backbone = backbones.build(name, "untrained")
    backbone.reset(seed=0)
    backbone.name = f"untrained:{name}"
    backbone.card = {**backbone.card, "pretrained_on": "nothing: random weights"}
    backbone.card.pop("published", None)
    backbone.classifier = lambda: None
    return backbone
