"""Test images without files: a smooth random picture that drifts."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# What a picture is made of: cells of so many pixels, a quarter as strong where they are four times smaller.
COARSEST, FINEST = 64, 4
DRIFT = (1, 3)


class Film:
    """Frames `(H, W, 3)` RGB uint8 of one picture, which moves down 1 and right 3 pixels a frame and comes round."""

    def __init__(self, size: tuple[int, int], seed: int = 0) -> None:
        self.picture = picture(size, seed)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(np.roll(self.picture, (DRIFT[0] * number, DRIFT[1] * number), (0, 1)))


def picture(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A random picture `(H, W, 3)` with large and small things in it, over the whole range 0..255."""
    random = np.random.default_rng(seed)
    height, width = size
    total = np.zeros((height, width, 3), np.float32)
    cell = COARSEST
    while cell >= FINEST:
        grid = (-(-height // cell) + 1, -(-width // cell) + 1, 3)
        noise = random.normal(scale=cell, size=grid).astype(np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        cell //= 4
    low, high = np.percentile(total, [1, 99])
    return ((total - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
