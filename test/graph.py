"""A ROS graph for tests: the segmentation node in this process, a camera and a consumer around it, over real DDS."""

from __future__ import annotations

import collections
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from stmem_ros.node.lifecycle import spin
from stmem_ros.node.messages import stamp_from_ns, to_image_msg
from stmem_ros.node.segmentation_node import SegmentationNode
from stmem_ros.node.stream import Stream

DEADLINE_S = 20.0
PERIOD_NS = 66_000_000
_numbers = itertools.count()


def wait_for(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Fails where `condition` does not hold within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.01)


KINDS = {"compressed": CompressedImage, "camera_info": CameraInfo}


class Graph:
    """Cameras -> segmentation node -> consumer. Each runs its own executor thread and context.

    In the values of `parameters` and in their names, `{ns}` is the node's namespace.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        # rcl keeps one /rosout publisher a logger name, perhaps longer than its node: each graph has names of its own.
        self.namespace = f"/segmentation{next(_numbers)}"
        self._contexts = [rclpy.Context(), rclpy.Context()]
        for context in self._contexts:
            rclpy.init(context=context)
        self.log: list[Log] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.received: dict[str, list[Any]] = collections.defaultdict(list)
        self.tester = rclpy.create_node("tester", context=self._contexts[1])
        from_the_start = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tester.create_subscription(Log, "/rosout", self.log.append, from_the_start)
        self.tester.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.node = SegmentationNode(
            namespace=self.namespace,
            context=self._contexts[0],
            parameter_overrides=[
                Parameter(name.replace("{ns}", self.namespace), value=value) for name, value in parameters.items()
            ],
        )
        self._executors = []
        self._threads = []
        for node, context in zip((self.node, self.tester), self._contexts, strict=True):
            executor = SingleThreadedExecutor(context=context)
            executor.add_node(node)
            thread = threading.Thread(target=spin, args=(executor, node), daemon=True)
            thread.start()
            self._executors.append(executor)
            self._threads.append(thread)
        self.cameras: dict[str, Any] = {}
        self._subscriptions: dict[str, Any] = {}
        # A few seconds old: tests send frames faster than their stamps follow each other.
        self.next_stamp = time.time_ns() - 5 * 10**9

    def start(self, *topics: str, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> Graph:
        """Configure, activate, listen to `topics` (labels where none is named), and match cameras with the node."""
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS, self.messages()
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        compressed = self.node.get_parameter("image_transport").value == "compressed"
        kind, below = (CompressedImage, "/compressed") if compressed else (Image, "")
        for topic in [name for name in self.node.get_parameter("image_topics").value if name] or ["image"]:
            self.add_camera(topic, kind, below, reliability)
        self.listen(*(topics or ("labels",)))
        for topic in self.cameras:
            self.wait_matched(topic)
        return self

    def add_camera(
        self,
        topic: str,
        kind: type = Image,
        below: str = "",
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
    ) -> Any:
        """A publisher of images; `below` is what its topic has beyond the name that the node knows."""
        profile = QoSProfile(depth=10, reliability=reliability)
        name = topic if topic.startswith("/") else f"{self.namespace}/{topic}"
        self.cameras[topic] = self.tester.create_publisher(kind, name + below, profile)
        return self.cameras[topic]

    def wait_matched(self, topic: str = "image") -> None:
        wait_for(lambda: self.cameras[topic].get_subscription_count() > 0, f"the node to subscribe to {topic}")

    @property
    def stream(self) -> Stream:
        """The node's only camera."""
        return self.node.streams[0]

    def stream_of(self, topic: str) -> tuple[Stream, str]:
        """The stream that publishes a topic, and the topic's name there."""
        for stream in self.node.streams:
            if stream.name and topic.startswith(f"{stream.name}/"):
                return stream, topic.removeprefix(f"{stream.name}/")
        return self.node.streams[0], topic

    def listen(self, *topics: str) -> None:
        for topic in topics:
            kind = KINDS.get(topic.rpartition("/")[2], Image)
            self._subscriptions[topic] = self.tester.create_subscription(
                kind, f"{self.namespace}/{topic}", self.received[topic].append, 50
            )
        for topic in topics:
            publisher = self.node.resolve_topic_name(topic)
            wait_for(
                lambda name=topic: self._subscriptions[name].get_publisher_count() > 0, f"a publisher of {publisher}"
            )
            # The publisher learns of its subscriber on its own; both must know.
            stream, name = self.stream_of(topic)
            wait_for(lambda name=name, stream=stream: stream.outputs.wanted(name), f"{publisher} to be matched")

    def forget(self, *topics: str) -> None:
        """Unsubscribe, and wait until the node knows."""
        for topic in topics:
            self.tester.destroy_subscription(self._subscriptions.pop(topic))
            stream, name = self.stream_of(topic)
            wait_for(lambda name=name, stream=stream: not stream.outputs.wanted(name), f"{topic} to be unmatched")
            self.received[topic].clear()

    def send(self, message: Any, topic: str | None = None) -> None:
        camera = self.cameras[topic] if topic else next(iter(self.cameras.values()))
        camera.publish(message)

    def send_image(
        self,
        image: NDArray[np.uint8],
        stamp_ns: int | None = None,
        frame_id: str = "camera",
        encoding: str = "rgb8",
        topic: str | None = None,
    ) -> int:
        """Publish one frame; without a stamp it follows the one before it. Returns its stamp."""
        stamp_ns = self.next_stamp if stamp_ns is None else stamp_ns
        self.next_stamp = stamp_ns + PERIOD_NS
        self.send(to_image_msg(image, encoding, Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id)), topic)
        return stamp_ns

    def labels_of(self, image: NDArray[np.uint8], **options: Any) -> Image:
        """Publish one frame and wait for the next label image."""
        before = len(self.received["labels"])
        self.send_image(image, **options)
        self.wait_labels(before + 1)
        return self.received["labels"][before]

    def wait_labels(self, count: int, topic: str = "labels") -> None:
        wait_for(lambda: len(self.received[topic]) >= count, f"{count} images on {topic}; the log: {self.messages()}")

    def wait_segmented(self, stamp_ns: int) -> None:
        """Until the node has taken that frame into its window, so that the next one cannot replace it."""

        def taken() -> bool:
            newest = self.stream.engine.state.newest
            return newest is not None and newest.stamp_ns == stamp_ns

        wait_for(taken, f"the frame of stamp {stamp_ns} to be segmented")

    def set(self, **values: Any) -> Any:
        """Set parameters at once; the result."""
        return self.node.set_parameters_atomically([Parameter(name, value=value) for name, value in values.items()])

    def messages(self) -> list[str]:
        return [entry.msg for entry in self.log if entry.name.startswith(self.namespace[1:] + ".")]

    def wait_message(self, *parts: str) -> str:
        """The first log message of the node with all these parts in it."""

        def matching() -> list[str]:
            return [text for text in self.messages() if all(part in text for part in parts)]

        wait_for(matching, f"a message with {parts}; the log: {self.messages()}")
        return matching()[0]

    def status(self, title: str = "stream") -> Any:
        """The last status of that part of the node, None before there is one."""
        for array in reversed(self.diagnostics):
            for entry in array.status:
                if entry.name == f"{self.namespace}/segmentation: {title}":
                    return entry
        return None

    def wait_status(self, level: bytes, *parts: str, title: str = "stream") -> Any:
        """The status of part of the node once it has that level and these parts in its message."""

        def found() -> bool:
            status = self.status(title)
            return status is not None and status.level == level and all(part in status.message for part in parts)

        wait_for(found, f"status {title} of level {level!r} with {parts}; last: {self.status(title)}")
        return self.status(title)

    def wait_diagnostics(self, **expected: str) -> Any:
        """The status once its values (spaces as underscores) are as expected."""

        def status() -> Any:
            for array in reversed(self.diagnostics):
                for entry in array.status:
                    values = {pair.key.replace(" ", "_"): pair.value for pair in entry.values}
                    if all(values.get(key) == value for key, value in expected.items()):
                        return entry
            return None

        wait_for(status, f"diagnostics with {expected}; last: {self.diagnostics[-1:]}")
        return status()

    def call(self, service: str, kind: type, **fields: Any) -> Any:
        client = self.tester.create_client(kind, f"{self.namespace}/segmentation/{service}")
        assert client.wait_for_service(DEADLINE_S), f"no service {service}"
        future = client.call_async(kind.Request(**fields))
        wait_for(future.done, f"an answer of {service}")
        return future.result()

    def close(self) -> None:
        for executor in self._executors:
            executor.shutdown()
        for thread in self._threads:
            thread.join()
        self.node.destroy_node()
        self.tester.destroy_node()
        for context in self._contexts:
            context.try_shutdown()


def pixels(message: Image) -> NDArray[np.uint8]:
    """The picture in a message whose rows are not padded."""
    shape = (message.height, message.width) + ((3,) if message.encoding == "rgb8" else ())
    return np.frombuffer(message.data, np.uint8).reshape(shape)
