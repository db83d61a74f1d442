"""A sentence encoder taught further by unlabelled texts: what it gains on their domain, and what it forgets elsewhere.

    python benchmarks/continued.py measure --shared ../shared [--texts books ...] [--ways masked_language ...] [--tasks sentiment ...]
    python benchmarks/continued.py table

Sentiment: of the domain whose texts were learned from, by 50 labels. Other tasks have nothing to do with the texts. All by a frozen probe.
Judged items are never among the texts that are learned from. A row for each probe goes to benchmarks/continued.csv.
Data lie in --shared and are not part of graft. On a shared machine set OMP_NUM_THREADS=1.
"""

import argparse
import copy
import csv
import functools
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rows import ROOT, append, commit, machine, markdown
from scipy.stats import t as student
from torch import nn

from graft.backbones import load_backbone
from graft.features import extract
from graft.heads import fit_head
from graft.pretext import PRETEXTS
from graft.records import Phase, Plan, Recipe
from graft.train import train
from graft.train.ends import mix

ROWS = Path(__file__).with_name("continued.csv")
START = "sentence:minilm"
DOMAINS = ("airline", "blog", "books", "dvd", "imdb")
CHOSEN_ON = ("books",)  # where the ways' settings were looked at; never judged
WORDS = 40  # of a text's beginning: what two cores can read in the time there is
JUDGED, LABELS, DRAWS = 600, 50, 10  # JUDGED: at most
# name -> (what is learned from, strongest first, epochs); the rate is a tenth of the first's highest, as `graft pretrain` continues.
WAYS = {
    "masked_language": ((("masked_language", 1.0),), 3),
    "masked_language, keep_features": ((("masked_language", 1.0), ("keep_features", 10.0)), 3),
    "tsdae": ((("tsdae", 1.0),), 3),
    "simcse": ((("simcse", 1.0),), 1),
}
SHARES = (0.5, 1.0)  # of the new weights in the mean with those of the start


def cut(texts):
    return [" ".join(str(text).split()[:WORDS]) for text in texts]


def domain(name, shared):
    """Texts and 0/1 labels of a review domain in random order, each text once, and how many of the first are judged."""
    table = pd.read_parquet(Path(shared) / "data/reviews_multidomain/reviews_multidomain.parquet")
    table = table[table["domain"] == name].drop_duplicates("text").sample(frac=1, random_state=0)
    return cut(table["text"]), table["label"].to_numpy(), min(JUDGED, round(0.4 * len(table)))


def unlabelled(name, shared):
    """The texts that are learned from: a domain's without those that are judged, or as many headlines."""
    if name in DOMAINS:
        texts, _, judged = domain(name, shared)
        return texts[judged:]
    table = pd.read_parquet(Path(shared) / "data/ag_news/ag_news.parquet")
    return cut((table["title"] + ". " + table["text"])[table["split"] == "train"].sample(1400, random_state=0))


@functools.lru_cache(maxsize=1)
def continued(name, way, shared, seed):
    """share -> the start after these texts, its weights averaged with those of the start at this share; and the seconds of training."""
    if way == START:
        return {0.0: load_backbone(START)}, 0.0
    texts = unlabelled(name, shared)
    backbone = load_backbone(START)
    before = copy.deepcopy(backbone.state_dict())
    losses, epochs = WAYS[way]
    method = PRETEXTS[losses[0][0]]
    plan = Plan((Phase(epochs, (method.highest_rate / 10,) * backbone.depth, 0.0),), losses=losses, supervised=False)
    recipe = Recipe(batch_size=method.batch_size, batch_norm="batch", augment=False, precision="bf16")
    begun = time.perf_counter()
    events = train(backbone, nn.Linear(backbone.width, 1), plan, [], np.empty(0), task="regression", others=texts, recipe=recipe, seed=seed)
    told = [round(event.loss, 4) for event in events]
    seconds = time.perf_counter() - begun
    print(name, way, "loss by epoch", told, f"{seconds:.0f} s", flush=True)
    after, made = copy.deepcopy(backbone.state_dict()), {}
    for share in SHARES:
        made[share] = copy.deepcopy(backbone)
        made[share].load_state_dict(mix([(1 - share, before), (share, after)]))
    return made, seconds


def probed(features, labels, learned, judged):
    """Which judged items a head that is fitted on the learned ones is right about, (m,) bool."""
    head = fit_head(features[learned], labels[learned], "classification", kind="logistic")
    return head.outputs(features[judged]).argmax(1) == labels[judged]


