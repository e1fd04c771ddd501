"""One camera of the node: what it subscribes to, its window, its outputs and what is counted of it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from stmem_ros.files import one_line
from stmem_ros.node.camera import COMPRESSED, Camera, candidates
from stmem_ros.node.camera_info import CameraInfoListener
from stmem_ros.node.clocks import ClockFault, Reading, fault_of
from stmem_ros.node.label_info import TOPIC as LABEL_INFO
from stmem_ros.node.label_info import LabelInfoPublisher
from stmem_ros.node.mailbox import Mailbox
from stmem_ros.node.messages import stamp_to_ns
from stmem_ros.node.model import Model
from stmem_ros.node.origin import Origins
from stmem_ros.node.outputs import TOPICS, Outputs
from stmem_ros.node.qos import Warn, override_names
from stmem_ros.node.settings import THE_STREAM, InputSettings, listed, name_cameras
from stmem_ros.node.statistics import ANOTHER_MODEL, STAMP, Statistics
from stmem_ros.streaming import StreamingSegmenter
from stmem_ros.topics import camera_info_topics
from stmem_ros.used_bits import UsedBits

THE_TOPIC = "image"
NS_IN_A_SECOND = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a camera's messages come from; `name` is empty for the only camera, whose outputs lie in no folder.

    `info_topic` is empty where nobody knows where the calibration is.
    """

    name: str
    topic: str
    info_topic: str


def places(node: LifecycleNode, settings: InputSettings) -> list[Place]:
    """Of each camera. Raises ValueError for names or topics that cannot be."""
    topics = settings.image_topics or (THE_TOPIC,)
    names = name_cameras(topics, settings.camera_names) if settings.image_topics else [""]
    resolved = [node.resolve_topic_name(topic) for topic in topics]
    for topic, full in zip(topics, resolved, strict=True):
        if resolved.count(full) > 1:
            raise ValueError(f"parameter image_topics has {full} twice, once as {topic}; each camera has one window")
    info = settings.camera_info_topics
    if info and len(info) != len(topics):
        raise ValueError(f"parameter camera_info_topics has {len(info)} topics for {len(topics)} cameras")
    if len(set(info)) < len(info):
        raise ValueError(f"parameter camera_info_topics names a topic twice ({', '.join(info)}); each is of one camera")
    if not info:
        info = tuple(camera_info_topics(resolved))
    return [Place(*parts) for parts in zip(names, topics, info, strict=True)]


