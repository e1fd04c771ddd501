"""What a frame's path says: its sequence, its number, and which label image belongs to it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from stmem_ros.sources import IMAGE_SUFFIXES
from training.data.dataset_spec import DatasetSpec


@dataclasses.dataclass(frozen=True)
class LabelledFrame:
    """One frame with its label image; `number` counts frames within `sequence`, which is "" where names hold none."""

    sequence: str
    number: int
    image: Path
    labels: Path

    @property
    def title(self) -> str:
        """For a person: `frame 12 of sequence drive`."""
        return f"frame {self.number}" + (f" of sequence {self.sequence}" if self.sequence else "")


def frame_of(path: str, image: Path, labels_folder: Path, spec: DatasetSpec) -> LabelledFrame | None:
    """`image` by the end of `path`, shortest first, with the label image it should have; None where none fits.

    Where the name_pattern has no group `sequence`, the folders before what it matched are the sequence.
    """
    empty = None
    for before, match in _matches(path, spec.name_pattern):
        if not (match["frame"] or "").isdecimal():
            continue
        groups = match.groupdict(default="")
        name = match[0]
        if "sequence" not in groups:
            groups["sequence"] = "/".join(before).lstrip("/")
            name = "/".join([*before, name]).lstrip("/")
        sequence = groups["sequence"]
        labels = labels_folder / spec.label_name.format(**{**groups, "name": name})
        frame = LabelledFrame(sequence, int(match["frame"]), image, labels)
        if sequence or "sequence" not in match.groupdict():
            return frame
        empty = empty or frame
    return empty


def misfit(path: str, spec: DatasetSpec) -> str:
    """Why `frame_of` finds no frame in `path`, as the end of a sentence: pattern, text, and a hint."""
    pattern, last = spec.name_pattern, path.rpartition("/")[2]
    name = without_ending(last)
    said = f"does not fit the name_pattern '{pattern.pattern}' of data set {spec.name}: "
    matched = next((match for _, match in _matches(path, pattern)), None)
    if matched is not None:
        return f"{said}its group frame is {matched['frame'] or ''!r}, which is no number"
    if pattern.fullmatch(last):
        return f"{said}it is held against {name!r}, so leave the ending {last[len(name) :]} out of the pattern"
    part = pattern.search(name)
    if part is not None:
        return f"{said}of {name!r} it fits only {part[0]!r}, and it must fit the whole"
    whole = without_ending(path)
    return said + (f"neither {name!r} nor {whole!r} is like that" if whole != name else f"{name!r} is not like that")


def without_ending(path: str) -> str:
    """A path without the ending of an image."""
    stem, ending = os.path.splitext(path)
    return stem if ending.lower() in IMAGE_SUFFIXES else path


def _matches(path: str, pattern: re.Pattern[str]) -> Iterator[tuple[list[str], re.Match[str]]]:
    """Where the pattern matches the end of a path, shortest first, with the folders before that."""
    parts = without_ending(path).split("/")
    for start in range(len(parts) - 1, -1, -1):
        match = pattern.fullmatch("/".join(parts[start:]))
        if match:
            yield parts[:start], match
