"""Whether pretraining helped: a probe on the features before and after, on the same held-out items. Never trains a network."""

from dataclasses import asdict
from typing import Any

import numpy as np

from graft.backbones.base import Backbone
from graft.evaluate import default_metric, interval_over_items, verdict_on_items
from graft.features import Progress, extract
from graft.heads import fit_head
from graft.pretraining.material import Judged

AGAINST = "the start"
# Two sets of features are compared, and no head is kept: the kinds that are solved say as much of them, in a fraction of the time.
_HEAD = "closed"


def outputs(judged: Judged, backbone: Backbone, *, cache: bool, seed: int, progress: Progress | None) -> np.ndarray:
    """What a probe on this backbone's features says of the held-out items: (n, c), or (n,) for regression."""
    fitted, held = (extract(backbone, items, cache=cache, progress=progress) for items in (judged.fitted, judged.held))
    classes = len(judged.classes) or None
    return fit_head(np.asarray(fitted), judged.fitted_target, judged.task, kind=_HEAD, n_classes=classes, seed=seed).outputs(
        np.asarray(held)
    )


def helped(judged: Judged, before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, Any]:
    """The probe's score before and after with intervals, and the paired verdict; see `records.Pretraining.helped`."""
    metric, why = default_metric(judged.task, judged.held_target)
    scores = {}
    for name, said in (("start", before), ("result", after)):
        score = interval_over_items(metric, judged.held_target, said, seed)
        scores[name] = {"score": score.value, "interval": score.interval}
    verdict = verdict_on_items(metric, judged.held_target, after, before, seed=seed, against=AGAINST)
    about = {"data": judged.data, "metric": metric, "why": why, "n": len(judged.held_target), "n_fitted": len(judged.fitted_target)}
    return {**about, **scores, "verdict": asdict(verdict)}
