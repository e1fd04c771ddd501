"""VGG-16 as the front end of Yu & Koltun (ICLR 2016): its last two poolings are dilations instead."""

from __future__ import annotations

from torch import Tensor, nn

from stmem_ros.network.bases.base import IMAGENET_MEAN, IMAGENET_STD

# (convolutions, channels, dilation, whether pooled after) of the five stages.
STAGES = ((2, 64, 1, True), (2, 128, 1, True), (3, 256, 1, True), (3, 512, 1, False), (3, 512, 2, False))
FC_CHANNELS = 4096


class VGG16(nn.Module):
    """Images `(N, 3, H, W)` to a list of two features at stride 8: of the fifth stage, and of fc7.

    The classifier's first two layers are convolutions: fc6 is 7x7, dilated by 4, and holds most of the weights; the
    dropout behind both is the original's. Unlike there, every convolution keeps the size by a border of zeros (the
    original has none and mirrors 186 pixels around the image), and poolings count the odd cell in, so that the grid
    is ceil(H / 8) x ceil(W / 8). `mean` and `std` are those of torchvision's weights, which fit: `features` has its
    numbering, a nothing where pool4 was, and fc6 and fc7 are its classifier's 0 and 3, seen as convolutions.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    channels = (STAGES[-1][1], FC_CHANNELS)
    strides = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for convolutions, outputs, dilation, pooled in STAGES:
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation),
                    nn.ReLU(inplace=True),
                ]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True) if pooled else nn.Identity())
        self.features = nn.Sequential(*layers[:-1])
        self.fc6 = nn.Conv2d(inputs, FC_CHANNELS, 7, padding=12, dilation=4)
        self.fc7 = nn.Conv2d(FC_CHANNELS, FC_CHANNELS, 1)
        self.after = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> list[Tensor]:
        fifth = self.features(images)
        return [fifth, self.after(self.fc7(self.after(self.fc6(fifth))))]
