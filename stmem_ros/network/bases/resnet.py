"""ResNet dilated to stride 8, with its own 7x7 stem or the deep one of ResNet-v1c (He et al., 2016; 2019)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases.base import IMAGENET_MEAN, IMAGENET_STD

# Blocks of the four stages, and whether these are bottlenecks.
DEPTHS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True)}
# (stride of a stage's first block, dilation of that block, dilation of the others). "Contracted": where a stage is
# dilated instead of strided, its first convolution keeps the dilation of the stage before.
STAGES = ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4))


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (the first strided and dilated) around a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, width, stride, dilation), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width * self.expansion, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1 to `width`, 3x3 (strided and dilated), 1x1 to four times `width`, around a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride, dilation), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x), inplace=True)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Nothing where shapes agree, else a 1x1 convolution and batch norm."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Images `(N, 3, H, W)` to a list of the four stages' features, at strides 4, 8, 8, 8.

    `depth` is a key of DEPTHS. The deep stem has three 3x3 convolutions for one 7x7. Weights begin as He's.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    strides = (4, 8, 8, 8)

    def __init__(self, depth: int, deep_stem: bool = True) -> None:
        super().__init__()
        blocks, bottlenecks = DEPTHS[depth]
        block = Bottleneck if bottlenecks else BasicBlock
        if deep_stem:
            self.stem = nn.Sequential(*stem_layer(3, 32, 2), *stem_layer(32, 32), *stem_layer(32, 64))
        else:
            self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        inputs, widths = 64, (64, 128, 256, 512)
        for width, count, (stride, first_dilation, dilation) in zip(widths, blocks, STAGES, strict=True):
            stage: list[nn.Module] = [block(inputs, width, stride, first_dilation)]
            inputs = width * block.expansion
            stage += [block(inputs, width, 1, dilation) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*stage))
        self.channels = tuple(width * block.expansion for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (BasicBlock, Bottleneck)):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.stem(images), 3, 2, 1)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def stem_layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
