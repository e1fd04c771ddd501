"""A folder of frames and label images becomes labelled frames, or one line that says what is wrong where."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.labels import IGNORE_INDEX, LabelSet
from stmem_ros.network import SegmenterConfig, STFConfig, build_segmenter
from training import evaluate
from training.data.clips import WindowConfig, Windows
from training.data.dataset import (
    DatasetError,
    DatasetSpec,
    class_pixels,
    list_frames,
    list_images,
    load_spec,
    of_sequences,
    read_frame,
    read_image,
    read_labels,
    require_classes,
    scan,
)
from training.data.dataset_spec import DATASETS
from training.data.label_images import LabelCoding


@pytest.fixture
def spec(make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
    """Three frames in `tmp_path/train`, 96 x 128."""
    return load_spec(make_shapes(tmp_path, {"train": 3}))


def write_image(path: Path, pixels: np.ndarray | None = None) -> Path:
    """RGB or ids; 6 x 8 pixels of zeros where no pixels are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((6, 8), np.uint8) if pixels is None else pixels
    cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[..., ::-1])
    return path


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
        assert camvid.coding.classes[11] == IGNORE_INDEX

    def test_camvid_tells_sequence_and_number_apart(self) -> None:
        pattern = load_spec("camvid").name_pattern
        assert pattern.fullmatch("0001TP_006690").groupdict() == {"sequence": "0001TP", "frame": "006690"}
        assert pattern.fullmatch("Seq05VD_f00000").groupdict() == {"sequence": "Seq05VD", "frame": "00000"}

    def test_a_checkpoint_of_camvid_fits_either_size_of_it(self) -> None:
        assert load_spec("camvid_full").labels == load_spec("camvid").labels

    def test_a_file_that_extends_another_says_only_what_differs(self, spec: DatasetSpec, tmp_path: Path) -> None:
        (tmp_path / "more.yaml").write_text("extends: shapes.yaml\nvoid_ids: null\nframe_rate: 5\n")
        more = load_spec(tmp_path / "more.yaml")
        assert (more.name, more.frame_rate, more.labels) == ("more", 5, spec.labels)
        assert more.coding.classes == {0: 0, 1: 1, 2: 2}
        (tmp_path / "fewer.yaml").write_text("extends: more.yaml\nframe_rate: null\n")
        assert load_spec(tmp_path / "fewer.yaml") == dataclasses.replace(more, name="fewer", frame_rate=None)
        (tmp_path / "mine.yaml").write_text("extends: cityscapes\nframe_rate: null\n")
        assert load_spec(tmp_path / "mine.yaml").labels == load_spec("cityscapes").labels

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("extends: own.yaml", "extends itself"),
            ("extends: nowhere", "extends is 'nowhere', which is neither a file beside it nor a known data set"),
            ("extends: cityscapes\nimages: x", "key 'images' is unknown"),
            ("extends: cityscapes\nclass_ids: 1", "class_ids is 1; it must be true or false"),
            ("extends: cityscapes\nclass_ids: true", "label id 0 is both 'road' and void"),
            ("extends: cityscapes\nvoid_colors: [[0, 0, 0]]", "void_colors means nothing without"),
            ("extends: cityscapes\nvoid_ids: [7]", "label id 7 is both 'road' and void"),
        ],
    )
    def test_what_cannot_be_extended_so_is_said(self, tmp_path: Path, text: str, reason: str) -> None:
        (tmp_path / "own.yaml").write_text(text)
        assert reason in refusal(lambda: load_spec(tmp_path / "own.yaml"))

    def test_ids_and_colours_are_no_label_image_together(self, tmp_path: Path) -> None:
        classes = [{"name": "a", "color": [0, 0, 0], "label_ids": [1]}, {"name": "b", "color": [0, 0, 1]}]
        for more, reason in (({}, "'label_ids' is missing"), ({"label_colors": [[1, 1, 1]]}, "one or the other")):
            document = {"extends": "camvid", "void_ids": None, "classes": [classes[0], classes[1] | more]}
            (tmp_path / "own.yaml").write_text(yaml.safe_dump(document))
            assert reason in refusal(lambda: load_spec(tmp_path / "own.yaml"))

    def test_cityscapes_with_and_without_its_videos_is_one_data_set(self) -> None:
        video, single = load_spec("cityscapes"), load_spec("cityscapes_single")
        assert len(video.labels) == 19
        assert (
            dataclasses.replace(video, name=single.name, frames_folder=single.frames_folder, unlabelled_frames=False)
            == single
        )

    def test_camvids_colours_are_all_there(self) -> None:
        coding = load_spec("camvid_full").coding
        assert len(coding.classes) == 32
        assert sorted(set(coding.classes.values())) == [*range(11), IGNORE_INDEX]

    def test_an_unknown_name_is_told_the_known_ones(self) -> None:
        assert "(camvid" in refusal(lambda: load_spec("cityscape"))

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ('frames: "{split}"', "", "'frames' is missing"),
            ("frames:", "images:", "key 'images' is unknown; the known ones are classes, void_ids"),
            ("name: disc", "title: disc", "key 'title' is unknown; the known ones are name, color, label_colors"),
            ("void_ids: [9]", "void_ids: [70000]", "a label id is 70000"),
            ("void_ids: [9]", "void_ids: [nine]", "a label id is 'nine'"),
            ("void_ids: [9]", "void_ids: [2]", "label id 2 is both 'box' and void"),
            ("void_ids: [9]", "void_colors: [[0, 0, 0]]", "void_colors means nothing without"),
            ("40, 40]}", "40, 40], label_colors: [[1, 2, 3]]}", "void_ids means nothing beside"),
            ("void_ids: [9]", "label_name: '{drive}.png'", "only {sequence}, {frame}, {name} are filled in"),
            ("void_ids: [9]", "label_name: '{}.png'", "only {sequence}, {frame}, {name} are filled in"),
            (
                "void_ids: [9]",
                "label_name: '{frame:06d}.png'",
                "only {sequence}, {frame}, {name} are filled in, as text",
            ),
            ("void_ids: [9]", "unlabelled_frames: some", "unlabelled_frames is 'some'"),
            ("void_ids: [9]", "list: '{sequence}.txt'", "only {split} is filled in"),
            ("void_ids: [9]", "frame_rate: 0", "frame_rate is 0.0"),
            ("(?P<frame>", "(", "needs the groups"),
            ("(?P<frame>", "(?P<frame", "does not describe a data set"),
            ("name: disc", "name: box", "'box' is listed twice"),
            ("[220, 40, 40]", "[220, 40]", "'disc' is [220, 40]"),
            ('frames: "{split}"', 'frames: "{split}/{sequence}"', "only {split} is filled in"),
            ("classes:", "classes: [", "does not describe a data set: line 2, column 3: "),
            ("void_ids: [9]", "void_ids: [9]\nvoid_ids: [8]", "key 'void_ids' is given twice"),
            ("name: disc,", "name: disc, name: cone,", "key 'name' is given twice"),
            ("void_ids: [9]", "void_ids: 9", "void_ids is 9; it must be a list"),
            ("void_ids: [9]", "void_ids: [true]", "a label id is True"),
            ("40, 40]}", "40, 40], label_ids: 3}", "'label_ids' is missing in the class 'ground'"),
            ("void_ids: [9]", "frame_rate: true", "frame_rate is True"),
            ("void_ids: [9]", "frame_rate: .inf", "frame_rate is inf"),
            ("void_ids: [9]", "frame_rate: fast", "frame_rate is fast; it must be a number above 0, in Hz"),
            ("name: disc", "name: no", "a class's name is False; it must be a text, so write it in quotes"),
            ("name: disc", "name: 010", "a class's name is 8; it must be a text"),
            ("{name: disc, color: [220, 40, 40]}", "disc", "a class is 'disc'; it must be like {name: road"),
            ("color: [220, 40, 40]", "color: red", "the colour of 'disc' is 'red'; it must be like [128, 64, 128]"),
            (", color: [220, 40, 40]", "", "'color' is missing in the class 'disc'"),
            (
                "(?P<frame>",
                "(?P<frame",
                "name_pattern is '(?P<sequence>[^_]+)_(?P<frame\\d+)', which is no regular expression",
            ),
            ("(?P<sequence>", "(?P<drive>", "its group drive is used nowhere: call it sequence"),
            ("name_pattern: '", 'name_pattern: "', "a regular expression needs single quotes"),
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

    def test_a_byte_order_mark_is_no_part_of_the_first_key(self, spec: DatasetSpec, tmp_path: Path) -> None:
        path = tmp_path / "shapes.yaml"
        path.write_text(path.read_text(), encoding="utf-8-sig")
        assert load_spec(path) == spec
        path.write_text(path.read_text(encoding="utf-8-sig"), encoding="utf-16")
        reason = "does not describe a data set: it is UTF-16 text: save it as UTF-8"
        assert refusal(lambda: load_spec(path)) == f"{path} {reason}"

    def test_of_files_that_extend_each_other_the_wrong_one_is_named(self, spec: DatasetSpec, tmp_path: Path) -> None:
        (tmp_path / "more.yaml").write_text("extends: shapes.yaml\n")
        (tmp_path / "shapes.yaml").write_text("image: x\n")
        assert f"in {tmp_path / 'shapes.yaml'}: key 'image' is unknown" in refusal(
            lambda: load_spec(tmp_path / "more.yaml")
        )

    @pytest.mark.parametrize("text", ["", "[]", "hello", "\x00"])
    def test_a_file_that_is_no_mapping(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "own.yaml").write_text(text)
        assert "does not describe a data set" in refusal(lambda: load_spec(tmp_path / "own.yaml"))

    @pytest.mark.parametrize(
        ("colors", "reason"),
        [
            ([[[1, 1, 1]], [[2, 2, 2], [1, 1, 1]]], "label colour (1, 1, 1) is both 'a' and 'b'"),
            ([[[1, 1, 1]], [[9, 9, 9]]], "label colour (9, 9, 9) is both 'b' and void"),
            ([[[1, 1, 1]], None], "'label_colors' is missing"),
            ([[[1, 1, 1]], [[1, 1]]], "a label colour is [1, 1]"),
            ([[[1, 1, 1]], [[1, 1, 256]]], "a label colour is [1, 1, 256]"),
        ],
    )
    def test_wrong_label_colours(self, tmp_path: Path, colors: list[Any], reason: str) -> None:
        classes = [
            {"name": name, "color": [0, 0, 0], "label_colors": each} for name, each in zip("ab", colors, strict=True)
        ]
        document = {
            "classes": [{key: value for key, value in entry.items() if value is not None} for entry in classes],
            "void_colors": [[9, 9, 9]],
            "frames": "frames",
            "labels": "labels",
            "name_pattern": r"(?P<sequence>a)(?P<frame>\d)",
        }
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(document))
        assert reason in refusal(lambda: load_spec(tmp_path / "own.yaml"))


