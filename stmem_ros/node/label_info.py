"""What the numbers in label images mean, as vision_msgs/LabelInfo: latched, so that who comes late knows too."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from stmem_ros.labels import LabelSet
from stmem_ros.node.qos import Warn, create_output

TOPIC = "label_info"
# Also where the message is not installed.
TYPE = "vision_msgs/msg/LabelInfo"
MEANING = "names of the class ids; published again when the model changes; needs vision_msgs"
QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MISSING = (
    "label_info is not published, and Nav2's semantic layer needs it: install vision_msgs "
    "(apt install ros-$ROS_DISTRO-vision-msgs)"
)


def vision_messages() -> ModuleType | None:
    """vision_msgs, where it is installed."""
    try:
        return importlib.import_module("vision_msgs.msg")
    except ImportError:
        return None


def build(messages: ModuleType, labels: LabelSet, header: Header) -> Any:
    """A LabelInfo of all classes, made of the types in `messages`; a label has no threshold: it is the likeliest."""
    classes = [messages.VisionClass(class_id=index, class_name=name) for index, name in enumerate(labels.names)]
    return messages.LabelInfo(header=header, class_map=classes, threshold=0.0)


class LabelInfoPublisher:
    """`label_info` of one camera. Raises nothing, and does nothing, where `messages` is None."""

    def __init__(self, node: LifecycleNode, topic: str, messages: ModuleType | None, warn: Warn) -> None:
        self._node, self._messages = node, messages
        self._publisher = None if messages is None else create_output(node, messages.LabelInfo, topic, QOS, warn)

    def publish(self, labels: LabelSet) -> None:
        """Tell everyone, also those who subscribe later; only while the node is active."""
        if self._publisher is not None and self._messages is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._publisher.publish(build(self._messages, labels, header))

    def destroy(self) -> None:
        if self._publisher is not None:
            self._node.destroy_lifecycle_publisher(self._publisher)
