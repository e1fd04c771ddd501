"""How steady labels are over time: against ground truth of every frame (VC_n), and along optical flow without any."""

from __future__ import annotations

import collections
import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.labels import IGNORE_INDEX

Labels = NDArray[np.uint8]


@dataclasses.dataclass
class VideoConsistency:
    """VC_n of a densely labelled clip (Miao et al., VSPW, CVPR 2021), and its stricter kind.

    Over every n consecutive frames, let G be the pixels whose true label is one class in all n, and P those whose
    prediction is. VC_n is the mean over those windows of |G & P| / |G|; `correct` asks besides that the
    prediction is that class. Void pixels are in no G. Feed frames in order; `cut` starts another sequence.
    """

    length: int
    _truth: collections.deque[Labels] = dataclasses.field(default_factory=collections.deque)
    _prediction: collections.deque[Labels] = dataclasses.field(default_factory=collections.deque)
    _steady: list[float] = dataclasses.field(default_factory=list)
    _correct: list[float] = dataclasses.field(default_factory=list)

    def update(self, prediction: Labels, truth: Labels) -> None:
        """The next frame's labels, both `(H, W)`."""
        self._truth.append(truth)
        self._prediction.append(prediction)
        if len(self._truth) < self.length:
            return
        first = self._truth[0]
        same_truth = np.logical_and.reduce([other == first for other in self._truth]) & (first != IGNORE_INDEX)
        same_prediction = np.logical_and.reduce([other == self._prediction[0] for other in self._prediction])
        pixels = same_truth.sum()
        if pixels:
            steady = same_truth & same_prediction
            self._steady.append(float(steady.sum() / pixels))
            self._correct.append(float((steady & (self._prediction[0] == first)).sum() / pixels))
        self._truth.popleft()
        self._prediction.popleft()

    def cut(self) -> None:
        self._truth.clear()
        self._prediction.clear()

    @property
    def steady(self) -> float | None:
        """VC_n in percent; None where no window was long enough."""
        return 100 * float(np.mean(self._steady)) if self._steady else None

    @property
    def correct(self) -> float | None:
        """As VC_n, counting only predictions that are right; percent."""
        return 100 * float(np.mean(self._correct)) if self._correct else None


class FlowConsistency:
    """The share of pixels that keep their label along optical flow; needs no ground truth.

    DIS flow from each frame to the one before says where each of its pixels was; the label there (nearest pixel) is
    compared with the pixel's own. Left out are pixels that were out of view, and those whose flow is not undone by
    the flow the other way, |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, which are occluded (Sundaram et al., ECCV 2010).
    Feed frames in order; `cut` starts another sequence.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._image: NDArray[np.uint8] | None = None
        self._labels: Labels | None = None
        self._kept, self._seen = 0, 0

    def update(self, image: NDArray[np.uint8], labels: Labels) -> None:
        """The next frame `(H, W, 3)` RGB and the labels `(H, W)` that were predicted for it."""
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self._image is not None and self._labels is not None and self._image.shape == gray.shape:
            place, visible = self._places_before(gray, self._image)
            before = cv2.remap(self._labels, place[..., 0], place[..., 1], cv2.INTER_NEAREST)
            self._kept += int(((before == labels) & visible).sum())
            self._seen += int(visible.sum())
        self._image, self._labels = gray, labels

    def _places_before(self, now: NDArray[np.uint8], before: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
        """Where each pixel was, `(H, W, 2)` x and y, and whether that can be trusted, `(H, W)`."""
        back = self._flow.calc(now, before, None)
        forth = self._flow.calc(before, now, None)
        height, width = now.shape
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
        place = grid + back
        inside = (place >= 0).all(-1) & (place[..., 0] <= width - 1) & (place[..., 1] <= height - 1)
        returned = cv2.remap(forth, place[..., 0], place[..., 1], cv2.INTER_LINEAR)
        error = ((back + returned) ** 2).sum(-1)
        allowed = 0.01 * ((back**2).sum(-1) + (returned**2).sum(-1)) + 0.5
        return place, inside & (error <= allowed)

    def cut(self) -> None:
        self._image = self._labels = None

    @property
    def value(self) -> float | None:
        """Percent; None where no pixel could be followed."""
        return 100 * self._kept / self._seen if self._seen else None
