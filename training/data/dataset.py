"""Folders of frames and label images, described by a YAML file, as lists of labelled frames."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stmem_ros.sources import IMAGE_SUFFIXES, JPEG_SUFFIXES
from training.data.dataset_spec import DATASETS, DatasetSpec, load_spec, require_classes
from training.data.folders import image_files, small_ending
from training.data.frame_list import ListedFrames, listed_labels, read_list
from training.data.frame_names import LabelledFrame, frame_of, misfit, without_ending
from training.data.label_images import DatasetError, read_image, read_label_image

__all__ = [
    "DatasetError",
    "DatasetSpec",
    "LabelledFrame",
    "Split",
    "class_pixels",
    "list_frames",
    "list_images",
    "load_spec",
    "of_sequences",
    "read_frame",
    "read_image",
    "read_labels",
    "read_split",
    "require_classes",
    "require_one_size",
    "scan",
]

# So many sequences are named in an error.
SHOWN_SEQUENCES = 10

Images = dict[str, dict[int, Path]]


@dataclasses.dataclass(frozen=True)
class Split:
    """What lies in a split: labelled frames by sequence and number, and every frame, labelled or not.

    `lone_labels` are label images without a frame; `problems` and `notes`, on what is right but may surprise, are lines
    for a person.
    """

    frames: list[LabelledFrame]
    images: Images
    lone_labels: list[Path]
    problems: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)


def scan(spec: DatasetSpec, root: str | Path, split: str) -> Split:
    """Look through a split's folders, opening no image. Raises DatasetError where a folder or list is missing."""
    root = Path(root)
    frames_folder = root / spec.frames_folder.format(split=split)
    labels_folder = root / spec.labels_folder.format(split=split)
    for folder in (frames_folder, labels_folder):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder; data set {spec.name} has its {split} split there")
    problems: list[str] = []
    files = image_files(frames_folder, problems)
    label_files = set(files if labels_folder == frames_folder else image_files(labels_folder, problems))
    lines = None if spec.list_file is None else read_list(_list_file(spec, root, split), spec)
    if not files and not problems:
        problems.append(
            f"{frames_folder} holds no images ({' '.join(IMAGE_SUFFIXES)}); data set {spec.name} has its {split} split "
            "there"
        )
    own_problems = _Problems()
    no_frames = set() if lines is None else listed_labels(lines, (root, labels_folder))
    found = _frames_in(files, frames_folder, labels_folder, label_files, no_frames, spec, own_problems)
    if lines is None:
        wanted = found
        problems += own_problems.all()
    else:
        wanted = list(ListedFrames(root, frames_folder, labels_folder, found, spec).frames(lines, problems))
        # What the list leaves out need not be sound.
        problems += own_problems.of({frame.sequence for frame in wanted})
    images: Images = {frame.sequence: {} for frame in wanted}
    for frame in [*found, *wanted]:
        if frame.sequence in images:
            images[frame.sequence].setdefault(frame.number, frame.image)
    frames, unlabelled = [], []
    for frame in wanted:
        there = frame.labels in label_files or (lines is not None and frame.labels.is_file())
        (frames if there else unlabelled).append(frame)
    hint = _other_endings(unlabelled, label_files)
    if not spec.unlabelled_frames:
        problems += [
            f"{frame.image} has no label image {frame.labels}{hint} (unlabelled_frames: true allows that)"
            for frame in unlabelled
        ]
    problems += _shared_labels(frames, spec)
    if not frames and not problems:
        problems.append(f"no frame of the {split} split of {spec.name} has a label image in {labels_folder}{hint}")
    lone = label_files - {frame.labels for frame in [*found, *wanted]} - {frame.image for frame in found}
    fields = dict.fromkeys([*spec.name_pattern.groupindex, "sequence", "name"], "*")
    any_name = small_ending(labels_folder / spec.label_name.format(**fields)).relative_to(labels_folder)
    names = {path: small_ending(path).relative_to(labels_folder) for path in sorted(lone)}
    return Split(
        frames=sorted(frames, key=lambda frame: (frame.sequence, frame.number)),
        images=images,
        lone_labels=[path for path, name in names.items() if fnmatch.fnmatchcase(name.as_posix(), any_name.as_posix())],
        problems=problems,
        notes=_notes(spec, frames, found, label_files, split),
    )


def read_split(spec: DatasetSpec, root: str | Path, split: str) -> Split:
    """What `scan` finds, nothing of it wrong. Raises DatasetError with the first problem."""
    found = scan(spec, root, split)
    if found.problems:
        raise DatasetError(found.problems[0])
    return found


def list_frames(spec: DatasetSpec, root: str | Path, split: str) -> list[LabelledFrame]:
    """Every labelled frame of a split, in order of sequence and number.

    Raises DatasetError where a folder or list is missing or empty, a frame has no label image and should have, two
    files are the same frame, or a name does not fit.
    """
    return read_split(spec, root, split).frames


def list_images(spec: DatasetSpec, root: str | Path, split: str) -> Images:
    """Every frame of a split's sequences, labelled or not, listed or not: sequence to number to image.

    Raises DatasetError as `list_frames` does.
    """
    return read_split(spec, root, split).images


