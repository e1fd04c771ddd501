"""A bag's files as its storage can open them: unpacked, and with what SQLite had left in its journal."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stmem_ros.bag.io.compression import zstd
from stmem_ros.bag.io.errors import BagError, why

COMPRESSED = ".zstd"
JOURNALS = ("-wal", "-journal")
# rosbags opens databases by a URI that it does not quote.
_NOT_IN_URIS = "?#%"
_SLICE = 1 << 16


class Scratch:
    """Copies of files in a temporary folder while somebody reads them; the last one stays until another is needed."""

    def __init__(self, lost: list[str]) -> None:
        self._lost = lost
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copies: dict[Path, Path] = {}
        self._readers: dict[Path, int] = {}

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._copies.clear()

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Path]:
        """The file itself, or a copy of it that can be read. Raises BagError where the copy has no room."""
        if not _needs_copy(path):
            yield path
            return
        self._readers[path] = self._readers.get(path, 0) + 1
        try:
            if path not in self._copies:
                self._remove_idle()
                self._copies[path] = self._copy(path)
            yield self._copies[path]
        finally:
            self._readers[path] -= 1

    def _remove_idle(self) -> None:
        for path in [path for path in self._copies if not self._readers.get(path)]:
            self._copies.pop(path).unlink(missing_ok=True)

    def _copy(self, path: Path) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="stmem_ros_bag_")
        copy = Path(self._folder.name, f"{len(self._readers)}{Path(unpacked_name(path)).suffix}")
        try:
            if path.suffix.lower() == COMPRESSED:
                self._unpack(path, copy)
            elif any(_journal(path, ending).exists() for ending in JOURNALS):
                self._finish_transactions(path, copy)
            else:
                copy.symlink_to(path.absolute())
        except OSError as error:
            raise BagError(
                f"{path} cannot be copied to {copy.parent} for reading: {why(error)}; "
                "set TMPDIR to a folder with room for it"
            ) from error
        return copy

    def _unpack(self, path: Path, copy: Path) -> None:
        with path.open("rb") as packed, zstd.open(packed, "rb") as source, copy.open("wb") as target:
            while True:
                try:
                    piece = source.read1(_SLICE)
                except (EOFError, zstd.ZstdError) as error:
                    self._lose(
                        f"{path.name}: cannot be unpacked from byte {target.tell()} of its content on: {why(error)}"
                    )
                    return
                if not piece:
                    return
                target.write(piece)

    def _finish_transactions(self, path: Path, copy: Path) -> None:
        shutil.copyfile(path, copy)
        for ending in JOURNALS:
            if _journal(path, ending).exists():
                shutil.copyfile(_journal(path, ending), _journal(copy, ending))
        try:
            with contextlib.closing(sqlite3.connect(copy)) as database:
                database.execute("PRAGMA journal_mode = DELETE")
                database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            self._lose(f"{path.name}: its journal cannot be read: {why(error)}")

    def _lose(self, line: str) -> None:
        if line not in self._lost:
            self._lost.append(line)


def unpacked_name(path: Path) -> str:
    """A file's name without the ending of its compression; what is left ends in small letters, as rosbags wants it."""
    name = path.with_suffix("") if path.suffix.lower() == COMPRESSED else path
    return name.stem + name.suffix.lower()


def _needs_copy(path: Path) -> bool:
    # rosbags goes by the ending, in small letters.
    if unpacked_name(path) != path.name:
        return True
    return path.suffix == ".db3" and (
        any(character in str(path) for character in _NOT_IN_URIS)
        or any(_size(_journal(path, ending)) > 0 for ending in JOURNALS)
    )


def _journal(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
