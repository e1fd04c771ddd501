"""A picture that is learned from and measured on is found, whatever it is called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from training.data.dataset import DatasetSpec, list_frames, load_spec
from training.data.overlap import overlap, overlap_line


@pytest.fixture
def spec(make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
    """Frames 0 to 3 in `train` and 0 to 1 in `val`, of the same names and other pictures."""
    return load_spec(make_shapes(tmp_path, {"train": 4, "val": 2}))


def found(spec: DatasetSpec, root: Path) -> list[tuple[str, str]]:
    train, val = (list_frames(spec, root, split) for split in ("train", "val"))
    return [(one.image.name, other.image.name) for one, other in overlap(train, val)]


def copy(root: Path, name: str, as_name: str) -> tuple[Path, Path]:
    """A frame of `train` and its label image in `val`."""
    image = shutil.copy(root / "train" / name, root / "val" / as_name)
    return Path(image), Path(shutil.copy(root / "trainannot" / name, root / "valannot" / as_name))


def test_the_same_names_alone_are_no_overlap(spec: DatasetSpec, tmp_path: Path) -> None:
    assert found(spec, tmp_path) == []


@pytest.mark.parametrize("name", ["drive_000001.png", "drive_000003.png", "walk_7.png"])
def test_a_copy_by_any_name(spec: DatasetSpec, tmp_path: Path, name: str) -> None:
    copy(tmp_path, "drive_000003.png", name)
    assert found(spec, tmp_path) == [("drive_000003.png", name)]


def test_a_copy_whose_label_image_differs(spec: DatasetSpec, tmp_path: Path) -> None:
    _, labels = copy(tmp_path, "drive_000003.png", "walk_7.png")
    cv2.imwrite(str(labels), cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)[::-1])
    assert found(spec, tmp_path) == [("drive_000003.png", "walk_7.png")]


def test_the_same_pixels_in_another_file(spec: DatasetSpec, tmp_path: Path) -> None:
    image, _ = copy(tmp_path, "drive_000003.png", "walk_7.png")
    cv2.imwrite(str(image), cv2.imread(str(image)), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert image.stat().st_size != (tmp_path / "train" / "drive_000003.png").stat().st_size
    assert found(spec, tmp_path) == [("drive_000003.png", "walk_7.png")]


def test_a_jpeg_of_the_same_frame(spec: DatasetSpec, tmp_path: Path) -> None:
    image, _ = copy(tmp_path, "drive_000003.png", "drive_000003.png")
    cv2.imwrite(str(image.with_suffix(".jpg")), cv2.imread(str(image)), [cv2.IMWRITE_JPEG_QUALITY, 90])
    image.unlink()
    assert found(spec, tmp_path) == [("drive_000003.png", "drive_000003.jpg")]


def test_a_folder_that_is_both_splits(spec: DatasetSpec, tmp_path: Path) -> None:
    for folder in ("val", "valannot"):
        shutil.rmtree(tmp_path / folder)
        (tmp_path / folder).symlink_to(folder.replace("val", "train"))
    assert len(found(spec, tmp_path)) == 4


def test_files_that_cannot_be_read_are_no_overlap(spec: DatasetSpec, tmp_path: Path) -> None:
    (tmp_path / "val" / "drive_000000.png").write_text("hello")
    image, _ = copy(tmp_path, "drive_000003.png", "walk_7.png")
    image.write_text("hello!")
    assert found(spec, tmp_path) == []


def test_a_line_for_a_person(spec: DatasetSpec, tmp_path: Path) -> None:
    copy(tmp_path, "drive_000003.png", "walk_7.png")
    train, val = (list_frames(spec, tmp_path, split) for split in ("train", "val"))
    line = overlap_line(overlap(train, val), "train", "val")
    assert line == (
        f"a frame of the val split is in the train split too, such as {tmp_path / 'val' / 'walk_7.png'}, which is "
        f"{tmp_path / 'train' / 'drive_000003.png'}: figures on val will be too good; take them out of one of the two"
    )
