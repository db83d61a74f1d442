"""What a candidate may be expected to reach on the target, from what validators and estimates said on recorded runs. numpy, SciPy."""

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from graft.errors import GraftError
from graft.validators import ESTIMATES, VALIDATORS

EVIDENCE = Path(__file__).with_name("evidence.csv")
# What speaks for one candidate beside another of the same data.
SIGNS = (
    "agreement", "bnm", "calinski", "class_ami", "class_balance", "class_ss", "confidence", "entropy", "infomax", "iwcv", "mixval",
    "reverse", "silhouette", "snd", "source_risk", "atc", "average_confidence", "cot", "doc", "reweighted_source",
)  # fmt: skip
# What tells how high all of them are.
LEVELS = ("atc", "doc", "average_confidence", "cot", "agreement_on_line", "reweighted_source", "source_risk", "reverse")
# The first of these are averaged; the rest is told beside them.
_ESTIMATES = 5
LEVEL, _Z = 0.9, 1.645
# Of what was missed on left-out collections, for intervals that are to hold 90 %: see benchmarks/README.md.
_REACHED = 0.95
# Accuracies nearer to 0 or 1 are taken as this.
_LOW = 0.02
_STRENGTHS = tuple(10.0**power for power in range(-1, 6))
# A sign that says more than this many of its usual steps says no more: it is off the scale it was learned on.
_FURTHEST = 3.0
_LEAST_COLLECTIONS = 3
SOURCE_ONLY = "source_only"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Outlook:
    """What a candidate may be expected to reach.

    score: accuracy on the target. interval: it holds the truth in 90 % of recorded cases that were left out. gain: in accuracy, over
    source-only. spread: its standard deviation, 0 for source-only itself. gain_interval: 90 %.
    """

    score: float
    interval: tuple[float, float]
    gain: float
    spread: float
    gain_interval: tuple[float, float]

    @property
    def is_told(self) -> bool:
        """Whether the interval tells anything: it is not all that an accuracy can be."""
        return self.interval != (0.0, 1.0)


