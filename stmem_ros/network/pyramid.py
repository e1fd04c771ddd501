"""The light default's head: pyramid pooling at stride 16, joined with finer features into stride 8."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBNReLU(nn.Sequential):
    """Convolution that keeps the size, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class PyramidPooling(nn.Module):
    """Adds context averaged over 1, 2x2, 3x3 and 6x6 regions of the image (PSPNet)."""

    def __init__(self, inputs: int, outputs: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.bins = bins
        self.local = ConvBNReLU(inputs, outputs)
        self.levels = nn.ModuleList(ConvBNReLU(inputs, outputs // len(bins)) for _ in bins)
        self.fuse = ConvBNReLU(2 * outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        parts = [self.local(x)]
        for bins, level in zip(self.bins, self.levels, strict=True):
            pooled = level(F.adaptive_avg_pool2d(x, bins))
            parts.append(F.interpolate(pooled, size, mode="bilinear", align_corners=False))
        return self.fuse(torch.cat(parts, 1))


class PyramidHead(nn.Module):
    """Features at strides 4, 8 and 16 to `channels` features at stride 8.

    Each stride-8 cell also sees its own 2x2 stride-4 cells as channels, so that a classifier
    may place thin things within it.
    """

    def __init__(self, stride4: int, stride8: int, stride16: int, channels: int) -> None:
        super().__init__()
        self.pooling = PyramidPooling(stride16, channels)
        self.detail = ConvBNReLU(stride4, 12)
        self.skip = ConvBNReLU(stride8, 48)
        self.fuse = ConvBNReLU(channels + 4 * 12 + 48, channels, 3)

    def forward(self, stride4: Tensor, stride8: Tensor, stride16: Tensor) -> Tensor:
        size = stride8.shape[-2:]
        context = F.interpolate(self.pooling(stride16), size, mode="bilinear", align_corners=False)
        detail = self.detail(stride4)
        # An odd stride-4 grid has half a cell more than the stride-8 grid: repeat its last row or column.
        missing = (2 * size[1] - detail.shape[-1], 2 * size[0] - detail.shape[-2])
        if any(missing):
            detail = F.pad(detail, (0, missing[0], 0, missing[1]), mode="replicate")
        detail = F.pixel_unshuffle(detail, 2)
        return self.fuse(torch.cat([context, detail, self.skip(stride8)], 1))
