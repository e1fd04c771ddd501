"""What SQLite can still give of a rosbag2 database that is cut off or damaged."""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import parse_qos

from stmem_ros.bag.io.errors import BagError, when, why

DEFINITIONS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
FURTHEST_STEP = 1 << 20


class DamagedSqlite:
    """Looks for every row once; `connections` and `lost` are then complete but for rows whose data is damaged.

    Raises BagError where there is no list of topics to be had.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self.lost: list[str] = []
        self._rows, self._times, self._topics = array("q"), array("q"), array("q")
        try:
            with closing(self._connect()) as database:
                definitions = _definitions(database)
                topics = database.execute("SELECT * FROM topics").fetchall()
                self._find_rows(database)
        except sqlite3.Error as error:
            reason = why(error) if path.stat().st_size else "it is empty"
            raise BagError(f"{name} cannot be read as a bag: {reason}") from error
        counts = Counter(self._topics)
        self.connections = [
            Connection(
                topic["id"],
                topic["name"],
                topic["type"],
                definitions.get(topic["type"], MessageDefinition(MessageDefinitionFormat.NONE, "")),
                "",
                counts[topic["id"]],
                ConnectionExtRosbag2(topic["serialization_format"], _qos(topic)),
                None,
            )
            for topic in topics
            if isinstance(topic["id"], int) and isinstance(topic["name"], str) and isinstance(topic["type"], str)
        ]

    def messages(self, wanted: set[int]) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Of these connections, in the order of recording. A row whose data is damaged becomes a line in `lost`."""
        topics = {each.id: each for each in self.connections if each.id in wanted}
        with closing(self._connect()) as database:
            for index in np.lexsort((self._rows, self._times)):
                topic = topics.get(self._topics[index])
                if topic is None:
                    continue
                try:
                    query = "SELECT data FROM messages NOT INDEXED WHERE id = ?"
                    found = database.execute(query, (self._rows[index],)).fetchone()
                except sqlite3.Error:
                    found = None
                if found is None or not isinstance(found[0], bytes):
                    line = f"{self._name}: a damaged message of {topic.topic}, recorded {when(self._times[index])}"
                    if line not in self.lost:
                        self.lost.append(line)
                    continue
                yield topic, self._times[index], found[0]

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(f"file:{quote(str(self._path.absolute()))}?immutable=1", uri=True)
        database.row_factory = sqlite3.Row
        # Without it SQLite refuses a file that is shorter than its header says.
        database.execute("PRAGMA writable_schema = ON")
        return database

    def _find_rows(self, database: sqlite3.Connection) -> None:
        """Go through the table, over holes by ever longer steps."""
        query = "SELECT id, timestamp, topic_id FROM messages NOT INDEXED WHERE id >= ? ORDER BY id"
        lowest, step, reason = 0, 0, ""
        while step < FURTHEST_STEP:
            try:
                for found, time, topic in database.execute(query, (lowest + step,)):
                    if found < lowest + step:
                        raise sqlite3.DatabaseError("the rows are out of order")
                    lowest, step = found + 1, 0
                    # What lies in a page that something else was written over.
                    if isinstance(time, int) and isinstance(topic, int):
                        self._rows.append(found)
                        self._times.append(time)
                        self._topics.append(topic)
                break
            except sqlite3.Error as error:
                reason = why(error)
                step = step * 2 or 1
        if reason:
            since = f" after {when(max(self._times))}" if self._times else ""
            missing = self._rows[-1] - len(self._rows) if self._rows else 0
            holes = f"{missing} messages in between are lost" if missing > 0 else ""
            tail = f"what came{since} is lost; `sqlite3 {self._name} .recover` may give more of it" if step else ""
            self.lost.append(f"{self._name}: {reason}: {', and '.join(filter(None, (holes, tail)))}")


def _definitions(database: sqlite3.Connection) -> dict[str, MessageDefinition]:
    with suppress(sqlite3.Error):
        rows = database.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
        return {
            name: MessageDefinition(DEFINITIONS[encoding], text)
            for name, encoding, text in rows
            if encoding in DEFINITIONS
        }
    return {}


def _qos(topic: sqlite3.Row) -> list:
    with suppress(Exception):  # older files have no such column; parse_qos reads YAML that others wrote
        return parse_qos(topic["offered_qos_profiles"])
    return []
