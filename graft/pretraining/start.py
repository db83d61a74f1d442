"""The network to begin with. Heavy: torch."""

from graft.backbones import columns, load_backbone, shipped
from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.pretraining.material import Material

_SHIPPED = "image"
# Where that is not installed: small, and quick on processors.
_IMAGE = "untrained:timm:mobilenetv3_small_100@96px"
_TEXT = "sentence:minilm"
# What may read what: a table's rows are texts, too.
_READERS = {"image": ("image",), "text": ("text",), "table": ("table", "text"), "signal": ("signal",)}


def begun_with(name: str | None, material: Material, seed: int) -> Backbone:
    """The backbone that is named, else the default for such items. seed: of the weights where they are random.

    Raises GraftError where it reads other items than these.
    """
    backbone = _default(material, seed) if name is None else load_backbone(name)
    if name is not None and name.startswith("untrained:"):
        backbone.reset(seed)
    refuse_other_items(backbone, material, "the start")
    return backbone


def refuse_other_items(backbone: Backbone, material: Material, what: str) -> None:
    if backbone.modality not in _READERS[material.modality]:
        raise GraftError(
            f"{what} {backbone.name} reads {backbone.modality}s and {material.name} holds {material.modality}s, expected a backbone for "
            f"{' or '.join(f'{one}s' for one in _READERS[material.modality])}. Name another one, or leave it out."
        )


def _default(material: Material, seed: int) -> Backbone:
    if material.modality == "text":
        return load_backbone(_TEXT)
    if material.modality == "table":
        assert material.dataset is not None, "tables are data sets"
        return columns.fresh(material.dataset, seed=seed)
    if material.modality == "image" and _SHIPPED in shipped.names():
        return load_backbone(f"shipped:{_SHIPPED}")
    backbone = load_backbone(_IMAGE if material.modality == "image" else f"signal:{len(material.items[0])}")
    backbone.reset(seed)
    return backbone
