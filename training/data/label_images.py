"""Image files as arrays, and what the values of a label image mean: ids or colours become class ids."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_LISTED = 5


class DatasetError(Exception):
    """Data that cannot be used: one line naming the file or folder, the reason and what to do."""


@dataclasses.dataclass(frozen=True)
class LabelCoding:
    """Which class each value of a label image is, IGNORE_INDEX for void.

    A value is an id 0..255 or, where `colored`, an RGB colour as 0xRRGGBB.
    """

    classes: dict[int, int]
    colored: bool = False

    def decode(self, raw: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """`(H, W)` ids, or `(H, W, 3)` RGB where `colored`, to `(H, W)` class ids; `where` names the image in errors.

        Raises DatasetError for another shape or type, and for values that have no class.
        """
        if raw.dtype != np.uint8 or raw.ndim != (3 if self.colored else 2):
            kind = "colours has three or four 8-bit channels" if self.colored else "ids has one 8-bit channel"
            hint = "" if self.colored else " (for colours the data set's YAML file must give label_colors)"
            raise DatasetError(f"{where} has shape {raw.shape} and type {raw.dtype}; a label image of {kind}{hint}")
        if self.colored:
            values, classes = np.array(sorted(self.classes.items()), np.int32).T
            pixels = raw[..., 0].astype(np.int32) << 16 | raw[..., 1].astype(np.int32) << 8 | raw[..., 2]
            places = np.minimum(np.searchsorted(values, pixels), len(values) - 1)
            labels = np.where(values[places] == pixels, classes[places], -1)
        else:
            table = np.full(256, -1, np.int16)
            table[list(self.classes)] = list(self.classes.values())
            pixels, labels = raw, table[raw]
        if labels.min() < 0:
            unknown = [self.text(int(value)) for value in np.unique(pixels[labels < 0])]
            more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
            raise DatasetError(
                f"{where} has {'colour' if self.colored else 'label id'} {', '.join(unknown[:_LISTED])}{more}, "
                "neither a class nor void: correct it, or the data set's YAML file"
            )
        return labels.astype(np.uint8)

    def text(self, value: int) -> str:
        """A value for a person: `7`, or `(128, 64, 0)`."""
        return str((value >> 16, value >> 8 & 255, value & 255)) if self.colored else str(value)


def read_image(path: Path) -> NDArray[np.uint8]:
    """`(H, W, 3)` RGB. Raises DatasetError where the file cannot be read."""
    return np.ascontiguousarray(_read(path, cv2.IMREAD_COLOR)[..., ::-1])


def read_label_image(path: Path) -> NDArray[Any]:
    """A label image's own values, `(H, W)` or `(H, W, 3)` RGB. Raises DatasetError where the file cannot be read."""
    return to_rgb(_read(path, cv2.IMREAD_UNCHANGED))


def to_rgb(image: NDArray[Any]) -> NDArray[Any]:
    """OpenCV's BGR or BGRA to RGB; an image of one channel as it is."""
    return image[..., 2::-1] if image.ndim == 3 else image


def _read(path: Path, flags: int) -> NDArray[Any]:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    # From memory: cv2.imread fills what is missing of a truncated JPEG with grey, cv2.imdecode refuses it.
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise DatasetError(f"{path} is damaged or no image")
    return image
