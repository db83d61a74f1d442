"""What a candidate may be expected to reach on the target, from what validators and estimates said on recorded runs. numpy, SciPy."""

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# A share of 90 % on both sides.
LEVEL = 0.9
_STRENGTHS = tuple(10.0**power for power in range(-1, 6))
# A sign that says more than this many of its usual steps says no more: it is off the scale it was learned on.
_FURTHEST = 3.0
_LEAST_COLLECTIONS = 3
# Runs of one method on so many pairs of domains count as much as the belief that it changes nothing.
_RUNS_TO_BELIEVE = 10.0
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


@dataclass(frozen=True)
class Predictor:
    """Accuracies on a target, from what is known without its labels.

    level: weights that correct the mean estimate, gain: weights of what speaks for a candidate. scale: usual step of each sign. standing:
    method -> mean difference to source-only in logits on recorded pairs. missed: (low, high), in logits, what 90 % of left-out truths
    missed by at most; spread: standard deviation of what is missed of a chosen gain, in accuracy. collections: that it learned from.
    """

    level: np.ndarray
    gain: np.ndarray
    scale: Mapping[str, float]
    standing: Mapping[str, float]
    missed: tuple[float, float]
    spread: float
    collections: tuple[str, ...]

    def predict(self, rows: Sequence[Row]) -> list[Outlook]:
        """The outlook of each candidate of one case, source-only first."""
        base = _base(rows[0]) + float(_level_terms(rows[0]) @ self.level)
        gains = _gain_terms(rows, self.scale, self.standing) @ self.gain
        return [self._outlook(base, float(gain), not place) for place, gain in enumerate(gains)]

    def _outlook(self, base: float, gain: float, is_base: bool) -> Outlook:
        score, start = float(expit(base + gain)), float(expit(base))
        low, high = (float(expit(base + gain + one)) for one in self.missed)
        difference, spread = score - start, 0.0 if is_base else self.spread
        half = 1.645 * spread
        return Outlook(score, (low, high), difference, spread, (difference - half, difference + half))


def _shares(value: float) -> float:
    return float(np.clip(value, 0.02, 0.98))


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return math.nan if value in (None, "") else float(value)  # type: ignore[arg-type]


def _logits(row: Row, names: Sequence[str]) -> np.ndarray:
    values = np.array([_number(row, name) for name in names])
    return logit(np.clip(values, 0.02, 0.98))


def _base(row: Row) -> float:
    """The mean of the estimates, in logits: what a correction starts from."""
    told = _logits(row, LEVELS[:5])
    return float(np.nanmean(told)) if np.isfinite(told).any() else 0.0


def _level_terms(row: Row) -> np.ndarray:
    """(k,): how far each estimate lies from their mean, and from chance."""
    base = _base(row)
    apart = np.nan_to_num(_logits(row, LEVELS) - base)
    chance = logit(_shares(1 / max(2.0, _number(row, "classes"))))
    return np.array([1.0, base - chance, *apart])


def _gain_terms(rows: Sequence[Row], scale: Mapping[str, float], standing: Mapping[str, float]) -> np.ndarray:
    """(m, k): for each candidate the steps of each sign above source-only's, and the method's standing; 0 for source-only."""
    columns = []
    for name in SIGNS:
        steps = np.array([_number(row, name) for row in rows])
        steps = np.nan_to_num((steps - steps[0]) / scale.get(name, 1.0))
        columns.append(np.clip(steps, -_FURTHEST, _FURTHEST))
    columns.append(np.array([standing.get(str(row["method"]), 0.0) for row in rows]))
    terms = np.column_stack(columns)
    terms[0] = 0.0
    return terms


# See `fit`.
_WIDTH = len(SIGNS) + 1


def cases_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Candidates of one pair, seed and kind of sabotage, together; source-only first."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("fell_out", "") == "":
            found.setdefault(tuple(str(row.get(key, "")) for key in ("pair", "sabotage", "seed")), []).append(row)
    return [sorted(case, key=lambda row: row["method"] != SOURCE_ONLY) for case in found.values()]


@dataclass(frozen=True)
class _Case:
    """The candidates of one case whose truth is known. true: (m,) accuracies; risen: (m,) logits of them minus source-only's."""

    collection: str
    rows: Sequence[Row]
    true: np.ndarray
    risen: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Case":
        true = np.array([_number(row, "accuracy") for row in rows])
        logits = logit(np.clip(true, 0.02, 0.98))
        return cls(str(rows[0]["collection"]), rows, true, logits - logits[0])


