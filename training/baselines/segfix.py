"""Mending labels at boundaries by offsets into the interior, in the manner of SegFix."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.measure.baseline import Refinement


@dataclasses.dataclass(frozen=True)
class SegFix(Refinement):
    """Pixels near a boundary take what was predicted a few pixels further inside their object.

    SegFix (Yuan et al., ECCV 2020) learns from images where boundaries are and which way the interior lies. Nothing is
    learned here: boundaries are the image's Canny edges, and the way is straight away from the nearest one, up to
    `reach` pixels and not beyond the middle between two edges, so that a narrow object is not stepped across. Where
    the pixel there has another label, its logits are taken.

    So a label's boundary moves onto an image edge at most `reach` pixels from it. What this cannot do: tell an
    object's edge from one of texture or shadow (a kerb's two lines, say), mend a boundary where the image has no
    edge, or one further off. The authors' trained offsets are better than these.

    Args:
        reach: longest offset in pixels of the image as it is
        blur: standard deviation in pixels of the Gaussian before edges are looked for
        low: Canny's lower threshold, of gradients of grey values 0 to 255
        high: Canny's upper threshold
    """

    name: ClassVar[str] = "segfix"
    reach: int = 3
    blur: float = 1.0
    low: float = 50
    high: float = 100

    def refine(self, logits: Tensor, image: NDArray[np.uint8]) -> Tensor:
        """See `Refinement`."""
        labels = logits.argmax(0).to(torch.uint8).cpu().numpy()
        gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), self.blur)
        edges = cv2.Canny(gray, self.low, self.high) > 0
        rows, columns = np.nonzero(near_boundary(labels, self.reach))
        to_rows, to_columns = inward(edges, rows, columns, self.reach)
        other = labels[rows, columns] != labels[to_rows, to_columns]
        rows, columns, to_rows, to_columns = (
            torch.from_numpy(places[other]).to(logits.device) for places in (rows, columns, to_rows, to_columns)
        )
        refined = logits.clone()
        refined[:, rows, columns] = logits[:, to_rows, to_columns]
        return refined


def near_boundary(labels: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """`(H, W)`: pixels with another label within `distance` rows and columns."""
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return cv2.dilate(labels, square) != cv2.erode(labels, square)


def inward(
    edges: NDArray[np.bool_], rows: NDArray[np.intp], columns: NDArray[np.intp], reach: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each of some pixels the one up to `reach` pixels further from its nearest edge.

    `edges` is `(H, W)`. Pixels on an edge, and more than `reach` pixels from any, stay where they are. A walk ends
    where the distance to the nearest edge, whichever that is, grows no more.
    """
    if not edges.any() or not len(rows):
        return rows, columns
    distance, nearest = cv2.distanceTransformWithLabels(
        (~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    # Edge pixels are numbered, each pixel has the number of its nearest one.
    edge_at = np.zeros((nearest.max() + 1, 2), np.float32)
    edge_at[nearest[edges]] = np.argwhere(edges)
    start = np.stack([rows, columns], -1)
    way = start - edge_at[nearest[rows, columns]]
    length = np.linalg.norm(way, axis=-1, keepdims=True)
    way = np.divide(way, length, out=np.zeros_like(way), where=length > 0)
    place, reached = start, distance[rows, columns]
    walking = (length[:, 0] > 0) & (reached <= reach)
    last = np.array(edges.shape) - 1
    for step in range(1, reach + 1):
        ahead = np.clip(np.rint(start + step * way).astype(np.intp), 0, last)
        further = distance[ahead[:, 0], ahead[:, 1]]
        walking = walking & (further > reached)
        place = np.where(walking[:, None], ahead, place)
        reached = np.where(walking, further, reached)
    return place[:, 0], place[:, 1]
