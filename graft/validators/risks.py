"""Validators that ask held-out source items: plain, weighted towards the target, or by a classifier that comes back. numpy only."""

import numpy as np

from graft.validators.base import TINY, VALIDATORS, Judged, needs


@VALIDATORS.add("Musgrave et al. 2022, arXiv:2208.07360, as the baseline")
@needs("source")
def source_risk(judged: Judged) -> float:
    """Accuracy on held-out source items: what is known for certain, of the wrong domain; 0 to 1."""
    return float(judged.right.mean())


@VALIDATORS.add("Sugiyama et al. 2007, JMLR 8:985")
@needs("source", "learned")
def iwcv(judged: Judged) -> float:
    """Minus the log loss on held-out source items, weighted by how much more frequent each is in the target.

    At most 0, at least -27.7. It tells little where few source items lie among those of the target. Differs: weights are scaled to mean 1.
    Where domains are far apart all raw weights of a source fall towards 0, and any loss with them.
    """
    return -float(np.average(log_losses(judged), weights=judged.importance))


@VALIDATORS.add("You et al. 2019, ICML, PMLR 97:7124")
@needs("source", "learned")
def dev(judged: Judged) -> float:
    """Minus the weighted log loss on held-out source items with the weights as control variate (deep embedded validation).

    Any number, mostly below 0. Source: algorithm 1: mean(L) + eta mean(W) - eta, where L = W x loss, eta = -cov(L, W) / var(W).
    Differs: the weights' own classifier is `density_ratio`; eta is 0 where all weights are equal.
    """
    return -controlled_risk(judged.importance, log_losses(judged))


@VALIDATORS.add("Musgrave et al. 2022, arXiv:2208.07360")
@needs("source", "learned")
def devn(judged: Judged) -> float:
    """`dev` with weights divided by the largest and shifted to mean 1, which no single item can dominate.

    Any number, mostly below 0.
    """
    weights = judged.importance / judged.importance.max()
    return -controlled_risk(weights - weights.mean() + 1, log_losses(judged))


@VALIDATORS.add("Bruzzone & Marconcini 2010, doi:10.1109/TPAMI.2009.57; Zhong et al. 2010, doi:10.1007/978-3-642-15939-8_35")
@needs("source")
def reverse(judged: Judged) -> float:
    """Accuracy on held-out source items of a new classifier that learned the target with the model's labels.

    0 to 1, of at most 2,000 target items. Where the model gives all one class, that is what comes back.
    Not corrected for where the items lie: see `reverse_weighted`.
    """
    return float(judged.comes_back.mean())


@VALIDATORS.add("Zhong et al. 2010, doi:10.1007/978-3-642-15939-8_35")
@needs("source", "learned")
def reverse_weighted(judged: Judged) -> float:
    """`reverse`, each item weighted by how much more frequent it is in the target than in the source; 0 to 1.

    A classifier of the target need not know the source where no target item lies: unweighted, it is blamed for that.
    Differs: Zhong et al. weigh what the first classifier learns from too, which here is the model's own affair.
    """
    return float(np.average(judged.comes_back, weights=judged.importance))


def log_losses(judged: Judged) -> np.ndarray:
    """(v,) minus the log of the probability of each held-out source item's own class; a probability counts as 1e-12 at least."""
    own = judged.source_outputs[np.arange(len(judged.source_labels)), judged.source_labels].astype(float)
    return -np.log(np.maximum(own, TINY))


def controlled_risk(weights: np.ndarray, losses: np.ndarray) -> float:
    """mean(L) + eta mean(W) - eta for weights W (v,), L = W x losses (v,): unbiased where W has mean 1, of the least variance in eta."""
    weighted = weights * losses
    if np.ptp(weights) == 0:
        return float(weighted.mean())
    eta = -np.cov(weighted, weights)[0, 1] / np.var(weights, ddof=1)
    return float(weighted.mean() + eta * weights.mean() - eta)
