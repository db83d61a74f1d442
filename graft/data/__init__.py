"""Data: load it, check it, split it. No torch."""

from graft.data.check import check
from graft.data.dataset import Column, Dataset, View
from graft.data.load import load, load_unlabelled
from graft.data.split import draw, folds, holdout, sparable
from graft.data.target import binary_rows, encode_target

__all__ = [
    "Column",
    "Dataset",
    "View",
    "binary_rows",
    "check",
    "draw",
    "encode_target",
    "folds",
    "holdout",
    "load",
    "load_unlabelled",
    "sparable",
]
