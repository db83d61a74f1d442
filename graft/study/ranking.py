"""`rank`: candidates by what they are predicted to reach, with doubt and cost; few of many are looked at closely. Trains nothing."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logit

from graft.backbones import Entry, entry_of
from graft.backbones.base import Backbone
from graft.data import draw
from graft.errors import GraftError
from graft.evaluate import interval_over_items, measure, resampled, signed
from graft.features import extract
from graft.files import replacing
from graft.report import write_ranking
from graft.study.material import Material
from graft.transfer import EPOCHS
from graft.transferability import all_scores, drawn_items
from graft.transferability.predict import Predictor, write_evidence

# Two candidates are told apart where this interval of their difference does not hold 0.
TOLD_APART = 0.8
# What the recommended one is expected to lose against the leader, at most, in accuracy. Chosen on half of the recorded data sets and judged
# on the others: see benchmarks/README.md. With the cheapest of all that cannot be told apart, more than twice as much is lost.
_MAY_LOSE = 0.02
# Candidates that are looked at on all items, where halving can be spared no further.
_FINALISTS = 3
# A rung has at least so many items, and so many a class: fewer tell too little to drop anyone by.
_LEAST_ITEMS, _LEAST_A_CLASS = 64, 4
# So many items tell accuracies apart that are about 0.01 from each other (two standard errors of a share, at most): with twice as many, few
# candidates are halved too.
_ENOUGH_ITEMS = 5000
# A step of training, forward and back, takes about three times the forward pass.
_PASSES = 3


@dataclass(frozen=True)
class Ranked:
    """One candidate.

    predicted: the metric after transfer, with its interval (95 %). score: the same, by the name that result.json uses.
    cross_validated: the metric of a head on frozen features, on the n items that it was looked at on; predicted corrects it.
    p_best: probability of being the best of the candidates. group: 1 for the leader and those it cannot be told apart from, and so on;
    None where it was dropped on the way. loss: of the metric, expected from starting with it instead of the leader, see `expected_loss`.
    scores: of transferability, by name.
    extract_seconds: for the features of n items; train_seconds: for retraining all of it, about; serve_ms: for one more item, in batches.
    seconds: what ranking it has taken.
    """

    backbone: str
    predicted: float
    score: float
    interval: tuple[float, float]
    cross_validated: float
    n: int
    p_best: float
    group: int | None
    loss: float
    scores: dict[str, float]
    extract_seconds: float
    train_seconds: float
    serve_ms: float
    seconds: float
    parameters: int
    licence: str


@dataclass
class Ranking:
    """What `rank` found; prints as a sentence and a short table.

    rows: best first; those that were dropped on the way come last. recommended: name of the one to start from, see `recommended`.
    notes: what was dropped when, and what else was decided. basis: what the prediction rests on.
    check: see `graft.study.checking.checked`; empty without. evidence: of a check, rows that later rankings can be based on as well.
    """

    data: str
    task: str
    modality: str
    metric: str
    n: int
    rows: list[Ranked]
    recommended: str
    basis: str
    seconds: float
    seed: int
    notes: list[str] = field(default_factory=list)
    check: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    evidence: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What rank.json holds; its `ranking` has backbone, score, interval and seconds, as that of result.json."""
        numbers = asdict(self)
        del numbers["evidence"]
        return {"ranking": numbers.pop("rows"), **numbers}

    def write(self, folder: str | Path) -> None:
        """Leave rank.json and rank.html in the folder, which is made; after a check evidence.csv too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "rank.json") as file:
            json.dump(self.to_dict(), file, indent=1)
        write_ranking(self.to_dict(), folder / "rank.html")
        if self.evidence:
            write_evidence(self.evidence, folder / "evidence.csv")

    def __str__(self) -> str:
        width = max(len(row.backbone) for row in self.rows)
        lines = [
            f"{row.backbone:<{width}}  {row.predicted:.3f} ({row.interval[0]:.3f} to {row.interval[1]:.3f})  best: {row.p_best:4.0%}  "
            + (f"group {row.group}" if row.group else f"dropped at {row.n} items")
            for row in self.rows
        ]
        return "\n".join([self.sentence, *lines])

    @property
    def sentence(self) -> str:
        """The recommendation in words."""
        leaders = [row for row in self.rows if row.group == 1]
        row = next(row for row in leaders if row.backbone == self.recommended)
        about = f"predicted {self.metric} {row.predicted:.3f}, 95 % interval {row.interval[0]:.3f} to {row.interval[1]:.3f}"
        if len(leaders) == 1:
            return f"Start from {self.recommended}: {about}."
        first = f"the first of {len(leaders)} that these items cannot tell apart"
        if row is leaders[0]:
            return f"Start from {self.recommended}, {first}: {about}."
        return (
            f"Start from {self.recommended}: {about}. It is cheaper than {leaders[0].backbone}, {first}, and expected to lose "
            f"{row.loss:.3f} by that."
        )


@dataclass
class Seen:
    """What is known of a candidate so far.

    entry: its facts. features: (n, d) of the data set's items, those in extracted (n,) filled in. index, outputs: the items that it was
    last looked at on, and what heads that were fitted without an item say of it. row: its facts and scores, by the columns of the evidence.
    """

    backbone: Backbone
    entry: Entry
    features: np.ndarray
    extracted: np.ndarray
    extract_seconds: float = 0.0
    head_seconds: float = 0.0
    index: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    outputs: np.ndarray = field(default_factory=lambda: np.empty(0))
    scores: dict[str, float] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)


def ranked(material: Material, index: np.ndarray, predictor: Predictor) -> tuple[list[Ranked], list[str], dict[str, Seen]]:
    """The candidates of a material, best first, by what they are predicted to reach on items like those in index.

    Many candidates, or few on many items, are looked at on a part of the items first, see `rungs`: after each rung the better half goes on.
    Of the others, those whose difference to the leader holds 0 at this rung go on too, best first, while no more than a third of all
    candidates would be left. Of the last three only those go whose difference does not hold 0.
    Also returns what was dropped when, and which scores are of a draw, in words, and what is known of each candidate by name.
    """
    # The fastest first, so that one who waits sees most the soonest.
    names = sorted(material.backbones, key=lambda name: -material.speeds[name])
    seen = {name: _unseen(material, material.backbones[name]) for name in names}
    notes: list[str] = []
    out: list[Ranked] = []
    chance = 1.0  # that the best is still among them
    for size in rungs(len(index), len(names), len(material.dataset.classes)):
        last = size == len(index)
        if len(names) == 1 and not last:
            continue
        some = index[draw(material.target[index], material.task, size, material.seed)]
        for name in names:
            _look(material, name, seen[name], some)
        draws, centre = _as_they_might_turn_out(material, [seen[name] for name in names], predictor)
        best, number, loss = chance * p_best(draws), groups(draws, centre), expected_loss(draws, centre)
        order = np.argsort(-centre, kind="stable").tolist()
        kept = [] if last else _kept(order, draws, len(seen))
        gone = [place for place in order if place not in kept]
        for behind, place in enumerate(gone):
            name, group = names[place], int(number[place]) if last else None
            chances = {"p_best": float(best[place]), "group": group, "loss": float(loss[place])}
            out.insert(behind, _row(material, name, seen[name], draws[place], centre[place], chances, len(index)))
        if gone and not last:
            notes.append(f"dropped on {size} of {len(index)} items: {', '.join(names[place] for place in gone)}")
            if same := [names[place] for place in gone if number[place] == 1]:
                notes[-1] += f"; not told apart from the leader there: {', '.join(same)}"
        chance -= float(best[gone].sum())
        names = [names[place] for place in sorted(kept)]
    if material.task == "classification" and (fewer := drawn_items(len(index))):
        notes.append(f"scores of fewer items, drawn by class: {', '.join(f'{name} of {most:,}' for name, most in fewer.items())}")
    return out, notes, seen


def rungs(n: int, candidates: int, classes: int) -> list[int]:
    """Numbers of items that candidates are looked at on, one after the other; the last is n.

    As many halvings as leave about three candidates for all n items, so that 20 cost about what 5 do, or, if those are more, as leave 5,000
    items for the first rung; but none below 64 items, or four a class. Source: successive halving, Jamieson & Talwalkar 2016,
    arXiv:1502.07943. Differs: what grows is the number of items.
    """
    if candidates == 1:
        return [n]
    halvings = max(0, math.ceil(math.log2(candidates / _FINALISTS)), math.floor(math.log2(n / _ENOUGH_ITEMS)))
    least = max(_LEAST_ITEMS, _LEAST_A_CLASS * classes)
    return [*(size for size in (n // 2**step for step in range(halvings, 0, -1)) if size >= least), n]


def _kept(order: Sequence[int], draws: np.ndarray, candidates: int) -> list[int]:
    """Places of those that go on. order: best first."""
    if len(order) <= _FINALISTS:
        return [place for place in order if place == order[0] or _holds_zero(draws[order[0]] - draws[place])]
    half = math.ceil(len(order) / 2)
    tied = [place for place in order[half:] if _holds_zero(draws[order[0]] - draws[place])]
    return [*order[:half], *tied[: max(0, candidates // 3 - half)]]


def groups(draws: np.ndarray, centre: np.ndarray, level: float = TOLD_APART) -> np.ndarray:
    """(m,) number of the group of each candidate, from 1: the leader of a group is the best that is left, and with it are those whose
    difference to it has an interval that holds 0.

    draws: (m, b) scores as they might turn out, column by column together. centre: (m,), what they are ordered by, greater is better.
    level: of the interval.
    """
    number, left = np.zeros(len(centre), int), np.argsort(-centre, kind="stable").tolist()
    while left:
        same = [place for place in left if place == left[0] or _holds_zero(draws[left[0]] - draws[place], level)]
        number[same] = number.max() + 1
        left = [place for place in left if place not in same]
    return number


def _holds_zero(difference: np.ndarray, level: float = TOLD_APART) -> bool:
    low, high = np.quantile(difference, ((1 - level) / 2, (1 + level) / 2))
    return bool(low <= 0 <= high)


def p_best(draws: np.ndarray) -> np.ndarray:
    """(m,) share of the draws (m, b) in which a candidate is the best; where several are, each has its part."""
    first = draws == draws.max(axis=0)
    return (first / first.sum(axis=0)).mean(axis=1)


def expected_loss(draws: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(m,) by how much each falls short of the leader, averaged over the draws (0 where it does not); draws, centre: as of `groups`.

    Unlike a chance of being worse it tells a little worse from much worse.
    """
    return np.asarray(np.maximum(draws[np.argmax(centre)] - draws, 0.0).mean(axis=1))


