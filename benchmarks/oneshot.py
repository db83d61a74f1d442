"""Drawings: Omniglot's one-shot runs after pretraining on its background alphabets, and digits with a few labels by `shipped:doodle`.

    python benchmarks/oneshot.py choose --shared ../shared [--epochs 5] [--fold 0]   # held-out alphabets of the background, at will
    python benchmarks/oneshot.py omniglot --shared ../shared [--epochs 14]           # the 20 runs: 400 decisions, a row for each look
    python benchmarks/oneshot.py shipped --shared ../shared                          # the 20 runs by `shipped:doodle`
    python benchmarks/oneshot.py digits --shared ../shared                           # 1, 5 and 20 labels a class; frozen features
    python benchmarks/oneshot.py table

Omniglot is judged as Lake et al. 2015 do: of 20 characters of one alphabet by one drawer, which is the one by another drawer? The answer
is the nearest by the cosine of features. Rows go to benchmarks/oneshot.csv. On a shared machine set OMP_NUM_THREADS=1.
"""

import argparse
import csv
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rows import ROOT, append, commit, machine, markdown
from scipy.stats import t as student
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from graft.backbones import _doodle, load_backbone

sys.path.insert(0, str(ROOT / "recipes"))
import doodle

ROWS = Path(__file__).with_name("oneshot.csv")
# Alphabets held out of training when settings are chosen.
FOLDS = (("Japanese_(katakana)", "Sanskrit", "Tagalog"), ("Balinese", "Early_Aramaic", "Korean"))
TASKS_AN_ALPHABET = 200
# Degrees, shear, width: of the views whose features are averaged.
IDENTITY = (0, 0, 1)
VIEWS = ((-6, 0, 1), (6, 0, 1), (0, -0.1, 1), (0, 0.1, 1), (0, 0, 0.93), (0, 0, 1.07), (4, 0.06, 1.04), (-4, -0.06, 0.96))
LABELS = (1, 5, 20)
DRAWS = 10


def features(backbone, pictures, views):
    """(n, d) of length one: the mean of the features of each picture, and of its VIEWS where they are wanted, each of length one."""
    total = 0
    with torch.inference_mode():
        for view in (IDENTITY, *VIEWS) if views else (IDENTITY,):
            seen = pictures if view is IDENTITY else [changed(picture, *view) for picture in pictures]
            rows = [backbone(backbone.prepare(seen[start : start + 256])) for start in range(0, len(seen), 256)]
            total = total + torch.nn.functional.normalize(torch.cat(rows), dim=1)
    return torch.nn.functional.normalize(total, dim=1).numpy()


def changed(picture, turn, shear, wide):
    """A picture of dark ink on white, turned (degrees), sheared and widened about its middle."""
    cos, sin, middle = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn)), (picture.shape[0] - 1) / 2
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1 / wide, shear], [0, wide]])
    shift = middle - matrix @ (middle, middle)
    coefficients = (*matrix[0], shift[0], *matrix[1], shift[1])
    image = Image.fromarray(picture)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=255))


def right(known, asked, truth):
    """Of each asked picture, whether the nearest of the known ones is the true one."""
    return (asked @ known.T).argmax(1) == truth


def held_out(rows, alphabets, characters, drawers, seed=0):
    """alphabet -> share of right answers in tasks made as Omniglot's: 20 of its characters (17 where there are no more), two drawers."""
    rng = np.random.default_rng(seed)
    place = {(character, drawer): row for row, character, drawer in zip(rows, characters, drawers, strict=True)}
    found = {}
    for alphabet in np.unique(alphabets):
        names = np.unique(characters[alphabets == alphabet])
        answers = []
        for _ in range(TASKS_AN_ALPHABET):
            some = rng.choice(names, min(20, len(names)), replace=False)
            one, other = rng.choice(np.unique(drawers), 2, replace=False)
            known, asked = (np.stack([place[name, drawer] for name in some]) for drawer in (one, other))
            answers.extend(right(known, asked, np.arange(len(some))))
        found[alphabet] = np.mean(answers)
    return found


def choose(shared, epochs, seed, fold):
    pictures, alphabets, characters, drawers = doodle.background(shared)
    out = np.isin(alphabets, FOLDS[fold])
    learned = [picture for picture, held in zip(pictures, out, strict=True) if not held]
    backbone, seconds = doodle.learn(*doodle.turned(learned, characters[~out]), epochs, seed, print)
    unseen = [picture for picture, held in zip(pictures, out, strict=True) if held]
    for views in (False, True):
        scores = held_out(features(backbone, unseen, views), alphabets[out], characters[out], drawers[out])
        told = ", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items())
        mean = 100 * np.mean(list(scores.values()))
        print(f"{1 + views * len(VIEWS)} views: mean {mean:.2f} ({told}); {epochs} epochs, {seconds:.0f} s of processor")


def runs(shared):
    """The 20 runs: known pictures, asked pictures, and of each asked one the place of the known one."""
    with zipfile.ZipFile(Path(shared) / "data/omniglot/one_shot_all_runs.zip") as archive:
        for number in range(1, 21):
            pairs = [line.split() for line in archive.read(f"run{number:02}/class_labels.txt").decode().splitlines() if line.strip()]
            known = sorted(named for _, named in pairs)
            read = [[doodle.read(archive.read(name)) for name in names] for names in (known, [asked for asked, _ in pairs])]
            yield *read, np.array([known.index(named) for _, named in pairs])


def judged(backbone, shared, views):
    """(20,) share of right answers of each run."""
    shares = []
    for known, asked, truth in runs(shared):
        rows = features(backbone, known + asked, views)
        shares.append(np.mean(right(rows[: len(known)], rows[len(known) :], truth)))
    return np.array(shares)


