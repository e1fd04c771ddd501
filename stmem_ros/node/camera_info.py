"""The camera's calibration, scaled as the labels are."""

from __future__ import annotations

import array
import copy
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from stmem_ros.node.camera import COMPRESSED, LOOK_PERIOD

# Best effort takes what either kind of publisher offers.
QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Of a size in a message.
LARGEST = 2**32 - 1
# Seconds in which a driver has published a calibration, if it does at all.
PATIENCE = 2.0


def beside(image_topic: str) -> str:
    """The topic of the calibration of the images on a topic, as camera drivers name it."""
    return image_topic.removesuffix(COMPRESSED).rpartition("/")[0] + "/camera_info"


def covered(info: CameraInfo) -> tuple[float, float]:
    """`(height, width)` of the image that `info` is of: its region of interest, binned."""
    height = (info.roi.height or info.height) / max(info.binning_y, 1)
    width = (info.roi.width or info.width) / max(info.binning_x, 1)
    return height, width


def fitted(info: CameraInfo, image: tuple[int, int]) -> CameraInfo:
    """`info` for the camera's `image` `(height, width)`, at whatever size; where it has none, it gets the image's.

    Drivers of cameras that are not calibrated leave it out. Raises ValueError for an image of another shape: scaled to
    the smaller one's longer side, the other one's shorter side is more than a pixel off, which is more than rounding.
    """
    height, width = image
    if not (info.width and info.height):
        info = copy.deepcopy(info)
        info.height, info.width = image
        info.roi, info.binning_x, info.binning_y = RegionOfInterest(), 0, 0
    own_height, own_width = covered(info)
    if abs(own_width * height - width * own_height) > max(own_width, own_height, width, height):
        own = f"{round(own_width)}x{round(own_height)}"
        if (own_height, own_width) != (info.height, info.width):
            own += f" (what roi and binning leave of {info.width}x{info.height})"
        raise ValueError(
            f"it is for images of {own}, and the camera's are {width}x{height}, another shape; calibrate the camera at "
            f"{width}x{height} (what the driver crops belongs into roi), or name the topic with the calibration of "
            "these images in camera_info_topics"
        )
    return info


def scaled(info: CameraInfo, size: tuple[int, int], header: Header) -> CameraInfo:
    """`info` for an image of `size` `(height, width)`, as image_proc scales it: focal lengths, centres and region.

    The distortion and the rotation stay. `info` has a size, as `fitted` gives one.
    Raises ValueError where a size comes out larger than a message holds.
    """
    height, width = size
    own_height, own_width = covered(info)
    across, down = width / own_width, height / own_height
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
        self._since: float | None = None
        self._timer = node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def of(self, image: tuple[int, int]) -> CameraInfo | None:
        """The newest, for images of `(height, width)`; None before one came. Raises ValueError as `fitted` does."""
        # Once: the worker asks, and the executor's thread changes it.
        info = self.newest
        return None if info is None else fitted(info, image)

    def is_overdue(self) -> bool:
        """Whether none came though it was listened for as long as one takes."""
        since = self._since
        return self.newest is None and since is not None and time.monotonic() - since >= PATIENCE

    def _look(self) -> None:
        wanted = self._wanted()
        if wanted and self._subscription is None:
            self._since = time.monotonic()
            self._subscription = self._node.create_subscription(CameraInfo, self.topic, self._on_info, QOS)
        elif not wanted and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = self.newest = self._since = None

    def _on_info(self, info: CameraInfo) -> None:
        self.newest = info

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
