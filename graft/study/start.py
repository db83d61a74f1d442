"""What a pretraining gave: a head on a backbone's frozen features, beside one on those of the network that it was made from."""

from typing import Any

from graft.backbones import load_backbone
from graft.errors import GraftError
from graft.features import extract
from graft.study.judge import Judged, Parts
from graft.study.keep import solved
from graft.study.material import Material

START, RESULT = "start", "result"


def gain(material: Material, name: str, cut: Parts) -> dict[str, Any]:
    """What the frozen features of the backbone called so are worth more than those of its start, which its card names as "start".

    A head is solved for on the training part of each fold, on either's features, and judged on the test part.

    Returns {} for a card that names none; else {"start", "sentence"} and, where the start can be had, "n", "metric", "before" and "after":
    {"score", "interval"}, and "change": fields of Difference, above zero is gained.
    """
    began = material.backbones[name].card.get("start")
    if not began:
        return {}
    try:
        start = load_backbone(began)
    except GraftError as error:
        return {"start": began, "sentence": f"Pretraining: {began}, which it began with, cannot be loaded here, so none can say. {error}"}
    features = {START: extract(start, material.dataset.items, progress=material.progress), RESULT: material.features(name)}
    judged = Judged(material, cut)
    for which, rows in features.items():
        judged.outputs[which] = [solved(material, rows, train).outputs(rows[test]) for train, test in cut.folds]
    before, after, change = judged.score(START), judged.score(RESULT), judged.difference(RESULT, START)
    low, high = change.interval
    outcome = "helped" if low > 0 else "hurt" if high < 0 else "no difference shown"
    return {
        "start": began,
        "metric": material.metric,
        "n": change.n,
        "before": {"score": before.value, "interval": before.interval},
        "after": {"score": after.value, "interval": after.interval},
        "change": vars(change).copy(),
        "sentence": (
            f"Pretraining of {name}: {outcome}. A head on its frozen features {after.value:.3f}, on those of {began}, which it "
            f"began with, {before.value:.3f}: {change.effect:+.3f} ({low:+.3f} to {high:+.3f}), n = {change.n}."
        ),
    }
