"""The picture of a plan: every rate where it belongs, as text, for the page, and as a file."""

import re
import xml.etree.ElementTree as ET
from dataclasses import asdict
from itertools import pairwise

import pytest

from graft.records import Phase, Plan
from graft.report import plan_chart
from graft.strategies import STRATEGIES, make_plan


def drawn(plan, groups=("stem", "body", "pool")):
    return {"groups": list(groups), **asdict(plan)}


LP_FT = drawn(make_plan("lp_ft", 3, 4, 1e-2))


def test_the_text_has_the_head_on_top_and_a_shade_for_each_rate():
    assert plan_chart.text_chart(LP_FT) == [
        "head ████████▒▒▒▒▒▒▒▒",
        "pool ········▒▒▒▒▒▒▒▒",
        "body ········▒▒▒▒▒▒▒▒",
        "stem ········▒▒▒▒▒▒▒▒",
        "     1       3  (4 epochs)",
        "· frozen   ▒ 0.001   █ 0.01",
    ]


def test_a_plan_without_epochs_shows_a_solved_head():
    lines = plan_chart.text_chart(drawn(Plan(())))
    assert lines == ["head ███", "pool ···", "body ···", "stem ···", "█ solved for   · frozen"]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(("depth", "epochs"), [(1, 2), (5, 7), (26, 61), (8, 200)])
def test_every_strategy_fits_a_terminal_and_has_a_row_for_each_group(name, depth, epochs):
    plan = drawn(make_plan(name, depth, epochs, 1e-3), [f"a long name of a layer group {n}" for n in range(depth)])
    lines = plan_chart.text_chart(plan)
    assert max(map(len, lines)) <= 80
    assert sum(not line.startswith((" ", *"·░▒▓█", "A column")) for line in lines) == depth + 1
    # A soup has more epochs than it was called with.
    assert ("A column is" in "".join(lines)) == (sum(phase["epochs"] for phase in plan["phases"]) > 61)
    svg = ET.fromstring(plan_chart.chart_file(plan, name))
    assert svg.tag.endswith("svg")


def test_more_rates_than_shades_share_them_in_order():
    plan = drawn(make_plan("discriminative", 9, 3, 1e-2), [str(n) for n in range(9)])
    shades = plan_chart.steps(plan)
    rates = sorted([*plan["phases"][0]["lr"], 1e-2])
    assert len(shades) == 4
    assert (shades[0][0], shades[-1][1]) == (pytest.approx(rates[0], rel=1e-5), 1e-2)
    assert all(sum(low <= float(f"{rate:.6g}") <= high for low, high in shades) == 1 for rate in rates)
    darkness = [plan_chart.SHADES.index(line.split()[1][0]) for line in plan_chart.text_chart(plan)[:10]]
    assert darkness == sorted(darkness, reverse=True) and len(set(darkness)) == 4


def cells(markup):
    """(x, width, y, opacity or None, what it says) of every cell, percent and pixels as numbers."""
    found = []
    for cell in ET.fromstring(f"<div>{markup}</div>").iter():
        if cell.tag.endswith("rect") and "%" in cell.get("width", "") and len(cell):
            sides = [float(cell.get(side).strip("%")) for side in ("x", "width", "y")]
            found.append((*sides, float(cell.get("fill-opacity")) if cell.get("fill-opacity") else None, cell[0].text))
    return found


def test_a_cell_is_as_wide_as_its_phase_and_as_dark_as_its_rate():
    plan = drawn(Plan((Phase(1, (0.0, 0.0, 1e-4), 1e-2), Phase(3, (0.0, 1e-4, 1e-2), 1e-2))))
    found = cells(plan_chart.page_chart(plan))
    assert [(x, width, opacity) for x, width, _, opacity, _ in found] == [
        (0, 25, 1.0), (25, 75, 1.0),  # head
        (0, 25, 0.42), (25, 75, 1.0),  # pool
        (0, 25, None), (25, 75, 0.42),  # body
        (0, 25, None), (25, 75, None),  # stem
    ]  # fmt: skip
    assert found[2][4] == "pool, phase 1: rate 0.0001" and found[6][4] == "stem, phase 1: frozen"
    rows = [y for _, _, y, _, _ in found]
    assert rows == sorted(rows) and len(set(rows)) == 4


def test_the_file_stands_alone_for_light_and_dark_and_its_legend_does_not_overlap():
    svg = plan_chart.chart_file(drawn(make_plan("discriminative", 9, 3, 1e-2), [str(n) for n in range(9)]), "a <b> & c")
    root = ET.fromstring(svg)
    assert "prefers-color-scheme: dark" in svg and "url(" not in svg and "href" not in svg
    assert "a <b> & c" in [text.text for text in root.iter() if text.tag.endswith("text")]
    ends = []
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        x = float(re.match(r"translate\(([\d.]+),", group.get("transform"))[1])
        # Twelve pixels high, a letter is about seven wide.
        ends.append((x, x + 20 + 7 * len(group[-1].text)))
    assert all(end < start for (_, end), (start, _) in pairwise(ends))
    assert ends[-1][1] <= 720


def test_the_caption_says_that_a_leading_phase_of_the_head_is_solved_for():
    assert "its optimum is solved for, and its epochs go to the next phase" in plan_chart.caption(LP_FT)
    assert "solved for" not in plan_chart.caption(drawn(make_plan("full", 3, 4, 1e-2)))
    assert "solved for" not in plan_chart.caption({**LP_FT, "reset": True})


def test_hostile_names_are_escaped():
    plan = drawn(make_plan("full", 1, 2, 1e-2), ["<script>"])
    assert "<script>" not in plan_chart.page_chart(plan) and "<script>" not in plan_chart.chart_file(plan, "<script>")
