"""A person points at a video, a folder or a bag and gets every frame in order, in the right colours, at its time."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from stmem_ros.sources import SourceError, open_source

FRAMES = 12
HEIGHT, WIDTH = 48, 64
FPS = 25.0
RED_BLUE = ((255, 0, 0), (0, 0, 255))  # RGB of the left and the right half
START_NS = 1_700_000_000_000_000_000
STEP_NS = 66_666_667


def picture(number: int) -> np.ndarray:
    """RGB: red left, blue right, and a white bar at the bottom whose length tells the number."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:, : WIDTH // 2], image[:, WIDTH // 2 :] = RED_BLUE
    image[-16:, : (number + 1) * 4] = 255
    return image


def number_of(image: np.ndarray) -> int:
    return round((image[-8, :, 1] > 128).sum() / 4) - 1


def assert_colors(image: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert np.allclose(image[8, 8], RED_BLUE[0], atol=12)
    assert np.allclose(image[8, -8], RED_BLUE[1], atol=12)


def write_video(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(FRAMES):
        writer.write(cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR))
    writer.release()


def write_folder(path: Path, names: list[str]) -> None:
    path.mkdir()
    for number, name in enumerate(names):
        assert cv2.imwrite(str(path / name), cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR))


def raw_fields(image: np.ndarray, encoding: str, padding: int = 0) -> dict[str, object]:
    """Fields of an Image whose rows end in `padding` bytes of noise."""
    conversion = {
        "bgr8": cv2.COLOR_RGB2BGR,
        "mono8": cv2.COLOR_RGB2GRAY,
        "rgba8": cv2.COLOR_RGB2RGBA,
        "bgra8": cv2.COLOR_RGB2BGRA,
    }
    pixels = cv2.cvtColor(image, conversion[encoding]) if encoding in conversion else image
    rows = pixels.reshape(HEIGHT, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return {
        "height": HEIGHT,
        "width": WIDTH,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": rows.shape[1],
        "data": rows.reshape(-1),
    }


class BagBuilder:
    """Adds messages to an open rosbag2 writer; the recording is `late_ns` after the header's stamp."""

    late_ns = 5_000_000

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.types = get_typestore(Stores.ROS2_JAZZY)
        self.connections: dict[str, object] = {}

    def add(self, topic: str, kind: str, stamp_ns: int, recorded_ns: int | None = None, **fields: object) -> None:
        connection = self.connections.get(topic)
        if connection is None:
            connection = self.writer.add_connection(topic, f"sensor_msgs/msg/{kind}", typestore=self.types)
            self.connections[topic] = connection
        stamp = self.types.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
        header = self.types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
        message = self.types.types[f"sensor_msgs/msg/{kind}"](header=header, **fields)
        recorded_ns = stamp_ns + self.late_ns if recorded_ns is None else recorded_ns
        self.writer.write(connection, recorded_ns, self.types.serialize_cdr(message, message.__msgtype__))

    def add_pictures(self, topic: str, encoding: str = "rgb8", padding: int = 0) -> None:
        for number in range(FRAMES):
            fields = raw_fields(picture(number), encoding, padding)
            self.add(topic, "Image", START_NS + number * STEP_NS, **fields)


def write_bag(
    path: Path, storage: StoragePlugin = StoragePlugin.MCAP, encoding: str = "rgb8", padding: int = 0
) -> None:
    with Writer(path, version=9, storage_plugin=storage) as writer:
        BagBuilder(writer).add_pictures("/camera/image_raw", encoding, padding)


def assert_bag_frames(source: Path) -> None:
    with open_source(str(source)) as frames:
        assert frames.frame_count == FRAMES
        assert frames.rate == pytest.approx(15, rel=1e-3)
        found = list(frames)
    assert [frame.index for frame in found] == list(range(FRAMES))
    assert [frame.stamp_ns for frame in found] == [START_NS + number * STEP_NS for number in range(FRAMES)]
    for number, frame in enumerate(found):
        np.testing.assert_array_equal(frame.image, picture(number))


def test_video(tmp_path: Path) -> None:
    write_video(tmp_path / "drive.mp4")
    with open_source(str(tmp_path / "drive.mp4")) as source:
        assert source.rate == FPS
        assert source.frame_count == FRAMES
        assert not source.live
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(FRAMES))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.stamp_ns for frame in frames] == [number * 40_000_000 for number in range(FRAMES)]
    assert_colors(frames[0].image)


