"""The ResNets for 32 x 32 images, which timm and torchvision lack. Their names: cifar_resnet20, 32, 44, 56, 110."""

import re

import torch
from torch import nn

_NAME = re.compile(r"cifar_resnet(\d+)")
# The published weights were trained at 32 px with ImageNet's mean and deviation; "linear" was their classifier.
_DEFAULTS = {"input_size": (3, 32, 32), "crop_pct": 1.0, "interpolation": "bilinear", "classifier": "linear", "description": "CIFAR-10"}


def is_name(architecture: str) -> bool:
    """Whether this names one: the depth is 6 * blocks + 2."""
    found = _NAME.fullmatch(architecture)
    return found is not None and int(found[1]) % 6 == 2 and int(found[1]) > 2


class CifarResNet(nn.Module):
    """(n, 3, 32, 32) -> (n, 64): three groups of residual blocks of 16, 32, 64 channels; shortcuts have no weights (option A).

    Source: He et al. 2015, arXiv:1512.03385, section 4.2. Names of the weights as in github.com/akamaster/pytorch_resnet_cifar10.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.default_cfg = _DEFAULTS
        found = _NAME.fullmatch(architecture)
        assert found is not None
        blocks = (int(found[1]) - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _group(16, 16, blocks, 1)
        self.layer2 = _group(16, 32, blocks, 2)
        self.layer3 = _group(32, 64, blocks, 2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @property
    def stem(self) -> nn.Module:
        return nn.Sequential(self.conv1, self.bn1, nn.ReLU())

    @property
    def pool(self) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.pool(self.layer3(self.layer2(self.layer1(self.stem(batch)))))


def _group(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(channels_in, channels, stride), *(_Block(channels, channels, 1) for _ in range(blocks - 1)))


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.widen = stride, (channels - channels_in) // 2

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(maps)))))
        # Option A: every second position, and channels of zeros on both sides.
        shortcut = nn.functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.widen, self.widen))
        return torch.relu(out + shortcut)
