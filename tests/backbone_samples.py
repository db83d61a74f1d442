"""Small random networks of every family that graft cuts into stages, written to disk as hub weights are."""

import json

import numpy as np
import pytest
import torch

from graft import torchvision_ops

torchvision_ops.ensure()
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

# name -> (timm's architecture, arguments that make it small, side of the image, number of stages)
IMAGE_FAMILIES = {
    "VGG": ("vgg11_bn", {"mlp_ratio": 0.0625}, 32, 6),
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

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 120}
# name -> (transformers' model, its config class, small settings, number of stages)
TEXT_FAMILIES = {
    "BERT": ("BertModel", "BertConfig", {**SMALL, "max_position_embeddings": 64}, 5),
    "RoBERTa": ("RobertaModel", "RobertaConfig", {**SMALL, "max_position_embeddings": 64, "pad_token_id": 1}, 5),
    "ELECTRA": ("ElectraModel", "ElectraConfig", {**SMALL, "embedding_size": 16, "max_position_embeddings": 64}, 5),
    "MPNet": ("MPNetModel", "MPNetConfig", {**SMALL, "max_position_embeddings": 64, "pad_token_id": 1}, 5),
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
        scramble(network),
        folder,
        model_config={"pretrained_cfg": {**network.pretrained_cfg, **settings}, "model_args": arguments},
        safe_serialization=True,
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
    small = {} if "hidden_sizes" in settings else {**SMALL}
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
