"""Segmentation accuracy from one confusion matrix pooled over a split."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from stmem_ros.labels import IGNORE_INDEX


def confusion_matrix(classes: int) -> MulticlassConfusionMatrix:
    """Rows are the truth, columns the prediction; ignored pixels are not counted."""
    return MulticlassConfusionMatrix(classes, ignore_index=IGNORE_INDEX, validate_args=False)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Percentages; a class that is neither in the truth nor predicted has no IoU (None) and no part in the mean."""

    miou: float
    fw_iou: float
    pixel_accuracy: float
    per_class_iou: tuple[float | None, ...]

    @classmethod
    def of(cls, confusion: Tensor | NDArray[np.int64]) -> Accuracy:
        """From a matrix n, where n_ij pixels of class i were called j:

        IoU_c = n_cc / (sum_j n_cj + sum_i n_ic - n_cc); mIoU is the mean over the classes that have one;
        fwIoU = sum_c n_c IoU_c / sum_c n_c, with n_c = sum_j n_cj the pixels of class c;
        pixel accuracy = sum_c n_cc / sum_ij n_ij.
        """
        counts = np.asarray(confusion.cpu() if isinstance(confusion, Tensor) else confusion, np.float64)
        hits, truth = counts.diagonal(), counts.sum(1)
        union = counts.sum(0) + truth - hits
        present = union > 0
        iou = 100 * hits[present] / union[present]
        total = max(float(truth.sum()), 1.0)
        own = iter(iou.tolist())
        return cls(
            miou=float(iou.mean()) if len(iou) else 0.0,
            fw_iou=float(truth[present] @ iou) / total,
            pixel_accuracy=100 * float(hits.sum()) / total,
            per_class_iou=tuple(next(own) if there else None for there in present.tolist()),
        )

    def to_dict(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {
            "miou": self.miou,
            "fw_iou": self.fw_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "per_class_iou": dict(zip(names, self.per_class_iou, strict=True)),
        }


def labels_of(logits: Tensor) -> Tensor:
    """`(N, classes, H, W)` to `(N, H, W)`: argmax, the first of equals."""
    # On a CPU torch.argmax over this dimension takes several times as long.
    return torch.max(logits, 1).indices
