"""Validators that look at the probabilities for the target alone: how sure, how even, how much alike. numpy and SciPy."""

import numpy as np
from scipy.linalg import svdvals
from scipy.special import entr, logsumexp

from graft.validators.base import TINY, VALIDATORS, Judged, needs

# Saito et al. 2021, section 4.
_TEMPERATURE = 0.05


@VALIDATORS.add("Morerio et al. 2018, arXiv:1711.10288")
@needs()
def entropy(judged: Judged) -> float:
    """Minus the mean entropy of the outputs.

    -log(c) to 0; a model that is sure of one class for all items has 0 too.
    """
    return -float(entr(judged.target_outputs.astype(float)).sum(axis=1).mean())


@VALIDATORS.add("Shi & Sha 2012, arXiv:1206.6438")
@needs()
def infomax(judged: Judged) -> float:
    """Entropy of the mean output less the mean entropy: sure of each item, and not of one class for all.

    0 to log(c); 0 where all outputs are the same.
    """
    outputs = judged.target_outputs.astype(float)
    return max(0.0, float(entr(outputs.mean(axis=0)).sum() - entr(outputs).sum(axis=1).mean()))


@VALIDATORS.add("Hendrycks & Gimpel 2017, arXiv:1610.02136, for the confidence")
@needs()
def confidence(judged: Judged) -> float:
    """Mean of the highest probability of each target item, as the model gives it: 1 / c to 1."""
    return float(judged.target_outputs.max(axis=1).mean())


@VALIDATORS.add("Kullback & Leibler 1951, doi:10.1214/aoms/1177729694, for the divergence")
@needs()
def class_balance(judged: Judged) -> float:
    """Minus the Kullback-Leibler divergence of the mean target output from the source's shares of classes.

    At most 0, at least -27.7. Low where a model collapsed to few classes, or where the target has other shares. A share of the source
    counts as 1e-12 at least.
    """
    mean, prior = judged.target_outputs.astype(float).mean(axis=0), np.maximum(judged.prior.astype(float), TINY)
    mean, prior = mean / mean.sum(), prior / prior.sum()
    return -max(0.0, float(-entr(mean).sum() - mean @ np.log(prior)))


@VALIDATORS.add("Saito et al. 2021, arXiv:2108.10860")
@needs()
def snd(judged: Judged) -> float:
    """Mean entropy of each target item's similarities to the others, by outputs (soft neighbourhood density).

    0 to log(m - 1), of at most 2,000 items; 0 of one item. High where outputs form dense groups; highest, against its purpose, where all
    are the same.
    """
    outputs = judged.target_outputs[judged.drawn].astype(float)
    if len(outputs) < 2:
        return 0.0
    outputs /= np.linalg.norm(outputs, axis=1, keepdims=True)
    pull = outputs @ outputs.T / _TEMPERATURE
    np.fill_diagonal(pull, -np.inf)
    pull -= logsumexp(pull, axis=1, keepdims=True)
    return float(entr(np.exp(pull)).sum(axis=1).mean())


@VALIDATORS.add("Cui et al. 2020, arXiv:2003.12237; as a validator Musgrave et al. 2022, arXiv:2208.07360")
@needs()
def bnm(judged: Judged) -> float:
    """Nuclear norm of the outputs as a share of the largest that it can be: sure and of many classes.

    Above 0, at most 1. Differs: all of the target at once, divided by sqrt(m min(m, c)), where the authors take batches and divide by m.
    """
    outputs = judged.target_outputs.astype(float)
    return float(svdvals(outputs).sum() / np.sqrt(len(outputs) * min(outputs.shape)))


@VALIDATORS.add("Jiang et al. 2022, arXiv:2106.13799, for agreement as evidence")
@needs("others")
def agreement(judged: Judged) -> float:
    """Mean share of target items to which the model and another one give the same class.

    0 to 1. Models that predict as this one does for all items are left out, and several that predict alike count once, so that a copy tells
    nothing. 0 where no other is left.
    """
    votes = {rows.argmax(axis=1).tobytes(): rows.argmax(axis=1) for rows in judged.others.values()}
    votes.pop(judged.predicted.tobytes(), None)
    return float(np.mean([(judged.predicted == vote).mean() for vote in votes.values()])) if votes else 0.0
