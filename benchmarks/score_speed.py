"""How long each score of transferability takes on one core, with one thread.

    taskset -c 0 python benchmarks/score_speed.py [NAME ...] [--items 10000] [--features 1280] [--classes 10] [--repeats 2]
    python benchmarks/score_speed.py --table

A row for each score is appended to benchmarks/score_speed.csv: the shortest of the repeats, by the clock on the wall and by the processor's
own, which other work on the same core does not stretch. Features are drawn, so no data is needed.
"""

import argparse
import os
import time
from pathlib import Path

# Read when numpy is imported. Scores use one thread anyway; what they call beside BLAS shall too.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from rows import append, commit, machine, markdown

ROWS = Path(__file__).with_name("score_speed.csv")
SOURCE_CLASSES = 1000
COLUMNS = ("items", "features", "classes")


def drawn(items, features, classes, seed=0):
    """Float32 features (n, d) as a network's last layer gives them, none below zero and a few directions ahead of the rest; labels (n,)
    that they tell apart in part; and probabilities (n, z) of a source's classifier."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=items)
    lengths = np.arange(1, features + 1, dtype=np.float32) ** -0.5
    along = rng.standard_normal((items, features), np.float32) + rng.standard_normal((classes, features), np.float32)[labels] / 2
    turned = (along * lengths) @ np.linalg.qr(rng.standard_normal((features, features), np.float32))[0]
    logits = 3 * rng.standard_normal((items, SOURCE_CLASSES), np.float32)
    logits[:, :classes][np.arange(items), labels] += 4
    outputs = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.maximum(turned, 0), labels, outputs / outputs.sum(axis=1, keepdims=True)


def calls(features, labels, outputs):
    """name -> a function of nothing that computes the score."""
    from graft.transferability import LABEL_FREE_SCORES, SCORES, SOURCE_SCORES

    found = {name: lambda name=name: SCORES[name](features, labels) for name in SCORES}
    found |= {name: lambda name=name: SOURCE_SCORES[name](features, labels, outputs) for name in SOURCE_SCORES}
    return found | {name: lambda name=name: LABEL_FREE_SCORES[name](features) for name in LABEL_FREE_SCORES}


def shortest(call, repeats):
    """(seconds on the wall, seconds of the processor) of the quickest call."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return np.min(found, axis=0)


def table():
    """The last row of each score as Markdown, the slowest first."""
    rows = pd.read_csv(ROWS).drop_duplicates(["score", *COLUMNS], keep="last").sort_values("processor_seconds", ascending=False)
    lines = [
        [row.score, f"{row.items:,} x {row.features:,}, {row.classes}", f"{row.seconds:.2f}", f"{row.processor_seconds:.2f}"]
        for row in rows.itertuples()
    ]
    return markdown(["score", "items x features, classes", "seconds on the wall", "of the processor"], lines)


def options(description, repeats):
    """What a benchmark of functions that read drawn features is told; others may be added."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="all unless named")
    parser.add_argument("--items", type=int, default=10_000, help="of the source, where there are two sides")
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--table", action="store_true", help="print what was measured")
    return parser


def measure(path, kind, known, arguments, size):
    """Append a row for each function that was asked for. known: name -> a function of nothing. kind: the column of its name."""
    for name in arguments.names or known:
        wall, processor = shortest(known[name], arguments.repeats)
        row = {kind: name, **size, "seconds": f"{wall:.3f}", "processor_seconds": f"{processor:.3f}"}
        append(path, {**row, "commit": commit(), "machine": machine()})
        print(f"{name} {wall:.2f} s, {processor:.2f} s of the processor", flush=True)


def main():
    arguments = options(__doc__, repeats=2).parse_args()
    if arguments.table:
        print(table())
        return
    size = {name: getattr(arguments, name) for name in COLUMNS}
    measure(ROWS, "score", calls(*drawn(**size)), arguments, size)


if __name__ == "__main__":
    main()
