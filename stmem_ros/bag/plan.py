"""What a segmentation of a bag reads and writes, checked against the bag before any work."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from stmem_ros.bag.io.reader import IMAGE, Bag, BagError
from stmem_ros.bag.messages import CAMERA_INFO, LABEL_INFO
from stmem_ros.topics import camera_info_topic, camera_names, output_topics

OUTPUTS = {
    "labels": IMAGE,
    "confidence": IMAGE,
    "label_info": LABEL_INFO,
    "camera_info": CAMERA_INFO,
    "color": IMAGE,
}
# One message a frame, whatever the frame.
PICTURES = ("labels", "confidence", "color")


@dataclasses.dataclass(frozen=True)
class CameraPlan:
    """One image topic: `name` is empty where it is the only one, `outputs` the topic of each output."""

    topic: str
    name: str
    outputs: dict[str, str]
    info_topic: str | None

    @property
    def pictures(self) -> list[tuple[str, str]]:
        """Output and topic of those that every labelled frame has, in the order in which they are written."""
        return [(name, self.outputs[name]) for name in PICTURES if name in self.outputs]


@dataclasses.dataclass(frozen=True)
class Plan:
    """`passed` are the input's topics that are handed on, `recorded` the topic whose stamps choose the frames.

    `lost` has a line for each topic that cannot be handed on.
    """

    cameras: tuple[CameraPlan, ...]
    passed: tuple[str, ...]
    recorded: str | None
    lost: tuple[str, ...] = ()

    @property
    def frames(self) -> tuple[str, ...]:
        return tuple(camera.topic for camera in self.cameras)


def make_plan(bag: Bag, options: argparse.Namespace) -> Plan:
    """Raises BagError."""
    topics = bag.choose_images(options.image_topic)
    names = camera_names(topics)
    cameras = tuple(_camera(bag, topic, names[topic], options.namespace, options.outputs) for topic in topics)
    own = [] if options.no_input else list(bag.topics.values())
    # A rosbag2 has one type a topic, ROS 1 may have recorded several.
    mixed = [topic for topic in own if " and " in topic.type]
    passed = tuple(topic.name for topic in own if topic not in mixed)
    for camera in cameras:
        for topic in camera.outputs.values():
            if topic in passed:
                raise BagError(
                    f"{bag.path} has a topic {topic} of its own: give another --namespace, or --no-input to leave the "
                    "input's topics out"
                )
    recorded = None
    if options.as_recorded:
        if len(cameras) > 1:
            raise BagError(f"--as-recorded is of one camera, and there are {len(cameras)}: give one --image-topic")
        recorded = bag.choose_images([options.as_recorded])[0]
    lost = tuple(f"topic {topic.name} is left out: its messages are of {topic.type}" for topic in mixed)
    return Plan(cameras, passed, recorded, lost)


def _camera(bag: Bag, topic: str, name: str, namespace: str, wanted: Sequence[str]) -> CameraPlan:
    outputs = output_topics(namespace, name, [output for output in OUTPUTS if output in wanted])
    info = camera_info_topic(topic, bag.topics) if "camera_info" in outputs else None
    if info is None or bag.topics[info].type != CAMERA_INFO:
        outputs.pop("camera_info", None)
        info = None
    return CameraPlan(topic, name, outputs, info)
