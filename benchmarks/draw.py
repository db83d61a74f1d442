"""The data of the benchmarks, drawn by seed: which items are trained on and which are judged. Never trains."""

import zipfile
from dataclasses import dataclass

import numpy as np
import pandas as pd

TEST_AT_MOST = 1000  # where a data set has no test part of its own


@dataclass(frozen=True)
class Drawn:
    """kind: "image" (items are paths) or "text". train, test: items. train_labels, test_labels: their class names."""

    kind: str
    train: list[str]
    train_labels: list[str]
    test: list[str]
    test_labels: list[str]


# name -> (source, labels drawn for each class; None: the whole training part)
DATA = {
    "hymenoptera": ("hymenoptera", None),
    "eurosat_rgb": ("eurosat_rgb", 20),
    "caltech101": ("caltech101", 8),
    "banking77": ("banking77", None),
    "banking77_10shot": ("banking77", 10),
    "banking77_8shot": ("banking77", 8),
    "trec6": ("trec6", None),
    "trec6_8shot": ("trec6", 8),
    "sst2": ("sst2", None),
    "sst2_8shot": ("sst2", 8),
    "cr_8shot": ("cr", 8),
    "ag_news_8shot": ("ag_news", 8),
    "emotion_8shot": ("emotion", 8),
}
IMAGES = ("hymenoptera", "eurosat_rgb", "caltech101")


def draw(name, seed, shared, unpacked):
    """The data called name. shared: folder that holds data/. unpacked: folder that archives of images are unpacked to, once."""
    source, per_class = DATA[name]
    frame = images(source, shared, unpacked) if source in IMAGES else texts(source, shared)
    splits = frame["split"].to_numpy()
    pool = np.flatnonzero(np.isin(splits, ["train", "all"]))
    train = pool if per_class is None else few(pool, frame["label"].to_numpy(), per_class, seed)
    test = np.flatnonzero(np.isin(splits, ["test", "val"]))
    if not len(test):
        # One fixed order of all items, so that the judged items are nearly the same for every seed.
        left = np.isin(np.arange(len(frame)), train, invert=True)
        test = np.array([item for item in np.random.default_rng(0).permutation(len(frame)) if left[item]][:TEST_AT_MOST])
    items, labels = frame["item"].to_numpy(), frame["label"].to_numpy()
    kind = "image" if source in IMAGES else "text"
    return Drawn(kind, items[train].tolist(), labels[train].tolist(), items[test].tolist(), labels[test].tolist())


def few(pool, labels, per_class, seed):
    """Places of per_class items of each class, out of the pool."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.choice(pool[labels[pool] == name], per_class, replace=False) for name in sorted(set(labels[pool]))])


def tiny(drawn, n_classes=3, per_class=5):
    """A few items of the first classes: to warm up on, and to try the benchmark out."""
    names = sorted(set(drawn.train_labels))[:n_classes]

    def first(items, labels):
        chosen = [place for name in names for place in [i for i, label in enumerate(labels) if label == name][:per_class]]
        return [items[place] for place in chosen], [labels[place] for place in chosen]

    return Drawn(drawn.kind, *first(drawn.train, drawn.train_labels), *first(drawn.test, drawn.test_labels))


def images(source, shared, unpacked):
    """item (path), label, split of a .zip of class/file or split/class/file."""
    folder = unpacked / source
    if not folder.exists():
        with zipfile.ZipFile(shared / f"data/{source}/{source}.zip") as archive:
            archive.extractall(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    splits = [path.parts[len(folder.parts)] if len(path.parts) - len(folder.parts) > 2 else "all" for path in paths]
    return pd.DataFrame({"item": [str(path) for path in paths], "label": [path.parent.name for path in paths], "split": splits})


def texts(source, shared):
    """item, label, split; every split but the training and the test part is left out."""
    tables = {"banking77": "banking77", "ag_news": "ag_news", **dict.fromkeys(("emotion", "irony", "offensive", "hate"), "tweeteval")}
    table = tables.get(source, "sentence_suite")
    frame = pd.read_parquet(shared / f"data/{table}/{table}.parquet")
    if "task" in frame:
        frame = frame[frame["task"] == source]
    if "title" in frame:
        frame = frame.assign(text=frame["title"] + " " + frame["text"])
    frame = frame[frame["split"].isin(["train", "test", "all"])]
    # Classes named by numbers would be read as a regression by whoever guesses the task.
    labels = frame["label"].map(lambda label: label if isinstance(label, str) else f"class {label}")
    return pd.DataFrame({"item": frame["text"], "label": labels, "split": frame["split"]}).reset_index(drop=True)
