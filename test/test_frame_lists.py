"""A list names frames, label images or sequences in every usual form; no line is ever taken for another file."""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training.data.dataset import DatasetError, DatasetSpec, list_frames, list_images, load_spec, scan
from training.data.frame_list import names_in

Listed = Callable[[str | bytes], DatasetSpec]


@pytest.fixture
def listed(make_shapes: Callable[..., Path], tmp_path: Path) -> Listed:
    """`listed(text)` writes train.txt beside frames 0 to 2 of `drive` in `train`, and returns the data set."""
    spec = load_spec(make_shapes(tmp_path, {"train": 3}))

    def write(text: str | bytes) -> DatasetSpec:
        (tmp_path / "train.txt").write_bytes(text.encode() if isinstance(text, str) else text)
        return dataclasses.replace(spec, list_file="{split}.txt")

    return write


def write_image(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((96, 128), value, np.uint8))
    return path


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(DatasetError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def pairs(spec: DatasetSpec, root: Path) -> list[tuple[str, str]]:
    frames = list_frames(spec, root, "train")
    return [(frame.image.relative_to(root).as_posix(), frame.labels.relative_to(root).as_posix()) for frame in frames]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("a.png,labels/a.png", ["a.png", "labels/a.png"]),
        ("a.png , labels/a.png ", ["a.png", "labels/a.png"]),
        ("a.png;labels/a.png", ["a.png", "labels/a.png"]),
        ("a.png\tmy labels/a.png", ["a.png", "my labels/a.png"]),
        ("my a.png my labels/a.png", ["my a.png", "my labels/a.png"]),
        ("a.JPG   b.png", ["a.JPG", "b.png"]),
        ("a b", ["a", "b"]),
        ('"a, b.png","labels/a.png"', ["a, b.png", "labels/a.png"]),
        ('"a, b.png" "labels/a, b.png"', ["a, b.png", "labels/a, b.png"]),
        ("'a b.png' 'c d.png'", ["a b.png", "c d.png"]),
        ("a.png 'b.png'", ["a.png", "b.png"]),
        ("a.png,", ["a.png"]),
        (",a.png", ["", "a.png"]),
        ("a.png  # rainy", ["a.png"]),
        ("# a.png", []),
        ("#a.png", []),
        ("  ", []),
        ("0,a.png,b.png", ["0", "a.png", "b.png"]),
    ],
)
def test_what_separates_names(line: str, names: list[str]) -> None:
    assert names_in(line) == names


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", ";", "  "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_label_image_is_the_one_that_the_line_names(
    listed: Listed, tmp_path: Path, separator: str, end: str
) -> None:
    """Not the one that label_name would give, and never another frame."""
    lines = [separator.join(("train/drive_000000.png", "trainannot/drive_000002.png")), "", "# drive_000001.png"]
    assert pairs(listed(end.join([*lines, ""])), tmp_path) == [
        ("train/drive_000000.png", "trainannot/drive_000002.png")
    ]


def test_a_table_may_have_a_heading(listed: Listed, tmp_path: Path) -> None:
    table = "image,label\ntrain/drive_000001.png,trainannot/drive_000001.png\n"
    assert pairs(listed(table), tmp_path) == [("train/drive_000001.png", "trainannot/drive_000001.png")]
    assert "line 2" in refusal(lambda: list_frames(listed("drive_000001\nimage,label\n"), tmp_path, "train"))


def test_names_with_blanks_and_commas(listed: Listed, tmp_path: Path) -> None:
    write_image(tmp_path / "my, frames" / "other_000004.png")
    write_image(tmp_path / "my labels" / "4.png")
    for line in (
        '"my, frames/other_000004.png","my labels/4.png"',
        "my, frames/other_000004.png\tmy labels/4.png",
    ):
        assert pairs(listed(line), tmp_path) == [("my, frames/other_000004.png", "my labels/4.png")]
    write_image(tmp_path / "trainannot" / "other_000004.png")
    assert pairs(listed("my, frames/other_000004.png"), tmp_path)[0][0] == "my, frames/other_000004.png"


