"""Linear alignment: both sides are turned, stretched or projected until they look alike. numpy and SciPy only."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from graft.records import Task
from graft.scatter import weighted_axes
from graft.shift.base import Adapted, Domains, method
from graft.shift.checks import bounds, check_sides

_BOTH: tuple[Task, ...] = ("classification", "regression")
# Of the axes along which items vary, those of most variance among which `tca` and `jda` seek: the time grows with the cube.
_MOST_AXES = 512
_JDA = "Long et al. 2013, doi:10.1109/ICCV.2013.274; balance factor: Wang et al. 2017, doi:10.1109/ICDM.2017.150"


@method(
    "Sun, Feng & Saenko 2016, arXiv:1511.05547",
    tasks=_BOTH,
    grid=({}, {"shrinkage": 1.0}, {"shrinkage": 0.9}, {"shrinkage": 0.1}),
)
@threadpool_limits.wrap(limits=1, user_api="blas")
def coral(domains: Domains, shrinkage: float = 0.5) -> Adapted:
    """The source gets the mean and the covariance of the target; the target stays as it is.

    source -> (source - its mean) @ C_source^-1/2 @ C_target^1/2 + the target's mean, with
    C = (1 - shrinkage) * covariance + shrinkage * mean variance * identity. shrinkage: above 0, at most 1, where mean and overall spread
    alone are matched; 0.5 is the paper's covariance + identity, for features of variance 1.
    Raises GraftError for a shrinkage out of range, a side of one item, or one that does not vary.
    Source: Algorithm 1. Differs: the means are matched too (the paper centres both sides beforehand), and the identity is in units of
    each side's variance.
    """
    check_sides(domains, *bounds("shrinkage", shrinkage, above=0, most=1))
    both = _span(domains)
    width = domains.source.shape[1]
    (source_mean, source_shape), (target_mean, target_shape) = (_moments(side, shrinkage, width) for side in (both.source, both.target))
    inside = _power(source_shape, -0.5) @ _power(target_shape, 0.5)
    # Where no item varies, both covariances are a multiple of the identity: an item to come may still vary there.
    outside = float(np.sqrt(both.target.var(axis=0).sum() / both.source.var(axis=0).sum()))
    matrix = both.axes @ (inside - outside * np.eye(len(inside))) @ both.axes.T + outside * np.eye(width)
    read_source = _Affine(both.centre + both.axes @ source_mean, matrix, both.centre + both.axes @ target_mean)
    source = read_source(domains.source)
    head = domains.fit(source, domains.labels, None)
    return Adapted(head, head, read_source, source, domains.target)


@method(
    "Fernando et al. 2013, doi:10.1109/ICCV.2013.368",
    tasks=_BOTH,
    grid=({}, {"width": 200}, {"width": 50}, {"width": 20}),
)
@threadpool_limits.wrap(limits=1, user_api="blas")
def subspace(domains: Domains, width: int = 100) -> Adapted:
    """The source's first principal axes are turned onto the target's.

    source -> (source - its mean) @ P_source @ P_source' @ P_target; target -> (target - its mean) @ P_target, where the columns of P
    are the first `width` principal axes of a side, or as many as both sides vary along.
    Raises GraftError for a width below 1, a side of one item, or one that does not vary.
    Source: as above. Differs: features are centred, not standardised; the width is tried out, not bounded by how stable the axes are.
    """
    check_sides(domains, *bounds("width", width, least=1))
    source_mean, source_axes, _ = _first_axes(domains.source)
    target_mean, target_axes, _ = _first_axes(domains.target)
    width = min(width, source_axes.shape[1], target_axes.shape[1])
    source_axes, target_axes = source_axes[:, :width], target_axes[:, :width]
    return _adapted(domains, _Affine(source_mean, source_axes @ source_axes.T @ target_axes), _Affine(target_mean, target_axes))


@method(
    "Pan et al. 2011, doi:10.1109/TNN.2010.2091281",
    tasks=_BOTH,
    grid=({}, {"width": 100}, {"strength": 0.01}, {"width": 10}),
)
@threadpool_limits.wrap(limits=1, user_api="blas")
def tca(domains: Domains, width: int = 30, strength: float = 1.0) -> Adapted:
    """Both sides are projected onto axes that hold much variance and little of the difference of their means.

    The axes A (d, width) minimise |A' (source mean - target mean)|^2 + strength * mean variance * |A|^2 with A' C A = I, where C is the
    covariance of all items of both sides. width: at least 1, and no more than they vary along; they are sought among the 512 principal
    axes of most variance. strength: above 0; the smaller, the more the difference of means counts.
    Raises GraftError for a setting out of range, a side of one item, or one that does not vary.
    Source: the unsupervised variant. Differs: with a linear kernel the axes are sought directly in feature space, as Long et al. 2013 do
    for theirs, so that |A|^2 takes the place of the paper's |W|^2 (A = features' W): that scales with d instead of n + m, and folds into
    the head. With as many axes as features it leaves out nothing, and the head is that of the source alone.
    """
    check_sides(domains, *bounds("width", width, least=1), *bounds("strength", strength, above=0))
    both = _pool(domains)
    projection = _Affine(both.centre, both.axes @ _components(both, _gap(both)[None], width, strength))
    return _adapted(domains, projection, projection)


@method(
    _JDA,
    grid=({}, {"balance": 0.9}, {"width": 100}, {"strength": 0.1}),
)
@threadpool_limits.wrap(limits=1, user_api="blas")
def jda(domains: Domains, width: int = 30, strength: float = 1.0, balance: float = 0.5, rounds: int = 10) -> Adapted:
    """As `tca`, with the differences of the class means too; the target's classes are what the head of the round before says.

    balance: from 0, the means of all items alone (`tca`), to 1, the means of each class alone: (1 - balance) * |A' difference of means|^2 +
    balance * sum over classes of |A' difference of class means|^2. 0.5 is JDA with half its weight. width, strength: as for `tca`.
    rounds: at most so many; it ends when no predicted class changes.
    Raises GraftError for a setting out of range, a side of one item, or one that does not vary.
    Source: Long et al., Algorithm 1 (linear); Wang et al., balanced distribution adaptation. A class that the target is
    not said to hold adds nothing. Differs: as `tca`; the first round reads the source-only head, as Wang et al. do, not a projection
    that ignores classes.
    """
    problems = bounds("width", width, least=1) + bounds("strength", strength, above=0) + bounds("rounds", rounds, least=1)
    check_sides(domains, *problems, *bounds("balance", balance, least=0, most=1))
    both = _pool(domains)
    overall = np.sqrt(1 - balance) * _gap(both)[None]
    believed = domains.head.outputs(domains.target).argmax(axis=1)
    for _ in range(rounds):
        by_class = [
            both.source[domains.labels == number].mean(axis=0) - both.target[believed == number].mean(axis=0)
            for number in np.intersect1d(domains.labels, believed)
        ]
        gaps = np.concatenate([overall, np.sqrt(balance) * np.reshape(by_class, (-1, overall.shape[1]))])
        projection = _Affine(both.centre, both.axes @ _components(both, gaps, width, strength))
        adapted = _adapted(domains, projection, projection)
        before, believed = believed, adapted.head.outputs(domains.target).argmax(axis=1)
        if (before == believed).all():
            break
    return adapted


@method(
    "Belrose et al. 2023, arXiv:2306.03819 (LEACE)",
    tasks=_BOTH,
    grid=({}, {"shrinkage": 0.01}, {"shrinkage": 1.0}),
)
@threadpool_limits.wrap(limits=1, user_api="blas")
def mmd_projection(domains: Domains, shrinkage: float = 0.1) -> Adapted:
    """The smallest linear change of both sides that leaves no difference of means, so that no linear classifier tells them apart.

    What is taken from every row is what the linear discriminant between domains reads of it, along the difference of their means;
    the linear-kernel MMD is 0 afterwards. Several source domains are made alike among themselves too.
    shrinkage: of the covariance that the discriminant uses, above 0, at most 1; at 1 the direction of the difference itself is projected
    out (Haghighatkhah et al. 2022, arXiv:2212.04273).
    Raises GraftError for a shrinkage out of range, a side of one item, or one that does not vary.
    Source: the closed form of Theorem 4.3, the concept being the domain. Differs: the covariance is the mean of those within each
    domain, which for a concept of equally frequent classes gives the same projection, and it is shrunk, as it may be singular.
    """
    check_sides(domains, *bounds("shrinkage", shrinkage, above=0, most=1))
    both = _span(domains)
    parts = [both.source]
    if domains.domains is not None:
        parts = [both.source[domains.domains == name] for name in np.unique(domains.domains)]
    moments = [_moments(part, shrinkage, domains.source.shape[1]) for part in [*parts, both.target]]
    gaps = np.stack([mean - moments[-1][0] for mean, _ in moments[:-1]], axis=1)
    readers = np.linalg.solve(np.mean([shape for _, shape in moments], axis=0), gaps)
    # Two domains may have the same mean, and then one reader is superfluous.
    readers = both.axes @ readers @ np.linalg.pinv(gaps.T @ readers, rcond=1e-9, hermitian=True)
    matrix = np.eye(len(readers)) - readers @ (both.axes @ gaps).T
    cut = _Affine(both.centre, matrix, both.centre)
    return _adapted(domains, cut, cut)


@dataclass(frozen=True)
class _Affine:
    """rows (k, d) -> (rows - centre) @ matrix + offset, (k, e) float32."""

    centre: np.ndarray
    matrix: np.ndarray
    offset: "np.ndarray | float" = 0.0

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.centre) @ self.matrix + self.offset).astype(np.float32)

    def fold(self, head: Any) -> Any:
        """The head that says of rows what `head` says of them as mapped."""
        weight = head.weight / head.scale[:, None].astype(np.float64)
        return replace(
            head,
            mean=self.centre.astype(np.float32),
            scale=np.ones(len(self.centre), np.float32),
            weight=(self.matrix @ weight).astype(np.float32),
            bias=(head.bias + (self.offset - head.mean) @ weight).astype(np.float32),
        )


def _adapted(domains: Domains, read_source: _Affine, read_target: _Affine) -> Adapted:
    source = read_source(domains.source)
    inner = domains.fit(source, domains.labels, None)
    return Adapted(read_target.fold(inner), inner, read_source, source, read_target(domains.target))


@dataclass(frozen=True)
class _Pooled:
    """Both sides along axes that they share: rows = (raw - centre) @ axes; float64.

    centre: (d,), the mean of all items. axes: (d, r), orthonormal. source: (n, r). target: (m, r).
    """

    centre: np.ndarray
    axes: np.ndarray
    source: np.ndarray
    target: np.ndarray


def _pool(domains: Domains) -> _Pooled:
    centre, axes, rows = _first_axes(np.concatenate([domains.source, domains.target]))
    axes, rows, n = axes[:, :_MOST_AXES], rows[:, :_MOST_AXES], len(domains.source)
    return _Pooled(centre, axes, rows[:n], rows[n:])


def _span(domains: Domains) -> _Pooled:
    """Axes that hold all items: where there are more features than items, no more than these vary along."""
    rows = np.concatenate([domains.source, domains.target]).astype(np.float64)
    if len(rows) < rows.shape[1]:
        centre, axes, rows = _first_axes(rows)
    else:
        centre, axes = rows.mean(axis=0), np.eye(rows.shape[1])
        rows -= centre
    n = len(domains.source)
    return _Pooled(centre, axes, rows[:n], rows[n:])


def _first_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `weighted_axes` in float64."""
    # Small variances are inverted later, and in float32 the axes that hold them are not yet uncorrelated.
    return weighted_axes(rows.astype(np.float64), np.ones(len(rows)))


