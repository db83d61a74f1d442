"""What a candidate will reach after transfer, from what is known of it before: a small model fitted on recorded runs. numpy and SciPy."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.special import expit, logit
from scipy.stats import norm

from graft.errors import GraftError, raise_all
from graft.files import replacing

# Runs recorded in this repository: a row for each candidate, data set, number of labels and seed. Data sets of one collection (the
# domains of PACS) are left out together.
EVIDENCE = Path(__file__).with_name("evidence.csv")
# Of all scores those that the model reads: one a family, as scores of a family say the same.
SCORES = ("logme", "nleep", "gbc", "knn", "lda_loo")
FACTS = ("published", "parameters", "size_px", "untrained")
# The only published score that is comparable over the candidates of a case.
BENCHMARK = "ImageNet-1k top-1"
# Strengths of the ridge; infinite: no correction at all.
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, math.inf)
# Below so many data sets none can be left out and enough be left to learn from.
_LEAST_DATA_SETS = 3
# Spread (in logits) that is left between a prediction and the truth however many items there are: keeps large cases from ruling the fit.
_SPREAD = 0.3
_NEEDED = ("data", "labels_a_class", "seed", "backbone", "classes", "n", "cross_validated", "n_judged", "probe")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Prediction:
    """What m candidates of one case will reach, on the scale of logits.

    centre: (m,). kept: in [0, 1], the share of a candidate's own deviation in cross-validation that is believed.
    common, own: variance of what the prediction misses for all candidates alike, and for each by itself, sampling of the items included;
    None where no evidence says so, and sampling is all that is known: its variance is then theirs. sampling: its mean variance.
    """

    centre: np.ndarray
    kept: float
    sampling: float
    common: float | None
    own: float | None

    def draws(self, resampled: np.ndarray, seed: int) -> np.ndarray:
        """(m, b) scores in [0, 1] as they might turn out.

        resampled: (m, b) cross-validated scores (logits) on resampled items, the same items for every candidate in one draw: it says
        which candidates err together. How much is missed in all, the evidence says: what resampling lacks is added as noise, what it has
        too much is scaled down.
        """
        # Not the stream that items are resampled by, which the noise would then repeat.
        rng = np.random.default_rng([seed, 1])
        deviation = resampled - resampled.mean(axis=1, keepdims=True)
        together = deviation.mean(axis=0)
        apart = _brought_to(self.kept * (deviation - together), self.own, rng)
        common = self.common
        if common is None:
            # Where all is right there is nothing that resampling could change, which is no proof of certainty.
            common = max(float(together.var()), self.sampling - float(apart.var(axis=1).mean()))
        return expit(self.centre[:, None] + _brought_to(together, common, rng) + apart)


def _brought_to(draws: np.ndarray, variance: float | None, rng: np.random.Generator) -> np.ndarray:
    """Draws (..., b) with noise added, or made smaller, until their mean variance is this one."""
    there = float(draws.var(axis=-1).mean())
    if variance is None:
        return draws
    if there > variance:
        return draws * math.sqrt(variance / there)
    return draws + math.sqrt(variance - there) * rng.standard_normal(draws.shape)


@dataclass(frozen=True)
class Predictor:
    """The fitted model: `fit` makes one.

    coefficients: (k,) of `terms`. common, own: (2,) variance of what is missed, as a constant and a multiple of the mean sampling
    variance of the direct estimates; None without evidence. strength: of the ridge within cases. data: names of what it was fitted on.
    standing: backbone -> by how much (logits) it was above the others where it was recorded.
    """

    coefficients: np.ndarray
    common: np.ndarray | None
    own: np.ndarray | None
    strength: float
    data: tuple[str, ...]
    standing: Mapping[str, float]

    def predict(self, rows: Sequence[Row]) -> Prediction:
        """rows: m candidates of one case, with the columns of the evidence but for the truth."""
        direct, variance = direct_estimate(rows)
        matrix, share = terms(rows, self.standing)
        sides = (None if side is None else float(side @ (1.0, variance.mean())) for side in (self.common, self.own))
        kept = min(1.0, max(0.0, 1 - float(self.coefficients[_SHRINK]) * share))
        return Prediction(direct + matrix @ self.coefficients, kept, float(variance.mean()), *sides)


# Places of the terms: two levels, the deviation, then scores, facts and the standing.
_SHRINK = 2
_WIDTH = 3 + len(SCORES) + len(FACTS) + 1


def direct_estimate(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """(m,) logits of the cross-validated accuracies, and their sampling variances.

    Half an item is added on both sides, so that all right is no infinite logit (Haldane 1956, doi:10.1111/j.1469-1809.1955.tb01285.x);
    the variance is that of a binomial logit, 1 / (n p (1 - p)).
    """
    return _logits([(row["cross_validated"], row["n"]) for row in rows])


def _logits(shares: Iterable[tuple[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    share, n = np.array([(float(share), float(n)) for share, n in shares]).T
    p = (share * n + 0.5) / (n + 1)
    return logit(p), 1 / ((n + 1) * p * (1 - p))


def terms(rows: Sequence[Row], standing: Mapping[str, float]) -> tuple[np.ndarray, float]:
    """(m, k) what the correction is linear in, for m candidates of one case, and the share of noise u in their direct estimates.

    First two levels, the same for all: 1 / labels a class, and its root (cross-validation fits on fewer items than transfer does, and that
    matters where labels are few). Then everything times u, the sampling variance of the direct estimates over their variance between
    the candidates and it: minus the deviation from the candidates' mean (shrinkage, as in empirical Bayes), the scores and the static
    facts, standardised within the case, and the standing on other data sets, in its own logits; a candidate without one has its mean.
    With many items u is near 0: the direct estimate then stands.
    """
    direct, variance = direct_estimate(rows)
    deviation = direct - direct.mean()
    noise = float(variance.mean())
    between = max(float(deviation.var()) - noise, 0.0)
    share = noise / (noise + between)
    few = np.mean([float(row["classes"]) / float(row["n"]) for row in rows])
    columns = [np.full(len(rows), few), np.full(len(rows), math.sqrt(few)), -share * deviation]
    columns += [share * _standardised([_number(row, name) for row in rows]) for name in SCORES]
    columns += [share * _standardised([_fact(row, name) for row in rows]) for name in FACTS]
    columns.append(share * _centred([standing.get(str(row["backbone"]), math.nan) for row in rows]))
    return np.column_stack(columns), share


def _number(row: Row, name: str) -> float:
    value = row.get(name)
    return math.nan if value in (None, "") else float(value)  # type: ignore[arg-type]


def _fact(row: Row, name: str) -> float:
    if name == "untrained":
        return float(str(row.get("pretrained_on", "")).startswith("nothing"))
    if name == "published":
        return _number(row, name) if row.get("benchmark") == BENCHMARK else math.nan
    return math.log(value) if (value := _number(row, name)) > 0 else math.nan


def _centred(values: Sequence[float]) -> np.ndarray:
    """Mean 0 over what is there, 0 where nothing is."""
    array = np.asarray(values, float)
    there = np.isfinite(array)
    return np.where(there, array - array[there].mean(), 0.0) if there.any() else np.zeros(len(array))


def _standardised(values: Sequence[float]) -> np.ndarray:
    """Mean 0 and deviation 1 over what is there, 0 where nothing is."""
    array = np.asarray(values, float)
    there = np.isfinite(array)
    found = np.zeros(len(array))
    if there.any() and (deviation := float(array[there].std())) > 1e-12 * max(1.0, float(np.abs(array[there]).max())):
        found[there] = (array[there] - array[there].mean()) / deviation
    return found


def fit(rows: Sequence[Row], truth: str = "probe", strength: float | None = None) -> Predictor:
    """The model that corrects cross-validated accuracies, from runs whose truth is known.

    rows: as `read_evidence` gives them. truth: column of the accuracy on judged items, "probe" (a head on frozen features) or "tuned";
    rows without it are left out. strength: of the ridges; None: those that predict left-out data sets best.

    Two ridge regressions of logit(truth) - logit(cross-validated) on `terms`: of its mean over a case on the levels, and of what is left
    on the rest. Each row weighs by its number of items. With fewer than
    three data sets, or where nothing predicts a left-out data set better, there is no correction. What the model misses is measured on
    left-out data sets, as two variances that grow with the sampling variance of the direct estimates, and then brought to the size at
    which 80 % intervals hold 80 % of the truths there.
    """
    cases = [_Case.of(case, truth) for case in cases_of([row for row in rows if row.get(truth) not in (None, "")])]
    data = tuple(dict.fromkeys(case.data for case in cases))
    if len(dict.fromkeys(case.collection for case in cases)) < _LEAST_DATA_SETS:
        return Predictor(np.zeros(_WIDTH), None, None, math.inf, data, {})
    parts = _parts(cases)
    tried = [_missed_when_left_out(parts, one) for one in (STRENGTHS if strength is None else (strength,))]
    left = [case for _, part in parts for case in part]
    # What is the same for all and what tells candidates apart are chosen by themselves: the former, which is larger, would decide for both.
    level = _simplest(tried, left, lambda case, gap: float(case.weight.sum()) * float(gap.mean()) ** 2)
    rank = _simplest(tried, left, lambda case, gap: float(case.weight @ (gap - gap.mean()) ** 2))
    missed = [rank_gap - rank_gap.mean() + level_gap.mean() for rank_gap, level_gap in zip(rank.gaps, level.gaps, strict=True)]
    common, own = _spreads(left, missed)
    stretch = _stretch(left, missed, common + own)
    # Of its own data set a case is told no standing, as a new one will not be.
    without = _standings(cases)
    whole = [case.given(without({case.collection})) for case in cases]
    coefficients = _solve(whole, level.strength, rank.strength)
    return Predictor(coefficients, stretch * common, stretch * own, rank.strength, data, without(set()))


@dataclass(frozen=True)
class _Case:
    """Candidates on the same draw of one data set.

    true: (m,) logits; noise: (m,) their variance. weight: (m,) of the rows. sampling: mean variance of the direct estimates.
    aim: (m,) truth minus direct estimate. matrix: (m, k) of `terms`, once `given` a standing. share: u of `terms`.
    """

    rows: Sequence[Row]
    true: np.ndarray
    noise: np.ndarray
    weight: np.ndarray
    sampling: float
    aim: np.ndarray
    matrix: np.ndarray
    share: float

    @classmethod
    def of(cls, rows: Sequence[Row], truth: str) -> "_Case":
        direct, variance = direct_estimate(rows)
        true, noise = _logits([(row[truth], row["n_judged"]) for row in rows])
        weight = 1 / (variance + noise + _SPREAD**2)
        return cls(rows, true, noise, weight, float(variance.mean()), true - direct, *terms(rows, {}))

    @property
    def data(self) -> str:
        return str(self.rows[0]["data"])

    @property
    def collection(self) -> str:
        return collection(self.rows[0])

    def given(self, standing: Mapping[str, float]) -> "_Case":
        """The same with the candidates' standing; its column is the last."""
        told = _centred([standing.get(str(row["backbone"]), math.nan) for row in self.rows])
        return replace(self, matrix=np.column_stack([self.matrix[:, :-1], self.share * told]))


