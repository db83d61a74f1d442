"""The page of a comparison: the numbers of `Comparison.to_dict` in, one HTML file out."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from graft.report import plan_chart, plots, words
from graft.report.page import template, write_page


def write_comparison(numbers: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page. numbers: as `comparison.json` holds them. path: as `write_page` takes it."""
    write_page(render(numbers), path)


def render(numbers: Mapping[str, Any]) -> str:
    """The page as HTML."""
    rivals = numbers["rivals"]
    series = {rival["strategy"]: number for number, rival in enumerate(rivals)}
    tied = _tied(numbers)
    return template("comparison.html").render(
        study=numbers,
        words=words,
        headline=_headline(rivals, tied),
        lead=_lead(rivals, tied),
        scores=plots.interval_rows([_mark(rival, series) for rival in rivals]),
        by_epoch=plots.learning_curves(_lines(rivals, "epoch", "score"), series),
        by_loss=plots.learning_curves(_lines(rivals, "epoch", "loss"), series),
        by_seconds=plots.learning_curves(_lines(rivals, "seconds", "score"), series, logarithmic=True),
        forgotten=_forgotten(rivals, series),
        plans=[(rival["strategy"], words.strategy_meaning(rival["strategy"]), plan_chart.page_chart(rival["plan"])) for rival in rivals],
    )


def _tied(numbers: Mapping[str, Any]) -> list[str]:
    """Names of those that tie with the best."""
    best = numbers["rivals"][0]["strategy"]
    return [pair["second"] for pair in numbers["pairs"] if pair["first"] == best and not pair["better"]]


def _headline(rivals: Sequence[Mapping[str, Any]], tied: Sequence[str]) -> str:
    if len(tied) == len(rivals) - 1:
        return "No difference shown."
    return f"{len(tied) + 1} of {len(rivals)} tie for the lead." if tied else f"{rivals[0]['strategy']} is best."


def _lead(rivals: Sequence[Mapping[str, Any]], tied: Sequence[str]) -> str:
    best = rivals[0]["strategy"]
    if not tied:
        return f"{best} is better than each of the others, also when it is allowed for that several pairs were looked at."
    names = ", ".join(tied)
    behind = [rival["strategy"] for rival in rivals[1:] if rival["strategy"] not in tied]
    better = f" It is better than {', '.join(behind)}." if behind else ""
    return (
        f"{best} has the highest mean and ties with {names}: these items cannot tell them apart, "
        f"which is no proof that they are equal.{better}"
    )


def _mark(rival: Mapping[str, Any], series: Mapping[str, int]) -> plots.Mark:
    rates = sorted(set(rival["rates"]))
    return plots.Mark(
        label=rival["strategy"],
        value=rival["score"],
        interval=tuple(rival["interval"]),
        series=series[rival["strategy"]],
        note="rate " + ", ".join(f"{rate:g}" for rate in rates) if rates else "no rate to choose",
        aside=words.duration(rival["seconds"]),
        points=tuple(rival["fold_scores"]) if len(rival["fold_scores"]) > 1 else (),
    )


def _forgotten(rivals: Sequence[Mapping[str, Any]], series: Mapping[str, int]) -> list[tuple[str, str]]:
    """(which head, a plot of what it reaches on the source task before and after each strategy); none where nothing was retrained."""
    kept = {rival["strategy"]: rival["keep"] for rival in rivals if rival.get("keep", {}).get("retrained")}
    plotted: list[tuple[str, str]] = []
    for head, title in (("same_head", "The same head"), ("new_head", "A head solved for anew")) if kept else ():
        before = next(iter(kept.values()))["before"]
        marks = [plots.Mark("before", before["score"], tuple(before["interval"]), None, "the pretrained weights")]
        for name, told in kept.items():
            change = told[head]["change"]
            note = f"change {words.signed(change['effect'])}, {words.span(change['interval'], sign=True)}"
            marks.append(plots.Mark(name, told[head]["score"], tuple(told[head]["interval"]), series[name], note))
        plotted.append((title, plots.interval_rows(marks)))
    return plotted


def _lines(rivals: Sequence[Mapping[str, Any]], across: str, up: str) -> dict[str, list[plots.Place]]:
    """Strategy -> its curve; without what was not measured."""
    lines = {}
    for rival in rivals:
        shown = [point for point in rival["curve"] if point[up] is not None]
        lines[rival["strategy"]] = [plots.Place(point[across], point[up], *point[f"{up}_range"]) for point in shown]
    return {name: line for name, line in lines.items() if line}
