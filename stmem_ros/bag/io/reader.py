"""Any ROS bag as messages in CDR: rosbag2 folders, single files, ROS 1 bags, and what is whole of damaged ones."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmem_ros.bag.io.errors import BagError, no_rosbags, why

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

__all__ = ["Bag", "BagError", "Message", "Topic"]

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
# Packets of a film, of which one alone is no picture.
VIDEO = (
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
    "foxglove_msgs/msg/CompressedVideo",
    "theora_image_transport/msg/Packet",
)


@dataclass(frozen=True)
class Topic:
    """`type` as ROS 2 writes it (`sensor_msgs/msg/Image`); `count` messages can be read; `qos` are rosbags' own."""

    name: str
    type: str
    count: int
    qos: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Message:
    """One message as CDR. `stamp_ns` is its header's, or `recorded_ns` where it has no header or a stamp of 0."""

    topic: str
    type: str
    stamp_ns: int
    recorded_ns: int
    data: bytes


class Bag:
    """A bag for reading; a context manager. Raises BagError.

    `lost` has a line for everything that could not be read: it is complete when `messages()` has ended. `notes` has
    lines for what is unusual without being lost. `image_topics` are those of Image and CompressedImage, sorted.
    Every iteration opens the files it needs itself, so several may run side by side.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            from stmem_ros.bag.io.content import Content
        except ImportError as error:
            raise no_rosbags(self.path, "reading", error) from error
        self.name = self.path.resolve().name
        self.lost: list[str] = []
        self.notes: list[str] = []
        self._content = Content(self.path, self.lost, self.notes)
        self.topics: dict[str, Topic] = self._content.topics
        self.image_topics = sorted(
            name for name, topic in self.topics.items() if topic.type in (IMAGE, COMPRESSED_IMAGE)
        )
        self.typestore: Typestore = self._content.typestore

    def close(self) -> None:
        """Remove what was unpacked for reading. May be called more than once."""
        self._content.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def choose_images(self, wanted: Sequence[str]) -> list[str]:
        """The image topics of these names (a leading slash may be missing); the only one there is where none is given.

        Raises BagError, which names the image topics there are.
        """
        if not any(topic.count for topic in self.topics.values()):
            raise BagError(f"{self.path} is empty: it has no messages")
        mixed = next((topic.name for topic in self.topics.values() if _is_mixed(topic)), None)
        if not wanted and not self.image_topics and mixed is not None:
            wanted = [mixed]
        if not wanted and not self.image_topics:
            listed = ", ".join(f"{topic.name} ({topic.type})" for topic in self.topics.values()) or "none"
            raise BagError(f"{self.path} has no image topic; its topics: {listed}")
        if not wanted:
            if len(self.image_topics) > 1:
                raise BagError(
                    f"{self.path} has {len(self.image_topics)} image topics, name one of: "
                    f"{', '.join(self.image_topics)}"
                )
            wanted = self.image_topics
        chosen = []
        for name in wanted:
            match = self.image_topic(name)
            if not self.topics[match].count:
                raise BagError(f"{self.path} has no message on image topic {match}")
            if match not in chosen:
                chosen.append(match)
        return chosen

    def image_topic(self, name: str, option: str = "") -> str:
        """The image topic of that name (a leading slash may be missing), which `option` asked for.

        Raises BagError, which says what there is instead.
        """
        topic = next((each for each in self.topics.values() if each.name.lstrip("/") == name.lstrip("/")), None)
        if topic is not None and topic.name in self.image_topics:
            return topic.name
        of = f" for {option}" if option else ""
        listed = f"; its image topics: {', '.join(self.image_topics) or 'none'}"
        if topic is None:
            raise BagError(f"{self.path} has no image topic {name}{of}{listed}")
        if _is_mixed(topic):
            raise BagError(
                f"{self.path}: topic {topic.name} has messages of {topic.type}, and one type can be read at a time: "
                f"take one out with rosbags-convert --src {self.path} --dst OUT --exclude-msgtype {COMPRESSED_IMAGE}, "
                "and give each publisher a topic of its own in the next recording"
            )
        advice = f"images are {IMAGE} or {COMPRESSED_IMAGE}"
        if topic.type in VIDEO:
            advice += "; play the bag and record what `ros2 run image_transport republish` decodes of it"
        raise BagError(f"{self.path}: topic {topic.name}{of} has messages of {topic.type}: {advice}{listed}")

    def messages(self, topics: Sequence[str] | None = None) -> Generator[Message, None, None]:
        """In the order of recording; of all topics where none are given. Raises BagError for unknown topics."""
        return self._content.messages(self._known(topics))

    def in_stamp_order(self, topics: Sequence[str]) -> Generator[Message, None, None]:
        """In the order of header stamps; `stmem_ros.bag.io.order` tells what it holds in memory and does not sort."""
        from stmem_ros.bag.io.order import in_stamp_order

        chosen = self._known(topics) or ()
        return in_stamp_order([self._content.messages([topic]) for topic in chosen], self.notes)

    def decode(self, message: Message) -> Any:
        """The message as rosbags' object. Raises BagError where its type is unknown or it is damaged."""
        if message.type not in self.typestore.fielddefs:
            raise BagError(
                f"{self.path}: topic {message.topic} has messages of type {message.type}, of which neither the bag nor "
                "ROS 2 Humble has a definition: record it with ROS 2 Iron or newer, which keeps definitions, or as MCAP"
            )
        try:
            return self.typestore.deserialize_cdr(message.data, message.type)
        except Exception as error:  # whatever a damaged message makes the decoder stumble on
            raise BagError(
                f"{self.path}: the message of {message.topic} recorded at {message.recorded_ns} ns is no "
                f"{message.type}: {why(error)}"
            ) from error

    def _known(self, topics: Sequence[str] | None) -> list[str] | None:
        if topics is None:
            return None
        for name in topics:
            if name not in self.topics:
                raise BagError(f"{self.path} has no topic {name}; its topics: {', '.join(self.topics) or 'none'}")
        return list(dict.fromkeys(topics))


def _is_mixed(topic: Topic) -> bool:
    """Whether raw and compressed images are on one topic."""
    return {IMAGE, COMPRESSED_IMAGE} <= set(topic.type.split(" and "))
