"""Dilation8's head: maps of the front end through the context module (Yu & Koltun, ICLR 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Dilations of the 3x3 layers of the module that the original has for CamVid; a 1x1 classifier is its eighth layer.
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
# Widths of those layers as multiples of the number of maps: the paper's two forms (its table 1).
BASIC = (1, 1, 1, 1, 1, 1, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32)


class ContextHead(nn.Module):
    """The last feature as `maps` maps by a 1x1 layer, and these through 3x3 layers of growing dilation.

    In the original the maps are the classes' scores, C of them, and the basic form keeps C channels up to the 1x1
    layer that ends it (11 for CamVid). Here that last layer is the segmenter's classifier, which sees this head's
    output, `maps * widths[-1]` channels; a base network does not know the classes and MAR needs an even width. So the
    catalogue takes the large form over 16 maps: 32 C = 512 features, as many as the other bases give to STF and MAR.
    `maps=11, widths=BASIC` is the original's network for CamVid. Padding is zeros.

    Weights begin as the paper's identity (its equations 4 and 5): each layer hands its maps on, the mean over a map's
    channels, a little noise added.
    """

    def __init__(self, inputs: int, stride: int, maps: int, widths: tuple[int, ...] = LARGE) -> None:
        super().__init__()
        self.channels, self.stride = maps * widths[-1], stride
        self.scores = nn.Conv2d(inputs, maps, 1)
        nn.init.normal_(self.scores.weight, std=0.001)
        nn.init.zeros_(self.scores.bias)  # type: ignore[arg-type]
        layers: list[nn.Module] = []
        channels = maps
        for width, dilation in zip(widths, DILATIONS, strict=True):
            layer = nn.Conv2d(channels, maps * width, 3, padding=dilation, dilation=dilation)
            begin_as_identity(layer, maps)
            layers += [layer, nn.ReLU(inplace=True)]
            channels = maps * width
        self.context = nn.Sequential(*layers)

    def forward(self, levels: list[Tensor]) -> Tensor:
        return self.context(self.scores(levels[-1]))


@torch.no_grad()
def begin_as_identity(layer: nn.Conv2d, maps: int, noise: float = 0.01) -> None:
    """Each output channel the mean of the input channels that belong to the same of `maps` maps."""
    inputs, outputs = layer.in_channels, layer.out_channels
    nn.init.normal_(layer.weight, std=noise * maps / outputs)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    same = torch.arange(outputs)[:, None] * maps // outputs == torch.arange(inputs) * maps // inputs
    row, column = (size // 2 for size in layer.kernel_size)
    layer.weight[:, :, row, column] += same * (maps / inputs)
