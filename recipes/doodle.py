"""How `shipped:doodle` was made: a small network taught to tell handwritten characters apart, each quarter turn a class of its own.

    python recipes/doodle.py --shared ../shared [--out graft/backbones/_shipped/doodle] [--epochs 14] [--seed 0]

Reads Omniglot's two small background sets (MIT) and the train part of MNIST (CC BY-SA 3.0) from --shared, which is not part of graft.
Weights are written as halves. On a shared machine set OMP_NUM_THREADS=1.
"""

import argparse
import io
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image

import graft
from graft.backbones import _doodle, _folders
from graft.records import Phase, Plan, Step

ROOT = Path(__file__).resolve().parents[1]
SETS = ("images_background_small1", "images_background_small2")
DIGITS_A_CLASS = 200
CARD = {"licence": "Apache-2.0", "pretrained_on": "Omniglot, background small 1 and 2 (MIT), and 2,000 digits of MNIST (CC BY-SA 3.0)"}
RATE, HEAD_RATE, BATCH = 2e-3, 1e-2, 128


def background(shared):
    """Omniglot's two small background sets as one: pictures (uint8), and of each its alphabet, its character and its drawer.

    Greek and Latin are in both sets, and read once: 242 characters of 8 alphabets by 20 drawers.
    """
    found = {}
    for name in SETS:
        with zipfile.ZipFile(Path(shared) / "data/omniglot" / f"{name}.zip") as archive:
            for path in sorted(map(PurePosixPath, archive.namelist())):
                if path.suffix == ".png" and path.parts[0] == name:
                    alphabet, character = path.parts[1:3]
                    found[alphabet, f"{alphabet}/{character}", int(path.stem.split("_")[1])] = read(archive.read(str(path)))
    alphabets, characters, drawers = map(np.array, zip(*found, strict=True))
    return list(found.values()), alphabets, characters, drawers


def read(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))


def turned(pictures, labels):
    """Each picture in its four quarter turns, and the number of its class: a character that is turned is another one.

    Source: Santoro et al. 2016, arXiv:1605.06065, section 4.1.
    """
    numbers = np.unique(labels, return_inverse=True)[1]
    every = [np.ascontiguousarray(np.rot90(picture, turn)) for turn in range(4) for picture in pictures]
    return every, np.concatenate([4 * numbers + turn for turn in range(4)])


def digits(shared):
    """The first 200 of each class of MNIST's train part, upright alone: a six on its head is a nine."""
    with np.load(Path(shared) / "data/digits_mnist_usps/mnist.npz") as arrays:
        pictures, labels = arrays["x_train"], arrays["y_train"].astype(int)
    few = np.concatenate([np.flatnonzero(labels == label)[:DIGITS_A_CLASS] for label in range(10)])
    return list(pictures[few]), labels[few]


def learn(pictures, classes, epochs, seed=0, tell=None):
    """A network that was taught these classes from random weights, and the processor's seconds that it took."""
    data = pd.DataFrame({"drawing": pictures, "character": [f"character {number}" for number in classes]})

    def progress(event):
        if tell and not isinstance(event, Step):
            tell(event)

    with tempfile.TemporaryDirectory() as folder:
        network = _doodle.build()
        network.save(folder)
        plan = Plan((Phase(epochs, (RATE,) * network.depth, HEAD_RATE),), losses=(("cosface", 1.0),))
        begun = time.process_time()
        made = graft.pretrain(
            data, start=f"untrained:checkpoint:{folder}", label="character", roles={"image": "drawing"}, plan=plan, seed=seed,
            recipe={"batch_size": BATCH}, progress=progress,
        )  # fmt: skip
    return made.backbone, time.process_time() - begun


def write(backbone, folder):
    """What `checkpoint:FOLDER` loads, with halves in the place of float32."""
    backbone.save(folder)
    tensors = _folders.read_tensors(Path(folder) / "model.safetensors")
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    _folders.write_tensors(Path(folder) / "model.safetensors", halves)
    config = _folders.read_json(Path(folder) / "config.json")
    _folders.write_json(Path(folder) / "config.json", {**config, "card": CARD})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--out", type=Path, default=ROOT / "graft/backbones/_shipped/doodle")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    pictures, _, characters, _ = background(told.shared)
    pictures, classes = turned(pictures, characters)
    more, labels = digits(told.shared)
    backbone, seconds = learn(pictures + more, np.concatenate([classes, classes.max() + 1 + labels]), told.epochs, told.seed, print)
    write(backbone, told.out)
    print(f"{told.out}: {seconds:.0f} s of processor")


if __name__ == "__main__":
    main()