def fit(rows: Sequence[Row]) -> Predictor:
    """The predictor from recorded runs, as `read_evidence` gives them; rows whose truth is not known are left out.

    Two ridge regressions in logits, each of a strength that predicts left-out collections best: of source-only's accuracy minus the mean
    of five estimates, on how far each estimate lies from that mean; and of each candidate's difference to source-only, on the steps of
    every sign and on the method's standing on other collections. A case counts once, however many its candidates. What is missed is
    measured on left-out collections: the level's by its quantiles, the gain's for the candidate that would have been chosen.
    With fewer than three collections nothing is corrected, no gain is predicted, and intervals are from 0 to 1.
    """
    known = [row for row in rows if row.get("accuracy", "") not in (None, "")]
    # Of a case without source-only no gain is known, of one with nothing else there is none.
    cases = [_Case.of(case) for case in cases_of(known) if case[0]["method"] == SOURCE_ONLY and len(case) > 1]
    names = tuple(dict.fromkeys(case.collection for case in cases))
    if len(names) < _LEAST_COLLECTIONS:
        return Predictor(np.zeros(2 + len(LEVELS)), np.zeros(_WIDTH), {}, {}, (-math.inf, math.inf), 1.0, names)
    level_strength = min(_STRENGTHS, key=lambda one: float((_missed_levels(cases, one) ** 2).sum()))
    gain_strength = min(_STRENGTHS, key=lambda one: _lost(cases, one))
    solved = _solve(cases, level_strength, gain_strength)
    gaps = np.sort(np.abs(_missed_levels(cases, level_strength)))
    # Vovk et al. 2005: the rank that a new truth's own gap lies below with this probability; of few cases none does.
    rank = math.ceil((len(gaps) + 1) * LEVEL)
    half = gaps[rank - 1] if rank <= len(gaps) else math.inf
    chosen = [_chosen(case, _left_out(cases, case.collection, level_strength, gain_strength)) for case in cases]
    apart = np.array([true - told for told, true in chosen if told > 0] or [1.0])
    spread = float(np.sqrt((apart**2).mean()))
    return Predictor(solved.level, solved.gain, solved.scale, solved.standing, (-float(half), float(half)), spread, names)


def _left_out(cases: Sequence[_Case], collection: str, level: float, gain: float) -> Predictor:
    return _solve([case for case in cases if case.collection != collection], level, gain)


def _solve(cases: Sequence[_Case], level: float, gain: float) -> Predictor:
    """What the cases tell, with ridges of these strengths; what is missed is not known yet."""
    matrix = np.stack([_level_terms(case.rows[0]) for case in cases])
    aims = np.array([logit(_shares(case.true[0])) - _base(case.rows[0]) for case in cases])
    scale = _steps(cases)
    standing = {name: _standing([case for case in cases if case.collection != name]) for name in {case.collection for case in cases}}
    terms = np.concatenate([_gain_terms(case.rows, scale, standing[case.collection])[1:] for case in cases])
    risen = np.concatenate([case.risen[1:] for case in cases])
    weight = np.concatenate([np.full(len(case.rows) - 1, 1 / max(1, len(case.rows) - 1)) for case in cases])
    return Predictor(
        _ridge(matrix, aims, np.ones(len(aims)), level), _ridge(terms, risen, weight, gain), scale, _standing(cases), (0.0, 0.0), 0.0, ()
    )


def _ridge(matrix: np.ndarray, aims: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    weighted = matrix.T * weight
    return np.linalg.solve(weighted @ matrix + strength * np.eye(matrix.shape[1]), weighted @ aims)


def _steps(cases: Sequence[_Case]) -> dict[str, float]:
    """Usual step of each sign from source-only to another candidate: the root mean square over all cases."""
    found = {}
    for name in SIGNS:
        values = [np.array([_number(row, name) for row in case.rows]) for case in cases]
        steps = np.concatenate([each[1:] - each[0] for each in values])
        found[name] = float(np.sqrt(np.nanmean(steps**2))) if np.isfinite(steps).any() else 1.0
    return {name: step or 1.0 for name, step in found.items()}


def _standing(cases: Sequence[_Case]) -> dict[str, float]:
    """Mean of what each method rose by, drawn towards 0 where it ran on few pairs."""
    found: dict[str, list[float]] = {}
    for case in cases:
        by_method: dict[str, list[float]] = {}
        for row, risen in zip(case.rows, case.risen, strict=True):
            by_method.setdefault(str(row["method"]), []).append(float(risen))
        for name, values in by_method.items():
            found.setdefault(name, []).append(sum(values) / len(values))
    return {name: sum(values) / (len(values) + _RUNS_TO_BELIEVE) for name, values in found.items()}


def _missed_levels(cases: Sequence[_Case], strength: float) -> np.ndarray:
    """(cases,) truth minus prediction in logits, of source-only of each case, predicted without its collection."""
    found = []
    for name in dict.fromkeys(case.collection for case in cases):
        others = [case for case in cases if case.collection != name]
        matrix = np.stack([_level_terms(case.rows[0]) for case in others])
        aims = np.array([logit(_shares(case.true[0])) - _base(case.rows[0]) for case in others])
        solved = _ridge(matrix, aims, np.ones(len(aims)), strength)
        for case in cases:
            if case.collection == name:
                told = _base(case.rows[0]) + float(_level_terms(case.rows[0]) @ solved)
                found.append(float(logit(_shares(case.true[0]))) - told)
    return np.array(found)


def _chosen(case: _Case, predictor: Predictor) -> tuple[float, float]:
    """(predicted, true) gain in accuracy of the candidate that would be chosen."""
    outlooks = predictor.predict(case.rows)
    best = max(range(len(outlooks)), key=lambda place: (outlooks[place].gain, -place))
    return outlooks[best].gain, float(case.true[best] - case.true[0])


def _lost(cases: Sequence[_Case], strength: float) -> float:
    """Mean squared error of the predicted gains on left-out collections, a case counting once."""
    total = 0.0
    for name in dict.fromkeys(case.collection for case in cases):
        solved = _left_out(cases, name, 1.0, strength)
        for case in cases:
            if case.collection == name:
                told = _gain_terms(case.rows, solved.scale, solved.standing) @ solved.gain
                total += float(((case.risen - told)[1:] ** 2).mean())
    return total


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
        asks = {
            name for registry in (VALIDATORS, ESTIMATES) for name in registry if {"source", "learned", "line"} & {*registry[name].needs}
        }
        rows = [{name: "" if name in asks else value for name, value in row.items()} for row in rows]
    return fit(rows)
