"""Folders of frames and label images, described by a YAML file, as lists of labelled frames."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from stmem_ros.labels import IGNORE_INDEX, LabelSet

DATASETS = Path(__file__).parent / "datasets"
FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class DatasetError(Exception):
    """Data that cannot be used: one line naming the file or folder, the reason and what to do."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A data set's YAML file: its classes, where frames and labels lie, and how files are named.

    `frame_rate` is in Hz of the frame numbers, None where they count no time.
    """

    name: str
    labels: LabelSet
    void_ids: tuple[int, ...]
    frames_folder: str
    labels_folder: str
    name_pattern: re.Pattern[str]
    frame_rate: float | None = None

    def id_table(self) -> NDArray[np.int16]:
        """`(256,)`: the class of each id in a label image; IGNORE_INDEX for void, -1 for an unknown id."""
        table = np.full(256, -1, np.int16)
        table[: len(self.labels)] = np.arange(len(self.labels))
        table[list(self.void_ids)] = IGNORE_INDEX
        return table


def load_spec(name_or_path: str | Path) -> DatasetSpec:
    """A data set by the name of a file in `training/datasets/`, or by the path of one's own YAML file.

    Raises DatasetError where there is no such file or it does not describe a data set.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = DATASETS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in DATASETS.glob("*.yaml")))
        raise DatasetError(f"{name_or_path} is neither a file nor a known data set ({known})")
    try:
        document = yaml.safe_load(path.read_text())
        void_ids = tuple(int(number) for number in document.get("void_ids", ()))
        if not all(0 <= number <= 255 for number in void_ids):
            raise ValueError(f"void_ids are {list(void_ids)}; label ids are 0..255")
        pattern = re.compile(document["name_pattern"])
        if not {"sequence", "frame"} <= set(pattern.groupindex):
            raise ValueError("name_pattern needs the groups (?P<sequence>...) and (?P<frame>...)")
        folders = {kind: str(document[kind]) for kind in ("frames", "labels")}
        for kind, folder in folders.items():
            if "{" in folder.replace("{split}", ""):
                raise ValueError(f"{kind} is {folder!r}; only {{split}} is filled in")
        frame_rate = None if document.get("frame_rate") is None else float(document["frame_rate"])
        if frame_rate is not None and not frame_rate > 0:
            raise ValueError(f"frame_rate is {frame_rate}; it must be above 0 Hz")
        return DatasetSpec(
            name=path.stem,
            labels=LabelSet(
                tuple(entry["name"] for entry in document["classes"]),
                tuple(tuple(entry["color"]) for entry in document["classes"]),
            ),
            void_ids=void_ids,
            frames_folder=folders["frames"],
            labels_folder=folders["labels"],
            name_pattern=pattern,
            frame_rate=frame_rate,
        )
    except (KeyError, TypeError, ValueError, AttributeError, re.error, yaml.YAMLError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DatasetError(f"{path} does not describe a data set: {reason}") from error


@dataclasses.dataclass(frozen=True)
class LabelledFrame:
    """One frame with its label image; `number` counts frames within `sequence`."""

    sequence: str
    number: int
    image: Path
    labels: Path


def list_frames(spec: DatasetSpec, root: str | Path, split: str) -> list[LabelledFrame]:
    """Every labelled frame of a split, in order of sequence and number.

    Raises DatasetError where a folder is missing or empty, a frame has no label image, or a name does not fit.
    """
    frames_folder = Path(root) / spec.frames_folder.format(split=split)
    labels_folder = Path(root) / spec.labels_folder.format(split=split)
    for folder in (frames_folder, labels_folder):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder; data set {spec.name} has its {split} split there")
    frames = []
    for image in sorted(path for path in frames_folder.iterdir() if path.suffix.lower() in FRAME_ENDINGS):
        match = spec.name_pattern.fullmatch(image.stem)
        if match is None or not match["frame"].isdecimal():
            raise DatasetError(f"{image} does not fit the name_pattern of data set {spec.name}")
        labels = labels_folder / f"{image.stem}.png"
        if not labels.is_file():
            raise DatasetError(f"{image} has no label image {labels}")
        frames.append(LabelledFrame(match["sequence"], int(match["frame"]), image, labels))
    if not frames:
        raise DatasetError(f"{frames_folder} holds no images; data set {spec.name} has its {split} split there")
    return sorted(frames, key=lambda frame: (frame.sequence, frame.number))


def list_images(spec: DatasetSpec, root: str | Path, split: str) -> dict[str, dict[int, Path]]:
    """Every frame of a split, labelled or not: sequence to number to image.

    Raises DatasetError as `list_frames` does.
    """
    images: dict[str, dict[int, Path]] = {}
    for frame in list_frames(spec, root, split):
        images.setdefault(frame.sequence, {})[frame.number] = frame.image
    return images


def _decode(path: Path, flags: int) -> NDArray[Any]:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    # From memory: cv2.imread fills what is missing of a truncated JPEG with grey, cv2.imdecode refuses it.
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise DatasetError(f"{path} is damaged or no image")
    return image


def read_image(path: Path) -> NDArray[np.uint8]:
    """`(H, W, 3)` RGB. Raises DatasetError where the file cannot be read."""
    return np.ascontiguousarray(_decode(path, cv2.IMREAD_COLOR)[..., ::-1])


def read_labels(path: Path, spec: DatasetSpec) -> NDArray[np.uint8]:
    """`(H, W)` class ids, IGNORE_INDEX for void. Raises DatasetError for another kind of file or an unknown id."""
    raw = _decode(path, cv2.IMREAD_UNCHANGED)
    if raw.ndim != 2 or raw.dtype != np.uint8:
        raise DatasetError(f"{path} has shape {raw.shape} and type {raw.dtype}; a label image has one 8-bit channel")
    labels = spec.id_table()[raw]
    if labels.min() < 0:
        unknown = int(raw[labels < 0].min())
        raise DatasetError(f"{path} has label id {unknown}, which is neither a class of {spec.name} nor in void_ids")
    return labels.astype(np.uint8)


def read_frame(frame: LabelledFrame, spec: DatasetSpec) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and labels of one frame. Raises DatasetError, also where their sizes differ."""
    image, labels = read_image(frame.image), read_labels(frame.labels, spec)
    if image.shape[:2] != labels.shape:
        raise DatasetError(
            f"{frame.labels} is {labels.shape[1]}x{labels.shape[0]}, "
            f"its image {image.shape[1]}x{image.shape[0]}: they must be of one size"
        )
    return image, labels


def class_pixels(frames: list[LabelledFrame], spec: DatasetSpec) -> NDArray[np.int64]:
    """`(frames, classes)`: how many pixels of each class each frame has. Reads, and so checks, every label image."""
    counts = np.zeros((len(frames), len(spec.labels)), np.int64)
    for row, frame in zip(counts, frames, strict=True):
        row += np.bincount(read_labels(frame.labels, spec).ravel(), minlength=256)[: len(spec.labels)]
    return counts


def fingerprint(frames: list[LabelledFrame]) -> dict[str, Any]:
    """What a training run saw: the number of frames, the sequences, and a hash over names and file contents."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.image.name.encode())
        digest.update(frame.image.read_bytes())
        digest.update(frame.labels.read_bytes())
    return {
        "frames": len(frames),
        "sequences": sorted({frame.sequence for frame in frames}),
        "sha256": digest.hexdigest(),
    }