def number(row: Row, name: str) -> float:
    """A column of a row of evidence; nan where it is missing or empty."""
    value = row.get(name)
    return math.nan if value in (None, "") else float(value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Predictor:
    """Accuracies on a target, from what is known without its labels.

    level: weights that correct the mean estimate. gain: (s,) weights of the signs. scale: (s,) usual step of each. missed: half of the
    interval that holds what was missed on left-out collections, in logits for each of `_Case.doubt`, of source-only and of the chosen
    candidate; spread: standard deviation of what is missed of a chosen gain, in accuracy. collections: that it learned from.
    """

    level: np.ndarray
    gain: np.ndarray
    scale: np.ndarray
    missed: tuple[float, float]
    spread: float
    collections: tuple[str, ...]

    def predict(self, rows: Sequence[Row]) -> list[Outlook]:
        """The outlook of each candidate of one case, source-only first."""
        case = _Case.of(rows)
        base = case.base + float(case.level @ self.level)
        gains = self.terms(case) @ self.gain
        return [self._outlook(base, float(gain), case.doubt, not place) for place, gain in enumerate(gains)]

    def terms(self, case: "_Case") -> np.ndarray:
        """(m, s): for each candidate the steps of each sign above source-only's, in usual ones."""
        return np.clip(case.steps / self.scale, -_FURTHEST, _FURTHEST)

    def _outlook(self, base: float, gain: float, doubt: float, is_base: bool) -> Outlook:
        score, start = float(expit(base + gain)), float(expit(base))
        missed = self.missed[0 if is_base else 1] * doubt
        low, high = float(expit(base + gain - missed)), float(expit(base + gain + missed))
        difference, spread = score - start, 0.0 if is_base else self.spread
        half = _Z * spread
        return Outlook(score, (low, high), difference, spread, (difference - half, difference + half))


@dataclass(frozen=True)
class _Case:
    """The candidates of one case: m of them, source-only first, and s signs.

    steps: (m, s) of each sign above source-only's, 0 where one is missing. base: the mean of the estimates for source-only, in logits;
    doubt: 1, and the standard deviation of these estimates: the less they agree, the further off is any of them (Lei et al. 2018,
    doi:10.1080/01621459.2017.1307116, section 5.2, residuals scaled by what is known of a case).
    level: (k,) how far each estimate lies from it, and it from chance. true: (m,) accuracies, risen: (m,) their logits minus
    source-only's; nan where they are not known.
    """

    collection: str
    steps: np.ndarray
    base: float
    doubt: float
    level: np.ndarray
    true: np.ndarray
    risen: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Case":
        values = np.array([[number(row, name) for name in SIGNS] for row in rows])
        told = np.array([number(rows[0], name) for name in LEVELS])
        logits = logit(np.clip(told, _LOW, 1 - _LOW))
        estimates = logits[:_ESTIMATES]
        some = np.isfinite(estimates).any()
        base, doubt = (float(np.nanmean(estimates)), 1 + float(np.nanstd(estimates))) if some else (0.0, 1.0)
        chance = float(logit(np.clip(1 / max(2.0, number(rows[0], "classes")), _LOW, 1 - _LOW)))
        true = np.array([number(row, "accuracy") for row in rows])
        heights = logit(np.clip(true, _LOW, 1 - _LOW))
        return cls(
            str(rows[0].get("collection", "")),
            np.nan_to_num(values - values[0]),
            base,
            doubt,
            np.array([1.0, base - chance, *np.nan_to_num(logits - base)]),
            true,
            heights - heights[0],
        )

    @property
    def aim(self) -> float:
        """What source-only reaches above the mean estimate, in logits."""
        return float(logit(np.clip(self.true[0], _LOW, 1 - _LOW))) - self.base


def cases_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Candidates of one pair, seed and kind of sabotage, together; source-only first."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("fell_out", "") == "":
            found.setdefault(tuple(str(row.get(key, "")) for key in ("pair", "sabotage", "seed")), []).append(row)
    return [sorted(case, key=lambda row: row["method"] != SOURCE_ONLY) for case in found.values()]


def fit(rows: Sequence[Row]) -> Predictor:
    """The predictor from recorded runs, as `read_evidence` gives them; rows whose truth is not known are left out.

    Two ridge regressions in logits, each of a strength that predicts left-out collections best: of source-only's accuracy minus the mean
    of its estimates, on how far each lies from that mean; and of each candidate's difference to source-only, on the steps of every
    sign. A case counts once, however many its candidates. Which method a candidate is plays no part: on recorded runs it told nothing more.
    What is missed is measured on left-out collections: the level's by its quantile, the gain's for the candidate that would be chosen.
    With fewer than three collections nothing is corrected, no gain is predicted, and intervals are from 0 to 1.
    """
    known = [row for row in rows if row.get("accuracy", "") not in (None, "")]
    cases = [_Case.of(case) for case in cases_of(known) if case[0]["method"] == SOURCE_ONLY and len(case) > 1]
    names = tuple(dict.fromkeys(case.collection for case in cases))
    if len(names) < _LEAST_COLLECTIONS:
        return Predictor(np.zeros(2 + len(LEVELS)), np.zeros(len(SIGNS)), np.ones(len(SIGNS)), (math.inf, math.inf), 1.0, names)
    parts = [([case for case in cases if case.collection != name], [case for case in cases if case.collection == name]) for name in names]
    level = min(_STRENGTHS, key=lambda one: float(np.square(_missed_levels(parts, one)).sum()))
    lessons = [(_Lessons.of(others), left) for others, left in parts]
    gain = min(_STRENGTHS, key=lambda one: sum(_lost(others.solved(one), left) for others, left in lessons))
    weight = np.concatenate([np.full(len(left), 1 / len(left)) for _, left in parts])
    told: list[_Told] = []
    for (others, _), (learned, left) in zip(parts, lessons, strict=True):
        predictor = replace(learned.solved(gain), level=_levels(others, level))
        told += [_chosen(case, predictor) for case in left]
    doubts = np.array([case.doubt for _, left in parts for case in left])
    gaps = (_missed_levels(parts, level), np.array([one.gap for one in told]))
    missed = _quantile(gaps[0] / doubts, weight), _quantile(gaps[1] / doubts, weight)
    off = np.array([one.true - one.gain for one in told if one.gain > 0])
    spread = float(np.sqrt(np.square(off).mean())) if len(off) else 1.0
    found = _Lessons.of(cases).solved(gain)
    return replace(found, level=_levels(cases, level), missed=missed, spread=spread, collections=names)


def _quantile(gaps: np.ndarray, weight: np.ndarray) -> float:
    """What 95 % of the gaps are not above in size. weight: of each, with sum 1 in every collection.

    Gaps within a collection are alike, and what comes next is another collection: each counts as one (Dunn et al. 2023,
    doi:10.1080/01621459.2022.2060112, hierarchical conformal prediction). Differs: for 90 % of one to come they take 90 % of what k
    collections missed times (k + 1) / k, which among ten is the very furthest gap, and hardly an interval; half of that is added. The
    share that intervals hold is therefore measured, see benchmarks/README.md.
    """
    order = np.argsort(np.abs(gaps))
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(np.abs(gaps[order[min(len(gaps) - 1, int(np.searchsorted(reached, _REACHED)))]]))


def _levels(cases: Sequence[_Case], strength: float) -> np.ndarray:
    return _ridge(np.stack([case.level for case in cases]), np.array([case.aim for case in cases]), np.ones(len(cases)), strength)


def _missed_levels(parts: Sequence[tuple[list[_Case], list[_Case]]], strength: float) -> np.ndarray:
    """Truth minus prediction of source-only's logits, each predicted without its collection."""
    return np.array([case.aim - case.level @ solved for others, left in parts for solved in [_levels(others, strength)] for case in left])


@dataclass(frozen=True)
class _Lessons:
    """What gains are learned from. told: a predictor without their coefficients. terms: (n, s), risen, weight: (n,) of all candidates."""

    told: Predictor
    terms: np.ndarray
    risen: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, cases: Sequence[_Case]) -> "_Lessons":
        scale = np.sqrt(np.square(np.concatenate([case.steps[1:] for case in cases])).mean(axis=0))
        told = Predictor(np.zeros(2 + len(LEVELS)), np.empty(0), np.where(scale > 0, scale, 1.0), (math.inf, math.inf), 1.0, ())
        return cls(
            told,
            np.concatenate([told.terms(case)[1:] for case in cases]),
            np.concatenate([case.risen[1:] for case in cases]),
            np.concatenate([np.full(len(case.risen) - 1, 1 / (len(case.risen) - 1)) for case in cases]),
        )

    def solved(self, strength: float) -> Predictor:
        """With a ridge of this strength; of levels and of what is missed nothing is known yet."""
        return replace(self.told, gain=_ridge(self.terms, self.risen, self.weight, strength))


