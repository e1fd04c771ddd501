"""What a segmentation of a bag reads and writes, checked against the bag before any work."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from stmem_ros.bag.io.reader import IMAGE, Bag, BagError
from stmem_ros.bag.messages import CAMERA_INFO, LABEL_INFO
from stmem_ros.topics import camera_info_topics, camera_names, output_topics

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

    `used_bits` are those of 16-bit images (`UsedBits`).
    `lost` has a line for each topic that cannot be handed on and each output that was asked for and cannot be written,
    `notes` one for each output that is left out though nothing is wrong.
    """

    cameras: tuple[CameraPlan, ...]
    passed: tuple[str, ...]
    recorded: str | None
    used_bits: int = 0
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> tuple[str, ...]:
        return tuple(camera.topic for camera in self.cameras)


def make_plan(bag: Bag, options: argparse.Namespace) -> Plan:
    """Raises BagError."""
    topics = bag.choose_images(options.image_topic)
    names = camera_names(topics)
    # Which outputs were asked for by name: one that cannot be is a loss, one of all is not.
    asked = options.outputs is not None
    wanted = [output for output in OUTPUTS if not asked or output in options.outputs]
    without: list[str] = []
    infos = _calibrations(bag, topics, options.camera_info_topic, without) if "camera_info" in wanted else {}
    cameras = []
    for topic in topics:
        info = infos.get(topic)
        own = [output for output in wanted if output != "camera_info" or info is not None]
        cameras.append(CameraPlan(topic, names[topic], output_topics(options.namespace, names[topic], own), info))
    if not any(camera.outputs for camera in cameras):
        raise BagError(f"{bag.path}: there is nothing to write: {'; '.join(without)}")
    input_topics = [] if options.no_input else list(bag.topics.values())
    # A rosbag2 has one type a topic, ROS 1 may have recorded several.
    mixed = [topic for topic in input_topics if " and " in topic.type]
    passed = tuple(topic.name for topic in input_topics if topic not in mixed)
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
    lost = [f"topic {topic.name} is left out: its messages are of {topic.type}" for topic in mixed]
    lost += without if asked else []
    notes = () if asked else tuple(without)
    return Plan(tuple(cameras), passed, recorded, options.used_bits, tuple(lost), notes)


def _calibrations(bag: Bag, topics: Sequence[str], named: Sequence[str], without: list[str]) -> dict[str, str]:
    """The topic of each camera's calibration; a line goes to `without` for a camera that has none. Raises BagError."""
    if named and len(named) != len(topics):
        raise BagError(
            f"--camera-info-topic is given {len(named)} times for {len(topics)} image topics: give it once for each "
            "--image-topic, in their order"
        )
    if len(set(named)) < len(named):
        raise BagError(f"--camera-info-topic names a topic twice ({', '.join(named)}); each is of one camera")
    there = [topic for topic in bag.topics.values() if topic.type == CAMERA_INFO and topic.count]
    listed = ", ".join(topic.name for topic in there)
    found = {}
    for topic, info in zip(topics, named or camera_info_topics(topics), strict=True):
        match = next((each.name for each in there if each.name.lstrip("/") == info.lstrip("/")), None)
        if match is not None:
            found[topic] = match
            continue
        what = _nothing(bag, info)
        if named:
            raise BagError(f"--camera-info-topic {info}: {what}")
        hint = f"; name its topic with --camera-info-topic: there is {listed}" if listed else ""
        without.append(f"{topic}: no camera_info is written: {what}{hint}")
    return found


def _nothing(bag: Bag, info: str) -> str:
    """Why there is no calibration on a topic."""
    if not info:
        return "the topic beside the images lies beside several cameras' images, and it is one camera's at most"
    topic = next((each for each in bag.topics.values() if each.name.lstrip("/") == info.lstrip("/")), None)
    if topic is None:
        return f"the bag has no topic {info}"
    if topic.type != CAMERA_INFO:
        return f"{topic.name} has messages of {topic.type}, not of {CAMERA_INFO}"
    return f"{topic.name} has no message"
