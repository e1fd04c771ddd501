"""What is whole of an MCAP file whose index is missing or wrong: its records read one after the other.

Recordings end without an index where power or process was cut. The format is described at https://mcap.dev/spec.
"""

from __future__ import annotations

import heapq
import struct
from array import array
from binascii import crc32
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.metadata import parse_qos

from stmem_ros.bag.io.compression import decompressor
from stmem_ros.bag.io.errors import BagError, when

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX, DATA_END = 2, 3, 4, 5, 6, 7, 8, 15
PRIVATE = 0x80
DEFINITIONS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
CUT, DAMAGED = "cut off", "damaged"

_HEAD = struct.Struct("<BQ")
_CHUNK = struct.Struct("<QQQI")
_MESSAGE = struct.Struct("<HIQQ")
_FOOTER_BYTES = _HEAD.size + 20 + len(MAGIC)


class DamagedMcap:
    """Reads the whole file once to see what is in it; `connections` and `lost` are then complete.

    Raises BagError where the file is no MCAP, and OSError.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self.lost: list[str] = []
        self._definitions: dict[int, tuple[str, MessageDefinition]] = {}
        self._channels: dict[int, Connection] = {}
        self._counts: dict[int, int] = defaultdict(int)
        # Where messages are: chunks, and messages outside of chunks, by the earliest time in each.
        self._starts, self._places = array("q"), array("q")
        self._newest = 0
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise BagError(f"{name} is no MCAP file" if size else f"{name} is empty")
            self._chunk_places = self._read_summary(file, size)
            self._scan(file, size)
        unknown = sum(count for channel, count in self._counts.items() if channel not in self._channels)
        if unknown:
            self.lost.append(f"{name}: {unknown} messages of topics that are named in a damaged place are lost")
        self.connections = [
            channel._replace(msgcount=self._counts[number]) for number, channel in sorted(self._channels.items())
        ]

    def messages(self, wanted: set[int]) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Of these connections, in the order of recording, with as many chunks in memory as overlap in time."""
        channels = {each.id: each for each in self.connections if each.id in wanted}
        waiting: list[tuple[int, int, int, int, bytes]] = []
        with self._path.open("rb") as file:
            for index in np.lexsort((self._places, self._starts)):
                start, place = self._starts[index], self._places[index]
                while waiting and waiting[0][:2] < (start, place):
                    time, _, _, channel, data = heapq.heappop(waiting)
                    yield channels[channel], time, data
                for number, (channel, time, data) in enumerate(self._messages_at(file, place)):
                    if channel in channels:
                        heapq.heappush(waiting, (time, place, number, channel, data))
            while waiting:
                time, _, _, channel, data = heapq.heappop(waiting)
                yield channels[channel], time, data

    def _messages_at(self, file: BinaryIO, place: int) -> Iterator[tuple[int, int, bytes]]:
        opcode, length = _head(file, place)
        body = file.read(length)
        records = [(opcode, body)] if opcode == MESSAGE else _records(_unpack(body, length)[0])[0]
        for kind, record in records:
            if kind == MESSAGE:
                channel, _, time, _ = _MESSAGE.unpack_from(record)
                yield channel, time, record[_MESSAGE.size :]

    def _scan(self, file: BinaryIO, size: int) -> None:
        place = len(MAGIC)
        while place < size:
            opcode, length = _head(file, place)
            if opcode in (FOOTER, DATA_END):
                return
            end = place + _HEAD.size + length
            before = sum(self._counts.values())
            valid = 0 < opcode < DATA_END or opcode >= PRIVATE
            try:
                problem = self._take(file, opcode, length, place, cut=end > size) if valid else DAMAGED
            except (struct.error, IndexError, UnicodeDecodeError):
                problem = DAMAGED
            if problem:
                if not valid or end > size:
                    end = next((each for each in self._chunk_places if each > place), size)
                    count = 0
                else:
                    count = _indexed(file, end, size) - (sum(self._counts.values()) - before) if opcode == CHUNK else 0
                messages = f"{count} messages" if count > 0 else "messages"
                where = f"{problem} in the {end - place} bytes from byte {place} on"
                self.lost.append(f"{self._name}: {where}: {messages}{self._since()} are lost")
            place = end
        if not self.lost:
            self.lost.append(
                f"{self._name}: ends without its index, as after a power cut: what came{self._since()} is lost"
            )

    def _since(self) -> str:
        return f" after {when(self._newest)}" if self._newest else ""

    def _take(self, file: BinaryIO, opcode: int, length: int, place: int, cut: bool) -> str:
        """Note what the record holds; returns what is wrong with it, if anything."""
        if opcode == CHUNK:
            content, problem = _unpack(file.read(length), length)
            records, whole = _records(content)
            times = [self._note(kind, record) for kind, record in records]
            if found := [time for time in times if time is not None]:
                self._starts.append(min(found))
                self._places.append(place)
            return problem or ("" if whole else DAMAGED)
        if cut:
            return CUT
        if opcode in (SCHEMA, CHANNEL, MESSAGE):
            time = self._note(opcode, file.read(length))
            if time is not None:
                self._starts.append(time)
                self._places.append(place)
        return ""

    def _note(self, opcode: int, record: bytes) -> int | None:
        """Remember a schema, a channel or the count of a message; returns the message's time."""
        if opcode == SCHEMA:
            (number,) = struct.unpack_from("<H", record)
            name, place = _string(record, 2)
            encoding, place = _string(record, place)
            text, _ = _string(record, place)
            kind = DEFINITIONS.get(encoding, MessageDefinitionFormat.NONE)
            self._definitions[number] = name, MessageDefinition(kind, text if encoding in DEFINITIONS else "")
        elif opcode == CHANNEL:
            number, schema = struct.unpack_from("<HH", record)
            topic, place = _string(record, 4)
            encoding, place = _string(record, place)
            nothing = MessageDefinition(MessageDefinitionFormat.NONE, "")
            kind_name, definition = self._definitions.get(schema, ("unknown", nothing))
            ext = ConnectionExtRosbag2(encoding, _qos(record[place + 4 :]))
            self._channels.setdefault(number, Connection(number, topic, kind_name, definition, "", 0, ext, None))
        elif opcode == MESSAGE:
            channel, _, time, _ = _MESSAGE.unpack_from(record)
            self._counts[channel] += 1
            self._newest = max(self._newest, time)
            return int(time)
        return None

    def _read_summary(self, file: BinaryIO, size: int) -> list[int]:
        """Note the topics named at the end of the file, where it has an end; returns where its chunks begin."""
        places: list[int] = []
        with suppress(struct.error, IndexError, UnicodeDecodeError, OSError):
            file.seek(max(0, size - _FOOTER_BYTES))
            footer = file.read()
            (summary,) = struct.unpack_from("<Q", footer, _HEAD.size)
            if footer[0] == FOOTER and footer.endswith(MAGIC) and 0 < summary < size:
                file.seek(summary)
                for opcode, record in _records(file.read(size - summary))[0]:
                    if opcode == CHUNK_INDEX:
                        places.append(struct.unpack_from("<Q", record, 16)[0])
                    elif opcode in (SCHEMA, CHANNEL):
                        self._note(opcode, record)
        return sorted(places)


