"""The messages that a segmentation leaves in a bag, as their CDR bytes."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import QosDurability

from stmem_ros.bag.io.reader import IMAGE, Bag, BagError, Message
from stmem_ros.bag.io.ros1 import LATCHED
from stmem_ros.camera_info import covered, fitted, scaled
from stmem_ros.labels import LabelSet

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
LABEL_INFO = "vision_msgs/msg/LabelInfo"

# As the node's: reliable, volatile, depth 5.
OUTPUT_QOS = LATCHED._replace(depth=5, durability=QosDurability.VOLATILE)
# A CDR message is 4 bytes that say how it is written, then its fields; a header's stamp is the first of them.
_STAMP = slice(4, 12)

Stamp = tuple[int, int]


class MessageMaker:
    """Serialises with the types of one bag; a stamp is `(sec, nanosec)`."""

    def __init__(self, typestore: Any) -> None:
        self._store = typestore

    def image(self, pixels: NDArray[np.uint8], encoding: str, stamp: Stamp, frame_id: str) -> memoryview:
        """An Image of `(H, W)` (`mono8`) or `(H, W, 3)` (`rgb8`) uint8; its rows are not padded."""
        height, width = pixels.shape[:2]
        data = np.ascontiguousarray(pixels).reshape(-1)
        fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0}
        return self._serialize(IMAGE, stamp, frame_id, **fields, step=data.size // height, data=data)

    def label_info(self, labels: LabelSet, stamp: Stamp) -> memoryview:
        kind = self._store.types["vision_msgs/msg/VisionClass"]
        classes = [kind(class_id=number, class_name=name) for number, name in enumerate(labels.names)]
        return self._serialize(LABEL_INFO, stamp, "", class_map=classes, threshold=0.0)

    def camera_info(self, info: Any, size: tuple[int, int], stamp: Stamp, frame_id: str) -> memoryview:
        """A CameraInfo scaled to images of `size` `(height, width)`, as `stmem_ros.camera_info.scaled` does."""
        data: memoryview = self._store.serialize_cdr(scaled(info, size, self._header(stamp, frame_id)), CAMERA_INFO)
        return data

    def _serialize(self, kind: str, stamp: Stamp, frame_id: str, **fields: Any) -> memoryview:
        header = self._header(stamp, frame_id)
        data: memoryview = self._store.serialize_cdr(self._store.types[kind](header=header, **fields), kind)
        return data

    def _header(self, stamp: Stamp, frame_id: str) -> Any:
        types = self._store.types
        time = types["builtin_interfaces/msg/Time"](sec=stamp[0], nanosec=stamp[1])
        return types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


class CameraInfos:
    """A camera's calibration over its bag. What repeats, as most do, is kept once."""

    def __init__(self, bag: Bag) -> None:
        self._bag, self._maker = bag, MessageMaker(bag.typestore)
        self._kinds: dict[tuple[bytes, bytes], int] = {}
        self._infos: list[Any] = []
        # By the size that they are for, stamps and numbers.
        self._found: dict[tuple[float, float], list[tuple[int, int]]] = {}
        self._sorted = False

    def add(self, message: Message) -> None:
        """Raises BagError where it is damaged."""
        data = message.data
        number = self._kinds.setdefault((data[: _STAMP.start], data[_STAMP.stop :]), len(self._infos))
        if number == len(self._infos):
            try:
                self._infos.append(self._bag.decode(message))
            except BagError:
                del self._kinds[data[: _STAMP.start], data[_STAMP.stop :]]
                raise
        self._found.setdefault(covered(self._infos[number]), []).append((message.stamp_ns, number))
        self._sorted = False

    def at(self, stamp_ns: int, size: tuple[int, int], stamp: Stamp, frame_id: str) -> memoryview:
        """The one nearest to `stamp_ns` for images `(height, width)`, scaled to them, with the image's header.

        Those of just that size go before others of the same shape, which the node takes too.
        Raises ValueError, which says why, where there is none.
        """
        if not self._sorted:
            for each in self._found.values():
                each.sort()
            self._sorted = True
        if not self._found:
            raise ValueError("no message on it can be read")
        several = [size] if size in self._found else list(self._found)
        nearest = sorted(
            (self._nearest(each, stamp_ns) for each in several), key=lambda entry: abs(entry[0] - stamp_ns)
        )
        reason: ValueError | None = None
        for _, number in nearest:
            try:
                return self._maker.camera_info(fitted(self._infos[number], size), size, stamp, frame_id)
            except ValueError as error:
                reason = reason or error
        assert reason is not None
        raise reason

    def _nearest(self, size: tuple[float, float], stamp_ns: int) -> tuple[int, int]:
        found = self._found[size]
        place = bisect.bisect_left(found, (stamp_ns, 0))
        return min(found[max(place - 1, 0) : place + 1], key=lambda entry: abs(entry[0] - stamp_ns))
