"""Every family of networks that graft cuts into stages: built small and random, saved to disk, loaded as hub weights are.

The network itself, run by its own library, is the truth that the stages are held against.
"""

import pickle
import shutil

import pytest
import torch
from backbone_samples import (
    HF_IMAGE_FAMILIES,
    IMAGE_FAMILIES,
    SMALL,
    TEXT_FAMILIES,
    TEXTS,
    pictures,
    save_hf_image,
    save_text,
    save_timm,
    timm,
    transformers,
    write_tokenizer,
)

from graft.backbones import load_backbone


def within(expected):
    """Other memory layouts add in another order, and random weights make features of a million; hence the scale."""
    return {"rtol": 1e-4, "atol": 1e-5 * max(1.0, float(expected.abs().max()))}


def broken_promises(backbone, batch):
    """What every family owes besides its library's features, where it is not kept, in words."""
    broken = []
    with torch.inference_mode():
        features = backbone(batch)
        allowed = 1e-6 * max(1.0, float(features.abs().max()))
        for k in range(1, backbone.depth):
            entered = backbone(backbone(batch, stop=k), start=k)
            if not torch.allclose(entered, features, rtol=1e-5, atol=allowed):
                broken.append(f"entered at stage {k}, features differ by up to {float((entered - features).abs().max())}")
    if features.shape != (len(features), backbone.width):
        broken.append(f"features are {tuple(features.shape)}, expected (n, {backbone.width})")
    if len(set(backbone.stage_names)) < backbone.depth:
        broken.append(f"stages share a name: {backbone.stage_names}")
    grouped = [id(parameter) for group in backbone.groups() for parameter in group]
    if len(grouped) != len(set(grouped)) or set(grouped) != {id(parameter) for parameter in backbone.parameters()}:
        broken.append("a parameter is in no group, or in two")
    return broken


