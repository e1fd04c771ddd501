"""Endings of file names mean the same in small and capital letters."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from stmem_ros.bag.fleet.find import find_bags
from stmem_ros.bag.io.compression import zstd
from stmem_ros.bag.io.reader import Bag
from stmem_ros.sources import open_source
from training.bag.truth import files_by_stamp
from training.data.dataset import DatasetError, list_frames, load_spec, read_frame, read_labels, scan
from training.paper.configuration import find_configuration

COUNT = 3
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def record(folder: Path, kind: str) -> Path:
    """A bag of a few images; returns its only file of messages."""
    types = get_typestore(Stores.ROS1_NOETIC if kind == ".bag" else Stores.ROS2_JAZZY)
    time, header = types.types["builtin_interfaces/msg/Time"], types.types["std_msgs/msg/Header"]
    name = "sensor_msgs/msg/Image"
    fields = {"height": 24, "width": 32, "encoding": "rgb8", "is_bigendian": 0, "step": 96, "data": PICTURE.reshape(-1)}
    path = folder / "drive.bag" if kind == ".bag" else folder / "drive"
    storage = StoragePlugin.MCAP if kind == ".mcap" else StoragePlugin.SQLITE3
    with Writer1(path) if kind == ".bag" else Writer(path, version=9, storage_plugin=storage) as writer:
        connection = writer.add_connection("/camera", name, typestore=types)
        for number in range(COUNT):
            sequence = {"seq": number} if kind == ".bag" else {}
            message = types.types[name](
                header=header(**sequence, stamp=time(1 + number, 0), frame_id="front"), **fields
            )
            serialize = types.serialize_ros1 if kind == ".bag" else types.serialize_cdr
            writer.write(connection, 10**9 * (1 + number), serialize(message, name))
    return path if kind == ".bag" else path / f"drive{kind}"


def read(path: Path) -> int:
    with Bag(path) as bag:
        count = sum(1 for message in bag.messages(["/camera"]) if bag.decode(message).width == 32)
        assert not bag.lost
    return count


@pytest.mark.parametrize("kind", [".mcap", ".db3", ".bag"])
def test_bags_of_one_file(tmp_path: Path, kind: str) -> None:
    file = record(tmp_path, kind).rename(tmp_path / f"X{kind.upper()}")
    assert read(file) == COUNT
    assert find_bags(file) == [file]
    with open_source(str(file)) as source:
        assert len(list(source)) == COUNT


@pytest.mark.parametrize("kind", [".mcap", ".db3"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_whose_metadata_names_the_file_in_small_letters(tmp_path: Path, kind: str, packed: bool) -> None:
    file = record(tmp_path, kind)
    if packed:
        with zstd.open(file.with_name(f"drive{kind.upper()}.ZSTD"), "wb") as target:
            target.write(file.read_bytes())
        file.unlink()
    else:
        file.rename(file.with_name(f"drive{kind.upper()}"))
    assert read(tmp_path / "drive") == COUNT
    (tmp_path / "drive" / "metadata.yaml").unlink()
    assert read(tmp_path / "drive") == COUNT


@pytest.mark.parametrize("ending", [".PNG", ".JPG", ".TIF", ".tiff", ".Bmp", ".WEBP"])
def test_images_of_a_folder(tmp_path: Path, ending: str) -> None:
    for number in range(COUNT):
        assert cv2.imwrite(str(tmp_path / f"{number}{ending}"), PICTURE)
    with open_source(str(tmp_path)) as source:
        assert len(list(source)) == COUNT


@pytest.mark.parametrize("ending", [".PNG", ".TIF", ".tiff", ".BMP", ".WebP"])
def test_label_images_named_by_stamp(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"1700000000066666667{ending}").touch()
    (tmp_path / "1700000000066666667.JPG").touch()
    assert list(files_by_stamp(tmp_path, "drive")) == [1700000000066666667]


def test_jpegs_are_no_label_images_and_the_endings_that_are_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "1700000000066666667.JPG").touch()
    with pytest.raises(DatasetError) as caught:
        files_by_stamp(tmp_path, "drive")
    assert ".png, .tif, .tiff, .webp); 1700000000066666667.JPG is a JPEG, which alters labels" in str(caught.value)


def test_a_video(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "x.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for _ in range(COUNT):
        writer.write(PICTURE)
    writer.release()
    (tmp_path / "x.avi").rename(tmp_path / "X.AVI")
    with open_source(str(tmp_path / "X.AVI")) as source:
        assert len(list(source)) == COUNT


def test_a_configuration(tmp_path: Path) -> None:
    own = find_configuration("camvid_lite2").file
    shutil.copy(own, tmp_path / "OWN.YAML")
    assert find_configuration(str(tmp_path / "OWN.YAML")).file == tmp_path / "OWN.YAML"
    assert find_configuration("camvid_lite2.YAML").file == own


@pytest.fixture
def shapes(make_shapes: Callable[..., Path], tmp_path: Path) -> Path:
    """The YAML file of three frames and their label images, all of them .png."""
    return make_shapes(tmp_path, {"train": 3})


def rename(folder: Path, ending: str) -> None:
    """Images of another kind, under names that end so."""
    for path in sorted(folder.glob("*.png")):
        assert cv2.imwrite(str(path.with_suffix(ending)), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        path.unlink()


@pytest.mark.parametrize(("images", "labels"), [(".PNG", ".PNG"), (".JPG", ".Png"), (".tiff", ".PNG")])
def test_a_data_set(shapes: Path, images: str, labels: str) -> None:
    root, spec = shapes.parent, load_spec(shapes)
    expected = [read_labels(frame.labels, spec) for frame in list_frames(spec, root, "train")]
    rename(root / "train", images)
    rename(root / "trainannot", labels)
    split = scan(spec, root, "train")
    assert not split.problems and not split.lone_labels
    for frame, truth in zip(split.frames, expected, strict=True):
        np.testing.assert_array_equal(read_frame(frame, spec)[1], truth)


def test_a_data_set_of_tiff_labels_says_so_in_its_label_name(shapes: Path) -> None:
    rename(shapes.parent / "trainannot", ".TIF")
    with pytest.raises(DatasetError, match=r"; drive_000000\.TIF is there: let the data set's label_name end in \.TIF"):
        list_frames(load_spec(shapes), shapes.parent, "train")
    shapes.write_text(shapes.read_text() + 'label_name: "{name}.tif"\n')
    assert len(list_frames(load_spec(shapes), shapes.parent, "train")) == 3


@pytest.mark.parametrize("unlabelled", ["true", "false"])
def test_jpeg_labels_of_a_data_set(shapes: Path, unlabelled: str) -> None:
    rename(shapes.parent / "trainannot", ".jpg")
    shapes.write_text(shapes.read_text() + f"unlabelled_frames: {unlabelled}\n")
    with pytest.raises(DatasetError, match=r"; drive_000000\.jpg is a JPEG, which alters labels"):
        list_frames(load_spec(shapes), shapes.parent, "train")
    shapes.write_text(shapes.read_text() + 'label_name: "{name}.jpg"\n')
    spec = load_spec(shapes)
    with pytest.raises(DatasetError, match=r"drive_000000\.jpg is a JPEG, which alters labels: give them as PNG"):
        read_frame(list_frames(spec, shapes.parent, "train")[0], spec)


def test_labels_among_the_images_and_a_lone_label(shapes: Path) -> None:
    root = shapes.parent
    rename(root / "train", ".jpg")
    rename(root / "trainannot", ".PNG")
    for path in sorted((root / "trainannot").iterdir()):
        path.rename(root / "train" / path.name)
    (root / "train" / "drive_000002.jpg").unlink()
    shapes.write_text(shapes.read_text().replace('labels: "{split}annot"', 'labels: "{split}"'))
    split = scan(load_spec(shapes), root, "train")
    assert [(frame.image.name, frame.labels.name) for frame in split.frames] == [
        (f"drive_{number:06d}.jpg", f"drive_{number:06d}.PNG") for number in (0, 1)
    ]


def test_a_list(shapes: Path) -> None:
    root = shapes.parent
    rename(root / "train", ".JPG")
    rename(root / "trainannot", ".PNG")
    shapes.write_text(shapes.read_text() + 'list: "{split}.txt"\n')
    (root / "train.txt").write_text(
        "drive_000000\ntrain/drive_000001.jpg\ntrain/drive_000002.jpg trainannot/drive_000002.png\n"
    )
    frames = list_frames(load_spec(shapes), root, "train")
    assert [frame.labels.name for frame in frames] == [f"drive_{number:06d}.PNG" for number in range(3)]
