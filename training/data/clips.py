"""Windows of frames around a frame: what STF looks at, in training as in evaluation."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from pathlib import Path

from training.data.dataset import DatasetSpec, LabelledFrame
from training.ranges import COUNT


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Which frames stand beside a frame in its window.

    Args:
        offset: neighbours are at least this many frame numbers apart; 1 takes the next ones there are
        reach: seconds within which the next frame must follow to be a neighbour; no limit where the
            data set has no frame_rate
    """

    offset: int = 1
    reach: float = 0.5

    def __post_init__(self) -> None:
        if self.offset not in COUNT:
            raise ValueError(f"window.offset is {self.offset}; neighbours are at least 1 frame number apart")
        if not self.reach > 0:
            raise ValueError(f"window.reach is {self.reach}; it must be above 0 seconds")


class Windows:
    """Finds windows in sequences of frames: `images` maps each sequence to its frames by number, labelled or not."""

    def __init__(self, images: Mapping[str, Mapping[int, Path]], spec: DatasetSpec, config: WindowConfig) -> None:
        self._images = images
        self.read_image = spec.read_image
        self._numbers = {sequence: sorted(frames) for sequence, frames in images.items()}
        self._offset = config.offset
        self._reach = float("inf") if spec.frame_rate is None else config.reach * spec.frame_rate

    def around(self, frame: LabelledFrame, length: int, query: int) -> list[Path]:
        """The images of a window of `length` frames, oldest first, whose place `query` is `frame` itself.

        A neighbour that is missing, or too far away in time, is the nearest frame of the window again: at
        the beginning of a sequence this is what a stream does. Raises ValueError where `query` is no place.
        """
        if not 0 <= query < length:
            raise ValueError(f"query is {query}; it must be a place in a window of {length} frames")
        before = self._neighbors(frame, query, -1)
        after = self._neighbors(frame, length - 1 - query, +1)
        return [*reversed(before), frame.image, *after]

    def _neighbors(self, frame: LabelledFrame, count: int, direction: int) -> list[Path]:
        """`count` images beside `frame`, nearest first."""
        numbers, found = self._numbers[frame.sequence], [frame.number]
        while len(found) <= count:
            last = found[-1]
            if direction > 0:
                place = bisect_left(numbers, last + self._offset)
            else:
                place = bisect_right(numbers, last - self._offset) - 1
            there = 0 <= place < len(numbers) and abs(numbers[place] - last) <= max(self._reach, self._offset)
            found.append(numbers[place] if there else last)
        # The frame's own file may lie elsewhere than its sequence's (Cityscapes): the label belongs to that one.
        images = self._images[frame.sequence]
        return [frame.image if number == frame.number else images[number] for number in found[1:]]
