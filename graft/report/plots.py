"""The page's plots as inline SVG: scores with intervals, the difference, the label curve. Markup in, no pixels.

Drawn by hand and not by matplotlib: positions are percentages, so a plot fills a phone or a desk without its letters
shrinking, takes its colours from the page's light or dark style, and weighs two kilobytes instead of forty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from graft.report.words import breakable, number, signed, span

# One path for each series, about a centre at (0, 0), so that series differ in shape as well as in colour.
SHAPES = (
    "M5,0A5,5 0 1 1 -5,0A5,5 0 1 1 5,0Z",  # circle
    "M-4.5,-4.5H4.5V4.5H-4.5Z",  # square
    "M0,-6L6,0L0,6L-6,0Z",  # diamond
    "M0,-6L5.5,4.5H-5.5Z",  # triangle
)


@dataclass(frozen=True)
class Mark:
    """One row of `interval_rows`.

    label: what was scored. series: number of its colour and shape, 0 = the chosen model; None = grey, neither chosen nor a
    control. note: small text below the label.
    aside: small text at the right, e.g. seconds. points: scores of single folds, drawn as thin ticks. level: of the interval, in words.
    """

    label: str
    value: float
    interval: tuple[float, float]
    series: int | None = 0
    note: str = ""
    aside: str = ""
    points: tuple[float, ...] = ()
    level: str = "95 %"


@dataclass(frozen=True)
class Place:
    """A point of a learning curve: where, how high, and the lowest and highest fold."""

    x: float
    y: float
    low: float
    high: float


def tag(name: str, *content: Any, **attributes: Any) -> Markup:
    """One element. Content and attribute values are escaped unless they are Markup; `_` in an attribute's name stands for `-`."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{''.join(escape(part) for part in content)}</{name}>")


class Scale:
    """A number's place along an axis, in percent.

    values: what must be shown; what is not finite is left out. room: share of the span left free at both ends.
    """

    def __init__(self, values: Sequence[float], room: float = 0.06) -> None:
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        span_ = (high - low) or abs(high) / 10 or 1.0
        self.low, self.high = low - room * span_, high + room * span_

    def __call__(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)

    def percent(self, value: float) -> str:
        return f"{self(value):.2f}%"


def ticks(low: float, high: float, at_most: int = 5) -> list[float]:
    """Round numbers within [low, high], 1, 2 or 5 times a power of ten apart, at most `at_most` of them."""
    assert high > low
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = next(
        power * times for times in (1, 2, 5, 10, 20) if math.floor(high / (power * times)) - math.ceil(low / (power * times)) < at_most
    )
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tick_text(values: Sequence[float], sign: bool = False) -> list[str]:
    """Tick labels with as many decimals as tell them apart."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    texts = [f"{value:{'+' if sign and value else ''},.{digits}f}" for value in values]
    return [text.replace("-", "−") if float(text.replace(",", "")) else "0" for text in texts]


def _at(x: str, y: str, *content: Any) -> Markup:
    """Content drawn in pixels about a point given in percent."""
    return tag("svg", *content, x=x, y=y, overflow="visible")


def _line(x1: str, y1: str, x2: str, y2: str, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _shape(series: int | None) -> Markup:
    # Where colours come round again, they meet another shape.
    return tag("path", d=SHAPES[((series or 0) + (series or 0) // len(SHAPES)) % len(SHAPES)], class_="dot")


def _colour(series: int | None) -> str:
    """The series' class in the style sheet."""
    return "other" if series is None else f"s{series % len(SHAPES)}"


def key(series: int) -> Markup:
    """A series' shape in its colour, to stand in a line of text."""
    return tag("svg", _at("50%", "50%", _shape(series)), class_=f"key {_colour(series)}", aria_hidden="true")


def interval_rows(marks: Sequence[Mark], also: Sequence[float] = ()) -> Markup:
    """One row a mark: label, point with its interval on a common axis, number. also: values that the axis must reach."""
    scale = Scale([*also, *(value for mark in marks for value in (mark.value, *mark.interval, *mark.points))])
    stops = ticks(scale.low, scale.high)
    grid = [_line(scale.percent(stop), "0", scale.percent(stop), "100%", "grid") for stop in stops]
    rows = []
    for mark in marks:
        drawn: list[Markup] = [*grid]
        drawn += [_line(scale.percent(point), "22%", scale.percent(point), "78%", "fold") for point in mark.points if math.isfinite(point)]
        if all(math.isfinite(end) for end in mark.interval):
            low, high = (scale.percent(end) for end in mark.interval)
            drawn += [
                _line(low, "50%", high, "50%", "range"),
                _line(low, "32%", low, "68%", "range"),
                _line(high, "32%", high, "68%", "range"),
            ]
        if math.isfinite(mark.value):
            drawn.append(_at(scale.percent(mark.value), "50%", _shape(mark.series)))
        spoken = f"{mark.label}: {number(mark.value)}, {mark.level} interval {span(mark.interval)}"
        label = tag("div", tag("b", breakable(mark.label)), *([tag("small", breakable(mark.note))] if mark.note else []), class_="label")
        value = tag(
            "div",
            tag("b", number(mark.value)),
            tag("small", span(mark.interval)),
            *([tag("small", mark.aside)] if mark.aside else []),
            class_="value",
        )
        track = tag("svg", *drawn, class_="track", role="img", aria_label=spoken)
        rows.append(tag("div", label, track, value, class_=f"row {_colour(mark.series)}"))
    axis = [tag("text", text, x=scale.percent(stop), y="14", class_="middle") for stop, text in zip(stops, tick_text(stops), strict=True)]
    rows.append(
        tag(
            "div",
            tag("div", class_="label"),
            tag("svg", *axis, class_="axis", aria_hidden="true"),
            tag("div", class_="value"),
            class_="row foot",
        )
    )
    return tag("div", *rows, class_="rows")


