"""The topics that the node publishes for a camera; each is made only for those who subscribe, labels first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from stmem_ros.camera_info import scaled
from stmem_ros.files import kind_and_line
from stmem_ros.labels import colorize
from stmem_ros.node.messages import to_image_msg, to_jpeg_msg, to_png_msg
from stmem_ros.node.qos import Warn, create_output
from stmem_ros.node.settings import FrameSettings
from stmem_ros.streaming import Segmentation

# Name: (type, meaning). In the order in which they are published.
TOPICS: dict[str, tuple[type, str]] = {
    "labels": (Image, "mono8: class ids"),
    "labels/compressed": (CompressedImage, "the same as PNG, lossless"),
    "confidence": (Image, "mono8: probability of the label, 0..255 for 0..1"),
    "camera_info": (CameraInfo, "the camera's calibration, scaled as the labels are"),
    "color": (Image, "rgb8: the labels in the palette's colours"),
    "color/compressed": (CompressedImage, "the same as JPEG"),
    "overlay": (Image, "rgb8: those colours blended over the camera's image"),
    "overlay/compressed": (CompressedImage, "the same as JPEG"),
}
QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)


def output_size(image: tuple[int, int], settings: FrameSettings) -> tuple[int, int]:
    """`(height, width)` of the outputs for a camera image's."""
    height, width = image
    scale = min(settings.output_height / height, 1.0) if settings.output_height else settings.output_scale
    return max(round(height * scale), 1), max(round(width * scale), 1)


def resize_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """`(H, W)` at another size `(h, w)`: the nearest pixel's value, so that no class appears that was not there."""
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) if labels.shape != size else labels


class Outputs:
    """Publishers of `TOPICS`, below `prefix`, on a lifecycle node."""

    def __init__(self, node: LifecycleNode, prefix: str, warn: Warn) -> None:
        self._node, self._warn = node, warn
        self._publishers: dict[str, Any] = {}
        try:
            for name, (kind, _) in TOPICS.items():
                self._publishers[name] = create_output(node, kind, prefix + name, QOS, warn)
        except Exception:
            self.destroy()
            raise

    def topic(self, name: str) -> str:
        return self._publishers[name].topic_name

    def wanted(self, *names: str) -> bool:
        """Whether somebody subscribes to one of these, or, where none is named, to any output."""
        return any(self._publishers[name].get_subscription_count() > 0 for name in names or TOPICS)

    def publish_labels(self, segmentation: Segmentation, header: Header) -> None:
        """What planners read. `segmentation` is at the outputs' size. Raises where `labels` cannot leave."""
        labels = segmentation.labels
        self._publish("labels", lambda: to_image_msg(labels, "mono8", header))
        self._offer("labels/compressed", lambda: to_png_msg(labels, header))
        confidence = segmentation.confidence
        if confidence is not None:
            self._offer("confidence", lambda: to_image_msg(confidence, "mono8", header))

    def publish_camera_info(self, info: CameraInfo, size: tuple[int, int], header: Header) -> None:
        """The camera's calibration for labels of `size` `(height, width)`. Raises ValueError where it is none."""
        self._publish("camera_info", lambda: scaled(info, size, header))

    def publish_pictures(
        self, segmentation: Segmentation, header: Header, table: NDArray[np.uint8], settings: FrameSettings
    ) -> None:
        """What people look at; `table` is of colours, `(256, 3)`."""
        if not self.wanted("color", "color/compressed", "overlay", "overlay/compressed"):
            return
        color = colorize(segmentation.labels, table)
        self._publish_picture("color", color, header, settings)
        if self.wanted("overlay", "overlay/compressed"):
            image = np.ascontiguousarray(segmentation.image)
            if image.shape != color.shape:
                image = cv2.resize(image, color.shape[1::-1], interpolation=cv2.INTER_AREA)
            alpha = settings.overlay_alpha
            self._publish_picture("overlay", cv2.addWeighted(color, alpha, image, 1 - alpha, 0), header, settings)

    def _publish_picture(self, name: str, picture: NDArray[np.uint8], header: Header, settings: FrameSettings) -> None:
        self._offer(name, lambda: to_image_msg(picture, "rgb8", header))
        self._offer(f"{name}/compressed", lambda: to_jpeg_msg(picture, settings.jpeg_quality, header))

    def _publish(self, name: str, make: Callable[[], object]) -> None:
        if self.wanted(name):
            self._publishers[name].publish(make())

    def _offer(self, name: str, make: Callable[[], object]) -> None:
        """As `_publish`, but where it fails that costs nothing else: the labels have left by then."""
        try:
            self._publish(name, make)
        except Exception as error:
            topic = self.topic(name)
            self._warn(f"output {topic}", f"{topic} gets nothing for a frame: {kind_and_line(error)}")

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)


def at_output_size(segmentation: Segmentation, settings: FrameSettings) -> Segmentation:
    """The same with its labels and its confidence at the outputs' size."""
    size = output_size((segmentation.labels.shape[0], segmentation.labels.shape[1]), settings)
    if size == segmentation.labels.shape:
        return segmentation
    confidence = segmentation.confidence
    return dataclasses.replace(
        segmentation,
        labels=resize_labels(segmentation.labels, size),
        confidence=None if confidence is None else resize_labels(confidence, size),
    )
