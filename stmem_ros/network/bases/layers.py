"""Layers that several heads are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBNReLU(nn.Sequential):
    """Convolution that keeps the size, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class PyramidPooling(nn.Module):
    """Means over 1, 2x2, 3x3 and 6x6 regions of the image, each through a 1x1 layer and back at the input's size.

    `(N, inputs, H, W)` to `(N, len(bins) * channels, H, W)` (PSPNet; Zhao et al., CVPR 2017).
    """

    def __init__(self, inputs: int, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = bins
        self.levels = nn.ModuleList(ConvBNReLU(inputs, channels) for _ in bins)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        pooled = [level(F.adaptive_avg_pool2d(x, bins)) for bins, level in zip(self.bins, self.levels, strict=True)]
        return torch.cat([F.interpolate(part, size, mode="bilinear", align_corners=False) for part in pooled], 1)