@pytest.mark.parametrize("kind", ["video", "folder", "bag"])
def test_iterating_again_starts_at_the_first_frame(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("drive.mp4" if kind == "video" else "drive")
    if kind == "video":
        write_video(path)
    elif kind == "folder":
        write_folder(path, [f"{number:03}.png" for number in range(FRAMES)])
    else:
        write_bag(path)
    with open_source(str(path)) as source:
        next(iter(source))
        rounds = [[number_of(frame.image) for frame in source] for _ in range(2)]
    assert rounds == [list(range(FRAMES))] * 2


def test_folder_in_order_of_name_at_15_hz(tmp_path: Path) -> None:
    write_folder(tmp_path / "drive", [f"frame_{number:04}.png" for number in range(FRAMES)])
    (tmp_path / "drive" / "notes.txt").write_text("not an image")
    (tmp_path / "drive" / "._frame_0000.png").write_bytes(b"left by a file manager")
    with open_source(str(tmp_path / "drive")) as source:
        assert source.rate == 15.0
        assert source.frame_count == FRAMES
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(FRAMES))
    assert [frame.stamp_ns for frame in frames] == [round(number * 1e9 / 15) for number in range(FRAMES)]
    assert_colors(frames[0].image)


def test_numbers_in_names_count_by_value(tmp_path: Path) -> None:
    write_folder(tmp_path / "drive", [f"{number}.png" for number in range(FRAMES)])
    with open_source(str(tmp_path / "drive")) as source:
        assert [number_of(frame.image) for frame in source] == list(range(FRAMES))


def test_rate_of_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "drive", ["0.png", "1.png", "2.png"])
    with open_source(str(tmp_path / "drive"), rate=4.0) as source:
        assert source.rate == 4.0
        assert [frame.stamp_ns for frame in source] == [0, 250_000_000, 500_000_000]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".bmp"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path / "drive", [f"0{suffix}"])
    with open_source(str(tmp_path / "drive")) as source:
        assert_colors(next(iter(source)).image)


def test_grey_transparent_and_16_bit_images_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    cv2.imwrite(str(tmp_path / "drive" / "0.png"), np.full((20, 30), 200, np.uint8))
    cv2.imwrite(str(tmp_path / "drive" / "1.png"), np.full((20, 30, 4), 200, np.uint8))
    cv2.imwrite(str(tmp_path / "drive" / "2.png"), np.full((20, 30, 3), 200 * 257, np.uint16))
    with open_source(str(tmp_path / "drive")) as source:
        for frame in source:
            np.testing.assert_array_equal(frame.image, np.full((20, 30, 3), 200, np.uint8))


def test_used_bits_of_16_bit_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((24, 32, 3), 100 << 4, np.uint16))
    with open_source(str(folder)) as source:
        assert [frame.image.max() for frame in source] == [6, 6]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{folder}: 16-bit images with no pixel above 4095 of 65535")
    with open_source(str(folder), used_bits=12) as source:
        assert [frame.image.max() for frame in source] == [100, 100]
    assert len(caplog.records) == 1


def test_sizes_that_change_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    for number, size in enumerate([(20, 30), (40, 24)]):
        cv2.imwrite(str(tmp_path / "drive" / f"{number}.png"), np.zeros((*size, 3), np.uint8))
    with open_source(str(tmp_path / "drive")) as source:
        assert [frame.image.shape for frame in source] == [(20, 30, 3), (40, 24, 3)]


