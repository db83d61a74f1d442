"""Forgetting: what retraining on one task cost another, the source task, that the weights could do before."""

from typing import Any

import numpy as np

from graft.backbones.base import Backbone
from graft.data import Dataset, check, draw, holdout, load
from graft.errors import GraftError
from graft.features import extract
from graft.heads import fit_head
from graft.study.judge import Judged, parts
from graft.study.material import Material, Progress, choose_metric
from graft.transfer import Transfer

BEFORE, SAME, ANEW = "before", "same head", "new head"
# Of the source that may be replayed: the rest is to judge what was forgotten, and more items would hardly hold more.
_REPLAYED_SHARE, _REPLAYED_AT_MOST = 0.5, 1000


def source_task(keep: Any, target: Dataset, progress: Progress = None) -> Dataset:
    """The source task's data, checked before any time is spent. keep: a Dataset, or whatever `graft.load` takes.

    Raises GraftError where it holds another kind of inputs than the target's.
    """
    source = check(keep if isinstance(keep, Dataset) else load(keep), progress=progress)
    kinds = ["text" if each.modality == "table" else each.modality for each in (source, target)]
    if kinds[0] != kinds[1]:
        raise GraftError(
            f"keep: {source.name} holds {kinds[0]}s and {target.name} holds {kinds[1]}s, expected the same kind of inputs, as one "
            "backbone reads both. Name a source data set of that kind."
        )
    return source


def replayed_part(source: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """(to judge, to replay): the source task's items cut once, stratified, groups and near-copies on one side.

    At most half of the items and at most 1,000 are replayed. Of a source with a given test part none of that is, and no copy of it.
    Raises GraftError where too few items are left for either side.
    """
    assert source.task is not None and source.target is not None  # what `load` gives is labelled
    blocks = source.blocks()
    try:
        cut, free = parts(source, seed), np.arange(len(source))
        if cut.one_test:
            judged = cut.folds[0][1]
            free = np.setdiff1d(free, judged if blocks is None else np.flatnonzero(np.isin(blocks, blocks[judged])))
        most = min(int(_REPLAYED_SHARE * len(free)), _REPLAYED_AT_MOST)
        target, together = source.target[free], None if blocks is None else blocks[free]
        _, other = holdout(target, source.task, most / max(1, len(free)), seed, blocks=together)
        replayed = free[other][draw(target[other], source.task, min(len(other), most), seed)]
        # What is neither judged nor replayed is a copy of what is, or belongs to its group.
        rest = source.take(np.setdiff1d(np.arange(len(source)), free[other]))
        parts(rest, seed)
    except GraftError as error:
        raise GraftError(
            f"keep: {source.name}, {len(source)} items, of which some are to be replayed and others judged: {error}"
        ) from error
    return rest, source.take(replayed)


def forgetting(
    source: Dataset, start: Backbone, model: Transfer, *, seed: int = 0, replayed: int = 0, progress: Progress = None
) -> dict[str, Any]:
    """What a model's backbone still can do of the source task, beside what it could before.

    source: from `source_task`, or what `replayed_part` leaves to judge. replayed: how many items were. start: the backbone with the weights
    that the model started from. model: fitted on the target task.
    On each fold of the source (or its given test part) a head is solved for on the training part's features and judged on the test part:
    "before": on the starting features. "same head": that head on the tuned features; what it loses counts what only moved, too.
    "new head": solved for anew on the tuned features; what it loses is gone from them.

    Returns {"data", "metric", "n_train", "n_test", "judged_on", "retrained", "sentence", "before": {"score", "interval"}} and, where
    something was retrained, "same_head" and "new_head": {"score", "interval", "change": fields of Difference, above zero is gained}.
    """
    assert source.task is not None and source.target is not None  # what `load` gives is labelled
    # Heads on frozen features cost next to nothing: the folds are dealt twice where items are few.
    cut = parts(source, seed, repeat=True)
    metric, _ = choose_metric(source.task, source.target[cut.train], None)
    material = Material(source, {start.name: start}, metric, seed, progress=progress)
    judged = Judged(material, cut)
    features = {BEFORE: material.features(start.name)}
    if model.tuned_:
        # Not kept on the disk: no other model will ask for the features of this one.
        features[SAME] = features[ANEW] = extract(model.backbone_, source.items, cache=False, progress=progress)
    judged.outputs = {name: [] for name in features}
    for train, test in cut.folds:
        heads = {BEFORE: solved(material, features[BEFORE], train)}
        if model.tuned_:
            heads |= {SAME: heads[BEFORE], ANEW: solved(material, features[ANEW], train)}
        for name, head in heads.items():
            judged.outputs[name].append(head.outputs(features[name][test]))
    before = judged.score(BEFORE)
    found: dict[str, Any] = {
        "data": source.name,
        "metric": metric,
        "n_train": round(np.mean([len(train) for train, _ in cut.folds])),
        "n_test": before.n,
        "judged_on": cut.words + (f", none of the {replayed} items that were replayed" if replayed else ""),
        "retrained": model.tuned_,
        "before": {"score": before.value, "interval": before.interval},
    }
    if not model.tuned_:
        found["sentence"] = f"Nothing was retrained, so nothing of {source.name} can have been forgotten."
        return found
    for name in (SAME, ANEW):
        score, change = judged.score(name), judged.difference(name, BEFORE)
        found[name.replace(" ", "_")] = {"score": score.value, "interval": score.interval, "change": vars(change).copy()}
    found["sentence"] = _sentence(source.name, metric, found)
    return found


def solved(material: Material, features: np.ndarray, index: np.ndarray) -> Any:
    """A head on the features (n, d) of the items in index."""
    settings = {"n_classes": len(material.dataset.classes) or None, "seed": material.seed, "blocks": material.blocks_of(index)}
    return fit_head(features[index], material.target[index], material.task, **settings)


def _sentence(source: str, metric: str, found: dict[str, Any]) -> str:
    said = []
    for name, what in (("same_head", "with the head of before"), ("new_head", "with a head solved for anew")):
        change = found[name]["change"]
        low, high = change["interval"]
        outcome = "lost" if high < 0 else "gained" if low > 0 else "no difference shown"
        said.append(f"{what} {found[name]['score']:.3f}: {outcome}, {change['effect']:+.3f} ({low:+.3f} to {high:+.3f})")
    return f"On {source}, {metric} {found['before']['score']:.3f} before; {'; '.join(said)}."
