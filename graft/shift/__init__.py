"""Adaptation on features: labelled rows of a source, unlabelled ones of a target -> a head. numpy, SciPy, scikit-learn."""

from graft.shift import alignment, transport  # noqa: F401  (each adds its methods to SHIFTS)
from graft.shift.base import SHIFTS, Adapted, Domains, method

__all__ = ["SHIFTS", "Adapted", "Domains", "method"]
