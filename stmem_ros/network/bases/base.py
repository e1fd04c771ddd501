"""What every base network states of itself, and the usual one: a backbone under a head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class BaseNetwork(nn.Module):
    """Turns normalised images `(N, 3, H, W)` into features `(N, channels, ceil(H/stride), ceil(W/stride))`.

    `mean` and `std` are the normalisation of 0..255 RGB pixels it was made for. `deep_channels`
    is the width of a deep stage, which an auxiliary training loss may use. `backbone` is the part that comes from
    an ImageNet classifier.
    """

    channels: int
    stride: int
    deep_channels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    backbone: nn.Module

    def forward_with_deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and a deep stage of the backbone for an auxiliary loss."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_with_deep(images)[0]


class BackboneWithHead(BaseNetwork):
    """A backbone's features at several strides, made one by a head.

    The backbone states `channels` and `strides` of the features that it returns as a list, finest first, and its
    `mean` and `std`; the head takes that list and states its own `channels` and `stride`. An auxiliary loss looks at
    feature `deep` of the list.
    """

    def __init__(self, backbone: Any, head: Any, deep: int = -2) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.channels, self.stride = head.channels, head.stride
        self.mean, self.std = backbone.mean, backbone.std
        self._deep = deep
        self.deep_channels = backbone.channels[deep]

    def forward_with_deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.backbone(images)
        return self.head(levels), levels[self._deep]
