"""From a camera's pixels to the tensor a network sees: one definition for the robot and for evaluation."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.checkpoint import NETWORK_SIDES, Normalization
from stmem_ros.decode import ImageError

SMALLEST_SIDE = NETWORK_SIDES[0]
# Enlarging ends where the longer side is this many times `short_side`: a strip would take all memory there is.
LARGEST_ASPECT = 4
# What a network takes grows with its image, and whoever sends one chooses its size: 4K, and no more.
MOST_PIXELS = 2**23


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
    """An image `(H, W, 3)` at the size that a network sees."""
    return resize_to(image, network_size((image.shape[0], image.shape[1]), short_side))


def resize_to(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image `(H, W, 3)` at a size `(h, w)`: means over pixels (INTER_AREA), or bilinear if larger."""
    height, width = size
    if (height, width) == image.shape[:2]:
        return image
    interpolation = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


@functools.lru_cache(maxsize=8)
def resize_weights(before: int, after: int, device: torch.device) -> Tensor:
    """`(after, before)`: one side of `resize` as a matrix, means over pixels where it shrinks, else bilinear."""
    edges = torch.arange(after + 1, dtype=torch.float64) * before / after
    pixel = torch.arange(before, dtype=torch.float64)
    if after < before:
        share = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
        weights = share.clamp(min=0) * after / before
    else:
        place = ((edges[:-1] + edges[1:]) / 2 - 0.5).clamp(0, before - 1)
        weights = (1 - (place[:, None] - pixel).abs()).clamp(min=0)
    return weights.float().to(device)


def resize_on_device(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize` for pixels `(3, H, W)` uint8 where they are: `(3, h, w)` float32 of whole numbers, one off at most."""
    rows = resize_weights(pixels.shape[1], size[0], pixels.device)
    columns = resize_weights(pixels.shape[2], size[1], pixels.device)
    return (rows @ (pixels.float() @ columns.T)).round_()


class Preprocessor:
    """Resizes, uploads and normalises RGB images `(H, W, 3)` uint8 into `(1, 3, h, w)` on a device.

    For a GPU the camera's pixels go up as they are, from memory that is pinned once, and are resized there. A call
    raises ImageError where the network's image would have more than 2^23 pixels.
    """

    def __init__(
        self, normalization: Normalization, short_side: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.short_side = short_side
        self.device, self.dtype = device, dtype
        self._pinned: Tensor | None = None
        self._scale = (1 / torch.tensor(normalization.std, dtype=torch.float32, device=device)).view(3, 1, 1)
        self._offset = -torch.tensor(normalization.mean, dtype=torch.float32, device=device).view(3, 1, 1) * self._scale

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        size = network_size((image.shape[0], image.shape[1]), self.short_side)
        if size[0] * size[1] > MOST_PIXELS:
            raise ImageError(
                "size",
                f"the network would see it at {size[1]}x{size[0]} pixels, and takes at most {MOST_PIXELS}: "
                "set short_side to less",
            )
        if self.device.type == "cuda":
            pixels = self._upload(image).permute(2, 0, 1)
            scaled = pixels.float() if size == pixels.shape[1:] else resize_on_device(pixels, size)
            scaled = scaled[None].contiguous(memory_format=torch.channels_last)
            return torch.addcmul(self._offset, scaled, self._scale).to(self.dtype)
        image = resize_to(image, size)
        if not image.flags.writeable:
            image = image.copy()
        # The view keeps the channels last, as convolutions like them.
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        return torch.addcmul(self._offset, pixels.float(), self._scale).to(self.dtype)

    def _upload(self, image: NDArray[np.uint8]) -> Tensor:
        if self._pinned is None or self._pinned.shape != image.shape:
            self._pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
            self._uploaded = torch.cuda.Event()
        # The image before may still be on its way.
        self._uploaded.synchronize()
        np.copyto(self._pinned.numpy(), image)
        pixels = self._pinned.to(self.device, non_blocking=True)
        self._uploaded.record(torch.cuda.current_stream(self.device))
        return pixels
