"""Image files as arrays, and what the values of a label image mean: ids or colours become class ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmem_ros.decode import ImageError, decode_file
from stmem_ros.label_image import LabelFormatError, LabelImage, decode_label_file
from stmem_ros.used_bits import FULL, UsedBits

_LISTED = 5


ReadImage = Callable[[Path], NDArray[np.uint8]]


class DatasetError(Exception):
    """Data that cannot be used: one line naming the file or folder, the reason and what to do."""


class UnknownLabels(DatasetError):
    """A label image has values without a class; `found` says which, without advice."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}: {advice}")
        self.found = found


@dataclasses.dataclass(frozen=True)
class LabelCoding:
    """Which class each value of a label image is, IGNORE_INDEX for void.

    A value is an id 0..65535 or, where `colored`, an RGB colour as 0xRRGGBB.
    """

    classes: dict[int, int]
    colored: bool = False

    def decode(self, image: LabelImage, where: str) -> NDArray[np.uint8]:
        """`(H, W)` class ids; `where` names the image in errors.

        Raises DatasetError for colours where ids are due or the reverse, and for values that have no class.
        """
        try:
            raw = image.colors() if self.colored else image.ids()
        except LabelFormatError as error:
            raise DatasetError(f"{where} {error}") from error
        if raw is None:
            if self.colored:
                raise DatasetError(
                    f"{where} has no 8-bit colours, and the data set's labels are colours: if they are ids, give each "
                    "class in its YAML file label_ids, not label_colors"
                )
            raise DatasetError(
                f"{where} has colours, and the data set's labels are ids: give its YAML file label_colors, or label "
                "images of one channel"
            )
        if self.colored:
            values, classes = np.array(sorted(self.classes.items()), np.int32).T
            pixels = raw[..., 0].astype(np.int32) << 16 | raw[..., 1].astype(np.int32) << 8 | raw[..., 2]
            places = np.minimum(np.searchsorted(values, pixels), len(values) - 1)
            labels = np.where(values[places] == pixels, classes[places], -1)
        else:
            table = np.full(1 << 8 * raw.dtype.itemsize, -1, np.int16)
            fitting = {value: label for value, label in self.classes.items() if value < len(table)}
            table[list(fitting)] = list(fitting.values())
            pixels, labels = raw, table[raw]
        if labels.min() < 0:
            unknown = [int(value) for value in np.unique(pixels[labels < 0])]
            listed = ", ".join(map(self.text, unknown[:_LISTED]))
            more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
            found = f"{where} has {'colour' if self.colored else 'label id'} {listed}{more}, neither a class nor void"
            advice = "correct it, or" if self.colored else self._advice(pixels, unknown)
            raise UnknownLabels(found, f"{advice} the data set's YAML file")
        return labels.astype(np.uint8)

    def _advice(self, pixels: NDArray[Any], unknown: list[int]) -> str:
        """What to do about ids without a class; goes on with `the data set's YAML file`."""
        if unknown == [255] and set(np.unique(pixels)) <= {0, 255}:
            return "it is a mask of 0 and 255; say which classes these are with label_ids: [0] and label_ids: [255] in"
        if unknown[-1] > 255:
            return (
                "is it an image of instances or of depth? Give label images of classes, or list these ids as label_ids "
                "or void_ids in"
            )
        return "correct it, or list them as label_ids of a class or as void_ids in"

    def text(self, value: int) -> str:
        """A value for a person: `7`, or `(128, 64, 0)`."""
        return str((value >> 16, value >> 8 & 255, value & 255)) if self.colored else str(value)


def read_image(path: Path, used_bits: UsedBits = FULL) -> NDArray[np.uint8]:
    """`(H, W, 3)` RGB, upright. Raises DatasetError where the file cannot be read."""
    try:
        return decode_file(_read(path), used_bits)
    except ImageError as error:
        raise DatasetError(f"{path} is damaged or no image: {error}") from error


def read_label_image(path: Path) -> LabelImage:
    """A label image's own values. Raises DatasetError where the file cannot be read."""
    try:
        return decode_label_file(_read(path))
    except LabelFormatError as error:
        raise DatasetError(f"{path} {error}") from error


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
