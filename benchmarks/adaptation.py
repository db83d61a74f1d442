"""Adaptation without target labels: every method on pairs of domains, what validators say of it, and what it is worth in truth.

    python benchmarks/adaptation.py measure --shared ../shared [--pairs PART ...] [--seeds 0 1] [--sabotage] [--tiny]
    python benchmarks/adaptation.py evidence      # graft/adapt/evidence.csv from the rows there are
    python benchmarks/adaptation.py table         # whole collections left out

A row for each method and setting of each pair and seed goes to benchmarks/adaptation.csv; pairs that are there are skipped. Target labels
are read by the last line of `measured` alone. Data and features stay outside of the repository.
"""

import argparse
import csv
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import shifts
from adaptation_table import is_evidence, tables
from rows import ROOT, append, commit, machine

from graft.adapt.candidates import averaged, judged, made, methods_for
from graft.adapt.guard import familiarity
from graft.adapt.mix import class_mix
from graft.adapt.predict import EVIDENCE, SOURCE_ONLY
from graft.adapt.sides import Source, both
from graft.evaluate import measure
from graft.shift import SHIFTS
from graft.transfer import Transfer
from graft.validators import ESTIMATES, VALIDATORS, evidence

ROWS = Path(__file__).with_name("adaptation.csv")
ABOUT = (
    "collection", "pair", "sabotage", "seed", "method", "settings", "n_source", "n_target", "classes", "seconds", "judging_seconds",
    "fell_out", "familiarity", "apart", "explained", "mix_gain", "mix_spread", "accuracy",
)  # fmt: skip
COLUMNS = (*ABOUT, *VALIDATORS, *ESTIMATES)
# What no prediction learns from.
_UNTAUGHT = ("seconds", "judging_seconds", "fell_out", "explained", "mix_gain", "mix_spread")
SABOTAGE = ("noise", "unrelated", "one class", "shuffled 20", "shuffled 40", "shuffled 60", "shuffled 80")


def sabotaged(pair, kind, seed):
    """The pair with its target, or its source's labels, spoilt; None where it has too few classes for that. Without truth: nan."""
    rng = np.random.default_rng([seed, 7])
    rows, labels, target, truth = pair.source, pair.labels, pair.target, pair.truth
    nothing = np.full(len(truth), -1)
    if kind == "noise":
        # As far out as the source, and nothing else of it.
        noise = rng.normal(rows.mean(), rows.std(), target.shape).astype(np.float32)
        return rows, labels, noise, nothing
    if kind == "unrelated":
        classes = np.unique(labels)
        if len(classes) < 4:
            return None
        first = classes[: len(classes) // 2]
        here, there = np.isin(labels, first), ~np.isin(truth, first)
        return rows[here], labels[here], target[there], nothing[there]
    if kind == "one class":
        there = truth == rng.choice(np.unique(truth))
        return rows, labels, target[there], truth[there]
    wrong = rng.random(len(labels)) < float(kind.split()[1]) / 100
    labels = labels.copy()
    labels[wrong] = rng.permutation(labels[wrong])
    return rows, labels, target, truth


def measured(pair, kind, seed, grids):
    """Rows of every candidate on one pair. kind: of sabotage, "" for none."""
    sides_of = sabotaged(pair, kind, seed) if kind else (pair.source, pair.labels, pair.target, pair.truth)
    if sides_of is None or len(sides_of[2]) < 10:
        return
    rows, labels, target, truth = sides_of
    classes, labels = (np.unique(labels, return_inverse=True)) if pair.task == "classification" else (np.empty(0), labels)
    source = Source(rows, labels, pair.task, classes.tolist(), pair.domains)
    sides = both(Transfer("rows", "feature_extraction", random_state=seed), source, target, seed)
    names = methods_for(sides)
    candidates = [made(sides, name, settings) for name in names for settings in (SHIFTS[name].grid if grids else SHIFTS[name].grid[:1])]
    candidates.sort(key=lambda one: one.method != SOURCE_ONLY)
    candidates.append(averaged(sides, candidates))
    alike, apart, mix = familiarity(sides), candidates[0].told_apart, class_mix(sides, candidates)
    for place, one in enumerate(candidates):
        gain, spread = (f"{value:.4f}" for value in mix.gains[place]) if place in mix.gains else ("", "")
        about = {
            "collection": pair.collection,
            "pair": pair.name,
            "sabotage": kind,
            "seed": seed,
            "method": one.method,
            "settings": one.name.partition(" (")[2].rstrip(")"),
            "n_source": len(sides.learned),
            "n_target": len(target),
            "classes": len(classes),
            "seconds": round(one.seconds, 3),
            "fell_out": one.fell_out,
            "familiarity": f"{alike:.3f}",
            "apart": f"{apart:.3f}",
            "explained": f"{mix.explained:.3f}",
            "mix_gain": gain,
            "mix_spread": spread,
        }
        begun = time.perf_counter()
        said = {} if one.fell_out else evidence(judged(sides, one, candidates))
        about["judging_seconds"] = round(time.perf_counter() - begun, 3)
        true = "" if one.fell_out or (truth == -1).all() else measure("accuracy", np.searchsorted(classes, truth), one.outputs)
        yield about | {"accuracy": true} | {name: f"{value:.6g}" for name, value in said.items()}


def one_pair(task):
    """The rows of one pair, seed and kind of sabotage. Runs in a process of its own."""
    from threadpoolctl import threadpool_limits

    name, seed, kind, shared, work, grids = task
    with threadpool_limits(1):
        pair = shifts.pair(name, seed, shared, work)
        if kind and pair.task != "classification":
            return []
        return list(measured(pair, kind, seed, grids))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "evidence", "table"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "adaptation")
    parser.add_argument("--pairs", nargs="*", default=[""], help="beginnings of the names of pairs")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--sabotage", nargs="*", default=[""], choices=("", *SABOTAGE), help="kinds of sabotage; none unless given")
    parser.add_argument("--grids", action="store_true", help="every setting of each method, not the default one alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=Path, default=ROWS)
    return parser.parse_args()


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_evidence(rows):
    """What the choice learns from, without times and machines."""
    columns = [name for name in COLUMNS if name not in _UNTAUGHT]
    with open(EVIDENCE, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(filter(is_evidence, rows))


def main():
    told = parse()
    if told.what == "evidence":
        return write_evidence(read(told.rows))
    if told.what == "table":
        return print(tables(read(told.rows), (*VALIDATORS, *ESTIMATES)))
    there = set()
    if told.rows.exists():
        there = {(row["pair"], row["seed"], row["sabotage"]) for row in read(told.rows)}
    names = [name for name in shifts.names() if name.startswith(tuple(told.pairs)) and not name.startswith("housing")]
    tasks = [
        (name, seed, kind, told.shared, told.work, told.grids)
        for seed in told.seeds
        for kind in told.sabotage
        for name in names
        if (name, str(seed), kind) not in there
    ]
    about = {"machine": machine(), "commit": commit()}
    # A process for each task: what a library keeps would otherwise grow.
    with ProcessPoolExecutor(told.workers, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = {pool.submit(one_pair, task): task for task in tasks}
        for done in as_completed(waiting):
            name, seed, kind = waiting[done][:3]
            rows = done.result()
            for row in rows:
                append(told.rows, {column: row.get(column, "") for column in COLUMNS} | about)
            print(f"{name} seed {seed} {kind}: {len(rows)} candidates", flush=True)


if __name__ == "__main__":
    main()
