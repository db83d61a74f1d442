"""Another mix of classes in the target: how large each class is there, and the head's bias moved accordingly. No features are changed."""

from dataclasses import replace
from typing import cast

import numpy as np
from scipy.optimize import nnls

from graft.errors import GraftError
from graft.shift.base import Adapted, Domains, method, unmoved


@method(
    "Lipton et al. 2018, Detecting and correcting for label shift with black box predictors, arXiv:1802.03916, section 3",
    grid=({}, {"soft": False}),
)
def bbse(domains: Domains, soft: bool = True) -> Adapted:
    """Shares of the classes in the target from the errors that the head makes on the source; the head's bias moves by their log ratio.

    soft: see `bbse_shares`. Raises GraftError where the source has no held-out outputs.
    Source: Lipton et al. 2018. Differs: the bias is moved where they fit again with weights of the classes. Under label shift this is
    exact for calibrated outputs (Bayes' rule), which the head's are; and it costs nothing.
    """
    if domains.held_out is None:
        raise GraftError("method bbse: the source has no held-out outputs, expected (n, c). Give them, or use saerens, which needs none.")
    return _moved(domains, bbse_shares(domains.held_out, domains.labels, domains.head.outputs(domains.target), soft=soft))


@method(
    "Saerens et al. 2002, Adjusting the outputs of a classifier to new a priori probabilities, doi:10.1162/089976602753284446, eq. 2.9",
    needs_source=False,
)
def saerens(domains: Domains) -> Adapted:
    """Shares of the classes under which the target's outputs are likeliest; the head's bias moves by their log ratio.

    Source: Saerens et al. 2002, see `saerens_shares`.
    """
    return _moved(domains, saerens_shares(domains.head.outputs(domains.target), domains.prior))


def _moved(domains: Domains, shares: np.ndarray) -> Adapted:
    """The head with its bias moved from the source's shares of classes to others, and the source's items weighed accordingly."""
    prior, m = np.asarray(domains.prior, float), len(domains.target)
    known = prior > 0
    # Less than one item's worth cannot be told from the target's items.
    ratio = np.maximum(shares, 1 / (m + len(prior)))[known] / prior[known]
    bias = domains.head.bias.copy()
    bias[known] += np.log(ratio).astype(bias.dtype)
    by_class = np.zeros(len(prior))
    by_class[known] = ratio
    weights = by_class[domains.labels] if len(domains.labels) else None
    if weights is not None:
        weights = weights / weights.mean()
    return unmoved(domains, replace(domains.head, bias=bias), weights)


def bbse_shares(held_out: np.ndarray, labels: np.ndarray, target_outputs: np.ndarray, *, soft: bool = True) -> np.ndarray:
    """(c,) estimated shares of the classes in the target: at least 0, with sum 1.

    held_out: (n, c) outputs for source items by heads that did not learn from them. labels: (n,) int. target_outputs: (m, c).
    soft: count each item by its probabilities; False: by its likeliest class alone. Raises GraftError for shapes that do not fit.
    Solves C w = mu, w = target share / source share of each class; C_ij: share of the source's items that are of class j and were
    predicted as i; mu_i: share of the target's items predicted as i. Lipton et al. 2018, eq. 1 and Proposition 2.
    Differs: least squares under w >= 0, in place of an inverse clipped at 0; and where classes are confused so much that sampling noise
    would decide, w is pulled towards 1, as in Azizzadenesheli et al. 2019, arXiv:1903.09734, by the sampling variance of a share.
    """
    n, m, c = len(held_out), len(target_outputs), np.shape(held_out)[-1]
    if np.ndim(held_out) != 2 or np.shape(labels) != (n,) or np.shape(target_outputs) != (m, c) or not n or not m:
        raise GraftError(
            f"bbse_shares: held_out has shape {np.shape(held_out)}, labels {np.shape(labels)}, target_outputs {np.shape(target_outputs)}, "
            "expected (n, c), (n,) and (m, c) with n and m above 0."
        )
    source, target = (
        np.asarray(outputs, float) if soft else np.eye(c)[np.argmax(outputs, axis=1)] for outputs in (held_out, target_outputs)
    )
    truth = np.eye(c)[labels]
    prior = truth.mean(axis=0)
    there = prior > 0
    confusion, seen = (source.T @ truth / n)[:, there], target.mean(axis=0)
    noise = (1 / n + 1 / m) / c
    # With a variance of 1 for w itself; a tenth of that is told well enough without help.
    weakest = float(np.linalg.svd(confusion, compute_uv=False)[-1])
    pull = np.sqrt(noise) if weakest**2 < 10 * noise else 0.0
    count = int(there.sum())
    ratio, _ = nnls(np.vstack([confusion, pull * np.eye(count)]), np.concatenate([seen, np.full(count, pull)]))
    shares = np.zeros(c)
    shares[there] = ratio * prior[there]
    return shares / shares.sum()


def saerens_shares(target_outputs: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(c,) estimated shares of the classes in the target: at least 0, with sum 1.

    target_outputs: (m, c) calibrated probabilities of a classifier that learned where classes had the shares prior (c,).
    Raises GraftError for shapes that do not fit.
    EM, from the prior: Saerens et al. 2002, eq. 2.9; the likelihood is concave, so that the end does not hang on the start.
    """
    m, c = np.shape(target_outputs) if np.ndim(target_outputs) == 2 else (0, 0)
    prior = np.asarray(prior, float)
    if not m or prior.shape != (c,) or not prior.sum() > 0:
        raise GraftError(
            f"saerens_shares: target_outputs have shape {np.shape(target_outputs)}, prior {prior.shape} with sum {prior.sum():g}, "
            "expected (m, c) with m above 0, and c shares."
        )
    outputs, start = np.asarray(target_outputs, float), prior / prior.sum()
    # A class that the source lacks stays away: nothing is known of it.
    likelihood = np.divide(outputs, start, out=np.zeros_like(outputs), where=start > 0)
    shares = start
    for _ in range(2000):
        joint = likelihood * shares
        new = (joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)).mean(axis=0)
        new /= new.sum()
        done = float(np.abs(new - shares).max()) < 1e-7
        shares = new
        if done:
            break
    return cast(np.ndarray, shares)