def _ridge(matrix: np.ndarray, aims: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    weighted = matrix.T * weight
    return np.linalg.solve(weighted @ matrix + strength * np.eye(matrix.shape[1]), weighted @ aims)


def _lost(predictor: Predictor, cases: Sequence[_Case]) -> float:
    """Mean squared error of the predicted gains, a case counting once, summed over cases."""
    return sum(float(np.square((case.risen - predictor.terms(case) @ predictor.gain)[1:]).mean()) for case in cases)


class _Told(NamedTuple):
    """Of the candidate that would be chosen: predicted and true gain in accuracy, and what the prediction of its logits missed by."""

    gain: float
    true: float
    gap: float


def _chosen(case: _Case, predictor: Predictor) -> _Told:
    base = case.base + float(case.level @ predictor.level)
    gains = predictor.terms(case) @ predictor.gain
    best = int(gains.argmax())
    gap = case.base + case.aim + float(case.risen[best]) - base - float(gains[best])
    return _Told(float(expit(base + gains[best]) - expit(base)), float(case.true[best] - case.true[0]), gap)


def read_evidence(*paths: str | Path) -> list[dict[str, str]]:
    """Rows of recorded runs. Raises GraftError for a file that is not there or lacks columns, naming them."""
    rows: list[dict[str, str]] = []
    for path in map(Path, paths or (EVIDENCE,)):
        if not path.is_file():
            raise GraftError(f"{path}: there is no such file, expected a CSV of recorded adaptations.")
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            needed = ("collection", "pair", "sabotage", "seed", "method", "accuracy", *SIGNS, *LEVELS)
            if lacking := [name for name in needed if name not in (reader.fieldnames or ())]:
                raise GraftError(f"{path}: columns {', '.join(lacking)} are missing, expected those of {EVIDENCE.name}.")
            rows += reader
    return rows


@functools.cache
def recorded(with_source: bool = True) -> Predictor:
    """The predictor from the runs that graft comes with.

    with_source: whether the source's items are at hand. Where they are not, what is asked of them is not known in the recorded runs either:
    weights and intervals are those of predictions that do without.
    """
    rows: Sequence[Row] = read_evidence()
    if not with_source:
        asks = {name for family in (VALIDATORS, ESTIMATES) for name in family if {"source", "learned", "line"} & {*family[name].needs}}
        rows = [{name: "" if name in asks else value for name, value in row.items()} for row in rows]
    return fit(rows)