def _moments(rows: np.ndarray, shrinkage: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (r,) and shrunk covariance (r, r). width: of the raw features, over which the mean variance is taken."""
    mean = rows.mean(axis=0)
    covariance = (rows - mean).T @ (rows - mean) / len(rows)
    typical = float(np.trace(covariance)) / width
    return mean, (1 - shrinkage) * covariance + shrinkage * typical * np.eye(len(mean))


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """matrix ** exponent, for a symmetric positive definite matrix (r, r)."""
    values, vectors = eigh(matrix, driver="evd")
    return (vectors * values**exponent) @ vectors.T


def _gap(both: _Pooled) -> np.ndarray:
    return both.source.mean(axis=0) - both.target.mean(axis=0)


def _components(both: _Pooled, gaps: np.ndarray, width: int, strength: float) -> np.ndarray:
    """The axes A (r, width) that minimise |gaps @ A|^2 + strength * mean variance * |A|^2 with A' C A = I.

    Along principal axes C is diagonal, so that dividing by the spreads leaves an ordinary eigenproblem. gaps: (any number, r).
    """
    n, m = len(both.source), len(both.target)
    variances = ((both.source**2).sum(axis=0) + (both.target**2).sum(axis=0)) / (n + m)
    spread = np.sqrt(variances)
    reduced = gaps / spread
    cost = reduced.T @ reduced + np.diag(strength * variances.sum() / len(both.centre) / variances)
    _, vectors = eigh(cost, subset_by_index=(0, min(width, len(spread)) - 1))
    return vectors / spread[:, None]