@pytest.mark.parametrize(
    "line",
    [
        "/SegNet/CamVid/train/drive_000001.png /SegNet/CamVid/trainannot/drive_000001.png",
        "CamVid/train/drive_000001.png CamVid/trainannot/drive_000001.png",
        "/gone/frames/drive_000001.png /gone/labels/trainannot/drive_000001.png",
        "/gone/frames/drive_000001.png /gone/labels/drive_000001.png",
        r"C:\SegNet\CamVid\train\drive_000001.png,C:\SegNet\CamVid\trainannot\drive_000001.png",
        r"train\drive_000001.png trainannot\drive_000001.png",
        "./train/drive_000001.png ./trainannot/drive_000001.png",
    ],
)
def test_paths_of_another_machine_lead_to_image_and_label(listed: Listed, tmp_path: Path, line: str) -> None:
    assert pairs(listed(line), tmp_path) == [("train/drive_000001.png", "trainannot/drive_000001.png")]


def test_a_label_image_in_another_folder_of_that_machine_is_that_one(listed: Listed, tmp_path: Path) -> None:
    """Also if the usual folder has one of the same name."""
    write_image(tmp_path / "corrected" / "drive_000001.png")
    line = "/SegNet/CamVid/train/drive_000001.png /SegNet/CamVid/corrected/drive_000001.png"
    assert pairs(listed(line), tmp_path) == [("train/drive_000001.png", "corrected/drive_000001.png")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("drive_000001.png wrong/drive_000001.png", "label image wrong/drive_000001.png, which is no file in"),
        ("drive_000001.png,train/drive_000001.png", "train/drive_000001.png, which is the image itself"),
        ("trainannot/drive_000001.png train/drive_000001.png", "as an image, which lies in the folder of label images"),
        ("0,drive_000001.png,drive_000001.png", "holds 3 names (0, drive_000001.png, drive_000001.png)"),
        ('"drive_000001.png', "has a quotation mark that is not closed"),
        (
            '["train/drive_000001.png", "train/drive_000002.png"]',
            "has a quotation mark that stands within a name, not around it",
        ),
        ('"train/drive_000001.png": "trainannot/drive_000001.png",', "stands within a name, not around it"),
        ("train/drive_000001.png|trainannot/drive_000002.png", "looks like two names with | between them: put a tab"),
        ("train/drive_000001.png/trainannot/drive_000002.png", "looks like two names with / between them"),
        ("train/drive_000001.png_trainannot/drive_000002.png", "looks like two names with _ between them"),
        ("drive_000001.png*drive_000002.png", "looks like two names with * between them"),
        ("train/drive_000001.PNG:trainannot/drive_000002.png", "looks like two names with : between them"),
        ("train/drive_000001.png -> trainannot/drive_000002.png", "which is no file in"),
        ("train/drive_000001.png=>trainannot/drive_000002.png", "looks like two names with => between them"),
        ("drive,trainannot/drive_000001.png", "names drive, which is no frame"),
        ("drive_one.png", r"does not fit the name_pattern '(?P<sequence>[^_]+)_(?P<frame>\d+)' of data set shapes"),
    ],
)
def test_a_line_that_names_nothing_here_is_refused(listed: Listed, tmp_path: Path, line: str, reason: str) -> None:
    message = refusal(lambda: list_frames(listed(line), tmp_path, "train"))
    assert message.startswith(f"line 1 of {tmp_path / 'train.txt'} ") and reason in message


