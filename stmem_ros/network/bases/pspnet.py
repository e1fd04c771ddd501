"""PSPNet's head (Zhao et al., CVPR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmem_ros.network.bases.layers import ConvBNReLU, PyramidPooling


class PSPHead(nn.Module):
    """The backbone's last feature and its pyramid pooling, fused into `channels` by a 3x3 layer, at its stride."""

    def __init__(self, inputs: int, stride: int, channels: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.pooling = PyramidPooling(inputs, channels)
        self.fuse = ConvBNReLU(inputs + 4 * channels, channels, 3)

    def forward(self, levels: list[Tensor]) -> Tensor:
        return self.fuse(torch.cat([levels[-1], self.pooling(levels[-1])], 1))
