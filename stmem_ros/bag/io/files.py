"""Which files a bag consists of, and in which order, also where its metadata.yaml is missing or damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stmem_ros.bag.io.errors import BagError, why
from stmem_ros.bag.io.scratch import unpacked_name
from stmem_ros.sources import natural_order

METADATA = "metadata.yaml"
# Of an output that is being written, or whose writing was cut off.
UNFINISHED = "unfinished.json"
STORAGE = (".mcap", ".db3")
ROS1 = (".bag", ".active")


@dataclass(frozen=True)
class BagFiles:
    """`counts` has, by file name, the number of messages that metadata.yaml tells of it."""

    paths: list[Path]
    has_metadata: bool = True
    counts: dict[str, int] = field(default_factory=dict)


def kind_of(path: Path) -> str:
    """The suffix, without that of its compression."""
    return PurePath(unpacked_name(path)).suffix


def bag_files(path: Path, lost: list[str], notes: list[str]) -> BagFiles:
    """Lines go to `lost` for files that are missing, and to `notes` for what had to be guessed. Raises BagError."""
    try:
        if path.is_dir():
            return _in_folder(path, lost, notes)
        if not path.exists():
            raise BagError(f"{path} does not exist: give a rosbag2 folder, or a .mcap, .db3 or ROS 1 .bag file")
    except OSError as error:
        raise BagError(f"{path} cannot be read: {why(error)}") from error
    if kind_of(path) not in (*STORAGE, *ROS1):
        raise BagError(f"{path} is no bag: its name ends in none of {', '.join(STORAGE)} and .bag")
    return BagFiles([path])


def _in_folder(path: Path, lost: list[str], notes: list[str]) -> BagFiles:
    if (path / UNFINISHED).exists() and not (path / METADATA).exists():
        raise BagError(f"{path} is the unfinished output of a run: finish that run first, with its option to resume")
    found = sorted((each for each in path.iterdir() if kind_of(each) in STORAGE and each.is_file()), key=natural_order)
    if not (path / METADATA).exists():
        if not found:
            others = sorted(each.name for each in path.iterdir() if kind_of(each) in ROS1)
            hint = f"; give one of its files, such as {path / others[0]}" if others else ""
            raise BagError(f"{path} is no bag: it has neither {METADATA} nor a file that ends in .mcap or .db3{hint}")
        notes.append(f"{METADATA} is missing: the files are read in the order of their names")
        return BagFiles(found, has_metadata=False)
    try:
        names, counts = _listed(path / METADATA)
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        if not found:
            raise BagError(
                f"{path} cannot be read as a bag: its {METADATA} is damaged, and it has no .mcap or .db3 file"
            ) from error
        notes.append(f"{METADATA} is damaged: the files are read in the order of their names")
        return BagFiles(found)
    paths = [path / name for name in names]
    for missing in [each for each in paths if not each.is_file()]:
        # A file may have been unpacked, packed, or renamed to X.MCAP, after its recording.
        twin = next((each for each in found if unpacked_name(each) == unpacked_name(missing)), None)
        if twin is not None:
            paths[paths.index(missing)] = twin
            continue
        paths.remove(missing)
        count = f" with {counts[missing.name]} messages" if missing.name in counts else ""
        lost.append(f"{missing.name}{count} is missing, and {METADATA} lists it")
    if not paths and not found:
        raise BagError(f"{path} cannot be read as a bag: it has none of the files that its {METADATA} lists")
    known = {unpacked_name(each) for each in paths}
    for each in found:
        if unpacked_name(each) not in known:
            notes.append(f"{each.name} is read though {METADATA} does not list it")
            paths.append(each)
    return BagFiles(paths, counts=counts)


def _listed(metadata: Path) -> tuple[list[str], dict[str, int]]:
    information: Any = YAML(typ="safe").load(metadata.read_text("utf-8"))["rosbag2_bagfile_information"]
    names = [PurePath(str(name)).name for name in information["relative_file_paths"]]
    files = information.get("files") or []
    counts = {PurePath(str(file["path"])).name: int(file["message_count"]) for file in files}
    if len(names) == 1:
        counts.setdefault(names[0], int(information["message_count"]))
    return names, counts
