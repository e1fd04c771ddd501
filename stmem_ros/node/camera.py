"""The image subscription: its type, and a reliability that fits whoever publishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

LOOK_PERIOD = 0.2


class Camera:
    """Subscribes to `image` (or `image/compressed`), keeping the newest message only.

    With reliability `auto` it subscribes once a publisher is there, reliably where every publisher
    offers that, else as best effort, which takes both kinds; it looks again when publishers change.
    """

    def __init__(self, node: Node, transport: str, reliability: str, callback: Callable[[Any], None]) -> None:
        self._node, self._callback = node, callback
        self._type = Image if transport == "raw" else CompressedImage
        # A compressed topic lies below the raw one, wherever that is remapped to.
        self.topic = node.resolve_topic_name("image") + ("" if transport == "raw" else "/compressed")
        self._subscription: Any = None
        self._timer: Any = None
        self.reliability: ReliabilityPolicy | None = None
        if reliability == "auto":
            self._timer = node.create_timer(LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
            self._look()
        else:
            chosen = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
            self._subscribe(chosen)

    def publishers(self) -> list[str]:
        """`node (reliability, type)` of each publisher on the topic."""
        return [
            f"{info.node_name} ({info.qos_profile.reliability.name.lower()}, {info.topic_type})"
            for info in self._node.get_publishers_info_by_topic(self.topic)
        ]

    def destroy(self) -> None:
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def _look(self) -> None:
        offered = {info.qos_profile.reliability for info in self._node.get_publishers_info_by_topic(self.topic)}
        if not offered:
            return
        reliable = offered == {ReliabilityPolicy.RELIABLE}
        wanted = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        if wanted != self.reliability:
            self._subscribe(wanted)

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability)
        self._subscription = self._node.create_subscription(self._type, self.topic, self._callback, profile)
        self.reliability = reliability
        self._node.get_logger().info(f"subscribed to {self.topic} ({reliability.name.lower().replace('_', ' ')})")
