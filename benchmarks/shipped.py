"""What shipped:image is worth on images that it never saw: a frozen probe against MobileNetV2 of ImageNet, and that with random weights.

    python benchmarks/shipped.py measure --shared ../shared [--backbone NAME] [--seeds 0 1 2 3 4]
    python benchmarks/shipped.py speed --shared ../shared
    python benchmarks/shipped.py table

Kept out of its training: hymenoptera, PACS's cartoon domain, the last 20 classes of Caltech-101. Each seed deals every set into five
folds; a logistic regression whose strength is chosen inside four of them is asked for the fifth: each item is judged once a seed.
Rows go to benchmarks/shipped.csv and benchmarks/shipped_speed.csv. Data and teachers lie in --shared and are not part of graft. On a shared
machine set OMP_NUM_THREADS=1.
"""

import argparse
import csv
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from rows import ROOT, append, commit, machine, markdown
from sklearn.model_selection import StratifiedKFold

from graft.backbones import load_backbone
from graft.features import extract
from graft.heads import fit_head
from graft.items import ZipEntry

sys.path.insert(0, str(ROOT / "recipes"))
import image as recipe

ROWS, SPEED = Path(__file__).with_name("shipped.csv"), Path(__file__).with_name("shipped_speed.csv")
FOLDS, DRAWS, SPEED_ITEMS, BATCH = 5, 4000, 256, 16
STUDENT, TEACHER, RANDOM = "shipped:image", "mobilenetv2_100_imagenet", "untrained:mobilenetv2_100_imagenet"


def kept_out(shared):
    """Name of a set -> its labelled images."""
    found = recipe.zipped(Path(shared, "data/hymenoptera/hymenoptera.zip"))
    return {
        "hymenoptera": [(folders[-1], image) for folders, image in found],
        "pacs cartoon": recipe.pacs(shared, "cartoon"),
        "caltech last 20": recipe.caltech(shared, -recipe.KEPT_OUT_CLASSES, None),
    }


def full_name(name, shared):
    """What graft loads, of the short name in a row."""
    front = "untrained:" if name.startswith("untrained:") and not name.startswith(f"untrained:{STUDENT}") else ""
    short = name.removeprefix(front)
    return name if ":" in short else f"{front}checkpoint:{shared}/weights/{short}"


def judged(features, labels, seed):
    """(n,) bool: whether each item was recognised by a probe that was fitted without it."""
    right = np.empty(len(labels), bool)
    for learned, asked in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, labels):
        head = fit_head(features[learned], labels[learned], "classification", kind="logistic", n_classes=labels.max() + 1, seed=seed)
        right[asked] = head.outputs(features[asked]).argmax(1) == labels[asked]
    return right


def measure(told):
    about = {"machine": machine(), "commit": commit()}
    for name in told.backbone:
        backbone = load_backbone(full_name(name, told.shared))
        for kept, labelled in kept_out(told.shared).items():
            features = extract(backbone, [image for _, image in labelled])
            labels = np.unique([label for label, _ in labelled], return_inverse=True)[1]
            for seed in told.seeds:
                begun = time.perf_counter()
                right = judged(features, labels, seed)
                row = {"backbone": name, "fingerprint": backbone.fingerprint(), "set": kept, "seed": seed, "n": len(labels)}
                row |= {"accuracy": round(100 * right.mean(), 2), "seconds": round(time.perf_counter() - begun, 1)}
                append(ROWS, row | about | {"right": "".join(map(str, right.astype(int)))})
            print(f"{name} on {kept}: {100 * right.mean():.1f} (seed {seed})", flush=True)