class TestSameClasses:
    LABELS = LabelSet(("ground", "disc", "box"), ((1, 1, 1),) * 3)

    def test_colours_may_differ(self, spec: DatasetSpec) -> None:
        require_classes(self.LABELS, spec, "model.safetensors")

    @pytest.mark.parametrize(
        ("names", "reason"),
        [
            (
                ("ground", "box", "disc"),
                "class 1 is 'box' in model.safetensors (3 classes) but 'disc' in data set shapes",
            ),
            (("ground", "disc"), "class 2 is missing in model.safetensors (2 classes) but 'box'"),
            (("ground", "disc", "box", "cone"), "class 3 is 'cone' in model.safetensors (4 classes) but missing"),
        ],
    )
    def test_the_first_difference_is_named(self, spec: DatasetSpec, names: tuple[str, ...], reason: str) -> None:
        labels = LabelSet(names, ((1, 1, 1),) * len(names))
        assert reason in refusal(lambda: require_classes(labels, spec, "model.safetensors"))


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
        (tmp_path / "train" / "._drive_000000.png").write_text("what macOS leaves")
        (tmp_path / "train" / ".thumbnails").mkdir()
        (tmp_path / "train" / ".thumbnails" / "drive_000000.png").write_text("hello")
        assert len(list_frames(spec, tmp_path, "train")) == 3

    def test_two_files_of_one_frame(self, spec: DatasetSpec, tmp_path: Path) -> None:
        folder = tmp_path / "train"
        write_image(folder / "drive_1.jpg")
        message = refusal(lambda: list_frames(spec, tmp_path, "train"))
        assert (
            f"{folder / 'drive_000001.png'} and {folder / 'drive_1.jpg'} are both frame 1 of sequence drive" in message
        )

    def test_label_images_may_lie_among_the_frames(self, spec: DatasetSpec, tmp_path: Path) -> None:
        spec = dataclasses.replace(spec, frames_folder="", labels_folder="", label_name="{sequence}/masks/{frame}.png")
        pattern = re.compile(r"(?P<sequence>[^/]+)/images/(?P<frame>\d+)")
        for name in ("a/images/1.png", "a/masks/1.png", "b/images/7.png", "b/masks/7.png"):
            write_image(tmp_path / "drives" / name)
        frames = list_frames(dataclasses.replace(spec, name_pattern=pattern), tmp_path / "drives", "train")
        assert [(frame.sequence, frame.number) for frame in frames] == [("a", 1), ("b", 7)]
        assert frames[1].labels == tmp_path / "drives" / "b" / "masks" / "7.png"

    def test_label_images_may_lie_in_the_folder_of_the_frames(self, spec: DatasetSpec, tmp_path: Path) -> None:
        spec = dataclasses.replace(
            spec, frames_folder="", labels_folder="", name_pattern=re.compile(r"(?P<sequence>a)_(?P<frame>\d+)_rgb")
        )
        for name in ("a_1_rgb.png", "a_1.png", "a_2_rgb.png", "a_2.png"):
            write_image(tmp_path / "drives" / name)
        found = scan(dataclasses.replace(spec, label_name="a_{frame}.png"), tmp_path / "drives", "train")
        assert [(frame.image.name, frame.labels.name) for frame in found.frames] == [
            ("a_1_rgb.png", "a_1.png"),
            ("a_2_rgb.png", "a_2.png"),
        ]
        assert found.problems == found.lone_labels == []

    def test_frames_without_labels_are_neighbours_where_they_are_allowed(
        self, spec: DatasetSpec, tmp_path: Path
    ) -> None:
        spec = dataclasses.replace(spec, unlabelled_frames=True)
        (tmp_path / "trainannot" / "drive_000001.png").unlink()
        assert [frame.number for frame in list_frames(spec, tmp_path, "train")] == [0, 2]
        assert sorted(list_images(spec, tmp_path, "train")["drive"]) == [0, 1, 2]

    def test_a_split_without_any_label(self, spec: DatasetSpec, tmp_path: Path) -> None:
        spec = dataclasses.replace(spec, unlabelled_frames=True, label_name="{name}_L.png")
        assert "no frame of the train split" in refusal(lambda: list_frames(spec, tmp_path, "train"))

    def test_a_label_image_without_a_frame_harms_no_training(self, spec: DatasetSpec, tmp_path: Path) -> None:
        (tmp_path / "train" / "drive_000001.png").unlink()
        found = scan(spec, tmp_path, "train")
        assert [frame.number for frame in found.frames] == [0, 2]
        assert found.lone_labels == [tmp_path / "trainannot" / "drive_000001.png"]
        assert found.problems == []


