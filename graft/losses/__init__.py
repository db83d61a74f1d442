"""Losses that a plan adds to its task's own: one file a method. Heavy: torch. None knows the loop, another loss, or a strategy."""

from graft.losses.adversarial import Adda, Cdan, CdanEntropy, Dann, MarginDisparity
from graft.losses.base import LOSSES, Added, Other, Seen, Source, Start
from graft.losses.bituning import BiTuning
from graft.losses.cosface import CosFace
from graft.losses.cotuning import CoTuning
from graft.losses.delta import Delta
from graft.losses.discrepancy import BatchNuclearNorm, Dan, DeepCoral, Jan, MinimumClassConfusion
from graft.losses.norms import BatchSpectralShrinkage, HeadNorm
from graft.losses.replay import Replay
from graft.losses.target_alone import ClassBalancedSelfTraining, Consistency, ConsistencyBalanced, EntropyMinimisation, Shot

__all__ = [
    "LOSSES",
    "Adda",
    "Added",
    "BatchNuclearNorm",
    "BatchSpectralShrinkage",
    "BiTuning",
    "Cdan",
    "CdanEntropy",
    "ClassBalancedSelfTraining",
    "CoTuning",
    "Consistency",
    "ConsistencyBalanced",
    "CosFace",
    "Dan",
    "Dann",
    "DeepCoral",
    "Delta",
    "EntropyMinimisation",
    "HeadNorm",
    "Jan",
    "MarginDisparity",
    "MinimumClassConfusion",
    "Other",
    "Replay",
    "Seen",
    "Shot",
    "Source",
    "Start",
]
