"""Candidates: a method with its settings, made on both sides -> outputs for the target. Chooses nothing."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from graft.adapt.sides import Sides
from graft.errors import GraftError
from graft.heads import LinearHead
from graft.shift import SHIFTS, Adapted
from graft.transfer import Transfer
from graft.transferability import DISTANCES
from graft.validators import Judged

AVERAGE = "average"


@dataclass(frozen=True)
class Made:
    """A candidate as it turned out.

    outputs: (m, c) for the target, held_outputs: (v, c) for the held part of the source. learned, held, target: their rows, as the
    method sees them; reads: its last layer, (rows) -> outputs. head: for target rows as they come. weights: (l,) of the learned part.
    model: a retrained one; None where only the head is another. seconds: that it took. fell_out: why it cannot be had, else "".
    stopped: what the budget cut short of it, in words, else "".
    """

    method: str
    settings: Mapping[str, Any]
    seconds: float
    outputs: np.ndarray = field(default_factory=lambda: np.empty(0))
    held_outputs: np.ndarray = field(default_factory=lambda: np.empty(0))
    learned: np.ndarray = field(default_factory=lambda: np.empty(0))
    held: np.ndarray = field(default_factory=lambda: np.empty(0))
    target: np.ndarray = field(default_factory=lambda: np.empty(0))
    reads: Callable[[np.ndarray], np.ndarray] | None = None
    head: LinearHead | None = None
    weights: np.ndarray | None = None
    model: Transfer | None = None
    fell_out: str = ""
    stopped: str = ""

    @property
    def name(self) -> str:
        """The method, with its settings where it has any."""
        told = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in self.settings.items())
        return f"{self.method} ({told})" if told else self.method

    @cached_property
    def told_apart(self) -> float:
        """Proxy A-distance of the domains as it sees them, on at most 2,000 items of each; nan without the source."""
        return DISTANCES["proxy_a"](self.learned, self.target) if len(self.learned) else math.nan


def methods_for(sides: Sides) -> list[str]:
    """The methods on features that can be had: by task, and by whether the source is at hand."""
    return [name for name in SHIFTS if sides.task in SHIFTS[name].tasks and (sides.source is not None or not SHIFTS[name].needs_source)]


def made(sides: Sides, method: str, settings: Mapping[str, Any]) -> Made:
    """A method on features, on the learned part; what it cannot do is told in `fell_out`."""
    begun = time.perf_counter()
    try:
        adapted: Adapted = SHIFTS[method](sides.domains, **settings)
    except GraftError as error:
        return Made(method, settings, time.perf_counter() - begun, fell_out=str(error))
    held = adapted.read_source(sides.held_rows)
    return checked(
        Made(
            method,
            settings,
            time.perf_counter() - begun,
            outputs=adapted.head.outputs(sides.target_rows),
            held_outputs=adapted.inner.outputs(held),
            learned=adapted.source,
            held=held,
            target=adapted.target,
            reads=adapted.inner.outputs,
            head=adapted.head,
            weights=adapted.weights,
        )
    )


def checked(one: Made) -> Made:
    """The candidate, fallen out where it came to what nobody can judge: numbers that are not finite, or items that are all alike."""
    for side, rows in (("source", one.learned), ("target", one.target), ("target's outputs", one.outputs), ("source's", one.held_outputs)):
        if bad := int((~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))).sum()):
            return Made(
                one.method, one.settings, one.seconds, fell_out=f"what it makes of {bad} of {len(rows)} items ({side}) is not finite"
            )
    for side, rows in (("source", one.learned), ("target", one.target)):
        if len(rows) and not np.ptp(rows, axis=0).any():
            return Made(one.method, one.settings, one.seconds, fell_out=f"it makes all {len(rows)} items of the {side} alike")
    return one


def averaged(sides: Sides, everyone: Sequence[Made]) -> Made:
    """The mean of the logits of all candidates on features, one a method: what most of them get right survives what one gets wrong.

    Linear heads for the same rows have a linear mean, so that it ships as any other. Source: bagging's argument, Breiman 1996,
    doi:10.1007/BF00058655. Differs: members differ by method, and each method counts once, with its default settings.
    """
    begun = time.perf_counter()
    members: dict[str, Made] = {}
    for one in everyone:
        if not one.fell_out and one.head is not None and one.model is None:
            members.setdefault(one.method, one)
    heads = [one.head for one in members.values() if one.head is not None]
    weight = np.mean([head.weight / head.scale[:, None] for head in heads], axis=0)
    bias = np.mean([head.bias - head.mean @ (head.weight / head.scale[:, None]) for head in heads], axis=0)
    width = sides.target_rows.shape[1]
    head = replace(heads[0], mean=np.zeros(width), scale=np.ones(width), weight=weight, bias=bias, kind=AVERAGE, strength=0.0)
    held = np.mean([one.held_outputs for one in members.values()], axis=0)
    return Made(
        AVERAGE,
        {},
        time.perf_counter() - begun,
        outputs=head.outputs(sides.target_rows),
        held_outputs=held,
        learned=sides.learned_rows,
        held=sides.held_rows,
        target=sides.target_rows,
        reads=head.outputs,
        head=head,
    )


def judged(sides: Sides, one: Made, everyone: Sequence[Made], first: Judged | None = None) -> Judged:
    """What validators see of a candidate. first: of another, from which is taken what hangs on rows alone, where the rows are its own."""
    assert one.reads is not None

    def fit(rows: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return sides.fit(rows, labels).outputs

    # One of each other method: its settings are near copies, and would outvote the rest.
    others: dict[str, Made] = {}
    for other in everyone:
        if not other.fell_out and other.method != one.method:
            others.setdefault(other.method, other)
    return Judged(
        source=one.held,
        source_labels=sides.labels(sides.held),
        source_outputs=one.held_outputs,
        learned=one.learned,
        learned_labels=sides.labels(sides.learned),
        target=one.target,
        target_outputs=one.outputs,
        predict=one.reads,
        fit=fit,
        prior=sides.prior,
        others={name: other.outputs for name, other in others.items()},
        others_source={name: other.held_outputs for name, other in others.items() if len(other.held_outputs)},
        seed=sides.seed,
        twin=first if first is not None and first.has_rows(one.held, one.learned, one.target) else None,
    )
