"""`untrained:SOURCE:NAME`: the network of any other source with random weights, to see what its pretraining is worth."""

from graft import backbones
from graft.backbones.base import Backbone
from graft.errors import GraftError


def load(name: str) -> Backbone:
    """NAME is a whole name of another source, e.g. "timm:resnet18", "checkpoint:weights/mine@96px", "sentence:minilm@3layers".

    The weights are those of seed 0, as the network's family initialises them; preprocessing and tokenizer stay the named network's. A
    source with a function `untrained` is not asked for weights at all.
    Raises GraftError as the other source does, and for "untrained:" twice.
    """
    if name.startswith("untrained:"):
        raise GraftError(f"untrained:{name}: is untrained twice, expected another source behind untrained:, e.g. untrained:timm:resnet18.")
    backbone = backbones.build(name, "untrained")
    backbone.reset(seed=0)
    backbone.name = f"untrained:{name}"
    backbone.card = {**backbone.card, "pretrained_on": "nothing: random weights"}
    backbone.card.pop("published", None)
    backbone.classifier = lambda: None
    return backbone
