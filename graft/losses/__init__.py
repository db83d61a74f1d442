"""Losses that a plan adds to its task's own: one file a method. Heavy: torch. None knows the loop, another loss, or a strategy."""

from graft.losses.base import LOSSES, Added, Other, Seen, Source, Start
from graft.losses.bituning import BiTuning
from graft.losses.cotuning import CoTuning
from graft.losses.delta import Delta
from graft.losses.norms import BatchSpectralShrinkage, HeadNorm
from graft.losses.target_alone import ClassBalancedSelfTraining, Consistency, ConsistencyBalanced, EntropyMinimisation, Shot

__all__ = [
    "LOSSES",
    "Added",
    "BatchSpectralShrinkage",
    "BiTuning",
    "ClassBalancedSelfTraining",
    "CoTuning",
    "Consistency",
    "ConsistencyBalanced",
    "Delta",
    "EntropyMinimisation",
    "HeadNorm",
    "Other",
    "Seen",
    "Shot",
    "Source",
    "Start",
]
