"""A folder that `python -m training.export` wrote: the network as ONNX graphs of one size, and what they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.checkpoint import (
    EXPORT_DOCUMENT,
    NETWORK_SIDES,
    CheckpointError,
    CheckpointInfo,
    folder_hint,
    info_from_dict,
)
from stmem_ros.decode import ImageError
from stmem_ros.files import one_line, user_path
from stmem_ros.lfs import BEGIN, ONLY_A_POINTER
from stmem_ros.network import SegmenterConfig
from stmem_ros.preprocess import SMALLEST_SIDE, Preprocessor, resize_to
from stmem_ros.streaming.exact.network import TOKEN_FIELDS

FORMAT = "stmem_ros_onnx"
FORMAT_VERSION = 1
FRAME = "frame.onnx"
# A document is some kilobytes, mostly provenance; a network's image has at most so many rows, or columns.
LARGEST_DOCUMENT = 1 << 24
LARGEST_SIDE = NETWORK_SIDES[-1]
MOST_CAMERAS = 64
# An image whose aspect is further from the network's than this is not stretched.
MOST_STRETCH = 0.03


def fusion_files(config: SegmenterConfig) -> dict[str, str]:
    """The graph that fuses a window, for each kind of window."""
    if config.window_frames == 1:
        return dict.fromkeys(("causal", "centered"), "fusion.onnx")
    return {"causal": "fusion_causal.onnx", "centered": "fusion_centered.onnx"}


def state_names(config: SegmenterConfig) -> list[str]:
    """The outputs of `frame.onnx`, in the order of `FrameFeatures.tensors`.

    They are the state: `fusion*.onnx` takes those of every frame of a window, `features_0` the oldest frame's,
    `features_2` the newest one's.
    """
    if config.stf is None:
        return ["features"]
    return ["features", *(field.name for field in TOKEN_FIELDS), *(["direction"] if config.stf.stride > 1 else [])]


@dataclasses.dataclass(frozen=True)
class Export:
    """An exported network: `size` `(h, w)` is its image's, for `cameras` images at once; `sha256` its files'."""

    folder: Path
    info: CheckpointInfo
    size: tuple[int, int]
    cameras: int
    sha256: dict[str, str]

    def read(self, name: str) -> bytes:
        """One of the graphs. Raises CheckpointError where it is not the one that was written with the document."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}; export the network again") from error
        if data.startswith(BEGIN):
            raise CheckpointError(f"{path} {ONLY_A_POINTER}")
        if hashlib.sha256(data).hexdigest() != self.sha256.get(name):
            raise CheckpointError(
                f"{path} is damaged, or not the file that {EXPORT_DOCUMENT} beside it describes; "
                "export the network again"
            )
        return data


def read_export(folder: str | Path) -> Export:
    """Reads the document alone. Raises CheckpointError where the folder is no export, or its document is unusable."""
    folder = user_path(folder)
    path = folder / EXPORT_DOCUMENT
    if not path.is_file():
        raise CheckpointError(f"{folder} {folder_hint(folder)}")
    try:
        if path.stat().st_size > LARGEST_DOCUMENT:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes; no exported network says that much")
        data = path.read_bytes()
        if data.startswith(BEGIN):
            raise CheckpointError(f"{path} {ONLY_A_POINTER}")
        document = json.loads(data)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
    version = document.get(FORMAT) if isinstance(document, dict) else None
    if version is None:
        raise CheckpointError(f"{path} is not of an exported network: it has no {FORMAT!r} entry")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version!r}; this stmem_ros reads {FORMAT_VERSION}: export the network again"
        )
    info = info_from_dict(path, document.get("checkpoint"))
    try:
        size = tuple(_whole(side, SMALLEST_SIDE, LARGEST_SIDE) for side in document["size"])
        if len(size) != 2:
            raise ValueError(f"a size of {len(size)} numbers; height and width are two")
        cameras = _whole(document["cameras"], 1, MOST_CAMERAS)
        sha256 = {str(name): str(digest) for name, digest in document["sha256"].items()}
    except KeyError as error:
        raise CheckpointError(f"{path} has no {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be used: {one_line(error)}") from error
    return Export(folder, info, (size[0], size[1]), cameras, sha256)


def _whole(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{value!r} where a whole number from {least} to {most} should be")
    return value


class ExportPreprocessor:
    """As `Preprocessor`, on the CPU, at the size of an export."""

    def __init__(self, export: Export) -> None:
        self.export = export
        self._normalise = Preprocessor(export.info.normalization, 0, torch.device("cpu"))

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Raises ImageError where the image has another aspect than the exported network's."""
        (height, width), (rows, columns) = image.shape[:2], self.export.size
        if abs(width * rows / (height * columns) - 1) > MOST_STRETCH:
            raise ImageError(
                "size",
                f"it has {height}x{width} pixels, and {self.export.folder} was exported for images of {rows}x{columns} "
                f"and that aspect; export it again with --camera-size {height}x{width}",
            )
        return self._normalise(resize_to(image, self.export.size))
