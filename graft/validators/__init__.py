"""Validators: how good a model is on a target whose labels nobody has. numpy, SciPy and scikit-learn. None knows who made the model.

A validator and an estimate are functions of `Judged`. Validators are higher where the model should be better, in their own unit, so that
they compare models; estimates are the accuracy to expect. All are finite. Above 2,000 target items, what looks at pairs of them or at
their features looks at 2,000, drawn with the seed.
"""

from graft.scatter import one_thread
from graft.validators import estimates, groups, outputs, risks
from graft.validators.base import ESTIMATES, VALIDATORS, Judged
from graft.validators.ratios import density_ratio

__all__ = ["ESTIMATES", "VALIDATORS", "Judged", "density_ratio", "estimates", "evidence", "groups", "outputs", "risks"]


@one_thread
def evidence(judged: Judged) -> dict[str, float]:
    """Every validator and estimate that can be had, by name; those that need what is not at hand are left out.

    What several use, as the density ratio and the clusters, is computed once and kept with `judged`.
    """
    return {
        name: registry[name](judged)
        for registry in (VALIDATORS, ESTIMATES)
        for name in registry
        if not any(judged.lacks(what) for what in registry[name].needs)
    }
