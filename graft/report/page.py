"""The page: a Result written as one HTML file that needs no network, no script and no other file."""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from graft.files import replacing
from graft.records import Mistake, Result
from graft.report import plan_chart, plots, words

THUMBNAIL_PX = 160
# Above this many classes a matrix no longer fits a phone; the pairs most often confused say more than its cells.
MATRIX_AT_MOST = 12
PAIRS_SHOWN = 15
MISTAKES_SHOWN = 12
NAMES_SHOWN = 12

HEADLINES = {"helps": "Transfer helps.", "no difference shown": "No difference shown.", "hurts": "Transfer hurts."}
SEVERITIES = {"problem": "set aside", "warning": "warning", "note": "note"}


Row = Mapping[str, Any]


def write_report(
    result: Result,
    path: str | os.PathLike[str],
    *,
    mistakes: Sequence[Mistake] = (),
    fold_scores: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Write the page of a study.

    path: as `write_page` takes it.
    mistakes: the worst first; the first 12 are shown.
    fold_scores: name -> one score a fold, drawn behind the intervals. The name is "transfer" for the chosen model, else a
    control's.
    """
    write_page(render(result, mistakes, fold_scores or {}), path)


def write_page(html: str, path: str | os.PathLike[str]) -> None:
    """Write a page of this room. path: of the HTML file; its folder is made. It appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(html)


def render(result: Result, mistakes: Sequence[Mistake], fold_scores: Mapping[str, Sequence[float]]) -> str:
    """The page as HTML."""
    series = _series(result)
    return template("page.html").render(
        result=result,
        verdict=result.verdict,
        headline=HEADLINES[result.verdict["outcome"]],
        against_score=result.controls.get(result.verdict["against"], {}).get("score"),
        meaning=_meaning(result),
        words=words,
        difference=plots.difference(result.verdict["effect"], result.verdict["interval"]),
        comparison=plots.interval_rows(_comparison(result, series, fold_scores)),
        has_folds=bool(fold_scores),
        ranking=_chosen_among(result.ranking, lambda row: "", lambda row: row["backbone"] == result.backbone),
        candidates=_chosen_among(
            result.candidates,
            lambda row: row["strategy"],
            lambda row: (row["backbone"], row["strategy"]) == (result.backbone, result.strategy),
        ),
        strategies=_strategies(result),
        plan=plan_chart.page_chart(result.plan) if result.plan else "",
        curve=_curve(result, series),
        forgotten=plots.interval_rows(_forgotten(result)) if result.keep else "",
        pretraining=plots.interval_rows(_pretraining(result)) if "change" in result.pretraining else "",
        matrix=_matrix(result),
        pairs=_pairs(result),
        per_class=sorted(result.per_class, key=lambda row: row["f1"]),
        mistakes=[shown(mistake) for mistake in mistakes[:MISTAKES_SHOWN]],
        findings=told(result.findings),
    )


def template(name: str) -> jinja2.Template:
    """A page of this room, which escapes what it is given and fails on what it was not given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _series(result: Result) -> dict[str, int]:
    """Which colour and shape a name has on every plot: 0 for the chosen model, then the controls in their order."""
    series = {name: number for number, name in enumerate(result.controls, start=1)}
    others = [name for name in result.label_curve.get("curves", {}) if name not in series]
    return series | {name: number and number + len(result.controls) for number, name in enumerate(others)}


def _meaning(result: Result) -> str:
    """What the verdict means for what the reader does next."""
    against = result.verdict["against"]
    if result.verdict["outcome"] == "helps":
        return "The interval lies wholly above zero, so chance in the choice of items is an unlikely cause. Ship the transferred model."
    if result.verdict["outcome"] == "hurts":
        return f"The interval lies wholly below zero. Do not ship the transferred model; {against} serves better here."
    return (
        "The interval holds zero, so this data cannot tell the two apart. That is not proof that they are equal: "
        f"judge on more {words.items_name(result.modality)}, or ship whichever is cheaper to run."
    )


def _comparison(result: Result, series: Mapping[str, int], fold_scores: Mapping[str, Sequence[float]]) -> list[plots.Mark]:
    chosen = plots.Mark(
        label="transfer",
        value=result.score,
        interval=result.interval,
        note=f"{result.backbone}, {result.strategy}",
        points=tuple(fold_scores.get("transfer", ())),
    )
    controls = [
        plots.Mark(
            label=name,
            value=control["score"],
            interval=control["interval"],
            series=series[name],
            note=control.get("note", ""),
            aside=words.duration(control["seconds"]) if "seconds" in control else "",
            points=tuple(fold_scores.get(name, ())),
        )
        for name, control in result.controls.items()
    ]
    return [chosen, *controls]


def _forgotten(result: Result) -> list[plots.Mark]:
    """The source task before and after, series 0 for the weights that the page is about."""
    kept = result.keep
    marks = [plots.Mark("before", kept["before"]["score"], tuple(kept["before"]["interval"]), None, "the pretrained weights")]
    for name, label in (("same_head", "after, the same head"), ("new_head", "after, a new head")):
        if name in kept:
            change = kept[name]["change"]
            note = f"change {words.signed(change['effect'])}, {words.span(change['interval'], sign=True)}"
            marks.append(plots.Mark(label, kept[name]["score"], tuple(kept[name]["interval"]), 0, note))
    return marks


def _pretraining(result: Result) -> list[plots.Mark]:
    """A head on the features of the start and of what became of it."""
    told, change = result.pretraining, result.pretraining["change"]
    note = f"change {words.signed(change['effect'])}, {words.span(change['interval'], sign=True)}"
    return [
        plots.Mark(told["start"], told["before"]["score"], tuple(told["before"]["interval"]), None, "where it began"),
        plots.Mark(result.backbone, told["after"]["score"], tuple(told["after"]["interval"]), 0, note),
    ]


def _chosen_among(rows: Sequence[Mapping[str, Any]], note: Callable[[Row], str], is_chosen: Callable[[Row], bool]) -> str:
    """The rows of a choice as a plot, the chosen one marked; "" where there are none. note: what stands below a row's backbone."""
    if not rows:
        return ""
    return plots.interval_rows(
        [
            plots.Mark(
                label=row["backbone"],
                value=row["score"],
                interval=row["interval"],
                series=0 if is_chosen(row) else None,
                note=", ".join(filter(None, (note(row), "chosen" if is_chosen(row) else ""))),
                aside=words.duration(row.get("seconds")),
            )
            for row in rows
        ]
    )


def _strategies(result: Result) -> list[tuple[str, str]]:
    """(name, what it does) of every strategy on the page, each once."""
    names = dict.fromkeys([result.strategy, *(row["strategy"] for row in result.candidates)])
    return [(name, words.strategy_meaning(name)) for name in names if words.strategy_meaning(name)]


def _curve(result: Result, series: Mapping[str, int]) -> str:
    curves = {name: points for name, points in result.label_curve.get("curves", {}).items() if points}
    return plots.label_curve(curves, series) if curves else ""


def _matrix(result: Result) -> list[dict[str, Any]]:
    """Rows of the confusion matrix with each cell's share of its row; empty where there is none or it is too wide to read."""
    if not result.confusion or len(result.classes) > MATRIX_AT_MOST:
        return []
    rows = []
    for name, counts in zip(result.classes, result.confusion, strict=True):
        total = sum(counts)
        rows.append({"class": name, "cells": [{"n": n, "share": n / total if total else 0.0} for n in counts]})
    return rows


def _pairs(result: Result) -> list[dict[str, Any]]:
    """The pairs of classes most often confused, where there are too many classes for a matrix."""
    if len(result.classes) <= MATRIX_AT_MOST:
        return []
    pairs: list[dict[str, Any]] = [
        {"true": result.classes[row], "predicted": result.classes[column], "n": n, "of": sum(counts), "share": n / sum(counts)}
        for row, counts in enumerate(result.confusion)
        for column, n in enumerate(counts)
        if row != column and n
    ]
    return sorted(pairs, key=lambda pair: (-pair["n"], -pair["share"]))[:PAIRS_SHOWN]


def shown(mistake: Mistake) -> dict[str, Any]:
    """An item as a card of the page shows it: Mistake's fields, the text shortened, the image as `thumbnail`, a data: address."""
    return {
        "id": mistake.id,
        "true": mistake.true,
        "predicted": mistake.predicted,
        "probability": mistake.probability,
        "text": words.shorten(mistake.text, 320) if mistake.text is not None else None,
        "thumbnail": _thumbnail(mistake.image) if mistake.image is not None else None,
    }


def _thumbnail(image: Image.Image) -> str:
    """A small JPEG of the image as a data: address."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def told(findings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Findings as `findings.html` lists them: the gravest first, each with the first 12 of its items' names."""
    rows = sorted(findings, key=lambda finding: list(SEVERITIES).index(finding["severity"]))
    return [
        {
            "severity": row["severity"],
            "tag": SEVERITIES[row["severity"]],
            "message": row["message"],
            "names": list(row["items"])[:NAMES_SHOWN],
            "more": max(0, len(row["items"]) - NAMES_SHOWN),
        }
        for row in rows
    ]
