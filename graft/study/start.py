"""What a pretraining gave: a head on a backbone's frozen features, beside one on those of the network that it was made from."""

from typing import Any

from graft.backbones import load_backbone
from graft.backbones.base import Backbone
from graft.data import Dataset
from graft.errors import GraftError
from graft.study.judge import Judged, Parts
from graft.study.keep import solved
from graft.study.material import Material, Progress

START, RESULT = "start", "result"


def gain(dataset: Dataset, backbone: Backbone, cut: Parts, metric: str, *, seed: int = 0, progress: Progress = None) -> dict[str, Any]:
    """What the backbone's frozen features are worth more than those of its start, which its card names as "start".

    A head is solved for on the training part of each fold, on either's features, and judged on the test part.

    Returns {} for a card that names none; else {"start", "sentence"} and, where the start can be had, "n", "metric", "before" and "after":
    {"score", "interval"}, and "change": fields of Difference, above zero is gained.
    """
    name = backbone.card.get("start")
    if not name:
        return {}
    try:
        start = load_backbone(name)
    except GraftError as error:
        return {"start": name, "sentence": f"Pretraining: {name}, which it began with, cannot be loaded here, so none can say. {error}"}
    by_name = {START: start, RESULT: backbone}
    material = Material(dataset, by_name, metric, seed, progress=progress)
    judged = Judged(material, cut)
    for which in by_name:
        features = material.features(which)
        judged.outputs[which] = [solved(material, features, train).outputs(features[test]) for train, test in cut.folds]
    before, after, change = judged.score(START), judged.score(RESULT), judged.difference(RESULT, START)
    low, high = change.interval
    outcome = "helped" if low > 0 else "hurt" if high < 0 else "no difference shown"
    return {
        "start": name,
        "metric": metric,
        "n": change.n,
        "before": {"score": before.value, "interval": before.interval},
        "after": {"score": after.value, "interval": after.interval},
        "change": vars(change).copy(),
        "sentence": (
            f"Pretraining of {backbone.name}: {outcome}. A head on its frozen features {after.value:.3f}, on those of {name}, which it "
            f"began with, {before.value:.3f}: {change.effect:+.3f} ({low:+.3f} to {high:+.3f}), n = {change.n}."
        ),
    }
