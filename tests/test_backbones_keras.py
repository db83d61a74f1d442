"""Networks written down as lists of Keras layers, held against their steps by hand; published weights against pictures."""

import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch.nn import functional

from graft.backbones import load_backbone
from graft.errors import GraftError

SHARED = Path(__file__).parents[2] / "shared"


def conv(name, filters, kernel=3, stride=1, padding="same", **more):
    return {
        "type": "Conv2D",
        "name": name,
        "filters": filters,
        "kernel_size": [kernel] * 2,
        "strides": [stride] * 2,
        "padding": padding,
        **more,
    }


def pool(name, padding):
    return {"type": "MaxPooling2D", "name": name, "pool_size": [2, 2], "strides": [2, 2], "padding": padding}


def average(name="average"):
    return {"type": "GlobalAveragePooling2D", "name": name}


# 12 px -> 6 (stride 2) -> 3 -> 2 ("same" keeps the odd edge).
COLOUR = [
    {"type": "InputLayer", "name": "input", "batch_input_shape": [None, 12, 12, 3]},
    conv("first", 4, stride=2, use_bias=False, activation="linear"),
    {"type": "BatchNormalization", "name": "norm", "epsilon": 0.25},
    {"type": "LeakyReLU", "name": "leaky", "alpha": 0.1},
    pool("pool1", "same"),
    conv("second", 6, activation="relu"),
    pool("pool2", "same"),
    conv("old_head", 5, kernel=1),
    average(),
]
GREY = [
    conv("first", 4, padding="valid", activation="relu", batch_input_shape=[None, 11, 11, 1]),
    pool("pool", "valid"),
    {"type": "Dropout", "name": "dropout"},
    {"type": "Flatten", "name": "flatten"},
    {"type": "Dense", "name": "hidden", "units": 8, "activation": "tanh"},
    {"type": "Dense", "name": "old_head", "units": 5, "activation": "softmax"},
]


def shapes(layers):
    return (
        {"first.weight": (4, 3, 3, 3), **{f"norm.{part}": (4,) for part in ("weight", "bias", "running_mean", "running_var")}}
        | {"second.weight": (6, 4, 3, 3), "second.bias": (6,), "old_head.weight": (5, 6, 1, 1), "old_head.bias": (5,)}
        if layers is COLOUR
        else {"first.weight": (4, 1, 3, 3), "first.bias": (4,), "hidden.weight": (8, 64), "hidden.bias": (8,)}
        | {"old_head.weight": (5, 8), "old_head.bias": (5,)}
    )


