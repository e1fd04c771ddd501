"""The image files in a folder and in the folders below it, and what lies there that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def image_files(folder: Path, problems: list[str]) -> list[Path]:
    """Every image below `folder` by its name's ending, hidden ones left out, in order of the names.

    `problems` gets a line for a folder that cannot be read or that a link shows twice, and for what has an image's
    name and is no file. Opens no image.
    """
    return list(_files(folder, {}, problems))


def is_image_name(name: str) -> bool:
    return name.lower().endswith(FRAME_ENDINGS) and not name.startswith(".")


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
        problems.append(f"{folder} is a link to {first}, which would count twice: remove the link")
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
        elif is_image_name(entry.name):
            if entry.is_file():
                yield path
            else:
                kind = "a link to nothing" if entry.is_symlink() else "no regular file"
                problems.append(f"{path} is {kind}: remove it")
    for path in below:
        yield from _files(path, seen, problems)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads back to itself.
        return False
