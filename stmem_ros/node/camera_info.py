"""The camera's calibration, scaled as the labels are."""

from __future__ import annotations

import array
import copy
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from stmem_ros.node.camera import COMPRESSED, LOOK_PERIOD

# Best effort takes what either kind of publisher offers.
QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Of a size in a message.
LARGEST = 2**32 - 1


def beside(image_topic: str) -> str:
    """The topic of the calibration of the images on a topic, as camera drivers name it."""
    return image_topic.removesuffix(COMPRESSED).rpartition("/")[0] + "/camera_info"


def scaled(info: CameraInfo, size: tuple[int, int], header: Header) -> CameraInfo:
    """`info` for an image of `size` `(height, width)`, as image_proc scales it: focal lengths, centres and region.

    The distortion and the rotation stay. The image that `info` is of is its region of interest, binned.
    Raises ValueError where a size comes out larger than a message holds.
    """
    height, width = size
    across = width * max(info.binning_x, 1) / max(info.roi.width or info.width, 1)
    down = height * max(info.binning_y, 1) / max(info.roi.height or info.height, 1)
    roi = info.roi
    sizes = [round(value * across) for value in (info.width, roi.x_offset, roi.width)]
    sizes += [round(value * down) for value in (info.height, roi.y_offset, roi.height)]
    if max(sizes) > LARGEST:
        raise ValueError(
            f"{info.width}x{info.height} with a region of {roi.width}x{roi.height} cannot be scaled to {width}x{height}"
        )
    result = copy.deepcopy(info)
    result.header = header
    result.width, result.roi.x_offset, result.roi.width = sizes[:3]
    result.height, result.roi.y_offset, result.roi.height = sizes[3:]
    k, p = (array.array("d", values) for values in (info.k, info.p))
    for row, factor in ((0, across), (1, down)):
        for column in range(3):
            k[3 * row + column] *= factor
        for column in range(4):
            p[4 * row + column] *= factor
    result.k, result.p = k, p
    return result


class CameraInfoListener:
    """The newest calibration on a topic, listened to while somebody wants it."""

    def __init__(self, node: Node, topic: str, wanted: Callable[[], bool]) -> None:
        self._node, self._wanted = node, wanted
        self.topic = node.resolve_topic_name(topic)
        self.newest: CameraInfo | None = None
        self._subscription: Any = None
        self._timer = node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        wanted = self._wanted()
        if wanted and self._subscription is None:
            self._subscription = self._node.create_subscription(CameraInfo, self.topic, self._on_info, QOS)
        elif not wanted and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = self.newest = None

    def _on_info(self, info: CameraInfo) -> None:
        self.newest = info

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