def test_damaged_image_is_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path / "drive", ["0.png", "1.png", "2.png", "3.png"])
    (tmp_path / "drive" / "1.png").write_bytes((tmp_path / "drive" / "1.png").read_bytes()[:60])
    (tmp_path / "drive" / "2.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING), open_source(str(tmp_path / "drive")) as source:
        frames = list(source)
    assert [(frame.index, number_of(frame.image), frame.stamp_ns) for frame in frames] == [
        (0, 0, 0),
        (3, 3, 200_000_000),
    ]
    assert [str(tmp_path / "drive" / f"{number}.png") in caplog.messages[number - 1] for number in (1, 2)] == [True] * 2


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_bag_folder_and_bag_file(tmp_path: Path, storage: StoragePlugin) -> None:
    write_bag(tmp_path / "drive", storage)
    (file,) = (path for path in (tmp_path / "drive").iterdir() if path.suffix in (".mcap", ".db3"))
    assert_bag_frames(tmp_path / "drive")
    assert_bag_frames(file)


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_bag_encodings_and_padded_rows(tmp_path: Path, encoding: str, padding: int) -> None:
    write_bag(tmp_path / "drive", encoding=encoding, padding=padding)
    assert_bag_frames(tmp_path / "drive")


def test_bag_mono8(tmp_path: Path) -> None:
    write_bag(tmp_path / "drive", encoding="mono8", padding=3)
    grey = cv2.cvtColor(picture(0), cv2.COLOR_RGB2GRAY)
    with open_source(str(tmp_path / "drive")) as source:
        np.testing.assert_array_equal(next(iter(source)).image, np.repeat(grey[:, :, None], 3, axis=2))


def test_bag_compressed_images(tmp_path: Path) -> None:
    with Writer(tmp_path / "drive", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        builder = BagBuilder(writer)
        for number in range(FRAMES):
            _, data = cv2.imencode(".png", cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR))
            builder.add("/camera/compressed", "CompressedImage", START_NS + number * STEP_NS, format="png", data=data)
    assert_bag_frames(tmp_path / "drive")


def test_ros1_bag(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(tmp_path / "drive.bag") as writer:
        connection = writer.add_connection("/camera/image_raw", "sensor_msgs/msg/Image", typestore=types)
        for number in range(FRAMES):
            stamp_ns = START_NS + number * STEP_NS
            stamp = types.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
            header = types.types["std_msgs/msg/Header"](seq=number, stamp=stamp, frame_id="camera")
            message = types.types["sensor_msgs/msg/Image"](header=header, **raw_fields(picture(number), "bgr8"))
            writer.write(connection, stamp_ns, types.serialize_ros1(message, message.__msgtype__))
    assert_bag_frames(tmp_path / "drive.bag")


def test_bag_without_header_stamps_gives_recording_times(tmp_path: Path) -> None:
    with Writer(tmp_path / "drive", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        builder = BagBuilder(writer)
        for number in range(3):
            fields = raw_fields(picture(number), "rgb8")
            builder.add("/image", "Image", 0, recorded_ns=START_NS + number * STEP_NS, **fields)
    with open_source(str(tmp_path / "drive")) as source:
        assert [frame.stamp_ns for frame in source] == [START_NS + number * STEP_NS for number in range(3)]


def test_bag_with_several_image_topics(tmp_path: Path) -> None:
    with Writer(tmp_path / "drive", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        builder = BagBuilder(writer)
        builder.add_pictures("/left/image")
        builder.add("/right/image", "Image", START_NS, **raw_fields(np.zeros_like(picture(0)), "rgb8"))
        builder.add(
            "/fix",
            "TimeReference",
            START_NS,
            time_ref=builder.types.types["builtin_interfaces/msg/Time"](1, 2),
            source="",
        )
    with pytest.raises(SourceError, match=r"2 image topics, name one of: /left/image, /right/image$"):
        open_source(str(tmp_path / "drive"))
    with open_source(str(tmp_path / "drive"), topic="left/image") as source:
        assert [number_of(frame.image) for frame in source] == list(range(FRAMES))
    with pytest.raises(SourceError, match=r"no image topic /up; its image topics: /left/image, /right/image"):
        open_source(str(tmp_path / "drive"), topic="/up")


def test_bag_without_image_topic_lists_what_it_has(tmp_path: Path) -> None:
    with Writer(tmp_path / "drive", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        builder = BagBuilder(writer)
        time = builder.types.types["builtin_interfaces/msg/Time"](1, 2)
        builder.add("/clock_of_gps", "TimeReference", START_NS, time_ref=time, source="gps")
    with pytest.raises(
        SourceError, match=r"no image topic; its topics: /clock_of_gps \(sensor_msgs/msg/TimeReference\)"
    ):
        open_source(str(tmp_path / "drive"))


def test_bag_whose_encoding_nobody_knows_gives_no_frame_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Writer(tmp_path / "drive", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        BagBuilder(writer).add("/odd", "Image", START_NS, **(raw_fields(picture(0), "rgb8") | {"encoding": "cmyk8"}))
    with open_source(str(tmp_path / "drive")) as source, pytest.raises(SourceError, match="no frame that can be read"):
        list(source)
    assert "encoding 'cmyk8' is not supported" in caplog.text


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"step": 10}, "step is 10 bytes"),
        ({"data": np.zeros(100, np.uint8)}, "data has 100 bytes"),
        ({"height": 0}, "the image is 64x0"),
    ],
)
def test_damaged_message_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, object], reason: str
) -> None:
    with Writer(tmp_path / "drive", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        builder = BagBuilder(writer)
        for number in range(3):
            good = raw_fields(picture(number), "rgb8")
            builder.add("/image", "Image", START_NS + number * STEP_NS, **(good | fields if number == 1 else good))
    with caplog.at_level(logging.WARNING), open_source(str(tmp_path / "drive")) as source:
        assert [(frame.index, number_of(frame.image)) for frame in source] == [(0, 0), (2, 2)]
    assert len(caplog.messages) == 1 and f"message 1 on /image skipped: {reason}" in caplog.messages[0]


@pytest.mark.parametrize("metadata", [True, False])
def test_a_bag_without_metadata_or_cut_off_gives_what_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metadata: bool
) -> None:
    write_bag(tmp_path / "drive")
    if not metadata:
        (tmp_path / "drive" / "metadata.yaml").unlink()
        assert_bag_frames(tmp_path / "drive")
    file = tmp_path / "drive" / "drive.mcap"
    file.write_bytes(file.read_bytes()[: 9 * HEIGHT * WIDTH * 3])
    with caplog.at_level(logging.WARNING), open_source(str(tmp_path / "drive")) as source:
        for _ in range(2):
            assert [number_of(frame.image) for frame in source] == list(range(8))
    assert f"{tmp_path / 'drive'}: lost: drive.mcap: cut off" in caplog.text
    assert len(caplog.messages) == 1 + metadata


