"""Endings of file names mean the same in small and capital letters."""

from __future__ import annotations

import shutil
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
from training.data.label_images import DatasetError
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
