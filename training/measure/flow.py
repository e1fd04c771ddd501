"""Dense optical flow between two frames, and where it can be trusted."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Motion:
    """Where each pixel was in another frame, `(H, W, 2)` x and y, and whether that can be trusted, `(H, W)`."""

    place: NDArray[np.float32]
    visible: NDArray[np.bool_]


class DenseFlow:
    """DIS optical flow (Kroeger et al., ECCV 2016), of images of any size."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def place(self, now: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Where each pixel of `now` is in `other`, `(H, W, 2)` x and y; both are grey, `(H, W)`."""
        return pixel_grid(now.shape) + self._flow.calc(now, other, None)

    def motion(self, now: NDArray[np.uint8], other: NDArray[np.uint8]) -> Motion:
        """As `place`, checked forth and back.

        Not visible are pixels that are out of view in `other`, and those whose flow b is not undone by the flow f
        back from the place it leads to, |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5: they are occluded (Sundaram et al.,
        ECCV 2010).
        """
        back = self._flow.calc(now, other, None)
        forth = self._flow.calc(other, now, None)
        height, width = now.shape
        place = pixel_grid(now.shape) + back
        inside = (place >= 0).all(-1) & (place[..., 0] <= width - 1) & (place[..., 1] <= height - 1)
        returned = cv2.remap(forth, place[..., 0], place[..., 1], cv2.INTER_LINEAR)
        error = ((back + returned) ** 2).sum(-1)
        allowed = 0.01 * ((back**2).sum(-1) + (returned**2).sum(-1)) + 0.5
        return Motion(place, inside & (error <= allowed))


def pixel_grid(size: tuple[int, ...]) -> NDArray[np.float32]:
    """The place of each pixel, `(H, W, 2)` x and y."""
    height, width = size
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
