"""CIFAR-10 with 1 % of its labels: a small network pretrained on the images without labels, against the same one trained on those labels.

    python benchmarks/selfsupervised.py choose --shared ../shared [--methods simclr ...] [--rates 2e-3 ...] [--epochs 4]
    python benchmarks/selfsupervised.py pretrain --shared ../shared --out FOLDER [--epochs 25] [--seed 0]
    python benchmarks/selfsupervised.py probe --shared ../shared --out FOLDER [--draws 0 1 2 3 4]
    python benchmarks/selfsupervised.py labels --shared ../shared [--draws 0 1 2 3 4]
    python benchmarks/selfsupervised.py table

`choose` plays short runs on 12,000 of the 15,000 train images and scores them on the other 3,000: a probe on 150 labels, and 20 nearest
neighbours. `pretrain` reads all 15,000 without labels; a killed one goes on from its checkpoints. `probe` draws 150 labelled train images,
15 a class, and fits a linear probe on their pretrained features; `labels` trains the same network on the same 150 alone, its rate and
epochs chosen on a fifth of them. Both are scored on the 4,000 test images, which nothing else reads. Rows go to
benchmarks/selfsupervised.csv. On a shared machine set OMP_NUM_THREADS=1: what is told in processor time is then that of one core.
"""

import argparse
import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rows import ROOT, append, commit, machine, markdown
from safetensors.torch import load_file, save_file
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from graft.backbones import load_backbone
from graft.backbones.base import Backbone
from graft.errors import GraftError
from graft.evaluate import interval_over_items
from graft.features import extract
from graft.records import Phase, Plan, Recipe
from graft.train import Checkpoints, predict_outputs, train

ROWS = Path(__file__).with_name("selfsupervised.csv")
WIDTHS = (32, 64, 128)
PER_CLASS = 15
HELD_OUT = 3000
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Of the supervised side: what a held-out fifth of the 150 chooses from.
RATES, EPOCHS = (1e-3, 4e-3), (40, 120)


