"""A ROS graph for tests: the segmentation node in this process, a camera and a consumer around it, over real DDS."""

from __future__ import annotations

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
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from stmem_ros.node.messages import stamp_from_ns, to_image_msg
from stmem_ros.node.segmentation_node import SegmentationNode

DEADLINE_S = 20.0
PERIOD_NS = 66_000_000
_numbers = itertools.count()


def wait_for(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Fails where `condition` does not hold within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.01)


class Graph:
    """Camera -> segmentation node -> consumer. Each runs its own executor thread and context."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        # rcl keeps one /rosout publisher a logger name, perhaps longer than its node: each graph has names of its own.
        self.namespace = f"/segmentation{next(_numbers)}"
        self._contexts = [rclpy.Context(), rclpy.Context()]
        for context in self._contexts:
            rclpy.init(context=context)
        self.log: list[Log] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.received: dict[str, list[Image]] = {"labels": [], "color": [], "overlay": [], "confidence": []}
        self.tester = rclpy.create_node("tester", context=self._contexts[1])
        from_the_start = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tester.create_subscription(Log, "/rosout", self.log.append, from_the_start)
        self.tester.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.node = SegmentationNode(
            namespace=self.namespace,
            context=self._contexts[0],
            parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()],
        )
        self._executors = []
        self._threads = []
        for node, context in zip((self.node, self.tester), self._contexts, strict=True):
            executor = SingleThreadedExecutor(context=context)
            executor.add_node(node)
            thread = threading.Thread(target=executor.spin, daemon=True)
            thread.start()
            self._executors.append(executor)
            self._threads.append(thread)
        self._camera: Any = None
        self._subscriptions: dict[str, Any] = {}
        self.next_stamp = 1_000_000_000_000

    def start(self, *topics: str, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> Graph:
        """Configure, activate, listen to `topics` (labels where none is named), and match a camera with the node."""
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS, self.messages()
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        self.listen(*(topics or ("labels",)))
        compressed = self.node.get_parameter("image_transport").value == "compressed"
        kind, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        profile = QoSProfile(depth=10, reliability=reliability)
        self._camera = self.tester.create_publisher(kind, f"{self.namespace}/{topic}", profile)
        wait_for(lambda: self._camera.get_subscription_count() > 0, "the node to subscribe")
        return self

    def listen(self, *topics: str) -> None:
        for topic in topics:
            self._subscriptions[topic] = self.tester.create_subscription(
                Image, f"{self.namespace}/{topic}", self.received[topic].append, 50
            )
            publisher = self.node.resolve_topic_name(topic)
            wait_for(
                lambda name=topic: self._subscriptions[name].get_publisher_count() > 0, f"a publisher of {publisher}"
            )
            # The publisher learns of its subscriber on its own; both must know.
            wait_for(lambda name=topic: self.node._outputs.wanted(name), f"{publisher} to be matched")

    def send(self, message: Any) -> None:
        self._camera.publish(message)

    def send_image(
        self, image: NDArray[np.uint8], stamp_ns: int | None = None, frame_id: str = "camera", encoding: str = "rgb8"
    ) -> int:
        """Publish one frame; without a stamp it follows the one before it. Returns its stamp."""
        stamp_ns = self.next_stamp if stamp_ns is None else stamp_ns
        self.next_stamp = stamp_ns + PERIOD_NS
        self.send(to_image_msg(image, encoding, Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id)))
        return stamp_ns

    def labels_of(self, image: NDArray[np.uint8], **options: Any) -> Image:
        """Publish one frame and wait for the next label image."""
        before = len(self.received["labels"])
        self.send_image(image, **options)
        self.wait_labels(before + 1)
        return self.received["labels"][before]

    def wait_labels(self, count: int) -> None:
        wait_for(lambda: len(self.received["labels"]) >= count, f"{count} label images; the log: {self.messages()}")

    def wait_segmented(self, stamp_ns: int) -> None:
        """Until the node has taken that frame into its window, so that the next one cannot replace it."""

        def taken() -> bool:
            newest = self.node._engine.state.newest
            return newest is not None and newest.stamp_ns == stamp_ns

        wait_for(taken, f"the frame of stamp {stamp_ns} to be segmented")

    def messages(self) -> list[str]:
        return [entry.msg for entry in self.log if entry.name.startswith(self.namespace[1:] + ".")]

    def wait_message(self, *parts: str) -> str:
        """The first log message of the node with all these parts in it."""

        def matching() -> list[str]:
            return [text for text in self.messages() if all(part in text for part in parts)]

        wait_for(matching, f"a message with {parts}; the log: {self.messages()}")
        return matching()[0]

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
