"""Every family of networks that graft cuts into stages: built small and random, saved to disk, loaded as hub weights are.

The network itself, run by its own library, is the truth that the stages are held against.
"""

import json

import numpy as np
import pytest
import torch

from graft import torchvision_ops
from graft.backbones import load_backbone

torchvision_ops.ensure()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

# name -> (timm's architecture, arguments that make it small, side of the image, number of stages)
IMAGE_FAMILIES = {
    "VGG": ("vgg11_bn", {"num_features": 64}, 32, 6),
    "ResNet": ("resnet10t", {}, 64, 6),
    "ResNetV2": ("resnetv2_50", {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}, 64, 6),
    "RegNet": ("regnetx_002", {}, 64, 6),
    "Inception": ("inception_v3", {}, 96, 5),
    "EfficientNet": ("efficientnet_b0", {}, 64, 9),
    "MobileNet v1": ("mobilenetv1_100", {"channel_multiplier": 0.25}, 64, 7),
    "MobileNet v2": ("mobilenetv2_035", {}, 64, 9),
    "MobileNet v3": ("mobilenetv3_small_050", {}, 64, 8),
    "DenseNet": ("densenet121", {"block_config": (2, 2, 2, 2), "growth_rate": 8}, 64, 6),
    "ViT": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 3}, 32, 5),
    "ViT, mean of the patches": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "global_pool": "avg", "class_token": False}, 32, 4),
    "ViT, attention pooling": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "global_pool": "map"}, 32, 4),
    "ConvNeXt": ("convnext_atto", {}, 64, 6),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "embed_dim": 24, "depths": (1, 2), "num_heads": (2, 4), "window_size": 4},
        64,
        4,
    ),
}

_SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 120}
# name -> (transformers' model, its config class, small settings, number of stages)
TEXT_FAMILIES = {
    "BERT": ("BertModel", "BertConfig", {**_SMALL, "max_position_embeddings": 64}, 5),
    "RoBERTa": ("RobertaModel", "RobertaConfig", {**_SMALL, "max_position_embeddings": 64, "pad_token_id": 1}, 5),
    "ELECTRA": ("ElectraModel", "ElectraConfig", {**_SMALL, "embedding_size": 16, "max_position_embeddings": 64}, 5),
    "MPNet": ("MPNetModel", "MPNetConfig", {**_SMALL, "max_position_embeddings": 64, "pad_token_id": 1}, 5),
    "DistilBERT": ("DistilBertModel", "DistilBertConfig", {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "vocab_size": 120}, 5),
    "XLNet": ("XLNetModel", "XLNetConfig", {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64, "vocab_size": 120}, 6),
    "GPT-2": ("GPT2Model", "GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 120, "n_positions": 64}, 6),
    "T5 (encoder)": ("T5Model", "T5Config", {"d_model": 32, "num_layers": 3, "num_heads": 4, "d_kv": 8, "d_ff": 64, "vocab_size": 120}, 6),
}
HF_IMAGE_FAMILIES = {
    "ViT": ("ViTForImageClassification", "ViTConfig", {"image_size": 32, "patch_size": 8}, 5),
    "DINOv2": ("Dinov2Model", "Dinov2Config", {"image_size": 28, "patch_size": 14, "mlp_ratio": 2}, 5),
    "ResNet": ("ResNetForImageClassification", "ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, 4),
    "ConvNeXt": ("ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, 4),
}
WORDS = ["the", "a", "card", "money", "bank", "lost", "my", "where", "is", "please", "help", "now", "you", "me", "not", "can", "when"]
TEXTS = ["where is my card", "help", "", "the bank lost my money please help me now you can not when"]


def write_tokenizer(folder):
    """A tokenizer of twenty words with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def scramble(network):
    """Random biases and statistics too: many networks begin with zeros, which would hide a stage that was left out."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                noise = torch.rand(tensor.shape, generator=generator) * 0.2
                tensor.copy_(noise + (0.9 if name.endswith(("weight", "running_var", "gamma", "lambda1")) else -0.1))
    return network.eval()


def save_timm(family, folder):
    architecture, arguments, side, _ = IMAGE_FAMILIES[family]
    torch.manual_seed(0)
    if "channel_multiplier" in arguments:
        network = timm.models.efficientnet._gen_mobilenet_v1(architecture, num_classes=7, **arguments)
    else:
        network = timm.create_model(architecture, num_classes=7, **arguments)
    settings = {"input_size": (3, side, side), "crop_pct": 1.0}
    timm.models.save_for_hf(
        scramble(network), folder, model_config={"pretrained_cfg": {**network.pretrained_cfg, **settings}, "model_args": arguments}
    )
    return network


def save_text(family, folder):
    model, config, settings, _ = TEXT_FAMILIES[family]
    torch.manual_seed(0)
    network = scramble(getattr(transformers, model)(getattr(transformers, config)(**settings)))
    network.save_pretrained(folder)
    write_tokenizer(folder)
    return network


def save_hf_image(family, folder):
    model, config, settings, _ = HF_IMAGE_FAMILIES[family]
    small = {} if "hidden_sizes" in settings else {**_SMALL}
    small.pop("vocab_size", None)
    torch.manual_seed(0)
    network = scramble(getattr(transformers, model)(getattr(transformers, config)(**{**small, **settings})))
    network.save_pretrained(folder)
    side = settings.get("image_size", 32)
    size = {"do_resize": True, "size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor", **size}))
    return network


def pictures(side, n=3):
    return list(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def check_stages(backbone, batch, expected, stages):
    """What every family owes: its library's features, stages that can be entered anywhere, each parameter in one group."""
    with torch.inference_mode():
        features = backbone(batch)
        # Other memory layouts add in another order, and random weights make features of a million; hence the scale.
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))
        assert features.shape == (len(expected), backbone.width)
        for k in range(1, backbone.depth):
            torch.testing.assert_close(
                backbone(backbone(batch, stop=k), start=k), features, rtol=1e-5, atol=1e-6 * max(1.0, float(features.abs().max()))
            )
    assert backbone.depth == stages == len(set(backbone.stage_names))
    grouped = [id(parameter) for group in backbone.groups() for parameter in group]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for parameter in backbone.parameters()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_an_image_family_gives_its_librarys_features_stage_by_stage(family, tmp_path):
    network = save_timm(family, tmp_path)
    backbone = load_backbone(f"checkpoint:{tmp_path}")
    side, stages = IMAGE_FAMILIES[family][2:]
    batch = backbone.prepare(pictures(side))
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(batch), pre_logits=True)
    check_stages(backbone, batch, expected, stages)


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
    check_stages(backbone, batch, expected, TEXT_FAMILIES[family][3])
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
    check_stages(backbone, batch, pooled, HF_IMAGE_FAMILIES[family][3])


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
    config = transformers.AlbertConfig(**_SMALL, embedding_size=16, max_position_embeddings=64)
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
