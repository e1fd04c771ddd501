"""Pictures of a sequence, few and small: frames kept for the eye, and where labels flicker."""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stmem_ros.encode import encode_image
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from training.bag.frames import Labelled
from training.bag.result import Shot

WIDTH = 480
JPEG_QUALITY = 80
FLICKER_RED = (230, 30, 30)

Labels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, eq=False)
class Small:
    """A frame at the size of a picture; label images are ids."""

    stamp_ns: int
    image: NDArray[np.uint8]
    labels: Labels
    truth: Labels | None
    difference: Labels | None

    @classmethod
    def of(cls, labelled: Labelled, changed: NDArray[np.bool_] | None) -> Small:
        """`changed` are the pixels that did not keep their label since the frame before, where that is known."""
        frame, labels = labelled.frame, labelled.labels
        size = small_size(frame.image.shape)
        truth, difference = frame.truth, None
        if truth is not None:
            difference = np.where((truth == IGNORE_INDEX) | (truth == labels), IGNORE_INDEX, labels).astype(np.uint8)
        elif changed is not None:
            difference = np.where(changed, labels, IGNORE_INDEX).astype(np.uint8)
        parts = (None if ids is None else smaller(ids, size, cv2.INTER_NEAREST) for ids in (labels, truth, difference))
        own, true, wrong = parts
        assert own is not None
        return cls(frame.stamp_ns, smaller(frame.image, size, cv2.INTER_AREA), own, true, wrong)


class ShotKeeper:
    """Of a sequence of about `frames` frames at most `even` evenly over it, and the `worst`, each of another second."""

    def __init__(self, labels: LabelSet, frames: int, even: int, worst: int) -> None:
        self._palette = labels.lookup_table().ravel().tolist()
        self._even = {round(place) for place in np.linspace(0, frames - 1, min(even, frames))}
        self._count = worst
        self._shots: dict[int, Shot] = {}
        self._worst: dict[int, tuple[float, int, Small]] = {}

    def add(self, labelled: Labelled, changed: NDArray[np.bool_] | None, score: float | None) -> None:
        """The next frame; `score` is less where it is worse, None where nobody knows."""
        frame = labelled.frame
        if frame.number in self._even:
            self._shots[frame.number] = self._shot(Small.of(labelled, changed))
        if score is None or not self._count:
            return
        second = frame.stamp_ns // 1_000_000_000
        bar = self._worst.get(second)
        if bar is None and len(self._worst) >= self._count:
            bar = max(self._worst.values(), key=lambda entry: entry[0])
        if bar is not None and score >= bar[0]:
            return
        self._worst[second] = score, frame.number, Small.of(labelled, changed)
        if len(self._worst) > self._count:
            del self._worst[max(self._worst, key=lambda place: self._worst[place][0])]

    def shots(self) -> tuple[Shot, ...]:
        """In the order of the frames."""
        worst = {number: self._shot(small) for _, number, small in self._worst.values() if number not in self._shots}
        return tuple(shot for _, shot in sorted((self._shots | worst).items()))

    def _shot(self, small: Small) -> Shot:
        truth, difference = (None if ids is None else self._png(ids) for ids in (small.truth, small.difference))
        return Shot(small.stamp_ns, jpeg(small.image), self._png(small.labels), truth, difference)

    def _png(self, ids: Labels) -> bytes:
        picture = Image.fromarray(ids)
        picture.putpalette(self._palette)
        data = io.BytesIO()
        picture.save(data, "PNG")
        return data.getvalue()


class FlickerMap:
    """How often each place of the picture did not keep its label along the motion, over the camera's mean image."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._images = 0

    def add(self, labelled: Labelled, changed: NDArray[np.bool_] | None) -> None:
        """The next frame; `changed` is None where nothing was compared. All sizes become the first one."""
        motion = labelled.frame.motion
        if changed is None or motion is None:
            return
        if self._size is None:
            self._size = small_size(changed.shape)
            shape = self._size
            self._changed, self._seen = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            self._image = np.zeros((*shape, 3), np.float32)
        for total, mask in ((self._changed, changed), (self._seen, motion.visible)):
            total += smaller(mask.astype(np.uint8) * 255, self._size, cv2.INTER_AREA)
        # The mean needs few of them.
        if labelled.frame.number % 5 == 1 or not self._images:
            self._image += smaller(labelled.frame.image, self._size, cv2.INTER_AREA)
            self._images += 1

    def picture(self) -> bytes | None:
        """A JPEG, the redder the oftener; None where nothing could be followed."""
        if self._size is None:
            return None
        share = np.divide(self._changed, self._seen, out=np.zeros_like(self._changed), where=self._seen > 0)
        most = max(float(np.quantile(share, 0.995)), 1e-6)
        weight = np.clip(share / most, 0, 1)[..., None]
        grey = self._image.mean(-1, keepdims=True) / self._images
        return jpeg((grey * (1 - weight) + np.array(FLICKER_RED, np.float32) * weight).astype(np.uint8))


def small_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a picture: at most WIDTH columns, never larger than it is."""
    height, width = shape[:2]
    return (height, width) if width <= WIDTH else (max(round(height * WIDTH / width), 1), WIDTH)


def smaller(image: NDArray[np.uint8], size: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=interpolation)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Of `(H, W, 3)` RGB."""
    return encode_image(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]).tobytes()
