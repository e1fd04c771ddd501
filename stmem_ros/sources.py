"""Turns a video file, a folder of images, a ROS bag or a camera into RGB frames with stamps.

Nothing here needs a ROS runtime: bags are read with `rosbags`, imported when the first bag is opened.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.decode import ImageError, decode_encoded, decode_message
from stmem_ros.files import user_path
from stmem_ros.lfs import ONLY_A_POINTER, is_pointer
from stmem_ros.used_bits import UNKNOWN, UsedBits

DEFAULT_RATE = 15.0
# Endings are matched without case.
JPEG_SUFFIXES = (".jpeg", ".jpg")
# What may hold labels: files that keep every value.
LABEL_SUFFIXES = (".bmp", ".png", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES = tuple(sorted((*JPEG_SUFFIXES, *LABEL_SUFFIXES)))
BAG_SUFFIXES = (".bag", ".db3", ".mcap", ".zstd")

_FRAMES_FOR_RATE = 30

_logger = logging.getLogger(__name__)


class SourceError(Exception):
    """A source that gives no frames: one line naming the source, the reason and what to do."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a source.

    `image` is `(H, W, 3)` uint8 RGB, contiguous. `stamp_ns` is the source's own time in nanoseconds.
    `index` is the frame's place in the source; a frame that could not be read keeps its place.
    """

    image: NDArray[np.uint8]
    stamp_ns: int
    index: int


class FrameSource(ABC):
    """Frames in order. Each iteration starts again at the first frame, except of a live source.

    `rate` is in Hz and None where the source does not tell; `frame_count` counts every frame of the
    source, readable or not, and is None where it is unknown. A `live` source makes its frames in its
    own time, and iterating waits for them. Iterating raises SourceError where no frame can be read.
    """

    name: str
    rate: float | None = None
    frame_count: int | None = None
    live: bool = False

    def __iter__(self) -> Iterator[Frame]:
        found = False
        with contextlib.closing(self._frames()) as frames:
            for frame in frames:
                found = True
                yield frame
        if not found:
            raise SourceError(f"{self.name} gave no frame that can be read: see the warnings and check the file")

    @abstractmethod
    def _frames(self) -> Generator[Frame, None, None]: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of files and devices. May be called more than once."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(source: str, topic: str = "", rate: float | None = None, used_bits: int = UNKNOWN) -> FrameSource:
    """The frames of `source`: a video file, a folder of images, a rosbag2 folder, a bag file, or a camera index.

    `topic` chooses among the image topics of a bag. `rate` in Hz is for what has no rate of its own: it spaces the
    images of a folder (15 Hz if None) and is asked of a camera. `used_bits` are those of 16-bit images (`UsedBits`).
    Raises SourceError.
    """
    if source.isdecimal():
        return _CameraSource(int(source), rate)
    if not source:
        raise SourceError("no source: give a video file, a folder of images, a bag or a camera index")
    path = user_path(source)
    if not path.exists():
        raise SourceError(f"{path} does not exist: give a video file, a folder of images, a bag or a camera index")
    if path.is_dir():
        if (path / "metadata.yaml").is_file() or (not _holds(path, _is_image) and _holds(path, _is_bag_file)):
            return BagSource(path, topic, used_bits)
        return _FolderSource(path, rate or DEFAULT_RATE, used_bits)
    suffix = path.suffix.lower()
    if suffix in BAG_SUFFIXES:
        return BagSource(path, topic, used_bits)
    if suffix in IMAGE_SUFFIXES:
        raise SourceError(f"{path} is a single image: give the folder that holds it")
    return _VideoSource(path)


class _VideoSource(FrameSource):
    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._capture = self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = fps if math.isfinite(fps) and fps > 0 else None
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = count if count > 0 else None

    def close(self) -> None:
        self._capture.release()

    def _frames(self) -> Generator[Frame, None, None]:
        # Seeking back is inexact for some codecs, so every iteration opens the file anew.
        self._capture.release()
        self._capture = capture = self._open()
        rate = self.rate or DEFAULT_RATE
        index = 0
        while True:
            good, image = capture.read()
            if not good:
                break
            yield Frame(_bgr_to_rgb(image), round(index * 1e9 / rate), index)
            index += 1
        # Containers without an index announce an estimate, which may be one too many.
        if self.frame_count is not None and index < self.frame_count - 1:
            _logger.warning(
                "%s: only %d of %d frames could be read; the file may be cut off", self.name, index, self.frame_count
            )

    def _open(self) -> cv2.VideoCapture:
        try:
            pointer = is_pointer(self._path)
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror}") from error
        if pointer:
            raise SourceError(f"{self._path} {ONLY_A_POINTER}")
        capture = cv2.VideoCapture(self.name)
        if not capture.isOpened():
            raise SourceError(
                f"{self._path} is no video that OpenCV can read: try playing it, or convert it to H.264 in .mp4"
            )
        return capture


class _FolderSource(FrameSource):
    def __init__(self, path: Path, rate: float, used_bits: int) -> None:
        self.name = str(path)
        self._used_bits = UsedBits(used_bits, lambda line: _logger.warning("%s: %s", self.name, line))
        self.rate = rate
        self._files = image_files(path)
        if not self._files:
            raise SourceError(f"{path} holds neither images ({' '.join(IMAGE_SUFFIXES)}) nor a rosbag2 metadata.yaml")
        self.frame_count = len(self._files)

    def close(self) -> None:
        pass

    def _frames(self) -> Generator[Frame, None, None]:
        assert self.rate is not None
        for index, file in enumerate(self._files):
            try:
                image = decode_encoded(np.fromfile(file, np.uint8), self._used_bits)
            except (OSError, ImageError) as error:
                _logger.warning("%s skipped: %s", file, _one_line(error))
                continue
            yield Frame(image, round(index * 1e9 / self.rate), index)


class BagSource(FrameSource):
    """An image topic of a bag, in the order of recording; what of the bag cannot be read is a warning each."""

    def __init__(self, path: Path, topic: str, used_bits: int = UNKNOWN) -> None:
        # It knows SourceError from here.
        from stmem_ros.bag.io.reader import Bag

        self.name = str(path)
        self._told: set[str] = set()
        self._used_bits = UsedBits(used_bits, lambda line: _logger.warning("%s: %s: %s", self.name, self.topic, line))
        self.bag = Bag(path)
        try:
            (self.topic,) = self.bag.choose_images([topic] if topic else [])
            self.frame_count = self.bag.topics[self.topic].count
            self.rate = self._measure_rate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.bag.close()

    def _frames(self) -> Generator[Frame, None, None]:
        for index, (message, stamp_ns) in enumerate(self.messages()):
            try:
                image = decode_message(message, self._used_bits)
            except ImageError as error:
                _logger.warning("%s: message %d on %s skipped: %s", self.name, index, self.topic, error)
                continue
            yield Frame(image, stamp_ns, index)

    def messages(self) -> Generator[tuple[Any, int], None, None]:
        """Each image message with its header's stamp in nanoseconds, or its recording time where that is 0."""
        with contextlib.closing(self.bag.messages([self.topic])) as messages:
            for message in messages:
                yield self.bag.decode(message), message.stamp_ns
        for line in self.bag.lost:
            if line not in self._told:
                self._told.add(line)
                _logger.warning("%s: lost: %s", self.name, line)

    def _measure_rate(self) -> float | None:
        with contextlib.closing(self.bag.messages([self.topic])) as messages:
            stamps = [message.stamp_ns for message in islice(messages, _FRAMES_FOR_RATE)]
        steps = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
        return 1e9 / statistics.median(steps) if steps else None


