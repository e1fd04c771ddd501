"""Every frame of one camera to its label, by the engine of the node; what is not asked for is not computed."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from stmem_ros.streaming import ResetReason, Segmentation, StreamingSegmenter, StreamState
from stmem_ros.streaming.window import StreamFrame


class ImageFrame(Protocol):
    """What a stream looks at: `image` is `(H, W, 3)` RGB uint8."""

    @property
    def image(self) -> NDArray[np.uint8]: ...
    @property
    def stamp_ns(self) -> int: ...
    @property
    def frame_id(self) -> str: ...


F = TypeVar("F", bound=ImageFrame)


@dataclasses.dataclass(frozen=True)
class Due(Generic[F]):
    """A frame whose label can be had now. `label` may be called once, before the stream goes on, or left alone."""

    frame: F
    label: Callable[[], Segmentation]


class CameraStream(Generic[F]):
    """Gives each frame that is pushed one label, in order: also a centred one that waits where a window ends.

    Labels that nobody asks for at the start of a stream cost nothing, and the first that is asked for is the same
    as if they all had been: a label depends on the frames of its window alone. `resets` counts why windows ended.
    """

    def __init__(self, engine: StreamingSegmenter, confidence: bool) -> None:
        self.resets: collections.Counter[ResetReason] = collections.Counter()
        self._engine, self._confidence = engine, confidence
        self._max_gap_ns = int(engine.config.max_gap * 1e9)
        self._newest: StreamFrame | None = None
        self._skipped: tuple[int, ...] = ()
        self._waiting: collections.deque[F] = collections.deque()
        self._unfed: collections.deque[tuple[F, tuple[int, ...]]] = collections.deque(maxlen=engine.length)
        self._sizes: set[tuple[int, ...]] = set()

    def skip(self, stamp_ns: int) -> None:
        """A frame of that stamp was there and is not segmented: it leaves no gap."""
        self._skipped = (*self._skipped, stamp_ns)[-1000:]

    def check(self, image: NDArray[np.uint8]) -> None:
        """Raises ImageError where the network cannot take images of that size, as an exported one may not."""
        if image.shape not in self._sizes:
            self._engine.preprocess(image)
            self._sizes.add(image.shape)

    def push(self, frame: F) -> Iterator[Due[F]]:
        """Take the next frame, which passed `check`; what is due must be used before the next one is asked for."""
        newest = StreamFrame(frame.image, frame.stamp_ns, frame.frame_id)
        reason = StreamState(newest=self._newest).reset_reason(newest, self._max_gap_ns, self._skipped)
        if reason is not None:
            self.resets[reason] += 1
            yield from self.end()
        self._unfed.append((frame, self._skipped))
        self._newest, self._skipped = newest, ()
        self._waiting.append(frame)
        if len(self._waiting) > self._engine.delay:
            due = self._waiting.popleft()
            yield Due(due, partial(self._step, due))

    def end(self) -> Iterator[Due[F]]:
        """The frames that still wait; the next one starts a new window."""
        while self._waiting:
            due = self._waiting.popleft()
            yield Due(due, partial(self._flush, due))
        self._unfed.clear()
        self._engine.reset()
        self._newest = None

    def _feed(self) -> Segmentation | None:
        segmentation = None
        for frame, skipped in self._unfed:
            segmentation = self._engine.step(
                frame.image, frame.stamp_ns, frame.frame_id, confidence=self._confidence, skipped=skipped
            )
        self._unfed.clear()
        return segmentation

    def _step(self, due: F) -> Segmentation:
        segmentation = self._feed()
        assert segmentation is not None and segmentation.image is due.image
        return segmentation

    def _flush(self, due: F) -> Segmentation:
        self._feed()
        while True:
            segmentation = self._engine.flush(confidence=self._confidence)
            assert segmentation is not None
            if segmentation.image is due.image:
                return segmentation
