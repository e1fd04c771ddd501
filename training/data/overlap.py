"""Frames that two splits have in common: what is learned from must not be measured on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from training.data.frame_names import LabelledFrame
from training.data.label_images import DatasetError, ReadImage, read_image

# Pictures are alike if they differ by less than this on average, 0..255, when both are made as small as this (width,
# height). Measured on CamVid: a JPEG of quality 60 differs from its original by 0.8, the next frame by 2.1 and more.
ALIKE = 1.5
COMPARED_SIZE = (48, 36)
Frames = Sequence[LabelledFrame]
Pair = tuple[LabelledFrame, LabelledFrame]


def overlap(first: Frames, second: Frames, read: ReadImage = read_image) -> list[Pair]:
    """The frames of two splits that are one picture, in the order of `second`.

    These are images of the same bytes, whatever their names; images of the same pixels, if their label images have the
    same bytes; and frames of the same sequence and number, if their pictures are alike (names alone say nothing where
    every split counts from 0). Files that cannot be read are passed over.
    `read` reads an image.
    """
    same: dict[int, LabelledFrame] = {}

    def keep(key: Callable[[Path], str], ours: Frames, theirs: Frames) -> None:
        known = dict(zip(_each(key, [frame.image for frame in ours]), ours, strict=True))
        for found, frame in zip(_each(key, [frame.image for frame in theirs]), theirs, strict=True):
            if found and found in known:
                same[id(frame)] = known[found]

    keep(_digest, *_with_equal_files(first, second, lambda frame: frame.image))
    rest = [frame for frame in second if id(frame) not in same]
    keep(partial(_pixels, read), *_with_equal_files(first, rest, lambda frame: frame.labels))
    by_name = {(frame.sequence, frame.number): frame for frame in first}
    rest = [frame for frame in second if id(frame) not in same and (frame.sequence, frame.number) in by_name]
    namesakes = [by_name[frame.sequence, frame.number] for frame in rest]
    alike = _each(partial(_alike, read), list(zip(namesakes, rest, strict=True)))
    for one, frame, is_alike in zip(namesakes, rest, alike, strict=True):
        if is_alike:
            same[id(frame)] = one
    return [(same[id(frame)], frame) for frame in second if id(frame) in same]


def overlap_line(pairs: Sequence[Pair], first: str, second: str) -> str:
    """One line for a person on the pairs of two splits, of which there is at least one."""
    one, other = pairs[0]
    count = f"{len(pairs)} frames of the {second} split are" if len(pairs) > 1 else f"a frame of the {second} split is"
    return (
        f"{count} in the {first} split too, such as {other.image}, which is {one.image}: figures on {second} "
        "will be too good; take them out of one of the two"
    )


def require_own_labels(frames: Frames, read: ReadImage = read_image) -> None:
    """Raises DatasetError where two different images, such as those of one name in two splits, have one label image."""
    first: dict[str, LabelledFrame] = {}
    for frame in frames:
        other = first.setdefault(os.path.abspath(frame.labels), frame)
        if os.path.abspath(other.image) != os.path.abspath(frame.image) and not _alike(read, (other, frame)):
            raise DatasetError(
                f"{other.image} and {frame.image} have the same label image {frame.labels}, which cannot be right for "
                "both: put {split} into labels in the data set's YAML file, or name the label images in its lists"
            )


def _with_equal_files(
    first: Frames, second: Frames, file: Callable[[LabelledFrame], Path]
) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """The frames of either split of which the other has a file of the same bytes."""
    both = (list(first), list(second))
    # Sizes first: then hardly any image has to be read.
    for key in (_size, _digest):
        keys = [_each(key, [file(frame) for frame in frames]) for frames in both]
        shared = (set(keys[0]) & set(keys[1])) - {""}
        ours, theirs = (
            [frame for frame, own in zip(frames, each, strict=True) if own in shared]
            for frames, each in zip(both, keys, strict=True)
        )
        both = (ours, theirs)
    return both


def _each(call: Callable, items: list) -> list:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(call, items))


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:
        return ""


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _pixels(read: ReadImage, path: Path) -> str:
    try:
        image = read(path)
    except DatasetError:
        return ""
    return f"{image.shape} {hashlib.sha256(image).hexdigest()}"


def _alike(read: ReadImage, pair: Pair) -> bool:
    try:
        one, other = (cv2.resize(read(frame.image), COMPARED_SIZE, interpolation=cv2.INTER_AREA) for frame in pair)
    except DatasetError:
        return False
    return float(np.abs(one.astype(np.float32) - other).mean()) < ALIKE