class TestFolders:
    """What lies in a split's folders and is no image file is said, and never left out or counted twice in silence."""

    def test_a_link_that_leads_back(self, spec: DatasetSpec, tmp_path: Path) -> None:
        (tmp_path / "train" / "again").symlink_to(tmp_path / "train")
        link, folder = tmp_path / "train" / "again", tmp_path / "train"
        assert scan(spec, tmp_path, "train").problems == [
            f"{link} and {folder} are one folder, which would count twice: remove the link"
        ]

    def test_a_folder_that_is_there_twice(self, spec: DatasetSpec, tmp_path: Path) -> None:
        """Where folders are sequences a link would double one of them."""
        write_image(tmp_path / "train" / "b" / "drive_7.png")
        (tmp_path / "train" / "a").symlink_to("b")
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "train" / "c").symlink_to(tmp_path / "loop")
        write_image(tmp_path / "trainannot" / "drive_7.png")
        found = scan(spec, tmp_path, "train")
        assert len(found.frames) == 4
        assert [line.split(",")[0] for line in found.problems] == [
            f"{tmp_path / 'train' / 'c'} is a link to nothing: mend or remove it",
            f"{tmp_path / 'train' / 'b'} and {tmp_path / 'train' / 'a'} are one folder",
        ]

    def test_what_has_the_name_of_an_image_and_is_none(self, spec: DatasetSpec, tmp_path: Path) -> None:
        labels = tmp_path / "trainannot"
        (labels / "drive_000001.png").unlink()
        (labels / "drive_000001.png").mkdir()
        (tmp_path / "train" / "drive_000009.png").symlink_to("nowhere.png")
        (tmp_path / "train" / "more").symlink_to("an unmounted disk")
        os.mkfifo(tmp_path / "train" / "drive_000008.png")
        problems = scan(dataclasses.replace(spec, unlabelled_frames=True), tmp_path, "train").problems
        assert problems == [
            f"{tmp_path / 'train' / 'drive_000008.png'} is no regular file: remove it",
            f"{tmp_path / 'train' / 'drive_000009.png'} is a link to nothing: mend or remove it",
            f"{tmp_path / 'train' / 'more'} is a link to nothing: mend or remove it",
            f"{labels / 'drive_000001.png'} is a folder with the name of an image: rename or remove it",
        ]

    def test_a_folder_that_cannot_be_read(
        self, spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = tmp_path / "train" / "closed"
        closed.mkdir()
        scandir = os.scandir

        def refuse(path: Path) -> Any:
            # A folder's permissions do not stop root.
            if path == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        assert scan(spec, tmp_path, "train").problems == [
            f"{closed} cannot be read: Permission denied; see to its permissions, or remove it"
        ]


class TestOfSequences:
    def test_frames_of_some_sequences(self, spec: DatasetSpec, tmp_path: Path) -> None:
        for folder in ("train", "trainannot"):
            write_image(tmp_path / folder / "walk_1.png")
        frames = list_frames(spec, tmp_path, "train")
        assert [frame.title for frame in of_sequences(frames, ["walk"], "train")] == ["frame 1 of sequence walk"]
        assert of_sequences(frames, [], "train") == frames

    def test_a_mistyped_sequence_is_refused_beside_right_ones(self, spec: DatasetSpec, tmp_path: Path) -> None:
        frames = list_frames(spec, tmp_path, "train")
        message = refusal(lambda: of_sequences(frames, ["drive", "drvie"], "train"))
        assert message == "no frame of train is of sequences drvie; there are drive"
        many = [dataclasses.replace(frames[0], sequence=f"street{number}") for number in range(50)] + frames
        message = refusal(lambda: of_sequences(many, ["drvie"], "train"))
        assert message.startswith("no frame of train is of sequences drvie; there are drive, street0, ")
        assert message.endswith(" and 41 more")


class TestLists:
    """Which frames are a split's may stand in a text file."""

    @pytest.fixture
    def listed(self, spec: DatasetSpec, tmp_path: Path) -> Callable[[str], DatasetSpec]:
        def write(text: str) -> DatasetSpec:
            (tmp_path / "train.txt").write_text(text)
            return dataclasses.replace(spec, list_file="{split}.txt")

        return write

    @pytest.mark.parametrize(
        "line",
        [
            "drive_000001",
            "drive_000001.png",
            "train/drive_000001.png",
            "/elsewhere/CamVid/train/drive_000001.png",
            "train/drive_000001.png trainannot/drive_000001.png",
            "train/drive_000001.png\ttrainannot/drive_000001.png",
        ],
    )
    def test_a_frame_by_name_or_path(self, listed: Callable[[str], DatasetSpec], tmp_path: Path, line: str) -> None:
        frames = list_frames(listed(f"\n{line}\n"), tmp_path, "train")
        assert [(frame.number, frame.image.name, frame.labels.parent.name) for frame in frames] == [
            (1, "drive_000001.png", "trainannot")
        ]

    def test_a_label_image_of_any_name(self, listed: Callable[[str], DatasetSpec], tmp_path: Path) -> None:
        mine = write_image(tmp_path / "my labels" / "one.png")
        frames = list_frames(listed("drive_000001\tmy labels/one.png"), tmp_path, "train")
        assert frames[0].labels == mine

    def test_an_image_outside_the_folder_of_frames(self, listed: Callable[[str], DatasetSpec], tmp_path: Path) -> None:
        image = write_image(tmp_path / "more" / "other_000004.png")
        spec = listed("more/other_000004.png trainannot/drive_000001.png")
        frame = list_frames(spec, tmp_path, "train")[0]
        assert (frame.sequence, frame.number, frame.image) == ("other", 4, image)
        assert list_images(spec, tmp_path, "train") == {"other": {4: image}}

    def test_neighbours_need_not_be_listed_nor_labelled(
        self, listed: Callable[[str], DatasetSpec], tmp_path: Path
    ) -> None:
        write_image(tmp_path / "train" / "other_000000.png")
        (tmp_path / "trainannot" / "drive_000002.png").unlink()
        spec = listed("drive_000001")
        assert [frame.number for frame in list_frames(spec, tmp_path, "train")] == [1]
        images = list_images(spec, tmp_path, "train")
        assert {sequence: sorted(numbers) for sequence, numbers in images.items()} == {"drive": [0, 1, 2]}

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("drive_000001\ndrive_000009", "line 2 of {list} names drive_000009, which is no frame"),
            ("nonsense", "line 1 of {list} names nonsense, which is no frame"),
            ("drive_000001\ndrive_000001.png", "line 2 of {list} names frame 1 of sequence drive again"),
            ("drive_000001 labels/1.png", "line 1 of {list} names label image labels/1.png, which is no file"),
            ("drive 000001 .png", "line 1 of {list} holds 3 names"),
            ("", "no frame of the train split"),
        ],
    )
    def test_a_wrong_line_is_named(
        self, listed: Callable[[str], DatasetSpec], tmp_path: Path, text: str, reason: str
    ) -> None:
        message = refusal(lambda: list_frames(listed(text), tmp_path, "train"))
        assert reason.format(list=tmp_path / "train.txt") in message

    def test_a_listed_frame_needs_a_label(self, listed: Callable[[str], DatasetSpec], tmp_path: Path) -> None:
        (tmp_path / "trainannot" / "drive_000001.png").unlink()
        assert "has no label image" in refusal(lambda: list_frames(listed("drive_000001"), tmp_path, "train"))

    def test_no_list(self, listed: Callable[[str], DatasetSpec], tmp_path: Path) -> None:
        spec = listed("drive_000001")
        (tmp_path / "train.txt").unlink()
        assert f"{tmp_path / 'train.txt'}, the list of data set shapes" in refusal(
            lambda: list_frames(spec, tmp_path, "train")
        )


