"""The network to begin with. Heavy: torch."""

from graft.backbones import columns, load_backbone
from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.pretraining.material import Material

_DEFAULTS = {"image": "shipped:image", "text": "sentence:minilm"}
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
    if material.modality in _DEFAULTS:
        return load_backbone(_DEFAULTS[material.modality])
    if material.modality == "table":
        assert material.dataset is not None, "tables are data sets"
        return columns.fresh(material.dataset, seed=seed)
    backbone = load_backbone(f"signal:{len(material.items[0])}")
    backbone.reset(seed)
    return backbone
