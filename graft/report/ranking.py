"""The page of a ranking: the numbers of `Ranking.to_dict` in, one HTML file out."""

import os
from collections.abc import Mapping
from typing import Any

from graft.report import plots, words
from graft.report.page import template, write_page


def write_ranking(numbers: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page. numbers: as `rank.json` holds them. path: as `write_page` takes it."""
    write_page(render(numbers), path)


def render(numbers: Mapping[str, Any]) -> str:
    """The page as HTML."""
    rows, check = numbers["ranking"], numbers["check"]
    leaders = [row for row in rows if row["group"] == 1]
    chosen = next(row for row in rows if row["backbone"] == numbers["recommended"])
    return template("ranking.html").render(
        ranking=numbers,
        rows=rows,
        leaders=leaders,
        chosen=chosen,
        check=check,
        words=words,
        headline=f"Start from {chosen['backbone']}.",
        predicted=plots.interval_rows([_mark(row, numbers) for row in rows]),
        truth=plots.predicted_and_true(check["candidates"], numbers["recommended"]) if check else "",
    )


def _mark(row: Mapping[str, Any], numbers: Mapping[str, Any]) -> plots.Mark:
    stands = f"group {row['group']}" if row["group"] else f"dropped on {row['n']} items"
    return plots.Mark(
        label=row["backbone"],
        value=row["predicted"],
        interval=tuple(row["interval"]),
        series=0 if row["backbone"] == numbers["recommended"] else None,
        note=stands + (", recommended" if row["backbone"] == numbers["recommended"] else ""),
        aside=f"best: {row['p_best']:.0%}",
    )
