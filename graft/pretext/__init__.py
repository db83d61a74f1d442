"""What a network is taught by items without labels: one file a family of tasks. Heavy: torch. None knows the loop.

A pretext is a loss that a plan may name, as those of `graft.losses`, and makes of a batch what it wants the network to read.
"""

from graft.pretext import contrastive, distillation, masked_images, rotation, rows, siamese, signals, texts
from graft.pretext.base import PRETEXTS, Pretext

__all__ = ["PRETEXTS", "Pretext", "contrastive", "distillation", "masked_images", "rotation", "rows", "siamese", "signals", "texts"]