def collection(row: Row) -> str:
    """What a row is left out together with: its data set, or the collection that the data set is a part of."""
    return str(row.get("collection") or row["data"])


def _standings(cases: Sequence[_Case]) -> Callable[[set[str]], dict[str, float]]:
    """A function of collections to leave out -> backbone -> mean over data sets of how far its truth was above the mean of its case."""
    by_data: dict[tuple[str, str], dict[str, list[float]]] = {}
    for case in cases:
        for row, deviation in zip(case.rows, case.true - case.true.mean(), strict=True):
            by_data.setdefault((case.collection, case.data), {}).setdefault(str(row["backbone"]), []).append(float(deviation))

    def without(left: set[str]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for (name, _), backbones in by_data.items():
            if name not in left:
                for backbone, deviations in backbones.items():
                    found.setdefault(backbone, []).append(sum(deviations) / len(deviations))
        return {backbone: sum(values) / len(values) for backbone, values in found.items()}

    return without


def _parts(cases: Sequence[_Case]) -> list[tuple[list[_Case], list[_Case]]]:
    """For each collection: the cases of all others, and its own; each with a standing that knows neither its own nor what is left out."""
    names, without = list(dict.fromkeys(case.collection for case in cases)), _standings(cases)
    parts = []
    for left in names:
        standing = {name: without({left, name}) for name in names}
        given = [case.given(standing[case.collection]) for case in cases]
        parts.append(([one for one in given if one.collection != left], [one for one in given if one.collection == left]))
    return parts


def _solve(cases: Sequence[_Case], level: float, rank: float) -> np.ndarray:
    """(k,) coefficients: of the levels from the means of cases, of all else from what candidates differ by within a case. level, rank:
    strengths of the two ridges."""
    means = [(case.matrix[:, :_SHRINK].mean(axis=0)[None], case.aim.mean()[None], case.weight.sum()[None]) for case in cases]
    within = [(case.matrix[:, _SHRINK:] - case.matrix[:, _SHRINK:].mean(axis=0), case.aim - case.aim.mean(), case.weight) for case in cases]
    return np.concatenate([_ridge(means, level), _ridge(within, rank)])


def _ridge(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], strength: float) -> np.ndarray:
    """Coefficients of weighted ridge regression. parts: (matrix, aim, weight) of some rows each."""
    matrix, aim, weight = (np.concatenate(side) for side in zip(*parts, strict=True))
    if math.isinf(strength):
        return np.zeros(matrix.shape[1])
    weighted = matrix.T * weight
    return np.linalg.solve(weighted @ matrix + strength * np.eye(matrix.shape[1]), weighted @ aim)


