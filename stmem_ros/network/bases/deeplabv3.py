"""DeepLabv3's head: atrous spatial pyramid pooling (Chen et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmem_ros.network.bases.layers import ConvBNReLU

# For features at a stride of 8.
DILATIONS = (1, 12, 24, 36)


class ASPPHead(nn.Module):
    """The image's mean and the last feature through convolutions of several dilations, fused into `channels`.

    A dilation of 1 is a 1x1 convolution, any other 3x3; all keep the last feature's stride, and the layer that fuses
    them is 3x3, as in mmsegmentation.
    """

    def __init__(self, inputs: int, stride: int, channels: int, dilations: tuple[int, ...] = DILATIONS) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.image = ConvBNReLU(inputs, channels)
        self.branches = nn.ModuleList(
            ConvBNReLU(inputs, channels, 1 if dilation == 1 else 3, dilation) for dilation in dilations
        )
        self.fuse = ConvBNReLU((1 + len(dilations)) * channels, channels, 3)

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = levels[-1]
        image = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.fuse(torch.cat([image, *(branch(x) for branch in self.branches)], 1))
