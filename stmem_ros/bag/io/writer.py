"""A rosbag2 (MCAP) that is whole or not there: written in parts, which a run that was cut off can go on from."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys.store import Typestore

from stmem_ros.bag.io.compression import zstd
from stmem_ros.bag.io.errors import BagError, is_full, why
from stmem_ros.bag.io.files import METADATA
from stmem_ros.bag.io.metadata import VERSION, Part, TopicRecord, metadata_text, read_part
from stmem_ros.bag.io.ros1 import LATCHED
from stmem_ros.bag.io.typestore import ros2_typestore
from stmem_ros.bag.io.unfinished import Unfinished
from stmem_ros.files import whole_file

__all__ = ["LATCHED", "BagError", "BagWriter", "Part"]

PART_MESSAGES = 10_000
PART_BYTES = 1 << 30
NO_HASH = "RIHS01_" + "0" * 64


class BagWriter:
    """A context manager that leaves a rosbag2 folder at `path`, or, where it is left by an exception, none.

    Until then everything is in `path` with `.partial` behind its name. Messages go to parts, each a file of its own of
    at most `part_messages` messages and about `part_bytes` of them; `end_part` ends one earlier. A part that has ended
    is on the disk, whatever becomes of the run. With `resume` the parts of a run before are kept, `parts` tells what
    is in them, and the caller goes on with what comes after; without it they are thrown away. `settings` say what the
    output depends on: a run cannot be resumed with others. They end up as `custom_data` in the bag's metadata.

    `typestore` knows the types of the messages: an input bag's, or by default ROS 2's and vision_msgs. `compress`
    is for the storage (zstd). An existing bag at `path` is refused unless `overwrite`; it stays until the new one is
    whole. Raises BagError, also for a full disk.
    """

    def __init__(
        self,
        path: Path | str,
        typestore: Typestore | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        settings: Mapping[str, str] | None = None,
        compress: bool = True,
        part_messages: int = PART_MESSAGES,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.path = Path(path).absolute()
        self.typestore = typestore or ros2_typestore()
        self._settings = dict(settings or {})
        self._remarks: dict[str, str] = {}
        self._limits = part_messages, part_bytes
        self._compress = compress
        self._topics: dict[str, TopicRecord] = {}
        self._definitions: dict[str, tuple[str, str]] = {}
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}
        self._messages = self._bytes = 0
        self._failed = False
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.parts: list[Part] = []
        with self._guarded():
            self._unfinished = Unfinished(self.path, self.partial, resume, overwrite, self._settings)
            try:
                self.parts += self._whole_parts()
            except OSError:
                self._unfinished.leave(keep=True)
                raise
        for part in self.parts:
            for topic in part.topics:
                self.add(topic.topic, topic.msgtype, topic.qos)

    @property
    def counts(self) -> Counter[str]:
        """How many messages of each topic are in parts that have ended."""
        return sum((Counter(part.counts) for part in self.parts), Counter())

    @property
    def until_ns(self) -> int | None:
        """The latest time of recording in parts that have ended, None where there are none."""
        return max((part.end_ns for part in self.parts if part.messages), default=None)

    def add(self, topic: str, type: str, qos: Sequence[Qos] | None = None) -> None:
        """Make the topic known; again for the same type is nothing. `qos`: what is offered, such as `[LATCHED]`.

        A type that the typestore does not know is written without a definition. Raises BagError for another type.
        """
        known = self._topics.get(topic)
        if known is not None:
            if known.msgtype != type:
                raise BagError(f"{self.path}: topic {topic} is of {known.msgtype} and cannot be of {type}, too")
            return
        if type not in self._definitions:
            self._definitions[type] = self._define(type)
        self._topics[topic] = TopicRecord(topic, type, list(qos or ()), self._definitions[type][1])
        if self._writer is not None:
            self._connect(self._topics[topic])

    def remark(self, name: str, text: str) -> None:
        """Say something of the run that its settings do not decide; it ends up beside them in `custom_data`."""
        self._remarks[name] = text

    def write(self, topic: str, message: Any, recorded_ns: int) -> None:
        """A message object, or its CDR as bytes, on a topic that was added."""
        data = message
        if not isinstance(message, bytes | bytearray | memoryview):
            data = self.typestore.serialize_cdr(message, self._topics[topic].msgtype)
        most_messages, most_bytes = self._limits
        if self._writer is not None and (
            self._messages >= most_messages or self._bytes + len(data) > most_bytes > 0 < self._messages
        ):
            self.end_part()
        with self._guarded():
            if self._writer is None:
                self._begin_part()
            assert self._writer is not None
            self._writer.write(self._connections[topic], recorded_ns, data)
        self._messages += 1
        self._bytes += len(data)

    def end_part(self) -> None:
        """What was written so far is kept whatever happens from here on."""
        if self._writer is None:
            return
        with self._guarded():
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except BaseException:
                with contextlib.suppress(Exception):
                    writer.abort()
                raise
            self.parts.append(read_part(self._unfinished.keep(writer.path)))
        self._messages = self._bytes = 0

    def close(self) -> None:
        """End the last part and put the bag in its place."""
        if not self.parts and self._writer is None:
            with self._guarded():
                self._begin_part()
        self.end_part()
        with self._guarded():
            with whole_file(self.partial / METADATA) as file:
                said = self._settings | self._remarks
                file.write_text(metadata_text(list(self._topics.values()), self.parts, said), "utf-8")
            self._unfinished.finish()

    def abandon(self) -> None:
        """Leave what has ended for another run to resume, and nothing where that is nothing."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.abort()
            shutil.rmtree(writer.path, ignore_errors=True)
        self._unfinished.leave(keep=bool(self.parts))

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._failed:
            try:
                self.close()
            except BaseException:
                self.abandon()
                raise
        else:
            self.abandon()

    def _begin_part(self) -> None:
        place = self.partial / f"{self.path.name}_{len(self.parts)}"
        self._writer = Writer(place, version=VERSION, storage_plugin=StoragePlugin.MCAP)
        if self._compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        if self._compress and isinstance(self._writer.storage, McapWriter):
            # Twice as quick as zstd's own choice for camera images, and as small for labels.
            self._writer.storage.compressor = partial(zstd.compress, level=1)
        self._connections = {}
        for topic in self._topics.values():
            self._connect(topic)

    def _connect(self, topic: TopicRecord) -> None:
        assert self._writer is not None
        self._connections[topic.topic] = self._writer.add_connection(
            topic.topic,
            topic.msgtype,
            msgdef=self._definitions[topic.msgtype][0],
            rihs01=topic.type_hash or NO_HASH,
            offered_qos_profiles=topic.qos,
        )

    def _define(self, msgtype: str) -> tuple[str, str]:
        """The definition that goes into the file, and its hash as ROS 2 computes it; empty where they are unknown."""
        if msgtype not in self.typestore.fielddefs:
            return "", ""
        text, _ = self.typestore.generate_msgdef(msgtype, ros_version=2)
        try:
            return text, self.typestore.hash_rihs01(msgtype)
        except Exception:  # of a few kinds of fields rosbags knows no hash
            return text, ""

    def _whole_parts(self) -> list[Part]:
        parts = []
        for place in self._unfinished.kept():
            try:
                parts.append(read_part(place))
            except Exception:  # what is wrong with a damaged file depends on the damage
                break
        self._unfinished.remove_from(len(parts))
        return parts

    @contextlib.contextmanager
    def _guarded(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            self._failed = True
            raise self._error(error) from error

    def _error(self, error: OSError) -> BagError:
        advice = "make room, or write to another disk" if is_full(error) else "see its permissions, or write elsewhere"
        kept = f"; the {len(self.parts)} parts in it that are whole can be resumed" if self.parts else ""
        return BagError(f"{self.partial} cannot be written: {why(error)}: {advice}{kept}")
