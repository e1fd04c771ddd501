"""Which bags lie below a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stmem_ros.bag.io.errors import BagError, why
from stmem_ros.bag.io.files import METADATA, ROS1, STORAGE, UNFINISHED, kind_of
from stmem_ros.sources import natural_order

# rosbag2 names the files of a bag after it and numbers them from 0.
_PART = re.compile(r"(?P<bag>.+)_(?P<number>\d+)\.(?:mcap|db3)(?:\.\w+)?", re.IGNORECASE)


def find_bags(path: Path) -> list[Path]:
    """The bag that `path` is, or all below it: rosbag2 folders, `.mcap` and `.db3` files, ROS 1 `.bag` files.

    A folder without metadata.yaml is one bag where its files are the numbered parts of one, else each file is one.
    In the order of names, numbers by value; hidden ones and unfinished outputs are left out. Raises BagError where
    there is none, or a folder cannot be read.
    """
    try:
        if path.is_dir():
            bags = list(_below(path))
        elif path.exists():
            bags = [path] if kind_of(path) in (*STORAGE, *ROS1) else []
        else:
            raise BagError(f"{path} does not exist: give a bag, or a folder of bags")
    except OSError as error:
        raise BagError(f"{error.filename or path} cannot be read: {why(error)}") from error
    if not bags:
        raise BagError(f"{path} holds no bag: neither rosbag2 folders nor .mcap, .db3 or .bag files")
    return bags


def size_of(bag: Path) -> int:
    """Bytes of a bag's files. Raises OSError."""
    return sum(file.stat().st_size for file in (bag.iterdir() if bag.is_dir() else [bag]) if file.is_file())


def _below(folder: Path) -> Iterator[Path]:
    inside = sorted((each for each in folder.iterdir() if not each.name.startswith(".")), key=natural_order)
    names = {each.name for each in inside}
    if UNFINISHED in names:
        return
    stored = [each for each in inside if kind_of(each) in STORAGE and each.is_file()]
    if METADATA in names or _are_parts(folder, stored):
        yield folder
        return
    for each in inside:
        if each.is_dir():
            if not each.is_symlink():
                yield from _below(each)
        elif each in stored or (kind_of(each) in ROS1 and each.is_file()):
            yield each


def _are_parts(folder: Path, stored: list[Path]) -> bool:
    """Whether these are files of one bag: named after the folder, or after one bag and numbered from 0 on."""
    parts = [match for each in stored if (match := _PART.fullmatch(each.name))]
    if not parts or len(parts) < len(stored) or len({match["bag"] for match in parts}) > 1:
        return False
    numbers = sorted(int(match["number"]) for match in parts)
    return parts[0]["bag"] == folder.name or numbers == list(range(len(numbers)))
