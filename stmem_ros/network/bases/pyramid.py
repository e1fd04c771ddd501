"""The light default's head: pyramid pooling at stride 16, joined with finer features into stride 8."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases.layers import ConvBNReLU, PyramidPooling


class LightPyramidPooling(PyramidPooling):
    """Pyramid pooling beside narrowed local features, fused: `(N, inputs, H, W)` to `(N, outputs, H, W)`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs // 4)
        self.local = ConvBNReLU(inputs, outputs)
        self.fuse = ConvBNReLU(2 * outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.local(x), super().forward(x)], 1))


class PyramidHead(nn.Module):
    """The last three of a backbone's features, at strides s/2, s and 2s, to `channels` features at stride s.

    Each cell also sees its own 2x2 finer cells as channels, so that a classifier may place thin things within it.
    `inputs` are the widths of the three, finest first.
    """

    def __init__(self, inputs: tuple[int, int, int], stride: int, channels: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        fine, middle, coarse = inputs
        self.pooling = LightPyramidPooling(coarse, channels)
        self.detail = ConvBNReLU(fine, 12)
        self.skip = ConvBNReLU(middle, 48)
        self.fuse = ConvBNReLU(channels + 4 * 12 + 48, channels, 3)

    def forward(self, levels: list[Tensor]) -> Tensor:
        fine, middle, coarse = levels[-3:]
        size = middle.shape[-2:]
        context = F.interpolate(self.pooling(coarse), size, mode="bilinear", align_corners=False)
        detail = self.detail(fine)
        # An odd fine grid has half a cell more than the grid of the output: repeat its last row or column.
        missing = (2 * size[1] - detail.shape[-1], 2 * size[0] - detail.shape[-2])
        if any(missing):
            detail = F.pad(detail, (0, missing[0], 0, missing[1]), mode="replicate")
        detail = F.pixel_unshuffle(detail, 2)
        return self.fuse(torch.cat([context, detail, self.skip(middle)], 1))