def recommended(rows: Sequence[Ranked], may_lose: float) -> str:
    """Name of the cheapest of the leading group that is expected to lose no more than so much: the time for one item, then parameters.

    rows: best first. may_lose: at least 0, which leaves the leader, and who never falls short of it.
    """
    return min((row for row in rows if row.group == 1 and row.loss <= may_lose), key=lambda row: (row.serve_ms, row.parameters)).backbone


def may_lose(material: Material) -> float:
    """What the recommended one may be expected to lose; of other metrics than accuracy no recorded run says what is little."""
    return _MAY_LOSE if predicts(material) else 0.0


def predicts(material: Material) -> bool:
    """Whether recorded runs can correct this metric: they are of accuracies."""
    return material.task == "classification" and material.metric == "accuracy"


def basis(material: Material, predictor: Predictor) -> str:
    """What the predictions rest on, in words."""
    if not predicts(material):
        return f"the cross-validated {material.metric}: recorded runs are of accuracies, and correct no other metric"
    if not predictor.coefficients.any():
        return f"the cross-validated accuracy: {len(predictor.data)} data sets with recorded runs give no reason to correct it"
    told = f"what scores and static facts told on {len(predictor.data)} data sets with recorded runs"
    return f"the cross-validated accuracy, corrected by {told}"


