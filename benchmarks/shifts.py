"""Pairs of domains: labelled rows of a source, rows and labels of a target. Never adapts.

Rows are computed once, and kept outside of the repository.
"""

import itertools
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter

# Of each side, drawn by seed.
AT_MOST = 800
# Of a data set of sentences, before sides are drawn.
_TEXTS = 4500


@dataclass(frozen=True)
class Pair:
    """name: source->target. collection: pairs that are left out together. domains: (n,) of the source, where there are several."""

    name: str
    collection: str
    source: np.ndarray
    labels: np.ndarray
    target: np.ndarray
    truth: np.ndarray
    task: str = "classification"
    domains: np.ndarray | None = None


REVIEWS = ("airline", "blog", "books", "dvd", "imdb")
PACS = ("art_painting", "cartoon", "photo")
SENTENCES = (
    ("sst2", "cr"), ("cr", "sst2"), ("sst2", "mpqa"), ("mpqa", "sst2"), ("cr", "mpqa"), ("mpqa", "cr"), ("hate", "offensive"),
    ("offensive", "hate"),
)  # fmt: skip
CORRUPTIONS = ("noise", "blur", "dark", "faded")
ADULT = {"work": ("workclass", "Private"), "sex": ("sex", "Male"), "race": ("race", "White")}
HOUSING = (("INLAND", "NEAR BAY"), ("INLAND", "<1H OCEAN"), ("<1H OCEAN", "INLAND"), ("<1H OCEAN", "NEAR BAY"))


def names():
    """Every pair, by collection."""
    found = {f"reviews-minilm {a}->{b}": "reviews" for a in REVIEWS for b in REVIEWS if a != b}
    found |= {f"reviews-tfidf {a}->{b}": "reviews" for a in REVIEWS for b in REVIEWS if a != b}
    found |= {f"pacs {a}->{b}": "pacs" for a in PACS for b in PACS if a != b}
    found |= {f"sentences {a}->{b}": "sentences" for a, b in SENTENCES}
    found |= {f"{data} clean->{kind}": data for data in ("cifar10", "eurosat_rgb") for kind in CORRUPTIONS}
    found |= {f"{data} even->uneven": data for data in ("trec6", "ag_news")}
    found |= {f"wisdm users->{number}": "wisdm" for number in range(6)}
    found |= {f"adult {kind}": "adult" for kind in ADULT}
    found |= {f"housing {a}->{b}": "housing" for a, b in HOUSING}
    # One of each collection, then the next: what a short measurement leaves is as unlike as can be.
    members = {kind: [name for name in found if found[name] == kind] for kind in found.values()}
    return {name: found[name] for turn in itertools.zip_longest(*members.values()) for name in turn if name}


