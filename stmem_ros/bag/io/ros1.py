"""A ROS 1 bag as if it were ROS 2: ROS 2's type names, and messages in CDR."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag1,
    ConnectionExtRosbag2,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Reader

from stmem_ros.bag.io.errors import BagError, when, why
from stmem_ros.bag.io.typestore import Convert, ros1_converter, ros1_typestores

FOREVER = QosTime(9223372036, 854775807)
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)


class Ros1File:
    """`connections` are those that can be converted. Raises BagError. `lost` may grow while messages are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost: list[str] = []
        try:
            with Reader(path) as reader:
                recorded = list(reader.connections)
                self._chunk_starts = sorted({chunk.start_time for chunk in reader.chunk_infos})
        except Exception as error:  # a damaged file raises whatever is damaged in it
            raise BagError(
                f"{path} cannot be read as a bag: {why(error)}; where its recording was cut off, "
                "run `rosbag reindex` on it"
            ) from error
        old, self.typestore = ros1_typestores(recorded)
        self.connections: list[Connection] = []
        self._converters: dict[int, Convert] = {}
        for connection in recorded:
            try:
                name, self._converters[connection.id] = ros1_converter(connection.msgtype, old, self.typestore)
            except KeyError:
                self.lost.append(f"{path.name}: topic {connection.topic}: no definition of {connection.msgtype}")
                continue
            latched = isinstance(connection.ext, ConnectionExtRosbag1) and connection.ext.latching
            ext = ConnectionExtRosbag2("cdr", [LATCHED] if latched else [])
            self.connections.append(connection._replace(msgtype=name, ext=ext))

    def messages(self, wanted: Callable[[Connection], bool]) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Those of the wanted connections in the order of recording; chunks that cannot be read are left out."""
        chosen = {each.id: each for each in self.connections if wanted(each)}
        newest, start = 0, None
        gap: tuple[int, str] | None = None
        while chosen:
            try:
                with Reader(self.path) as reader:
                    connections = [each for each in reader.connections if each.id in chosen]
                    for connection, newest, data in reader.messages(connections, start):
                        converted = self._converters[connection.id](data)
                        if gap is not None:
                            self._lose(*gap, f"until {when(newest)}")
                            gap = None
                        yield chosen[connection.id], newest, converted
            except Exception as error:
                gap = gap or (newest, why(error))
                newest = max(newest, start or 0)
                start = next((each for each in self._chunk_starts if each > newest), None)
                if start is not None:
                    continue
            if gap is not None:
                self._lose(*gap, "until its end")
            return

    def _lose(self, after_ns: int, reason: str, until: str) -> None:
        line = f"{self.path.name}: damaged after {when(after_ns)} {until}: {reason}"
        if line not in self.lost:
            self.lost.append(line)
