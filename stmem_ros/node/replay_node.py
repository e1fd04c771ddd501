"""Publishes a video file, a folder of images, a bag or a camera as the `image` topic of a camera would be."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import rclpy
from numpy.typing import NDArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from stmem_ros.encode import EncodeError, encode_image
from stmem_ros.files import one_line
from stmem_ros.node.arguments import left_over, misdirected, refusal, unmatched
from stmem_ros.node.lifecycle import end_soon
from stmem_ros.node.messages import stamp_from_ns, to_array, to_image_msg
from stmem_ros.node.overrides import fitted, unknown
from stmem_ros.program import called
from stmem_ros.sources import DEFAULT_RATE, Frame, SourceError, open_source
from stmem_ros.used_bits import ALL_BITS, MEANING, UNKNOWN
from stmem_ros.video import quiet_opencv

QUEUE_DEPTH = 5
JPEG_QUALITY = 95
LONGEST_SPIN_S = 0.1
ACKNOWLEDGE_WITHIN_S = 2.0
# A subscriber that came later discovers this publisher after this publisher has discovered it: about 0.1 s later
# with Fast DDS on one machine (measured). What is published in between does not reach it.
SUBSCRIBER_SETTLES_S = 0.5

CHOICES = {
    "stamps": ("now", "source"),
    "reliability": ("reliable", "best_effort"),
    "transport": ("raw", "compressed"),
}


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """The node's parameters: `rate` in Hz, `width` and `height` in pixels, 0 where the source decides."""

    source: str
    topic: str
    rate: float
    stamps: str
    frame_id: str
    loop: bool
    wait_for_subscriber: bool
    reliability: str
    width: int
    height: int
    transport: str
    used_bits: int

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(
                "parameter source is empty: set it to a video file, a folder of images, a bag or a camera index, "
                "as in --ros-args -p source:=drive.mp4"
            )
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"parameter {name} is {value!r}: it must be one of {', '.join(choices)}")


class ReplayNode(Node):
    """Publishes until the source ends or `stopping` is set. Raises SourceError, ValueError, ParameterException."""

    def __init__(self, stopping: threading.Event) -> None:
        super().__init__("replay")
        self.published = 0
        self._stopping = stopping
        self._config = config = _declare_parameters(self)
        self._source = open_source(config.source, config.topic, config.rate or None, config.used_bits)
        self._period_ns = 1e9 / (config.rate or self._source.rate or DEFAULT_RATE)
        reliability = ReliabilityPolicy.RELIABLE if config.reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=QUEUE_DEPTH, reliability=reliability)
        if config.transport == "compressed":
            self._publisher = self.create_publisher(
                CompressedImage, self.resolve_topic_name("image") + "/compressed", qos
            )
        else:
            self._publisher = self.create_publisher(Image, "image", qos)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def run(self) -> None:
        """Publish frame i at start + i / rate by a steady clock; a live source's frames as they come."""
        if self._config.wait_for_subscriber:
            self._wait_for_subscriber()
        start_ns = 0
        for frame in self._frames():
            image = _resize(frame.image, self._config.width, self._config.height)
            message = self._message(frame, image)
            if self.published == 0:
                self._log_start(frame, image)
                start_ns = time.monotonic_ns()
            if self._source.live:
                self._executor.spin_once(timeout_sec=0)
            else:
                due_ns = start_ns + round(self.published * self._period_ns)
                self._warn_if_late(due_ns)
                self._spin_until(due_ns)
            if self._stopping.is_set():
                return
            if self._config.stamps == "now":
                message.header.stamp = self.get_clock().now().to_msg()
            self._publisher.publish(message)
            self.published += 1
        # The last frame stays for its own period, as a camera's would, before its publisher goes away.
        self._spin_until(start_ns + round(self.published * self._period_ns))
        if not self._stopping.is_set():
            self._wait_for_acknowledgement()

    def destroy_node(self) -> None:
        self._source.close()
        self._executor.shutdown()
        super().destroy_node()

    def _frames(self) -> Iterator[Frame]:
        while not self._stopping.is_set():
            yield from self._source
            if not self._config.loop:
                return

    def _message(self, frame: Frame, image: NDArray[np.uint8]) -> Image | CompressedImage:
        header = Header(frame_id=self._config.frame_id, stamp=stamp_from_ns(frame.stamp_ns))
        if self._config.transport == "raw":
            return to_image_msg(image, "rgb8", header)
        jpeg = encode_image(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=to_array(jpeg))

    def _wait_for_subscriber(self) -> None:
        if self._publisher.get_subscription_count() == 0:
            self.get_logger().info(f"waiting for a subscriber of {self._publisher.topic_name}")
        while self._publisher.get_subscription_count() == 0 and not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=LONGEST_SPIN_S)
        self._spin_until(time.monotonic_ns() + round(SUBSCRIBER_SETTLES_S * 1e9))

    def _spin_until(self, due_ns: int) -> None:
        """Serve the node's services until `due_ns` of the steady clock; returns early when stopping."""
        self._executor.spin_once(timeout_sec=0)
        while (left_ns := due_ns - time.monotonic_ns()) > 0 and not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=min(left_ns / 1e9, LONGEST_SPIN_S))

    def _warn_if_late(self, due_ns: int) -> None:
        late_ns = time.monotonic_ns() - due_ns
        if late_ns > self._period_ns:
            self.get_logger().warning(
                f"{late_ns / 1e6:.0f} ms late: frames take longer than {self._period_ns / 1e6:.0f} ms to read and "
                "publish; set a lower rate, or a smaller width and height",
                once=True,
            )

    def _wait_for_acknowledgement(self) -> None:
        if not self._publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_WITHIN_S)):
            self.get_logger().warning(
                f"a subscriber of {self._publisher.topic_name} did not acknowledge the last frames "
                f"within {ACKNOWLEDGE_WITHIN_S:g} s"
            )

    def _log_start(self, frame: Frame, image: NDArray[np.uint8]) -> None:
        (height, width), (own_height, own_width) = image.shape[:2], frame.image.shape[:2]
        resized = "" if (height, width) == (own_height, own_width) else f", resized from {own_width}x{own_height},"
        count = "" if self._source.frame_count is None else f"{self._source.frame_count} frames of "
        pace = "as they come" if self._source.live else f"at {1e9 / self._period_ns:.4g} Hz"
        self.get_logger().info(
            f"publishing {count}{width}x{height}{resized} from {self._source.name} {pace} on "
            f"{self._publisher.topic_name}"
        )


