"""Adaptation of a regression: house prices of one region, predicted by a model of another.

    python benchmarks/adaptation_numbers.py --shared ../shared [--seeds 0 1 2 3 4]

A row for each pair, seed and method goes to benchmarks/adaptation_numbers.csv; target values are read by the last line of `measured` alone.
"""

import argparse
from pathlib import Path

import numpy as np
import shifts
from rows import ROOT, append, commit, machine

from graft.adapt import Adapt

ROWS = Path(__file__).with_name("adaptation_numbers.csv")


def measured(name, seed, shared, work):
    pair = shifts.pair(name, seed, shared, work)
    model = Adapt("rows", task="regression", random_state=seed).fit(pair.source, pair.labels, pair.target)
    chosen = model.outcome_.chosen
    for one in model.outcome_.made:
        if not one.fell_out:
            about = {"pair": name, "seed": seed, "method": one.name, "chosen": one is chosen, "seconds": round(one.seconds, 2)}
            yield about | {"rmse": float(np.sqrt(np.mean((one.outputs - pair.truth) ** 2)))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    told = parser.parse_args()
    about = {"machine": machine(), "commit": commit()}
    for seed in told.seeds:
        for a, b in shifts.HOUSING:
            for row in measured(f"housing {a}->{b}", seed, told.shared, ROOT / "runs"):
                append(ROWS, row | about)


if __name__ == "__main__":
    main()
