"""How steady labels are over time: against ground truth of every frame (VC_n), and along optical flow without any."""

from __future__ import annotations

import argparse
import collections
import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.labels import IGNORE_INDEX
from training.measure.flow import DenseFlow, Motion
from training.measure.share import Share

Labels = NDArray[np.uint8]

# Which windows and pixels VC_n counts, and what that means.
VC_RULES = {
    "all": "every window of n frames, and no pixel whose true label is void",
    "vspw": "as VSPW's published script VC_perclip.py: without a sequence's last window, so that one of n frames has "
    "none, and void as one more class",
}


def add_vc_rule(parser: argparse._ActionsContainer) -> None:
    """The option `--vc-rule`."""
    texts = "; ".join(f"{name}: {text}" for name, text in VC_RULES.items())
    parser.add_argument("--vc-rule", default="all", choices=VC_RULES, help=f"how VC_n counts. {texts} (default: all)")


@dataclasses.dataclass
class VideoConsistency:
    """VC_n of a densely labelled clip (Miao et al., VSPW, CVPR 2021), and its stricter kind.

    In window i, the frames i .. i+n-1, let G_i be the pixels whose true label is one class in all n frames, and P_i
    those whose prediction is. VC_n = mean over i of |G_i & P_i| / |G_i|; `correct` asks besides that the prediction
    is that class. Void pixels are in no G_i; a window with an empty G_i does not count. Feed frames in order; `cut`
    starts another sequence. `shares` are the sums of both means over the windows that have ended.

    With `vspw` as the script that was published with VSPW counts (VC_perclip.py): a sequence's last window is left
    out, so one of n frames has none, and void is one more class, in G_i where it stays.
    """

    length: int
    vspw: bool = False
    _truth: collections.deque[Labels] = dataclasses.field(default_factory=collections.deque)
    _prediction: collections.deque[Labels] = dataclasses.field(default_factory=collections.deque)
    shares: tuple[Share, Share] = dataclasses.field(default_factory=lambda: (Share(), Share()))

    def update(self, prediction: Labels, truth: Labels) -> None:
        """The next frame's labels, both `(H, W)`."""
        if self.vspw:
            self._count()
        self._truth.append(truth)
        self._prediction.append(prediction)
        if not self.vspw:
            self._count()

    def _count(self) -> None:
        """Count the window if it is full, and let its first frame go."""
        if len(self._truth) < self.length:
            return
        first = self._truth[0]
        same_truth = np.logical_and.reduce([other == first for other in self._truth])
        if not self.vspw:
            same_truth &= first != IGNORE_INDEX
        same_prediction = np.logical_and.reduce([other == self._prediction[0] for other in self._prediction])
        pixels = same_truth.sum()
        if pixels:
            steady = same_truth & same_prediction
            self.shares[0].add(float(steady.sum() / pixels), 1)
            self.shares[1].add(float((steady & (self._prediction[0] == first)).sum() / pixels), 1)
        self._truth.popleft()
        self._prediction.popleft()

    def cut(self) -> None:
        self._truth.clear()
        self._prediction.clear()

    @property
    def steady(self) -> float | None:
        """VC_n in percent; None where no window was long enough."""
        return self.shares[0].value

    @property
    def correct(self) -> float | None:
        """As VC_n, counting only predictions that are right; percent."""
        return self.shares[1].value


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
        self.share = Share()

    def update(self, labels: Labels, motion: Motion | None) -> NDArray[np.bool_] | None:
        """The labels `(H, W)` predicted for the next frame, and its motion since the last; None starts a sequence.

        Returns which visible pixels did not keep their label, None where nothing was compared.
        """
        changed = None
        if motion is not None and self._labels is not None:
            before = cv2.remap(self._labels, motion.place[..., 0], motion.place[..., 1], cv2.INTER_NEAREST)
            changed = (before != labels) & motion.visible
            seen = int(motion.visible.sum())
            self.share.add(seen - int(changed.sum()), seen)
        self._labels = labels
        return changed

    @property
    def value(self) -> float | None:
        """Percent; None where no pixel could be followed."""
        return self.share.value
