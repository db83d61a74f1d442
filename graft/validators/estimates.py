"""Estimates of a model's accuracy on a target whose labels nobody has, 0 to 1. numpy and SciPy."""

from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import entr
from scipy.stats import norm

from graft.validators.base import ESTIMATES, Judged, needs


@ESTIMATES.add("Garg et al. 2022, arXiv:2201.04234")
@needs("source")
def atc(judged: Judged) -> float:
    """Share of target items surer than a threshold that as many source items pass as are right (ATC).

    By the highest probability, after `Judged.calibrated`. A share of the items that lie on the threshold is counted as it is in the source,
    where the authors count none, so that a target that is the held-out source gets its accuracy for certain.
    """
    return above_threshold(judged, *(outputs.max(axis=1) for outputs in judged.calibrated))


@ESTIMATES.add("Garg et al. 2022, arXiv:2201.04234")
@needs("source")
def atc_entropy(judged: Judged) -> float:
    """As `atc`, with minus the entropy in place of the highest probability."""
    return above_threshold(judged, *(-entr(outputs).sum(axis=1) for outputs in judged.calibrated))


@ESTIMATES.add("Guillory et al. 2021, arXiv:2107.03315")
@needs("source")
def doc(judged: Judged) -> float:
    """Held-out source accuracy, less what mean confidence falls from source to target (difference of confidences).

    Cut to 0 to 1, after `Judged.calibrated`. Differs: as in Garg et al. 2022, a fall in confidence is one in accuracy; the authors fit how
    much.
    """
    source, target = (outputs.max(axis=1).mean() for outputs in judged.calibrated)
    return float(np.clip(judged.right.mean() + target - source, 0, 1))


@ESTIMATES.add("Hendrycks & Gimpel 2017, arXiv:1610.02136; Guo et al. 2017, arXiv:1706.04599")
@needs("source")
def average_confidence(judged: Judged) -> float:
    """Mean highest probability of the target items, calibrated on the source: right where calibration lasts."""
    return float(judged.calibrated[1].max(axis=1).mean())


@ESTIMATES.add("Sugiyama et al. 2007, JMLR 8:985; Cortes et al. 2010, NeurIPS, for the cut of weights")
@needs("source", "learned")
def reweighted_source(judged: Judged) -> float:
    """Accuracy on held-out source items weighted by how much more frequent each is in the target.

    Right where p(class | item) stays and source items lie wherever target items do.
    """
    return float(np.average(judged.right, weights=judged.importance))


@ESTIMATES.add("Lu et al. 2023, arXiv:2305.15640")
@needs("source")
def cot(judged: Judged) -> float:
    """1 less the cost of carrying the target outputs to one-hot labels in the source's shares (confidence optimal transport).

    After `Judged.calibrated`, of at most 2,000 target items. As the cost of an output p for class k is half of |p - onehot(k)|, which is
    1 - p[k], this is the mean probability under the best assignment with those shares: at most `average_confidence`.
    """
    outputs = judged.calibrated[1][judged.drawn]
    labels = np.repeat(np.arange(len(judged.prior)), counts_of(judged.prior, len(outputs)))
    costs = 1 - outputs[:, labels]
    return float(1 - costs[linear_sum_assignment(costs)].mean())


@ESTIMATES.add("Baek et al. 2022, arXiv:2206.13089")
@needs("source", "line")
def agreement_on_line(judged: Judged) -> float:
    """Source accuracy, carried over by the line of models' agreement on source and target (ALine-S).

    The line is fitted by least squares in probits, over all pairs of this and the other models; where agreement on the source does not
    vary it has slope 1. The authors trust it only where agreement lies close to a line. A share counts as half an item from 0 and 1.
    """
    names = judged.on_both_sides
    source = [outputs.argmax(axis=1) for outputs in (judged.source_outputs, *(judged.others_source[name] for name in names))]
    target = [outputs.argmax(axis=1) for outputs in (judged.target_outputs, *(judged.others[name] for name in names))]
    along, up = (np.array([_probit(one == other) for one, other in combinations(side, 2)]) for side in (source, target))
    slope = np.cov(along, up)[0, 1] / np.var(along, ddof=1) if np.ptp(along) > 0 else 1.0
    return float(norm.cdf(up.mean() + slope * (_probit(judged.right) - along.mean())))


def above_threshold(judged: Judged, source: np.ndarray, target: np.ndarray) -> float:
    """Share of target scores (m,) above the source score (v,) below which as many held-out items lie as the model gets wrong."""
    wrong = int((~judged.right).sum())
    if not wrong:
        return 1.0
    threshold = np.sort(source)[wrong - 1]
    tied = (wrong - (source < threshold).sum()) / (source == threshold).sum()
    return float((target > threshold).mean() + (1 - tied) * (target == threshold).mean())


def counts_of(prior: np.ndarray, n: int) -> np.ndarray:
    """n items in the shares of `prior`, whole numbers: the largest remainders are rounded up."""
    shares = prior / prior.sum() * n
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: n - counts.sum()]] += 1
    return counts


def _probit(hits: np.ndarray) -> float:
    """The standard normal quantile of a share of (n,) bool, at least half an item from 0 and from 1."""
    half = 0.5 / len(hits)
    return float(norm.ppf(np.clip(hits.mean(), half, 1 - half)))
