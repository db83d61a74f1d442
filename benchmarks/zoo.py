"""The candidates and the data sets on which transferability is measured. Never measures."""

import io
import zipfile

import numpy as np
import pandas as pd
from draw import images, texts
from PIL import Image

_MOBILENETS = {
    # name -> (own size in px, published score in percent, of what)
    "mobilenetv2_100_imagenet": (224, 71.3, "ImageNet-1k top-1"),
    "mobilenetv2_100_imagenet_qat": (224, 70.8, "ImageNet-1k top-1"),
    "mobilenetv2_100_inat_birds": (224, None, ""),
    "mobilenetv2_100_inat_insects": (224, None, ""),
    "mobilenetv1_025_128_imagenet": (128, 39.5, "ImageNet-1k top-1"),
    "mobilenetv1_050_160_imagenet": (160, 57.2, "ImageNet-1k top-1"),
    "mobilenetv1_075_192_imagenet": (192, 66.1, "ImageNet-1k top-1"),
    "tiny_darknet_imagenet": (224, 58.7, "ImageNet-1k top-1"),
}
_CIFAR = {
    "resnet20-12fca82f": ("cifar_resnet20", 91.78),
    "resnet32-d509ac18": ("cifar_resnet32", 92.78),
    "resnet44-014dd654": ("cifar_resnet44", 93.14),
    "resnet56-4bfd9763": ("cifar_resnet56", 93.62),
}


def candidates(modality, weights):
    """Short name -> (name that graft loads, published score or None, benchmark of that score). weights: folder of the weights."""
    return _image_candidates(weights) if modality == "image" else _text_candidates(weights)


def _image_candidates(weights):
    found = {}
    for name, (_, published, benchmark) in _MOBILENETS.items():
        for size in ("", "@96px"):
            found[name + size] = (f"checkpoint:{weights}/{name}{size}", published, benchmark)
    for file, (architecture, published) in _CIFAR.items():
        for size in ("", "@64px"):
            found[architecture + size] = (
                f"checkpoint:{weights}/cifar10_resnets/{file}.th@{architecture}{size}",
                published,
                "CIFAR-10 top-1",
            )
    found["doodlenet_quickdraw"] = (f"checkpoint:{weights}/doodlenet_quickdraw", None, "")
    found["untrained:mobilenetv2_100"] = (f"untrained:checkpoint:{weights}/mobilenetv2_100_imagenet@96px", None, "")
    found["untrained:cifar_resnet20"] = (f"untrained:{found['cifar_resnet20'][0]}", None, "")
    return found


def _text_candidates(weights):
    # Named as they are loaded, so that their rows serve whoever ranks the same.
    names = ["sentence:minilm", *(f"sentence:minilm@{layers}layers" for layers in range(1, 6)), "untrained:sentence:minilm"]
    found = {name: (name, None, "") for name in names}
    for name in ("glove_twitter_25d_12k", "word2vec_300d_1k"):
        found[name] = (f"vectors:{weights}/word_vectors/{name}.npz", None, "")
    return found


# Left out together: what was cut from one collection, or holds the same classes, says too much of its other parts.
COLLECTIONS = {"pacs_photo": "pacs", "pacs_cartoon": "pacs", "pacs_art_painting": "pacs", "mnist": "digits", "usps": "digits"}
# In the order in which they are measured, so that what a short measurement leaves is as unlike as can be.
DATA = {
    "image": (
        "hymenoptera", "eurosat_rgb", "pacs_cartoon", "usps", "cifar10", "caltech101", "omniglot_korean", "pacs_photo", "mnist",
        "pacs_art_painting",
    ),
    "text": ("trec6", "ag_news", "cr", "emotion", "banking77", "subj", "sms_spam", "mpqa", "irony", "sst2"),
}  # fmt: skip


def frame(name, shared, unpacked):
    """item (path or text), label, split ("train", "test", "all") of a data set. unpacked: folder that images are written to, once."""
    if name in DATA["text"]:
        return _texts(name, shared)
    if name.startswith("pacs_"):
        return _pacs(name.removeprefix("pacs_"), shared, unpacked)
    if name in ("mnist", "usps"):
        return _written(unpacked / name, lambda: _digits(shared / f"data/digits_mnist_usps/{name}.npz"))
    if name == "cifar10":
        return _written(unpacked / name, lambda: _cifar(shared / "data/cifar10/cifar10.parquet"))
    if name == "omniglot_korean":
        return _omniglot(shared / "data/omniglot/images_background_small1.zip", unpacked, "Korean")
    read = images(name, shared, unpacked)
    return read.assign(split=read["split"].replace("val", "test"))


def _texts(name, shared):
    if name == "sms_spam":
        read = pd.read_parquet(shared / "data/sms_spam/sms_spam.parquet").rename(columns={"text": "item"}).assign(split="all")
    else:
        read = texts(name, shared)
    # What stands in both parts would be known before it is judged.
    return read[read["item"].str.strip() != ""].drop_duplicates("item").reset_index(drop=True)


def _pacs(domain, shared, unpacked):
    """One domain of the archive domain/class/file."""
    read = images("pacs", shared, unpacked)
    return read[read["split"] == domain].assign(split="all").reset_index(drop=True)


def _omniglot(archive, unpacked, alphabet):
    """The characters of one alphabet as classes, twenty drawings each."""
    folder = unpacked / "omniglot"
    if not folder.exists():
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
    paths = sorted(path for path in folder.rglob(f"{alphabet}/*/*.png") if "__MACOSX" not in path.parts)
    return pd.DataFrame({"item": [str(path) for path in paths], "label": [path.parent.name for path in paths], "split": "all"})


def _digits(path):
    """(split, label, bytes of a PNG) of every image of an .npz of x_train, y_train, x_test, y_test."""
    arrays = np.load(path)
    for split in ("train", "test"):
        for pixels, label in zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            yield split, f"digit {label}", "png", file.getvalue()


def _cifar(path):
    """(split, label, bytes of a JPEG) of every image."""
    read = pd.read_parquet(path, columns=["split", "label", "image"])
    for split, label, image in zip(read["split"], read["label"], read["image"], strict=True):
        yield split, label, "jpg", image


def _written(folder, found):
    """item, label, split of images that are written to split/label/number, once. A folder that was cut short has no list."""
    listed = folder / "list.csv"
    if not listed.exists():
        rows = []
        for number, (split, label, ending, content) in enumerate(found()):
            path = folder / split / label / f"{number:05d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            rows.append({"item": str(path), "label": label, "split": split})
        pd.DataFrame(rows).to_csv(listed, index=False)
    return pd.read_csv(listed)
