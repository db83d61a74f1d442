"""A ranking held against the truth: every candidate is fine-tuned and judged on items that the ranking has not seen."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import weightedtau

from graft.evaluate import difference_on_items, interval_over_items, measure, resampled, signed
from graft.study.material import Candidate, Material
from graft.study.ranking import Ranked, Seen, predicts

_DRAWS = 500
PROBE = "feature_extraction"


def checked(
    material: Material, index: np.ndarray, held: np.ndarray, rows: Sequence[Ranked], recommended: str, strategy: str, seconds: float
) -> dict[str, Any]:
    """What trusting the ranking would have cost, and saved.

    index: items ranked and trained on. held: items judged on. rows, recommended: of the ranking, which took so many seconds.
    strategy: by which every candidate is fine-tuned.

    Returns `strategy`; `n`, items judged on; `candidates`: dicts of backbone, predicted, score, interval, seconds;
    `correlation` of predictions and truths, Kendall's tau that weighs the top more (Vigna 2015, doi:10.1145/2736277.2741088; None where
    all were predicted, or reached, the same, as one candidate is) with its `correlation_interval` over items; `regret`, the score of the
    best minus that of the recommended one, with its interval; `best`; `seconds_all` of fine-tuning all; `seconds_trusted` of ranking and
    fine-tuning the recommended one; `saved`, the share of the former that the latter is less, below 0 where it is more.
    """
    y = material.target[held]
    found: list[dict[str, Any]] = []
    outputs: dict[str, np.ndarray] = {}
    for row in rows:
        begun = time.perf_counter()
        outputs[row.backbone] = material.fit_and_predict(Candidate(row.backbone, strategy), index, held)
        score = interval_over_items(material.metric, y, outputs[row.backbone], material.seed)
        spent = time.perf_counter() - begun
        about = {"score": score.value, "interval": score.interval, "seconds": spent}
        found.append({"backbone": row.backbone, "predicted": row.predicted, **about})
    predicted = [signed(material.metric, one["predicted"]) for one in found]
    true = {one["backbone"]: signed(material.metric, one["score"]) for one in found}
    best = max(true, key=lambda name: true[name])
    regret = difference_on_items(material.metric, y, outputs[best], outputs[recommended], seed=material.seed)
    by_name = {one["backbone"]: one["seconds"] for one in found}
    everything, trusted = sum(by_name.values()), seconds + by_name[recommended]
    correlation: dict[str, Any] = {"correlation": None, "correlation_interval": None}
    if _orders(predicted) and _orders(true.values()):
        again = signed(material.metric, 1.0) * resampled(material.metric, y, list(outputs.values()), material.seed, _DRAWS)
        taus = [tau(predicted, column) for column in again.T]
        low, high = np.quantile(taus, (0.025, 0.975))
        correlation = {"correlation": tau(predicted, list(true.values())), "correlation_interval": (float(low), float(high))}
    return {
        "strategy": strategy,
        "n": len(held),
        "candidates": found,
        **correlation,
        "best": best,
        "regret": regret.effect,
        "regret_interval": regret.interval,
        "seconds_all": everything,
        "seconds_trusted": trusted,
        "saved": 1 - trusted / everything,
    }


def tau(predicted: Sequence[float], true: Sequence[float]) -> float:
    """Weighted Kendall tau, -1 to 1; 0 where one side is all the same and tells nothing."""
    if not _orders(predicted) or not _orders(true):
        return 0.0
    return float(weightedtau(predicted, true).statistic)


def _orders(scores: Iterable[float]) -> bool:
    """Whether any two differ."""
    return len(set(scores)) > 1


def evidence(
    material: Material, index: np.ndarray, held: np.ndarray, seen: Mapping[str, Seen], check: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rows as in the evidence of the candidates that were looked at on all items of index; none where the metric is no accuracy.

    `tuned` is empty where the checked strategy trains a head alone: that is what `probe` is.
    """
    if not predicts(material):
        return []
    tuned = {one["backbone"]: one["score"] for one in check["candidates"]}
    rows = []
    for name, one in seen.items():
        if len(one.index) == len(index):
            probe = material.fit_and_predict(Candidate(name, PROBE), index, held)
            truth = {"n_judged": len(held), "probe": measure("accuracy", material.target[held], probe)}
            if material.trains(Candidate(name, check["strategy"])):
                truth["tuned"] = tuned[name]
            rows.append({**one.row, **truth})
    return rows
