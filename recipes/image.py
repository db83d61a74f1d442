"""Makes `shipped:image` from the images and the teachers in ../shared: a small network that says what MobileNets say.

    python recipes/image.py --shared ../shared --out runs/shipped-image
    python recipes/image.py --out runs/shipped-image --install  # puts what is there by now into the package, as halves
    python recipes/image.py --shared ../shared --develop        # keeps further classes out, and judges on those

Never seen: hymenoptera, PACS's cartoon domain, and the last 20 classes of Caltech-101, on which benchmarks/shipped.py judges. --develop
keeps 15 further classes and PACS's art paintings out as well, to try another recipe on. An interrupted run goes on with the same command.
On a shared machine set OMP_NUM_THREADS=1.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import graft
from graft.backbones import _folders, _networks, shipped
from graft.features import extract
from graft.records import Step

ROOT = Path(__file__).resolve().parents[1]
# Longer than any network's side, short enough to be cropped fast.
LONGEST_SHORT_SIDE_PX = 256
KEPT_OUT_CLASSES, DEVELOPMENT_CLASSES = 20, 15
DOMAINS = ("photo", "art_painting")
# How often an image is among the items, each time with views of its own: photographs are few, and what users have.
TIMES = {"photo": 8, "cifar10": 0.2, "eurosat": 0.5, "omniglot": 0.1}
# Each at a size at which it says of views, which are details, about what it says at its own, for less.
TEACHERS = ("mobilenetv2_100_imagenet@160px", "mobilenetv2_100_inat_insects@128px", "mobilenetv2_100_inat_birds@128px")
CONFIG = {
    "architecture": "resnet10t",
    "num_classes": 0,
    "model_args": {"channels": [32, 64, 128, 320], "stem_width": 16},
    "pretrained_cfg": {
        "input_size": [3, 96, 96],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "license": "apache-2.0",
        "description": "distilled from MobileNetV2 (ImageNet-1k, iNaturalist) on Caltech-101, PACS, EuroSAT, CIFAR-10, Omniglot",
    },
}


def opened(content):
    """The decoded image in these bytes, its shorter side at most 256 px."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    ratio = LONGEST_SHORT_SIDE_PX / min(image.size)
    return image if ratio >= 1 else image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BILINEAR)


def zipped(path, wanted=lambda folders: True):
    """(folders above the file, image) of the images in a .zip whose folders are wanted, in the order of their names."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            *folders, file = name.split("/")
            if file.lower().endswith((".jpg", ".jpeg", ".png")) and "__MACOSX" not in folders and wanted(folders):
                yield folders, opened(archive.read(name))


def caltech(shared, first, last):
    """(class, image) of the classes from place `first` to `last` in alphabetical order, as a slice has them."""
    path = Path(shared, "data/caltech101/caltech101.zip")
    with zipfile.ZipFile(path) as archive:
        classes = sorted({name.split("/")[0] for name in archive.namelist() if "/" in name})
    kept = set(classes[first:last])
    return [(folders[0], image) for folders, image in zipped(path, lambda folders: folders and folders[0] in kept)]


def pacs(shared, domain):
    """(class, image) of a domain."""
    found = zipped(Path(shared, "data/pacs/pacs.zip"), lambda folders: folders[:1] == [domain])
    return [(folders[1], image) for folders, image in found]


def images(shared, develop, seed=0):
    """What is trained on, in a fixed order."""
    last = -KEPT_OUT_CLASSES - (DEVELOPMENT_CLASSES if develop else 0)
    sets = {"photo": [image for _, image in caltech(shared, None, last)]}
    for domain in DOMAINS[: 1 if develop else 2]:
        sets["photo"] += [image for _, image in pacs(shared, domain)]
    table = pd.read_parquet(Path(shared, "data/cifar10/cifar10.parquet"))
    sets["cifar10"] = [opened(one["bytes"] if isinstance(one, dict) else one) for one in table["image"][table["split"] == "train"]]
    sets["eurosat"] = [image for _, image in zipped(Path(shared, "data/eurosat_rgb/eurosat_rgb.zip"))]
    sets["omniglot"] = [image for _, image in zipped(Path(shared, "data/omniglot/images_background_small1.zip"))]
    rng, chosen = np.random.default_rng(seed), []
    for name, times in TIMES.items():
        some = sets[name]
        chosen += (
            some * int(times) if times >= 1 else [some[place] for place in rng.choice(len(some), int(times * len(some)), replace=False)]
        )
    return chosen


def probe(backbone, labelled, folds=5, seeds=5):
    """Accuracy of a logistic regression on frozen features: (repetitions x folds,) in percent."""
    labels = np.array([label for label, _ in labelled])
    features = extract(backbone, [image for _, image in labelled])
    found = []
    for seed in range(seeds):
        for train_places, test_places in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
            found.append(100 * model.fit(features[train_places], labels[train_places]).score(features[test_places], labels[test_places]))
    return np.array(found)


def development_sets(shared):
    """name -> labelled images that --develop keeps out of training."""
    last = -KEPT_OUT_CLASSES
    return {"caltech": caltech(shared, last - DEVELOPMENT_CLASSES, last), "art": pacs(shared, "art_painting")}


def install(folder, into):
    """Write a saved backbone where the package looks for it, its matrices as halves: of 1.7 million numbers 3.4 MB.

    The card beside it, README.md, is written by hand: it says how the weights were judged.
    """
    tensors = _folders.read_tensors(folder / "model.safetensors")
    _folders.write_tensors(into / "model.safetensors", {name: one.half() if one.ndim > 1 else one for name, one in tensors.items()})
    config = _folders.read_json(folder / "config.json")
    # What `graft pretrain` tells of itself names folders of the machine it ran on.
    del config["card"]
    _folders.write_json(into / "config.json", config)
    size = (into / "model.safetensors").stat().st_size
    assert size <= 5_000_000 and all(one.half().isfinite().all() for one in tensors.values() if one.ndim > 1), f"{size} bytes"
    print(f"{into}: {size / 1e6:.2f} MB")


def begin(folder, seed):
    """Write the network with random weights; returns the name it is loaded by."""
    student = _networks.assemble(_networks.create(CONFIG, "image"), CONFIG, "image")
    student.reset(seed)
    student.save(folder)
    return f"untrained:checkpoint:{folder}"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/shipped-image")
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS))
    parser.add_argument("--epochs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--develop", action="store_true")
    parser.add_argument("--install", action="store_true")
    return parser.parse_args()


def main():
    told = parse()
    made = told.out / "image"
    if told.install:
        install(made, shipped.FOLDER / "image")
        return

    def tell(event):
        # Not each step: there are many.
        if not isinstance(event, Step):
            print(event, flush=True)

    teachers = [f"checkpoint:{told.shared.resolve()}/weights/{name}" for name in told.teachers]
    pretrained = graft.pretrain(
        images(told.shared, told.develop), out=made, start=begin(told.out / "start", told.seed), method="distillation", teachers=teachers,
        epochs=told.epochs, seed=told.seed, recipe={"batch_size": 32, "precision": "bf16", "clip_norm": 5.0}, progress=tell,
    )  # fmt: skip
    if told.develop:
        for name, some in development_sets(told.shared).items():
            print(f"{name}: {probe(pretrained.backbone, some).mean():.1f} %")


if __name__ == "__main__":
    main()
