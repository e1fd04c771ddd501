"""Listens to the camera's calibration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from stmem_ros.camera_info import fitted
from stmem_ros.node.camera import LOOK_PERIOD

# Best effort takes what either kind of publisher offers.
QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# Seconds in which a driver has published a calibration, if it does at all.
PATIENCE = 2.0


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
