"""A plan as a picture: layer groups against epochs, the head on top, the darker the higher the rate. For the page, a file, a terminal.

plan, everywhere in this room: {"groups": names, input side first, "phases": [{"epochs", "lr", "head_lr"}, ...], "reset": bool, ...},
the fields of a Plan with the names of its layer groups, as `Result.plan` holds them.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from graft.report.plots import tag

# A shade for each of up to four steps of rate, faintest first: as a character, as an opacity.
SHADES = "░▒▓█"
OPACITIES = (0.2, 0.42, 0.68, 1.0)
# Which of the shades so many steps take, so that they are told apart.
_TAKEN = {0: (), 1: (3,), 2: (1, 3), 3: (0, 1, 3), 4: (0, 1, 2, 3)}
_FROZEN = "·"
_WIDTH = 80  # columns of a terminal
_ROW, _LABEL, _PICTURE = 22, 150, 720  # px
_LEGEND_X, _LETTER = 24, 7
_LONGEST = 18  # letters of a layer group's name

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfcf9; --ink: #1f1e1b; --soft: #66635b; --hair: #dedad0; --s0: #0067a6; }
@media (prefers-color-scheme: dark) { :root { --paper: #191917; --ink: #ece9e1; --soft: #a5a197; --hair: #3a3934; --s0: #62b6f0; } }
text { font: 12px system-ui, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--soft); } .title { font-size: 15px; fill: var(--ink); }
.end { text-anchor: end; } .middle { text-anchor: middle; } .paper { fill: var(--paper); } .frozen { fill: none; stroke: var(--hair); }
.rate { fill: var(--s0); } .grid { stroke: var(--hair); }
"""


