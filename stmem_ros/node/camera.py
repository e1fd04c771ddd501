"""The image subscription of one camera: its type, and a reliability that fits whoever publishes."""

from __future__ import annotations

from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from stmem_ros.files import one_line
from stmem_ros.node.qos import RELIABILITIES, Receive, Warn, create_input, overridden_reliability, publishers

LOOK_PERIOD = 0.2
COMPRESSED = "/compressed"
TYPES = {Image: "sensor_msgs/msg/Image", CompressedImage: "sensor_msgs/msg/CompressedImage"}


class Camera:
    """Subscribes to a topic of raw or compressed images, keeping the newest message only.

    `transport` `auto` takes what is published: raw images on the topic, else compressed ones on it, else those on
    `<topic>/compressed`. With `reliability` `auto` it subscribes reliably where every publisher offers that, else as
    best effort, which takes both kinds. Either way it subscribes once a publisher is there, and looks again when
    publishers change. QoS overrides are of the topic that is subscribed to.
    """

    def __init__(self, node: Node, topic: str, transport: str, reliability: str, callback: Receive, warn: Warn) -> None:
        self._node, self._callback, self._warn = node, callback, warn
        self._candidates = candidates(node.resolve_topic_name(topic), transport)
        # Where it listens, or would.
        self.topic, self._type = self._candidates[0]
        self._asked = reliability
        self._subscription: Any = None
        self.reliability: ReliabilityPolicy | None = None
        wanted = self._wanted(self.topic)
        if wanted is not None and len(self._candidates) == 1:
            self._subscribe(self.topic, self._type, wanted)
        self._look()
        self._timer = node.create_timer(LOOK_PERIOD, self._look_again, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publishers(self) -> list[str]:
        """`NODE (RELIABILITY)` of each publisher on the topic, or on any of those that it may be."""
        topics = dict.fromkeys(topic for topic, _ in self._candidates)
        chosen = [self.topic] if self._subscription is not None else topics
        return [text for topic in chosen for text in publishers(self._node, topic)]

    def where(self) -> str:
        """The topic, or those that it may be, for people."""
        if self._subscription is not None:
            return self.topic
        return " or ".join(dict.fromkeys(topic for topic, _ in self._candidates))

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def _wanted(self, topic: str) -> ReliabilityPolicy | None:
        """What the user wants of a topic; None: whatever fits. Raises ValueError."""
        return RELIABILITIES.get(overridden_reliability(self._node, topic) or self._asked)

    def _look_again(self) -> None:
        try:
            self._look()
        except Exception as error:
            # Whatever left a timer's callback would end the node.
            topics = " or ".join(dict.fromkeys(topic for topic, _ in self._candidates))
            self._warn(f"subscribe {topics}", f"cannot subscribe to {topics}: {one_line(error)}")

    def _look(self) -> None:
        """Subscribe where somebody publishes. Raises where that cannot be, such as for an override that is none."""
        current = (self.topic, self._type) if self._subscription is not None else None
        for topic, kind in [current, *self._candidates] if current else self._candidates:
            offered = {
                info.qos_profile.reliability
                for info in self._node.get_publishers_info_by_topic(topic)
                if info.topic_type == TYPES[kind]
            }
            if not offered:
                continue
            reliable = offered == {ReliabilityPolicy.RELIABLE}
            auto = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
            reliability = self._wanted(topic) or auto
            if (topic, kind) != current or reliability != self.reliability:
                self._subscribe(topic, kind, reliability)
            return

    def _subscribe(self, topic: str, kind: type, reliability: ReliabilityPolicy) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        self._subscription = create_input(self._node, kind, topic, qos(reliability), self._callback, self._warn)
        self.topic, self._type, self.reliability = topic, kind, reliability
        self._node.get_logger().info(f"subscribed to {topic} ({reliability.name.lower().replace('_', ' ')})")


def qos(reliability: ReliabilityPolicy) -> QoSProfile:
    """The newest image and no other."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability)


def candidates(topic: str, transport: str) -> list[tuple[str, type]]:
    """Where a camera's images may be, and of which type, the preferred place first."""
    if topic.endswith(COMPRESSED):
        # Somebody named the compressed topic itself.
        below = [(topic, CompressedImage)]
    else:
        below = [(topic + COMPRESSED, CompressedImage), (topic, CompressedImage)]
    if transport == "raw":
        return [(topic, Image)]
    if transport == "compressed":
        return below
    return [(topic, Image), *reversed(below)]
