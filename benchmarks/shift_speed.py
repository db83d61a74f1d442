"""How long each adaptation method on features takes on one core, with one thread, at its default settings.

    taskset -c 0 python benchmarks/shift_speed.py [NAME ...] [--items 10000] [--target 10000] [--features 1280] [--classes 10]
    python benchmarks/shift_speed.py --table

A row for each method is appended to benchmarks/shift_speed.csv: the shortest of the repeats, by the clock on the wall and by the
processor's own, which other work on the same core does not stretch. Fitting the head again is part of a method; the source-only head
and its held-out outputs, made once for all methods, are not. Features are drawn, so no data is needed.
"""

import os
from functools import partial
from pathlib import Path

# Read when numpy is imported: one thread for whatever a method calls.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from rows import markdown
from score_speed import drawn, measure, options

ROWS = Path(__file__).with_name("shift_speed.csv")
COLUMNS = ("items", "target", "features", "classes")


def domains_of(items, target, features, classes):
    """Both sides of one draw, the target's rows stretched along some features and moved along all; the head is of the kind that
    `graft adapt` fits on features, and the held-out outputs are of one head that saw half of the items, each half in turn."""
    from graft.data.split import folds
    from graft.heads import cross_validate, fit_head
    from graft.shift import Domains

    rows, labels, _ = drawn(items + target, features, classes)
    source, labels, others = rows[:items], labels[:items], rows[items:]
    rng = np.random.default_rng(1)
    stretch = np.where(np.arange(features) < features // 4, 1.5, 1.0).astype(np.float32)
    others = others * stretch + rng.random(features, np.float32) * source.std(axis=0) / 2
    settings = {"kind": "closed", "n_classes": classes}
    head = fit_head(source, labels, "classification", **settings)

    def fit(rows, labels, weights):
        return fit_head(rows, labels, "classification", sample_weight=weights, standardise=bool(np.ptp(head.scale)), **settings)

    halves = folds(labels, "classification", 2, 0)
    held_out = cross_validate(source, labels, "classification", halves, **settings)
    prior = np.bincount(labels, minlength=classes) / items
    return Domains(source, labels, others, "classification", classes, head, fit, prior, held_out)


def table():
    """The last row of each method as Markdown, the slowest first."""
    rows = pd.read_csv(ROWS).drop_duplicates(["method", *COLUMNS], keep="last").sort_values("processor_seconds", ascending=False)
    sizes = sorted(set(rows[list(COLUMNS)].itertuples(index=False, name=None)))
    header = ["method", *(f"{items:,} source and {target:,} target items x {width:,}, {c} classes" for items, target, width, c in sizes)]
    lines = []
    for name in rows.method.unique():
        of_it = {tuple(row[key] for key in COLUMNS): row for row in rows[rows.method == name].to_dict("records")}
        told = [f"{of_it[size]['processor_seconds']:.1f} ({of_it[size]['seconds']:.1f})" if size in of_it else "" for size in sizes]
        lines.append([name, *told])
    return markdown(header, lines)


def main():
    parser = options(__doc__, repeats=1)
    parser.add_argument("--target", type=int, default=10_000, help="items of the target")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    from graft.shift import SHIFTS

    size = {name: getattr(arguments, name) for name in COLUMNS}
    domains = domains_of(**size)
    measure(ROWS, "method", {name: partial(SHIFTS[name], domains) for name in SHIFTS}, arguments, size)


if __name__ == "__main__":
    main()
