"""Validators: how good a model is on a target whose labels nobody has. numpy, SciPy and scikit-learn. None knows who made the model."""

from graft.validators.base import VALIDATORS, Judged

__all__ = ["VALIDATORS", "Judged"]
