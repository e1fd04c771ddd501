"""Label images as class ids: ground truth and recorded labels of a bag's topics, or files named by stamp."""

from __future__ import annotations

import re
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
    folder = next((own for own in (folder / bag, folder / Path(bag).stem) if own.is_dir()), folder)
    try:
        files = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error.strerror}") from error
    labels = [path for path in files if path.suffix.lower() in LABEL_SUFFIXES]
    if not labels:
        jpegs = [path.name for path in files if path.suffix.lower() in JPEG_SUFFIXES]
        hint = f"; {jpegs[0]} is a JPEG, which alters labels" if jpegs else ""
        raise DatasetError(f"--truth {folder} holds no label image ({', '.join(LABEL_SUFFIXES)}){hint}")
    found: dict[int, Path] = {}
    for path in labels:
        name = re.fullmatch(r"(\d+)|(\d+)\.(\d{9})", path.stem, re.ASCII)
        if name is None:
            raise DatasetError(f"{path} is not named by its stamp: it must be called like {NAMES}")
        stamp = int(name[1] or name[2] + name[3])
        if stamp in found:
            raise DatasetError(f"{found[stamp]} and {path} have the same stamp: remove one")
        found[stamp] = path
    return found
