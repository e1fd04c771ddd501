"""Label images as class ids: ground truth and recorded labels of a bag's topics, or files named by stamp."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stmem_ros.decode import decode_message
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from stmem_ros.sources import JPEG_SUFFIXES, LABEL_SUFFIXES
from training.data.dataset import DatasetError, DatasetSpec, load_spec, require_classes
from training.data.label_images import LabelCoding, UnknownLabels, read_label_image
from training.data.label_messages import LabelReader

CONFIDENCE_ENCODINGS = ("mono8", "8UC1")
# Also as the demo names its labels: the place among them, then the stamp.
NAME = re.compile(r"(?:\d+_)?(?P<ns>\d{10,})|(?P<short>\d+)|(?P<seconds>\d+)\.(?P<fraction>\d{9})", re.ASCII)
SECOND = 10**9
# In nanoseconds.
UNITS = {"seconds": SECOND, "milliseconds": 10**6, "microseconds": 10**3}
NAMES = "1700000000066666667.png (nanoseconds) or 1700000000.066666667.png (seconds, then nine digits of nanoseconds)"

Labels = NDArray[np.uint8]


class TruthReader:
    """Label images to ids of `labels`, IGNORE_INDEX for void; `dataset` says what their values mean, None: the ids.

    Raises DatasetError where the data set has other classes.
    """

    def __init__(self, labels: LabelSet, dataset: str | None, where: str) -> None:
        self._own, self._where = dataset is None, where
        if dataset is None:
            ids = {label: label for label in (*range(len(labels)), IGNORE_INDEX)}
            self._spec = DatasetSpec("the network's", labels, LabelCoding(ids), "", "", re.compile(""))
        else:
            self._spec = load_spec(dataset)
            require_classes(labels, self._spec, where)
        self._messages = LabelReader(self._spec)

    def message(self, content: object, where: str) -> Labels:
        """`(H, W)` ids. Raises ImageError where it is damaged, DatasetError where others will be unfit, too."""
        try:
            return self._messages.read(content, where)
        except DatasetError as error:
            raise self._explained(error) from error

    def file(self, path: Path) -> Labels:
        """`(H, W)` ids. Raises DatasetError."""
        raw = read_label_image(path)
        try:
            return self._spec.coding.decode(raw, str(path))
        except DatasetError as error:
            raise self._explained(error) from error

    def _explained(self, error: DatasetError) -> DatasetError:
        if not self._own or not isinstance(error, UnknownLabels):
            return error
        count = len(self._spec.labels)
        return DatasetError(
            f"{error.found} (of the {count} classes of {self._where}, 0 to {count - 1}, and {IGNORE_INDEX} for void); "
            "say with --dataset what its values mean"
        )


def prediction(reader: TruthReader, content: object, where: str) -> Labels:
    """`(H, W)` recorded labels, a class everywhere. Raises as `TruthReader.message` does."""
    labels = reader.message(content, where)
    if (labels == IGNORE_INDEX).any():
        raise DatasetError(f"{where} has pixels of {IGNORE_INDEX}, which is no class: it is no network's labels")
    return labels


def probability(content: object, where: str) -> Labels:
    """`(H, W)` 0..255 of a confidence image. Raises ImageError where it is damaged, DatasetError for another kind."""
    encoding = getattr(content, "encoding", None)
    if encoding is not None and encoding not in CONFIDENCE_ENCODINGS:
        known = " or ".join(CONFIDENCE_ENCODINGS)
        raise DatasetError(f"{where} has encoding {encoding!r}; a confidence image has {known}")
    return decode_message(content)[..., 0]


def files_by_stamp(folder: Path, bag: str) -> dict[int, Path]:
    """The label images in `folder/bag` (also without the suffix of a bag that is a file), or else in `folder`, by stamp
    in nanoseconds. Raises DatasetError.
    """
    own = next((own for own in (folder / bag, folder / Path(bag).stem) if own.is_dir()), None)
    folder = own or folder
    try:
        files = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error.strerror}") from error
    labels = [path for path in files if path.suffix.lower() in LABEL_SUFFIXES]
    if not labels:
        jpegs = [path.name for path in files if path.suffix.lower() in JPEG_SUFFIXES]
        hint = f"; {jpegs[0]} is a JPEG, which alters labels" if jpegs else ""
        if own is None and any(path.is_dir() for path in files):
            hint += f", and no folder {bag} of this bag's"
        raise DatasetError(f"--truth {folder} holds no label image ({', '.join(LABEL_SUFFIXES)}){hint}")
    names = {path: NAME.fullmatch(path.stem) for path in labels}
    odd = [path for path, name in names.items() if name is None]
    if odd:
        more = f" and {len(odd) - 1} more of {len(labels)}"
        what = f"{more} are not named by their" if len(odd) > 1 else " is not named by its"
        raise DatasetError(
            f"{odd[0]}{what} stamp: label images must be called like {NAMES}; rename them, and "
            "put what is no label image elsewhere"
        )
    found: dict[int, Path] = {}
    for path, name in names.items():
        assert name is not None
        stamp = int(name["ns"] or name["short"] or name["seconds"] + name["fraction"])
        if stamp in found:
            raise DatasetError(f"{found[stamp]} and {path} have the same stamp: remove one")
        found[stamp] = path
    return found


def require_nanoseconds(folder: Path, stamps: Collection[int], images: Collection[int]) -> None:
    """Raises DatasetError where `stamps`, the names of files, are those of images in another unit."""
    if not set(stamps).isdisjoint(images):
        return
    for unit, factor in UNITS.items():
        if all(min(images) - SECOND <= factor * stamp <= max(images) + SECOND for stamp in stamps):
            raise DatasetError(
                f"the label images in {folder} are named in {unit}, such as {min(stamps)}: name them by the whole "
                f"stamp, {NAMES}"
            )