def omniglot(shared, epochs, seed):
    pictures, _, characters, _ = doodle.background(shared)
    begun = time.perf_counter()
    backbone, seconds = doodle.learn(*doodle.turned(pictures, characters), epochs, seed, print)
    clock = time.perf_counter() - begun
    told = {"seed": seed, "epochs": epochs, "seconds": round(clock), "processor_seconds": round(seconds)}
    tell_runs(backbone, shared, "background alphabets alone", told)


def tell_runs(backbone, shared, name, told):
    for views in (False, True):
        shares = judged(backbone, shared, views)
        half = student.ppf(0.975, len(shares) - 1) * shares.std(ddof=1) / len(shares) ** 0.5
        row = {"what": "omniglot", "features": f"{name}, {1 + views * len(VIEWS)} views", "labels": 1, "n": 20 * len(shares), **told}
        keep(row | {"accuracy": round(shares.mean(), 4), "low": round(shares.mean() - half, 4), "high": round(shares.mean() + half, 4)})


def keep(row):
    about = {"machine": machine(), "threads": torch.get_num_threads(), "commit": commit()}
    append(ROWS, row | about)
    print({name: row[name] for name in ("what", "features", "labels", "accuracy", "low", "high")}, flush=True)


def digit_sets(shared):
    """name -> (pictures, labels), none of which `shipped:doodle` has seen."""
    bundled = load_digits()
    with np.load(Path(shared) / "data/digits_mnist_usps/usps.npz") as arrays:
        usps = np.concatenate([arrays["x_train"], arrays["x_test"]]), np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(int)
    return {
        "sklearn digits": (list(np.round(bundled.images * 255 / 16).astype(np.uint8)), bundled.target),
        "USPS": (list(usps[0]), usps[1]),
    }


def random_weights(shared):
    network = _doodle.build()
    network.reset(0)
    return network


# What digits are seen through; None: as they are.
FEATURES = {
    "raw pixels": None,
    "MobileNetV2 ImageNet, 96 px": lambda shared: load_backbone(f"checkpoint:{Path(shared) / 'weights/mobilenetv2_100_imagenet'}@96px"),
    "doodle, random weights": random_weights,
    "shipped:doodle": lambda shared: load_backbone("shipped:doodle"),
}


def digits(shared, only):
    """Logistic regression on frozen features, standardised; the same draws of labels for each."""
    for network in only:
        backbone = FEATURES[network](shared) if FEATURES[network] else None
        for name, (pictures, labels) in digit_sets(shared).items():
            begun = time.perf_counter()
            with torch.inference_mode():
                starts = range(0, len(pictures) if backbone else 0, 64)
                parts = [backbone(backbone.prepare(pictures[start : start + 64])).numpy() for start in starts]
            rows = np.concatenate(parts) if backbone else np.stack(pictures).reshape(len(pictures), -1).astype(float)
            seconds = round(time.perf_counter() - begun, 1) if backbone else ""
            for few in LABELS:
                values = [few_labels(rows, labels, few, draw) for draw in range(DRAWS)]
                half = student.ppf(0.975, DRAWS - 1) * np.std(values, ddof=1) / DRAWS**0.5
                row = {
                    "what": name,
                    "features": network,
                    "labels": few,
                    "n": len(labels) - 10 * few,
                    "seed": f"0-{DRAWS - 1}",
                    "epochs": "",
                }
                row |= {"seconds": seconds, "processor_seconds": "", "accuracy": round(np.mean(values), 4)}
                keep(row | {"low": round(np.mean(values) - half, 4), "high": round(np.mean(values) + half, 4)})


def few_labels(rows, labels, few, draw):
    """Accuracy on all that is not drawn."""
    rng = np.random.default_rng(draw)
    known = np.concatenate([rng.choice(np.flatnonzero(labels == label), few, replace=False) for label in np.unique(labels)])
    rest = np.setdiff1d(np.arange(len(labels)), known)
    scaler = StandardScaler().fit(rows[known])
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(rows[known]), labels[known])
    return model.score(scaler.transform(rows[rest]), labels[rest])


def table():
    with open(ROWS, newline="", encoding="utf-8") as file:
        # Of what was measured again the last counts.
        kept = {(row["what"], row["features"], row["labels"]): row for row in csv.DictReader(file)}.values()
    lines = []
    for row in kept:
        shown = f"{100 * float(row['accuracy']):.1f} ({100 * float(row['low']):.1f} to {100 * float(row['high']):.1f})"
        lines.append([row["what"], row["features"], row["labels"], row["n"], row["seed"], row["processor_seconds"], shown])
    print(markdown(["data", "features", "labels a class", "n", "seeds", "seconds of processor", "accuracy, % (95 % interval)"], lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "omniglot", "shipped", "digits", "table"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fold", type=int, default=0, choices=(0, 1))
    parser.add_argument("--features", nargs="*", default=list(FEATURES), choices=list(FEATURES), help="what digits are seen through")
    told = parser.parse_args()
    if told.what == "choose":
        choose(told.shared, told.epochs, told.seed, told.fold)
    elif told.what == "omniglot":
        omniglot(told.shared, told.epochs, told.seed)
    elif told.what == "shipped":
        empty = {"seed": "", "epochs": "", "seconds": "", "processor_seconds": ""}
        for name in ("doodle, random weights", "shipped:doodle"):
            tell_runs(FEATURES[name](told.shared), told.shared, name, empty)
    elif told.what == "digits":
        digits(told.shared, told.features)
    else:
        table()


if __name__ == "__main__":
    main()
