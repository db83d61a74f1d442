"""What a network is taught by items without labels: one file a family of tasks. Heavy: torch. None knows the loop.

A pretext is a loss that a plan may name, as those of `graft.losses`, and makes of a batch what it wants the network to read.
"""

from graft.pretext.base import PRETEXTS, Pretext
from graft.pretext.distillation import Distillation

__all__ = ["PRETEXTS", "Distillation", "Pretext"]
