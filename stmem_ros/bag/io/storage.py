"""One file of a rosbag2, its topics and its messages: by rosbags, and what can be recovered where that fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import islice
from pathlib import Path

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from stmem_ros.bag.io.errors import BagError, why
from stmem_ros.bag.io.mcap_recovery import DamagedMcap
from stmem_ros.bag.io.scratch import Scratch
from stmem_ros.bag.io.sqlite_recovery import DamagedSqlite
from stmem_ros.bag.io.typestore import full_name

Rows = Generator[tuple[Connection, int, bytes], None, None]


class Rosbag2File:
    """A `.mcap` or `.db3`, perhaps with `.zstd` behind. Raises BagError where nothing can be read.

    `lost` may grow while messages are read.
    """

    def __init__(self, path: Path, scratch: Scratch) -> None:
        self.path = path
        self.lost: list[str] = []
        self._scratch = scratch
        self._damaged: DamagedMcap | DamagedSqlite | None = None
        with scratch.opened(path) as file:
            try:
                with Reader(file) as reader:
                    self.connections = _with_full_types(reader.connections)
            except Exception:  # a damaged file raises whatever its storage raises
                self._recover(file)

    def messages(self, wanted: Callable[[Connection], bool]) -> Rows:
        """Those of the wanted connections in the order of recording."""
        chosen = {each.id: each for each in self.connections if wanted(each)}
        given = 0
        if not chosen:
            return
        with self._scratch.opened(self.path) as file:
            if self._damaged is None:
                try:
                    with Reader(file) as reader:
                        connections = [each for each in reader.connections if each.id in chosen]
                        for connection, recorded_ns, data in reader.messages(connections):
                            yield chosen[connection.id], recorded_ns, data
                            given += 1
                    self._check_count(file, given, sum(each.msgcount for each in chosen.values()))
                    return
                except Exception:
                    if self._damaged is None:
                        self._recover(file)
            assert self._damaged is not None
            # Both ways have one order, so what was given already is what comes first.
            for connection, recorded_ns, data in islice(self._damaged.messages(set(chosen)), given, None):
                yield chosen[connection.id], recorded_ns, data

    def _check_count(self, file: Path, given: int, expected: int) -> None:
        """A hole in what has no checksum passes unnoticed but for its messages that are missing."""
        if given < expected:
            self._recover(file)
            if not self.lost:
                self.lost.append(f"{self.path.name}: damaged: {expected - given} of {expected} messages are lost")

    def _recover(self, file: Path) -> None:
        kind = DamagedMcap if file.suffix == ".mcap" else DamagedSqlite
        try:
            self._damaged = kind(file, self.path.name)
        except OSError as error:
            raise BagError(f"{self.path} cannot be read: {why(error)}") from error
        self.lost = self._damaged.lost
        self.connections = _with_full_types(self._damaged.connections)


def _with_full_types(connections: Iterable[Connection]) -> list[Connection]:
    return [each._replace(msgtype=full_name(each.msgtype)) for each in connections]
