"""Whole judged studies on real data, with a cold cache: score, interval, verdict and time of each.

    python benchmarks/studies.py NAME [NAME ...] --shared ../shared [--seeds 0 1 2]

NAME: banking77_10shot, banking77, hymenoptera, eurosat_rgb. Data and weights lie in --shared and are not part of graft.
A row for each study is printed and appended to benchmarks/studies.csv.
"""

import argparse
import datetime
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rows

HERE = Path(__file__).parent


def banking77(shared, labels_per_class=None, seed=0):
    """A DataFrame of text, label, split: the official test part, and all training rows or so many drawn for each class."""
    frame = pd.read_parquet(shared / "data/banking77/banking77.parquet")
    if labels_per_class is None:
        return frame
    train, rng = frame[frame.split == "train"], np.random.default_rng(seed)
    drawn = [rng.choice(train.index[train.label == name], labels_per_class, replace=False) for name in sorted(train.label.unique())]
    return pd.concat([train.loc[np.concatenate(drawn)], frame[frame.split == "test"]])


def studies(shared):
    """name -> (seed -> arguments of graft.run)."""
    mobilenet = f"checkpoint:{shared / 'weights/mobilenetv2_100_imagenet'}"
    return {
        "banking77_10shot": lambda seed: {"data": banking77(shared, 10, seed), "backbone": "sentence:minilm"},
        "banking77": lambda seed: {"data": banking77(shared), "backbone": "sentence:minilm"},
        "hymenoptera": lambda seed: {"data": str(shared / "data/hymenoptera/hymenoptera.zip"), "backbone": mobilenet},
        "eurosat_rgb": lambda seed: {"data": str(shared / "data/eurosat_rgb/eurosat_rgb.zip"), "backbone": mobilenet},
    }


def measure(name, seed, arguments, budget, out):
    """One study from nothing: its row."""
    import graft

    with tempfile.TemporaryDirectory() as cache:
        os.environ["GRAFT_CACHE"] = cache
        begun = time.perf_counter()
        folder = out / f"{name}-{seed}" if out else Path(cache) / "run"
        result = graft.run(**arguments, seed=seed, budget=budget, out=folder).result
        seconds = time.perf_counter() - begun
    verdict = result.verdict
    return {
        "date": datetime.date.today().isoformat(),
        "machine": rows.machine(),
        "commit": rows.commit(),
        "study": name,
        "seed": seed,
        "metric": result.metric,
        "score": f"{result.score:.4f}",
        "low": f"{result.interval[0]:.4f}",
        "high": f"{result.interval[1]:.4f}",
        "outcome": verdict["outcome"],
        "effect": f"{verdict['effect']:.4f}",
        "effect_low": f"{verdict['interval'][0]:.4f}",
        "effect_high": f"{verdict['interval'][1]:.4f}",
        "against": verdict["against"],
        "strategy": result.strategy,
        "seconds": f"{seconds:.0f}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", default=None, help="as for graft run; its default unless given")
    parser.add_argument("--out", type=Path, default=None, help="keep the run folders here")
    chosen = parser.parse_args()
    known = studies(chosen.shared.resolve())
    for name in chosen.names:
        for seed in chosen.seeds:
            row = measure(name, seed, known[name](seed), chosen.budget, chosen.out)
            print(" ".join(f"{column}={cell}" for column, cell in row.items()), flush=True)
            rows.append(HERE / "studies.csv", row)


if __name__ == "__main__":
    main()
