"""The base networks there are, by name: each a factory."""

from __future__ import annotations

import functools
from collections.abc import Callable

from stmem_ros.network.bases.base import BackboneWithHead, BaseNetwork
from stmem_ros.network.bases.deeplabv3 import ASPPHead
from stmem_ros.network.bases.dilation8 import LARGE, ContextHead
from stmem_ros.network.bases.efficientnet_lite import SCALES, EfficientNetLite
from stmem_ros.network.bases.pspnet import PSPHead
from stmem_ros.network.bases.pyramid import PyramidHead
from stmem_ros.network.bases.resnet import ResNet
from stmem_ros.network.bases.swin import SwinTransformer
from stmem_ros.network.bases.timm_backbone import PREFIX, timm_base
from stmem_ros.network.bases.upernet import UPerHead
from stmem_ros.network.bases.vgg import VGG16


def efficientnet_lite(variant: str) -> BaseNetwork:
    """EfficientNet-Lite at stride 16 under a pyramid head whose features lie at stride 8."""
    backbone = EfficientNetLite(variant)
    _, fine, middle, coarse = backbone.channels
    return BackboneWithHead(backbone, PyramidHead((fine, middle, coarse), backbone.strides[-2], 128), deep=-1)


def pspnet(depth: int, channels: int, deep_stem: bool = True) -> BaseNetwork:
    """PSPNet on a ResNet at stride 8."""
    backbone = ResNet(depth, deep_stem)
    return BackboneWithHead(backbone, PSPHead(backbone.channels[-1], backbone.strides[-1], channels))


def deeplabv3(depth: int, channels: int, deep_stem: bool = True) -> BaseNetwork:
    """DeepLabv3 on a ResNet at stride 8."""
    backbone = ResNet(depth, deep_stem)
    return BackboneWithHead(backbone, ASPPHead(backbone.channels[-1], backbone.strides[-1], channels))


def dilation8(maps: int, widths: tuple[int, ...] = LARGE) -> BaseNetwork:
    """Dilation8 on VGG-16 at stride 8; an auxiliary loss looks at VGG's fifth stage."""
    backbone = VGG16()
    return BackboneWithHead(backbone, ContextHead(backbone.channels[-1], backbone.strides[-1], maps, widths))


def upernet_swin(size: str, window: int, channels: int = 512) -> BaseNetwork:
    """UPerNet on a Swin Transformer, its features at stride 4."""
    backbone = SwinTransformer(size, window)
    return BackboneWithHead(backbone, UPerHead(backbone.channels, backbone.strides[0], channels))


# "b" is a ResNet with its own stem, as torchvision's classifiers have it; without, the deep stem of v1c.
BASES: dict[str, Callable[[], BaseNetwork]] = {
    **{f"efficientnet_{variant}": functools.partial(efficientnet_lite, variant) for variant in SCALES},
    "pspnet_resnet18": functools.partial(pspnet, 18, 128),
    "pspnet_resnet18b": functools.partial(pspnet, 18, 128, deep_stem=False),
    "pspnet_resnet50": functools.partial(pspnet, 50, 512),
    "pspnet_resnet50b": functools.partial(pspnet, 50, 512, deep_stem=False),
    "pspnet_resnet101": functools.partial(pspnet, 101, 512),
    "pspnet_resnet101b": functools.partial(pspnet, 101, 512, deep_stem=False),
    "deeplabv3_resnet101": functools.partial(deeplabv3, 101, 512),
    "deeplabv3_resnet101b": functools.partial(deeplabv3, 101, 512, deep_stem=False),
    "dilation8_vgg16": functools.partial(dilation8, 16),
    "upernet_swin_t": functools.partial(upernet_swin, "tiny", 7),
    "upernet_swin_b": functools.partial(upernet_swin, "base", 7),
    "upernet_swin_b_window12": functools.partial(upernet_swin, "base", 12),
}


def build_base(name: str) -> BaseNetwork:
    """A base network with random weights: one of BASES, or any of timm's backbones as `timm:NAME`.

    Raises ValueError where no base has that name, or timm lacks it.
    """
    if name.startswith(PREFIX):
        return timm_base(name.removeprefix(PREFIX))
    if name not in BASES:
        raise ValueError(f"base is {name!r}; it must be one of {', '.join(sorted(BASES))}, or {PREFIX}NAME of timm")
    return BASES[name]()