def speed(told):
    """Milliseconds of the processor an item for the same photographs, the two networks in turns: through `extract`, and the network alone.

    Not of the clock, which counts the work of others on a shared core. Extraction in bfloat16 is not among them: graft refuses it for
    MobileNetV2, whose features lose their direction in it.
    """
    images = [image for _, image in kept_out(told.shared)["hymenoptera"]][:SPEED_ITEMS]
    files = photographs(Path(told.shared, "data/hymenoptera/hymenoptera.zip"))[:SPEED_ITEMS]
    networks = {name: load_backbone(full_name(name, told.shared)) for name in (STUDENT, TEACHER)}
    batches = {name: backbone.prepare(images[:BATCH]) for name, backbone in networks.items()}

    def alone(name, bf16):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            networks[name](batches[name])

    def extracted(name, items, runtime):
        extract(networks[name], items, cache=False, runtime=runtime, batch_size=BATCH)

    ways = {
        "extract, torch": (len(images), lambda name: extracted(name, images, "torch")),
        "extract, frozen": (len(images), lambda name: extracted(name, images, "frozen")),
        "extract from files, torch": (len(files), lambda name: extracted(name, files, "torch")),
        "network, float32": (BATCH, lambda name: alone(name, False)),
        "network, bfloat16": (BATCH, lambda name: alone(name, True)),
    }
    for way, (items, run) in ways.items():
        for turn in range(-1, told.turns):
            for name in networks:
                begun = time.process_time()
                run(name)
                ms = 1000 * (time.process_time() - begun) / items
                # The first turn sets the runtime up.
                if turn >= 0:
                    row = {"way": way, "backbone": name, "turn": turn, "items": items, "ms": round(ms, 3)}
                    append(SPEED, row | {"threads": torch.get_num_threads(), "machine": machine(), "commit": commit()})


def photographs(archive):
    """The photographs of an archive, read from it when they are needed, in the order of their names."""
    return [
        ZipEntry(str(archive), name)
        for name in sorted(zipfile.ZipFile(archive).namelist())
        if name.endswith(".jpg") and "__MACOSX" not in name
    ]


def share(right, sets, seeds, rng=None):
    """Mean over sets of (student - random) / (teacher - random), accuracies averaged over seeds; items drawn anew with `rng`.

    right: (backbone, set) -> (seeds, n) of 0 and 1.
    """
    found = []
    for kept in sets:
        n = right[STUDENT, kept].shape[1]
        places = rng.integers(n, size=n) if rng else np.arange(n)
        student, teacher, random = (right[name, kept][:, places].mean() for name in (STUDENT, TEACHER, RANDOM))
        found.append((student - random) / (teacher - random))
    return np.array([*found, np.mean(found)])


def table():
    with open(ROWS, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right, seeds = {}, sorted({row["seed"] for row in rows})
    for row in rows:
        # Of several measurements of a name the last counts.
        right.setdefault((row["backbone"], row["set"]), {})[row["seed"]] = np.array(list(row["right"]), int)
    right = {key: np.stack(list(of.values())) for key, of in right.items()}
    names, sets = (list(dict.fromkeys(key[place] for key in right)) for place in (0, 1))
    rng, lines = np.random.default_rng(0), []
    for name in names:
        cells = []
        for kept in sets:
            items = right[name, kept].mean(0)
            drawn = items[rng.integers(len(items), size=(DRAWS, len(items)))].mean(1)
            low, high = 100 * np.quantile(drawn, (0.025, 0.975))
            cells.append(f"{100 * items.mean():.1f} ({low:.1f} to {high:.1f})")
        lines.append([name, *cells])
    print(markdown(["accuracy, %", *(f"{kept}, n = {right[names[0], kept].shape[1]}" for kept in sets)], lines))
    whole, draws = share(right, sets, seeds), np.array([share(right, sets, seeds, rng) for _ in range(DRAWS)])
    intervals = np.quantile(draws, (0.025, 0.975), axis=0)
    for kept, value, low, high in zip([*sets, "mean"], whole, *intervals, strict=True):
        print(f"share of MobileNetV2's gain, {kept}: {100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f}), {len(seeds)} seeds")
    if SPEED.exists():
        with open(SPEED, newline="", encoding="utf-8") as file:
            timed = list(csv.DictReader(file))
        for way in dict.fromkeys(row["way"] for row in timed):
            ms = {name: [float(row["ms"]) for row in timed if (row["backbone"], row["way"]) == (name, way)] for name in (STUDENT, TEACHER)}
            ratios = np.array(ms[TEACHER]) / np.array(ms[STUDENT])
            told = ", ".join(f"{name} {np.median(values):.2f} ms" for name, values in ms.items())
            print(f"{way}: {told}; {np.median(ratios):.1f} times ({ratios.min():.1f} to {ratios.max():.1f}, {len(ratios)} turns)")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "speed", "table"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--backbone", nargs="*", default=[TEACHER, RANDOM, STUDENT, f"untrained:{STUDENT}"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--turns", type=int, default=7, help="of the speed")
    return parser.parse_args()


def main():
    told = parse()
    if told.what == "table":
        table()
    else:
        {"measure": measure, "speed": speed}[told.what](told)


if __name__ == "__main__":
    main()
