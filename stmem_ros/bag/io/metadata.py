"""The metadata.yaml of a rosbag2 that consists of several files, and what each of its files holds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from rosbags.interfaces import ConnectionExtRosbag2, Qos
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.metadata import dump_qos_v8
from ruamel.yaml import YAML

# Newer than Humble's own, which reads it all the same; from 9 on QoS profiles are no longer what Humble reads.
VERSION: Literal[8] = 8


@dataclass(frozen=True)
class TopicRecord:
    """A topic as it is recorded: `type_hash` is ROS 2's hash of its type's definition."""

    topic: str
    msgtype: str
    qos: list[Qos]
    type_hash: str


@dataclass(frozen=True)
class Part:
    """A file of a bag that is whole. Times are those of recording; of a file without messages they mean nothing."""

    file: str
    counts: dict[str, int]
    start_ns: int
    end_ns: int
    topics: tuple[TopicRecord, ...]

    @property
    def messages(self) -> int:
        return sum(self.counts.values())


def read_part(path: Path) -> Part:
    """Raises whatever rosbags raises where the file is not whole."""
    with Reader(path) as reader:
        connections = list(reader.connections)
        start, end = reader.start_time, reader.end_time - 1
    topics = tuple(
        TopicRecord(each.topic, each.msgtype, cast(ConnectionExtRosbag2, each.ext).offered_qos_profiles, each.digest)
        for each in connections
    )
    return Part(path.name, {each.topic: each.msgcount for each in connections}, start, max(start, end), topics)


def metadata_text(topics: Sequence[TopicRecord], parts: Sequence[Part], settings: Mapping[str, str]) -> str:
    """What belongs into metadata.yaml."""
    counts = {topic.topic: sum(part.counts.get(topic.topic, 0) for part in parts) for topic in topics}
    filled = [part for part in parts if part.messages] or [*parts]
    start = min(part.start_ns for part in filled)
    end = max(part.end_ns for part in filled)
    information: dict[str, Any] = {
        "version": VERSION,
        "storage_identifier": "mcap",
        "relative_file_paths": [part.file for part in parts],
        **_span(start, end),
        "message_count": sum(counts.values()),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.topic,
                    "type": topic.msgtype,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": dump_qos_v8(topic.qos),
                    "type_description_hash": topic.type_hash,
                },
                "message_count": counts[topic.topic],
            }
            for topic in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [
            {"path": part.file, **_span(part.start_ns, part.end_ns), "message_count": part.messages} for part in parts
        ],
        "custom_data": dict(settings) or None,
        "ros_distro": "rosbags",
    }
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump({"rosbag2_bagfile_information": information}, text)
    return text.getvalue()


def _span(start_ns: int, end_ns: int) -> dict[str, Any]:
    return {
        "duration": {"nanoseconds": end_ns - start_ns},
        "starting_time": {"nanoseconds_since_epoch": start_ns},
    }
