"""The camera beside its labels, as a video to look at."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.labels import LabelSet, colorize
from stmem_ros.video import TimedVideo, legend

# Of the whole video: what every player shows, and the size up to which MPEG-4 is defined.
LARGEST_WIDTH = 1920
LONGEST_STILL = 5.0
RATES = (1.0, 120.0)


class OverlayVideo:
    """An `.mp4` with the camera's image on the left and the class colours blended over it on the right.

    It runs at `rate` frames a second in the stream's own time: a frame stays until the next one's stamp, at most 5
    seconds. It is written whole or not at all: a context manager that leaves no file where its block fails. `note` says
    where it is none that browsers play.
    """

    def __init__(self, path: Path, labels: LabelSet, rate: float, alpha: float = 0.5, with_legend: bool = True) -> None:
        """`alpha` 0..1 is the share of the class colours. Raises VideoError, ValueError."""
        self._video = TimedVideo(path, min(max(rate, RATES[0]), RATES[1]), LONGEST_STILL)
        self._labels, self._alpha, self._with_legend = labels, alpha, with_legend
        self._table = labels.lookup_table()
        self._legend: NDArray[np.uint8] | None = None

    def add(self, image: NDArray[np.uint8], labels: NDArray[np.uint8], stamp_ns: int) -> None:
        """One frame: `image` `(H, W, 3)` uint8 RGB and the class ids `(H, W)` of it, void (255) black.

        Raises VideoError where the file cannot be written, ValueError where the sizes differ.
        """
        if image.shape[:2] != labels.shape:
            raise ValueError(f"the image is {image.shape[:2]}, its labels are {labels.shape}")
        overlay = cv2.addWeighted(
            colorize(labels, self._table), self._alpha, np.ascontiguousarray(image), 1 - self._alpha, 0
        )
        picture = np.hstack([image, overlay])
        if picture.shape[1] > LARGEST_WIDTH:
            height = round(picture.shape[0] * LARGEST_WIDTH / picture.shape[1])
            picture = cv2.resize(picture, (LARGEST_WIDTH, height), interpolation=cv2.INTER_AREA)
        if self._with_legend:
            if self._legend is None or self._legend.shape[1] != picture.shape[1]:
                self._legend = legend(self._labels, picture.shape[1])
            picture = np.vstack([picture, self._legend])
        self._video.add(picture, stamp_ns)

    @property
    def note(self) -> str:
        """As TimedVideo's."""
        return self._video.note

    def close(self) -> None:
        """Put the file into its place. Raises VideoError where it is not whole."""
        self._video.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._video.discard()

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._video.__exit__(kind, error, trace)


def frame_rate(stamps_ns: Iterable[int], otherwise: float = 15.0) -> float:
    """Frames a second by the median step of the stamps; `otherwise` where fewer than two advance."""
    steps = [later - earlier for earlier, later in pairwise(sorted(stamps_ns)) if later > earlier]
    return 1e9 / median(steps) if steps else otherwise