class Stream:
    """A camera while the node is configured. The executor's thread calls it, but for `engine`, the worker's."""

    def __init__(self, node: LifecycleNode, place: Place, messages: ModuleType | None, warn: Warn) -> None:
        self._node, self._place, self._warn = node, place, warn
        self.name = place.name
        prefix = f"{place.name}/" if place.name else ""
        self.statistics = Statistics()
        self.outputs = Outputs(node, prefix, warn)
        try:
            self.label_info = LabelInfoPublisher(node, prefix + LABEL_INFO, messages, warn)
        except Exception:
            self.outputs.destroy()
            raise
        self.engine: StreamingSegmenter | None = None
        self.enabled = True
        self.reset_asked = threading.Event()
        self.used_bits = UsedBits(
            warn=lambda line: warn(f"used_bits {self.name}", f"{self.topic}: {line}"), setting="parameter used_bits"
        )
        self.camera: Camera | None = None
        self.info: CameraInfoListener | None = None
        self.listening_since = 0.0
        # What is wrong with the stamp of the newest image.
        self.clock_fault: ClockFault | None = None
        self._wanted = False
        self._origins = Origins()
        # Whose image is the newest in the window.
        self.origin = 0
        self._mailbox: Mailbox[Stream] | None = None
        # Of the image that was decoded last: what a compressed one will probably be.
        self.size: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        return self.name or THE_STREAM

    @property
    def topic(self) -> str:
        """Where images come from, for people."""
        # Once: the worker asks too.
        camera = self.camera
        return camera.where() if camera is not None else self._node.resolve_topic_name(self._place.topic)

    def names(self) -> set[str]:
        """The topics of this camera as they are named before remapping, where a remapping can be of them."""
        place = self._place
        below = {f"{place.topic}{COMPRESSED}", f"{self._node.resolve_topic_name(place.topic)}{COMPRESSED}"}
        own = {f"{place.name}/{name}" if place.name else name for name in (*TOPICS, LABEL_INFO)}
        return {place.topic, place.info_topic, *below, *own} - {""}

    def line(self) -> str:
        """The image that was decoded last and the window, for people."""
        height, width = self.size or (0, 0)
        frames = f"{self.engine.state.frames} of {self.engine.length}" if self.engine is not None else "none"
        return f"{width}x{height} on {self.topic}, window {frames} frames"

    def override_names(self, transport: str) -> set[str]:
        """The parameters that may override QoS of the camera's images."""
        topics = {topic for topic, _ in candidates(self._node.resolve_topic_name(self._place.topic), transport)}
        return {name for topic in topics for name in override_names(topic)}

    def use(self, model: Model) -> None:
        """Start a window on this model. Where the node is active, subscribers learn of its classes."""
        if self.engine is not None and self.engine.state.frames:
            self.statistics.reset(ANOTHER_MODEL)
            self.statistics.forget_times()
        self.engine = model.engine.sibling()
        try:
            self.label_info.publish(model.engine.info.labels)
        except Exception as error:
            # The model is in use already: this must not look as if it were not.
            self._warn(f"label_info {self.name}", f"label_info cannot be published: {one_line(error)}")

    def listen(self, settings: InputSettings, mailbox: Mailbox[Stream]) -> None:
        """Put what the camera sends into `mailbox`. Raises where a topic's name is none."""
        self._mailbox = mailbox
        self.clock_fault = None
        self._begin()
        self._origins = Origins()
        self.camera = Camera(
            self._node,
            self._place.topic,
            settings.image_transport,
            settings.reliability,
            self._on_image,
            self._warn,
        )
        info_topic = self._place.info_topic and self._node.resolve_topic_name(self._place.info_topic)
        # Where the image lies in the node's own namespace, what is beside it is the node's own output.
        if info_topic and info_topic != self.outputs.topic("camera_info"):
            self.info = CameraInfoListener(self._node, info_topic, lambda: self.outputs.wanted("camera_info"))

    def publish_camera_info(self, size: tuple[int, int], header: Header) -> None:
        """The calibration beside labels of `size` `(height, width)`, or a warning to those who want it."""
        if not self.outputs.wanted("camera_info"):
            return
        # Once: the executor's thread changes it.
        listener = self.info
        nothing = f"nothing comes on {self.outputs.topic('camera_info')}"
        if listener is None:
            # Else it was only stopped, while the last frame was in work.
            if self.camera is not None:
                why = "it is not known where the calibration is; set camera_info_topics"
                self._warn(f"no calibration {self.name}", f"{nothing}: {why}")
            return
        # Of the labels' image too: no window has images of two sizes.
        assert self.size is not None
        try:
            info = listener.of(self.size)
            if info is not None:
                self.outputs.publish_camera_info(info, size, header)
            elif listener.is_overdue():
                why = f"no calibration came on {listener.topic} yet; does the camera driver publish it there?"
                self._warn(f"no calibration {self.name}", f"{nothing}: {why} If not, set camera_info_topics")
        except ValueError as error:
            why = (
                f"the calibration on {listener.topic} cannot be used: {error}, or name the topic with the calibration "
                "of these images in camera_info_topics"
            )
            self._warn(f"calibration {self.name}", f"{nothing}: {why}")

    def stop_listening(self) -> None:
        for part in (self.camera, self.info):
            if part is not None:
                part.destroy()
        self.camera = self.info = None

    def enable(self, enabled: bool) -> None:
        """Segment, or ignore images. The first frame after a pause starts a new window."""
        if enabled and not self.enabled:
            self.reset_asked.set()
            self._begin()
        self.enabled = enabled
        if not enabled and self._mailbox is not None:
            self._mailbox.clear(self)

    def look_for_subscribers(self) -> bool:
        """Whether anybody wants an output of the next frame. Rates and times begin anew with who is the first."""
        wanted = self.outputs.wanted()
        if wanted and not self._wanted:
            self._begin()
        self._wanted = wanted
        return wanted

    def _begin(self) -> None:
        """What was measured before says nothing of what comes now."""
        self.listening_since = time.monotonic()
        self.statistics.begin()

    def destroy(self) -> None:
        self.stop_listening()
        self.outputs.destroy()
        self.label_info.destroy()
        self.engine = None

    def _on_image(self, message: Any, info: Mapping[str, Any]) -> None:
        stamp = message.header.stamp
        stamp_ns = stamp_to_ns(stamp)
        self.clock_fault = fault_of(stamp_ns, Reading.of(self._node.get_clock()))
        self.statistics.arrived(stamp_ns * 1e-9, self.clock_fault is not None)
        if not self.enabled:
            self.statistics.arrived_disabled()
            return
        if stamp.nanosec >= NS_IN_A_SECOND:
            # Here and not in the worker: a stamp that is none says nothing of those around it.
            self.statistics.reject(STAMP)
            self._warn(
                f"{STAMP} {self.name}",
                f"a frame on {self.topic} cannot be segmented: its stamp has {stamp.nanosec} nanoseconds, and a second "
                "has 10^9",
            )
            return
        size = (message.height, message.width) if hasattr(message, "height") else self.size
        origin = self._origins.of(info.get("publication_sequence_number"))
        assert self._mailbox is not None
        if self._mailbox.put(self, message, stamp_ns, size, origin):
            self.statistics.dropped_for_newer()


def enabled_names(streams: list[Stream], wanted: list[str]) -> Callable[[Stream], bool]:
    """Whether a camera is among those of parameter enabled_cameras. Raises ValueError for one that is not there."""
    names = listed(wanted)
    known = [stream.name for stream in streams]
    for name in names:
        if name not in known:
            there = ", ".join(known) if any(known) else "one without a name"
            raise ValueError(f"parameter enabled_cameras has {name!r}; the cameras are {there}")
    return lambda stream: not names or stream.name in names
