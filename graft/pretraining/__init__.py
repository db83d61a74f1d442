"""From items without labels to a backbone: a start, a pretext, the one loop, a folder that `checkpoint:` loads. Heavy: torch."""

from graft.pretraining.methods import DEFAULTS, METHODS, SUPERVISED, Method
from graft.pretraining.run import Pretrained, pretrain

__all__ = ["DEFAULTS", "METHODS", "SUPERVISED", "Method", "Pretrained", "pretrain"]