def network(seed=0):
    """Three residual blocks of 32, 64, 128 channels behind a stem of stride 2: 128 features, 0.3 million parameters.

    On one core four times as many images a second as cifar_resnet20, whose preprocessing it takes over.
    """
    known = load_backbone("untrained:cifar_resnet20")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages = [("stem", nn.Sequential(_convolution(3, WIDTHS[0], 3, 2), nn.ReLU()))]
        for number, channels in enumerate(WIDTHS):
            stages.append((f"block{number + 1}", _Block(WIDTHS[max(0, number - 1)], channels, 2 if number else 1)))
        stages.append(("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())))
    return Backbone(
        name="small residual network",
        modality="image",
        width=WIDTHS[-1],
        stages=[(name, stage.to(memory_format=torch.channels_last)) for name, stage in stages],
        prepare=known.prepare,
        fresh=network,
        write=_write,
        preprocessing=known.preprocessing,
        card={"licence": "Apache-2.0", "pretrained_on": "nothing: random weights"},
    )


class _Block(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.first = _convolution(channels_in, channels, 3, stride)
        self.second = _convolution(channels, channels, 3, 1)
        self.shortcut = nn.Identity() if channels_in == channels and stride == 1 else _convolution(channels_in, channels, 1, stride)

    def forward(self, maps):
        return torch.relu(self.shortcut(maps) + self.second(torch.relu(self.first(maps))))


def _convolution(channels_in, channels, side, stride):
    return nn.Sequential(nn.Conv2d(channels_in, channels, side, stride, side // 2, bias=False), nn.BatchNorm2d(channels))


def _write(backbone, folder):
    raise GraftError(f"{folder}: the network of this benchmark is not saved, as no name loads it again. Take a network of graft's.")


def read(shared):
    """part -> (pictures (32, 32, 3) uint8, labels)."""
    table = pd.read_parquet(Path(shared) / "data/cifar10/cifar10.parquet")
    classes = sorted(table["label"].unique())
    parts = {}
    for part in ("train", "test"):
        rows = table[table["split"] == part]
        pictures = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in rows["image"]]
        parts[part] = (pictures, np.array([classes.index(label) for label in rows["label"]]))
    return parts


def pretrained(images, method, epochs, rate, batch_size, seed, folder=None):
    """(network, processor seconds, events) of a pretext on images without labels, in bf16."""
    backbone = network(seed)
    plan = Plan((Phase(epochs, (rate,) * backbone.depth, 0.0),), losses=((method, 1.0),), supervised=False)
    recipe = Recipe(batch_norm="batch", augment=False, batch_size=batch_size, precision="bf16")
    told = {"task": "regression", "others": images, "recipe": recipe, "seed": seed}
    if folder:
        told["checkpoints"] = Checkpoints(folder / "unfinished")
    processor, events = time.process_time(), []
    for event in train(backbone, nn.Linear(backbone.width, 1), plan, [], np.empty(0), **told):
        events.append(event)
        print(f"epoch {event.epoch + 1}: loss {event.loss:.3f}, {time.process_time() - processor:.0f} s of processor", flush=True)
    return backbone, time.process_time() - processor, events


def drawn(labels, seed):
    """Places of 150 labelled images, 15 of each class."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.choice(np.flatnonzero(labels == label), PER_CLASS, replace=False) for label in range(10)])


def fitted(features, labels, seed):
    """Logistic regression on standardised features, its strength chosen by five folds of the same labels."""
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)) for strength in STRENGTHS]
    best = max(models, key=lambda model: cross_val_score(model, features, labels, cv=folds).mean())
    return best.fit(features, labels)


def neighbours(features, labels, queries, truth, k=20):
    """Accuracy of the commonest class among the k nearest by cosine."""
    rows, asked = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True) for matrix in (features, queries))
    nearest = labels[np.argpartition(-asked @ rows.T, k, axis=1)[:, :k]]
    return np.mean([np.bincount(row, minlength=10).argmax() for row in nearest] == truth)


def choose(told):
    images, labels = read(told.shared)["train"]
    order = np.random.default_rng(7).permutation(len(images))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    seen = [images[place] for place in rest]
    for method in told.methods:
        for rate in told.rates:
            for batch_size in told.batch_sizes:
                backbone, processor, _ = pretrained(seen, method, told.epochs, rate, batch_size, told.seed)
                rows, asked = (extract(backbone, some, cache=False) for some in (seen, [images[place] for place in held]))
                places = [drawn(labels[rest], draw) for draw in told.draws]
                scores = [fitted(rows[some], labels[rest][some], told.seed).score(asked, labels[held]) for some in places]
                append(
                    ROWS,
                    blank()
                    | {
                        "what": "chosen by",
                        "method": method,
                        "settings": json.dumps({"rate": rate, "batch_size": batch_size}),
                        "epochs": told.epochs,
                        "seed": told.seed,
                        "n_test": HELD_OUT,
                        "accuracy": round(float(np.mean(scores)), 4),
                        "neighbours": round(float(neighbours(rows, labels[rest], asked, labels[held])), 4),
                        "processor_seconds": round(processor, 1),
                    },
                )


def pretrain(told):
    images = read(told.shared)["train"][0]
    told.out.mkdir(parents=True, exist_ok=True)
    clock = time.perf_counter()
    (method,), (rate,), (batch_size,) = told.methods, told.rates, told.batch_sizes
    backbone, processor, events = pretrained(images, method, told.epochs, rate, batch_size, told.seed, told.out)
    about = {"method": method, "rate": rate, "batch_size": batch_size, "epochs": told.epochs, "seed": told.seed}
    about |= {"processor_seconds": round(processor, 1), "seconds": round(time.perf_counter() - clock, 1), "loss": events[-1].loss}
    save_file({name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, told.out / "weights.safetensors")
    (told.out / "about.json").write_text(json.dumps(about))


def supervised(images, labels, rate, epochs, seed):
    """(network, head) trained from random weights, with random crops and mirroring."""
    backbone = network(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(backbone.width, 10)
    plan = Plan((Phase(epochs, (rate,) * backbone.depth, rate),))
    recipe = Recipe(batch_norm="batch", batch_size=32, precision="bf16")
    list(train(backbone, head, plan, images, labels, task="classification", recipe=recipe, seed=seed))
    return backbone, head


def judged(told):
    """Train pictures and labels, (draw, places) of each draw's 150, test pictures and labels."""
    parts = read(told.shared)
    images, labels = parts["train"]
    draws = [(draw, drawn(labels, draw)) for draw in told.draws]
    return images, labels, draws, *parts["test"]


def probe(told):
    images, labels, draws, tests, truth = judged(told)
    about = json.loads((told.out / "about.json").read_text())
    backbone = network(about["seed"])
    for what in ("probe, random weights", "probe"):
        own = {"what": what, "seed": about["seed"]}
        if what == "probe":
            backbone.load_state_dict(load_file(told.out / "weights.safetensors"))
            own |= {name: about[name] for name in ("method", "epochs", "processor_seconds")}
            own["settings"] = json.dumps({name: about[name] for name in ("rate", "batch_size")})
        rows, asked = extract(backbone, images, cache=False), extract(backbone, tests, cache=False)
        own["neighbours"] = round(float(neighbours(rows, labels, asked, truth)), 4)
        for draw, places in draws:
            model = fitted(rows[places], labels[places], draw)
            keep(own | {"draw": draw, "n_train": len(places)}, truth, model.predict_proba(asked), draw)


def labels_alone(told):
    images, labels, draws, tests, truth = judged(told)
    for draw, places in draws:
        some, y = [images[place] for place in places], labels[places]
        processor = time.process_time()
        learned, held = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=draw)
        scores = {}
        for rate in RATES:
            for epochs in EPOCHS:
                model = supervised([some[place] for place in learned], y[learned], rate, epochs, draw)
                outputs = predict_outputs(*model, [some[place] for place in held], "classification")
                scores[rate, epochs] = np.mean(outputs.argmax(1) == y[held])
        rate, epochs = max(scores, key=scores.get)
        outputs = predict_outputs(*supervised(some, y, rate, epochs, draw), tests, "classification")
        own = {"what": "labels alone", "settings": json.dumps({"rate": rate}), "epochs": epochs, "seed": draw}
        own |= {"processor_seconds": round(time.process_time() - processor, 1), "n_train": len(y)}
        keep(own | {"draw": draw}, truth, outputs, draw)


def keep(row, truth, outputs, seed):
    """Append a row of what was reached on the test images."""
    score = interval_over_items("accuracy", truth, outputs, seed)
    row = row | {
        "n_test": len(truth),
        "accuracy": round(score.value, 4),
        "low": round(score.interval[0], 4),
        "high": round(score.interval[1], 4),
    }
    append(ROWS, blank() | row)
    print({name: row[name] for name in ("what", "draw", "accuracy") if name in row}, flush=True)


def blank():
    names = ("what", "method", "settings", "epochs", "seed", "draw", "n_train", "n_test", "accuracy", "low", "high", "neighbours")
    about = {"machine": machine(), "threads": torch.get_num_threads(), "commit": commit()}
    return dict.fromkeys((*names, "processor_seconds"), "") | about


def table(_):
    """Means over draws with the 95 % interval of Student's t, and the gain over labels alone, paired by draw."""
    with open(ROWS, newline="", encoding="utf-8") as file:
        kept = [row for row in csv.DictReader(file) if row["draw"]]
    of = {}
    for row in kept:
        name = f"{row['what']}, {row['method']}, {row['epochs']} epochs" if row["what"] == "probe" else row["what"]
        of.setdefault(name, {})[row["draw"]] = float(row["accuracy"])
    against = of["labels alone"]
    lines = []
    for name, scores in of.items():
        both = sorted(set(scores) & set(against))
        gain = "" if name == "labels alone" else _told([scores[draw] - against[draw] for draw in both], "+")
        lines.append([name, _told(list(scores.values())), gain])
    print(markdown(["on 150 labels", "accuracy on the test images", "gain over labels alone"], lines))


def _told(values, sign=""):
    values = 100 * np.array(values)
    if len(values) < 2:
        return f"{values[0]:{sign}.1f} (1 draw)"
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{sign}.1f} ± {half:.1f} ({len(values)} draws)"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "pretrain", "probe", "labels", "table"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/selfsupervised", help="folder of the pretrained weights")
    parser.add_argument("--methods", nargs="*", default=["simclr"])
    parser.add_argument("--rates", nargs="*", type=float, default=[2e-3])
    parser.add_argument("--batch-sizes", nargs="*", type=int, default=[256])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    return parser.parse_args()


def main():
    told = parse()
    {"choose": choose, "pretrain": pretrain, "probe": probe, "labels": labels_alone, "table": table}[told.what](told)


if __name__ == "__main__":
    main()
