"""Plots of two domains as inline SVG: both on one map, and how much of each kind of shift. Markup in, no pixels."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from graft.report.plots import Scale, tag
from graft.report.words import breakable, number, plural

# As many as have a colour of their own; above it the two domains are told apart and not their classes.
CLASSES_COLOURED = 8
SOURCE, TARGET = 1, 0

# The shapes of `plots.SHAPES`, smaller and drawn from wherever the pen is, so that one path holds all points of a class.
DOTS = (
    "m3.5,0a3.5,3.5 0 1 1-7,0 3.5,3.5 0 1 1 7,0z",
    "m-3,-3h6v6h-6z",
    "m0,-4.2l4.2,4.2-4.2,4.2-4.2-4.2z",
    "m0,-4.2l4,7.2h-8z",
)
SIDE = 400.0
MARGIN = 8.0

Points = Sequence[Sequence[float]]


def is_coloured_by_class(classes: Sequence[str]) -> bool:
    return 0 < len(classes) <= CLASSES_COLOURED


def domain_map(sides: Mapping[str, Points], classes: Sequence[str], when: str) -> Markup:
    """Both domains in one square picture, with the same scale across and upwards.

    sides: "source" (drawn hollow) and "target" (filled) -> points (x, y, class index). when: what the picture shows, in words.
    Up to 8 classes have a colour and a shape each; else the two domains do.
    """
    points = [point for side in sides.values() for point in side]
    place = _placed([point[0] for point in points], [point[1] for point in points])
    drawn = []
    for side in ("source", "target"):
        of_series: dict[int, list[str]] = defaultdict(list)
        for x, y, index in sides[side]:
            series = int(index) if is_coloured_by_class(classes) else (SOURCE if side == "source" else TARGET)
            left, top = place(x, y)
            of_series[series].append(f"M{left:.1f},{top:.1f}{_dot(series)}")
        drawn += [
            tag("path", d="".join(paths), class_=f"{'hollow' if side == 'source' else 'filled'} s{series}")
            for series, paths in sorted(of_series.items())
        ]
    by = "class" if is_coloured_by_class(classes) else "domain"
    spoken = f"{when}: {plural(len(sides['source']), 'item')} of the source, {len(sides['target']):,} of the target, coloured by {by}"
    return tag("svg", *drawn, class_="map", viewBox=f"0 0 {SIDE:.0f} {SIDE:.0f}", role="img", aria_label=spoken)


def map_key(classes: Sequence[str]) -> Markup:
    """What colours and fillings of `domain_map` mean."""
    if not is_coloured_by_class(classes):
        return tag("div", _named("hollow", SOURCE, "source"), _named("filled", TARGET, "target"), class_="legend")
    sides = [_named("hollow", None, "source, its class"), _named("filled", None, "target, its predicted class")]
    return tag("div", *sides, *(_named("filled", series, name) for series, name in enumerate(classes)), class_="legend")


def share_rows(rows: Sequence[tuple[str, str, float]]) -> Markup:
    """One bar from 0 to 1 a row. rows: (label, small text below it, value)."""
    drawn = []
    scale = Scale([0.0, 1.0], room=0.0)
    for label, note, value in rows:
        widths = [("100%", "empty"), *([(scale.percent(value), "bar")] if math.isfinite(value) else [])]
        # Rows differ in height by their words; bars must not.
        bars = [tag("rect", y="50%", width=width, height="12", transform="translate(0,-6)", class_=class_) for width, class_ in widths]
        drawn.append(
            tag(
                "div",
                tag("div", tag("b", breakable(label)), tag("small", note), class_="label"),
                tag("svg", *bars, class_="track", role="img", aria_label=f"{label}: {number(value)} of 1"),
                tag("div", tag("b", number(value)), class_="value"),
                class_="row s0",
            )
        )
    return tag("div", *drawn, class_="rows")


def _placed(across: Sequence[float], upwards: Sequence[float]) -> Callable[[float, float], tuple[float, float]]:
    """(x, y) -> (left, top) in the square, the points in its middle, upwards as a reader expects it."""
    middle_x, middle_y = (min(across) + max(across)) / 2, (min(upwards) + max(upwards)) / 2
    span = max(max(across) - min(across), max(upwards) - min(upwards)) or 1.0
    scale = (SIDE - 2 * MARGIN) / span
    return lambda x, y: (SIDE / 2 + scale * (x - middle_x), SIDE / 2 - scale * (y - middle_y))


def _dot(series: int) -> str:
    # Colours that are close (orange and ochre, purple and crimson) must not meet in one shape.
    return DOTS[(series + 2 * (series // len(DOTS))) % len(DOTS)]


def _named(filling: str, series: int | None, name: str) -> Markup:
    path = tag("path", d=f"M7,7{_dot(series or 0)}", class_=f"{filling} {'other' if series is None else f's{series}'}")
    return tag("span", tag("svg", path, class_="key", viewBox="0 0 14 14", aria_hidden="true"), " ", name)
