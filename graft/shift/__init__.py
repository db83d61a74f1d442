"""Adaptation on features: labelled rows of a source, unlabelled ones of a target -> a head. numpy, SciPy, scikit-learn."""

from graft.shift.alignment import coral, jda, mmd_projection, subspace, tca
from graft.shift.base import SHIFTS, Adapted, Domains, as_it_is, checked, method, source_only, unmoved
from graft.shift.label_shift import bbse, bbse_shares, saerens, saerens_shares
from graft.shift.reweighting import density_ratio, density_ratio_weights, kliep, kliep_weights, kmm, kmm_weights
from graft.shift.self_training import pseudo_labels, shot_labels, t3a
from graft.shift.standardise import standardise
from graft.shift.transport import joint_transport, optimal_transport

__all__ = [
    "SHIFTS",
    "Adapted",
    "Domains",
    "as_it_is",
    "bbse",
    "bbse_shares",
    "checked",
    "coral",
    "density_ratio",
    "density_ratio_weights",
    "jda",
    "joint_transport",
    "kliep",
    "kliep_weights",
    "kmm",
    "kmm_weights",
    "method",
    "mmd_projection",
    "optimal_transport",
    "pseudo_labels",
    "saerens",
    "saerens_shares",
    "shot_labels",
    "source_only",
    "standardise",
    "subspace",
    "t3a",
    "tca",
    "unmoved",
]
