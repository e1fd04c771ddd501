"""The figures of one sequence as one network labels it, frame by frame."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

from stmem_ros.labels import IGNORE_INDEX, LabelSet
from training.bag.frames import Labelled
from training.bag.result import Block, FrameScore, Shot, Sums
from training.bag.settings import EvaluationSettings
from training.bag.shots import FlickerMap, ShotKeeper
from training.measure.quality import Quality

BLOCK_NS = 10_000_000_000
UNCERTAIN = 128


class SequenceScores:
    """Running figures; memory grows by a few numbers a frame alone."""

    def __init__(self, labels: LabelSet, frames: int, settings: EvaluationSettings) -> None:
        self._classes = len(labels)
        self._quality = Quality(self._classes, settings.vc_rule)
        self._before: NDArray[np.uint8] | None = None
        self._blocks: dict[int, Sums] = {}
        self._first_ns = 0
        self.expects_truth = settings.has_truth
        self._flicker = FlickerMap()
        self._shots = ShotKeeper(labels, frames, settings.shots, settings.worst)
        self.frames: list[FrameScore] = []
        self.with_truth = 0

    def add(self, labelled: Labelled) -> None:
        """The next frame's labels."""
        frame, labels = labelled.frame, labelled.labels
        confidence = None if labelled.confidence is None else labelled.confidence.astype(np.float32) / 255
        changed = self._quality.update_labels(labels, confidence, frame.truth, frame.consecutive, frame.motion)
        means, calibration = self._quality.take()
        confusion = self._confusion(labels, frame.truth)
        sums = Sums(confusion, means | self._stream_means(labelled), calibration)
        figures = sums.figures()
        self.frames.append(
            FrameScore(
                frame.stamp_ns,
                figures["confidence"],
                labelled.latency_ms,
                figures["flow_consistency"],
                figures["miou"],
                figures["pixel_accuracy"],
            )
        )
        if len(self.frames) == 1:
            self._first_ns = frame.stamp_ns
        self.with_truth += frame.truth is not None
        block = (frame.stamp_ns - self._first_ns) // BLOCK_NS
        self._blocks[block] = self._blocks[block] + sums if block in self._blocks else sums
        self._flicker.add(labelled, changed)
        self._shots.add(labelled, changed, figures["miou" if self.expects_truth else "flow_consistency"])

    def blocks(self) -> tuple[Block, ...]:
        return tuple(Block(self._first_ns + block * BLOCK_NS, sums) for block, sums in sorted(self._blocks.items()))

    def pictures(self) -> tuple[tuple[Shot, ...], bytes | None]:
        """The shots, and the flicker map."""
        return self._shots.shots(), self._flicker.picture()

    def _confusion(self, labels: NDArray[np.uint8], truth: NDArray[np.uint8] | None) -> NDArray[np.int64]:
        if truth is None:
            return np.zeros((self._classes, self._classes), np.int64)
        pair = torch.from_numpy(labels).long(), torch.from_numpy(truth).long()
        options = {"ignore_index": IGNORE_INDEX, "validate_args": False}
        return multiclass_confusion_matrix(*pair, self._classes, **options).numpy()

    def _stream_means(self, labelled: Labelled) -> dict[str, tuple[float, float]]:
        """Of STREAM_NAMES."""
        labels, confidence, before = labelled.labels, labelled.confidence, self._before
        self._before = labels
        means = {}
        if confidence is not None:
            means["confidence"] = float(confidence.sum(dtype=np.int64)) / 255, float(confidence.size)
            means["uncertain"] = float((confidence < UNCERTAIN).sum()), float(confidence.size)
        if labelled.frame.consecutive and before is not None:
            means["changed"] = float((labels != before).sum()), float(labels.size)
        return means
