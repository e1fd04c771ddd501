"""How steady labels are over time: against ground truth of every frame (VC_n), and along optical flow without any."""

from __future__ import annotations

import collections
import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.labels import IGNORE_INDEX
from training.measure.flow import DenseFlow, Motion

Labels = NDArray[np.uint8]


@dataclasses.dataclass
class VideoConsistency:
    """VC_n of a densely labelled clip (Miao et al., VSPW, CVPR 2021), and its stricter kind.

    In window i, the frames i .. i+n-1, let G_i be the pixels whose true label is one class in all n frames, and P_i
    those whose prediction is. VC_n = mean over i of |G_i & P_i| / |G_i|; `correct` asks besides that the prediction
    is that class. Void pixels are in no G_i; a window with an empty G_i does not count. Feed frames in order; `cut`
    starts another sequence.
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


class MotionTracker:
    """Motion from frame to frame of a video, see DenseFlow."""

    def __init__(self) -> None:
        self._flow = DenseFlow()
        self._before: NDArray[np.uint8] | None = None

    def follow(self, image: NDArray[np.uint8], consecutive: bool = True) -> Motion | None:
        """Motion since the frame before; `image` is `(H, W, 3)` RGB.

        None where there is none before, where it is not the one before in a video, or of another size.
        """
        now = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        before, self._before = self._before, now
        if before is None or not consecutive or before.shape != now.shape:
            return None
        return self._flow.motion(now, before)


class FlowConsistency:
    """The share of visible pixels p that keep their label along optical flow; needs no ground truth.

    sum_t |{p : L_t(p) = L_(t-1)(w_t(p))}| / sum_t |{p}|, where w_t(p) is the pixel nearest to where p was in frame
    t-1 (see MotionTracker) and L_t are the predicted labels of frame t. Feed frames in order.
    """

    def __init__(self) -> None:
        self._labels: Labels | None = None
        self._kept, self._seen = 0, 0

    def update(self, labels: Labels, motion: Motion | None) -> None:
        """The labels `(H, W)` predicted for the next frame, and its motion since the last; None starts a sequence."""
        if motion is not None and self._labels is not None:
            before = cv2.remap(self._labels, motion.place[..., 0], motion.place[..., 1], cv2.INTER_NEAREST)
            self._kept += int(((before == labels) & motion.visible).sum())
            self._seen += int(motion.visible.sum())
        self._labels = labels

    @property
    def value(self) -> float | None:
        """Percent; None where no pixel could be followed."""
        return 100 * self._kept / self._seen if self._seen else None
