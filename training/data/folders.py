"""The image files in a folder and in the folders below it, and what lies there that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TypeVar

from stmem_ros.sources import IMAGE_SUFFIXES

P = TypeVar("P", bound=PurePath)


def image_files(folder: Path, problems: list[str]) -> list[Path]:
    """Every image below `folder` by its name's ending, hidden ones left out, in order of the names.

    `problems` gets a line for a folder that cannot be read or that a link shows twice, and for what has an image's
    name and is no file. Opens no image.
    """
    return list(_files(folder, {}, problems))


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def small_ending(path: P) -> P:
    """The path with its ending in small letters: `a.PNG` and `a.png` are one name."""
    ending = path.suffix
    return path if ending == ending.lower() else path.with_suffix(ending.lower())


def existing(path: Path) -> Path | None:
    """The file of that path, or else the one whose ending is written in the other case; None for none."""
    endings = (path.suffix, path.suffix.lower(), path.suffix.upper())
    return next((place for place in map(path.with_suffix, endings) if place.is_file()), None) if path.name else None


def _files(folder: Path, seen: dict[tuple[int, int], Path], problems: list[str]) -> Iterator[Path]:
    """`seen` holds the folders that were looked through, by device and inode."""
    try:
        status = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        problems.append(f"{folder} cannot be read: {error.strerror}; see to its permissions, or remove it")
        return
    first = seen.setdefault((status.st_dev, status.st_ino), folder)
    if first is not folder:
        problems.append(f"{folder} and {first} are one folder, which would count twice: remove the link")
        return
    below = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if _is_folder(entry):
            if is_image_name(entry.name):
                problems.append(f"{path} is a folder with the name of an image: rename or remove it")
            else:
                below.append(path)
        elif entry.is_symlink() and not path.exists():
            # It may have been a folder of frames.
            problems.append(f"{path} is a link to nothing: mend or remove it")
        elif is_image_name(entry.name):
            if entry.is_file():
                yield path
            else:
                problems.append(f"{path} is no regular file: remove it")
    for path in below:
        yield from _files(path, seen, problems)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads back to itself.
        return False
