"""What an adaptation tells beside its choice: how far the domains are apart, what moved, a map, what to label next. Chooses nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from graft.adapt.candidates import Made
from graft.adapt.course import Outcome
from graft.adapt.predict import LEVEL
from graft.adapt.sides import Sides
from graft.records import Adaptation
from graft.shift import bbse_shares, saerens_shares
from graft.transferability import DISTANCES

_ON_THE_MAP = 400  # items of each side: more hide each other
_COMPARED = 2000  # items of each side that distances are measured on, at most
_TO_LABEL = 20
_SEEN = 0.1  # of a kind of shift, from 0 to 1: what is less is not spoken of
_DOUBTFUL = 200  # of which those are picked that lie apart


def record(
    outcome: Outcome,
    *,
    source: str,
    target: str,
    names: Sequence[str],
    notes: Sequence[str],
    findings: Sequence[dict[str, Any]],
    domains: Sequence[str],
    modality: str,
    command: str,
    seconds: float,
    versions: dict[str, str],
) -> Adaptation:
    """Every number of an adaptation. names: (m,) of the target's items; the rest: fields of `Adaptation`."""
    sides, before, after = outcome.sides, outcome.made[0], outcome.chosen
    classified, with_source = sides.task == "classification", sides.source is not None
    seen: dict[str, Any] = {"distances": {}, "shift": {}, "moved": [], "map": {}, "label_next": []}
    if with_source:
        seen["distances"] = distances(before, after)
        seen["map"] = picture(sides, before, after)
        apart = seen["distances"]["proxy_a"]["before"]
        seen["shift"] = shift_of_numbers(apart)
    labelled = () if outcome.known is None else outcome.known.places.tolist()
    seen["label_next"] = label_next(sides, outcome.made, after, lambda place: str(names[place]), labelled)
    if classified:
        share = target_shares(sides, before)
        seen["moved"] = moved(sides, before, share)
    if classified and with_source:
        told = outcome.told[0]
        seen["shift"] = shift(sides.prior, share, apart, told["reverse_weighted"], told["reweighted_source"])
    return Adaptation(
        task=sides.task,
        metric="accuracy" if classified else "rmse",
        source=source,
        target=target,
        n_source=0 if sides.source is None else len(sides.source),
        n_target=len(sides.others),
        backbone=sides.model.backbone_.name,
        modality=modality,
        classes=[str(name) for name in sides.model.classes_],
        outcome="adapted" if outcome.decision.place else "source only",
        method=after.method,
        settings=dict(after.settings),
        reasons=outcome.decision.reasons,
        estimate=_estimate(outcome),
        candidates=[_candidate(outcome, place) for place in range(len(outcome.made))],
        **seen,
        seeds=[sides.seed],
        seconds=seconds,
        versions=versions,
        findings=list(findings),
        notes=[*notes, *outcome.notes, *([f"interrupted by Ctrl-C: {outcome.missing}"] if outcome.missing else [])],
        domains=list(domains),
        checked=outcome.decision.checked,
        command=command,
        interrupted=f"interrupted by Ctrl-C: {outcome.missing}" if outcome.missing else "",
    )


def _estimate(outcome: Outcome) -> dict[str, Any]:
    before, after = outcome.outlooks[0], outcome.outlooks[outcome.decision.place]
    if before is None or after is None or not after.is_told:
        return {}
    return {
        "score": after.score,
        "interval": after.interval,
        "interval_share": LEVEL,
        "source_only": {"score": before.score, "interval": before.interval},
        "gain": {"value": after.gain, "interval": after.gain_interval},
    }


def _candidate(outcome: Outcome, place: int) -> dict[str, Any]:
    one, outlook = outcome.made[place], outcome.outlooks[place]
    told = outlook is not None and outlook.is_told
    return {
        "method": one.method,
        "settings": dict(one.settings),
        "score": outlook.score if outlook and told else None,
        "interval": outlook.interval if outlook and told else None,
        "validators": outcome.told[place],
        "seconds": one.seconds,
        "note": one.fell_out,
    }


def distances(before: Made, after: Made) -> dict[str, dict[str, Any]]:
    """MMD and proxy A-distance of the learned part to the target, as the source-only model and as the chosen one sees them.

    The interval, 95 %, is that of the domain classifier's error (Wilson 1927), told for before.
    """
    mmd = [DISTANCES["mmd"](one.learned, one.target) for one in (before, after)]
    # The error is the mean of both sides' own: as many items, half on each, would be as uncertain.
    n = 4 / (1 / min(len(before.learned), _COMPARED) + 1 / min(len(before.target), _COMPARED))
    low, high = _wilson((1 - before.told_apart / 2) / 2, n)
    return {
        "mmd": {"before": mmd[0], "after": mmd[1], "interval": None},
        "proxy_a": {
            "before": before.told_apart,
            "after": after.told_apart,
            "interval": (max(0.0, 2 * (1 - 2 * high)), 2 * (1 - 2 * low)),
        },
    }