def test_cut_off_video_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "drive.avi"
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT))
    for image in noise:
        writer.write(image)
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with caplog.at_level(logging.WARNING), open_source(str(path)) as source:
        found = len(list(source))
    assert 0 < found < FRAMES
    assert f"only {found} of " in caplog.messages[-1]


def bad_sources(folder: Path) -> dict[str, tuple[str, str]]:
    (folder / "empty").mkdir()
    (folder / "text.mp4").write_text("this is no video")
    (folder / "text.mcap").write_text("this is no bag")
    (folder / "nothing.mp4").touch()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "0.png").write_bytes(b"this is no image")
    (folder / "no_metadata").mkdir()
    (folder / "no_metadata" / "drive_0.mcap").touch()
    (folder / "bad_metadata").mkdir()
    (folder / "bad_metadata" / "metadata.yaml").write_text("nonsense: [")
    write_folder(folder / "one", ["0.png"])
    return {
        "missing": (str(folder / "missing.mp4"), "does not exist"),
        "none": ("", "no source: give"),
        "empty": (str(folder / "empty"), "holds neither images"),
        "text video": (str(folder / "text.mp4"), "is no video"),
        "empty file": (str(folder / "nothing.mp4"), "is no video"),
        "text bag": (str(folder / "text.mcap"), "cannot be read as a bag"),
        "only damaged images": (str(folder / "damaged"), "no frame that can be read"),
        "bag without metadata": (str(folder / "no_metadata"), "lacks metadata.yaml"),
        "bag with bad metadata": (str(folder / "bad_metadata"), "cannot be read as a bag"),
        "single image": (str(folder / "one" / "0.png"), "give the folder that holds it"),
        "camera": ("97", "camera 97"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "none",
        "empty",
        "text video",
        "empty file",
        "text bag",
        "only damaged images",
        "bag without metadata",
        "bag with bad metadata",
        "single image",
        "camera",
    ],
)
def test_bad_source_is_one_line_that_names_it(tmp_path: Path, case: str) -> None:
    source, reason = bad_sources(tmp_path)[case]
    with pytest.raises(SourceError) as caught, open_source(source) as frames:
        next(iter(frames))
    message = str(caught.value)
    assert reason in message and source in message
    assert "\n" not in message


def test_importing_needs_neither_ros_nor_rosbags() -> None:
    code = "import sys, stmem_ros.sources; print([m for m in ('rclpy', 'rosbags', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