def of_sequences(frames: list[LabelledFrame], wanted: Sequence[str], split: str) -> list[LabelledFrame]:
    """The frames of the sequences that are `wanted`, all where none is named.

    Raises DatasetError, naming the sequences there are, where no frame of the split has one of them.
    """
    known = {frame.sequence for frame in frames}
    unknown = [sequence for sequence in wanted if sequence not in known]
    if unknown:
        alike = difflib.get_close_matches(unknown[0], known, SHOWN_SEQUENCES)
        there = list(dict.fromkeys([*alike, *sorted(known)]))
        more = f" and {len(there) - SHOWN_SEQUENCES} more" if len(there) > SHOWN_SEQUENCES else ""
        raise DatasetError(
            f"no frame of {split} is of sequences {', '.join(unknown)}; "
            f"there are {', '.join(there[:SHOWN_SEQUENCES])}{more}"
        )
    return [frame for frame in frames if frame.sequence in wanted] if wanted else frames


def _list_file(spec: DatasetSpec, root: Path, split: str) -> Path:
    """Below the root, or else one that comes with the package."""
    assert spec.list_file is not None
    places = [folder / spec.list_file.format(split=split) for folder in (root, DATASETS)]
    return next((place for place in places if place.is_file()), places[0])


@dataclasses.dataclass
class _Problems:
    """What is wrong with the frames of a folder: with their names, and with those of a sequence."""

    names: list[str] = dataclasses.field(default_factory=list)
    sequences: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.names, *(line for _, line in self.sequences)]

    def of(self, sequences: set[str]) -> list[str]:
        return [line for sequence, line in self.sequences if sequence in sequences]


def _frames_in(
    files: list[Path],
    folder: Path,
    labels_folder: Path,
    label_files: set[Path],
    no_frames: set[Path],
    spec: DatasetSpec,
    problems: _Problems,
) -> list[LabelledFrame]:
    """Every frame in a folder's files, with the label image that it should have, be that there or not."""
    named = [path for path in files if small_ending(path) not in no_frames] if no_frames else files
    names = {path: str(path)[len(str(folder / "_")) - 1 :] for path in named}
    of_name = {small_ending(path): path for path in label_files}
    frames = {path: frame_of(name, path, labels_folder, spec) for path, name in names.items()}
    for path, frame in frames.items():
        if frame is not None and frame.labels not in label_files:
            there = of_name.get(small_ending(frame.labels), path)
            frames[path] = frame if there == path else dataclasses.replace(frame, labels=there)
    # Label images may lie among the frames.
    labels = {frame.labels for frame in frames.values() if frame is not None}
    kept: dict[tuple[str, int], LabelledFrame] = {}
    for path, frame in frames.items():
        if path in labels:
            continue
        if frame is None:
            problems.names.append(f"{path} {misfit(names[path], spec)}")
            continue
        first = kept.setdefault((frame.sequence, frame.number), frame)
        if first is not frame:
            line = (
                f"{first.image} and {path} are both {frame.title}: remove one, or tell them apart in the name_pattern "
                f"{spec.name_pattern.pattern!r} of data set {spec.name}"
            )
            problems.sequences.append((frame.sequence, line))
    return list(kept.values())


def _notes(
    spec: DatasetSpec, frames: list[LabelledFrame], found: list[LabelledFrame], label_files: set[Path], split: str
) -> list[str]:
    """That every split is the same, and that a list goes before label_name where both have a label image."""
    places = (spec.frames_folder, spec.labels_folder, spec.list_file or "")
    notes = []
    if not any("{split}" in place for place in places):
        notes.append(
            f"data set {spec.name} has no splits (its frames, labels and list have no {{split}} in them): "
            f"{split} is all there is"
        )
    rule = {frame.image: frame.labels for frame in found}
    pairs = [(frame.labels, rule.get(frame.image, frame.labels)) for frame in frames]
    other = [(listed, ruled) for listed, ruled in pairs if listed != ruled and ruled in label_files]
    if other:
        listed, ruled = other[0]
        notes.append(
            f"{len(other)} label images are those that the list names, not those of label_name, which are there too: "
            f"{listed}, not {ruled}"
        )
    return notes


def _other_endings(unlabelled: list[LabelledFrame], label_files: set[Path]) -> str:
    """A hint, if a label image that is missing is there with another ending; else empty."""
    of_stem = {without_ending(str(path)): path for path in label_files} if unlabelled else {}
    for frame in unlabelled:
        other = of_stem.get(without_ending(str(frame.labels)))
        if other is None or other == frame.image:
            continue
        if other.suffix.lower() in JPEG_SUFFIXES:
            return f"; {other.name} is a JPEG, which alters labels"
        return f"; {other.name} is there: let the data set's label_name end in {other.suffix}"
    return ""


def _shared_labels(frames: list[LabelledFrame], spec: DatasetSpec) -> Iterator[str]:
    """A line for each label image that two frames would have."""
    first: dict[Path, LabelledFrame] = {}
    for frame in frames:
        other = first.setdefault(frame.labels, frame)
        if other is not frame:
            yield (
                f"{other.image} and {frame.image} have the same label image {frame.labels}: "
                f"tell them apart in the {'list' if spec.list_file else 'label_name'} of data set {spec.name}"
            )


def read_labels(path: Path, spec: DatasetSpec) -> NDArray[np.uint8]:
    """`(H, W)` class ids, IGNORE_INDEX for void. Raises DatasetError for another kind of file or an unknown value."""
    return spec.coding.decode(read_label_image(path), str(path))


def read_frame(frame: LabelledFrame, spec: DatasetSpec) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and labels of one frame. Raises DatasetError, also where their sizes differ."""
    image, labels = spec.read_image(frame.image), read_labels(frame.labels, spec)
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