def _head(file: BinaryIO, place: int) -> tuple[int, int]:
    """Opcode and length of the record there; 0, which is no opcode, where the file ends."""
    file.seek(place)
    head = file.read(_HEAD.size)
    return _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)


def _unpack(body: bytes, length: int) -> tuple[bytes, str]:
    """A chunk's records, and what is wrong with it. Of a chunk that is cut off they are those before the cut."""
    try:
        _, _, size, crc = _CHUNK.unpack_from(body)
        compression, place = _string(body, _CHUNK.size)
        (packed,) = struct.unpack_from("<Q", body, place)
    except (struct.error, IndexError, UnicodeDecodeError):
        return b"", CUT if len(body) < length else DAMAGED
    unpack = decompressor(compression)
    if unpack is None:
        return b"", f"compressed as {compression!r}, which is not known,"
    content, problem = [], ""
    data = body[place + 8 : place + 8 + packed]
    try:
        for start in range(0, len(data), 1 << 16):
            content.append(unpack(data[start : start + (1 << 16)]))
    except Exception:  # each compression has its own
        problem = DAMAGED
    whole = b"".join(content)
    if len(body) < length:
        return whole, CUT
    if problem or len(whole) != size or (crc and crc32(whole) != crc):
        return b"", DAMAGED
    return whole, ""


def _records(content: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """The records, and whether they fill the content."""
    records, place = [], 0
    while place + _HEAD.size <= len(content):
        opcode, length = _HEAD.unpack_from(content, place)
        end = place + _HEAD.size + length
        if not opcode or end > len(content) or (opcode == MESSAGE and length < _MESSAGE.size):
            break
        records.append((opcode, content[place + _HEAD.size : end]))
        place = end
    return records, place == len(content)


def _indexed(file: BinaryIO, place: int, size: int) -> int:
    """How many messages the index records that follow a chunk count."""
    count = 0
    while True:
        opcode, length = _head(file, place)
        if opcode != MESSAGE_INDEX or place + length > size:
            return count
        # A channel's number and the size of an array of 16 bytes a message.
        count += (length - 6) // 16
        place += _HEAD.size + length


def _string(record: bytes, place: int) -> tuple[str, int]:
    """A string behind its length, and where the next field begins."""
    (length,) = struct.unpack_from("<I", record, place)
    start = place + 4
    if start + length > len(record):
        raise IndexError("a string that is longer than its record")
    return record[start : start + length].decode(), start + length


def _qos(metadata: bytes) -> list[Qos]:
    place = 0
    with suppress(Exception):  # parse_qos reads YAML that others wrote
        while place < len(metadata):
            key, place = _string(metadata, place)
            value, place = _string(metadata, place)
            if key == "offered_qos_profiles":
                return parse_qos(value)
    return []
