"""The messages that a segmentation leaves in a bag, as their CDR bytes."""

from __future__ import annotations

import bisect
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import QosDurability

from stmem_ros.bag.io.reader import IMAGE, Bag, Message
from stmem_ros.bag.io.ros1 import LATCHED
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

    def _serialize(self, kind: str, stamp: Stamp, frame_id: str, **fields: Any) -> memoryview:
        types = self._store.types
        time = types["builtin_interfaces/msg/Time"](sec=stamp[0], nanosec=stamp[1])
        header = types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)
        data: memoryview = self._store.serialize_cdr(types[kind](header=header, **fields), kind)
        return data


class CameraInfos:
    """A camera's calibration over its bag. What repeats, as most do, is kept once."""

    def __init__(self, bag: Bag) -> None:
        self._bag = bag
        self._kinds: dict[tuple[bytes, bytes], int] = {}
        self._size_of: list[tuple[int, int]] = []
        self._messages: list[bytes] = []
        self._found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._sorted = False

    def add(self, message: Message) -> None:
        """Raises BagError where it is damaged."""
        data = message.data
        number = self._kinds.setdefault((data[: _STAMP.start], data[_STAMP.stop :]), len(self._messages))
        if number == len(self._messages):
            info = self._bag.decode(message)
            self._messages.append(data)
            self._size_of.append((info.height, info.width))
        self._found.setdefault(self._size_of[number], []).append((message.stamp_ns, number))
        self._sorted = False

    def at(self, stamp_ns: int, size: tuple[int, int], stamp: Stamp) -> bytes | None:
        """The one nearest to `stamp_ns` for images `(height, width)`, its header's stamp replaced; None for none."""
        if not self._sorted:
            for each in self._found.values():
                each.sort()
            self._sorted = True
        found = self._found.get(size)
        if not found:
            return None
        place = bisect.bisect_left(found, (stamp_ns, 0))
        near = found[max(place - 1, 0) : place + 1]
        _, number = min(near, key=lambda entry: abs(entry[0] - stamp_ns))
        data = self._messages[number]
        order = "<" if data[1] & 1 else ">"
        return data[: _STAMP.start] + struct.pack(f"{order}iI", *stamp) + data[_STAMP.stop :]
