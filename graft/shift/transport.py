"""Optimal transport: items of the source are moved onto items of the target, or lend them their labels. numpy and POT."""

import warnings
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from graft import budget
from graft.data.split import draw
from graft.errors import GraftError
from graft.optional import require
from graft.records import Task
from graft.shift.base import Adapted, Domains, as_it_is, method
from graft.shift.checks import bounds, check_sides

_BOTH: tuple[Task, ...] = ("classification", "regression")
# Items a side: a plan between more takes minutes (its cost grows with their product).
_MOST = 2000
# Of POT's `sinkhorn_lpl1_mm`: outer and inner rounds, and what is added to a share before its root is taken.
_ROUNDS, _INNER_ROUNDS, _FLOOR = 10, 200, 1e-3
# A target item that gets this share more or less than its due, in the mean: the plan is not one yet.
_OFF = 0.05


@method(
    "Courty et al. 2017, doi:10.1109/TPAMI.2016.2615921",
    tasks=_BOTH,
    grid=(
        {},
        {"entropy": 0.05},
        {"entropy": 0.05, "class_strength": 0.4},
        {"entropy": 0.01, "class_strength": 0.0},
    ),
)
@threadpool_limits.wrap(limits=1, user_api="blas")
def optimal_transport(domains: Domains, entropy: float = 0.1, class_strength: float = 1.0) -> Adapted:
    """Each source item goes to the mean of the target items that the cheapest transport sends it to; the target stays as it is.

    Cost is the squared distance, in units of its median between the sides. entropy: above 0; the larger, the more targets one item is
    spread over. class_strength: at least 0; how much it costs when a target item gets from several classes; a regression has none.
    Of more than 2,000 items a side, so many are drawn (of the source by class) and transported; the other source items move as the nearest
    of those does (Ferradans et al. 2014, doi:10.1137/130929886).
    Raises GraftError for a setting out of range, a side of one item or one that does not vary, or without POT.
    Warns where the plan has not converged.
    Source: the class regularisation by a group norm of exponent 1/2, as in POT's `sinkhorn_lpl1_mm`. Differs: a class's part
    of a target item is counted as a share of that item, so that class_strength means the same for any number of items.
    """
    check_sides(domains, *bounds("entropy", entropy, above=0), *bounds("class_strength", class_strength, least=0))
    some, others = _drawn(domains)
    source, target = domains.source[some], domains.target[others]
    cost = _cost(source, target)
    plan = _plan(cost, domains.labels[some] if domains.task == "classification" else None, entropy, class_strength)
    read_source = _NearestMove(source, _barycentres(plan, target) - source)
    moved = read_source(domains.source)
    head = domains.fit(moved, domains.labels, None)
    return Adapted(head, head, read_source, moved, domains.target)


@method(
    "Courty, Flamary, Habrard & Rakotomamonjy 2017, arXiv:1705.08848",
    tasks=_BOTH,
    grid=({}, {"distance_weight": 0.1}, {"distance_weight": 10.0}),
)
@threadpool_limits.wrap(limits=1, user_api="blas")
def joint_transport(domains: Domains, distance_weight: float = 1.0, rounds: int = 10) -> Adapted:
    """Features and labels are transported together: the target items get labels, and the head learns from these.

    In turn, until no label changes or at most `rounds` times: the exact transport for the cost distance_weight * squared distance (in units
    of its median between the sides) + squared error of the head's output for a target item beside a source item's label; then a new
    head on the target items and the labels they get. Errors of a regression are in units of the labels' variance.
    Of more than 2,000 items a side, so many are drawn (of the source by class), and the others are not learned from.
    Raises GraftError for a setting out of range, a side of one item or one that does not vary, or without POT.
    Source: Algorithm 1 (JDOT), with squared errors. Differs: a target item gets the class from which most of its mass comes, not the
    mixture, as the head learns from one class an item; of a regression it gets the mean, which has the same minimum.
    """
    check_sides(domains, *bounds("distance_weight", distance_weight, above=0), *bounds("rounds", rounds, least=1))
    transport = require("ot", "adapt")
    some, others = _drawn(domains)
    target, labels = domains.target[others], domains.labels[some]
    classes = domains.task == "classification"
    truth = np.eye(domains.n_classes)[labels] if classes else (labels[:, None] / (labels.std() or 1.0))
    cost = distance_weight * _cost(domains.source[some], target)
    head, given = domains.head, np.empty(0)
    for _ in range(rounds):
        budget.check("the transport plan")
        said = np.reshape(head.outputs(target), (len(target), -1)) / (1.0 if classes else labels.std() or 1.0)
        # Without masses every item of a side weighs alike. The default number of pivots is too small for 2,000 items a side.
        plan = transport.emd([], [], cost + _squared_distances(truth, said), numItermax=10**7)
        mass = plan.T @ (truth if classes else labels.astype(np.float64)[:, None]) * len(target)
        before, given = given, mass.argmax(axis=1) if classes else mass[:, 0]
        if np.array_equal(before, given):
            break
        head = domains.fit(target, given, None)
    return Adapted(head, head, as_it_is, domains.source, domains.target)