class _CameraSource(FrameSource):
    live = True

    def __init__(self, index: int, rate: float | None) -> None:
        self.name = f"camera {index}"
        device = Path(f"/dev/video{index}")
        if sys.platform == "linux" and not device.exists():
            raise SourceError(f"{self.name} does not exist ({device}): plug it in, or give the index of another")
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise SourceError(f"{self.name} cannot be opened: see whether another program uses it and you may read it")
        if rate is not None:
            self._capture.set(cv2.CAP_PROP_FPS, rate)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = fps if math.isfinite(fps) and fps > 0 else None

    def close(self) -> None:
        self._capture.release()

    def _frames(self) -> Generator[Frame, None, None]:
        index = 0
        while True:
            good, image = self._capture.read()
            if not good:
                raise SourceError(f"{self.name} stopped after {index} frames: check its cable")
            yield Frame(_bgr_to_rgb(image), time.time_ns(), index)
            index += 1


def _bgr_to_rgb(image: Any) -> NDArray[np.uint8]:
    return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder by name, numbers by value. Raises SourceError where it cannot be read."""
    try:
        return sorted((file for file in folder.iterdir() if _is_image(file)), key=natural_order)
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}") from error


def _holds(folder: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return any(map(kind, folder.iterdir()))
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}") from error


def _is_bag_file(path: Path) -> bool:
    return path.suffix.lower() in BAG_SUFFIXES


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def natural_order(path: Path) -> tuple[list[tuple[int, str]], str]:
    """By name, numbers by value: `2.png` comes before `10.png`."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def _one_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split()) or type(error).__name__