class TestFullCamVid:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        colors = np.zeros((6, 8, 3), np.uint8)
        colors[0], colors[1], colors[2, :4], colors[2, 4:] = (64, 192, 128), (192, 0, 64), (64, 128, 192), (0, 64, 64)
        colors[3:] = (128, 128, 128)
        for name in ("0001TP_006690", "0001TP_006720", "0006R0_f00930", "0006R0_f00960"):
            write_image(tmp_path / "701_StillsRaw_full" / f"{name}.png", colors)
            write_image(tmp_path / "LabeledApproved_full" / f"{name}_L.png", colors)
        write_image(tmp_path / "701_StillsRaw_full" / "0006R0_f00931.png")
        lists = tmp_path / "camvid_full"
        lists.mkdir()
        (lists / "train.txt").write_text("0006R0_f00930.png\n0001TP_006690.png\n0001TP_006720.png\n")
        (lists / "val.txt").write_text("701_StillsRaw_full/0006R0_f00960.png\n")
        return tmp_path

    def test_32_colours_become_11_classes(self, root: Path) -> None:
        spec = load_spec("camvid_full")
        frame = list_frames(spec, root, "train")[0]
        assert (frame.sequence, frame.number) == ("0001TP", 6690)
        labels = read_frame(frame, spec)[1]
        named = [spec.labels.names[label] for label in (labels[0, 0], labels[1, 0], labels[2, 0], labels[2, 7])]
        assert named == ["pavement", "road", "car", "sign symbol"]
        assert (labels[3:] == 0).all()

    def test_the_lists_split_the_frames(self, root: Path) -> None:
        spec = load_spec("camvid_full")
        numbers = {split: [frame.number for frame in list_frames(spec, root, split)] for split in ("train", "val")}
        assert numbers == {"train": [6690, 6720, 930], "val": [960]}
        assert sorted(list_images(spec, root, "val")["0006R0"]) == [930, 931, 960]

    def test_the_films_frames_are_neighbours_wherever_they_lie_beside_the_stills(self, root: Path) -> None:
        spec = load_spec("camvid_full")
        film = root / "701_StillsRaw_full" / "film"
        for number in (929, 930 + 1, 959):
            (root / "701_StillsRaw_full" / f"0006R0_f{number:05d}.png").unlink(missing_ok=True)
            write_image(film / f"0006R0_f{number:05d}.png")
        frame = list_frames(spec, root, "train")[-1]
        windows = Windows(list_images(spec, root, "train"), spec, WindowConfig())
        assert [path.stem for path in windows.around(frame, 3, 1)] == [
            "0006R0_f00929",
            "0006R0_f00930",
            "0006R0_f00931",
        ]
        # Without the film the next still is a second away: too far to be a neighbour.
        last = list_frames(spec, root, "val")[0]
        assert [path.stem for path in windows.around(last, 3, 1)] == ["0006R0_f00959", "0006R0_f00960", "0006R0_f00960"]

    def test_the_packages_own_lists_are_the_usual_split(self, tmp_path: Path) -> None:
        spec = load_spec("camvid_full")
        names = {}
        for split in ("train", "val", "trainval", "test"):
            names[split] = (DATASETS / spec.list_file.format(split=split)).read_text().split()
        assert {split: len(set(listed)) for split, listed in names.items()} == {
            "train": 367,
            "val": 101,
            "trainval": 468,
            "test": 233,
        }
        assert sorted(names["train"] + names["val"]) == names["trainval"]
        assert not set(names["trainval"]) & set(names["test"])
        for name in names["trainval"] + names["test"]:
            write_image(tmp_path / "701_StillsRaw_full" / f"{name}.png")
            write_image(tmp_path / "LabeledApproved_full" / f"{name}_L.png")
        assert [len(list_frames(spec, tmp_path, split)) for split in names] == [367, 101, 468, 233]
        assert {frame.sequence for frame in list_frames(spec, tmp_path, "test")} == {"0001TP", "Seq05VD"}

    def test_void_is_black_and_other_colours_are_named(self, root: Path) -> None:
        spec = load_spec("camvid_full")
        path = root / "LabeledApproved_full" / "0001TP_006690_L.png"
        write_image(path, np.zeros((6, 8, 3), np.uint8))
        assert (read_labels(path, spec) == IGNORE_INDEX).all()
        colors = np.zeros((6, 8, 3), np.uint8)
        colors[0, 0], colors[1, 1] = (1, 2, 3), (255, 255, 255)
        write_image(path, colors)
        assert f"{path} has colour (1, 2, 3), (255, 255, 255), neither" in refusal(lambda: read_labels(path, spec))

    def test_an_alpha_channel_does_no_harm(self, root: Path) -> None:
        path = root / "labels.png"
        cv2.imwrite(str(path), np.full((6, 8, 4), (0, 64, 64, 255), np.uint8))
        assert (read_labels(path, load_spec("camvid_full")) == 9).all()

    def test_ids_are_no_colours(self, root: Path) -> None:
        path = write_image(root / "labels.png", np.full((6, 8), 128, np.uint8))
        assert "has no 8-bit colours, and the data set's labels are colours" in refusal(
            lambda: read_labels(path, load_spec("camvid_full"))
        )


