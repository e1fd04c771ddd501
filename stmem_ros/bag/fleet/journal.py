"""Finished results of a long run, one file each, so that a run that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path, PurePath
from typing import Any

from stmem_ros import __version__
from stmem_ros.bag.fleet.digest import bag_digest
from stmem_ros.bag.fleet.plain import Plain
from stmem_ros.files import whole_file

_SUFFIX = ".result"


class Journal:
    """Results by key in a folder, which is made with the first of them. Each is there whole or not at all.

    They are plain data and dataclasses of `types`. Reading one runs nothing from the folder.
    """

    def __init__(self, folder: Path, types: tuple[type, ...] = ()) -> None:
        self.folder, self._plain = folder, Plain(types)

    def read(self, key: str) -> tuple[bool, Any]:
        """Whether there is a result, and the result; one that cannot be read is none."""
        try:
            return True, self._plain.loads(self._path(key).read_bytes())
        except Exception:  # what dataclasses raise whose fields have changed is not to be foreseen
            return False, None

    def write(self, key: str, result: Any) -> None:
        """Raises OSError, TypeError for a result that is no plain data."""
        data = self._plain.dumps(result)
        with whole_file(self._path(key)) as partial:
            partial.write_bytes(data)

    def clear(self) -> None:
        """Forget everything; what others have put into the folder stays."""
        with contextlib.suppress(OSError):
            for file in self.folder.glob(f"*{_SUFFIX}"):
                file.unlink()
            self.folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


def key_of(function: str, bag: Path, settings: object, identity: str) -> str:
    """What a result depends on, as a name: the bag's content and place, what is done to it, and this version.

    Raises OSError where the bag cannot be read, TypeError for settings that are not plain data.
    """
    parts = [__version__, function, str(bag.resolve()), bag_digest(bag), settings, identity]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()[:40]


def _plain(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"settings hold {value!r}, a {type(value).__name__}: they must be plain data")
