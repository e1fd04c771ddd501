"""Folders of frames and label images, described by a YAML file, as lists of labelled frames."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset_spec import DATASETS, DatasetSpec, load_spec, require_classes
from training.data.label_images import DatasetError, read_image, read_label_image

__all__ = [
    "DatasetError",
    "DatasetSpec",
    "LabelledFrame",
    "Split",
    "class_pixels",
    "fingerprint",
    "list_frames",
    "list_images",
    "load_spec",
    "read_frame",
    "read_image",
    "read_labels",
    "require_classes",
    "require_one_size",
    "scan",
]

FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Bytes: images up to this size are hashed whole, of others this much at either end.
HASHED_WHOLE, HASHED_END = 2**20, 2**16

Images = dict[str, dict[int, Path]]


@dataclasses.dataclass(frozen=True)
class LabelledFrame:
    """One frame with its label image; `number` counts frames within `sequence`."""

    sequence: str
    number: int
    image: Path
    labels: Path


@dataclasses.dataclass(frozen=True)
class Split:
    """What lies in a split: labelled frames by sequence and number, and every frame, labelled or not.

    `lone_labels` are label images without a frame; `problems` are lines for a person.
    """

    frames: list[LabelledFrame]
    images: Images
    lone_labels: list[Path]
    problems: list[str]


def scan(spec: DatasetSpec, root: str | Path, split: str) -> Split:
    """Look through a split's folders, opening no image. Raises DatasetError where a folder or list is missing."""
    root = Path(root)
    frames_folder = root / spec.frames_folder.format(split=split)
    labels_folder = root / spec.labels_folder.format(split=split)
    for folder in (frames_folder, labels_folder):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder; data set {spec.name} has its {split} split there")
    label_files = set(_image_files(labels_folder))
    problems: list[str] = []
    found = _frames_in(frames_folder, labels_folder, spec, problems)
    images: Images = {}
    for frame in found:
        images.setdefault(frame.sequence, {})[frame.number] = frame.image
    if not images and not problems:
        problems.append(f"{frames_folder} holds no images; data set {spec.name} has its {split} split there")
    wanted = found
    if spec.list_file is not None:
        places = [folder / spec.list_file.format(split=split) for folder in (root, DATASETS)]
        file = next((place for place in places if place.is_file()), places[0])
        wanted = list(_listed(file, root, labels_folder, images, spec, problems))
        images = {frame.sequence: images.get(frame.sequence, {}) for frame in wanted}
        for frame in wanted:
            images[frame.sequence].setdefault(frame.number, frame.image)
    frames = []
    for frame in wanted:
        if frame.labels in label_files or (spec.list_file is not None and frame.labels.is_file()):
            frames.append(frame)
        elif not spec.unlabelled_frames:
            problems.append(f"{frame.image} has no label image {frame.labels} (unlabelled_frames: true allows that)")
    if not frames and not problems:
        problems.append(f"no frame of the {split} split of {spec.name} has a label image in {labels_folder}")
    lone = label_files - {frame.labels for frame in [*found, *wanted]} - {frame.image for frame in found}
    any_name = spec.label_name.format(**dict.fromkeys([*spec.name_pattern.groupindex, "name"], "*"))
    return Split(
        frames=sorted(frames, key=lambda frame: (frame.sequence, frame.number)),
        images=images,
        lone_labels=sorted(
            path for path in lone if fnmatch.fnmatchcase(path.relative_to(labels_folder).as_posix(), any_name)
        ),
        problems=problems,
    )


def list_frames(spec: DatasetSpec, root: str | Path, split: str) -> list[LabelledFrame]:
    """Every labelled frame of a split, in order of sequence and number.

    Raises DatasetError where a folder or list is missing or empty, a frame has no label image and should have, two
    files are the same frame, or a name does not fit.
    """
    return _sound(scan(spec, root, split)).frames


def list_images(spec: DatasetSpec, root: str | Path, split: str) -> Images:
    """Every frame of a split's sequences, labelled or not, listed or not: sequence to number to image.

    Raises DatasetError as `list_frames` does.
    """
    return _sound(scan(spec, root, split)).images


def _sound(split: Split) -> Split:
    if split.problems:
        raise DatasetError(split.problems[0])
    return split


def _image_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(FRAME_ENDINGS) and not name.startswith("."):
                yield Path(parent, name)


def _frame_of(path: PurePath, image: Path, labels_folder: Path, spec: DatasetSpec) -> LabelledFrame | None:
    """`image` by the end of `path`, shortest first, with the label image it should have; None where none fits."""
    last = path.stem if path.suffix.lower() in FRAME_ENDINGS else path.name
    parts = [*path.parts[:-1], last]
    for start in range(len(parts) - 1, -1, -1):
        match = spec.name_pattern.fullmatch("/".join(parts[start:]))
        if match and match["sequence"] and (match["frame"] or "").isdecimal():
            labels = labels_folder / spec.label_name.format(**{**match.groupdict(), "name": match[0]})
            return LabelledFrame(match["sequence"], int(match["frame"]), image, labels)
    return None


