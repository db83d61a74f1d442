"""Losses that a plan adds to its task's own: one file a method. Heavy: torch. None knows the loop, another loss, or a strategy."""

from graft.losses.base import LOSSES, Added, Other, Seen, Source, Start
from graft.losses.bituning import BiTuning
from graft.losses.cotuning import CoTuning
from graft.losses.delta import Delta
from graft.losses.norms import BatchSpectralShrinkage, HeadNorm

__all__ = ["LOSSES", "Added", "BatchSpectralShrinkage", "BiTuning", "CoTuning", "Delta", "HeadNorm", "Other", "Seen", "Source", "Start"]
