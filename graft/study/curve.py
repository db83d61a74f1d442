"""Label efficiency: score against the number of labels, for the chosen model and the controls."""

from typing import Any

import numpy as np

from graft import interrupt
from graft.data import draw
from graft.evaluate import interval_over_items, measure, signed
from graft.study.controls import SCRATCH, Classical, Scratch
from graft.study.judge import TRANSFER, Judged
from graft.study.material import Candidate, Material
from graft.study.times import Clock

# Together less than half of what all the labels cost; few labels are where curves differ.
_SHARES = (1 / 16, 1 / 8, 1 / 4)
_JUDGED_AT_MOST = 1000
_LEAST = 16  # items: on fewer a score says next to nothing


def label_curve(judged: Judged, candidate: Candidate, classical: Classical, scratch: Scratch, clock: Clock) -> dict[str, Any]:
    """{"sentence", "curves": {name: [{"n", "score", "interval"}]}}, on the first fold, with nested draws of its training part and
    at most 1000 items of its test part.

    Empty where Ctrl-C cut it short, and where a budget does not reach for a point of a model that is retrained. Scratch trains fewer
    epochs' worth of items on fewer labels, in proportion, so that the curve costs less than the fold did.
    """
    material = judged.material
    train, test = judged.parts.folds[0]
    # The network is run anew for every point: beyond so many items that costs more than the curve's precision is worth.
    shown = draw(material.target[test], material.task, min(len(test), _JUDGED_AT_MOST), material.seed)
    test = test[shown]
    names = (TRANSFER, classical.name, SCRATCH)
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    wanted = _sizes(material, len(train))
    sizes = [n for n in wanted if clock.allows_point(candidate, n, scratch.seconds * n / len(train))]
    # Of few items all of them are the only point; of more that one alone would be no curve.
    if wanted and not sizes:
        return {}
    for n in sizes:
        part = train[draw(material.target[train], material.task, n, material.seed)]
        outputs = {
            TRANSFER: material.fit_and_predict(candidate, part, test),
            classical.name: classical.fit_and_predict(part, test),
            SCRATCH: scratch.with_fewer(part, test, n / len(train)),
        }
        if interrupt.asked():
            return {}
        for name in names:
            curves[name].append(_point(material, n, test, outputs[name]))
    for name in names:
        curves[name].append(_point(material, len(train), test, judged.outputs[name][0][shown]))
    return {"sentence": _sentence(material, curves), "curves": curves}


def _sizes(material: Material, n: int) -> list[int]:
    least = max(_LEAST, 2 * len(material.dataset.classes))
    return sorted({size for share in _SHARES if (size := round(n * share)) >= least})


def _point(material: Material, n: int, test: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
    y = material.target[test]
    score = interval_over_items(material.metric, y, outputs, material.seed)
    return {"n": n, "score": measure(material.metric, y, outputs), "interval": score.interval}


def _sentence(material: Material, curves: dict[str, list[dict[str, Any]]]) -> str:
    reached = curves[TRANSFER][-1]
    needed = labels_to_match(
        [(point["n"], signed(material.metric, point["score"])) for point in curves[SCRATCH]], signed(material.metric, reached["score"])
    )
    labels = f"more than the {reached['n']} labels you have" if needed is None else f"about {needed} labels"
    return (
        f"The from-scratch network would need {labels} to match what transfer reaches with {reached['n']} "
        f"({material.metric} {reached['score']:.3f})."
    )


def labels_to_match(curve: list[tuple[int, float]], goal: float) -> int | None:
    """Labels at which a curve first reaches the goal, None where it never does. Between points: straight in log n.

    curve: (n, score) with n rising, greater is better.
    """
    for place, (n, score) in enumerate(curve):
        if score >= goal:
            if place == 0:
                return n
            n_before, before = curve[place - 1]
            share = (goal - before) / (score - before)
            return round(float(np.exp(np.log(n_before) + share * (np.log(n) - np.log(n_before)))))
    return None