def _frames_in(folder: Path, labels_folder: Path, spec: DatasetSpec, problems: list[str]) -> list[LabelledFrame]:
    """Every frame in a folder, with the label image that it should have, be that there or not."""
    frames = {path: _frame_of(path.relative_to(folder), path, labels_folder, spec) for path in _image_files(folder)}
    # Label images may lie among the frames.
    labels = {frame.labels for frame in frames.values() if frame is not None}
    kept: dict[tuple[str, int], LabelledFrame] = {}
    for path, frame in frames.items():
        if path in labels:
            continue
        if frame is None:
            problems.append(f"{path} does not fit the name_pattern of data set {spec.name}")
            continue
        first = kept.setdefault((frame.sequence, frame.number), frame)
        if first is not frame:
            problems.append(
                f"{first.image} and {path} are both frame {frame.number} of sequence {frame.sequence}: "
                f"remove one, or tell them apart in the name_pattern of data set {spec.name}"
            )
    return list(kept.values())


def _listed(
    file: Path, root: Path, labels_folder: Path, images: Images, spec: DatasetSpec, problems: list[str]
) -> Iterator[LabelledFrame]:
    """The frames that a list file names, by a path below the root, or else by the end of a path in `images`."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DatasetError(f"{file}, the list of data set {spec.name}, cannot be read: {reason}") from error
    seen: set[tuple[str, int]] = set()
    for count, line in enumerate(lines, 1):
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        if not fields:
            continue
        where = f"line {count} of {file}"
        if len(fields) > 2:
            problems.append(f"{where} holds {len(fields)} names; it may hold an image and, after a tab, its labels")
            continue
        frame = _frame_of(PurePath(fields[0]), root / fields[0], labels_folder, spec)
        if frame is not None and not frame.image.is_file():
            there = images.get(frame.sequence, {}).get(frame.number)
            frame = None if there is None else dataclasses.replace(frame, image=there)
        if frame is None:
            problems.append(f"{where} names {fields[0]}, which is no frame of data set {spec.name} in {root}")
        elif (frame.sequence, frame.number) in seen:
            problems.append(f"{where} names frame {frame.number} of sequence {frame.sequence} again")
        elif len(fields) == 2:
            places = (root / fields[1], labels_folder / fields[1])
            labels = next((place for place in places if place.is_file()), None)
            if labels is None:
                problems.append(f"{where} names label image {fields[1]}, which is no file in {root}")
                continue
            seen.add((frame.sequence, frame.number))
            yield dataclasses.replace(frame, labels=labels)
        else:
            seen.add((frame.sequence, frame.number))
            yield frame


def read_labels(path: Path, spec: DatasetSpec) -> NDArray[np.uint8]:
    """`(H, W)` class ids, IGNORE_INDEX for void. Raises DatasetError for another kind of file or an unknown value."""
    return spec.coding.decode(read_label_image(path), str(path))


def read_frame(frame: LabelledFrame, spec: DatasetSpec) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and labels of one frame. Raises DatasetError, also where their sizes differ."""
    image, labels = read_image(frame.image), read_labels(frame.labels, spec)
    require_one_size(image.shape, labels.shape, frame.labels)
    return image, labels


def require_one_size(image: tuple[int, ...], labels: tuple[int, ...], where: Path | str) -> None:
    """Raises DatasetError where the shapes of an image and its labels, those of `where`, differ in size."""
    if image[:2] != labels[:2]:
        raise DatasetError(
            f"{where} is {labels[1]}x{labels[0]}, its image {image[1]}x{image[0]}: they must be of one size"
        )


def class_pixels(frames: list[LabelledFrame], spec: DatasetSpec) -> NDArray[np.int64]:
    """`(frames, classes)`: how many pixels of each class each frame has. Reads, and so checks, every label image."""
    counts = np.zeros((len(frames), len(spec.labels)), np.int64)
    for row, frame in zip(counts, frames, strict=True):
        row += np.bincount(read_labels(frame.labels, spec).ravel(), minlength=256)[: len(spec.labels)]
    return counts


def fingerprint(frames: list[LabelledFrame]) -> dict[str, Any]:
    """What a training run saw: the number of frames, the sequences, and a hash over names and file contents.

    Of an image above 1 MiB (Cityscapes has 7 GB of them) the hash takes the size and both ends: a PNG ends with a
    checksum of all its pixels, so another picture shows there too. Label images are hashed whole.
    """
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.image.name.encode())
        size = frame.image.stat().st_size
        if size <= HASHED_WHOLE:
            digest.update(frame.image.read_bytes())
        else:
            with frame.image.open("rb") as file:
                digest.update(f"{size}".encode() + file.read(HASHED_END))
                file.seek(-HASHED_END, os.SEEK_END)
                digest.update(file.read())
        digest.update(frame.labels.read_bytes())
    return {
        "frames": len(frames),
        "sequences": sorted({frame.sequence for frame in frames}),
        "sha256": digest.hexdigest(),
    }
