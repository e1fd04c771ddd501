"""`bag segment`: every frame of a bag gets the engine's label, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from stmem_ros.bag import __main__ as bag
from stmem_ros.bag import segment as segment_module
from stmem_ros.bag.io.typestore import ros2_typestore
from stmem_ros.bag.io.writer import BagWriter
from stmem_ros.bag.pipeline import WriteBehind, read_ahead
from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.decode import ImageError
from stmem_ros.labels import LabelSet
from stmem_ros.network import SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.preprocess import Preprocessor
from stmem_ros.streaming import Segmentation, StreamConfig, StreamingSegmenter
from stmem_ros.topics import camera_info_topic, camera_names

SIZE = (64, 80)
START_NS = 1_700_000_000_000_000_000
STEP_NS = 66_666_667
LATE_NS = 5_000_000
CAMERA = "/camera/image_raw"
CLASSES = 5
PALETTE = [(10, 20, 30), (200, 0, 0), (0, 200, 0), (0, 0, 200), (250, 250, 0)]
TYPES = get_typestore(Stores.ROS2_JAZZY)
TYPES1 = get_typestore(Stores.ROS1_NOETIC)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A message to record: fields of `sensor_msgs/msg/KIND`, or a line of text for a String."""

    topic: str
    stamp_ns: int
    kind: str
    fields: dict[str, Any]
    recorded_ns: int = 0
    frame_id: str = "front"


def picture(number: int, size: tuple[int, int] = SIZE, camera: int = 0) -> np.ndarray:
    return np.random.default_rng([number, camera]).integers(0, 256, (*size, 3), np.uint8)


def raw(image: np.ndarray) -> dict[str, Any]:
    height, width = image.shape[:2]
    fields = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
    return fields | {"data": image.reshape(-1)}


def frame(number: int, topic: str = CAMERA, image: np.ndarray | None = None, **changes: Any) -> Entry:
    image = picture(number) if image is None else image
    return dataclasses.replace(Entry(topic, START_NS + number * STEP_NS, "Image", raw(image)), **changes)


def damaged(number: int) -> Entry:
    return frame(number, fields=raw(picture(number)) | {"data": np.zeros(100, np.uint8)})


def drive(count: int = 6) -> list[Entry]:
    """Frames, and text between them."""
    entries = []
    for number in range(count):
        entries.append(frame(number))
        entries.append(Entry("/log", START_NS + number * STEP_NS, "String", {"data": f"line {number}"}))
    return entries


def write_bag(path: Path, entries: Sequence[Entry], ros1: bool = False) -> Path:
    """Recorded in the order given, 5 ms after each stamp where the entry does not say when."""
    types = TYPES1 if ros1 else TYPES
    header = types.types["std_msgs/msg/Header"]
    time = types.types["builtin_interfaces/msg/Time"]
    with Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for entry in entries:
            kind = f"{'std_msgs' if entry.kind == 'String' else 'sensor_msgs'}/msg/{entry.kind}"
            if entry.topic not in connections:
                connections[entry.topic] = writer.add_connection(entry.topic, kind, typestore=types)
            fields = dict(entry.fields)
            if entry.kind != "String":
                sequence = {"seq": 0} if ros1 else {}
                stamp = time(*divmod(entry.stamp_ns, 10**9))
                fields["header"] = header(**sequence, stamp=stamp, frame_id=entry.frame_id)
            data = (types.serialize_ros1 if ros1 else types.serialize_cdr)(types.types[kind](**fields), kind)
            writer.write(connections[entry.topic], entry.recorded_ns or entry.stamp_ns + LATE_NS, data)
    return path


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A message of an output as rosbags reads it."""

    recorded_ns: int
    data: bytes
    message: Any

    @property
    def stamp_ns(self) -> int:
        stamp = self.message.header.stamp
        return stamp.sec * 10**9 + stamp.nanosec

    @property
    def pixels(self) -> np.ndarray:
        image = self.message
        assert image.step == image.width * (3 if image.encoding == "rgb8" else 1)
        return image.data.reshape(image.height, image.width, *([3] if image.encoding == "rgb8" else []))


def read(path: Path) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = {}
    with AnyReader([path], default_typestore=ros2_typestore()) as reader:
        for connection in reader.connections:
            found.setdefault(connection.topic, [])
        for connection, recorded_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found[connection.topic].append(Recorded(recorded_ns, bytes(data), message))
    return found


def bytes_of(path: Path) -> dict[str, list[tuple[int, bytes]]]:
    return {topic: [(each.recorded_ns, each.data) for each in several] for topic, several in read(path).items()}


@pytest.fixture
def checkpoint(tmp_path: Path, pixel_base: str) -> Path:
    """A random network with STF: its labels depend on the whole window."""
    return save_random(tmp_path / "random.safetensors", pixel_base)


def save_random(path: Path, base: str) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        stf = STFConfig(block=(8, 8), positional_grid=(4, 4), feedforward=8, stride=4, sharpness=0.0)
        config = SegmenterConfig(base, CLASSES, stf=stf)
        model = build_segmenter(config)
        with torch.no_grad():
            model.classifier.linear.weight.normal_()
    labels = LabelSet([f"class {k}" for k in range(CLASSES)], PALETTE)
    save_checkpoint(path, model, CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 64))
    return path


@dataclasses.dataclass
class Outcome:
    status: int
    out: Path
    printed: str
    error: str


@pytest.fixture
def segment(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`segment(entries or bag, *options)` runs the command into `tmp_path/out`; failures are one line."""

    def run(source: Sequence[Entry] | Path, *options: str, out: str = "out") -> Outcome:
        if not isinstance(source, Path):
            source = write_bag(tmp_path / "in", source)
        capsys.readouterr()
        path = tmp_path / out
        status = bag.main(["segment", str(source), "--out", str(path), "--checkpoint", str(checkpoint), *options])
        printed = capsys.readouterr()
        if status in (1, 130):
            assert printed.err.splitlines()[-1].startswith("bag")
            assert not path.exists()
        else:
            assert path.is_dir() and not path.with_name(f"{out}.partial").exists()
        assert "Traceback" not in printed.err
        return Outcome(status, path, printed.out, printed.err)

    return run