def features_of(backbone, batch):
    with torch.inference_mode():
        return backbone(batch)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_an_image_family_gives_its_librarys_features_stage_by_stage(family, tmp_path):
    network = save_timm(family, tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    side, stages = IMAGE_FAMILIES[family][2:]
    batch = backbone.prepare(pictures(side))
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(batch), pre_logits=True)
    torch.testing.assert_close(features_of(backbone, batch), expected, **within(expected))
    assert backbone.depth == stages
    assert broken_promises(backbone, batch) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_text_family_gives_its_librarys_features_stage_by_stage(family, tmp_path):
    network = save_text(family, tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    batch = backbone.prepare(TEXTS)
    with torch.inference_mode():
        hidden = getattr(network, "encoder", network)(**batch) if family.startswith("T5") else network(**batch)
        mask = batch["attention_mask"].unsqueeze(-1)
        expected = (hidden.last_hidden_state * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(features_of(backbone, batch), expected, **within(expected))
    assert backbone.depth == TEXT_FAMILIES[family][3]
    assert broken_promises(backbone, batch) == []
    with torch.inference_mode():
        alone = torch.cat([backbone(backbone.prepare([text])) for text in TEXTS])
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5, msg="padding changes the features")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", HF_IMAGE_FAMILIES)
def test_an_image_family_of_transformers_gives_its_librarys_features_stage_by_stage(family, tmp_path):
    network = save_hf_image(family, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    batch = backbone.prepare(pictures(40))
    with torch.inference_mode():
        output = getattr(network, network.base_model_prefix, network)(pixel_values=batch)
        pooled = output.last_hidden_state[:, 0] if output.last_hidden_state.ndim == 3 else output.pooler_output.flatten(1)
    torch.testing.assert_close(features_of(backbone, batch), pooled, **within(pooled))
    assert backbone.depth == HF_IMAGE_FAMILIES[family][3]
    assert broken_promises(backbone, batch) == []


@pytest.mark.parametrize(
    ("save", "family"),
    [(save_timm, family) for family in ("MobileNet v1", "ViT", "DenseNet")]
    + [(save_text, family) for family in TEXT_FAMILIES]
    + [(save_hf_image, family) for family in HF_IMAGE_FAMILIES],
)
def test_a_saved_backbone_loads_to_the_same_features(save, family, tmp_path):
    save(family, tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    backbone.reset(seed=5)
    backbone.save(tmp_path / "saved")
    again = load_backbone(f"checkpoint:{tmp_path / 'saved'}")
    items = TEXTS if backbone.modality == "text" else pictures(50)
    with torch.inference_mode():
        torch.testing.assert_close(again(again.prepare(items)), backbone(backbone.prepare(items)), rtol=0, atol=1e-6)
    assert again.fingerprint() == backbone.fingerprint()
    assert again.stage_names == backbone.stage_names
    assert again.preprocessing == backbone.preprocessing
    assert not list((tmp_path / "saved").glob(".*")), "a temporary file was left behind"


@pytest.mark.parametrize(
    ("save", "family"), [(save_timm, "ViT"), (save_text, "BERT"), (save_text, "T5 (encoder)"), (save_hf_image, "ResNet")]
)
def test_a_pickled_backbone_is_the_same_and_needs_no_file(save, family, tmp_path):
    save(family, tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    backbone.reset(seed=5)
    again = pickle.loads(pickle.dumps(backbone))
    shutil.rmtree(tmp_path)
    assert again.fingerprint() == backbone.fingerprint() and (again.name, again.card) == (backbone.name, backbone.card)
    items = TEXTS if backbone.modality == "text" else pictures(50)
    torch.testing.assert_close(features_of(again, again.prepare(items)), features_of(backbone, backbone.prepare(items)), rtol=0, atol=1e-6)
    for each in (again, backbone):
        each.reset(seed=6)
    assert again.fingerprint() == backbone.fingerprint()
    again.save(tmp_path)
    assert load_backbone(f"checkpoint:{tmp_path}").fingerprint() == again.fingerprint()
    theirs, ours = backbone.classifier(), again.classifier()
    assert type(ours) is type(theirs) and (ours is None or torch.equal(ours.weight, theirs.weight)) and (ours is None) == (family != "ViT")


@pytest.mark.parametrize("seed", [0, 1])
def test_reset_gives_the_weights_of_a_seed_and_leaves_the_global_generator_alone(seed, tmp_path):
    save_timm("MobileNet v1", tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    trained = backbone.fingerprint()
    torch.manual_seed(9)
    backbone.reset(seed)
    drawn, first = torch.rand(1), backbone.fingerprint()
    torch.manual_seed(9)
    assert drawn == torch.rand(1)
    backbone.reset(seed)
    assert backbone.fingerprint() == first != trained
    backbone.reset(seed + 10)
    assert backbone.fingerprint() != first


def test_a_frozen_batchnorm_does_not_move_and_a_trained_one_does(tmp_path):
    save_timm("MobileNet v2", tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    batch = backbone.prepare(pictures(64, 8))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.set_trainable([number >= 5 for number in range(backbone.depth)])
    backbone(batch).sum().backward()
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(int(name.split(".")[1]) >= 5 for name in moved)
    assert all((parameter.grad is not None) == (number >= 5) for number, group in enumerate(backbone.groups()) for parameter in group)


def test_gradients_reach_the_shared_position_biases_of_t5(tmp_path):
    save_text("T5 (encoder)", tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    backbone.set_trainable([False, True, *[False] * (backbone.depth - 2)])
    backbone(backbone.prepare(TEXTS)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.groups()[1])
    assert all(parameter.grad is None for parameter in backbone.groups()[0])


def test_an_unknown_image_family_is_one_stage_and_says_so(tmp_path):
    network = timm.create_model("ghostnet_050", num_classes=7).eval()
    timm.models.save_for_hf(network, tmp_path)
    with pytest.warns(UserWarning, match="one layer group"):
        backbone = load_backbone(f"checkpoint:{tmp_path}")
    assert backbone.stage_names == ("network",) and backbone.depth == 1
    batch = backbone.prepare(pictures(64))
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(batch), pre_logits=True)
        torch.testing.assert_close(backbone(batch), expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_text_family_is_one_stage_and_says_so(tmp_path):
    config = transformers.AlbertConfig(**SMALL, embedding_size=16, max_position_embeddings=64)
    transformers.AlbertModel(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.warns(UserWarning, match="one layer group"):
        backbone = load_backbone(f"hf:{tmp_path}")
    assert backbone.stage_names == ("network", "pool")
    assert backbone(backbone.prepare(TEXTS)).shape == (4, 32)


def test_a_family_member_that_is_built_otherwise_is_noticed(tmp_path, monkeypatch):
    from graft.backbones import _vision_stages

    save_timm("MobileNet v1", tmp_path)
    monkeypatch.setitem(_vision_stages._FAMILIES, "EfficientNet", lambda net: _vision_stages._efficientnet(net)[:-1])
    with pytest.warns(UserWarning, match="one layer group"):
        assert load_backbone(f"checkpoint:{tmp_path}").depth == 1
