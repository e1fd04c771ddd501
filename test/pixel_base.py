"""A base network that tests can afford."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from stmem_ros.network import BaseNetwork


class PixelBase(BaseNetwork):
    """A base whose features are the normalised pixels and a channel of zeros: no weights, quick, predictable."""

    channels = 4
    stride = 1
    deep_channels = 4
    mean = (100.0, 110.0, 120.0)
    std = (50.0, 60.0, 70.0)

    def forward_with_deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = F.pad(images, (0, 0, 0, 0, 0, 1))
        return features, features
