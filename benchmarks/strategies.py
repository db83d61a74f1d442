"""Every strategy on the same small data, tuned the same way: do the papers' gains hold, and does `auto` find them?

    python benchmarks/strategies.py SETTING [...] [--strategies NAME ...] [--seeds 0 1 2]
    python benchmarks/strategies.py --table

Each strategy's rate is chosen on a draw of its own (seed 100), by items that are neither trained on nor judged, then kept for all
judged draws. `auto` chooses for itself, inside each draw's training items: without a budget, and with the time that LP-FT took, its
search of rates included. Rows go to strategies.csv.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from draw import IMAGES, few, images, texts
from rows import ROOT, append, commit, machine, markdown

from graft.auto import AUTO
from graft.backbones import load_backbone
from graft.transfer import Transfer

ROWS = Path(__file__).with_name("strategies.csv")
RATES = (1e-3, 3e-3, 1e-2)
TUNING_SEED, TUNED_ON, JUDGED = 100, 300, 1000
# What every fit may see: so many items in all, in 3 to 40 epochs.
PASSES = 2000
WITHOUT_RATE = ("feature_extraction", "head2toe", "late_stages", "views", "linear_probe")
BUDGETED = "auto, LP-FT's time"
MAIN = ("feature_extraction", "full", "lp_ft", AUTO, BUDGETED)


@dataclass(frozen=True)
class Setting:
    """data: see `draw`. labels: a class, or None for all. share: of those. noise: share of the labels given to another class.

    judged: items of each class, where as many of all at random would leave a small class without enough to draw.
    """

    data: str
    labels: int | None = None
    share: float = 1.0
    noise: float = 0.0
    size_px: int = 0
    judged: int | None = None


SETTINGS = {
    "hymenoptera": Setting("hymenoptera", size_px=96),
    "eurosat_5": Setting("eurosat_rgb", 5, size_px=64),
    "eurosat_20": Setting("eurosat_rgb", 20, size_px=64),
    "eurosat_100": Setting("eurosat_rgb", 100, size_px=64),
    "caltech101_8": Setting("caltech101", 8, size_px=96, judged=3),
    "banking77_10": Setting("banking77", 10),
    "trec6": Setting("trec6"),
    "trec6_10pct": Setting("trec6", share=0.1),
    "sst2_1pct": Setting("sst2", share=0.01),
    "eurosat_10pct": Setting("eurosat_rgb", share=0.1, size_px=64),
    "eurosat_20_noise20": Setting("eurosat_rgb", 20, noise=0.2, size_px=64),
    "eurosat_20_noise40": Setting("eurosat_rgb", 20, noise=0.4, size_px=64),
    "trec6_5": Setting("trec6", 5),
}


def read(setting, shared, unpacked):
    """item, label and split of each item, one without a split of its own in "train"."""
    frame = images(setting.data, shared, unpacked) if setting.data in IMAGES else texts(setting.data, shared)
    frame = frame[frame["item"].str.strip() != ""].drop_duplicates("item").reset_index(drop=True)
    if not set(frame["split"]) & {"test", "val"}:
        # One fixed judged part for every draw.
        every = np.arange(len(frame))
        if setting.judged is not None:
            judged = few(every, frame["label"].to_numpy(), setting.judged, seed=0)
        else:
            judged = np.random.default_rng(0).permutation(every)[: min(JUDGED, len(frame) // 4)]
        frame["split"] = np.where(np.isin(np.arange(len(frame)), judged), "test", "train")
    return frame


def draw(frame, setting, seed):
    """(training, other, judged) places. other: of the training part, not drawn, to choose a rate by."""
    labels, splits = frame["label"].to_numpy(), frame["split"].to_numpy()
    pool = np.flatnonzero(np.isin(splits, ["train", "all"]))
    rng = np.random.default_rng(seed)
    if setting.labels is not None:
        train = few(pool, labels, setting.labels, seed)
    else:
        # All of a small set, but for what a rate is chosen by.
        count = round(setting.share * len(pool))
        train = rng.permutation(pool)[: min(count, len(pool) - (TUNED_ON // 5 if seed == TUNING_SEED else 0))]
    other = rng.permutation(np.setdiff1d(pool, train))[:TUNED_ON]
    judged = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(splits, ["test", "val"])))[:JUDGED]
    return train, other, judged


def noisy(labels, share, seed):
    """Labels of which a share is another class, drawn evenly."""
    rng, labels, names = np.random.default_rng(seed), labels.copy(), np.unique(labels)
    for place in rng.choice(len(labels), round(share * len(labels)), replace=False):
        labels[place] = rng.choice(names[names != labels[place]])
    return labels


def network(setting, shared, folder):
    """MiniLM, or MobileNetV2 (ImageNet) at the setting's size."""
    if not setting.size_px:
        return load_backbone("sentence:minilm")
    weights = shared / "weights/mobilenetv2_100_imagenet"
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    config["pretrained_cfg"]["input_size"] = [3, setting.size_px, setting.size_px]
    here = folder / f"mobilenetv2_{setting.size_px}"
    here.mkdir(parents=True, exist_ok=True)
    (here / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if not (here / "model.safetensors").exists():
        (here / "model.safetensors").symlink_to((weights / "model.safetensors").resolve())
    return load_backbone(f"checkpoint:{here}")


def measure(name, strategies, seeds, shared, folder, rows):
    """Append a row for each rate tried and for each judged draw that is not there yet."""
    setting = SETTINGS[name]
    frame, backbone = read(setting, shared, folder), network(setting, shared, folder)
    items, labels = frame["item"].to_numpy(), frame["label"].to_numpy()

    def fit(strategy, rate, seed, tuning, budget=None):
        train, other, judged = draw(frame, setting, seed)
        judged = other if tuning else judged
        epochs = min(40, max(3, round(PASSES / len(train))))
        begun = time.perf_counter()
        model = Transfer(backbone, strategy, epochs=epochs, lr=rate, budget=budget, random_state=seed)
        model.fit(items[train].tolist(), noisy(labels[train], setting.noise, seed))
        seconds = time.perf_counter() - begun
        found = {
            "setting": name,
            "strategy": BUDGETED if budget else strategy,
            "seed": seed,
            "rate": rate,
            "tuning": int(tuning),
            "epochs": epochs,
            "n_train": len(train),
            "n_judged": len(judged),
            "accuracy": f"{model.score(items[judged].tolist(), labels[judged]):.4f}",
            "seconds": f"{seconds:.1f}",
            "came_to": model.strategy_,
        }
        append(rows, {**found, "commit": commit(), "machine": machine()})
        print(found, flush=True)

    for strategy in strategies:
        searched = strategy not in (AUTO, BUDGETED, *WITHOUT_RATE)
        for rate in RATES if searched else ():
            if not len(recorded(rows, name).query("strategy == @strategy and tuning == 1 and rate == @rate")):
                fit(strategy, rate, TUNING_SEED, True)
        known = recorded(rows, name)
        tuned = known.query("strategy == @strategy and tuning == 1").sort_values("accuracy", ascending=False, kind="stable")
        for seed in seeds:
            if len(known.query("strategy == @strategy and tuning == 0 and seed == @seed")):
                continue
            if strategy == BUDGETED:
                # What a user of LP-FT spends: the search of its rate, then the fit.
                lp_ft = known.query("strategy == 'lp_ft' and (tuning == 1 or seed == @seed)")
                fit(AUTO, RATES[0], seed, False, budget=float(lp_ft["seconds"].sum()))
            else:
                fit(strategy, float(tuned["rate"].iloc[0]) if searched else RATES[0], seed, False)


def recorded(rows, name):
    """The rows there are of a setting."""
    if not rows.exists():
        return pd.DataFrame(columns=["setting", "strategy", "seed", "rate", "tuning", "accuracy", "seconds"])
    read = pd.read_csv(rows)
    return read[read["setting"] == name]


def spread(values):
    """Mean ± standard error, of one value the value."""
    values = np.asarray(values)
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else "")