class TestCityscapes:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Two clips of `train`, each with its 20th of 30 frames labelled, and the labelled images by themselves."""
        for clip in ("aachen_000000", "bochum_000000"):
            city = clip.split("_")[0]
            start = 0 if city == "aachen" else 294
            for number in range(start, start + 30):
                name = f"{clip}_{number:06d}"
                write_image(tmp_path / "leftImg8bit_sequence" / "train" / city / f"{name}_leftImg8bit.png")
            name = f"{clip}_{start + 19:06d}"
            write_image(tmp_path / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit.png")
            for kind, value in (("labelTrainIds", 255), ("labelIds", 33), ("color", 0), ("instanceIds", 1)):
                path = tmp_path / "gtFine" / "train" / city / f"{name}_gtFine_{kind}.png"
                write_image(path, np.full((6, 8), value, np.uint8))
        return tmp_path

    def test_one_frame_of_each_clip_is_labelled(self, root: Path) -> None:
        spec = load_spec("cityscapes")
        found = scan(spec, root, "train")
        assert [(frame.sequence, frame.number) for frame in found.frames] == [
            ("aachen_000000", 19),
            ("bochum_000000", 313),
        ]
        assert {sequence: len(numbers) for sequence, numbers in found.images.items()} == {
            "aachen_000000": 30,
            "bochum_000000": 30,
        }
        assert found.problems == found.lone_labels == []

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_window_is_the_labelled_frame_between_its_neighbours_in_the_clip(self, root: Path, alone: bool) -> None:
        if alone:
            shutil.rmtree(root / "leftImg8bit")
        spec = load_spec("cityscapes")
        frame = list_frames(spec, root, "train")[1]
        windows = Windows(list_images(spec, root, "train"), spec, WindowConfig())
        centred, causal = windows.around(frame, 3, 1), windows.around(frame, 3, 2)
        assert [path.name for path in centred] == [f"bochum_000000_{n:06d}_leftImg8bit.png" for n in (312, 313, 314)]
        assert [path.name for path in causal] == [f"bochum_000000_{n:06d}_leftImg8bit.png" for n in (311, 312, 313)]

    @pytest.mark.parametrize(("name", "kind"), [("cityscapes", "labelIds"), ("cityscapes_trainids", "labelTrainIds")])
    def test_the_downloads_label_ids_or_the_train_ids_made_of_them_are_one_truth(
        self, root: Path, name: str, kind: str
    ) -> None:
        """The benchmark's 19 classes and the id that each has in the download; any other is void."""
        classes = dict(zip((7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33), range(19), strict=True))
        ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
        truth = np.array([classes.get(number, IGNORE_INDEX) for number in range(34)], np.uint8).reshape(2, 17)
        city = root / "gtFine" / "train" / "aachen"
        write_image(city / f"aachen_000000_000019_gtFine_{kind}.png", ids if kind == "labelIds" else truth)
        spec = load_spec(name)
        assert (read_labels(list_frames(spec, root, "train")[0].labels, spec) == truth).all()

    def test_an_id_that_cityscapes_does_not_have_is_named(self, root: Path) -> None:
        path = write_image(root / "labels.png", np.full((6, 8), 34, np.uint8))
        assert "label id 34, neither a class nor void" in refusal(lambda: read_labels(path, load_spec("cityscapes")))

    def test_without_videos(self, root: Path) -> None:
        shutil.rmtree(root / "leftImg8bit_sequence")
        frames = list_frames(load_spec("cityscapes_single"), root, "train")
        assert [frame.image.parents[2].name for frame in frames] == ["leftImg8bit", "leftImg8bit"]

    @pytest.mark.parametrize("below", ["leftImg8bit/train/ gtFine/train/", " "])
    def test_the_usual_lists(self, root: Path, below: str) -> None:
        """Paths below the root, or below the folders of images and of labels."""
        images, labels = below.split(" ")
        name = "aachen/aachen_000000_000019"
        (root / "train.txt").write_text(f"{images}{name}_leftImg8bit.png\t{labels}{name}_gtFine_labelTrainIds.png\n")
        spec = dataclasses.replace(load_spec("cityscapes_trainids"), list_file="{split}.txt")
        frames = list_frames(spec, root, "train")
        folder = "leftImg8bit" if images else "leftImg8bit_sequence"
        assert [(frame.sequence, frame.image.parents[2].name) for frame in frames] == [("aachen_000000", folder)]
        assert frames[0].labels.name == "aachen_000000_000019_gtFine_labelTrainIds.png"
        assert len(list_images(spec, root, "train")["aachen_000000"]) == 30

    def test_the_twin_label_files_are_neither_labels_nor_problems(self, root: Path) -> None:
        lone = root / "gtFine" / "train" / "aachen" / "aachen_000001_000019_gtFine_labelIds.png"
        write_image(lone)
        assert scan(load_spec("cityscapes"), root, "train").lone_labels == [lone]