def main(args: list[str] | None = None) -> int:
    """Returns the exit code. The last line on stdout is `published N frames` once the source could be opened."""
    # What matters of it comes back as a SourceError.
    quiet_opencv()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    arguments = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(
        prog=called("stmem_ros.node.replay_node"),
        description=__doc__,
        epilog="Parameters and remappings are given as to every ROS 2 node: --ros-args -p source:=drive.mp4 "
        "-p rate:=15.0 -r image:=/camera/image_raw; `ros2 param describe` explains each parameter while it runs.",
    )
    try:
        if unknown_words := left_over(parser, arguments):
            return _fail(unknown_words, 2)
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = ReplayNode(stopping)
    except (SourceError, ParameterException, ValueError, RuntimeError) as error:
        end_soon()
        rclpy.try_shutdown()
        return _fail(refusal(error))
    name = node.get_fully_qualified_name()
    lines = unknown(node._parameter_overrides.values(), [*node._parameters])
    lines += misdirected(arguments, name)
    lines += unmatched(arguments, ["image"], node.get_name(), node.get_namespace())
    for line in lines:
        node.get_logger().warning(line)
    failure: Exception | None = None
    try:
        node.run()
    except (SourceError, EncodeError) as error:
        failure = error
    code = 0 if failure is None else _fail(one_line(failure))
    print(f"published {node.published} frames", flush=True)
    end_soon()
    node.destroy_node()
    rclpy.try_shutdown()
    return code


def _fail(line: str, status: int = 1) -> int:
    print(f"replay: {line}", file=sys.stderr, flush=True)
    return status


def _declare_parameters(node: Node) -> ReplayConfig:
    def value(name: str, default: Any, description: str, **more: Any) -> Any:
        """Replaying reads a parameter once, so none can change later."""
        override = node._parameter_overrides.get(name)
        if override is not None and "dynamic_typing" not in more:
            node._parameter_overrides[name] = Parameter(name, value=fitted(name, override.value, default))
        choices = CHOICES.get(name)
        constraints = "one of: " + ", ".join(choices) if choices else ""
        descriptor = ParameterDescriptor(
            description=description, additional_constraints=constraints, read_only=True, **more
        )
        return node.declare_parameter(name, default, descriptor).value

    pixels = [IntegerRange(from_value=0, to_value=16384, step=1)]
    return ReplayConfig(
        # Dynamic, because a camera index on the command line is an integer.
        source=str(
            value(
                "source",
                "",
                "Video file, folder of images, rosbag2 folder, bag file (.mcap, .db3, .bag) or camera index.",
                dynamic_typing=True,
            )
        ),
        topic=value("topic", "", "Image topic of a bag; empty: the only one it has."),
        rate=value(
            "rate",
            0.0,
            "Frames per second in Hz; 0: the source's own, 15 for a folder of images. A camera is asked for it.",
            floating_point_range=[FloatingPointRange(from_value=0.0, to_value=1000.0)],
        ),
        stamps=value("stamps", "now", "Header stamps: the clock's time of publishing, or the source's own time."),
        frame_id=value("frame_id", "camera", "frame_id of the headers."),
        loop=value("loop", False, "Start again at the end; source stamps then start again too."),
        wait_for_subscriber=value("wait_for_subscriber", True, "Publish nothing before the first subscriber."),
        reliability=value("reliability", "reliable", "Reliability that the publisher offers."),
        width=value(
            "width", 0, "Width in pixels to resize to; 0: as it is, or after the height.", integer_range=pixels
        ),
        height=value(
            "height", 0, "Height in pixels to resize to; 0: as it is, or after the width.", integer_range=pixels
        ),
        transport=value(
            "transport", "raw", "raw: Image on image. compressed: JPEG CompressedImage on image/compressed."
        ),
        used_bits=value(
            "used_bits",
            UNKNOWN,
            f"{MEANING[0].upper()}{MEANING[1:]}.",
            integer_range=[IntegerRange(from_value=0, to_value=ALL_BITS, step=1)],
        ),
    )


def _resize(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """To `(height, width)`; one of them 0 follows from the other, both 0 leave the image as it is."""
    old_height, old_width = image.shape[:2]
    new_width = width or max(1, round(old_width * (height or old_height) / old_height))
    new_height = height or max(1, round(old_height * (width or old_width) / old_width))
    if (new_width, new_height) == (old_width, old_height):
        return image
    return np.asarray(cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == "__main__":
    sys.exit(main())