def difference(
    effect: float, interval: tuple[float, float], sides: tuple[str, str] = ("control", "transfer"), level: str = "95 %"
) -> Markup:
    """The effect with its interval beside the line of no difference. sides: who is better left of it, and right. level: of the interval."""
    scale = Scale([0.0, effect, *interval], room=0.18)
    stops = ticks(scale.low, scale.high)
    zero = scale.percent(0.0)
    drawn = [_line(scale.percent(stop), "26", scale.percent(stop), "70", "grid") for stop in stops]
    drawn += [
        tag("text", text, x=scale.percent(stop), y="88", class_="middle")
        for stop, text in zip(stops, tick_text(stops, sign=True), strict=True)
    ]
    drawn += [_line(zero, "22", zero, "70", "zero")]
    drawn += [tag("text", f"← {sides[0]} better", x="0", y="12"), tag("text", f"{sides[1]} better →", x="100%", y="12", class_="end")]
    if all(math.isfinite(end) for end in interval):
        low, high = (scale.percent(end) for end in interval)
        drawn += [_line(low, "48", high, "48", "range thick"), _line(low, "39", low, "57", "range"), _line(high, "39", high, "57", "range")]
    if math.isfinite(effect):
        drawn.append(_at(scale.percent(effect), "48", tag("path", d=SHAPES[0], class_="dot", transform="scale(1.5)")))
    return tag(
        "svg",
        *drawn,
        class_="difference",
        role="img",
        aria_label=f"difference {signed(effect)}, {level} interval {span(interval, sign=True)}",
    )


def label_curve(curves: Mapping[str, Sequence[Mapping[str, Any]]], series: Mapping[str, int]) -> Markup:
    """Score against number of labels (logarithmic), one line and one band of intervals a curve.

    curves: name -> points {"n", "score", "interval"}. series: name -> number of its colour and shape.
    """
    points = [point for curve in curves.values() for point in curve]
    counts = sorted({int(point["n"]) for point in points})
    across = Scale([math.log(n) for n in counts], room=0.03)
    up = Scale([value for point in points for value in (point["score"], *point["interval"])], room=0.04)

    def x(n: int) -> float:
        return across(math.log(n))

    def y(value: float) -> float:
        return 100 - up(value)

    stops = ticks(up.low, up.high)
    drawn = []
    for stop, text in zip(stops, tick_text(stops), strict=True):
        height = f"{y(stop):.2f}%"
        drawn += [_line("0", height, "100%", height, "grid"), tag("text", text, x="-8", y=height, dy="0.35em", class_="end")]
    last = -math.inf
    for n in counts:
        drawn.append(_at(f"{x(n):.2f}%", "100%", _line("0", "0", "0", "5", "grid")))
        if x(n) - last >= 9:
            drawn.append(_at(f"{x(n):.2f}%", "100%", tag("text", f"{n:,}", y="20", class_="middle")))
            last = x(n)
    for name, curve in curves.items():
        curve = sorted((point for point in curve if math.isfinite(point["score"])), key=lambda point: point["n"])
        banded = [point for point in curve if all(math.isfinite(end) for end in point["interval"])]
        edge = [(x(p["n"]), y(p["interval"][1])) for p in banded] + [(x(p["n"]), y(p["interval"][0])) for p in reversed(banded)]
        band = tag("polygon", points=" ".join(f"{a:.2f},{b:.2f}" for a, b in edge), class_="band")
        inner = [tag("svg", band, viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height="100%")]
        places = [(f"{x(p['n']):.2f}%", f"{y(p['score']):.2f}%") for p in curve]
        inner += [_line(*a, *b, "curve") for a, b in pairwise(places)]
        inner += [_at(*place, _shape(series[name])) for place in places]
        drawn.append(tag("g", *inner, class_=_colour(series[name])))
    spoken = "; ".join(f"{name}: " + ", ".join(f"{number(p['score'])} with {p['n']:,}" for p in curve) for name, curve in curves.items())
    legend = tag("div", *(tag("span", key(series[name]), " ", name) for name in curves), class_="legend")
    svg = tag("svg", *drawn, class_="curves", role="img", aria_label=f"score against number of labels. {spoken}")
    return legend + tag("div", svg, class_="plot")


