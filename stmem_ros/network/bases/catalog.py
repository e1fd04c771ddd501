"""The base networks there are, by name: each a factory."""

from __future__ import annotations

import functools
from collections.abc import Callable

from stmem_ros.network.bases.base import BackboneWithHead, BaseNetwork
from stmem_ros.network.bases.efficientnet_lite import SCALES, EfficientNetLite
from stmem_ros.network.bases.pspnet import PSPHead
from stmem_ros.network.bases.pyramid import PyramidHead
from stmem_ros.network.bases.resnet import ResNet


def efficientnet_lite(variant: str) -> BaseNetwork:
    """EfficientNet-Lite at stride 16 under a pyramid head whose features lie at stride 8."""
    backbone = EfficientNetLite(variant)
    _, fine, middle, coarse = backbone.channels
    return BackboneWithHead(backbone, PyramidHead((fine, middle, coarse), backbone.strides[-2], 128), deep=-1)


def pspnet(depth: int, channels: int, deep_stem: bool = True) -> BaseNetwork:
    """PSPNet on a ResNet at stride 8."""
    backbone = ResNet(depth, deep_stem)
    return BackboneWithHead(backbone, PSPHead(backbone.channels[-1], backbone.strides[-1], channels))


# "b" is a ResNet with its own stem, as torchvision's classifiers have it; without, the deep stem of v1c.
BASES: dict[str, Callable[[], BaseNetwork]] = {
    **{f"efficientnet_{variant}": functools.partial(efficientnet_lite, variant) for variant in SCALES},
    "pspnet_resnet18": functools.partial(pspnet, 18, 128),
    "pspnet_resnet18b": functools.partial(pspnet, 18, 128, deep_stem=False),
    "pspnet_resnet50": functools.partial(pspnet, 50, 512),
    "pspnet_resnet50b": functools.partial(pspnet, 50, 512, deep_stem=False),
    "pspnet_resnet101": functools.partial(pspnet, 101, 512),
    "pspnet_resnet101b": functools.partial(pspnet, 101, 512, deep_stem=False),
}


def build_base(name: str) -> BaseNetwork:
    """A base network with random weights. Raises ValueError where no base has that name."""
    if name not in BASES:
        raise ValueError(f"base is {name!r}; it must be one of {', '.join(sorted(BASES))}")
    return BASES[name]()