def gains(name, backbone, shared):
    """Accuracies by ten draws of 50 labels, half of each class, from the texts that are not judged."""
    texts, labels, judged = domain(name, shared)
    others = np.arange(judged, len(texts))
    draws = []
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(others)
        draws.append(np.concatenate([order[labels[order] == one][: LABELS // 2] for one in (0, 1)]))
    used = np.union1d(np.arange(judged), np.concatenate(draws))
    features = np.zeros((len(texts), backbone.width), np.float32)
    features[used] = extract(backbone, [texts[place] for place in used])
    for draw, learned in enumerate(draws):
        yield f"{LABELS} labels", draw, probed(features, labels, learned, np.arange(judged)).mean(), judged


def retained(task, backbone, shared, draws=5):
    """Accuracies on another task: banking77's official test by 10 labels a class and by all, or trec6's."""
    if task == "banking77":
        table = pd.read_parquet(Path(shared) / "data/banking77/banking77.parquet")
    else:
        table = pd.read_parquet(Path(shared) / "data/sentence_suite/sentence_suite.parquet")
        table = table[table["task"] == task]
    labels = table["label"].astype("category").cat.codes.to_numpy()
    train_places, judged = (np.flatnonzero(table["split"] == split) for split in ("train", "test"))
    if task == "trec6":
        train_places = np.random.default_rng(0).permutation(train_places)[:1500]
    features = np.zeros((len(table), backbone.width), np.float32)
    used = np.concatenate([train_places, judged])
    features[used] = extract(backbone, [str(text) for text in table["text"].iloc[used]])
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(train_places)
        learned = np.concatenate([order[labels[order] == one][:10] for one in np.unique(labels)])
        yield "10 labels a class", draw, probed(features, labels, learned, judged).mean(), len(judged)
    yield "all labels", 0, probed(features, labels, train_places, judged).mean(), len(judged)


def measure(told):
    about = {"machine": machine(), "threads": torch.get_num_threads(), "commit": commit()}
    there = set()
    if told.rows.exists():
        with open(told.rows, newline="", encoding="utf-8") as file:
            there = {(row["texts"], row["way"], row["task"]) for row in csv.DictReader(file)}
    for name, way, task in itertools.product(told.texts, told.ways, told.tasks):
        # What is known before does not hang on what it could have learned from.
        if way == START and task != "sentiment":
            name = ""
        if (name, way, task) in there or (task == "sentiment" and name not in DOMAINS):
            continue
        there.add((name, way, task))
        made, seconds = continued(name, way, told.shared, told.seed)
        for share, backbone in made.items():
            rows = list(gains(name, backbone, told.shared) if task == "sentiment" else retained(task, backbone, told.shared))
            for labels, draw, accuracy, n in rows:
                row = {"texts": name, "way": way, "share": share, "task": task, "labels": labels, "draw": draw, "seed": told.seed}
                append(told.rows, row | {"accuracy": round(float(accuracy), 5), "n": n, "seconds": round(seconds, 1)} | about)
            for kind in dict.fromkeys(row[0] for row in rows):
                print(name, way, share, task, kind, round(float(np.mean([row[2] for row in rows if row[0] == kind])), 4), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--texts", nargs="*", default=list(DOMAINS), choices=(*DOMAINS, "ag_news"), help="what is learned from")
    parser.add_argument("--ways", nargs="*", default=[START, *WAYS], choices=(START, *WAYS))
    parser.add_argument("--tasks", nargs="*", default=["sentiment"], choices=("sentiment", "banking77", "trec6"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, default=ROWS)
    return parser.parse_args()


def table(rows):
    """Two Markdown tables: what sentiment gained by way and domain, and what other tasks lost."""
    with open(rows, newline="", encoding="utf-8") as file:
        kept = list(csv.DictReader(file))
    scores = {}
    for row in kept:
        place = (row["way"], row["share"], row["texts"], row["task"], row["labels"])
        scores.setdefault(place, {})[row["draw"]] = 100 * float(row["accuracy"])
    ways = list(dict.fromkeys((row["way"], row["share"]) for row in kept if row["way"] != START))
    before = {(texts, labels): of for (way, _, texts, task, labels), of in scores.items() if way == START and task == "sentiment"}
    lines = [[START, "", *(_one(before.get((name, f"{LABELS} labels"), {})) for name in DOMAINS), ""]]
    for way, share in ways:
        gained = {name: _gain(scores, before, way, share, name) for name in DOMAINS}
        judged = [np.mean(values) for name, values in gained.items() if values and name not in CHOSEN_ON]
        whole = f"{np.mean(judged):+.1f} ± {_half(judged):.1f}, {len(judged)} domains" if len(judged) > 1 else ""
        lines.append([way, share, *(f"{np.mean(of):+.1f} ± {_half(of):.1f}" if of else "" for of in gained.values()), whole])
    print(markdown(["continued by", "share of new weights", *DOMAINS, f"mean without {', '.join(CHOSEN_ON)}"], lines) + "\n")
    lines = []
    for (way, share, texts, task, labels), of in scores.items():
        if task != "sentiment":
            known = next((one for (was, _, _, *same), one in scores.items() if was == START and same == [task, labels]), None)
            change = [] if way == START or known is None else [of[draw] - known[draw] for draw in of]
            told = f"{np.mean(change):+.2f}" + (f" ± {_half(change):.2f}" if len(change) > 1 else "") if change else ""
            lines.append([way, share, texts, task, labels, _one(of), told])
    print(markdown(["continued by", "share of new weights", "on texts of", "task", "labels", "accuracy", "change"], lines))


def _gain(scores, before, way, share, name):
    """By draw, what the way is worth more than the start."""
    of = scores.get((way, share, name, "sentiment", f"{LABELS} labels"), {})
    return [value - before[name, f"{LABELS} labels"][draw] for draw, value in of.items()]


def _one(of):
    return f"{np.mean(list(of.values())):.1f}" if of else ""


def _half(values):
    """Half the 95 % interval of Student's t."""
    return student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5


if __name__ == "__main__":
    told = parse()
    if told.what == "table":
        table(told.rows)
    else:
        measure(told)
