"""The frames of a camera as a video: which follow each other, and how the picture moved from one to the next."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Generator, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stmem_ros.bag.stream import CameraStream, Due
from stmem_ros.streaming import ResetReason, StreamingSegmenter, StreamState
from stmem_ros.streaming.window import StreamFrame
from training.bag.samples import Recorded, Sample
from training.bag.truth import Labels
from training.measure.flow import Motion
from training.measure.temporal import MotionTracker


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A frame that could be decoded, the `number`th of its camera.

    `consecutive` says that it follows the frame before it as a video's do: where the engine keeps its window.
    `motion` is since that frame, None where there is none.
    """

    number: int
    stamp_ns: int
    frame_id: str
    image: NDArray[np.uint8]
    truth: Labels | None
    recorded: tuple[Recorded | None, ...]
    consecutive: bool
    motion: Motion | None


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
    """A frame with its labels and their probability, 0..255, both `(H, W)`, and what that took in milliseconds."""

    frame: Frame
    labels: Labels
    confidence: Labels | None = None
    latency_ms: float | None = None


class Clip:
    """Makes frames of one camera's samples, in their order."""

    def __init__(self, max_gap: float) -> None:
        self._max_gap_ns = int(max_gap * 1e9)
        self._newest: StreamFrame | None = None
        self._skipped: list[int] = []
        self._motion = MotionTracker()
        self._count = 0
        self.cuts: collections.Counter[ResetReason] = collections.Counter()
        # Each size, and the stamp at which it began.
        self.sizes: list[tuple[tuple[int, int], int]] = []

    def frame(self, sample: Sample) -> Frame | None:
        """None where the sample has no image."""
        if sample.image is None:
            self._skipped = [*self._skipped, sample.stamp_ns][-1000:]
            return None
        newest = StreamFrame(sample.image, sample.stamp_ns, sample.frame_id)
        reason = StreamState(newest=self._newest).reset_reason(newest, self._max_gap_ns, self._skipped)
        consecutive = self._newest is not None and reason is None
        if reason is not None:
            self.cuts[reason] += 1
        self._newest, self._skipped = newest, []
        size = (sample.image.shape[0], sample.image.shape[1])
        if not self.sizes or self.sizes[-1][0] != size:
            self.sizes.append((size, sample.stamp_ns))
        motion = self._motion.follow(sample.image, consecutive)
        number, self._count = self._count, self._count + 1
        about = (number, sample.stamp_ns, sample.frame_id, sample.image, sample.truth, sample.recorded)
        return Frame(*about, consecutive, motion)


def frames(samples: Generator[Sample, None, None], clips: list[Clip]) -> Generator[tuple[Sample, Frame | None]]:
    """Each sample with its camera's frame of it."""
    for sample in samples:
        yield sample, clips[sample.camera].frame(sample)


class Labeller(Protocol):
    """Gives the frames of one camera their labels, in order."""

    def push(self, stamp_ns: int, frame: Frame | None) -> Iterator[Labelled]:
        """The next frame, None where it could not be decoded; yields the frames that have their labels now."""
        ...

    def end(self) -> Iterator[Labelled]:
        """The frames that still wait for a next one."""
        ...


class NetworkLabels:
    """Labels as the engine gives them; every frame gets some."""

    def __init__(self, engine: StreamingSegmenter) -> None:
        self._engine = engine
        self._stream: CameraStream[Frame] = CameraStream(engine, confidence=True)
        self._warm = False

    def push(self, stamp_ns: int, frame: Frame | None) -> Iterator[Labelled]:
        """Raises ImageError where the network cannot take images of that size."""
        if frame is None:
            self._stream.skip(stamp_ns)
            return
        self._stream.check(frame.image)
        if not self._warm:
            # So that what a network does once is in no frame's time.
            self._engine.warm_up((frame.image.shape[0], frame.image.shape[1]))
            self._warm = True
        yield from map(self._labelled, self._stream.push(frame))

    def end(self) -> Iterator[Labelled]:
        yield from map(self._labelled, self._stream.end())

    def _labelled(self, due: Due[Frame]) -> Labelled:
        start = time.perf_counter()
        found = due.label()
        return Labelled(due.frame, found.labels, found.confidence, 1000 * (time.perf_counter() - start))


class RecordedLabels:
    """Labels that were recorded, the `place`th of the camera's; `missing` counts the frames that have none."""

    def __init__(self, place: int) -> None:
        self._place = place
        self._gap = False
        self.missing = 0

    def push(self, stamp_ns: int, frame: Frame | None) -> Iterator[Labelled]:
        if frame is None:
            return
        recorded = frame.recorded[self._place]
        if recorded is None:
            self.missing += 1
            self._gap = True
            return
        if self._gap:
            frame = dataclasses.replace(frame, consecutive=False, motion=None)
        self._gap = False
        yield Labelled(frame, recorded.labels, recorded.confidence)

    def end(self) -> Iterator[Labelled]:
        yield from ()
