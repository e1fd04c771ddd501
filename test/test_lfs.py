"""A clone without Git LFS has a few lines of text in place of each large file: every reader says so."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stmem_ros.bag.io.errors import BagError
from stmem_ros.bag.io.reader import Bag
from stmem_ros.checkpoint import CheckpointError, read_info
from stmem_ros.decode import ImageError, decode_encoded
from stmem_ros.files import open_tensors
from stmem_ros.label_image import LabelFormatError, decode_label_file
from stmem_ros.lfs import ONLY_A_POINTER
from stmem_ros.sources import SourceError, open_source
from stmem_ros.streaming.exported import Export, read_export
from training.data.dataset import DatasetError
from training.data.label_images import read_image, read_label_image
from training.weights.read import WeightsError, read_contents

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4665\n"


def tensors(path: Path) -> None:
    with open_tensors(path, ValueError):
        pass


def bytes_of(read: Callable[[np.ndarray], object]) -> Callable[[Path], object]:
    return lambda path: read(np.fromfile(path, np.uint8))


@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("model.safetensors", read_info, CheckpointError),
        ("memory.safetensors", tensors, ValueError),
        ("psp50.pth", read_contents, WeightsError),
        ("psp50.safetensors", read_contents, WeightsError),
        ("model.json", lambda path: read_export(path.parent), CheckpointError),
        ("0.png", bytes_of(decode_encoded), ImageError),
        ("0.png", read_image, DatasetError),
        ("0.png", bytes_of(decode_label_file), LabelFormatError),
        ("0.png", read_label_image, DatasetError),
        ("drive.mp4", lambda path: open_source(str(path)), SourceError),
        ("drive.mcap", Bag, BagError),
        ("drive.db3", Bag, BagError),
        ("drive.db3.zstd", Bag, BagError),
        ("drive.bag", Bag, BagError),
    ],
)
def test_a_pointer_is_named_with_what_to_do(
    tmp_path: Path, name: str, read: Callable[[Path], object], error: type[Exception]
) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(error) as caught:
        read(tmp_path / name)
    assert ONLY_A_POINTER in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_graph_of_an_exported_network_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "frame.onnx").write_bytes(POINTER)
    digests = {"frame.onnx": hashlib.sha256(b"the graph").hexdigest()}
    export = Export(tmp_path, None, (64, 64), 1, digests)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=ONLY_A_POINTER):
        export.read("frame.onnx")


def test_a_bag_that_is_fetched_in_part_says_which_files_are_not(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"drive_{number}.mcap").write_bytes(POINTER)
    names = json.dumps([f"drive_{number}.mcap" for number in range(2)])
    (tmp_path / "metadata.yaml").write_text(f"rosbag2_bagfile_information: {{relative_file_paths: {names}, files: []}}")
    with pytest.raises(BagError, match=rf"drive_0.mcap {ONLY_A_POINTER}"):
        Bag(tmp_path)


def test_an_image_of_a_folder_is_skipped_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "0.png").write_bytes(POINTER)
    with caplog.at_level(logging.WARNING), open_source(str(tmp_path)) as source, pytest.raises(SourceError):
        list(source)
    assert ONLY_A_POINTER in caplog.text
