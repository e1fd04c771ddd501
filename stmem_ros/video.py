"""Videos in the stream's own time, written whole or not at all, and the legend of the class colours."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.files import whole_file
from stmem_ros.labels import LabelSet
from stmem_ros.video_writer import H264, VideoWriter, open_writer

LEGEND_ROW = 34
# A level of OpenCV's log.
ONLY_ERRORS = 2


def quiet_opencv() -> None:
    """In this process. OpenCV and its FFmpeg complain of each frame that they cannot write or read; we do so once.

    FFmpeg reads its level where it is used for the first time.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Which of them there is depends on OpenCV's version.
    log = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    log.setLogLevel(ONLY_ERRORS)


class VideoError(OSError):
    """A video that cannot be written: one line with the file, the reason and what to do."""


class TimedVideo:
    """An `.mp4` of `rate` frames a second in the stream's own time: a picture stays until the next one's stamp.

    A picture that comes early by less than a frame gets its turn of one frame; of more pictures than frames the
    later stay. It stays no longer than `longest` seconds, and a stamp that does not advance counts as one frame. The
    file is there when `close` returns, in the size of the first picture (an odd side loses nothing: it grows by a
    pixel); as a context manager it closes, or discards where the block fails. No picture, no file.
    `note` is a line for a person where the video is none that browsers play, empty else and before the first picture.
    """

    def __init__(self, path: Path, rate: float, longest: float = math.inf) -> None:
        """Raises VideoError for a name that does not end in `.mp4`; ValueError for a rate that is none."""
        if path.suffix.lower() != ".mp4":
            raise VideoError(f"{path}: a video's name must end in .mp4")
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"rate is {rate!r}; it must be above 0 frames a second")
        quiet_opencv()
        self.note = ""
        # Four digits: MPEG-4 knows no finer clock.
        self.path, self.rate, self._longest = path, float(f"{rate:.4g}"), longest
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
        self._writer: VideoWriter | None = None
        self._size = (0, 0)
        self._held: NDArray[np.uint8] | None = None
        self._seconds = 0.0
        self._stamp_ns = 0
        self._written = 0

    def add(self, picture: NDArray[np.uint8], stamp_ns: int) -> None:
        """Append one picture `(H, W, 3)` uint8 RGB; of another size than the first, it is fitted into that.

        Raises VideoError where the file cannot be begun, or no more can be written to it.
        """
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._open(bgr)
        else:
            step = (stamp_ns - self._stamp_ns) * 1e-9
            self._seconds += min(step, self._longest) if step > 0 else 1 / self.rate
        self._stamp_ns = stamp_ns
        place = round(self._seconds * self.rate)
        self._hold_until(place + 1 if place == self._written else place)
        self._held = _fitted(bgr, self._size)

    def close(self) -> None:
        """Write the last picture and put the file into its place. Raises VideoError where it is not whole."""
        if self._writer is None:
            return
        try:
            self._hold_until(self._written + 1)
            try:
                self._writer.close()
            except OSError as error:
                raise self._partly(error) from error
            self._writer = None
            with whole_file(self.path) as partial:
                os.replace(self._partial, partial)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        with contextlib.suppress(OSError):
            self._partial.unlink()

    def __enter__(self) -> TimedVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _open(self, bgr: NDArray[np.uint8]) -> None:
        self._size = _even(bgr)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # OpenCV says nothing of a place that it cannot write to.
        self._partial.touch()
        try:
            self._writer = open_writer(self._partial, self.rate, self._size)
        except OSError as error:
            self.discard()
            raise VideoError(f"{self.path} cannot be written: {error.strerror or error}") from error
        if self._writer.codec != H264:
            self.note = (
                f"{self.path.name} is {self._writer.codec}, which VLC and mpv play and browsers do not: for {H264} "
                "pip install av, or install ffmpeg"
            )

    def _hold_until(self, frame: int) -> None:
        while self._writer is not None and self._held is not None and self._written < frame:
            try:
                self._writer.write(self._held)
            except OSError as error:
                raise self._partly(error) from error
            self._written += 1

    def _partly(self, error: OSError) -> VideoError:
        reason = error.strerror or error
        return VideoError(
            f"{self.path}: only a part of the video could be written ({reason}); see whether the disk is full"
        )


def legend(labels: LabelSet, width: int) -> NDArray[np.uint8]:
    """Colour and name of every class as `(H, width, 3)` RGB, in as many rows as they need."""
    boxes, x, y = [], 10, 0
    for name in labels.names:
        needed = 34 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)[0][0] + 18
        if x + needed > width and x > 10:
            x, y = 10, y + LEGEND_ROW
        boxes.append((x, y))
        x += needed
    picture = np.full((y + LEGEND_ROW, width, 3), 255, np.uint8)
    for (x, y), name, color in zip(boxes, labels.names, labels.palette, strict=True):
        cv2.rectangle(picture, (x, y + 8), (x + 26, y + 26), color, cv2.FILLED)
        cv2.putText(picture, name, (x + 34, y + 23), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def _fitted(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture as large as fits into `(width, height)`, in its own aspect, on black."""
    width, height = size
    if _even(picture) != size:
        scale = min(width / picture.shape[1], height / picture.shape[0])
        inside = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        picture = cv2.resize(picture, inside, interpolation=cv2.INTER_AREA)
    down, right = height - picture.shape[0], width - picture.shape[1]
    return cv2.copyMakeBorder(picture, down // 2, down - down // 2, right // 2, right - right // 2, cv2.BORDER_CONSTANT)


def _even(picture: NDArray[np.uint8]) -> tuple[int, int]:
    """Its width and height, odd ones a pixel larger: video codecs have pixels in pairs."""
    height, width = picture.shape[:2]
    return width + width % 2, height + height % 2
