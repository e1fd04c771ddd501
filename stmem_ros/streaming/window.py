"""What a stream remembers between frames, and when it must forget."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stmem_ros.streaming.exact import FrameFeatures


class ResetReason(enum.Enum):
    """Why a stream forgot its window. The value is for people."""

    BACKWARD = "the stamp went backwards"
    GAP = "frames were missing for longer than max_gap"
    SIZE = "the image size changed"
    FRAME_ID = "the frame_id changed"
    ASKED = "a reset was asked for"


def query_place(frames: int, causal: bool) -> int:
    """The place in a window, 0 the oldest, of the frame that is labelled: the newest, or the middle as in training."""
    return frames - 1 if causal else frames // 2


@dataclasses.dataclass(frozen=True)
class StreamFrame:
    """One image `(H, W, 3)` RGB uint8 of a stream; the stamp counts nanoseconds."""

    image: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str


@dataclasses.dataclass
class StreamState:
    """The window of one camera: `features` of its frames, oldest first, and the frames that wait for a label."""

    features: list[FrameFeatures] = dataclasses.field(default_factory=list)
    waiting: list[StreamFrame] = dataclasses.field(default_factory=list)
    newest: StreamFrame | None = None
    # Of its own that are in the window: the first frame of a stream fills all places.
    frames: int = 0

    def clear(self) -> None:
        self.features.clear()
        self.waiting.clear()
        self.newest = None
        self.frames = 0

    def reset_reason(self, frame: StreamFrame, max_gap_ns: int, skipped: Sequence[int] = ()) -> ResetReason | None:
        """Why `frame` cannot follow the newest one, or None where it can (also where there is none).

        `skipped` are the stamps of the frames between the two that were not segmented: they leave no gap.
        """
        if self.newest is None:
            return None
        for earlier, later in pairwise((self.newest.stamp_ns, *skipped, frame.stamp_ns)):
            if later < earlier:
                return ResetReason.BACKWARD
            if later - earlier > max_gap_ns:
                return ResetReason.GAP
        if frame.image.shape != self.newest.image.shape:
            return ResetReason.SIZE
        if frame.frame_id != self.newest.frame_id:
            return ResetReason.FRAME_ID
        return None

    def after(self, frame: StreamFrame, features: FrameFeatures, length: int) -> StreamState:
        """The state with a frame more, this one as it is; the first frame of a stream fills the whole window."""
        window = [*self.features[1:], features] if self.features else [features] * length
        return StreamState(window, [*self.waiting, frame], frame, min(self.frames + 1, length))