def _wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of n: Wilson 1927, doi:10.1080/01621459.1927.10502953."""
    z = norm.ppf(0.975)
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))


def target_shares(sides: Sides, source_only: Made) -> np.ndarray:
    """(c,) shares of the classes in the target, as the source-only model's mistakes tell: BBSE with the source, else EM."""
    domains = sides.domains
    if domains.held_out is not None:
        return bbse_shares(domains.held_out, domains.labels, source_only.outputs)
    return saerens_shares(source_only.outputs, sides.prior)


def moved(sides: Sides, source_only: Made, shares: np.ndarray) -> list[dict[str, Any]]:
    """For each class its share in the source and (estimated) in the target, and how far its mean moved, in its own spread.

    The target's mean is weighed by what the source-only model says of each item; the spread is the root mean square distance of the
    source's items to their mean. None without the source, or for a class that no target item is said to be of.
    """
    labels, rows = sides.labels(sides.learned), source_only.learned
    predicted = source_only.outputs.argmax(axis=1)
    found = []
    for place, name in enumerate(sides.model.classes_.tolist()):
        mine, weight = rows[labels == place], source_only.outputs[:, place]
        distance = None
        if len(mine) > 1 and (predicted == place).any():
            mean = mine.mean(axis=0)
            spread = float(np.sqrt(((mine - mean) ** 2).sum(axis=1).mean()))
            distance = float(np.linalg.norm(weight @ source_only.target / weight.sum() - mean)) / spread if spread else None
        found.append(
            {
                "class": str(name),
                "source_share": float(sides.prior[place]),
                "target_share": float(shares[place]),
                "moved": distance,
                "n_source": len(mine),
                "n_target": int((predicted == place).sum()),
            }
        )
    return found


def shift(prior: np.ndarray, shares: np.ndarray, proxy_a: float, reverse: float, risk: float) -> dict[str, Any]:
    """What kind of shift it looks like: "covariate", "label" and "concept", each {"value" in [0, 1], "words"}, and a sentence.

    prior, shares: (c,) of the classes in source and target. proxy_a: distance of the sides, 0 to 2. reverse, risk: what these validators
    say of source-only.
    label: total variation distance of the two sides' class shares. covariate: half the proxy A-distance, how well the sides are told apart.
    concept: how much of the source's held-out accuracy is lost by a classifier that learned the target's items as the source-only model
    names them (reverse validation), both weighted towards the target: where that works, names mean the same on both sides, as far as can
    be seen without a label.
    """
    label = float(np.abs(shares - prior).sum() / 2)
    covariate = _covariate(proxy_a)
    concept = float(np.clip(1 - reverse / risk, 0, 1)) if risk > 0 else 0.0
    told = {
        "covariate": covariate,
        "label": (label, f"about {_per_cent(label)} of the target would have to change class to have the source's shares"),
        "concept": (
            concept,
            f"learned back from the target's guessed labels, {_per_cent(1 - concept)} of the accuracy on the source is left; "
            "without target labels no one can rule this shift out",
        ),
    }
    found: dict[str, Any] = {name: {"value": value, "words": words} for name, (value, words) in told.items()}
    largest = max(told, key=lambda name: told[name][0])
    found["sentence"] = (
        "No shift to speak of is seen." if told[largest][0] < _SEEN else f"It looks most like {largest} shift: {told[largest][1]}."
    )
    return found


def shift_of_numbers(proxy_a: float) -> dict[str, Any]:
    """Of a regression: what `shift` says of "covariate"; of the other kinds nothing can be said of numbers without target labels."""
    value, words = _covariate(proxy_a)
    unseen = "whether the same items have other numbers there (concept shift) nothing tells without target labels"
    seen = "No shift of the items to speak of is seen" if value < _SEEN else f"It looks like covariate shift: {words}"
    return {"covariate": {"value": value, "words": words}, "sentence": f"{seen}; {unseen}."}


def _covariate(proxy_a: float) -> tuple[float, str]:
    value = proxy_a / 2
    return value, f"a linear classifier tells the sides apart {_per_cent((1 + value) / 2)} of the time (half of it is chance)"


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


def picture(sides: Sides, before: Made, after: Made) -> dict[str, dict[str, list[list[float]]]]:
    """Points (x, y, class) of both sides, as the source-only model and as the chosen one sees them: the first two principal axes.

    The class of a target item is the one that the model predicts; a regression has none, and 0 in its place.
    """
    return {"before": _points(sides, before), "after": _points(sides, after)}