def test_label_images_of_both_kinds_are_noted(listed: Listed, tmp_path: Path) -> None:
    """Such as Cityscapes' train ids in a list, beside the download's ids that label_name says."""
    write_image(tmp_path / "trainannot" / "drive_000001_trainIds.png")
    spec = listed("drive_000000\ndrive_000001.png,drive_000001_trainIds.png\n")
    found = scan(spec, tmp_path, "train")
    first, second = (tmp_path / "trainannot" / f"drive_000001{kind}.png" for kind in ("_trainIds", ""))
    assert (found.problems, found.notes) == (
        [],
        [
            "1 label images are those that the list names, not those of label_name, which are there too: "
            f"{first}, not {second}"
        ],
    )


def test_a_data_set_without_splits_is_noted(listed: Listed, tmp_path: Path) -> None:
    spec = dataclasses.replace(listed(""), list_file=None, frames_folder="train", labels_folder="trainannot")
    assert "has no splits" in scan(spec, tmp_path, "val").notes[0]


def test_two_frames_cannot_have_one_label_image(listed: Listed, tmp_path: Path) -> None:
    spec = listed("drive_000000.png trainannot/drive_000001.png\ndrive_000001.png\n")
    message = refusal(lambda: list_frames(spec, tmp_path, "train"))
    assert f"have the same label image {tmp_path / 'trainannot' / 'drive_000001.png'}" in message
    by_rule = dataclasses.replace(spec, list_file=None, label_name="{sequence}.png")
    write_image(tmp_path / "trainannot" / "drive.png")
    assert "have the same label image" in refusal(lambda: list_frames(by_rule, tmp_path, "train"))


def test_what_a_list_leaves_out_need_not_be_sound(listed: Listed, tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "panorama.png")
    write_image(tmp_path / "train" / "walk_1.png")
    write_image(tmp_path / "train" / "walk_01.png")
    assert [number for number in list_images(listed("drive_000001"), tmp_path, "train")["drive"]] == [0, 1, 2]
    assert "are both frame 1 of sequence walk" in refusal(lambda: list_frames(listed("walk_1"), tmp_path, "train"))


def test_label_images_that_a_list_names_are_no_frames(listed: Listed, tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "drive_1.png")
    spec = listed("train/drive_000001.png train/drive_1.png")
    assert pairs(spec, tmp_path) == [("train/drive_000001.png", "train/drive_1.png")]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, b""])
def test_a_byte_order_mark_is_no_part_of_a_name(listed: Listed, tmp_path: Path, mark: bytes) -> None:
    assert len(list_frames(listed(mark + b"drive_000001\r\n"), tmp_path, "train")) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("drive_000001\n".encode("utf-16"), "it is UTF-16 text: save it as UTF-8"),
        ("drive_000001\n".encode("utf-16-le"), "it is no text, or text in UTF-16: save it as UTF-8"),
        ("drive_000001\n".encode("utf-32"), "it is UTF-32 text: save it as UTF-8"),
        (b"drive_000001\nstra\xdfe_000001\n", "byte 0xdf in line 2 is not UTF-8: save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0", "it is no text"),
    ],
)
def test_a_list_that_is_no_utf_8_text(listed: Listed, tmp_path: Path, data: bytes, reason: str) -> None:
    message = refusal(lambda: list_frames(listed(data), tmp_path, "train"))
    assert message.startswith(f"{tmp_path / 'train.txt'}, the list of data set shapes, cannot be read: {reason}")


