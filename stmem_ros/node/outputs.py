"""The topics that the node publishes; each is made only for those who subscribe, labels first."""

from __future__ import annotations

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from stmem_ros.labels import LabelSet, colorize
from stmem_ros.node.messages import to_image_msg
from stmem_ros.streaming import Segmentation

TOPICS = {
    "labels": "mono8: class ids, at the size of the camera's image",
    "confidence": "mono8: probability of the label, 0..255 for 0..1",
    "color": "rgb8: the labels in the palette's colours",
    "overlay": "rgb8: those colours blended over the camera's image",
}
QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)


class Outputs:
    """Publishers of `labels`, `confidence`, `color` and `overlay` on a lifecycle node."""

    def __init__(self, node: LifecycleNode, labels: LabelSet) -> None:
        self._node = node
        self._table = labels.lookup_table()
        self._publishers = {name: node.create_lifecycle_publisher(Image, name, QOS) for name in TOPICS}

    def wanted(self, name: str) -> bool:
        """Whether somebody subscribes to that topic."""
        return self._publishers[name].get_subscription_count() > 0

    def publish_labels(self, segmentation: Segmentation, header: Header) -> None:
        """The two maps that planners read."""
        if self.wanted("labels"):
            self._publishers["labels"].publish(to_image_msg(segmentation.labels, "mono8", header))
        if segmentation.confidence is not None:
            self._publishers["confidence"].publish(to_image_msg(segmentation.confidence, "mono8", header))

    def publish_pictures(self, segmentation: Segmentation, header: Header, alpha: float) -> None:
        """The two that people look at."""
        color_wanted, overlay_wanted = self.wanted("color"), self.wanted("overlay")
        if not (color_wanted or overlay_wanted):
            return
        color = colorize(segmentation.labels, self._table)
        if color_wanted:
            self._publishers["color"].publish(to_image_msg(color, "rgb8", header))
        if overlay_wanted:
            overlay = cv2.addWeighted(color, alpha, np.ascontiguousarray(segmentation.image), 1 - alpha, 0)
            self._publishers["overlay"].publish(to_image_msg(overlay, "rgb8", header))

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
