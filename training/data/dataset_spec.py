"""What a data set's YAML file says: its classes, where frames and labels lie, and how files are named."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stmem_ros.files import user_path
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from stmem_ros.used_bits import ALL_BITS, UNKNOWN, UsedBits
from training.data.label_images import DatasetError, LabelCoding, read_image
from training.data.text_files import read_yaml

_logger = logging.getLogger(__name__)

DATASETS = Path(__file__).parents[1] / "datasets"
KEYS = (
    "classes",
    "void_ids",
    "void_colors",
    "class_ids",
    "extends",
    "frames",
    "labels",
    "name_pattern",
    "label_name",
    "list",
    "unlabelled_frames",
    "frame_rate",
    "used_bits",
)
CLASS_KEYS = ("name", "color", "label_colors", "label_ids")


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A data set. `name` is its YAML file's; in a folder or list file `{split}` is filled in.

    A file that says `extends: NAME` has the keys of that data set too, but for those that it gives itself (`null`
    leaves one out).

    Args:
        labels: key `classes`: their names, and the colour that each is drawn in
        coding: the values of a label image: each class's `label_ids`, without them ids in the order of `classes`, and
            `void_ids`; or, for label images of colours, each class's `label_colors` and `void_colors`. With the key
            `class_ids: true` they are ids in the order of `classes` whatever the classes say
        frames_folder: key `frames`: a folder below the root; folders in it are looked through as well
        labels_folder: key `labels`: likewise
        name_pattern: a regular expression for a frame's file name without its ending, or for its folder's name
            (or several), `/` and that; with the group `frame` (a number) and the group `sequence`, without which the
            folders before what it matched are the sequence
        label_name: the label image of a frame, below the labels' folder; `{name}`, which is all that
            `name_pattern` matched (without a group `sequence` after the sequence and `/`), `{sequence}` and the
            pattern's groups are filled in
        list_file: key `list`: a text file of the split's frames, below the root or else in training/datasets: a line
            holds a sequence's name, or a frame's name or path, and after a tab, comma, semicolon or blank may hold the
            path of its label image, which then goes before `label_name`; see `frame_list`
        unlabelled_frames: whether frames without a label image are allowed: they serve others as neighbours
        used_bits: of 16-bit images, those that the camera fills, counted from the lowest; 0: all, with a warning if the
            images look otherwise
        frame_rate: in Hz of the frame numbers, None where they count no time
    """

    name: str
    labels: LabelSet
    coding: LabelCoding
    frames_folder: str
    labels_folder: str
    name_pattern: re.Pattern[str]
    label_name: str = "{name}.png"
    list_file: str | None = None
    unlabelled_frames: bool = False
    frame_rate: float | None = None
    used_bits: int = UNKNOWN

    def __post_init__(self) -> None:
        # Here, by one thread: several would make several, and each would warn.
        _used_bits_of(self.name, self.used_bits)

    def read_image(self, path: Path) -> NDArray[np.uint8]:
        """`(H, W, 3)` RGB of one of its images, upright. Raises DatasetError where the file cannot be read."""
        return read_image(path, _used_bits_of(self.name, self.used_bits))


@functools.cache
def _used_bits_of(dataset: str, bits: int) -> UsedBits:
    """One for all images of a data set, so that it warns once."""
    warn = partial(_logger.warning, "data set %s: %s", dataset)
    return UsedBits(bits, warn, "used_bits in its YAML file")


def load_spec(name_or_path: str | Path) -> DatasetSpec:
    """A data set by the name of a file in `training/datasets/`, or by the path of one's own YAML file.

    Raises DatasetError where there is no such file or it does not describe a data set.
    """
    path = user_path(name_or_path)
    if not path.is_file():
        path = DATASETS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in DATASETS.glob("*.yaml")))
        raise DatasetError(f"{name_or_path} is neither a file nor a known data set ({known})")
    try:
        return _spec(path.stem, _document(path, ()))
    except ValueError as error:
        raise DatasetError(f"{path} does not describe a data set: {' '.join(str(error).split())}") from error