@dataclass(frozen=True)
class _Missed:
    """Truth minus prediction of each case, predicted without any case of its collection, in the order of the parts. strength: of both
    ridges."""

    strength: float
    gaps: list[np.ndarray]


def _simplest(tried: Sequence[_Missed], cases: Sequence[_Case], loss: Callable[[_Case, np.ndarray], float]) -> _Missed:
    """The strongest ridge whose loss on left-out collections is within a standard error of the least, so that few collections correct
    little (Breiman et al. 1984, section 3.4.3). tried: from the weakest on."""
    names = list(dict.fromkeys(case.collection for case in cases))
    lost = np.zeros((len(tried), len(names)))
    for row, one in zip(lost, tried, strict=True):
        for case, gap in zip(cases, one.gaps, strict=True):
            row[names.index(case.collection)] += loss(case, gap)
    more = lost - lost[lost.sum(axis=1).argmin()]
    good = more.mean(axis=1) <= more.std(axis=1, ddof=1) / math.sqrt(len(names))
    return tried[int(np.flatnonzero(good)[-1])]


def _missed_when_left_out(parts: Sequence[tuple[list[_Case], list[_Case]]], strength: float) -> _Missed:
    gaps = []
    for others, left in parts:
        solved = _solve(others, strength, strength)
        gaps += [case.aim - case.matrix @ solved for case in left]
    return _Missed(strength, gaps)


