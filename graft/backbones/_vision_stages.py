"""Where timm's image networks are cut into stages. One small function a family; an unknown family stays in one piece."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

Stages = list[tuple[str, nn.Module]]
_FAMILIES: dict[str, Callable[[Any], Stages]] = {}


def cut(network: nn.Module) -> Stages | None:
    """The stages of a timm network without its classifier, or None for a family that is not known here.

    Run in order on a batch (n, 3, h, w) they give what the network itself gives, (n, d). Every parameter is in one stage.
    """
    family = _FAMILIES.get(type(network).__name__)
    return family(network) if family else None


class Whole(nn.Module):
    """A network in one piece: the only stage of an unknown family."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        features = self.network(batch)
        assert isinstance(features, torch.Tensor), f"{type(self.network).__name__} gives {type(features).__name__}, expected a tensor"
        return features if features.ndim == 2 else features.flatten(2).mean(2)


def _family(*classes: str) -> Callable[[Callable[[Any], Stages]], Callable[[Any], Stages]]:
    def put(function: Callable[[Any], Stages]) -> Callable[[Any], Stages]:
        _FAMILIES.update(dict.fromkeys(classes, function))
        return function

    return put


def _numbered(name: str, modules: Iterable[nn.Module]) -> Stages:
    return [(f"{name}{number}", module) for number, module in enumerate(modules, 1)]


@_family("ResNet")
def _resnet(net: Any) -> Stages:
    stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool)
    return [("stem", stem), *_numbered("layer", (net.layer1, net.layer2, net.layer3, net.layer4)), ("pool", net.global_pool)]


@_family("CifarResNet")
def _cifar_resnet(net: Any) -> Stages:
    return [("stem", net.stem), *_numbered("layer", (net.layer1, net.layer2, net.layer3)), ("pool", net.pool)]


@_family("ResNetV2")
def _resnet_v2(net: Any) -> Stages:
    return [("stem", net.stem), *_numbered("stage", net.stages), ("pool", nn.Sequential(net.norm, net.head))]


@_family("RegNet")
def _regnet(net: Any) -> Stages:
    return [("stem", net.stem), *_numbered("stage", (net.s1, net.s2, net.s3, net.s4)), ("pool", nn.Sequential(net.final_conv, net.head))]


@_family("EfficientNet")  # also timm's class for MobileNet V1 and V2, MnasNet, FBNet
def _efficientnet(net: Any) -> Stages:
    head = nn.Sequential(net.conv_head, net.bn2, net.global_pool)
    return [("stem", nn.Sequential(net.conv_stem, net.bn1)), *_numbered("block", net.blocks), ("head", head)]


@_family("MobileNetV3")  # also LCNet and MobileNet V4
def _mobilenet_v3(net: Any) -> Stages:
    head = nn.Sequential(net.global_pool, net.conv_head, net.norm_head, net.act2, net.flatten)
    return [("stem", nn.Sequential(net.conv_stem, net.bn1)), *_numbered("block", net.blocks), ("head", head)]


@_family("VGG")
def _vgg(net: Any) -> Stages:
    blocks: list[list[nn.Module]] = [[]]
    for layer in net.features:
        blocks[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
    assert not blocks[-1], "VGG ends in a pooling layer"
    return [*_numbered("block", (nn.Sequential(*block) for block in blocks[:-1])), ("head", nn.Sequential(net.pre_logits, net.head))]


@_family("DenseNet")
def _densenet(net: Any) -> Stages:
    stages: Stages = []
    layers: list[nn.Module] = []
    # A dense block and the transition behind it are one stage; what comes before the first block is the stem.
    for name, layer in net.features.named_children():
        if name.startswith("denseblock") or name == "norm5":
            stages.append((f"block{len(stages)}" if stages else "stem", nn.Sequential(*layers)))
            layers = []
        layers.append(layer)
    return [*stages, ("pool", nn.Sequential(*layers, net.global_pool))]


@_family("InceptionV3")
def _inception_v3(net: Any) -> Stages:
    def part(*names: str) -> nn.Sequential:
        return nn.Sequential(*(getattr(net, name) for name in names))

    return [
        ("stem", part("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Pool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Pool2")),
        ("mixed5", part("Mixed_5b", "Mixed_5c", "Mixed_5d")),
        ("mixed6", part("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")),
        ("mixed7", part("Mixed_7a", "Mixed_7b", "Mixed_7c")),
        ("pool", net.global_pool),
    ]


@_family("ConvNeXt")
def _convnext(net: Any) -> Stages:
    return [("stem", net.stem), *_numbered("stage", net.stages), ("pool", nn.Sequential(net.norm_pre, net.head))]


@_family("SwinTransformer", "SwinTransformerV2")
def _swin(net: Any) -> Stages:
    return [("stem", net.patch_embed), *_numbered("stage", net.layers), ("pool", nn.Sequential(net.norm, net.head))]


_LATER = ("blocks", "norm", "attn_pool", "fc_norm", "head_drop", "head")


class _Tokens(nn.Module):
    """A vision transformer up to its blocks: patches, class token, positions."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        # The positions are added by the network's own method, which knows its many options. What runs later is taken out
        # of a shallow copy: the network itself stays whole, the weights are shared.
        self.net = copy.copy(net)
        self.net._modules = {name: module for name, module in net._modules.items() if name not in _LATER}

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        tokens = self.net._pos_embed(self.net.patch_embed(batch))
        return self.net.norm_pre(self.net.patch_drop(tokens))


class _PoolTokens(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.norm, self.fc_norm, self.attn_pool = net.norm, net.fc_norm, net.attn_pool
        self.pool_type, self.prefix, self.with_prefix = net.global_pool, net.num_prefix_tokens, net.pool_include_prefix

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        from timm.layers import global_pool_nlc

        tokens = self.norm(tokens)
        if self.attn_pool is not None:
            return self.fc_norm(self.attn_pool(tokens if self.with_prefix else tokens[:, self.prefix :]))
        pooled = global_pool_nlc(tokens, pool_type=self.pool_type, num_prefix_tokens=self.prefix, reduce_include_prefix=self.with_prefix)
        return self.fc_norm(pooled)


@_family("VisionTransformer")
def _vision_transformer(net: Any) -> Stages:
    return [("stem", _Tokens(net)), *_numbered("block", net.blocks), ("pool", _PoolTokens(net))]