def steps(plan: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(lowest, highest) rate of each shade, faintest first: one for each rate, or four equal steps of its logarithm where more differ."""
    rates = sorted({float(f"{rate:.6g}") for phase in plan["phases"] for rate in (*phase["lr"], phase["head_lr"]) if rate})
    if len(rates) <= len(SHADES):
        return [(rate, rate) for rate in rates]
    edges = [rates[0] * (rates[-1] / rates[0]) ** (step / len(SHADES)) for step in range(1, len(SHADES))]
    held: list[list[float]] = [[] for _ in SHADES]
    for rate in rates:
        held[sum(rate > edge for edge in edges)].append(rate)
    return [(some[0], some[-1]) for some in held if some]


def rows(plan: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """(name, rate in each phase), the head first, then the layer groups from the output down to the input."""
    rates = [*zip(*(phase["lr"] for phase in plan["phases"]), strict=True)] if plan["phases"] else [()] * len(plan["groups"])
    groups = [(name, list(some)) for name, some in zip(plan["groups"], rates, strict=True)]
    return [("head", [phase["head_lr"] for phase in plan["phases"]]), *reversed(groups)]


def caption(plan: Mapping[str, Any]) -> str:
    """What the picture alone does not say."""
    if not plan["phases"]:
        return "Nothing is trained by steps: the head is solved for on frozen features."
    words = "A shade is the highest rate of its phase: rates rise at a phase's beginning and fall to its end."
    if not plan["reset"] and not plan.get("losses") and not any(plan["phases"][0]["lr"]):
        words += " In the first phase only the head learns: its optimum is solved for"
        words += ", and its epochs go to the next phase." if len(plan["phases"]) > 1 else "."
    return words


def text_chart(plan: Mapping[str, Any]) -> list[str]:
    """Lines of at most 80 columns: a row for each layer group, then the epochs, then what the shades are."""
    names = [_short(name) for name, _ in rows(plan)]
    margin = max(map(len, names)) + 1
    if not plan["phases"]:
        solved = [f"{name:<{margin}}{SHADES[-1] * 3 if place == 0 else _FROZEN * 3}" for place, name in enumerate(names)]
        return [*solved, f"{SHADES[-1]} solved for   {_FROZEN} frozen"]
    epochs = [number for number, phase in enumerate(plan["phases"]) for _ in range(phase["epochs"])]
    room = _WIDTH - margin
    wide, every = max(1, min(4, room // len(epochs))), math.ceil(len(epochs) / room)
    shades = steps(plan)
    lines = [
        f"{name:<{margin}}" + "".join(_character(rates[number], shades) * wide for number in epochs[::every])
        for name, (_, rates) in zip(names, rows(plan), strict=True)
    ]
    lines.append(" " * margin + _axis(plan, wide, every, room))
    if every > 1:
        lines.append(f"A column is {every} epochs, in the shade of the first of them.")
    legend = [f"{_character(high, shades)} {_step_words(low, high)}" for low, high in shades]
    # Spaces inside an entry are no places to break a line at.
    joined = "   ".join(entry.replace(" ", "\0") for entry in (f"{_FROZEN} frozen", *legend))
    return [*lines, *(line.replace("\0", " ") for line in textwrap.wrap(joined, _WIDTH))]


def page_chart(plan: Mapping[str, Any]) -> Markup:
    """The picture for the page: takes its width and its colours from there."""
    height = _ROW * len(rows(plan))
    drawn = tag("svg", *_cells(plan, -8), class_="plan", style=f"height: {height}px", role="img", aria_label=_spoken(plan))
    swatches = [tag("span", _swatch(opacity), " ", words) for opacity, words in _legend(plan)]
    return tag("div", *swatches, class_="legend") + tag("div", drawn, class_="planned") + tag("p", tag("small", caption(plan)))


def chart_file(plan: Mapping[str, Any], title: str) -> str:
    """The picture as an SVG file of its own, 720 px wide, for light and dark screens."""
    top, height = 48, _ROW * len(rows(plan))
    below, x, legend = top + height + 52, _LEGEND_X, []
    for opacity, words in _legend(plan):
        legend.append(tag("g", _swatch(opacity), tag("text", words, x=20, y=11), transform=f"translate({x},{below - 11})"))
        x += 36 + _LETTER * len(words)
    cells = tag("svg", *_cells(plan, -8), x=_LABEL, y=top, width=_PICTURE - _LABEL - 24, height=height, overflow="visible")
    whole = [
        tag("style", Markup(_STYLE)),
        tag("rect", width="100%", height="100%", class_="paper"),
        tag("text", title, x=_LABEL, y=28, class_="title"),
        cells,
        *legend,
    ]
    size = {"width": _PICTURE, "height": below + 20, "viewBox": f"0 0 {_PICTURE} {below + 20}"}
    return str(tag("svg", *whole, xmlns="http://www.w3.org/2000/svg", role="img", aria_label=_spoken(plan), **size)) + "\n"


def _cells(plan: Mapping[str, Any], label_x: int) -> list[Markup]:
    """Rows of cells, one a phase, as wide as it has epochs, and the epochs below: across in percent, down in pixels."""
    shades, drawn = steps(plan), []
    lengths = [phase["epochs"] for phase in plan["phases"]] or [1]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    share = 100 / sum(lengths)
    for row, (name, rates) in enumerate(rows(plan)):
        drawn.append(tag("text", _short(name), x=label_x, y=row * _ROW + _ROW / 2, dy="0.35em", class_="end"))
        for number, length in enumerate(lengths):
            rate = rates[number] if rates else float(row == 0)
            told = _told(rates, number, row)
            place = {"x": f"{starts[number] * share:.2f}%", "y": row * _ROW + 1, "width": f"{length * share:.2f}%", "height": _ROW - 3}
            if rate:
                place |= {"class_": "rate", "fill_opacity": OPACITIES[_shade(rate, shades)] if rates else 1.0}
            drawn.append(tag("rect", tag("title", f"{name}, {told}"), **({"class_": "frozen"} | place)))
    bottom = _ROW * len(rows(plan))
    last = -math.inf
    for start, length in zip(starts, lengths, strict=True) if plan["phases"] else ():
        at = (start + length / 2) * share
        x = f"{start * share:.2f}%"
        if start:
            drawn.append(tag("line", x1=x, y1=0, x2=x, y2=bottom, class_="grid"))
        # Ten percent of a phone's picture are as wide as "12–20".
        if at - last >= 10:
            words = str(start + 1) if length == 1 else f"{start + 1}–{start + length}"
            drawn.append(tag("text", words, x=f"{at:.2f}%", y=bottom + 16, class_="middle"))
            last = at
    if plan["phases"]:
        drawn.append(tag("text", "epochs", x=label_x, y=bottom + 16, class_="end"))
    return drawn


def _told(rates: Sequence[float], number: int, row: int) -> str:
    if not rates:
        return "solved for" if row == 0 else "frozen"
    return f"phase {number + 1}: " + (f"rate {rates[number]:.3g}" if rates[number] else "frozen")


def _legend(plan: Mapping[str, Any]) -> list[tuple[float, str]]:
    """(opacity, words) of each shade; 0 for frozen."""
    if not plan["phases"]:
        return [(0.0, "frozen"), (1.0, "solved for")]
    shades = steps(plan)
    return [(0.0, "frozen"), *((OPACITIES[_shade(high, shades)], _step_words(low, high)) for low, high in shades)]


def _swatch(opacity: float) -> Markup:
    look = {"class_": "rate", "fill_opacity": opacity} if opacity else {"class_": "frozen"}
    return tag("svg", tag("rect", x=1, y=1, width=12, height=12, **look), class_="key", width=14, height=14, aria_hidden="true")


def _spoken(plan: Mapping[str, Any]) -> str:
    told = []
    for row, (name, rates) in enumerate(rows(plan)):
        told.append(f"{name}: " + ", ".join(_told(rates, number, row) for number in range(max(1, len(rates)))))
    return "rate of each layer group. " + "; ".join(told)


def _shade(rate: float, shades: Sequence[tuple[float, float]]) -> int:
    """Place in SHADES of a rate above zero."""
    rate = float(f"{rate:.6g}")
    return _TAKEN[len(shades)][next(place for place, (_, high) in enumerate(shades) if rate <= high)]


def _character(rate: float, shades: Sequence[tuple[float, float]]) -> str:
    return SHADES[_shade(rate, shades)] if rate else _FROZEN


def _step_words(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.2g} to {high:.2g}"


def _axis(plan: Mapping[str, Any], wide: int, every: int, room: int) -> str:
    """The epoch at which each phase begins, where there is space to write it."""
    line, epoch = "", 0
    for phase in plan["phases"]:
        place, text = epoch // every * wide, str(epoch + 1)
        if (not line or place > len(line)) and place + len(text) <= room:
            line = line.ljust(place) + text
        epoch += phase["epochs"]
    last = f"{epoch} epochs" if epoch > 1 else "epoch"
    return f"{line}  ({last})" if len(line) + len(last) + 4 <= room else line


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