def _unseen(material: Material, backbone: Backbone) -> Seen:
    n = len(material.dataset)
    return Seen(backbone, entry_of(backbone), np.empty((n, backbone.width), np.float32), np.zeros(n, bool))


def _look(material: Material, name: str, seen: Seen, index: np.ndarray) -> None:
    """Run a candidate on those of these items that it has not seen, and note what they say."""
    new = index[~seen.extracted[index]]
    begun = time.perf_counter()
    seen.features[new] = extract(seen.backbone, material.items(new), progress=material.progress)
    seen.extracted[new] = True
    # Found in the cache they take no time; what is told is what they take where they are not.
    seen.extract_seconds += max(time.perf_counter() - begun, len(new) / material.speeds[name])
    begun = time.perf_counter()
    features, y = seen.features[index], material.target[index]
    try:
        seen.index, seen.outputs = index, material.held_out(features, index)
        seen.scores = {name: float(value) for name, value in _scores(material, seen.backbone, features, y).items()}
    except GraftError as error:
        raise GraftError(f"{name}: {error}") from error
    seen.head_seconds += time.perf_counter() - begun
    entry, classes = seen.entry, max(2, len(material.dataset.classes))
    seen.row = {
        "data": material.dataset.name,
        "backbone": name,
        "modality": material.dataset.modality,
        "classes": classes,
        "width": seen.backbone.width,
        "parameters": entry.parameters,
        "size_px": entry.size_px or "",
        "gmacs": "" if entry.gmacs is None else entry.gmacs,
        "licence": entry.licence,
        "pretrained_on": entry.pretrained_on.partition(",")[0],
        "published": "" if entry.published is None else entry.published,
        "benchmark": entry.benchmark,
        "item_ms": 1000 / material.speeds[name],
        "labels_a_class": round(len(index) / classes),
        "seed": material.seed,
        "n": len(index),
        "cross_validated": measure(material.metric, y, seen.outputs),
        **seen.scores,
    }


