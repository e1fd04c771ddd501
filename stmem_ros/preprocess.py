"""From a camera's pixels to the tensor a network sees: one definition for the robot and for evaluation."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.checkpoint import Normalization

SMALLEST_SIDE = 64
# Enlarging ends where the longer side is this many times `short_side`: a strip would take all memory there is.
LARGEST_ASPECT = 4


def network_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """`(height, width)` with the aspect of `size`, its lesser side `short_side` pixels (0: as it is).

    Small images are made larger too, their longer side up to 4 * `short_side`: a network knows things at the size
    that it saw them in. No side is below 64 pixels, the least a network takes.
    """
    scale = 1.0
    if short_side:
        scale = min(short_side / min(size), max(LARGEST_ASPECT * short_side / max(size), 1.0))
    height, width = (max(round(side * scale), SMALLEST_SIDE) for side in size)
    return height, width


def resize(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """An image `(H, W, 3)` at the size that a network sees: means over pixels (INTER_AREA), or bilinear if larger."""
    height, width = network_size((image.shape[0], image.shape[1]), short_side)
    if (height, width) == image.shape[:2]:
        return image
    interpolation = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


class Preprocessor:
    """Resizes, uploads and normalises RGB images `(H, W, 3)` uint8 into `(1, 3, h, w)` on a device."""

    def __init__(
        self, normalization: Normalization, short_side: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.short_side = short_side
        self.device, self.dtype = device, dtype
        self._scale = (1 / torch.tensor(normalization.std, dtype=torch.float32, device=device)).view(3, 1, 1)
        self._offset = -torch.tensor(normalization.mean, dtype=torch.float32, device=device).view(3, 1, 1) * self._scale

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        image = resize(image, self.short_side)
        if not image.flags.writeable:
            image = image.copy()
        # The view keeps the channels last, as convolutions like them.
        pixels = torch.from_numpy(image).to(self.device, non_blocking=True).permute(2, 0, 1)[None]
        return torch.addcmul(self._offset, pixels.float(), self._scale).to(self.dtype)
