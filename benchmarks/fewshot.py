"""Few-shot texts: `late_stages` beside the frozen probe on sets that no other benchmark judges, by which `auto`'s start was chosen."""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from draw import few, texts
from rows import ROOT, append, commit, machine, markdown

from graft.backbones import load_backbone
from graft.features import extract
from graft.transfer import Transfer

ROWS = Path(__file__).with_name("fewshot.csv")
SETS = ("mr", "subj", "mpqa", "sst5", "irony", "offensive", "hate", "sms_spam", "banking6")
SHOTS = (4, 8, 32)
PROBE, LATE = "feature_extraction", "late_stages"
POOL_A_CLASS, JUDGED = 96, 500


def frame(name, shared):
    """item and label of the training items of a set. banking6: six classes of banking77, one fixed draw."""
    if name == "sms_spam":
        read = pd.read_parquet(shared / "data/sms_spam/sms_spam.parquet").rename(columns={"text": "item"})
    else:
        read = texts("banking77" if name == "banking6" else name, shared)
        read = read[read["split"].isin(["train", "all"])]
    if name == "banking6":
        read = read[read["label"].isin(np.random.default_rng(100).permutation(sorted(set(read["label"])))[:6])]
    return read[read["item"].str.strip() != ""].drop_duplicates("item").reset_index(drop=True)


def measure(name, seeds, shared, rows):
    """Append two rows for each number of labels and seed."""
    read = frame(name, shared)
    items, labels = read["item"].to_numpy(), read["label"].to_numpy()
    order = np.random.default_rng(7).permutation(len(read))
    judged, rest = order[:JUDGED], order[JUDGED:]
    pool = np.concatenate([rest[labels[rest] == label][:POOL_A_CLASS] for label in sorted(set(labels))])
    backbone = load_backbone("sentence:minilm")
    # The features that all strategies read are computed once.
    extract(backbone, items[[*pool, *judged]].tolist(), tap="late")
    for shots in SHOTS:
        for seed in seeds:
            train = few(pool, labels, shots, seed)
            for strategy in (PROBE, LATE):
                begun = time.perf_counter()
                model = Transfer(backbone, strategy, random_state=seed).fit(items[train].tolist(), labels[train])
                seconds = time.perf_counter() - begun
                found = {
                    "data": name,
                    "labels_a_class": shots,
                    "seed": seed,
                    "strategy": strategy,
                    "accuracy": f"{model.score(items[judged].tolist(), labels[judged]):.4f}",
                    "seconds_without_extraction": f"{seconds:.2f}",
                }
                append(rows, {**found, "commit": commit(), "machine": machine()})


def table(rows):
    """The gain over the frozen probe by labels a class: of each set the mean over seeds, and mean and standard error over the sets."""
    read = pd.read_csv(rows)
    scores = read.pivot_table(index=["data", "labels_a_class", "seed"], columns="strategy", values="accuracy")
    gain = (scores[LATE] - scores[PROBE]).groupby(level=["data", "labels_a_class"]).mean().unstack()
    # Sets in the order above, those that are measured.
    gain = gain.reindex([name for name in SETS if name in gain.index])
    lines = []
    for shots in gain:
        mean, error = gain[shots].mean(), gain[shots].std() / len(gain) ** 0.5
        lines.append([str(shots), f"{mean:+.3f} ± {error:.3f}", *(f"{value:+.3f}" for value in gain[shots])])
    return markdown(["labels a class", "mean ± standard error", *gain.index], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=SETS, metavar="SET", help=f"of {', '.join(SETS)}; all unless named")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder that holds data/")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true", help="only print the table of the rows there are")
    arguments = parser.parse_args()
    if not arguments.table:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["GRAFT_CACHE"] = folder
            for name in arguments.sets:
                measure(name, arguments.seeds, arguments.shared, arguments.rows)
    print(table(arguments.rows))


if __name__ == "__main__":
    main()
