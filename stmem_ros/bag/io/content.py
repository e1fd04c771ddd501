"""All files of a bag as one: their topics, and their messages one file after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from rosbags.interfaces import Connection, ConnectionExtRosbag2

from stmem_ros.bag.io.compression import ZSTD_MAGIC, zstd
from stmem_ros.bag.io.errors import BagError, why
from stmem_ros.bag.io.files import ROS1, bag_files, kind_of
from stmem_ros.bag.io.reader import Message, Topic
from stmem_ros.bag.io.ros1 import Ros1File
from stmem_ros.bag.io.scratch import Scratch
from stmem_ros.bag.io.storage import Rosbag2File
from stmem_ros.bag.io.typestore import has_header, header_stamp_ns, ros2_typestore
from stmem_ros.lfs import ONLY_A_POINTER, is_pointer

ROS1_ENCODING = "ros1"


class Content:
    """Lines go to `lost` for what cannot be read and to `notes` for what is unusual, each once. Raises BagError."""

    def __init__(self, path: Path, lost: list[str], notes: list[str]) -> None:
        self._path, self._lost = path, lost
        listed = bag_files(path, lost, notes)
        self._scratch = Scratch(lost)
        try:
            self._files = self._open(listed.paths, listed.has_metadata)
        except BaseException:
            self.close()
            raise
        connections = [each for file in self._files for each in file.connections]
        self.topics = {topic.name: topic for topic in _topics(connections)}
        first = self._files[0]
        self.typestore = first.typestore if isinstance(first, Ros1File) else ros2_typestore(connections, notes)
        self._with_header = {each.msgtype: has_header(self.typestore, each.msgtype) for each in connections}
        for file in self._files:
            count = sum(each.msgcount for each in file.connections)
            expected = listed.counts.get(file.path.name, 0)
            if count < expected:
                self._gather()
                self._lose(
                    f"{file.path.name}: {expected - count} of {expected} messages that metadata.yaml counts are missing"
                )
        self._gather()
        for connection in connections:
            if not _is_cdr(connection):
                encoding = cast(ConnectionExtRosbag2, connection.ext).serialization_format
                self._lose(f"topic {connection.topic} {_not_read(encoding)}")
        if lost and not any(topic.count for topic in self.topics.values()):
            self.close()
            raise BagError(f"{path} has no message that can be read: {lost[0]}")

    def close(self) -> None:
        self._scratch.close()

    def messages(self, topics: Sequence[str] | None) -> Generator[Message, None, None]:
        """Those of the topics, or all, in the order of recording."""
        chosen = None if topics is None else set(topics)

        def wanted(connection: Connection) -> bool:
            return (chosen is None or connection.topic in chosen) and _is_cdr(connection)

        for file in self._files:
            try:
                for connection, recorded_ns, data in file.messages(wanted):
                    if data[:4] == ZSTD_MAGIC:
                        try:
                            data = zstd.decompress(data)
                        except zstd.ZstdError:
                            self._lose(f"{file.path.name}: messages of {connection.topic} that cannot be decompressed")
                            continue
                    stamp_ns = header_stamp_ns(data) if self._with_header[connection.msgtype] else 0
                    kind = connection.msgtype
                    yield Message(connection.topic, kind, stamp_ns or recorded_ns, recorded_ns, bytes(data))
            finally:
                self._gather()

    def _open(self, paths: Iterable[Path], has_metadata: bool) -> list[Rosbag2File | Ros1File]:
        """The files that can be read; at least one."""
        files: list[Rosbag2File | Ros1File] = []
        reasons = []
        for path in paths:
            try:
                if is_pointer(path):
                    raise BagError(f"{path} {ONLY_A_POINTER}")
                files.append(Ros1File(path) if kind_of(path) in ROS1 else Rosbag2File(path, self._scratch))
            except BagError as error:
                reasons.append(str(error))
            except OSError as error:
                reasons.append(f"{path} cannot be read: {why(error)}")
        if not files:
            without = "" if has_metadata else "it lacks metadata.yaml, and "
            raise BagError(f"{self._path} cannot be read as a bag: {without}{reasons[0]}")
        for reason in reasons:
            self._lose(reason)
        return files

    def _gather(self) -> None:
        for file in self._files:
            for line in file.lost:
                self._lose(line)

    def _lose(self, line: str) -> None:
        if line not in self._lost:
            self._lost.append(line)


def _topics(connections: Sequence[Connection]) -> Generator[Topic, None, None]:
    """One for each name, in the order of names: publishers, files and types of one topic added up."""
    ordered = sorted(connections, key=lambda each: each.topic)
    for name, group in groupby(ordered, key=lambda each: each.topic):
        several = list(group)
        types = " and ".join(sorted({each.msgtype for each in several}))
        qos: list[Any] = []
        for each in several:
            qos += [one for one in cast(ConnectionExtRosbag2, each.ext).offered_qos_profiles if one not in qos]
        yield Topic(name, types, sum(each.msgcount for each in several if _is_cdr(each)), tuple(qos))


def _is_cdr(connection: Connection) -> bool:
    return cast(ConnectionExtRosbag2, connection.ext).serialization_format == "cdr"


def _not_read(encoding: str) -> str:
    """What is wrong with another encoding than CDR, and what to do."""
    if encoding == ROS1_ENCODING:
        return (
            "has ROS 1's messages in a ROS 2 file, which are not read: give the .bag that the file was made from, or "
            "convert that with rosbags-convert --src IN.bag --dst OUT"
        )
    return f"is encoded as {encoding or 'nothing known'}, not as CDR: not read"
