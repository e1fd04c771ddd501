"""What one confusion matrix cannot say: accuracy at boundaries, calibration, steadiness over time."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.labels import IGNORE_INDEX
from training.measure.share import Share
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
        self.share = Share()

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """One image's labels, both `(H, W)`."""
        radius = max(1, math.ceil(TOLERANCE * math.hypot(*truth.shape)))
        near = disc(radius)
        prediction = np.where(truth == IGNORE_INDEX, IGNORE_INDEX, prediction)
        for label in range(self._classes):
            ours, theirs = boundary(prediction == label), boundary(truth == label)
            if not ours.any() and not theirs.any():
                continue
            near_theirs, near_ours = cv2.dilate(theirs, near), cv2.dilate(ours, near)
            precision = float((ours & near_theirs).sum() / ours.sum()) if ours.any() else 0.0
            recall = float((theirs & near_ours).sum() / theirs.sum()) if theirs.any() else 0.0
            total = precision + recall
            self.share.add(2 * precision * recall / total if total else 0.0, 1)

    @property
    def value(self) -> float | None:
        """Percent; None where there was no boundary."""
        return self.share.value


def disc(radius: int) -> NDArray[np.uint8]:
    """`(2 radius + 1, 2 radius + 1)` 0 or 1: pixels at most `radius` from the middle one.

    OpenCV's MORPH_ELLIPSE has pixels further away from a radius of 2 on.
    """
    steps = np.arange(-radius, radius + 1) ** 2
    return (steps[:, None] + steps <= radius**2).astype(np.uint8)


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`(H, W)` 0 or 1: pixels of the mask with a neighbour (of four) outside it; the image's rim is no boundary."""
    inside = mask.astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return inside - cv2.erode(inside, cross, borderValue=1)


CALIBRATION_BINS = 15


class Calibration:
    """Expected calibration error: ECE = sum_b n_b / n |accuracy_b - confidence_b| over 15 equal bins of confidence.

    (Guo et al., ICML 2017.) Sums are kept, not pixels, so that memory does not grow with the split: `sums` `(3, 15)`
    has the pixels of each bin, how many are right, and their summed confidence.
    """

    def __init__(self) -> None:
        self.sums = np.zeros((3, CALIBRATION_BINS))

    def update(self, confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> None:
        """Probability of the predicted label, and whether it is right, of any number of pixels that are not void."""
        place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1).ravel()
        for row, weights in zip(self.sums, (None, right.ravel(), confidence.ravel()), strict=True):
            row += np.bincount(place, weights, CALIBRATION_BINS)

    def take(self) -> NDArray[np.float64]:
        """The sums since the last call."""
        taken, self.sums = self.sums, np.zeros_like(self.sums)
        return taken

    @property
    def value(self) -> float | None:
        """Percent; None where no pixel came."""
        return calibration_error(self.sums)


def calibration_error(sums: NDArray[np.float64]) -> float | None:
    """The ECE in percent of `Calibration.sums`, or of several of them added; None where no pixel came."""
    count, right, confidence = sums
    return 100 * float(np.abs(right - confidence).sum() / count.sum()) if count.any() else None


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
    """All of these over a split, frame by frame; the last five only where frames follow each other as a video's do.

    `vc_rule` is one of VC_RULES.
    """

    def __init__(self, classes: int, vc_rule: str = "all") -> None:
        self._boundary = BoundaryF(classes)
        self._calibration = Calibration()
        self._flow = FlowConsistency()
        self._consistency = {length: VideoConsistency(length, vc_rule == "vspw") for length in (8, 16)}
        self._shares = {
            "boundary_f": self._boundary.share,
            "flow_consistency": self._flow.share,
            **{f"vc{length}": each.shares[0] for length, each in self._consistency.items()},
            **{f"vc{length}_correct": each.shares[1] for length, each in self._consistency.items()},
        }

    def update(self, logits: Tensor, truth: NDArray[np.uint8], consecutive: bool, motion: Motion | None) -> None:
        """The next frame: logits `(classes, H, W)`; the rest as `update_labels` has it."""
        best, labels = logits.max(0)
        confidence = torch.exp(best - torch.logsumexp(logits, 0)).float().cpu().numpy()
        self.update_labels(labels.to(torch.uint8).cpu().numpy(), confidence, truth, consecutive, motion)

    def update_labels(
        self,
        prediction: NDArray[np.uint8],
        confidence: NDArray[np.float32] | None,
        truth: NDArray[np.uint8] | None,
        consecutive: bool,
        motion: Motion | None,
    ) -> NDArray[np.bool_] | None:
        """The next frame: predicted labels, their probability 0..1 and true labels, all `(H, W)`; whether it follows
        the frame before it as a video's do, and its motion since then where that is known.

        Without `truth` or `confidence` what needs them passes the frame over; VC_n begins anew after a frame without
        truth. Returns which pixels did not keep their label along the motion, None where it is not known.
        """
        for consistency in self._consistency.values():
            if truth is None or not consecutive:
                consistency.cut()
            if truth is not None:
                consistency.update(prediction, truth)
        if truth is not None:
            self._boundary.update(prediction, truth)
            if confidence is not None:
                counted = truth != IGNORE_INDEX
                self._calibration.update(confidence[counted], (prediction == truth)[counted])
        return self._flow.update(prediction, motion)

    def take(self) -> tuple[dict[str, tuple[float, float]], NDArray[np.float64]]:
        """What was counted since the last call, to be added to others': numerator and denominator of each share by
        its name in QUALITY_NAMES, and `Calibration.sums`.

        What reaches over several frames counts where its last frame does.
        """
        return {name: share.take() for name, share in self._shares.items()}, self._calibration.take()

    def to_dict(self) -> dict[str, float | None]:
        """Percentages by the names in QUALITY_NAMES; None where the split gives no value."""
        values = {name: share.value for name, share in self._shares.items()} | {"ece": self._calibration.value}
        return {name: values[name] for name in QUALITY_NAMES}
