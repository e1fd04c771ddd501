"""Parameters and multiply-accumulates of the published networks by hand, apart from the package's own code.

A formula that gives what was published for a classifier is then asked for the dilated network and its head.
"""

from __future__ import annotations

import dataclasses
import math

Size = tuple[int, int]


def cells(size: Size, stride: int) -> int:
    return math.ceil(size[0] / stride) * math.ceil(size[1] / stride)


@dataclasses.dataclass
class Tally:
    """What convolutions and linears hold and compute; a norm holds two numbers a channel and computes nothing here."""

    parameters: int = 0
    macs: int = 0

    def conv(
        self, inputs: int, outputs: int, kernel: int, cells: int, groups: int = 1, bias: bool = False, norm: bool = True
    ) -> Tally:
        weights = inputs // groups * outputs * kernel**2
        self.parameters += weights + bias * outputs + norm * 2 * outputs
        self.macs += weights * cells
        return self

    def linear(self, inputs: int, outputs: int) -> Tally:
        return self.conv(inputs, outputs, 1, 1, bias=True, norm=False)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.parameters + other.parameters, self.macs + other.macs)


RESNETS = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True)}
DILATED = (4, 8, 8, 8)


def resnet(depth: int, size: Size, strides: tuple[int, ...] = DILATED, deep_stem: bool = False) -> Tally:
    tally, half = Tally(), cells(size, 2)
    if deep_stem:
        tally.conv(3, 32, 3, half).conv(32, 32, 3, half).conv(32, 64, 3, half)
    else:
        tally.conv(3, 64, 7, half)
    blocks, bottlenecks = RESNETS[depth]
    inputs, before = 64, 4
    for width, count, stride in zip((64, 128, 256, 512), blocks, strides, strict=True):
        outputs = 4 * width if bottlenecks else width
        here = cells(size, stride)
        for block in range(count):
            if bottlenecks:
                tally.conv(inputs, width, 1, cells(size, before)).conv(width, width, 3, here)
                tally.conv(width, outputs, 1, here)
            else:
                tally.conv(inputs, width, 3, here).conv(width, width, 3, here)
            if block == 0 and (inputs != outputs or stride != before):
                tally.conv(inputs, outputs, 1, here)
            inputs, before = outputs, stride
    return tally


# Channels of the seven stages and blocks of each.
LITES = {
    "lite0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "lite2": ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}


def efficientnet_lite(variant: str, size: Size, strides: tuple[int, ...] = (2, 4, 8, 16, 16, 16, 16)) -> Tally:
    tally = Tally().conv(3, 32, 3, cells(size, 2))
    inputs, before = 32, 2
    for outputs, count, kernel, stride in zip(*LITES[variant], (3, 3, 5, 3, 5, 5, 3), strides, strict=True):
        for _ in range(count):
            hidden = inputs if stride == 2 else 6 * inputs
            if hidden != inputs:
                tally.conv(inputs, hidden, 1, cells(size, before))
            tally.conv(hidden, hidden, kernel, cells(size, stride), groups=hidden)
            tally.conv(hidden, outputs, 1, cells(size, stride))
            inputs, before = outputs, stride
    return tally


def vgg16(size: Size, strides: tuple[int, ...] = (1, 2, 4, 8, 8)) -> Tally:
    """The convolutions."""
    tally, inputs = Tally(), 3
    for outputs, count, stride in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strides, strict=True):
        for _ in range(count):
            tally.conv(inputs, outputs, 3, cells(size, stride), bias=True, norm=False)
            inputs = outputs
    return tally


def psp_head(inputs: int, channels: int, here: int) -> Tally:
    tally = Tally()
    for bins in (1, 2, 3, 6):
        tally.conv(inputs, channels, 1, bins**2)
    return tally.conv(inputs + 4 * channels, channels, 3, here)


def aspp_branches(inputs: int, channels: int, here: int) -> Tally:
    tally = Tally().conv(inputs, channels, 1, 1).conv(inputs, channels, 1, here)
    for _ in range(3):
        tally.conv(inputs, channels, 3, here)
    return tally


def aspp_head(inputs: int, channels: int, here: int) -> Tally:
    return aspp_branches(inputs, channels, here).conv(5 * channels, channels, 3, here)


def pyramid_head(fine: int, middle: int, coarse: int, channels: int, size: Size) -> Tally:
    here, deep = cells(size, 8), cells(size, 16)
    tally = Tally().conv(fine, 12, 1, cells(size, 4)).conv(middle, 48, 1, here)
    for bins in (1, 2, 3, 6):
        tally.conv(coarse, channels // 4, 1, bins**2)
    tally.conv(coarse, channels, 1, deep).conv(2 * channels, channels, 3, deep)
    return tally.conv(channels + 48 + 48, channels, 3, here)


def dilation8_head(maps: int, widths: tuple[int, ...], here: int) -> Tally:
    """fc6, fc7, the scores, and the context module without its classifier."""
    tally = Tally().conv(512, 4096, 7, here, bias=True, norm=False).conv(4096, 4096, 1, here, bias=True, norm=False)
    tally.conv(4096, maps, 1, here, bias=True, norm=False)
    for inputs, outputs in zip((1, *widths), widths, strict=False):
        tally.conv(inputs * maps, outputs * maps, 3, here, bias=True, norm=False)
    return tally


def uper_head(inputs: tuple[int, ...], channels: int, size: Size) -> Tally:
    tally = psp_head(inputs[-1], channels, cells(size, 32))
    for width, stride in zip(inputs, (4, 8, 16), strict=False):
        tally.conv(width, channels, 1, cells(size, stride)).conv(channels, channels, 3, cells(size, stride))
    return tally.conv(4 * channels, channels, 3, cells(size, 4))


def fcn_head(inputs: int, channels: int, classes: int, here: int) -> Tally:
    """A 3x3 layer and a classifier, as an auxiliary loss has."""
    return Tally().conv(inputs, channels, 3, here).conv(channels, classes, 1, here, bias=True, norm=False)
