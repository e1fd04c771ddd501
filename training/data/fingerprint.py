"""What was read of a data set, as digests: whether it is the same data, and if not, which file or setting differs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data.clips import Windows
from training.data.dataset import DatasetError, DatasetSpec, LabelledFrame

# Bytes: a PNG file up to this size is hashed whole, a larger one this much at either end.
HASHED_WHOLE, HASHED_END = 2**20, 2**16


class Digests:
    """The SHA-256 of files' contents, each file read once.

    Of a PNG image above 1 MiB (Cityscapes has 7 GB of them) it takes the size and both ends: it ends with a checksum
    of all its pixels, so another picture shows there. Other kinds of files have no such end and are hashed whole.
    """

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """Raises DatasetError if the file cannot be read."""
        if path not in self._known:
            try:
                self._known[path] = _digest(path)
            except OSError as error:
                raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
        return self._known[path]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= HASHED_WHOLE or path.suffix.lower() != ".png":
            return hashlib.sha256(file.read()).hexdigest()
        digest = hashlib.sha256(f"{size}".encode() + file.read(HASHED_END))
        file.seek(-HASHED_END, os.SEEK_END)
        digest.update(file.read())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What was read for each labelled frame.

    `files` has, by sequence and number, the paths and the digests of the files that were read for the frame.
    Only sequences, numbers and contents count, so a data set may be moved.
    """

    files: dict[tuple[str, int], tuple[tuple[str, str], ...]]

    def summary(self) -> dict[str, Any]:
        """The number of frames, the sequences, and one digest of everything."""
        contents = [[*frame, *(digest for _, digest in files)] for frame, files in self.files.items()]
        return {
            "frames": len(self.files),
            "sequences": sorted({sequence for sequence, _ in self.files}),
            "sha256": hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
        }

    def to_list(self) -> list[list[Any]]:
        """Plain JSON-ready data; `from_list` gives the same fingerprint back."""
        return [[*frame, [list(file) for file in files]] for frame, files in self.files.items()]

    @classmethod
    def from_list(cls, document: Iterable[Sequence[Any]]) -> Fingerprint:
        """Raises ValueError, TypeError or KeyError if it is nothing that `to_list` gave."""
        return cls(
            {
                (str(sequence), int(number)): tuple((str(path), str(digest)) for path, digest in files)
                for sequence, number, files in document
            }
        )

    def difference(self, before: Fingerprint) -> str:
        """One clause for a person that names the first file in which this differs from `before`; empty if none does."""
        return next(self._differences(before), "")

    def _differences(self, before: Fingerprint) -> Iterator[str]:
        for frame, files in self.files.items():
            then = before.files.get(frame)
            if then is None:
                yield f"{files[0][0]} (frame {frame[1]} of {frame[0]}) is new"
            elif len(then) != len(files):
                yield f"frame {frame[1]} of {frame[0]} had {len(then)} files, now it has {len(files)}"
            else:
                for (old_path, old), (path, digest) in zip(then, files, strict=True):
                    if old != digest and old_path == path:
                        yield f"{path} has changed"
                    elif old != digest:
                        yield f"for frame {frame[1]} of {frame[0]} {old_path} was read, now {path} is"
        for frame, files in before.files.items():
            if frame not in self.files:
                yield f"{files[0][0]} (frame {frame[1]} of {frame[0]}) is gone"


def of_frames(frames: Iterable[LabelledFrame], digests: Digests) -> Fingerprint:
    """Of labelled frames: their images and label images."""
    return Fingerprint(
        {
            (frame.sequence, frame.number): tuple((str(path), digests.of(path)) for path in (frame.image, frame.labels))
            for frame in frames
        }
    )


def of_windows(
    frames: Iterable[LabelledFrame], windows: Windows, length: int, queries: Sequence[int], digests: Digests
) -> Fingerprint:
    """Of the images around labelled frames, in windows of `length` frames in which they have the places `queries`."""
    return Fingerprint(
        {
            (frame.sequence, frame.number): tuple(
                (str(path), digests.of(path)) for query in queries for path in windows.around(frame, length, query)
            )
            for frame in frames
        }
    )


def describe(spec: DatasetSpec) -> dict[str, Any]:
    """What a data set's YAML file says of labels and time, as plain data (its patterns show in the frames)."""
    values: dict[int, list[str]] = {}
    for value, label in sorted(spec.coding.classes.items()):
        values.setdefault(label, []).append(spec.coding.text(value))
    named = enumerate(zip(spec.labels.names, spec.labels.palette, strict=True))
    return {
        "frame_rate": spec.frame_rate,
        "used_bits": spec.used_bits,
        "colored": spec.coding.colored,
        "classes": {
            str(label): {"name": name, "color": list(color), "values": values.pop(label, [])}
            for label, (name, color) in named
        },
        "void": [value for rest in values.values() for value in rest],
    }


def of_evaluation(
    spec: DatasetSpec, frames: Sequence[LabelledFrame], windows: Windows, length: int, digests: Digests
) -> list[Any]:
    """Plain data that differ where anything does that an evaluation in windows of `length` frames reads."""
    beside = of_windows(frames, windows, length, (length // 2, length - 1), digests)
    return [describe(spec), of_frames(frames, digests).summary(), beside.summary()]
