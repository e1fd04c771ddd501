"""The folder of a bag that is being written: whose it is, what of it is kept, and how it takes its place."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from stmem_ros.bag.io.errors import BagError
from stmem_ros.bag.io.files import METADATA, UNFINISHED


class Unfinished:
    """`folder` becomes `path` when it is finished; it is locked until then, or until it is left.

    Raises BagError for what must not be overwritten or resumed, and OSError.
    """

    def __init__(self, path: Path, folder: Path, resume: bool, overwrite: bool, settings: Mapping[str, str]) -> None:
        self._path, self.folder = path, folder
        self._replaced = path.with_name(f"{path.name}.replaced")
        self._lock: int | None = None
        if _is_bag(self._replaced) and not os.path.lexists(path):
            os.rename(self._replaced, path)
        if os.path.lexists(path):
            self._require_replaceable(overwrite)
        if os.path.lexists(self.folder) and not (self.folder / UNFINISHED).is_file():
            raise BagError(f"{self.folder} is in the way, and was not written by this program: move it")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            if resume:
                self._require_same(settings)
                (self.folder / METADATA).unlink(missing_ok=True)
            else:
                self._empty()
            self._remember(settings)
        except BaseException:
            self._release()
            raise

    def kept(self) -> list[Path]:
        """The files of parts that have ended, in order, up to the first that is missing. What is not one is removed."""
        files: list[Path] = []
        while (file := self._part(len(files))).is_file():
            files.append(file)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        return files

    def remove_from(self, number: int) -> None:
        """Forget this part and those after it."""
        for path in self.folder.glob("*.mcap"):
            match = re.fullmatch(rf"{re.escape(self._path.name)}_(\d+)\.mcap", path.name)
            if match is None or int(match[1]) >= number:
                path.unlink()

    def keep(self, part: Path) -> Path:
        """Make the one file in that folder of a part one of `folder`, on the disk."""
        file = self.folder / f"{part.name}.mcap"
        _to_disk(part / file.name)
        os.rename(part / file.name, file)
        _to_disk(self.folder)
        shutil.rmtree(part)
        return file

    def finish(self) -> None:
        """Take the place of what is at `path`."""
        if os.path.lexists(self._path):
            if _is_bag(self._replaced):
                shutil.rmtree(self._replaced)
            os.rename(self._path, self._replaced)
        os.rename(self.folder, self._path)
        (self._path / UNFINISHED).unlink()
        _to_disk(self._path.parent)
        self._release()
        if _is_bag(self._replaced):
            shutil.rmtree(self._replaced)

    def leave(self, keep: bool) -> None:
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._release()

    def _require_replaceable(self, overwrite: bool) -> None:
        if not overwrite:
            raise BagError(f"{self._path} exists: give another name, or --overwrite to replace it")
        if not _is_bag(self._path):
            raise BagError(f"{self._path} is no bag, so it is not overwritten: give another name, or remove it")

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / UNFINISHED, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise BagError(
                f"{self.folder} is being written by another process: wait for it, or give another name"
            ) from None

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _require_same(self, settings: Mapping[str, str]) -> None:
        text = (self.folder / UNFINISHED).read_text("utf-8")
        if not text:  # new, or left before anything was written
            return
        try:
            before = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise BagError(f"{self.folder} cannot be resumed, its {UNFINISHED} is damaged: begin anew") from error
        for name in sorted({*before, *settings}):
            if before.get(name) != settings.get(name):
                raise BagError(
                    f"{self.folder} was begun with {name} {before.get(name)!r} and cannot go on with "
                    f"{settings.get(name)!r}: repeat it as it was, or begin anew"
                )

    def _remember(self, settings: Mapping[str, str]) -> None:
        assert self._lock is not None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps(dict(settings)).encode(), 0)
        os.fsync(self._lock)

    def _empty(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != UNFINISHED:
                path.unlink()

    def _part(self, number: int) -> Path:
        return self.folder / f"{self._path.name}_{number}.mcap"


def _is_bag(path: Path) -> bool:
    return path.is_dir() and (path / METADATA).is_file()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
