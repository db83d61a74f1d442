"""The page of an adaptation: the numbers of an `Adaptation` in, one HTML file out."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from graft.records import Adaptation, Mistake
from graft.report import domains, plots, sentences, words
from graft.report.page import shown, template, told, write_page
from graft.report.sentences import ADAPTED

LABEL_NEXT_SHOWN = 20
DOMAINS_SHOWN = 12
# More rows of a plot than this are more than one screen; the table below it has them all.
CANDIDATES_DRAWN = 12
SOURCE_ONLY_METHOD = "source_only"

# What a reason speaks -> its colour.
SPEAKS = {"for": "s0", "against": "s1", "neither": "other"}
NO_INTERVAL = (math.nan, math.nan)
HANDED_OVER, SOURCE_ONLY = 0, 1


def write_adaptation(adaptation: Adaptation, path: str | os.PathLike[str], *, label_next: Sequence[Mistake] = ()) -> None:
    """Write the page. path: as `write_page` takes it.

    label_next: the items of `adaptation.label_next` themselves, found by their id; what is there and not here is shown by its name.
    """
    write_page(render(adaptation, label_next), path)


def render(adaptation: Adaptation, label_next: Sequence[Mistake] = ()) -> str:
    """The page as HTML."""
    adapted = adaptation.outcome == ADAPTED
    return template("adaptation.html").render(
        result=adaptation,
        adapted=adapted,
        headline=f"Adapted with {adaptation.method}." if adapted else "Source-only kept.",
        tone=_tone(adaptation) if adapted else "other",
        sentences=sentences,
        words=words,
        level=sentences.level(adaptation.estimate) if adaptation.estimate else "",
        gain=_gain(adaptation) if adapted else "",
        expected=_expected(adaptation, adapted),
        reasons=[_reason(row) for row in adaptation.reasons],
        distances=[_distance(name, row) for name, row in adaptation.distances.items()],
        kinds=_kinds(adaptation.shift),
        moved=sorted(adaptation.moved, key=lambda row: _finite(row["moved"], -math.inf), reverse=True),
        maps=_maps(adaptation),
        map_key=domains.map_key(adaptation.classes),
        by_class=domains.is_coloured_by_class(adaptation.classes),
        candidates=_candidates(adaptation),
        next_items=_next(adaptation, label_next),
        findings=told(adaptation.findings),
        domains_named=sentences.domains_named(adaptation.domains, DOMAINS_SHOWN),
    )


def _tone(adaptation: Adaptation) -> str:
    """The headline's colour where a method was chosen: a warning's, where labels show it to be the worse."""
    return "s1" if adaptation.checked and adaptation.checked["verdict"]["outcome"] == "hurts" else "s0"


def _gain(adaptation: Adaptation) -> Markup | str:
    """The expected difference to source-only; "" where there is no estimate."""
    if not adaptation.estimate:
        return ""
    gain = adaptation.estimate["gain"]
    return plots.difference(gain["value"], gain["interval"], ("source-only", "adapted"), sentences.level(adaptation.estimate))


def _expected(adaptation: Adaptation, adapted: bool) -> Markup | str:
    """The scores on the target, estimated and checked, on one axis; "" where there are none."""
    marks = []
    told_by = {}
    if adaptation.estimate:
        told_by["expected"] = (adaptation.estimate, sentences.level(adaptation.estimate))
    if adaptation.checked:
        told_by[f"checked on {words.items(adaptation.checked['n'], adaptation.modality)}"] = (adaptation.checked, "95 %")
    for note, (scores, level) in told_by.items():
        rows = [("adapted", scores, HANDED_OVER)] if adapted else []
        rows.append(("source-only", scores["source_only"], SOURCE_ONLY))
        marks += [
            plots.Mark(label, row["score"], tuple(row["interval"]), series, f"{note}, {level} interval", level=level)
            for label, row, series in rows
        ]
    return plots.interval_rows(marks) if marks else ""


def _reason(row: Mapping[str, Any]) -> dict[str, Any]:
    value = row["value"]
    written = words.number(value) if value is None or isinstance(value, int | float) else str(value)
    return {**row, "evidence": str(row["evidence"]).replace("_", " "), "value": written, "series": SPEAKS[row["speaks"]]}


def _distance(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    # A distance is read from zero; an axis that begins elsewhere would make the smallest change look large.
    label, meaning, reached = sentences.DISTANCES.get(name, (name.replace("_", " "), "", (0.0,)))
    marks = [plots.Mark("before", row["before"], tuple(row["interval"] or NO_INTERVAL), SOURCE_ONLY)]
    if row["after"] is not None:
        marks.append(plots.Mark("after", row["after"], NO_INTERVAL, HANDED_OVER))
    return {"label": label, "meaning": meaning, "plot": plots.interval_rows(marks, also=reached)}


def _kinds(shift: Mapping[str, Any]) -> Markup | str:
    rows = [
        (sentences.KINDS[kind][0], str(shift[kind]["words"]), _finite(shift[kind]["value"], math.nan))
        for kind in sentences.KINDS
        if kind in shift
    ]
    return domains.share_rows(rows) if rows else ""


def _maps(adaptation: Adaptation) -> list[tuple[str, Markup]]:
    return [
        (when, domains.domain_map(adaptation.map[when], adaptation.classes, f"{when} adapting"))
        for when in ("before", "after")
        if when in adaptation.map and any(adaptation.map[when].values())
    ]


def _candidates(adaptation: Adaptation) -> dict[str, Any]:
    """What was tried: a plot of those with a predicted score, a table of what validators said, and those that fell out. The best first."""
    kept = [row for row in adaptation.candidates if not row["note"]]
    better_low = adaptation.metric in words.LOWER_IS_BETTER
    scored = sorted((row for row in kept if row["score"] is not None), key=lambda row: row["score"], reverse=not better_low)
    drawn = [
        row
        for place, row in enumerate(scored)
        if place < CANDIDATES_DRAWN or row["method"] == SOURCE_ONLY_METHOD or _is_chosen(row, adaptation)
    ]
    return {
        "plot": plots.interval_rows([_candidate_mark(row, adaptation) for row in drawn]) if drawn else "",
        "undrawn": len(scored) - len(drawn),
        "validators": list(dict.fromkeys(name for row in kept for name in row["validators"])),
        "rows": [{**row, "chosen": _is_chosen(row, adaptation)} for row in [*scored, *(row for row in kept if row["score"] is None)]],
        "out": [row for row in adaptation.candidates if row["note"]],
    }


def _is_chosen(row: Mapping[str, Any], adaptation: Adaptation) -> bool:
    return (row["method"], row["settings"]) == (adaptation.method, adaptation.settings)


def _candidate_mark(row: Mapping[str, Any], adaptation: Adaptation) -> plots.Mark:
    chosen = _is_chosen(row, adaptation)
    return plots.Mark(
        label=row["method"],
        value=row["score"],
        interval=tuple(row["interval"] or NO_INTERVAL),
        series=HANDED_OVER if chosen else None,
        note=", ".join(filter(None, (sentences.settings_text(row["settings"]), "chosen" if chosen else ""))),
        aside=words.duration(row["seconds"]),
        level=sentences.level(adaptation.estimate) if adaptation.estimate else "",
    )


def _next(adaptation: Adaptation, items: Sequence[Mistake]) -> list[dict[str, Any]]:
    itself = {item.id: shown(item) for item in items}
    strangers = itself.keys() - {row["id"] for row in adaptation.label_next}
    assert not strangers, f"items that the record does not name: {sorted(strangers)}"
    bare = {"text": None, "thumbnail": None}
    return [{**itself.get(row["id"], bare), **row} for row in adaptation.label_next[:LABEL_NEXT_SHOWN]]


def _finite(value: float | None, otherwise: float) -> float:
    return value if value is not None and math.isfinite(value) else otherwise