def _spreads(cases: Sequence[_Case], missed: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(constant, multiple of the sampling variance) of what is missed in common, and by each candidate of its own; the truth's own
    sampling is taken off, as it is nothing that a prediction could know."""
    design = np.array([(1.0, case.sampling) for case in cases])
    together = np.array([gap.mean() ** 2 - case.noise.mean() / len(gap) for case, gap in zip(cases, missed, strict=True)])
    apart = np.array([gap.var(ddof=1) - case.noise.mean() if len(gap) > 1 else 0.0 for case, gap in zip(cases, missed, strict=True)])
    # Cases with few items miss by more, and would rule a sum of squares.
    weight = 1 / (design[:, 1] + _SPREAD**2)
    common, own = (nnls(design * weight[:, None], side * weight)[0] for side in (together, apart))
    return common, own


def _stretch(cases: Sequence[_Case], missed: Sequence[np.ndarray], total: np.ndarray) -> float:
    """What the variances are multiplied by so that 80 % intervals cover 80 %: what is missed has longer tails than a normal's."""
    gap, noise = np.concatenate(missed), np.concatenate([case.noise for case in cases])
    expected = np.concatenate([np.full(len(case.aim), total @ (1.0, case.sampling)) for case in cases])
    tried = np.geomspace(0.1, 10, 100)
    covered = np.array([(np.abs(gap) <= norm.ppf(0.9) * np.sqrt(one * expected + noise)).mean() for one in tried])
    return float(tried[np.abs(covered - 0.8).argmin()])


def cases_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one data set, number of labels and seed, together."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[key]) for key in ("data", "labels_a_class", "seed")), []).append(row)
    return list(found.values())


def read_evidence(*paths: str | Path) -> list[dict[str, str]]:
    """Rows of the recorded runs, and of a user's own files of the same columns; more columns are no harm.

    Raises GraftError that names the file, and what it is instead of a CSV, the columns that lack, the numbers that are none, or that no
    row has a truth, `probe`, to learn from.
    """
    rows: list[dict[str, str]] = []
    for path in (EVIDENCE, *map(Path, paths)):
        columns, read = _read_csv(path)
        lacking = [name for name in _NEEDED if name not in columns]
        if lacking:
            raise GraftError(f"{path}: columns {', '.join(lacking)} are missing, expected those of {EVIDENCE.name}.")
        raise_all([f"{path}: line {line}: {problem}" for line, row in enumerate(read, start=2) for problem in _problems(row)])
        if not any(row["probe"] for row in read):
            raise GraftError(
                f"{path}: none of {len(read)} rows has a number in column probe, the accuracy that a head on frozen features reached, "
                "expected one in each. `graft rank DATA --check --out RUN` leaves such rows in RUN/evidence.csv."
            )
        rows += read
    return rows


def _read_csv(path: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Names of the columns, and the rows."""
    if not path.is_file():
        there = "this is a folder" if path.is_dir() else "there is no such file"
        raise GraftError(f"{path}: {there}, expected a CSV of recorded runs.")
    try:
        # -sig: what Excel saves as a CSV begins with a mark of its encoding.
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise GraftError(f"{path}: this is no CSV in UTF-8 ({error}), expected one of recorded runs.") from error


def write_evidence(rows: Sequence[Row], path: Path) -> None:
    """Write rows as a file that `read_evidence` takes, in the columns of the recorded runs."""
    with open(EVIDENCE, newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _problems(row: Row) -> Iterable[str]:
    for name, low, high in (("cross_validated", 0.0, 1.0), ("n", 1.0, math.inf), ("n_judged", 1.0, math.inf), ("classes", 2.0, math.inf)):
        if not low <= _read_number(row[name]) <= high:
            yield f"{name} is {row[name]!r}, expected a number from {low:g} to {high:g}"
    for name in ("probe", "tuned"):
        if row.get(name) and not 0 <= _read_number(row[name]) <= 1:
            yield f"{name} is {row[name]!r}, expected a number from 0 to 1, or nothing"
    for name in (*SCORES, "published", "parameters", "size_px"):
        if row.get(name) and math.isnan(_read_number(row[name])):
            yield f"{name} is {row[name]!r}, expected a number, or nothing"


def _read_number(value: Any) -> float:
    """The number that a text says, NaN where it says none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