def learning_curves(
    curves: Mapping[str, Sequence[Place]], series: Mapping[str, int], logarithmic: bool = False, legend: bool = True
) -> Markup:
    """One line and one band a curve; a curve of a single point is a level dotted line to the right of it. "" where there is none.

    logarithmic: the x axis, whose values are then above zero. legend: names the curves; not needed where a heading does.
    """
    places = [place for curve in curves.values() for place in curve]
    if not places:
        return Markup("")
    turn = math.log10 if logarithmic else float
    across = Scale([turn(place.x) for place in places], room=0.03)
    up = Scale([value for place in places for value in (place.y, place.low, place.high)], room=0.04)

    def at(x: float, y: float) -> tuple[float, float]:
        return across(turn(x)), 100 - up(y)

    drawn = []
    stops = ticks(up.low, up.high)
    for stop, text in zip(stops, tick_text(stops), strict=True):
        height = f"{100 - up(stop):.2f}%"
        drawn += [_line("0", height, "100%", height, "grid"), tag("text", text, x="-8", y=height, dy="0.35em", class_="end")]
    for stop, text in _stops_across(across, logarithmic):
        x = f"{across(turn(stop)):.2f}%"
        drawn += [_at(x, "100%", _line("0", "0", "0", "5", "grid"), tag("text", text, y="20", class_="middle"))]
    for name, curve in curves.items():
        middle = [at(place.x, place.y) for place in curve]
        edge = [at(place.x, place.high) for place in curve] + [at(place.x, place.low) for place in reversed(curve)]
        band = tag("polygon", points=" ".join(f"{x:.2f},{y:.2f}" for x, y in edge), class_="band" if len(curves) <= 3 else "band faint")
        written = [(f"{x:.2f}%", f"{y:.2f}%") for x, y in middle]
        inner = [tag("svg", band, viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height="100%")] if len(curve) > 1 else []
        inner += [_line(*a, *b, f"curve again{series[name] // len(SHAPES)}") for a, b in pairwise(written)]
        if len(curve) == 1:
            inner.append(_line(*written[0], "100%", written[0][1], "curve level"))
        inner.append(_at(*written[-1], _shape(series[name])))
        drawn.append(tag("g", *inner, class_=_colour(series[name])))
    spoken = "; ".join(f"{name}: from {number(curve[0].y)} to {number(curve[-1].y)}" for name, curve in curves.items())
    names = tag("div", *(tag("span", key(series[name]), " ", name) for name in curves), class_="legend") if legend else Markup("")
    return names + tag("div", tag("svg", *drawn, class_="curves", role="img", aria_label=spoken), class_="plot")


def predicted_and_true(points: Sequence[Mapping[str, Any]], marked: str) -> Markup:
    """Score reached against score predicted, with the line on which they are the same.

    points: {"backbone", "predicted", "score", "interval"}; the interval is of the score. marked: name of the one in colour.
    """
    ends = [value for point in points for value in (point["predicted"], point["score"], *point["interval"])]
    scale = Scale(ends, room=0.04)
    drawn = [tag("line", x1="0", y1="100%", x2="100%", y2="0", class_="zero")]
    stops = ticks(scale.low, scale.high)
    for stop, text in zip(stops, tick_text(stops), strict=True):
        x, y = f"{scale(stop):.2f}%", f"{100 - scale(stop):.2f}%"
        drawn += [_line("0", y, "100%", y, "grid"), tag("text", text, x="-8", y=y, dy="0.35em", class_="end")]
        drawn.append(_at(x, "100%", _line("0", "0", "0", "5", "grid"), tag("text", text, y="20", class_="middle")))
    for point in points:
        x, low, high = f"{scale(point['predicted']):.2f}%", *(f"{100 - scale(end):.2f}%" for end in point["interval"])
        dot = _at(x, f"{100 - scale(point['score']):.2f}%", _shape(0), tag("title", point["backbone"]))
        series = 0 if point["backbone"] == marked else None
        drawn.append(tag("g", _line(x, low, x, high, "range"), dot, class_=_colour(series)))
    spoken = "; ".join(f"{point['backbone']}: predicted {number(point['predicted'])}, reached {number(point['score'])}" for point in points)
    return tag("div", tag("svg", *drawn, class_="curves", role="img", aria_label=spoken), class_="plot")


def _stops_across(scale: Scale, logarithmic: bool) -> list[tuple[float, str]]:
    """(value, text) along the x axis: whole numbers, or powers of ten and what lies between them."""
    if not logarithmic:
        return [(stop, f"{stop:.0f}") for stop in ticks(scale.low, scale.high, at_most=6) if stop >= 0 and stop == round(stop)]
    low, high = 10**scale.low, 10**scale.high
    steps = (1, 2, 5) if scale.high - scale.low < 2 else (1,)
    powers = range(math.floor(scale.low), math.ceil(scale.high) + 1)
    stops = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    return [(stop, f"{stop:,g}") for stop in stops]