def _points(sides: Sides, one: Made) -> dict[str, list[list[float]]]:
    rng = np.random.default_rng(sides.seed)
    if sides.task == "regression":
        labels, predicted = np.zeros(len(one.learned)), np.zeros(len(one.target))
    else:
        labels, predicted = sides.labels(sides.learned), one.outputs.argmax(axis=1)
    some = [np.sort(rng.permutation(len(rows))[:_ON_THE_MAP]) for rows in (one.learned, one.target)]
    # Both sides weigh alike, whatever their number: the axes would otherwise be those of the larger one.
    both = np.concatenate([rows[index] for rows, index in zip((one.learned, one.target), some, strict=True)]).astype(float)
    both -= both.mean(axis=0)
    axes = np.linalg.svd(both, full_matrices=False)[2][:2]
    # An axis has no sign of its own.
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points = np.zeros((len(both), 2))
    points[:, : len(axes)] = both @ axes.T
    classes = np.concatenate([labels[some[0]], predicted[some[1]]])
    listed = [[float(x), float(y), int(kind)] for (x, y), kind in zip(points, classes, strict=True)]
    return {"source": listed[: len(some[0])], "target": listed[len(some[0]) :]}


def label_next(
    sides: Sides, everyone: Sequence[Made], chosen: Made, name_of: Callable[[int], str], labelled: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """The target items that would settle most: candidates disagree on them and the chosen one is unsure, spread over the target.

    Vote entropy of the candidates (Dagan & Engelson 1995) plus the chosen one's entropy, both as a share of the most there can be; of a
    regression the standard deviation of the candidates' answers (Burbidge et al. 2007, query by committee). Of the
    200 highest, 20 that lie apart (farthest-first, Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5). name_of: place -> the item's name.
    labelled: places whose labels were given already, which are left out.
    """
    said = np.stack([one.outputs for one in everyone if not one.fell_out])
    doubt, about = _of_numbers(said, chosen) if said.ndim == 2 else _of_classes(said, chosen, sides.model.classes_)
    order = np.argsort(-doubt, kind="stable")
    order = order[~np.isin(order, labelled)][:_DOUBTFUL]
    if not len(order):
        return []
    picked = [int(order[0])]
    apart = np.linalg.norm(sides.target_rows[order] - sides.target_rows[picked[0]], axis=1)
    while len(picked) < min(_TO_LABEL, len(order)):
        # Near copies settle the same: doubt counts as far as an item lies from those that are picked.
        best = int((apart * doubt[order]).argmax())
        if not apart[best]:
            break
        picked.append(int(order[best]))
        apart = np.minimum(apart, np.linalg.norm(sides.target_rows[order] - sides.target_rows[picked[-1]], axis=1))
    return [{"id": name_of(place), "place": place, **about(place)} for place in picked]


# (place) -> "predicted", "probability" (None of a number) and "why" of an item to label next.
_About = Callable[[int], dict[str, Any]]


def _of_classes(said: np.ndarray, chosen: Made, classes: np.ndarray) -> tuple[np.ndarray, _About]:
    """(m,) doubt of each target item, and what is told of one. said: (k, m, c) outputs of the candidates."""
    votes = said.argmax(axis=2)
    share = np.stack([(votes == place).mean(axis=0) for place in range(len(classes))], axis=1)

    def about(place: int) -> dict[str, Any]:
        output = chosen.outputs[place]
        agree = int((votes[:, place] == output.argmax()).sum())
        return {
            "predicted": str(classes[output.argmax()]),
            "probability": float(output.max()),
            "why": f"{agree} of {len(votes)} candidates agree",
        }

    return _entropy(share) + _entropy(chosen.outputs), about


def _of_numbers(said: np.ndarray, chosen: Made) -> tuple[np.ndarray, _About]:
    """As `_of_classes`, of a regression. said: (k, m)."""

    def about(place: int) -> dict[str, Any]:
        low, high = said[:, place].min(), said[:, place].max()
        why = f"{len(said)} candidates say {low:.6g} to {high:.6g}"
        return {"predicted": f"{chosen.outputs[place]:.6g}", "probability": None, "why": why}

    doubt = said.std(axis=0)
    # Where all say the same, items that lie apart tell the most.
    return doubt if doubt.any() else np.ones(len(doubt)), about


def _entropy(shares: np.ndarray) -> np.ndarray:
    """(n,) of rows of shares, 1 where all are equal."""
    logs = np.log(np.clip(shares, 1e-12, 1.0))
    return np.asarray(-(shares * logs).sum(axis=1) / np.log(shares.shape[1]))