def table(rows):
    """Accuracy by strategy and setting: mean ± standard error over the draws; then `auto` less the best of probe, full and LP-FT.

    A setting in which more than MAIN was played would leave most cells of the others empty: each has a table of its own at the end.
    """
    read = pd.read_csv(rows).query("tuning == 0")
    settings = [name for name in SETTINGS if name in set(read["setting"])]
    alone = [name for name in settings if set(read[read["setting"] == name]["strategy"]) - set(MAIN)]
    together, lines = [name for name in settings if name not in alone], []
    for strategy in MAIN:
        own = read[read["strategy"] == strategy]
        cells = [own[own["setting"] == name]["accuracy"] for name in together]
        if any(map(len, cells)):
            lines.append([strategy, *(spread(cell) + f" ({len(cell)})" if len(cell) else "" for cell in cells)])
    tables = [markdown(["strategy", *together], lines)]
    lines = []
    for name in settings:
        wide = read[read["setting"] == name].pivot_table(index="seed", columns="strategy", values="accuracy")
        if not set(MAIN[:3]) <= set(wide):
            continue
        for strategy in [name for name in MAIN[3:] if name in wide]:
            # The best of the three by the mean over draws, as a user who stayed with one would have it.
            best = wide[list(MAIN[:3])].mean().idxmax()
            gain = (wide[strategy] - wide[best]).dropna()
            lines.append([name, strategy, best, spread(gain), str(len(gain))])
    tables.append(markdown(["setting", "which", "best of the three", "gain", "draws"], lines))
    for name in alone:
        own = read[read["setting"] == name]
        played = own.groupby("strategy")["accuracy"]
        lines = [[which, spread(played.get_group(which))] for which in played.mean().sort_values(ascending=False, kind="stable").index]
        header = f"accuracy, {name}, {own['n_train'].max()} labels, {own['seed'].nunique()} draws"
        tables.append(markdown(["strategy", header], lines))
    return "\n\n".join(tables)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), metavar="SETTING", help=", ".join(SETTINGS))
    parser.add_argument("--strategies", nargs="+", default=list(MAIN))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder that holds data/ and weights/")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/graft-strategies"), help="for what is unpacked and cached")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true", help="only print the tables of the rows there are")
    given = parser.parse_args()
    if not given.table:
        os.environ["GRAFT_CACHE"] = str(given.folder / "cache")
        for name in given.settings:
            measure(name, given.strategies, given.seeds, given.shared, given.folder, given.rows)
    print(table(given.rows))


if __name__ == "__main__":
    main()
