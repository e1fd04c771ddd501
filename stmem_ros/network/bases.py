"""Base networks: image segmentation networks without their classifier, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor, nn

from stmem_ros.network import efficientnet_lite
from stmem_ros.network.pyramid import PyramidHead


class BaseNetwork(nn.Module):
    """Turns normalised images `(N, 3, H, W)` into features `(N, channels, ceil(H/stride), ceil(W/stride))`.

    `mean` and `std` are the normalisation of 0..255 RGB pixels it was made for. `deep_channels`
    is the width of the backbone's last stage, which an auxiliary training loss may use.
    """

    channels: int
    stride: int
    deep_channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def forward_with_deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and the backbone's last stage for an auxiliary loss."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_with_deep(images)[0]


class EfficientNetLitePyramid(BaseNetwork):
    """EfficientNet-Lite at stride 16 under a pyramid-pooling head whose features lie at stride 8."""

    channels = 128
    stride = 8
    mean = efficientnet_lite.MEAN
    std = efficientnet_lite.STD

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.backbone = efficientnet_lite.EfficientNetLite(variant)
        _, stride4, stride8, stride16 = self.backbone.channels
        self.deep_channels = stride16
        self.head = PyramidHead(stride4, stride8, stride16, self.channels)

    def forward_with_deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        _, stride4, stride8, stride16 = self.backbone(images)
        return self.head(stride4, stride8, stride16), stride16


BASES: dict[str, Callable[[], BaseNetwork]] = {
    f"efficientnet_{variant}": functools.partial(EfficientNetLitePyramid, variant)
    for variant in efficientnet_lite.SCALES
}


def build_base(name: str) -> BaseNetwork:
    """A base network with random weights. Raises ValueError where no base has that name."""
    if name not in BASES:
        raise ValueError(f"base is {name!r}; it must be one of {', '.join(sorted(BASES))}")
    return BASES[name]()
