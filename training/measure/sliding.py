"""Sliding-window inference: a large image is segmented crop by crop, and logits are averaged where crops overlap."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from stmem_ros.network.segmenter import upsample
from stmem_ros.preprocess import SMALLEST_SIDE

Crop = tuple[slice, slice]
LARGEST_OVERLAP = 0.9


@dataclasses.dataclass(frozen=True)
class Slide:
    """How a window slides over an image at the network's resolution.

    Args:
        size: rows and columns of the window; where the image is smaller, the image's
        overlap: share of the window's side that lies in the next window too, 0 to 0.9
    """

    size: tuple[int, int]
    overlap: float = 1 / 3

    def __post_init__(self) -> None:
        if min(self.size) < SMALLEST_SIDE:
            height, width = self.size
            raise ValueError(
                f"slide is {height}x{width}; no side may be below {SMALLEST_SIDE}, the least for a network"
            )
        if not 0 <= self.overlap <= LARGEST_OVERLAP:
            raise ValueError(f"overlap is {self.overlap:g}; it must be a share of the window, 0 to {LARGEST_OVERLAP}")

    def crops(self, size: tuple[int, int]) -> list[Crop]:
        """Rows and columns of each window in an image of `size`; the last ones end with the image."""
        rows, columns = (self._along(length, window) for length, window in zip(size, self.size, strict=True))
        return [(row, column) for row in rows for column in columns]

    def _along(self, length: int, window: int) -> list[slice]:
        window = min(window, length)
        stride = max(round(window * (1 - self.overlap)), 1)
        steps = math.ceil((length - window) / stride)
        starts = (min(step * stride, length - window) for step in range(steps + 1))
        return [slice(start, start + window) for start in starts]


def merge(parts: list[Tensor], crops: list[Crop], size: tuple[int, int]) -> Tensor:
    """Low-resolution logits `(1, classes, h, w)` of each crop to `(1, classes, *size)`, means where crops overlap.

    Those of a single crop, which is the whole image, are returned as they are.
    """
    if len(crops) == 1:
        return parts[0]
    total = parts[0].new_zeros(*parts[0].shape[:2], *size)
    count = parts[0].new_zeros(size)
    for part, (rows, columns) in zip(parts, crops, strict=True):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        total[..., rows, columns] += upsample(part.contiguous(), (height, width))
        count[rows, columns] += 1
    return torch.div(total, count, out=total)
