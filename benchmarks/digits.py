"""MNIST to USPS and back without a target label: a small network trained on one, adapted to the other, and which method is chosen.

    python benchmarks/digits.py measure --shared ../shared [--seeds 0 1 2] [--directions mnist usps] [--methods NAME ...]
    python benchmarks/digits.py table

The source is the labelled train part of one data set; the target is the other's train part without labels, and accuracy is that on the
target's test part. Target labels are read by the last lines of `measured` alone. A row for each candidate goes to benchmarks/digits.csv.
Data lie in --shared and are not part of graft. On a shared machine set OMP_NUM_THREADS=1.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from rows import ROOT, append, commit, machine, markdown
from scipy.stats import t as student
from torch import nn
from torch.nn.functional import affine_grid, grid_sample

from graft.adapt.estimator import Adapt
from graft.adapt.predict import SOURCE_ONLY
from graft.adapt.sides import rows_of
from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.evaluate import interval_over_items
from graft.records import Phase, Plan, Recipe
from graft.validators import ESTIMATES, VALIDATORS

ROWS = Path(__file__).with_name("digits.csv")
SIZE_PX = 28
WIDTH = 128
OTHER = {"mnist": "usps", "usps": "mnist"}
DIRECTIONS = [f"{source}->{target}" for source, target in OTHER.items()]
# One of each family, so that both directions fit into ten minutes on two cores: on features, on statistics, trained.
METHODS = (
    "coral", "subspace", "standardise", "t3a", "pseudo_labels", "shot_labels", "adabn", "tent", "shot", "mcc", "dann", "pseudo",
)  # fmt: skip
# Pictures that training sees: as many steps from 1000 items as from 10000.
SEEN = 100_000
BATCH = 64
# Of a random view. A digit that is turned further or mirrored may be another one.
TURN, SCALE, SHEAR, SHIFT = np.deg2rad(15), 0.2, 0.2, 0.1


def network(seed=0):
    """A convolutional network for grey digits, with batch normalisation and random weights: four stages, 128 features.

    Three convolutions and a layer of 128, as LeNet (LeCun et al. 1998) with batch normalisation, which AdaBN, TENT and SHOT speak of.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages = [
            ("conv1", _convolution(1, 32, 5, stride=2)),
            ("conv2", nn.Sequential(_convolution(32, 64, 3), nn.MaxPool2d(2))),
            ("conv3", nn.Sequential(_convolution(64, 128, 3), nn.MaxPool2d(2), nn.Flatten())),
            ("dense", nn.Sequential(nn.Linear(128 * 9, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())),
        ]
    return Backbone(
        name="digits",
        modality="image",
        width=WIDTH,
        stages=[(name, stage.to(memory_format=torch.channels_last)) for name, stage in stages],
        prepare=prepare,
        fresh=network,
        write=_write,
        preprocessing={"size_px": SIZE_PX},
        card={"licence": "Apache-2.0", "pretrained_on": "nothing: random weights"},
    )


def _convolution(channels_in, channels_out, side, stride=1):
    convolution = nn.Conv2d(channels_in, channels_out, side, stride, side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def _write(backbone, folder):
    raise GraftError(f"{folder}: the network of this benchmark is not saved, as no name loads it again. Take a network of graft's.")


def prepare(items, rng):
    """(n, 1, 28, 28) in [-1, 1] of grey pictures (arrays or PIL images) of any size.

    rng: draws a view of each: turned by up to 15 degrees, either side scaled by up to a fifth, sheared by up to a fifth, moved by a tenth.
    """
    pictures = [torch.from_numpy(np.array(item if isinstance(item, np.ndarray) else item.convert("L"))) for item in items]
    n = len(pictures)
    maps = np.tile(np.eye(2, 3), (n, 1, 1))
    if rng is not None:
        turn, shear = rng.uniform(-TURN, TURN, n), rng.uniform(-SHEAR, SHEAR, n)
        turned = np.stack([np.stack([np.cos(turn), -np.sin(turn)], 1), np.stack([np.sin(turn), np.cos(turn)], 1)], 1)
        changed = np.zeros((n, 2, 2))
        changed[:, 0, 0], changed[:, 1, 1] = rng.uniform(1 - SCALE, 1 + SCALE, (2, n))
        changed[:, 0, 1] = shear
        maps[:, :, :2] = turned @ changed
        maps[:, :, 2] = rng.uniform(-2 * SHIFT, 2 * SHIFT, (n, 2))
    maps = torch.from_numpy(maps).float()
    batch = torch.empty(n, 1, SIZE_PX, SIZE_PX)
    shapes = [tuple(picture.shape) for picture in pictures]
    for shape in set(shapes):
        places = [place for place in range(n) if shapes[place] == shape]
        some = torch.stack([pictures[place] for place in places])[:, None].float() / 255
        # Coordinates run from -1 to 1 in either size: resizing and the view are one interpolation.
        grid = affine_grid(maps[places], [len(places), 1, SIZE_PX, SIZE_PX], align_corners=False)
        batch[places] = grid_sample(some, grid, align_corners=False)
    return 2 * batch - 1


def read(name, shared):
    """part -> (pictures, labels)."""
    with np.load(Path(shared) / "data/digits_mnist_usps" / f"{name}.npz") as arrays:
        return {part: (list(arrays[f"x_{part}"]), arrays[f"y_{part}"].astype(int)) for part in ("train", "test")}


def source_plan(epochs, lr=2e-3):
    """Of the source-only model: every layer group at one rate, from random weights."""
    return lambda depth, *_: Plan((Phase(epochs, (lr,) * depth, lr),), reset=True)


def measured(direction, seed, shared, methods, epochs):
    """Rows of every candidate of one direction and seed; target labels are read for the accuracies alone."""
    source, target = read(direction, shared), read(OTHER[direction], shared)
    images, labels = source["train"]
    # Of those that training sees a fifth is held out by the adaptation, at most 1000, and of the rest a fifth, at most 500, to stop by.
    learned = len(labels) - min(0.2 * len(labels), 1000)
    learned -= min(0.2 * learned, 500)
    # SHOT's source model has label smoothing (Liang et al. 2020, equation 2); patience: training is played to its end.
    recipe = Recipe(batch_size=BATCH, smoothing=0.1, patience=SEEN, precision="fp32")
    clock, processor = time.perf_counter(), time.process_time()
    model = Adapt(network(seed), source_plan(round(SEEN / learned)), methods=methods, epochs=epochs, recipe=recipe, random_state=seed)
    model.fit(images, labels, target["train"][0])
    whole = {"total_seconds": round(time.perf_counter() - clock, 1), "total_processor_seconds": round(time.process_time() - processor, 1)}
    outcome = model.outcome_
    gains = [-np.inf if outlook is None else outlook.gain for outlook in outcome.outlooks]
    tests, truth = target["test"]
    rows_before = rows_of(outcome.sides.model, tests)
    found = []
    for place, one in enumerate(outcome.made):
        chosen = place == outcome.decision.place
        row = {
            "direction": f"{direction}->{OTHER[direction]}",
            "seed": seed,
            "method": one.method,
            "settings": one.name.partition(" (")[2].rstrip(")"),
            "n_source": len(labels),
            "n_target": len(target["train"][0]),
            "n_test": len(truth),
            "epochs": epochs,
            "seconds": round(one.seconds, 2),
            **whole,
            "chosen": int(chosen),
            # Without the guard it would be the highest predicted gain.
            "highest": int(gains[place] == max(gains)),
            "predicted": "",
            "gain": "",
            "accuracy": "",
            "low": "",
            "high": "",
            "fell_out": one.fell_out,
            **dict.fromkeys((*VALIDATORS, *ESTIMATES), ""),
        }
        if not one.fell_out:
            outlook = outcome.outlooks[place]
            row |= {name: f"{value:.6g}" for name, value in outcome.told[place].items()}
            outputs = one.head.outputs(rows_before if one.model is None else rows_of(one.model, tests))
            # The chosen one is shipped fitted on all of the source.
            score = interval_over_items("accuracy", truth, model.model_.predict_outputs(tests) if chosen else outputs, seed)
            row |= {
                "predicted": outlook.score,
                "gain": outlook.gain,
                "accuracy": score.value,
                "low": score.interval[0],
                "high": score.interval[1],
            }
        found.append(row)
    return found


def table(told_by=("mixval", "infomax", "bnm", "class_ami", "snd", "agreement", "reverse")):
    """A Markdown table of accuracies on the target's test part by direction, means over seeds with the 95 % interval of Student's t.

    told_by: validators; the candidate that each likes most is told beside what was chosen and the best there is.
    """
    with open(ROWS, newline="", encoding="utf-8") as file:
        kept = [row for row in csv.DictReader(file) if row["accuracy"]]
    cases = {}
    for row in kept:
        cases.setdefault((row["direction"], row["seed"]), []).append(row)
    picks = {
        "chosen": lambda rows: next(row for row in rows if row["chosen"] == "1"),
        "chosen without the guard": lambda rows: next(row for row in rows if row["highest"] == "1"),
        "best of all (oracle)": lambda rows: max(rows, key=lambda row: float(row["accuracy"])),
    }
    for name in told_by:
        picks[f"highest {name}"] = lambda rows, name=name: max(rows, key=lambda row: float(row[name]))
    for name in dict.fromkeys(row["method"] for row in kept):
        # Of several settings the first, which is the method's default.
        picks[name] = lambda rows, name=name: next((row for row in rows if row["method"] == name), None)
    groups = {name: [row for rows in cases.values() if (row := pick(rows))] for name, pick in picks.items()}
    lines = []
    for name, group in groups.items():
        of = {}
        for row in group:
            of.setdefault(row["direction"], {})[row["seed"]] = float(row["accuracy"])
        seeds = set.intersection(*(set(one) for one in of.values())) if len(of) == len(OTHER) else set()
        means = {seed: np.mean([one[seed] for one in of.values()]) for seed in seeds}
        lines.append((name, [_told(of.get(direction, {})) for direction in DIRECTIONS] + [_told(means)]))
    print(markdown(["", *DIRECTIONS, "mean"], [[name, *cells] for name, cells in lines]))


def _told(scores):
    """scores: seed -> accuracy."""
    values = 100 * np.array(list(scores.values()))
    if len(values) < 2:
        return f"{values[0]:.1f} (1 seed)" if len(values) else ""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.1f} ± {half:.1f} ({len(values)} seeds)"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--directions", nargs="*", default=list(OTHER), choices=list(OTHER), help="the sources to go from")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=4, help="of methods that retrain")
    return parser.parse_args()


def main():
    told = parse()
    if told.what == "table":
        table()
        return
    about = {"machine": machine(), "threads": torch.get_num_threads(), "commit": commit()}
    there = set()
    if ROWS.exists():
        with open(ROWS, newline="", encoding="utf-8") as file:
            there = {(row["direction"], row["seed"]) for row in csv.DictReader(file)}
    for seed in told.seeds:
        for direction in told.directions:
            if (f"{direction}->{OTHER[direction]}", str(seed)) in there:
                continue
            for row in measured(direction, seed, told.shared, told.methods, told.epochs):
                append(ROWS, row | about)
                if row["method"] == SOURCE_ONLY or row["chosen"] or row["highest"]:
                    print({key: row[key] for key in ("direction", "seed", "method", "accuracy", "chosen", "total_seconds")}, flush=True)


if __name__ == "__main__":
    main()
