"""What one confusion matrix cannot say: accuracy at boundaries, calibration, steadiness over time."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.labels import IGNORE_INDEX
from training.measure.temporal import FlowConsistency, Motion, VideoConsistency

TOLERANCE = 0.00088


class BoundaryF:
    """Mean F-score of class boundaries within a tolerance of 0.00088 of the image's diagonal, at least one pixel.

    Per image and class, precision P is the share of predicted boundary pixels with a true one within the tolerance,
    recall R the reverse, F = 2 P R / (P + R) (Perazzi et al., CVPR 2016); the value is the mean of F over all images
    and classes. A class without a boundary in truth and prediction does not count; void counts as no class on both
    sides.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._scores: list[float] = []

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """One image's labels, both `(H, W)`."""
        radius = max(1, math.ceil(TOLERANCE * math.hypot(*truth.shape)))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        prediction = np.where(truth == IGNORE_INDEX, IGNORE_INDEX, prediction)
        for label in range(self._classes):
            ours, theirs = boundary(prediction == label), boundary(truth == label)
            if not ours.any() and not theirs.any():
                continue
            near_theirs, near_ours = cv2.dilate(theirs, disc), cv2.dilate(ours, disc)
            precision = float((ours & near_theirs).sum() / ours.sum()) if ours.any() else 0.0
            recall = float((theirs & near_ours).sum() / theirs.sum()) if theirs.any() else 0.0
            total = precision + recall
            self._scores.append(2 * precision * recall / total if total else 0.0)

    @property
    def value(self) -> float | None:
        """Percent; None where there was no boundary."""
        return 100 * float(np.mean(self._scores)) if self._scores else None


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`(H, W)` 0 or 1: pixels of the mask with a neighbour (of four) outside it; the image's rim is no boundary."""
    inside = mask.astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return inside - cv2.erode(inside, cross, borderValue=1)


@dataclasses.dataclass
class Calibration:
    """Expected calibration error: ECE = sum_b n_b / n |accuracy_b - confidence_b| over 15 equal bins of confidence.

    (Guo et al., ICML 2017.) Sums are kept, not pixels, so that memory does not grow with the split.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        self._count, self._right, self._confidence = (np.zeros(self.bins) for _ in range(3))

    def update(self, confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> None:
        """Probability of the predicted label, and whether it is right, of any number of pixels that are not void."""
        place = np.minimum((confidence * self.bins).astype(int), self.bins - 1).ravel()
        self._count += np.bincount(place, minlength=self.bins)
        self._right += np.bincount(place, right.ravel(), self.bins)
        self._confidence += np.bincount(place, confidence.ravel(), self.bins)

    @property
    def value(self) -> float | None:
        """Percent; None where no pixel came."""
        total = self._count.sum()
        return 100 * float(np.abs(self._right - self._confidence).sum() / total) if total else None


QUALITY_NAMES = {
    "boundary_f": "boundary F",
    "ece": "ECE",
    "flow_consistency": "flow consistency",
    "vc8": "VC_8",
    "vc16": "VC_16",
    "vc8_correct": "VC_8, correct",
    "vc16_correct": "VC_16, correct",
}


class Quality:
    """All of these over a split, frame by frame; the last five only where frames follow each other as a video's do."""

    def __init__(self, classes: int) -> None:
        self._boundary = BoundaryF(classes)
        self._calibration = Calibration()
        self._flow = FlowConsistency()
        self._consistency = {length: VideoConsistency(length) for length in (8, 16)}

    def update(self, logits: Tensor, truth: NDArray[np.uint8], consecutive: bool, motion: Motion | None) -> None:
        """The next frame: logits `(classes, H, W)`, true labels `(H, W)`, whether it follows the frame before it
        as a video's do, and its motion since then where that is known.
        """
        best, labels = logits.max(0)
        confidence = torch.exp(best - torch.logsumexp(logits, 0)).float().cpu().numpy()
        prediction = labels.to(torch.uint8).cpu().numpy()
        counted = truth != IGNORE_INDEX
        self._calibration.update(confidence[counted], (prediction == truth)[counted])
        self._boundary.update(prediction, truth)
        self._flow.update(prediction, motion)
        for consistency in self._consistency.values():
            if not consecutive:
                consistency.cut()
            consistency.update(prediction, truth)

    def to_dict(self) -> dict[str, float | None]:
        """Percentages by the names in QUALITY_NAMES; None where the split gives no value."""
        return {
            "boundary_f": self._boundary.value,
            "ece": self._calibration.value,
            "flow_consistency": self._flow.value,
            **{f"vc{length}": consistency.steady for length, consistency in self._consistency.items()},
            **{f"vc{length}_correct": consistency.correct for length, consistency in self._consistency.items()},
        }
