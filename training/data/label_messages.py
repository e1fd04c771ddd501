"""Label images as ROS messages carry them, to class ids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmem_ros.label_image import LabelFormatError, LabelImage, decode_label_message
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from training.data.dataset import DatasetError, DatasetSpec
from training.data.label_images import LabelCoding
from training.data.label_info import LabelInfo, named


class LabelReader:
    """Label messages to class ids: those of a data set, or the ids as they come where there is none.

    `info` is the class list that the bag has; a data set stands before it.
    """

    def __init__(self, spec: DatasetSpec | None, info: LabelInfo | None = None) -> None:
        self._spec, self._info = spec, info if spec is None else None
        self._largest = -1
        # True once a colour image was no palette's, but ids in three equal channels.
        self._gray_ids = False

    def read(self, message: Any, where: str) -> NDArray[np.uint8]:
        """`(H, W)` ids, IGNORE_INDEX for void. Raises ImageError where damaged, DatasetError where of no use."""
        try:
            image = decode_label_message(message)
        except LabelFormatError as error:
            raise DatasetError(f"{where} {error}") from error
        if self._spec is not None:
            return self._decode(self._spec, image, where)
        ids = image.ids()
        if ids is None:
            raise DatasetError(f"{where} has colours: say with --dataset which classes they are")
        if ids.max() > IGNORE_INDEX:
            raise DatasetError(f"{where} has label id {ids.max()}: say with --dataset which class that is")
        labels = ids.astype(np.uint8)
        self._largest = max([self._largest, *(int(label) for label in np.unique(labels) if label != IGNORE_INDEX)])
        if self._info is not None and self._largest > max(self._info.names):
            raise DatasetError(
                f"{where} has label id {self._largest}, and {self._info.where} lists classes up to "
                f"{max(self._info.names)}: say with --dataset which classes they are"
            )
        return labels

    def _decode(self, spec: DatasetSpec, image: LabelImage, where: str) -> NDArray[np.uint8]:
        """By what the values mean in the data set's files, or else as class ids or colours of its classes."""
        ids, colored = image.ids(), image.pixels.ndim == 3
        if spec.coding.colored and (colored or image.palette is not None):
            return spec.coding.decode(image, where)
        if colored and not self._gray_ids:
            try:
                return _palette(spec).decode(image, where)
            except DatasetError:
                if ids is None:
                    raise
        self._gray_ids = self._gray_ids or colored
        own = {label: label for label in range(len(spec.labels))} if spec.coding.colored else spec.coding.classes
        return LabelCoding({IGNORE_INDEX: IGNORE_INDEX} | own).decode(image, where)

    def labels(self) -> LabelSet:
        """The data set's classes, the bag's, or a class for every id up to the largest read. Raises DatasetError."""
        if self._spec is not None:
            return self._spec.labels
        if self._info is not None:
            return self._info.labels()
        if self._largest < 0:
            raise DatasetError(f"the label images hold nothing but {IGNORE_INDEX}, which is void")
        return named([f"class_{label}" for label in range(self._largest + 1)])


def _palette(spec: DatasetSpec) -> LabelCoding:
    """The colours that the data set's classes are drawn in; black is void."""
    palette = [red << 16 | green << 8 | blue for red, green, blue in spec.labels.palette]
    if len(set(palette)) < len(palette):
        raise DatasetError(f"classes of data set {spec.name} share a colour: record label ids, or change its palette")
    return LabelCoding({0: IGNORE_INDEX} | {color: label for label, color in enumerate(palette)}, colored=True)