@dataclass(frozen=True)
class _NearestMove:
    """rows (k, d) -> (k, d) float32, each moved as the nearest of the items (l, d) is: by its row of move (l, d)."""

    items: np.ndarray
    move: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return (rows + self.move[_squared_distances(rows, self.items).argmin(axis=1)]).astype(np.float32)


def _drawn(domains: Domains) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of at most 2,000 items of each side: (source, target)."""
    n, m = len(domains.source), len(domains.target)
    source = np.arange(n) if n <= _MOST else draw(domains.labels, domains.task, _MOST, domains.seed)
    if m <= _MOST:
        return source, np.arange(m)
    return source, np.sort(np.random.default_rng(domains.seed).choice(m, _MOST, replace=False))


def _squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(k, d), (l, d) -> (k, l) float64."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    return np.maximum((first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T, 0)


def _cost(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    cost = _squared_distances(source, target)
    typical = float(np.median(cost))
    if not typical > 0:
        raise GraftError(
            f"{len(source)} source and {len(target)} target items lie at a median distance of {typical:g}, expected more than 0. "
            "Look at the items, or at the backbone"
        )
    return cost / typical


def _plan(cost: np.ndarray, labels: "np.ndarray | None", entropy: float, class_strength: float, floor: float = _FLOOR) -> np.ndarray:
    """The transport plan (k, l) with entropy and class regularisation, each side's items weighing alike."""
    sinkhorn = require("ot", "adapt").bregman.sinkhorn
    masses = [np.full(size, 1 / size) for size in cost.shape]
    pull = np.zeros_like(cost)
    members = None if labels is None or class_strength == 0 else labels[:, None] == np.unique(labels)
    for _ in range(1 if members is None else _ROUNDS):
        budget.check("the transport plan")
        whole = cost + class_strength * pull
        # What a whole row or column costs more changes no plan, but may be more than an exponential can hold.
        whole = whole - whole.min(axis=1, keepdims=True)
        whole = whole - whole.min(axis=0)
        plan = sinkhorn(*masses, whole, entropy, numItermax=_INNER_ROUNDS, stopThr=1e-9, warn=False)
        if members is not None:
            shares = members.T.astype(np.float64) @ plan * cost.shape[1]
            pull = (0.5 / np.sqrt(shares + floor))[members.argmax(axis=1)]
    off = float(np.abs(plan.sum(axis=0) * cost.shape[1] - 1).mean())
    # Not "off > _OFF": it may be no number.
    if not off <= _OFF:
        warnings.warn(
            f"optimal transport with entropy={entropy}: target items get {off:.0%} more or less than their due after "
            f"{_INNER_ROUNDS} rounds, expected at most {_OFF:.0%}. Use a larger entropy",
            stacklevel=3,
        )
    return plan


def _barycentres(plan: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(k, d): the mean of the target items that each source item is sent to."""
    return plan @ target / plan.sum(axis=1, keepdims=True)
