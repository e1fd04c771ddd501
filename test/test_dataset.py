"""A folder of frames and label images becomes labelled frames, or one line that says what is wrong where."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stmem_ros.labels import IGNORE_INDEX
from training.dataset import (
    DatasetError,
    DatasetSpec,
    class_pixels,
    fingerprint,
    list_frames,
    load_spec,
    read_frame,
    read_image,
    read_labels,
)


@pytest.fixture
def spec(make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
    """Three frames in `tmp_path/train`, 96 x 128."""
    return load_spec(make_shapes(tmp_path, {"train": 3}))


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(DatasetError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestSpec:
    def test_camvid_comes_with_the_package(self) -> None:
        camvid = load_spec("camvid")
        assert camvid.name == "camvid"
        assert len(camvid.labels) == 11
        assert camvid.labels.names[3] == "road"
        assert camvid.void_ids == (11,)

    def test_camvid_tells_sequence_and_number_apart(self) -> None:
        pattern = load_spec("camvid").name_pattern
        assert pattern.fullmatch("0001TP_006690").groupdict() == {"sequence": "0001TP", "frame": "006690"}
        assert pattern.fullmatch("Seq05VD_f00000").groupdict() == {"sequence": "Seq05VD", "frame": "00000"}

    def test_an_unknown_name_is_told_the_known_ones(self) -> None:
        assert "(camvid" in refusal(lambda: load_spec("cityscape"))

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("frames:", "images:", "'frames' is missing"),
            ("void_ids: [9]", "void_ids: [300]", "void_ids are [300]"),
            ("void_ids: [9]", "frame_rate: 0", "frame_rate is 0.0"),
            ("(?P<frame>", "(", "needs the groups"),
            ("(?P<frame>", "(?P<frame", "does not describe a data set"),
            ("name: disc", "name: box", "'box' is listed twice"),
            ("[220, 40, 40]", "[220, 40]", "'disc' is [220, 40]"),
            ('frames: "{split}"', 'frames: "{split}/{sequence}"', "only {split} is filled in"),
            ("classes:", "classes: [", "does not describe a data set"),
        ],
    )
    def test_a_wrong_file_is_named_with_the_reason(
        self, spec: DatasetSpec, tmp_path: Path, old: str, new: str, reason: str
    ) -> None:
        path = tmp_path / "shapes.yaml"
        path.write_text(path.read_text().replace(old, new))
        message = refusal(lambda: load_spec(path))
        assert str(path) in message
        assert reason in message

    @pytest.mark.parametrize("text", ["", "[]", "hello", "\x00"])
    def test_a_file_that_is_no_mapping(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "own.yaml").write_text(text)
        assert "does not describe a data set" in refusal(lambda: load_spec(tmp_path / "own.yaml"))


class TestListing:
    def test_frames_come_by_sequence_and_number_not_by_name(self, spec: DatasetSpec, tmp_path: Path) -> None:
        for name in ("drive_9", "drive_10", "a_3"):
            for folder in ("train", "trainannot"):
                (tmp_path / folder / f"{name}.png").write_bytes((tmp_path / folder / "drive_000000.png").read_bytes())
        listed = [(frame.sequence, frame.number) for frame in list_frames(spec, tmp_path, "train")]
        assert listed == [("a", 3), ("drive", 0), ("drive", 1), ("drive", 2), ("drive", 9), ("drive", 10)]

    @pytest.mark.parametrize("folder", ["test", "testannot"])
    def test_a_missing_folder(self, spec: DatasetSpec, tmp_path: Path, folder: str) -> None:
        for other in {"test", "testannot"} - {folder}:
            (tmp_path / other).mkdir()
        message = refusal(lambda: list_frames(spec, tmp_path, "test"))
        assert f"{tmp_path / folder} is not a folder" in message
        assert "test split" in message

    def test_an_empty_split(self, spec: DatasetSpec, tmp_path: Path) -> None:
        (tmp_path / "test").mkdir()
        (tmp_path / "testannot").mkdir()
        assert f"{tmp_path / 'test'} holds no images" in refusal(lambda: list_frames(spec, tmp_path, "test"))

    def test_a_frame_without_labels(self, spec: DatasetSpec, tmp_path: Path) -> None:
        (tmp_path / "trainannot" / "drive_000001.png").unlink()
        message = refusal(lambda: list_frames(spec, tmp_path, "train"))
        assert f"drive_000001.png has no label image {tmp_path / 'trainannot'}" in message

    @pytest.mark.parametrize("name", ["drive", "drive_x", "a_b_1"])
    def test_a_name_that_does_not_fit(self, spec: DatasetSpec, tmp_path: Path, name: str) -> None:
        (tmp_path / "train" / "drive_000001.png").rename(tmp_path / "train" / f"{name}.png")
        assert f"{name}.png does not fit the name_pattern" in refusal(lambda: list_frames(spec, tmp_path, "train"))

    def test_a_pattern_whose_number_is_none(self, spec: DatasetSpec, tmp_path: Path) -> None:
        path = tmp_path / "shapes.yaml"
        path.write_text(path.read_text().replace(r"\d+", r"\w+"))
        (tmp_path / "train" / "drive_000001.png").rename(tmp_path / "train" / "drive_one.png")
        assert "drive_one.png does not fit" in refusal(lambda: list_frames(load_spec(path), tmp_path, "train"))

    def test_other_files_in_the_folder_do_no_harm(self, spec: DatasetSpec, tmp_path: Path) -> None:
        (tmp_path / "train" / "readme.txt").write_text("hello")
        assert len(list_frames(spec, tmp_path, "train")) == 3


class TestReading:
    def test_a_frame_is_rgb_and_its_void_is_ignored(self, spec: DatasetSpec, tmp_path: Path) -> None:
        image, labels = read_frame(list_frames(spec, tmp_path, "train")[0], spec)
        assert image.shape == (96, 128, 3)
        assert image.flags.c_contiguous
        assert labels.shape == (96, 128)
        assert set(np.unique(labels[0])) == {IGNORE_INDEX}
        assert set(np.unique(labels[1:])) == {0, 1, 2}
        for index, color in enumerate(spec.labels.palette):
            assert (image[1:][labels[1:] == index] == color).all()

    def test_an_unknown_label_is_named(self, spec: DatasetSpec, tmp_path: Path) -> None:
        path = tmp_path / "labels.png"
        cv2.imwrite(str(path), np.array([[0, 200], [77, 2]], np.uint8))
        assert f"{path} has label id 77" in refusal(lambda: read_labels(path, spec))

    @pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16)])
    def test_labels_are_one_8_bit_channel(self, spec: DatasetSpec, tmp_path: Path, pixels: np.ndarray) -> None:
        path = tmp_path / "labels.png"
        cv2.imwrite(str(path), pixels)
        assert "one 8-bit channel" in refusal(lambda: read_labels(path, spec))

    def test_image_and_labels_of_different_sizes(self, spec: DatasetSpec, tmp_path: Path) -> None:
        frame = list_frames(spec, tmp_path, "train")[0]
        cv2.imwrite(str(frame.labels), np.zeros((95, 128), np.uint8))
        message = refusal(lambda: read_frame(frame, spec))
        assert f"{frame.labels} is 128x95, its image 128x96" in message

    @pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp"])
    @pytest.mark.parametrize("kept", [0, 0.3, 0.9])
    def test_a_truncated_image_is_refused_not_half_read(self, tmp_path: Path, ending: str, kept: float) -> None:
        path = tmp_path / f"frame{ending}"
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        data = cv2.imencode(ending, pixels)[1].tobytes()
        path.write_bytes(data[: int(len(data) * kept)])
        assert f"{path} is damaged or no image" in refusal(lambda: read_image(path))

    def test_text_that_is_named_as_an_image(self, spec: DatasetSpec, tmp_path: Path) -> None:
        path = tmp_path / "frame.png"
        path.write_text("hello")
        assert "damaged or no image" in refusal(lambda: read_image(path))
        assert "damaged or no image" in refusal(lambda: read_labels(path, spec))

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        assert "cannot be read" in refusal(lambda: read_image(tmp_path / "frame.png"))


def test_pixels_are_counted_by_frame_and_class_without_void(spec: DatasetSpec, tmp_path: Path) -> None:
    frames = list_frames(spec, tmp_path, "train")
    pixels = class_pixels(frames, spec)
    assert pixels.shape == (3, 3)
    assert (pixels.sum(1) == 95 * 128).all()
    assert (pixels[:, 2] == 30 * 28).all()


def test_a_fingerprint_changes_with_any_file(spec: DatasetSpec, tmp_path: Path) -> None:
    frames = list_frames(spec, tmp_path, "train")
    before = fingerprint(frames)
    assert before == fingerprint(list_frames(spec, tmp_path, "train"))
    assert (before["frames"], before["sequences"]) == (3, ["drive"])
    frames[2].labels.write_bytes(frames[1].labels.read_bytes())
    assert fingerprint(frames)["sha256"] != before["sha256"]


def test_several_void_ids(spec: DatasetSpec, tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    cv2.imwrite(str(path), np.array([[0, 9, 255, 2]], np.uint8))
    labels = read_labels(path, dataclasses.replace(spec, void_ids=(9, 255)))
    assert labels.tolist() == [[0, IGNORE_INDEX, IGNORE_INDEX, 2]]


def test_camvid_as_it_lies_here(shared: Path) -> None:
    if not (shared / "camvid").is_dir():
        pytest.skip(f"{shared / 'camvid'} is not here")
    camvid = load_spec("camvid")
    train, val = (list_frames(camvid, shared / "camvid", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    assert {frame.sequence for frame in train} == {"0001TP", "0006R0", "0016E5"}
    assert {later.number - frame.number for frame, later in itertools.pairwise(val)} == {2}
    image, labels = read_frame(val[0], camvid)
    assert image.shape == (360, 480, 3)
    assert set(np.unique(labels)) <= {*range(11), IGNORE_INDEX}
