"""UPerNet's head: a feature pyramid under pyramid pooling (Xiao et al., ECCV 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases.layers import ConvBNReLU, PyramidPooling


def resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class UPerHead(nn.Module):
    """All of a backbone's features, of widths `inputs`, finest first, to `channels` features at the first's `stride`.

    The last one through pyramid pooling; from there down, each is added to the next finer one; all are fused.
    """

    def __init__(self, inputs: tuple[int, ...], stride: int, channels: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.pooling = PyramidPooling(inputs[-1], channels)
        self.top = ConvBNReLU(inputs[-1] + 4 * channels, channels, 3)
        self.laterals = nn.ModuleList(ConvBNReLU(width, channels) for width in inputs[:-1])
        self.smooth = nn.ModuleList(ConvBNReLU(channels, channels, 3) for _ in inputs[:-1])
        self.fuse = ConvBNReLU(len(inputs) * channels, channels, 3)

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = self.top(torch.cat([levels[-1], self.pooling(levels[-1])], 1))
        outputs = [x]
        finest_last = list(zip(levels[:-1], self.laterals, self.smooth, strict=True))[::-1]
        for level, lateral, smooth in finest_last:
            level = lateral(level)
            x = level + resize(x, level)
            outputs.insert(0, smooth(x))
        return self.fuse(torch.cat([resize(output, outputs[0]) for output in outputs], 1))