def pair(name, seed, shared, work):
    """A pair as drawn by seed."""
    kind, _, sides = name.partition(" ")
    a, _, b = sides.partition("->")
    rng = np.random.default_rng(seed)
    collection = names()[name]
    if kind == "wisdm":
        return _wisdm(name, int(b), rng, shared)
    if kind == "adult":
        return _adult(name, *ADULT[a], rng, shared)
    if kind == "housing":
        return _housing(name, a, b, rng, shared)
    if kind.startswith("reviews"):
        source, target = (_reviews(one, kind.partition("-")[2], shared, work) for one in (a, b))
        if kind == "reviews-tfidf":
            source, target = _tfidf(source, target)
    elif kind == "pacs":
        source, target = (_pacs(one, shared, work) for one in (a, b))
    elif kind == "sentences":
        source, target = (_sentences(one, shared, work) for one in (a, b))
    elif kind in ("trec6", "ag_news"):
        rows, labels = _sentences(kind, shared, work)
        order = rng.permutation(len(rows))
        first, rest = order[: len(order) // 2], order[len(order) // 2 :]
        share = rng.dirichlet(np.full(len(np.unique(labels)), 0.7))
        weight = (share / np.bincount(labels))[labels[rest]]
        # As many as the scarcest class allows are drawn one by one, without replacement.
        rest = rng.choice(rest, min(AT_MOST, len(rest) // 3), replace=False, p=weight / weight.sum())
        source, target = (rows[first], labels[first]), (rows[rest], labels[rest])
    else:
        rows, labels, corrupted = _corrupted(kind, b, shared, work)
        order = rng.permutation(len(rows))
        first, rest = order[: len(order) // 2], order[len(order) // 2 :]
        source, target = (rows[first], labels[first]), (corrupted[rest], labels[rest])
    return _drawn(name, collection, source, target, rng)


def _drawn(name, collection, source, target, rng, task="classification", domains=None):
    """Four fifths of each side, at most AT_MOST items."""
    some = [rng.permutation(len(side[0]))[: min(AT_MOST, round(0.8 * len(side[0])))] for side in (source, target)]
    (rows, labels), (others, truth) = source, target
    parts = None if domains is None else domains[some[0]]
    return Pair(name, collection, rows[some[0]], labels[some[0]], others[some[1]], truth[some[1]], task, parts)


def _kept(work, name, compute):
    """Arrays that are computed once. compute: () -> dict of arrays."""
    path = Path(work) / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path.with_suffix(".part.npz"), **compute())
        path.with_suffix(".part.npz").rename(path)
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _minilm(texts):
    from graft.backbones import load_backbone
    from graft.features import extract

    return np.asarray(extract(load_backbone("sentence:minilm"), list(texts)))


def _reviews(domain, kind, shared, work):
    read = pd.read_parquet(Path(shared) / "data/reviews_multidomain/reviews_multidomain.parquet")
    read = read[read["domain"] == domain]
    if kind == "tfidf":
        return read["text"].to_numpy(), read["label"].to_numpy().astype(int)
    kept = _kept(work, f"reviews_{domain}", lambda: {"rows": _minilm(read["text"]), "labels": read["label"].to_numpy().astype(int)})
    return kept["rows"], kept["labels"]


def _tfidf(source, target):
    """Words and pairs of words of the source alone: its vocabulary and frequencies are what a source-only model has."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    weigh = TfidfVectorizer(ngram_range=(1, 2), min_df=3, max_features=1000, sublinear_tf=True).fit(source[0])
    rows = [weigh.transform(side[0]).toarray().astype(np.float32) for side in (source, target)]
    return (rows[0], source[1]), (rows[1], target[1])


def _network(shared, name, size_px):
    from graft.backbones import load_backbone

    return load_backbone(f"checkpoint:{Path(shared).resolve()}/weights/{name}@{size_px}px")


def _pacs(domain, shared, work):
    def compute():
        from graft.features import extract

        folder = Path(work) / "pacs"
        if not folder.exists():
            with zipfile.ZipFile(Path(shared) / "data/pacs/pacs.zip") as archive:
                archive.extractall(folder)
        paths = sorted(folder.rglob(f"{domain}/*/*.jpg"))
        labels = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
        return {"rows": extract(_network(shared, "mobilenetv2_100_imagenet", 224), [str(path) for path in paths]), "labels": labels}

    kept = _kept(work, f"pacs_{domain}", compute)
    return kept["rows"], kept["labels"]


def _sentences(task, shared, work):
    def compute():
        from draw import texts

        read = texts(task, Path(shared)).drop_duplicates("item")
        read = read.iloc[np.random.default_rng(0).permutation(len(read))[:_TEXTS]]
        return {"rows": _minilm(read["item"]), "labels": np.unique(read["label"], return_inverse=True)[1]}

    kept = _kept(work, task, compute)
    return kept["rows"], kept["labels"]


def _corrupted(data, kind, shared, work):
    """(rows of the images as they are, labels, rows of the same images corrupted)."""

    def images():
        from zoo import frame

        read = frame(data, Path(shared), Path(work) / "unpacked")
        read = read.iloc[np.random.default_rng(0).permutation(len(read))[:2000]]
        return read["item"].tolist(), np.unique(read["label"], return_inverse=True)[1]

    def compute(change):
        from graft.features import extract

        paths, labels = images()
        rng = np.random.default_rng(0)
        opened = [change(Image.open(path).convert("RGB"), rng) for path in paths]
        return {"rows": extract(_network(shared, "mobilenetv2_100_imagenet", 96), opened), "labels": labels}

    clean = _kept(work, f"{data}_clean", lambda: compute(lambda image, rng: image))
    return clean["rows"], clean["labels"], _kept(work, f"{data}_{kind}", lambda: compute(_CHANGES[kind]))["rows"]


def _noise(image, rng):
    pixels = np.asarray(image, float)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8))


_CHANGES = {
    "noise": _noise,
    "blur": lambda image, rng: image.filter(ImageFilter.GaussianBlur(image.width / 40)),
    "dark": lambda image, rng: ImageEnhance.Brightness(image).enhance(0.35),
    "faded": lambda image, rng: ImageEnhance.Contrast(image).enhance(0.3),
}


def _wisdm(name, number, rng, shared):
    """Windows of six users as the target, of the others as the source; which users is told by number, the draw by the seed."""
    read = pd.read_parquet(Path(shared) / "data/wisdm_activity/wisdm.parquet")
    users = np.random.default_rng(1).permutation(np.unique(read["user"]))
    there = read["user"].isin(users[number::6]).to_numpy()
    rows = read.drop(columns=["user", "activity"]).apply(pd.to_numeric, errors="coerce")
    rows = _scaled(rows.fillna(rows[~there].median()).to_numpy(np.float32), ~there)
    labels = np.unique(read["activity"], return_inverse=True)[1]
    owner = np.unique(read["user"], return_inverse=True)[1]
    return _drawn(name, "wisdm", (rows[~there], labels[~there]), (rows[there], labels[there]), rng, domains=owner[~there])


def _adult(name, column, value, rng, shared):
    """One group as the source, all others as the target."""
    read = pd.read_parquet(Path(shared) / "data/adult_census/adult.parquet").drop(columns=["split", "fnlwgt"])
    here = (read[column] == value).to_numpy()
    labels = np.unique(read.pop("income"), return_inverse=True)[1]
    # What tells the groups apart is no input.
    rows = pd.get_dummies(read.drop(columns=[column])).to_numpy(np.float32)
    rows = _scaled(rows, here)
    return _drawn(name, "adult", (rows[here], labels[here]), (rows[~here], labels[~here]), rng)


def _housing(name, a, b, rng, shared):
    read = pd.read_parquet(Path(shared) / "data/california_housing/housing.parquet")
    where, value = read.pop("ocean_proximity"), read.pop("median_house_value").to_numpy() / 1e5
    read = read.drop(columns=["longitude", "latitude"])
    read = read.assign(
        rooms=read["total_rooms"] / read["households"],
        bedrooms=read["total_bedrooms"] / read["total_rooms"],
        people=read["population"] / read["households"],
    )
    here, there = (where == a).to_numpy(), (where == b).to_numpy()
    rows = read.fillna(read[here].median()).to_numpy(float)
    # Counts and ratios have long tails.
    rows = _scaled(np.log1p(rows).astype(np.float32), here)
    return _drawn(name, "housing", (rows[here], value[here]), (rows[there], value[there]), rng, task="regression")


def _scaled(rows, here):
    """By mean and deviation of the source; columns that do not vary there are left out."""
    deviation = rows[here].std(axis=0)
    rows, deviation = rows[:, deviation > 1e-9], deviation[deviation > 1e-9]
    return (rows - rows[here].mean(axis=0)) / deviation