def expected(checkpoint: Path, images: Sequence[np.ndarray], window: str = "causal") -> list[Segmentation]:
    """The engine's labels of a stream, all of them."""
    engine = StreamingSegmenter.from_checkpoint(checkpoint, StreamConfig(window=window))
    results = [engine.step(image, START_NS + number * STEP_NS, "front") for number, image in enumerate(images)]
    results.append(engine.flush())
    return [result for result in results if result is not None]


def assert_labels(several: Sequence[Recorded], segmentations: Sequence[Segmentation]) -> None:
    assert len(several) == len(segmentations)
    for recorded, segmentation in zip(several, segmentations, strict=True):
        np.testing.assert_array_equal(recorded.pixels, segmentation.labels)


class TestLabels:
    @pytest.mark.parametrize("window", ["causal", "centered"])
    def test_every_frame_has_the_engines_label(
        self, segment: Callable[..., Outcome], checkpoint: Path, window: str
    ) -> None:
        outcome = segment(drive(), "--window", window)
        assert outcome.status == 0 and "6 of 6 frames labelled" in outcome.printed
        found = read(outcome.out)
        segmentations = expected(checkpoint, [picture(number) for number in range(6)], window)
        assert_labels(found["/segmentation/labels"], segmentations)
        for name, encoding in {"labels": "mono8", "confidence": "mono8", "color": "rgb8"}.items():
            for number, recorded in enumerate(found[f"/segmentation/{name}"]):
                assert recorded.message.encoding == encoding
                assert recorded.message.header.frame_id == "front"
                assert recorded.stamp_ns == START_NS + number * STEP_NS
                assert recorded.recorded_ns == recorded.stamp_ns + LATE_NS
        for number, segmentation in enumerate(segmentations):
            np.testing.assert_array_equal(found["/segmentation/confidence"][number].pixels, segmentation.confidence)
            np.testing.assert_array_equal(
                found["/segmentation/color"][number].pixels, np.array(PALETTE, np.uint8)[segmentation.labels]
            )

    def test_the_inputs_topics_are_there_byte_for_byte(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        source = write_bag(tmp_path / "in", drive())
        found, given = bytes_of(segment(source).out), bytes_of(source)
        assert {topic: found[topic] for topic in given} == given

    def test_or_left_out(self, segment: Callable[..., Outcome]) -> None:
        found = read(segment(drive(), "--no-input", "--outputs", "labels").out)
        assert {topic: len(several) for topic, several in found.items()} == {"/segmentation/labels": 6}

    def test_label_info_comes_first_and_is_kept_for_those_who_subscribe_late(
        self, segment: Callable[..., Outcome]
    ) -> None:
        out = segment(drive()).out
        (info,) = read(out)["/segmentation/label_info"]
        classes = {each.class_id: each.class_name for each in info.message.class_map}
        assert classes == {number: f"class {number}" for number in range(CLASSES)}
        assert info.recorded_ns == START_NS + LATE_NS
        with AnyReader([out], default_typestore=ros2_typestore()) as reader:
            durability = {
                each.topic: [qos.durability for qos in each.ext.offered_qos_profiles] for each in reader.connections
            }
        assert durability["/segmentation/label_info"] == [QosDurability.TRANSIENT_LOCAL]
        assert durability["/segmentation/labels"] == [QosDurability.VOLATILE]

    def test_compressed_images(self, segment: Callable[..., Outcome], checkpoint: Path) -> None:
        entries = [
            frame(
                number,
                f"{CAMERA}/compressed",
                kind="CompressedImage",
                fields={"format": "png", "data": cv2.imencode(".png", picture(number)[..., ::-1])[1].reshape(-1)},
            )
            for number in range(3)
        ]
        found = read(segment(entries).out)
        assert_labels(found["/segmentation/labels"], expected(checkpoint, [picture(number) for number in range(3)]))

    def test_used_bits_of_16_bit_images(self, segment: Callable[..., Outcome], checkpoint: Path) -> None:
        def deep(number: int) -> Entry:
            pixels = picture(number).astype(np.uint16) << 4
            fields = raw(picture(number)) | {"encoding": "rgb16", "step": 6 * pixels.shape[1]}
            return frame(number, fields=fields | {"data": pixels.view(np.uint8).reshape(-1)})

        entries = [deep(number) for number in range(3)]
        dark = segment(entries, out="dark")
        line = (
            "16-bit images with no pixel above 4095 of 65535, which are dark to the network: if the camera has 12 bits"
        )
        assert dark.error.count(f"{CAMERA}: {line}, set --used-bits to 12") == 1
        outcome = segment(dark.out.parent / "in", "--used-bits", "12")
        assert "16-bit" not in outcome.error
        segmentations = expected(checkpoint, [picture(number) for number in range(3)])
        assert_labels(read(outcome.out)["/segmentation/labels"], segmentations)

    def test_a_ros_1_bag(self, segment: Callable[..., Outcome], checkpoint: Path, tmp_path: Path) -> None:
        outcome = segment(write_bag(tmp_path / "drive.bag", drive(), ros1=True))
        assert outcome.status == 0
        found = read(outcome.out)
        assert_labels(found["/segmentation/labels"], expected(checkpoint, [picture(number) for number in range(6)]))
        assert [each.message.data for each in found["/log"]] == [f"line {number}" for number in range(6)]

    def test_several_cameras_have_windows_of_their_own(self, segment: Callable[..., Outcome], checkpoint: Path) -> None:
        topics = ["/rig/front/image_raw", "/rig/rear/image_raw"]
        entries = [
            frame(number, topic, picture(number, camera=camera))
            for number in range(5)
            for camera, topic in enumerate(topics)
        ]
        outcome = segment(entries, *itertools.chain(*(("--image-topic", topic) for topic in topics)))
        found = read(outcome.out)
        for camera, name in enumerate(["front", "rear"]):
            images = [picture(number, camera=camera) for number in range(5)]
            assert_labels(found[f"/segmentation/{name}/labels"], expected(checkpoint, images))
            assert len(found[f"/segmentation/{name}/label_info"]) == 1

    def test_two_runs_give_the_same_bytes(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        source = write_bag(tmp_path / "in", drive())
        assert bytes_of(segment(source).out) == bytes_of(segment(source, out="again").out)

    def test_a_header_without_a_stamp_keeps_it(self, segment: Callable[..., Outcome]) -> None:
        entries = [frame(number, stamp_ns=0, recorded_ns=START_NS + number * STEP_NS) for number in range(4)]
        outcome = segment(entries)
        assert outcome.status == 0 and "new windows" not in outcome.printed
        assert [each.stamp_ns for each in read(outcome.out)["/segmentation/labels"]] == [0] * 4

    def test_a_video_to_look_at(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        video = tmp_path / "look.mp4"
        outcome = segment(drive(), "--outputs", "labels", "--no-input", "--video", str(video))
        assert outcome.status == 0 and f"wrote {video}" in outcome.printed
        capture = cv2.VideoCapture(str(video))
        assert capture.read()[1].shape[1] == 2 * SIZE[1]
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6

    def test_a_video_that_no_browser_plays_is_told_of(
        self, segment: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        monkeypatch.setenv("PATH", "/nowhere")
        outcome = segment(drive(2), "--outputs", "labels", "--video", str(tmp_path / "look.mp4"))
        assert outcome.status == 0
        (line,) = (line for line in outcome.printed.splitlines() if "browsers" in line)
        assert line.startswith("look.mp4 is MPEG-4 Part 2") and "pip install av" in line

    def test_a_camera_without_a_label_has_no_video_and_a_line_says_so(
        self, segment: Callable[..., Outcome], tmp_path: Path
    ) -> None:
        entries = [frame(0, "/a/image"), frame(1, "/a/image"), dataclasses.replace(damaged(0), topic="/b/image")]
        video = tmp_path / "look.mp4"
        outcome = segment(entries, "--image-topic", "/a/image", "--image-topic", "/b/image", "--video", str(video))
        assert outcome.status == 3
        assert "no video of /b/image: it has no labels on /segmentation/b/labels" in outcome.error
        assert [path.name for path in tmp_path.glob("*.mp4")] == ["look_a.mp4"]


class TestCameraInfo:
    def info(
        self,
        number: int,
        size: tuple[int, int] = SIZE,
        focal: float = 100.0,
        late_ns: int = 0,
        topic: str = "/camera/camera_info",
        binning: int = 0,
        kinds: Any = TYPES,
    ) -> Entry:
        kind = kinds.types["sensor_msgs/msg/RegionOfInterest"]
        region = kind(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        fields = {"height": size[0], "width": size[1], "distortion_model": "plumb_bob"}
        matrices = {"d": np.zeros(5), "k": np.diag([focal, focal, 1.0]), "r": np.eye(3), "p": np.eye(3, 4) * focal}
        # ROS 1 writes them large.
        fields |= {name.upper() if kinds is TYPES1 else name: each.reshape(-1) for name, each in matrices.items()}
        fields |= {"binning_x": binning, "binning_y": binning, "roi": region}
        return Entry(topic, START_NS + number * STEP_NS + late_ns, "CameraInfo", fields)

    @pytest.mark.parametrize("late_ns", [0, 1_000_000, -1_000_000])
    def test_each_label_has_the_calibration_of_its_frame(self, segment: Callable[..., Outcome], late_ns: int) -> None:
        infos = [self.info(number, focal=100.0 + number, late_ns=late_ns) for number in range(4)]
        entries = sorted([*infos, *drive(4)], key=lambda entry: entry.stamp_ns)
        found = read(segment(entries).out)
        labels, several = found["/segmentation/labels"], found["/segmentation/camera_info"]
        assert [each.stamp_ns for each in several] == [each.stamp_ns for each in labels]
        assert [each.recorded_ns for each in several] == [each.recorded_ns for each in labels]
        assert [each.message.k[0] for each in several] == [100, 101, 102, 103]

    @pytest.mark.parametrize(
        ("size", "binning", "focal"),
        [
            pytest.param((128, 160), 0, 50.0, id="double"),
            pytest.param((128, 160), 2, 100.0, id="binned"),
            pytest.param((0, 0), 0, 100.0, id="of a camera that is not calibrated"),
        ],
    )
    def test_a_calibration_of_another_size_is_scaled_as_the_node_scales_it(
        self, segment: Callable[..., Outcome], size: tuple[int, int], binning: int, focal: float
    ) -> None:
        outcome = segment([self.info(0, size, binning=binning), frame(0), frame(1)])
        assert outcome.status == 0 and outcome.error == ""
        infos = [each.message for each in read(outcome.out)["/segmentation/camera_info"]]
        assert [each.header.frame_id for each in infos] == ["front"] * 2
        assert [(each.height // max(binning, 1), each.width // max(binning, 1)) for each in infos] == [SIZE] * 2
        assert [(each.k[0], each.p[5]) for each in infos] == [(focal, focal)] * 2

    def test_a_calibration_in_a_ros1_bag_is_scaled_too(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        entries = [self.info(0, (128, 160), kinds=TYPES1), frame(0)]
        outcome = segment(write_bag(tmp_path / "old.bag", entries, ros1=True))
        (info,) = read(outcome.out)["/segmentation/camera_info"]
        assert (info.message.height, info.message.width, info.message.k[0]) == (*SIZE, 50.0)

    def test_of_several_sizes_that_of_the_image_is_used_before_nearer_ones(
        self, segment: Callable[..., Outcome]
    ) -> None:
        infos = [self.info(0, focal=50.0), self.info(2, (128, 160)), self.info(3, (480, 640))]
        entries = [*infos, *(frame(number) for number in range(3)), frame(3, image=picture(3, (48, 64)))]
        found = read(segment(entries).out)
        assert [each.message.k[0] for each in found["/segmentation/camera_info"]] == [50, 50, 50, 10]

    def test_an_output_that_stays_empty_is_told_of_and_not_announced(self, segment: Callable[..., Outcome]) -> None:
        outcome = segment([self.info(0, (480, 480)), frame(0)])
        assert outcome.status == 3
        line = "/segmentation/camera_info is empty: the calibration on /camera/camera_info cannot be used for the image"
        assert line in outcome.error and "480x480" in outcome.error and "80x64" in outcome.error
        assert "--camera-info-topic" in outcome.error
        assert "/segmentation/labels" in outcome.printed and "/segmentation/camera_info" not in outcome.printed

    def test_labels_without_a_calibration_are_counted(self, segment: Callable[..., Outcome]) -> None:
        outcome = segment([self.info(0), frame(0), frame(1, image=picture(1, (64, 64))), frame(2)])
        assert outcome.status == 3
        assert "/segmentation/camera_info lacks 1 of 3 messages: the calibration on" in outcome.error
        assert len(read(outcome.out)["/segmentation/camera_info"]) == 2

    def test_a_bag_without_calibration_has_no_such_topic_and_says_so(self, segment: Callable[..., Outcome]) -> None:
        outcome = segment(drive(2))
        assert "/segmentation/camera_info" not in read(outcome.out)
        assert outcome.status == 0
        line = f"{CAMERA}: no camera_info is written: the bag has no topic /camera/camera_info"
        assert line in outcome.printed.splitlines()

    def test_a_calibration_elsewhere_can_be_named(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        source = write_bag(tmp_path / "in", [self.info(0, topic="/calibration"), frame(0)])
        assert "with --camera-info-topic: there is /calibration" in segment(source).printed
        again = segment(source, "--camera-info-topic", "calibration", "--overwrite")
        assert len(read(again.out)["/segmentation/camera_info"]) == 1

    def test_what_was_asked_for_and_cannot_be_is_a_loss(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        source = write_bag(tmp_path / "in", drive(2))
        outcome = segment(source, "--outputs", "labels", "camera_info")
        assert outcome.status == 3 and "no camera_info is written" in outcome.error
        alone = segment(source, "--outputs", "camera_info", out="alone")
        assert alone.status == 1 and "there is nothing to write" in alone.error

    def test_what_lies_beside_several_cameras_is_nobodys(self, segment: Callable[..., Outcome]) -> None:
        topics = ["/front", "/rear"]
        entries = [self.info(0, topic="/camera_info"), *(frame(0, topic) for topic in topics)]
        outcome = segment(entries, *(word for topic in topics for word in ("--image-topic", topic)))
        assert outcome.printed.count("lies beside several cameras' images") == 2

    @pytest.mark.parametrize(
        ("image", "found"),
        [
            ("/cam/image_raw", "/cam/camera_info"),
            ("/cam/image_raw/compressed", "/cam/camera_info"),
            ("/front", "/camera_info"),
        ],
    )
    def test_it_lies_beside_the_image_topic(self, image: str, found: str) -> None:
        assert camera_info_topic(image) == found


@pytest.mark.parametrize(
    ("topics", "names"),
    [
        (["/camera/image_raw"], [""]),
        (["/cam/front/image_raw", "/cam/rear/image_raw"], ["front", "rear"]),
        (["/front/image_raw", "/rear/image_rect/compressed"], ["front", "rear"]),
        (["/a/front/image", "/a/rear/image", "/b/front/image"], ["a/front", "a/rear", "b/front"]),
        (["/cam/image_raw", "/cam/image_raw/compressed"], ["image_raw", "image_raw/compressed"]),
        (["/image", "/rear/image"], ["image", "rear"]),
    ],
)
def test_cameras_are_named_by_what_tells_them_apart(topics: list[str], names: list[str]) -> None:
    assert list(camera_names(topics).values()) == names


class TestBadInput:
    """The rest is labelled, and the end says what was not."""

    def test_an_image_that_cannot_be_decoded_costs_its_own_label_alone(
        self, segment: Callable[..., Outcome], checkpoint: Path
    ) -> None:
        # Without the damaged one the stamps are further apart than --max-gap.
        entries = [damaged(2) if number == 2 else frame(number) for number in range(5)]
        outcome = segment(entries, "--max-gap", "0.1")
        assert outcome.status == 3
        assert "4 of 5 frames labelled" in outcome.printed and "new windows" not in outcome.printed
        assert f"{START_NS + 2 * STEP_NS} ns on {CAMERA} gets no label: data has 100 bytes" in outcome.error
        images = [picture(number) for number in (0, 1, 3, 4)]
        found = read(outcome.out)
        assert_labels(found["/segmentation/labels"], expected(checkpoint, images))
        assert len(found[CAMERA]) == 5

    def test_many_of_one_kind_are_told_once_and_counted(self, segment: Callable[..., Outcome]) -> None:
        outcome = segment([frame(0), *(damaged(number) for number in range(1, 30))])
        assert outcome.status == 3 and outcome.error.count("data has 100 bytes") == 2
        assert f"29 of 30 frames on {CAMERA}" in outcome.error

    def test_where_nothing_can_be_decoded_nothing_is_written(self, segment: Callable[..., Outcome]) -> None:
        outcome = segment([damaged(number) for number in range(3)])
        assert outcome.status == 1 and "no image could be labelled" in outcome.error

    def test_an_image_that_the_network_cannot_take(
        self, segment: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Preprocessor.__call__

        def call(self: Preprocessor, image: np.ndarray) -> torch.Tensor:
            if image.shape[0] == 48:
                raise ImageError("size", "it has 48x64 pixels, and it was exported for others")
            return original(self, image)

        monkeypatch.setattr(Preprocessor, "__call__", call)
        outcome = segment([frame(0), frame(1, image=picture(1, (48, 64))), frame(2)])
        assert outcome.status == 3 and "exported for others" in outcome.error
        assert len(read(outcome.out)["/segmentation/labels"]) == 2

    def test_frames_recorded_out_of_order_are_labelled_in_order(
        self, segment: Callable[..., Outcome], checkpoint: Path
    ) -> None:
        order = [1, 0, 2, 4, 3]
        entries = [
            frame(number, recorded_ns=START_NS + place * STEP_NS + LATE_NS) for place, number in enumerate(order)
        ]
        outcome = segment(entries)
        assert outcome.status == 0 and "new windows" not in outcome.printed
        found = sorted(read(outcome.out)["/segmentation/labels"], key=lambda each: each.stamp_ns)
        assert_labels(found, expected(checkpoint, [picture(number) for number in range(5)]))

    @pytest.mark.parametrize("window", ["causal", "centered"])
    @pytest.mark.parametrize("what", ["gap", "size", "frame_id", "backwards"])
    def test_a_new_window_begins_and_every_frame_has_its_label(
        self, segment: Callable[..., Outcome], checkpoint: Path, what: str, window: str
    ) -> None:
        size = (48, 64) if what == "size" else SIZE
        images = [picture(number) for number in range(3)], [picture(number, size) for number in range(3, 6)]
        start = {"gap": START_NS + 10**10, "backwards": START_NS - 10**10}.get(what, START_NS)
        later = [
            frame(
                number,
                image=image,
                stamp_ns=start + number * STEP_NS,
                recorded_ns=START_NS + 10**9 + number * STEP_NS,
                frame_id="rear" if what == "frame_id" else "front",
            )
            for number, image in enumerate(images[1], 3)
        ]
        outcome = segment([*(frame(number) for number in range(3)), *later], "--window", window)
        assert outcome.status == 0
        assert {"backwards": "backwards", "gap": "missing"}.get(what, what) in outcome.printed
        segmentations = [each for group in images for each in expected(checkpoint, group, window)]
        assert_labels(read(outcome.out)["/segmentation/labels"], segmentations)

    def test_of_a_bag_that_was_cut_off_what_is_whole_is_labelled(
        self, segment: Callable[..., Outcome], tmp_path: Path
    ) -> None:
        source = write_bag(tmp_path / "in", [frame(number, image=picture(number, (256, 256))) for number in range(12)])
        (file,) = source.glob("*.mcap")
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
        outcome = segment(source)
        assert outcome.status == 3
        assert file.name in outcome.error
        assert 0 < len(read(outcome.out)["/segmentation/labels"]) < 12

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--image-topic", "/nothing"], f"has no image topic /nothing; its image topics: {CAMERA}"),
            (["--image-topic", "/log"], "topic /log has messages of std_msgs/msg/String: images are"),
            (["--namespace", "/taken"], "has a topic /taken/labels of its own: give another --namespace"),
            (["--short-side", "5"], "short_side is 5"),
            (["--max-gap", "0"], "max_gap is 0"),
            (["--threads", "-1"], "--threads is -1"),
            (["--device", "toaster"], "toaster"),
            (["--checkpoint", "/nowhere.safetensors"], "/nowhere.safetensors does not exist"),
            (["--as-recorded", "/nothing"], "has no image topic /nothing"),
            (["--video", "x.mp4", "--outputs", "color"], "--video needs labels"),
            (["--video", "x.avi"], "must end in .mp4"),
        ],
    )
    def test_what_cannot_be_done_is_refused_in_one_line(
        self, segment: Callable[..., Outcome], tmp_path: Path, options: list[str], reason: str
    ) -> None:
        entries = [*drive(2), Entry("/taken/labels", START_NS, "String", {"data": ""})]
        outcome = segment(entries, *options)
        assert outcome.status == 1 and reason in outcome.error and outcome.error.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "random.safetensors"]

    def test_a_bag_that_is_not_there(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        outcome = segment(tmp_path / "nothing")
        assert outcome.status == 1 and str(tmp_path / "nothing") in outcome.error

    def test_the_output_is_not_the_input(self, segment: Callable[..., Outcome], tmp_path: Path) -> None:
        source = write_bag(tmp_path / "in", drive(2))
        assert bag.main(["segment", str(source), "--out", str(source), "--overwrite"]) == 1
        assert len(read(source)[CAMERA]) == 2

    def test_a_bag_that_is_there_is_replaced_only_if_asked_for(
        self, segment: Callable[..., Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
    ) -> None:
        source = write_bag(tmp_path / "in", drive(3))
        arguments = ["segment", str(source), "--out", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
        assert bag.main(arguments) == 0
        assert bag.main([*arguments, "--window", "centered"]) == 1
        assert "--overwrite" in capsys.readouterr().err
        assert segment(source, "--window", "centered", "--overwrite", "--no-input").status == 0
        assert CAMERA not in read(tmp_path / "out")


class Stop:
    """Raises in place of the engine's n-th step, and counts the steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.last, self.error = 0, -1, KeyboardInterrupt()
        original = StreamingSegmenter.step

        def step(engine: StreamingSegmenter, *given: Any, **named: Any) -> Segmentation | None:
            if self.steps == self.last:
                raise self.error
            self.steps += 1
            return original(engine, *given, **named)

        monkeypatch.setattr(StreamingSegmenter, "step", step)

    def at(self, step: int) -> None:
        self.steps, self.last = 0, step


class TestResume:
    """Stopped anywhere, the same command goes on and leaves what an uninterrupted run leaves."""

    @pytest.fixture
    def stop(self, monkeypatch: pytest.MonkeyPatch) -> Stop:
        monkeypatch.setattr(segment_module, "BagWriter", partial(BagWriter, part_messages=25))
        return Stop(monkeypatch)

    def entries(self) -> list[Entry]:
        """Two cameras, damaged images, a gap, a change of size."""
        entries = drive(5) + [damaged(5), frame(6)] + [frame(number) for number in range(60, 64)]
        entries += [frame(number, image=picture(number, (48, 64))) for number in range(64, 68)]
        other = [frame(number, "/rear/image_raw", picture(number, camera=1)) for number in (*range(7), *range(60, 68))]
        return sorted([*entries, *other], key=lambda entry: entry.stamp_ns)

    @pytest.mark.parametrize(
        ("step", "window"), [(1, "causal"), (9, "centered"), (15, "causal"), (22, "centered"), (28, "causal")]
    )
    def test_a_run_that_was_stopped_goes_on(
        self, segment: Callable[..., Outcome], tmp_path: Path, stop: Stop, step: int, window: str
    ) -> None:
        source = write_bag(tmp_path / "in", self.entries())
        options = ["--image-topic", CAMERA, "--image-topic", "/rear/image_raw", "--window", window]
        options += ["--outputs", "labels", "color"]
        whole = segment(source, *options, out="whole")
        assert whole.status == 3
        stop.at(step)
        stopped = segment(source, *options)
        assert stopped.status == 130 and "--resume" in stopped.error
        stop.at(-1)
        resumed = segment(source, *options, "--resume")
        assert (resumed.status, resumed.error.splitlines()[-1]) == (3, whole.error.splitlines()[-1])
        assert bytes_of(resumed.out) == bytes_of(whole.out)
        # What was written is not computed again, but for the windows at that place.
        assert stop.steps <= 29 - step + 2 * 3

    def test_a_run_that_was_killed_goes_on(
        self, segment: Callable[..., Outcome], tmp_path: Path, checkpoint: Path, stop: Stop
    ) -> None:
        source = write_bag(tmp_path / "in", drive(20))
        script = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from functools import partial
import torch
torch.set_num_threads({torch.get_num_threads()})
from pixel_base import PixelBase
from stmem_ros.bag import __main__, segment
from stmem_ros.network import BASES
from stmem_ros.streaming import StreamingSegmenter
BASES["pixels"] = PixelBase
segment.BagWriter = partial(segment.BagWriter, part_messages=25)
step, steps = StreamingSegmenter.step, []
def counted(*given, **named):
    steps.append(0)
    if len(steps) == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given, **named)
StreamingSegmenter.step = counted
__main__.main(["segment", {str(source)!r}, "--out", {str(tmp_path / "out")!r}, "--checkpoint", {str(checkpoint)!r}])
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
        assert not (tmp_path / "out").exists()
        assert len(list((tmp_path / "out.partial").glob("*.mcap"))) >= 1
        resumed = segment(source, "--resume")
        assert resumed.status == 0 and stop.steps < 20
        whole = segment(source, out="whole")
        assert bytes_of(resumed.out) == bytes_of(whole.out)

    def test_a_run_with_other_settings_does_not_go_on(
        self, segment: Callable[..., Outcome], tmp_path: Path, stop: Stop
    ) -> None:
        source = write_bag(tmp_path / "in", drive())
        stop.at(4)
        segment(source)
        stop.at(-1)
        threads = torch.get_num_threads()
        for options, name in (
            (["--window", "centered"], "window"),
            (["--short-side", "96"], "short_side"),
            (["--max-gap", "3"], "max_gap"),
            (["--no-input"], "input_topics"),
            (["--outputs", "labels"], "outputs"),
            (["--threads", str(threads + 1)], "threads"),
        ):
            try:
                refused = segment(source, *options, "--resume")
            finally:
                torch.set_num_threads(threads)
            assert refused.status == 1 and f"was begun with {name} " in refused.error
            assert refused.error.count("\n") == 1
        assert segment(source, "--resume").status == 0

    @pytest.mark.parametrize("name", ["checkpoint", "input"])
    def test_nor_does_one_with_another_file_of_that_name(
        self, segment: Callable[..., Outcome], tmp_path: Path, stop: Stop, checkpoint: Path, pixel_base: str, name: str
    ) -> None:
        source = write_bag(tmp_path / "in", drive())
        stop.at(4)
        segment(source)
        stop.at(-1)
        if name == "input":
            for path in [*source.iterdir(), source]:
                path.rmdir() if path.is_dir() else path.unlink()
            write_bag(source, drive(7))
        else:
            checkpoint.write_bytes(checkpoint.read_bytes().replace(b"class 4", b"class 7"))
        refused = segment(source, "--resume")
        assert refused.status == 1 and f"was begun with {name} " in refused.error

    def test_resuming_what_is_whole_leaves_it_alone(
        self, segment: Callable[..., Outcome], tmp_path: Path, stop: Stop
    ) -> None:
        source = write_bag(tmp_path / "in", drive())
        assert segment(source, "--resume").status == 0
        stop.at(0)
        again = segment(source, "--resume")
        assert again.status == 0 and "is whole already" in again.printed

    def test_resuming_what_is_whole_tells_again_what_it_lost(
        self, segment: Callable[..., Outcome], tmp_path: Path, stop: Stop
    ) -> None:
        source = write_bag(tmp_path / "in", self.entries())
        options = ["--image-topic", CAMERA, "--image-topic", "/rear/image_raw"]
        whole = segment(source, *options)
        assert whole.status == 3
        stop.at(0)
        again = segment(source, *options, "--resume")
        assert again.status == 3 and again.error.splitlines() == whole.error.splitlines()[-1:]
        assert "is whole already" in again.printed

    def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
        self, segment: Callable[..., Outcome], tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = write_bag(tmp_path / "in", drive(12))
        room = itertools.count()
        write = Writer.write

        def full(self: Writer, *given: Any) -> None:
            if next(room) >= 25:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(self, *given)

        with monkeypatch.context() as patch:
            patch.setattr(Writer, "write", full)
            outcome = segment(source)
        assert outcome.status == 1 and "No space left on device" in outcome.error and outcome.error.count("\n") == 1
        stop.at(-1)
        resumed = segment(source, "--resume")
        assert resumed.status == 0 and stop.steps < 12
        assert bytes_of(resumed.out) == bytes_of(segment(source, out="whole").out)


class TestAsRecorded:
    """What a node labelled that dropped frames is labelled again, bit for bit."""

    def robot(self, checkpoint: Path, taken: Sequence[int], max_gap: float) -> list[Entry]:
        """A bag with all frames, and the labels of those that a node took."""
        engine = StreamingSegmenter.from_checkpoint(checkpoint, StreamConfig(max_gap=max_gap))
        entries, skipped = [], []
        for number in range(max(taken) + 3):
            entry = frame(number)
            entries.append(entry)
            if number not in taken:
                skipped.append(entry.stamp_ns)
                continue
            labels = engine.step(picture(number), entry.stamp_ns, "front", skipped=skipped).labels
            skipped = []
            mono = raw(picture(0)) | {"encoding": "mono8", "step": SIZE[1], "data": labels.reshape(-1)}
            entries.append(frame(number, "/segmentation/labels", fields=mono, recorded_ns=entry.stamp_ns + 50_000_000))
        return sorted(entries, key=lambda entry: entry.recorded_ns or entry.stamp_ns + LATE_NS)

    def test_labels_of_a_node_that_dropped_frames_come_again(
        self, segment: Callable[..., Outcome], checkpoint: Path
    ) -> None:
        # The frames that were taken are further apart than --max-gap, those that came are not.
        entries = self.robot(checkpoint, [0, 1, 4, 5, 6, 9], max_gap=0.1)
        options = ["--max-gap", "0.1", "--namespace", "/again", "--image-topic", CAMERA]
        outcome = segment(entries, *options, "--as-recorded", "/segmentation/labels")
        assert outcome.status == 0 and "6 of 12 frames labelled" in outcome.printed
        assert "new windows" not in outcome.printed
        found = read(outcome.out)
        again, robot = found["/again/labels"], found["/segmentation/labels"]
        assert [each.data for each in again] == [each.data for each in robot]
        every = segment(outcome.out.with_name("in"), *options, out="every").out
        of_stamp = {each.stamp_ns: each.data for each in read(every)["/again/labels"]}
        assert any(of_stamp[each.stamp_ns] != each.data for each in robot)

    def test_a_label_of_no_frame_is_told(self, segment: Callable[..., Outcome], checkpoint: Path) -> None:
        entries = [entry for entry in self.robot(checkpoint, [0, 1, 2], 1.0)]
        entries = [entry for entry in entries if (entry.topic, entry.stamp_ns) != (CAMERA, START_NS + STEP_NS)]
        options = ["--namespace", "/again", "--image-topic", CAMERA, "--as-recorded", "/segmentation/labels"]
        outcome = segment(entries, *options)
        assert outcome.status == 3 and "1 stamps on /segmentation/labels are of no image" in outcome.error

    def test_it_is_of_one_camera(self, segment: Callable[..., Outcome]) -> None:
        entries = [frame(0), frame(0, "/rear/image_raw")]
        topics = ["--image-topic", CAMERA, "--image-topic", "/rear/image_raw"]
        assert "is of one camera" in segment(entries, *topics, "--as-recorded", CAMERA).error

    def test_stamps_of_no_frame_are_told_of_also_where_there_is_no_other(self, segment: Callable[..., Outcome]) -> None:
        recorded = [frame(number, "/other/labels", image=picture(number)) for number in (7, 8)]
        outcome = segment([*drive(2), *recorded], "--image-topic", CAMERA, "--as-recorded", "/other/labels")
        assert outcome.status == 1
        assert f"2 stamps on /other/labels are of no image on {CAMERA}" in outcome.error


class TestPipeline:
    def test_reading_ahead_is_bounded(self) -> None:
        made, allowed = [], threading.Semaphore(0)

        def numbers() -> Generator[int, None, None]:
            for number in range(100):
                made.append(number)
                allowed.release()
                yield number

        ahead = read_ahead(numbers(), 3)
        assert next(ahead) == 0
        # One is taken, three wait, and one is made and has no place yet.
        for _ in range(5):
            assert allowed.acquire(timeout=20)
        assert not allowed.acquire(timeout=0.1)
        assert len(made) == 5
        assert list(ahead) == list(range(1, 100))

    def test_reading_ahead_ends_its_thread_and_closes_its_source_when_it_is_left(self) -> None:
        closed = threading.Event()

        def endless() -> Generator[int, None, None]:
            try:
                yield from itertools.count()
            finally:
                closed.set()

        before = threading.active_count()
        ahead = read_ahead(endless(), 2)
        next(ahead)
        ahead.close()
        assert closed.is_set() and threading.active_count() == before

    def test_what_the_source_raises_comes_after_what_it_gave(self) -> None:
        def broken() -> Generator[int, None, None]:
            yield 1
            raise OSError("gone")

        ahead = read_ahead(broken(), 2)
        assert next(ahead) == 1
        with pytest.raises(OSError, match="gone"):
            next(ahead)

    def test_writing_behind_keeps_the_order_and_ends_whole(self) -> None:
        written: list[int] = []
        with WriteBehind(written.append, 2) as behind:
            for number in range(50):
                behind.put(number)
        assert written == list(range(50))

    def test_nothing_is_written_after_an_error(self) -> None:
        written: list[int] = []

        def write(number: int) -> None:
            if number == 3:
                raise OSError("full")
            written.append(number)

        def put_all() -> None:
            with WriteBehind(write, 2) as behind:
                for number in range(50):
                    behind.put(number)

        with pytest.raises(OSError, match="full"):
            put_all()
        assert written == [0, 1, 2]


class TestCommand:
    @pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["make", "--help"]])
    def test_help(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            bag.main(arguments)
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith("usage: python -m stmem_ros.bag")

    @pytest.mark.parametrize(
        "arguments", [[], ["segmentt", "x"], ["segment"], ["segment", "x", "--resume", "--overwrite"]]
    )
    def test_wrong_usage(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            bag.main(arguments)
        assert ended.value.code == 2

    def test_a_package_that_is_missing_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delitem(sys.modules, "stmem_ros.bag.segment")
        monkeypatch.delattr("stmem_ros.bag.segment")
        monkeypatch.setitem(sys.modules, "tqdm", None)
        assert bag.main(["segment", "in", "--out", "out"]) == 1
        assert capsys.readouterr().err == (
            "bag: segment needs the Python package tqdm, which is not installed: pip install tqdm\n"
        )