def _scores(material: Material, backbone: Backbone, features: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Every score that there is for the task; none for several labels an item."""
    if material.task == "multilabel":
        return {}
    layer = backbone.classifier() if material.task == "classification" else None
    if layer is None:
        return all_scores(features, y, material.task)
    with torch.inference_mode():
        return all_scores(features, y, material.task, layer.eval()(torch.from_numpy(features)).softmax(1).numpy())


def _as_they_might_turn_out(material: Material, seen: Sequence[Seen], predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """(m, b) draws of the scores, and (m,) predictions; both turned so that greater is better."""
    index = seen[0].index
    again = resampled(material.metric, material.target[index], [one.outputs for one in seen], material.seed)
    if not predicts(material):
        return signed(material.metric, 1.0) * again, np.array([signed(material.metric, one.row["cross_validated"]) for one in seen])
    prediction = predictor.predict([one.row for one in seen])
    n = len(index)
    # As in `direct_estimate`: half an item on both sides.
    return prediction.draws(logit((again * n + 0.5) / (n + 1)), material.seed), expit(prediction.centre)


def _row(material: Material, name: str, seen: Seen, draws: np.ndarray, centre: float, chances: dict[str, Any], n: int) -> Ranked:
    value = float(signed(material.metric, centre))
    if predicts(material):
        low, high = np.quantile(draws, (0.025, 0.975))
    else:
        low, high = interval_over_items(material.metric, material.target[seen.index], seen.outputs, material.seed).interval
    return Ranked(
        backbone=name,
        predicted=value,
        score=value,
        interval=(float(low), float(high)),
        cross_validated=float(seen.row["cross_validated"]),
        n=len(seen.index),
        **chances,
        scores=seen.scores,
        extract_seconds=seen.extract_seconds,
        train_seconds=_PASSES * EPOCHS * n / material.speeds[name],
        serve_ms=1000 / material.speeds[name],
        seconds=seen.extract_seconds + seen.head_seconds,
        parameters=int(seen.row["parameters"]),
        licence=str(seen.row["licence"]),
    )
