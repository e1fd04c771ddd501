"""Fusing frames by warping the neighbours' features along optical flow, in the manner of NetWarp."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.measure.baseline import Fusion
from training.measure.flow import DenseFlow


@dataclasses.dataclass(frozen=True)
class FlowAverage(Fusion):
    """The mean of a frame's features and its neighbours', these warped to it by dense flow.

    NetWarp (Gadde et al., ICCV 2017) learns a correction of the flow and the weights of the mean; nothing is learned
    here: DIS flow as it is, equal weights, occluded or not. Flow is computed between the images as the network sees
    them; features come by bilinear backward warping, from the nearest place in view where the flow leads out of it.

    Args:
        frames: length of the window
    """

    name: ClassVar[str] = "flow_average"
    frames: int = 3

    def fuse(self, features: list[Tensor], images: list[NDArray[np.uint8]], query: int) -> Tensor:
        """See `Fusion`."""
        flow, own = DenseFlow(), features[query]
        now = cv2.cvtColor(images[query], cv2.COLOR_RGB2GRAY)
        total = torch.zeros_like(own)
        for feature, image in zip(features, images, strict=True):
            if feature is own:
                total += own
            else:
                total += warp(feature, flow.place(now, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))
        return total / len(features)


def warp(features: Tensor, place: NDArray[np.float32]) -> Tensor:
    """Features `(1, C, h, w)` fetched from where `place` `(H, W, 2)`, x and y in the image's pixels, says they are."""
    height, width = place.shape[:2]
    # grid_sample wants -1 and 1 at the outer rims of the first and the last pixel.
    scaled = (2 * place + 1) / np.array([width, height], np.float32) - 1
    grid = torch.from_numpy(scaled).to(features).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, features.shape[-2:], mode="area").permute(0, 2, 3, 1)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)
