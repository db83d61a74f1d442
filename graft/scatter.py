"""What methods share: principal axes, effective rank, an order of items, ridge and LDA of every strength. numpy and SciPy only."""

import numpy as np
from scipy.linalg import eigh, eigvalsh
from threadpoolctl import threadpool_limits

# A variance below this share of the largest is rounding: half of the digits of float64 are lost in a product of features with themselves.
_NO_VARIANCE = 1e-10
# The same of features that were float32, which holds seven digits.
_NO_VARIANCE_OF_FLOAT32 = 1e-6
# What RankMe's authors add to each share of singular values.
_TINY_SHARE = 1e-7

# A decorator. Where other work shares the cores, factorisations wait for each other: one of 1,280 features took 0.8 s with one thread and
# 5 s with two, on two cores.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


def principal_axes(features: np.ndarray, at_most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares (r,) along the axes (d, r) in which features as given (centred or not) have any, largest first; r at most n and d.

    features: (n, d), float64: float32 has too few digits for the least of the axes. at_most: only so many of them.
    """
    squares, vectors, wide = _decomposed(features, _NO_VARIANCE, at_most)
    return squares, features.T @ (vectors / np.sqrt(squares)) if wide else vectors


def weighted_axes(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where items lie along the axes in which they vary at all, most variance first: (centre (d,), axes (d, r), turned (n, r)).

    features: (n, d), float32 or float64. weights: (n,). r: at most n and d. turned = (features - centre) @ axes has weighted mean 0 and no
    covariance between columns. Labels are not seen.
    """
    share = (weights / weights.sum()).astype(np.float32)
    root, centre = np.sqrt(share)[:, None], share @ features
    if not features.shape[1]:
        # Every feature is the same for all items: a dead network's head can only tell how frequent classes are.
        return centre, np.zeros((0, 0), np.float32), np.zeros((len(features), 0), np.float32)
    tilted = (features - centre) * root
    variances, vectors, wide = _decomposed(tilted, _NO_VARIANCE_OF_FLOAT32)
    if not wide:
        return centre, vectors, (features - centre) @ vectors
    lengths = np.sqrt(variances)
    return centre, tilted.T @ (vectors / lengths), vectors * lengths / root


def _decomposed(features: np.ndarray, least: float, at_most: int | None = None) -> tuple[np.ndarray, np.ndarray, bool]:
    """Eigenvalues above `least` times the largest, largest first, and vectors of the smaller of X X' and X'X; whether it is X X'."""
    wide = len(features) < features.shape[1]
    product = features @ features.T if wide else features.T @ features
    size = len(product)
    if at_most is None or at_most >= size // 4:
        # evd takes half the time of SciPy's default when all axes are wanted (44 against 80 ms for 800).
        squares, vectors = eigh(product, driver="evd")
    else:
        squares, vectors = eigh(product, subset_by_index=(size - at_most, size - 1))
    squares, vectors = squares[::-1], vectors[:, ::-1]
    kept = squares > least * squares[0]
    if at_most is not None:
        kept[at_most:] = False
    return squares[kept], vectors[:, kept], wide


def in_own_order(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) indices that put items in an order that hangs on what they are, not on how they came: by label, then by a fixed projection.

    Whatever is drawn or cut into folds afterwards is then the same for the same items.
    """
    return np.lexsort((features @ np.cos(np.arange(features.shape[1])), labels))


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares: how many directions features (n, d) fill, 1 to min(n, d); not centred.

    Source: Garrido et al. 2023, arXiv:2210.02885, eq. 1. Differs: 1 for features that are all 0.
    """
    wide = len(features) < features.shape[1]
    squares = eigvalsh(features @ features.T if wide else features.T @ features)
    lengths = np.sqrt(np.maximum(squares, 0.0))
    if not lengths.any():
        return 1.0
    share = lengths / lengths.sum() + _TINY_SHARE
    return float(np.exp(-(share * np.log(share)).sum()))


class Scatter:
    """What ridge and LDA need of n items that lie along their principal axes.

    turned: (n, r) as from `weighted_axes`. target: (n, c). weights: (n,).
    out, in the methods: indices of items to leave out (m,); m solves stand for one new fit, so it is meant for m < r.
    """

    def __init__(self, turned: np.ndarray, target: np.ndarray, weights: np.ndarray) -> None:
        self.turned, self.target = turned, target
        self.share = (weights / weights.sum()).astype(np.float32)
        self.level = self.share @ target
        mass = target * self.share[:, None]
        self.variances = self.share @ turned**2
        self.pull = turned.T @ (mass - self.share[:, None] * self.level)
        self.masses, self.sums = mass.sum(axis=0), mass.T @ turned

    def ridge(self, strength: float, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The weight (r, c) and bias (c,) that minimise the weighted mean of the squared errors + strength * |weight|^2.

        Without items out: weight - A^-1 X_out' (I - H_out)^-1 error_out; Cook & Weisberg 1982, A.2.1, with the bias as a free column.
        """
        left = 1.0 if out is None else 1.0 - float(self.share[out].sum())
        damped = 1 / (self.variances + np.float32(strength * left))
        weight, bias = damped[:, None] * self.pull, self.level
        if out is None:
            return weight, bias
        # In double precision: with r near n, what 1 - hat leaves is a few thousandths of what it is taken from.
        root = np.sqrt(self.share[out])[:, None].astype(np.float64)
        rows = self.turned[out] * root
        hat = (rows * damped) @ rows.T + root * root.T
        error = self.target[out] * root - (rows @ weight + root * bias)
        # A little more than one: rounding must not let items decide more than all of their own predictions.
        error = np.linalg.solve((1 + 1e-7) * np.eye(len(out)) - hat, error).astype(np.float32)
        rows, root = rows.astype(np.float32), root.astype(np.float32)
        return weight - damped[:, None] * (rows.T @ error), bias - (root * error).sum(axis=0)

    def lda(self, strength: float, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The weight (r, c) and bias (c,) of LDA whose covariance is (1 - strength) * within + strength * mean variance * identity.

        target must be one-hot. The total scatter is that within plus that between c means, so that by Woodbury's formula LDA is
        ridge on the classes and a c x c system (Hastie et al. 1994, doi:10.1080/01621459.1994.10476866). Classes that only
        items left out have get weight 0 and bias 0.
        """
        masses, sums, inner = self.masses, self.sums, float(self.variances.sum())
        if out is not None:
            gone = self.target[out] * self.share[out][:, None]
            masses, sums = masses - gone.sum(axis=0), sums - gone.T @ self.turned[out]
            inner -= float(self.share[out] @ (self.turned[out] ** 2).sum(axis=1))
        seen = (self.target.sum(axis=0) - (0 if out is None else self.target[out].sum(axis=0))) > 0
        masses, means = masses[seen].astype(np.float64), sums[seen] / masses[seen, None]
        typical = (inner - float(masses @ (means**2).sum(axis=1))) / masses.sum() / max(1, means.shape[1])
        strength = min(strength, 1 - 1e-6)
        prior = masses / masses.sum()
        by_class = self.ridge(strength / (1 - strength) * max(typical, 1e-6), out)[0][:, seen] / prior
        middle = prior @ means
        offset = means - middle
        slopes = by_class @ np.linalg.inv(np.eye(len(prior)) - prior[:, None] * (offset @ by_class)) / (1 - strength)
        weight, bias = np.zeros((len(slopes), len(seen)), np.float32), np.zeros(len(seen), np.float32)
        weight[:, seen], bias[seen] = slopes, np.log(prior) - 0.5 * ((means + middle).T * slopes).sum(axis=0)
        return weight, bias

    def each_left_out(self, strength: float) -> np.ndarray:
        """(n, c): what ridge predicts for each item when fitted on all the others, the penalty staying a share of all.

        error left out = error / (1 - leverage); Cook & Weisberg 1982, eq. 2.2.8, with the bias as a free column.
        """
        weight, bias = self.ridge(strength)
        leverage = self.share * (1 + self.turned**2 @ (1 / (self.variances + np.float32(strength))))
        error = (self.target - self.turned @ weight - bias) / np.maximum(1 - leverage, 1e-6)[:, None]
        return self.target - error