def write(folder, layers):
    """The folder of a network with random weights; returns its tensors."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(shape, generator=generator) - (0.0 if "var" in name else 0.4) for name, shape in shapes(layers).items()}
    folder.mkdir(exist_ok=True)
    (folder / "architecture.json").write_text(json.dumps(layers))
    save_file(tensors, folder / "model.safetensors")
    return tensors


def coloured(side, count=3):
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def by_hand(layers, tensors, images):
    """Features of pixels (n, h, w, 3), step by step."""
    maps = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    if layers is COLOUR:
        # 12 px at stride 2 need one more row and column: at the end, where Keras puts the odd one.
        maps = functional.conv2d(functional.pad(maps, (0, 1, 0, 1)), tensors["first.weight"], stride=2)
        mean, variance = tensors["norm.running_mean"], tensors["norm.running_var"]
        maps = (maps - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 0.25).sqrt()
        maps = maps * tensors["norm.weight"].view(-1, 1, 1) + tensors["norm.bias"].view(-1, 1, 1)
        maps = functional.max_pool2d(torch.where(maps > 0, maps, 0.1 * maps), 2)
        maps = functional.conv2d(maps, tensors["second.weight"], tensors["second.bias"], padding=1).relu()
        maps = functional.max_pool2d(maps, 2, ceil_mode=True)
        return maps.mean((2, 3))
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L"), np.float32) for image in images]) / 255
    maps = functional.conv2d(torch.from_numpy(grey)[:, None], tensors["first.weight"], tensors["first.bias"]).relu()
    maps = functional.max_pool2d(maps, 2)
    rows = maps.permute(0, 2, 3, 1).reshape(len(maps), -1)
    return torch.tanh(rows @ tensors["hidden.weight"].T + tensors["hidden.bias"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("layers", "stages"), [(COLOUR, ("block1", "block2", "head")), (GREY, ("block1", "head"))], ids=["colour", "grey"])
def test_a_list_of_layers_gives_what_its_steps_give_by_hand(layers, stages, tmp_path):
    tensors = write(tmp_path, layers)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    images = coloured(backbone.preprocessing["size_px"][0])
    batch = backbone.prepare(images)
    expected = by_hand(layers, tensors, images)
    with torch.inference_mode():
        # Pillow rounds a grey value to a whole number of 255, which moves a feature a little.
        torch.testing.assert_close(backbone(batch), expected, rtol=1e-5, atol=1e-5 if layers is COLOUR else 0.02)
        for stage in range(1, backbone.depth):
            torch.testing.assert_close(backbone(backbone(batch, stop=stage), start=stage), backbone(batch))
    assert backbone.stage_names == stages
    head = backbone.classifier()
    with torch.inference_mode():
        logits = expected @ tensors["old_head.weight"].flatten(1).T + tensors["old_head.bias"]
        torch.testing.assert_close(head(expected), logits)
    assert sorted(parameter.shape for group in backbone.groups() for parameter in group) == sorted(
        tensor.shape for name, tensor in tensors.items() if "old_head" not in name and "running" not in name
    )


@pytest.mark.parametrize("layers", [COLOUR, GREY], ids=["colour", "grey"])
def test_such_a_network_is_saved_loaded_and_reset(layers, tmp_path):
    write(tmp_path, layers)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    trained = backbone.fingerprint()
    backbone.reset(seed=1)
    assert backbone.fingerprint() != trained
    backbone.save(tmp_path / "saved")
    again = load_backbone(f"checkpoint:{tmp_path / 'saved'}")
    assert again.fingerprint() == backbone.fingerprint() and again.stage_names == backbone.stage_names
    assert again.classifier() is None
    random = load_backbone(f"untrained:checkpoint:{tmp_path}")
    backbone.reset(seed=0)
    assert random.fingerprint() == backbone.fingerprint()


def test_the_images_of_such_a_network_may_be_larger_where_no_dense_layer_counts_their_places(tmp_path):
    write(tmp_path / "colour", COLOUR)
    backbone = load_backbone(f"checkpoint:{tmp_path / 'colour'}@21px")
    assert backbone.prepare(coloured(30)).shape == (3, 3, 21, 21)
    backbone.save(tmp_path / "saved")
    assert load_backbone(f"checkpoint:{tmp_path / 'saved'}").fingerprint() == backbone.fingerprint()
    write(tmp_path / "grey", GREY)
    with pytest.raises(GraftError, match=r"@21px: the network cannot take images of 21 px .*made for 11 px"):
        load_backbone(f"checkpoint:{tmp_path / 'grey'}@21px")


def test_layers_that_do_not_end_in_a_vector_are_averaged(tmp_path):
    layers = [conv("first", 4, batch_input_shape=[None, 8, 8, 3], activation="relu")]
    (tmp_path / "architecture.json").write_text(json.dumps(layers))
    save_file({"first.weight": torch.ones(4, 3, 3, 3), "first.bias": torch.zeros(4)}, tmp_path / "model.safetensors")
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    assert backbone.width == 4 and backbone.stage_names == ("block1", "head") and backbone.classifier() is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "Conv2d"}, r"layer 1 \(first\): type 'Conv2d', expected one of InputLayer, .* Did you mean 'Conv2D'\?"),
        ({"activation": "swish"}, "activation 'swish', expected one of linear, relu"),
        ({"padding": "causal"}, "padding 'causal', expected valid or same"),
        ({"dilation_rate": [2, 2]}, r"dilation_rate \[2, 2\], expected \[1, 1\]"),
        ({"name": "norm"}, "two layers share a name"),
        ({"filters": 9}, "of another shape"),
    ],
)
def test_a_list_that_graft_cannot_build_is_explained(change, said, tmp_path):
    write(tmp_path, COLOUR)
    layers = [dict(layer) for layer in COLOUR]
    layers[1].update(change)
    (tmp_path / "architecture.json").write_text(json.dumps(layers))
    with pytest.raises(GraftError, match=said):
        load_backbone(f"checkpoint:{tmp_path}")


def test_a_list_without_its_input_shape_or_no_list_is_explained(tmp_path):
    write(tmp_path, COLOUR)
    (tmp_path / "architecture.json").write_text(json.dumps(COLOUR[1:]))
    with pytest.raises(GraftError, match=r"batch_input_shape \(\) of the first layer, expected \[null, height, width, channels\]"):
        load_backbone(f"checkpoint:{tmp_path}")
    (tmp_path / "architecture.json").write_text("{}")
    with pytest.raises(GraftError, match="holds a dict, expected a list"):
        load_backbone(f"checkpoint:{tmp_path}")


# Published weights


def needs(*parts):
    return pytest.mark.skipif(not SHARED.joinpath(*parts).exists(), reason=f"no {'/'.join(parts)} beside the repository")


@needs("weights", "tiny_darknet_imagenet")
@needs("data", "caltech101", "caltech101.zip")
def test_darknets_features_tell_things_apart_that_random_ones_do_not(tmp_path):
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    with zipfile.ZipFile(SHARED / "data" / "caltech101" / "caltech101.zip") as archive:
        kinds = ("accordion", "anchor", "ant", "lamp", "rooster", "watch")
        names = [next_ for kind in kinds for next_ in [n for n in archive.namelist() if n.startswith(f"{kind}/")][:12]]
        images = [Image.open(io.BytesIO(archive.read(name))) for name in names]
    labels = [name.partition("/")[0] for name in names]
    reached = {}
    for start in ("", "untrained:"):
        backbone = load_backbone(f"{start}checkpoint:{SHARED / 'weights' / 'tiny_darknet_imagenet'}@128px")
        with torch.inference_mode():
            features = backbone(backbone.prepare(images)).numpy()
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        reached[start] = cross_val_score(KNeighborsClassifier(1), features, labels, cv=4).mean()
    assert reached[""] > reached["untrained:"] + 0.25, reached


def sketches(rng):
    """(name, lines) of things that Quick, Draw! has, in a square of 256."""

    def corners(count, radius, turn, wobble=6.0):
        angles = turn + rng.normal(0, 0.05) + 2 * math.pi * np.arange(count) / count
        points = [tuple(128 + radius * np.array([math.cos(a), math.sin(a)]) + rng.normal(0, wobble, 2)) for a in angles]
        return [*points, points[0]]

    sides = [[(x, 20), (x, 236)] for x in (90, 166)]
    yield "circle", [corners(40, 100, 0, 2)]
    yield "square", [corners(4, 140, math.pi / 4)]
    yield "triangle", [corners(3, 120, -math.pi / 2)]
    yield "hexagon", [corners(6, 110, 0)]
    yield "zigzag", [[(20 + 24 * i, 128 + (-50 if i % 2 else 50) + rng.normal(0, 6)) for i in range(10)]]
    yield "ladder", sides + [[(90, 40 + 36 * i), (166, 40 + 36 * i)] for i in range(6)]
    yield "envelope", [[(20, 60), (236, 60), (236, 196), (20, 196), (20, 60)], [(20, 60), (128, 130), (236, 60)]]


@needs("weights", "doodlenet_quickdraw")
def test_doodlenet_knows_white_strokes_on_black_and_its_flattened_order():
    folder = SHARED / "weights" / "doodlenet_quickdraw"
    classes = (folder / "class_names.txt").read_text().split("\n")
    rng = np.random.default_rng(0)
    images, numbers = [], []
    for _ in range(8):
        for name, lines in sketches(rng):
            image = Image.new("L", (256, 256), 0)
            for line in lines:
                ImageDraw.Draw(image).line([(float(x), float(y)) for x, y in line], fill=255, width=14, joint="curve")
            images.append(image)
            numbers.append(classes.index(name))
    backbone = load_backbone(f"checkpoint:{folder}")
    with torch.inference_mode():
        logits = backbone.classifier()(backbone(backbone.prepare(images)))
        inverted = backbone.classifier()(backbone(backbone.prepare([Image.eval(image, lambda value: 255 - value) for image in images])))
    numbers = np.array(numbers)
    # Of 345 classes; with rows and channels in another order, or black on white, none is right.
    assert (logits.argmax(1).numpy() == numbers).mean() > 0.6
    assert (inverted.argmax(1).numpy() == numbers).mean() < 0.1


@pytest.mark.parametrize("folder", ["tiny_darknet_imagenet", "doodlenet_quickdraw"])
def test_published_weights_run_by_stages_and_survive_saving(folder, tmp_path):
    if not (SHARED / "weights" / folder).exists():
        pytest.skip(f"no weights/{folder} beside the repository")
    backbone = load_backbone(f"checkpoint:{SHARED / 'weights' / folder}")
    batch = backbone.prepare(coloured(64))
    backbone.save(tmp_path)
    assert len(load_file(tmp_path / "model.safetensors")) == len(backbone.state_dict())
    with torch.inference_mode():
        features = backbone(batch)
        assert torch.equal(load_backbone(f"checkpoint:{tmp_path}")(batch), features)
        for stage in range(1, backbone.depth):
            torch.testing.assert_close(backbone(backbone(batch, stop=stage), start=stage), features)