def require_classes(labels: LabelSet, spec: DatasetSpec, where: str) -> None:
    """Raises DatasetError naming the first class in which `labels`, those of `where`, and the data set's differ."""
    theirs, ours = labels.names, spec.labels.names
    for index in range(max(len(theirs), len(ours))):
        there, here = (repr(names[index]) if index < len(names) else "missing" for names in (theirs, ours))
        if there != here:
            raise DatasetError(
                f"class {index} is {there} in {where} ({len(theirs)} classes) but {here} in data set {spec.name} "
                f"({len(ours)}): both must list the same classes in the same order"
            )


def _document(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a file and of those that it extends. Raises ValueError."""
    if path in extended_by:
        raise ValueError(f"{path} extends itself")
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ValueError(f"it must hold the keys {', '.join(KEYS)}")
    _check_keys(document, KEYS)
    name = document.pop("extends", None)
    if name is not None:
        places = (path.parent / user_path(str(name)), DATASETS / f"{name}.yaml")
        base = next((place for place in places if place.is_file()), None)
        if base is None:
            raise ValueError(f"extends is {name!r}, which is neither a file beside it nor a known data set")
        try:
            document = _document(base, (*extended_by, path)) | document
        except ValueError as error:
            raise ValueError(f"in {base}: {error}") from error
    return {key: value for key, value in document.items() if value is not None}


def _spec(name: str, document: dict[str, Any]) -> DatasetSpec:
    """Raises ValueError."""
    for key in ("classes", "name_pattern", "frames", "labels"):
        if key not in document:
            raise ValueError(f"key {key!r} is missing")
    classes = _list(document, "classes")
    for entry in classes:
        _check_class(entry)
    labels = LabelSet(tuple(entry["name"] for entry in classes), tuple(tuple(entry["color"]) for entry in classes))
    pattern = _pattern(document["name_pattern"])
    label_name = _label_name(document, pattern)
    idle = [group for group in pattern.groupindex if group != "frame" and f"{{{group}}}" not in label_name]
    if idle and "sequence" not in pattern.groupindex:
        # A mistyped group would make all of a folder one sequence.
        raise ValueError(
            f"name_pattern is '{pattern.pattern}'; its group {idle[0]} is used nowhere: call it sequence, or leave it "
            "out"
        )
    return DatasetSpec(
        name=name,
        labels=labels,
        coding=_coding(document, labels),
        frames_folder=_below_root(document, "frames"),
        labels_folder=_below_root(document, "labels"),
        name_pattern=pattern,
        label_name=label_name,
        list_file=_below_root(document, "list") if "list" in document else None,
        unlabelled_frames=_flag(document, "unlabelled_frames"),
        frame_rate=_frame_rate(document.get("frame_rate")),
        used_bits=_used_bits(document.get("used_bits", UNKNOWN)),
    )


def _check_class(entry: Any) -> None:
    """One of `classes`. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError(f"a class is {entry!r}; it must be like {{name: road, color: [128, 64, 128]}}")
    _check_keys(entry, CLASS_KEYS)
    if "name" not in entry:
        raise ValueError(f"'name' is missing in the class {entry!r}")
    if not isinstance(entry["name"], str):
        # YAML takes no, off and 010 for something else than a name.
        raise ValueError(f"a class's name is {entry['name']!r}; it must be a text, so write it in quotes")
    if "color" not in entry:
        raise ValueError(f"'color' is missing in the class {entry['name']!r}")
    if not isinstance(entry["color"], list) or not all(type(value) is int for value in entry["color"]):
        raise ValueError(f"the colour of {entry['name']!r} is {entry['color']!r}; it must be like [128, 64, 128]")


def _pattern(text: Any) -> re.Pattern[str]:
    """Key `name_pattern`. Raises ValueError."""
    try:
        pattern = re.compile(str(text))
    except re.error as error:
        raise ValueError(f"name_pattern is '{text}', which is no regular expression: {error}") from error
    if "frame" not in pattern.groupindex:
        raise ValueError(
            f"name_pattern is '{text}'; it needs the groups (?P<frame>...) and, unless folders are the sequences, "
            "(?P<sequence>...)"
        )
    return pattern


def _used_bits(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= ALL_BITS:
        raise ValueError(f"used_bits is {value!r}; it must be a whole number 0..{ALL_BITS}")
    return value


def _frame_rate(value: Any) -> float | None:
    if value is None:
        return None
    try:
        rate = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"frame_rate is {value if math.isnan(rate) else rate}; it must be a number above 0, in Hz")
    return rate


def _list(mapping: dict[str, Any], key: str) -> list[Any]:
    values = mapping.get(key, [])
    if not isinstance(values, list):
        raise ValueError(f"{key} is {values!r}; it must be a list")
    return values


def _check_keys(mapping: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in mapping:
        if key not in known:
            raise ValueError(f"key {key!r} is unknown; the known ones are {', '.join(known)}")


def _flag(document: dict[str, Any], key: str) -> bool:
    flag = document.get(key, False)
    if not isinstance(flag, bool):
        raise ValueError(f"{key} is {flag!r}; it must be true or false")
    return flag


def _below_root(document: dict[str, Any], key: str) -> str:
    path = str(document[key])
    if re.search("[{}]", path.replace("{split}", "")):
        raise ValueError(f"{key} is {path!r}; only {{split}} is filled in")
    return path


def _label_name(document: dict[str, Any], pattern: re.Pattern[str]) -> str:
    label_name = str(document.get("label_name", DatasetSpec.label_name))
    fields = dict.fromkeys(["sequence", *pattern.groupindex, "name"], "0")
    try:
        label_name.format(**fields)
    except (LookupError, AttributeError, ValueError) as error:
        known = ", ".join(f"{{{field}}}" for field in fields)
        raise ValueError(f"label_name is {label_name!r}; only {known} are filled in, as text") from error
    return label_name


def _coding(document: dict[str, Any], labels: LabelSet) -> LabelCoding:
    classes = document["classes"]
    stated = {key for key in ("label_colors", "label_ids") for entry in classes if key in entry}
    if len(stated) > 1:
        raise ValueError("classes have label_colors and label_ids; a label image holds one or the other")
    key = None if _flag(document, "class_ids") or not stated else stated.pop()
    colored = key == "label_colors"
    useless = "void_ids" if colored else "void_colors"
    if useless in document:
        raise ValueError(f"{useless} means nothing {'beside' if colored else 'without'} the classes' label_colors")
    number = _packed if colored else _id
    if key is not None:
        without = next((entry["name"] for entry in classes if key not in entry), None)
        if without is not None:
            raise ValueError(f"'{key}' is missing in the class {without!r}: every class needs it, or none")
    values = [
        (value, label) for label, entry in enumerate(classes) for value in (_list(entry, key) if key else [label])
    ]
    values += [(value, IGNORE_INDEX) for value in _list(document, "void_colors" if colored else "void_ids")]
    values = [(number(value), label) for value, label in values]
    coding = LabelCoding({}, colored)
    for value, label in values:
        first = coding.classes.setdefault(value, label)
        if first != label:
            both = " and ".join("void" if each == IGNORE_INDEX else repr(labels.names[each]) for each in (first, label))
            raise ValueError(f"label {'colour' if colored else 'id'} {coding.text(value)} is both {both}")
    return coding


def _id(number: Any) -> int:
    if type(number) is not int or not 0 <= number <= 65535:
        raise ValueError(f"a label id is {number!r}; it must be a whole number 0..65535")
    return number


def _packed(color: Any) -> int:
    if not isinstance(color, list) or len(color) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in color):
        raise ValueError(f"a label colour is {color}; it must be three numbers 0..255")
    return color[0] << 16 | color[1] << 8 | color[2]