class TestWholeImages:
    """From the downloads' layouts to figures, by a network that tells the classes' colours apart."""

    @staticmethod
    def figures(spec_name: str, root: Path, split: str, base: str, height: int) -> dict[str, Any]:
        labels = load_spec(spec_name).labels
        config = SegmenterConfig(
            base, len(labels), stf=STFConfig(block=(16, 16), positional_grid=(4, 4), stride=4, feedforward=4)
        )
        torch.manual_seed(0)
        model = build_segmenter(config)
        mean, std = torch.tensor(model.base.mean), torch.tensor(model.base.std)
        colors = (torch.tensor(labels.palette).float() - mean) / std
        with torch.no_grad():
            model.classifier.linear.weight[:, :3, 0, 0] = 2 * colors
            model.classifier.linear.weight[:, 3] = 0
            model.classifier.linear.bias.copy_(-colors.square().sum(1))
        info = CheckpointInfo(config, labels, Normalization(model.base.mean, model.base.std), height, {})
        save_checkpoint(root / "model.safetensors", model, info)
        asked = ["--dataset", spec_name, "--root", str(root), "--split", split, "--json", str(root / "figures.json")]
        assert evaluate.main([*asked, "--checkpoint", str(root / "model.safetensors")]) == 0
        return json.loads((root / "figures.json").read_text())

    def test_cityscapes(self, pixel_base: str, tmp_path: Path) -> None:
        spec = load_spec("cityscapes")
        value_of = {label: value for value, label in spec.coding.classes.items() if label != IGNORE_INDEX}
        for city, labelled in (("frankfurt_000000", 294), ("lindau_000000", 19)):
            truth = np.arange(64 * 128).reshape(64, 128) // 432 % 19
            image = np.array(spec.labels.palette, np.uint8)[truth]
            for number in range(labelled - 19, labelled + 11):
                name = f"val/{city.split('_')[0]}/{city}_{number:06d}"
                write_image(tmp_path / "leftImg8bit_sequence" / f"{name}_leftImg8bit.png", image)
            ids = np.vectorize(value_of.get)(truth).astype(np.uint8)
            ids[:4] = 1
            name = f"val/{city.split('_')[0]}/{city}_{labelled:06d}"
            write_image(tmp_path / "gtFine" / f"{name}_gtFine_labelIds.png", ids)
        figures = self.figures("cityscapes", tmp_path, "val", pixel_base, 64)
        assert figures["frames"] == 2
        assert figures["miou"] == figures["pixel_accuracy"] == 100

    def test_camvid_with_neighbours_from_the_films(self, pixel_base: str, tmp_path: Path) -> None:
        spec = load_spec("camvid_full")
        truth = np.arange(72 * 96).reshape(72, 96) // 640
        image = np.array(spec.labels.palette, np.uint8)[truth]
        first = {label: value for value, label in reversed(spec.coding.classes.items())}
        colors = np.array([[first[label] >> shift & 255 for shift in (16, 8, 0)] for label in range(11)], np.uint8)
        for number in (0, 30):
            write_image(tmp_path / "701_StillsRaw_full" / f"Seq05VD_f{number:05d}.png", image)
            write_image(tmp_path / "LabeledApproved_full" / f"Seq05VD_f{number:05d}_L.png", colors[truth])
            write_image(tmp_path / "701_StillsRaw_full" / "film" / f"Seq05VD_f{number + 1:05d}.png", image)
        (tmp_path / "camvid_full").mkdir()
        (tmp_path / "camvid_full" / "test.txt").write_text("Seq05VD_f00000\nSeq05VD_f00030\n")
        figures = self.figures("camvid_full", tmp_path, "test", pixel_base, 72)
        assert figures["frames"] == 2
        assert figures["miou"] == figures["pixel_accuracy"] == 100


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
        assert f"{path} has label id 77, 200, neither a class nor void" in refusal(lambda: read_labels(path, spec))

    def test_colours_are_no_ids(self, spec: DatasetSpec, tmp_path: Path) -> None:
        path = tmp_path / "labels.png"
        cv2.imwrite(str(path), np.full((4, 4, 3), (0, 1, 2), np.uint8))
        assert "has colours, and the data set's labels are ids: give its YAML file label_colors" in refusal(
            lambda: read_labels(path, spec)
        )

    @pytest.mark.parametrize(
        ("values", "advice"),
        [
            (
                [0, 255],
                "it is a mask of 0 and 255; say which classes these are with label_ids: [0] and label_ids: [255]",
            ),
            ([0, 26_001], "is it an image of instances or of depth? Give label images of classes, or list these ids"),
            ([0, 77], "correct it, or list them as label_ids of a class or as void_ids in the data set's YAML file"),
        ],
    )
    def test_what_to_do_about_ids_without_a_class(
        self, spec: DatasetSpec, tmp_path: Path, values: list[int], advice: str
    ) -> None:
        path = tmp_path / "labels.png"
        cv2.imwrite(str(path), np.array([values, values], np.uint16 if max(values) > 255 else np.uint8))
        message = refusal(lambda: read_labels(path, spec))
        assert f"{path} has label id {values[1]}, neither a class nor void: {advice}" in message

    def test_a_mask_of_0_and_255_is_read_as_that_advice_says(self, spec: DatasetSpec, tmp_path: Path) -> None:
        text = (
            (tmp_path / "shapes.yaml")
            .read_text()
            .replace("40, 40]}", "40, 40], label_ids: [255]}")
            .replace("90, 90]}", "90, 90], label_ids: [0]}")
        )
        (tmp_path / "masks.yaml").write_text(text.replace("  - {name: box, color: [40, 60, 200]}\n", ""))
        path = tmp_path / "labels.png"
        cv2.imwrite(str(path), np.array([[0, 255]], np.uint8))
        assert read_labels(path, load_spec(tmp_path / "masks.yaml")).tolist() == [[0, 1]]

    def test_ids_of_16_bits_have_classes_too(self, spec: DatasetSpec, tmp_path: Path) -> None:
        path = tmp_path / "labels.png"
        cv2.imwrite(str(path), np.array([[0, 2, 65535]], np.uint16))
        coding = dataclasses.replace(spec.coding, classes=spec.coding.classes | {65535: IGNORE_INDEX})
        assert read_labels(path, dataclasses.replace(spec, coding=coding)).tolist() == [[0, 2, IGNORE_INDEX]]

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

    def test_used_bits_of_16_bit_images(
        self, spec: DatasetSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        frames = list_frames(spec, tmp_path, "train")
        expected = [read_frame(frame, spec)[0] for frame in frames]
        for frame, image in zip(frames, expected, strict=True):
            cv2.imwrite(str(frame.image), image[..., ::-1].astype(np.uint16) << 4)
        # Another data set than that of another test: of each we warn once.
        dark = dataclasses.replace(spec, name="deep")
        assert max(read_frame(frame, dark)[0].max() for frame in frames) < 16
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("data set deep: 16-bit images with no pixel above 4095 of 65535")
        assert "set used_bits in its YAML file to 12" in line
        path = tmp_path / "shapes.yaml"
        path.write_text(path.read_text() + "used_bits: 12\n")
        for frame, image in zip(frames, expected, strict=True):
            np.testing.assert_array_equal(read_frame(frame, load_spec(path))[0], image)
        path.write_text(path.read_text().replace("used_bits: 12", "used_bits: 17"))
        assert "used_bits is 17; it must be a whole number 0..16" in refusal(lambda: load_spec(path))

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        assert "cannot be read" in refusal(lambda: read_image(tmp_path / "frame.png"))


def test_pixels_are_counted_by_frame_and_class_without_void(spec: DatasetSpec, tmp_path: Path) -> None:
    frames = list_frames(spec, tmp_path, "train")
    pixels = class_pixels(frames, spec)
    assert pixels.shape == (3, 3)
    assert (pixels.sum(1) == 95 * 128).all()
    assert (pixels[:, 2] == 30 * 28).all()


def test_several_void_ids(spec: DatasetSpec, tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    cv2.imwrite(str(path), np.array([[0, 9, 255, 2]], np.uint8))
    coding = LabelCoding({0: 0, 2: 2, 9: IGNORE_INDEX, 255: IGNORE_INDEX})
    labels = read_labels(path, dataclasses.replace(spec, coding=coding))
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