class TestSequences:
    """Lists may name whole sequences, as VSPW's do."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for video, first in (("127_-hIVCYO4C90", 3), ("1001_5z_ijQjUf_0", 8), ("7_held", 1)):
            for number in (first, first + 1):
                write_image(tmp_path / "data" / video / "origin" / f"{number:08d}.jpg", first)
                write_image(tmp_path / "data" / video / "mask" / f"{number:08d}.png", number)
        (tmp_path / "train.txt").write_text("127_-hIVCYO4C90\n1001_5z_ijQjUf_0\n")
        (tmp_path / "val.txt").write_text("7_held\n")
        return tmp_path

    def test_vspw(self, root: Path) -> None:
        spec = load_spec("vspw")
        assert (len(spec.labels), spec.labels.names[0], spec.labels.names[-1]) == (124, "wall", "train")
        assert len(set(spec.labels.palette)) == 124
        found = scan(spec, root, "train")
        assert [(frame.sequence, frame.number) for frame in found.frames] == [
            ("1001_5z_ijQjUf_0", 8),
            ("1001_5z_ijQjUf_0", 9),
            ("127_-hIVCYO4C90", 3),
            ("127_-hIVCYO4C90", 4),
        ]
        assert found.frames[0].labels == root / "data" / "1001_5z_ijQjUf_0" / "mask" / "00000008.png"
        assert found.problems == found.lone_labels == []
        assert list(list_images(spec, root, "val")) == ["7_held"]

    @pytest.mark.parametrize("line", ["data/7_held", "7_held/", "/home/me/VSPW/data/7_held", r"data\7_held"])
    def test_a_sequence_by_its_folder(self, root: Path, line: str) -> None:
        (root / "val.txt").write_text(line)
        assert len(list_frames(load_spec("vspw"), root, "val")) == 2

    def test_frames_and_sequences_in_one_list(self, root: Path) -> None:
        (root / "val.txt").write_text("7_held\ndata/127_-hIVCYO4C90/origin/00000004.jpg\n")
        frames = list_frames(load_spec("vspw"), root, "val")
        assert [(frame.sequence, frame.number) for frame in frames] == [
            ("127_-hIVCYO4C90", 4),
            ("7_held", 1),
            ("7_held", 2),
        ]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("7_heldd", "line 1 of {list} names 7_heldd, which is no frame of data set vspw"),
            ("7_held mask", "line 1 of {list} names 7_held, which is no frame of data set vspw"),
            ("7_held\n7_held", "line 2 of {list} names frame 1 of sequence 7_held again, after line 1"),
        ],
    )
    def test_a_sequence_that_is_not_there(self, root: Path, text: str, reason: str) -> None:
        (root / "val.txt").write_text(text)
        message = refusal(lambda: list_frames(load_spec("vspw"), root, "val"))
        assert message.startswith(reason.format(list=root / "val.txt"))


class TestBareNumbers:
    """Where names hold no sequence, folders are the sequences."""

    @pytest.fixture
    def spec(self, make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
        path = make_shapes(tmp_path / "unused", {"train": 1})
        text = re.sub("name_pattern: .*", r"name_pattern: '(?P<frame>\\d+)'", path.read_text())
        (tmp_path / "bare.yaml").write_text(text)
        return load_spec(tmp_path / "bare.yaml")

    def test_frames_of_one_folder_are_one_sequence(self, spec: DatasetSpec, tmp_path: Path) -> None:
        for number in (2, 10, 1):
            write_image(tmp_path / "train" / f"{number}.png")
            write_image(tmp_path / "trainannot" / f"{number}.png")
        frames = list_frames(spec, tmp_path, "train")
        assert [(frame.sequence, frame.number, frame.labels.name) for frame in frames] == [
            ("", 1, "1.png"),
            ("", 2, "2.png"),
            ("", 10, "10.png"),
        ]

    def test_each_folder_is_a_sequence_with_labels_of_its_own(self, spec: DatasetSpec, tmp_path: Path) -> None:
        for folder in ("a", "b/c"):
            write_image(tmp_path / "train" / folder / "0001.png")
            write_image(tmp_path / "trainannot" / folder / "0001.png")
        frames = list_frames(spec, tmp_path, "train")
        assert [(frame.sequence, frame.labels.relative_to(tmp_path).as_posix()) for frame in frames] == [
            ("a", "trainannot/a/0001.png"),
            ("b/c", "trainannot/b/c/0001.png"),
        ]
        by_sequence = dataclasses.replace(spec, label_name="{sequence}_{frame}.png")
        write_image(tmp_path / "trainannot" / "a_0001.png")
        assert scan(by_sequence, tmp_path, "train").frames[0].labels.name == "a_0001.png"

    @pytest.mark.parametrize("line", ["0001", "0001.png", "train/0001.png", "/x/CamVid/train/0001.png"])
    def test_a_list_finds_them(self, spec: DatasetSpec, tmp_path: Path, line: str) -> None:
        write_image(tmp_path / "train" / "0001.png")
        write_image(tmp_path / "trainannot" / "0001.png")
        (tmp_path / "train.txt").write_text(line)
        assert pairs(dataclasses.replace(spec, list_file="{split}.txt"), tmp_path) == [
            ("train/0001.png", "trainannot/0001.png")
        ]

    def test_a_number_of_another_folder_is_another_frame(self, spec: DatasetSpec, tmp_path: Path) -> None:
        write_image(tmp_path / "train" / "0001.png")
        write_image(tmp_path / "trainannot" / "0001.png")
        (tmp_path / "train.txt").write_text("val/0001.png")
        message = refusal(lambda: list_frames(dataclasses.replace(spec, list_file="{split}.txt"), tmp_path, "train"))
        assert "names val/0001.png, which is no frame" in message

    def test_a_group_that_matches_nothing_is_empty(self, spec: DatasetSpec, tmp_path: Path) -> None:
        pattern = re.compile(r"(?P<frame>\d+)(?P<side>_left)?")
        spec = dataclasses.replace(spec, name_pattern=pattern, label_name="{frame}{side}_gt.png")
        for name in ("1", "2_left"):
            write_image(tmp_path / "train" / f"{name}.png")
            write_image(tmp_path / "trainannot" / f"{name}_gt.png")
        labels = [frame.labels.name for frame in list_frames(spec, tmp_path, "train")]
        assert labels == ["1_gt.png", "2_left_gt.png"]

    def test_a_sequence_that_may_be_empty(self, spec: DatasetSpec, tmp_path: Path) -> None:
        spec = dataclasses.replace(spec, name_pattern=re.compile(r"(?P<sequence>[a-z]*)_?(?P<frame>\d+)"))
        for name in ("0001", "walk_0001"):
            write_image(tmp_path / "train" / f"{name}.png")
            write_image(tmp_path / "trainannot" / f"{name}.png")
        assert [frame.title for frame in list_frames(spec, tmp_path, "train")] == [
            "frame 1",
            "frame 1 of sequence walk",
        ]


@pytest.mark.parametrize(
    ("pattern", "name", "reason"),
    [
        (r"(?P<sequence>a)_(?P<frame>\d+)", "b_1.png", "of data set shapes: 'b_1' is not like that"),
        (r"(?P<sequence>a)/(?P<frame>\d+)", "c/b_1.png", "neither 'b_1' nor 'c/b_1' is like that"),
        (r"(?P<sequence>b)_(?P<frame>\d+)\.png", "b_1.png", "it is held against 'b_1', so leave the ending .png out"),
        (r"(?P<sequence>b)_(?P<frame>\d+)", "b_1_left.png", "of 'b_1_left' it fits only 'b_1'"),
        (r"(?P<sequence>b)_(?P<frame>\w+)", "b_one.png", "its group frame is 'one', which is no number"),
    ],
)
def test_a_name_that_does_not_fit_is_shown_beside_the_pattern(
    listed: Listed, tmp_path: Path, pattern: str, name: str, reason: str
) -> None:
    spec = dataclasses.replace(listed(""), list_file=None, name_pattern=re.compile(pattern))
    image = write_image(tmp_path / "train" / name)
    for other in (tmp_path / "train").glob("drive_*"):
        other.unlink()
    message = refusal(lambda: list_frames(spec, tmp_path, "train"))
    assert message.startswith(f"{image} does not fit the name_pattern '{pattern}' of data set shapes")
    assert reason in message
