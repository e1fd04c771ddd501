"""Label images as ROS messages carry them, to class ids."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.decode import decode_compressed, decode_image
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from training.data.dataset import DatasetError, DatasetSpec
from training.data.label_images import LabelCoding, to_rgb
from training.data.label_info import LabelInfo, named

ID_ENCODINGS = ("mono8", "8UC1")
COLOR_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4")


class LabelReader:
    """Label messages to class ids: those of a data set, or the ids as they come where there is none.

    `info` is the class list that the bag has; a data set stands before it.
    """

    def __init__(self, spec: DatasetSpec | None, info: LabelInfo | None = None) -> None:
        self._spec, self._info = spec, info if spec is None else None
        self._largest = -1

    def read(self, message: Any, where: str) -> NDArray[np.uint8]:
        """`(H, W)` ids, IGNORE_INDEX for void. Raises ImageError where damaged, DatasetError where of no use."""
        raw = _raw_labels(message, where)
        if self._spec is not None:
            return _coding(self._spec, raw.ndim == 3).decode(raw, where)
        if raw.ndim == 3:
            raise DatasetError(f"{where} has colours: say with --dataset which classes they are")
        self._largest = max([self._largest, *(int(label) for label in np.unique(raw) if label != IGNORE_INDEX)])
        if self._info is not None and self._largest > max(self._info.names):
            raise DatasetError(
                f"{where} has label id {self._largest}, and {self._info.where} lists classes up to "
                f"{max(self._info.names)}: say with --dataset which classes they are"
            )
        return raw

    def labels(self) -> LabelSet:
        """The data set's classes, the bag's, or a class for every id up to the largest read. Raises DatasetError."""
        if self._spec is not None:
            return self._spec.labels
        if self._info is not None:
            return self._info.labels()
        if self._largest < 0:
            raise DatasetError(f"the label images hold nothing but {IGNORE_INDEX}, which is void")
        return named([f"class_{label}" for label in range(self._largest + 1)])


def _raw_labels(message: Any, where: str) -> NDArray[np.uint8]:
    """`(H, W)` ids or `(H, W, 3)` RGB colours."""
    if hasattr(message, "encoding"):
        if message.encoding not in ID_ENCODINGS + COLOR_ENCODINGS:
            known = ", ".join(ID_ENCODINGS + COLOR_ENCODINGS)
            raise DatasetError(f"{where} has encoding {message.encoding!r}; label images may have {known}")
        image = decode_image(message)
        return image[..., 0] if message.encoding in ID_ENCODINGS else image
    data = np.frombuffer(message.data, np.uint8)
    if data[:2].tobytes() == b"\xff\xd8":
        raise DatasetError(f"{where} is a JPEG, which alters labels: record them raw or as PNG")
    decode_compressed(message)
    raw = to_rgb(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
    if raw.dtype != np.uint8:
        raise DatasetError(f"{where} has values of type {raw.dtype}; label images have 8 bits a channel")
    return raw


def _coding(spec: DatasetSpec, colored: bool) -> LabelCoding:
    """What a topic's values mean: what they mean in the data set's files, or else class ids or palette colours."""
    if not colored:
        classes = {label: label for label in range(len(spec.labels))} if spec.coding.colored else spec.coding.classes
        return LabelCoding(classes | {IGNORE_INDEX: IGNORE_INDEX})
    if spec.coding.colored:
        return spec.coding
    palette = [red << 16 | green << 8 | blue for red, green, blue in spec.labels.palette]
    if len(set(palette)) < len(palette):
        raise DatasetError(f"classes of data set {spec.name} share a colour: record label ids, or change its palette")
    return LabelCoding({0: IGNORE_INDEX} | {color: label for label, color in enumerate(palette)}, colored=True)
