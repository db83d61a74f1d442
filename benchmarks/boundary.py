"""What keeping the output of frozen stages saves: seconds an epoch of training the last stage and a head, with and without.

    python benchmarks/boundary.py NAME [NAME ...] --shared ../shared [--items 200] [--epochs 7] [--precision fp32]

NAME: mobilenetv2 (hymenoptera, its images), minilm (banking77, its training rows). Data and weights lie in --shared and are
not part of graft. The two ways take turns epoch by epoch in one process, so that what else the machine does meets both; the
first epoch, which fills the keeper, is left out. On a shared machine set OMP_NUM_THREADS=1: threads that wait for each other
on busy cores slow the longer way more. --precision is that of the cached way, --against that of the uncached.
A row for each name is printed and appended to benchmarks/boundary.csv.
"""

import argparse
import datetime
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import rows

HERE = Path(__file__).parent


def material(name, shared, n_items):
    """(backbone, items, y) of a name: so many items, drawn from seed 0."""
    import graft
    from graft.backbones import load_backbone

    if name == "mobilenetv2":
        data = graft.load(str(shared / "data/hymenoptera/hymenoptera.zip"))
        backbone, items, y = load_backbone(f"checkpoint:{shared / 'weights/mobilenetv2_100_imagenet'}"), data.items, data.target
    else:
        frame = pd.read_parquet(shared / "data/banking77/banking77.parquet")
        frame = frame[frame.split == "train"]
        backbone, items = load_backbone("sentence:minilm"), frame.text.tolist()
        y = np.unique(frame.label, return_inverse=True)[1]
    drawn = np.random.default_rng(0).permutation(len(items))[:n_items]
    return backbone, [items[place] for place in drawn], np.asarray(y)[drawn]


def last_stage(backbone, epochs, lr=1e-3):
    """The last stage that has parameters learns, and the head."""
    from graft.records import Phase, Plan

    last = max(place for place, group in enumerate(backbone.groups()) if group)
    return Plan((Phase(epochs, tuple(lr / 10 * (place == last) for place in range(backbone.depth)), lr),))


def measure(name, shared, n_items, epochs, precision, against):
    """A row: medians over the epochs after the first; the ratio is the median of each pair's."""
    import copy

    import torch

    from graft.features import States
    from graft.records import Recipe
    from graft.train import train

    backbone, items, y = material(name, shared, n_items)
    plan = last_stage(backbone, epochs)
    head = torch.nn.Linear(backbone.width, int(y.max()) + 1)
    with States(0) as nothing, States() as states:
        recipes = [Recipe(augment=False, precision=chosen) for chosen in (against, precision)]
        ways = [
            train(copy.deepcopy(backbone), copy.deepcopy(head), plan, items, y, task="classification", recipe=recipe, states=keeper)
            for keeper, recipe in zip((nothing, states), recipes, strict=True)
        ]
        pairs = list(zip(*ways, strict=True))
    seconds = np.array([[event.seconds for event in pair] for pair in pairs])
    ratios = seconds[1:, 0] / seconds[1:, 1]
    gap = max(abs(one.loss - other.loss) for one, other in pairs)
    medians = np.median(seconds[1:], axis=0)
    return {
        "date": datetime.date.today().isoformat(),
        "name": name,
        "precision": precision,
        "against": against,
        "threads": torch.get_num_threads(),
        "items": len(items),
        "epochs": epochs,
        "first_seconds": f"{seconds[0, 1]:.2f}",
        "uncached_seconds": f"{medians[0]:.2f}",
        "cached_seconds": f"{medians[1]:.2f}",
        "ratio": f"{np.median(ratios):.1f}",
        "lowest": f"{ratios.min():.1f}",
        "highest": f"{ratios.max():.1f}",
        "loss_gap": f"{gap:.1e}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=("mobilenetv2", "minilm"))
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--against", default="fp32", choices=("fp32", "bf16"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GRAFT_CACHE"] = cache
        for name in chosen.names:
            row = measure(name, chosen.shared.resolve(), chosen.items, chosen.epochs, chosen.precision, chosen.against)
            print(" ".join(f"{column}={cell}" for column, cell in row.items()), flush=True)
            rows.append(HERE / "boundary.csv", row)


if __name__ == "__main__":
    main()
