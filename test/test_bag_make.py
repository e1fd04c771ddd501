"""Folders of images and label images become a bag with ground truth, exactly as they are."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps

from stmem_ros.bag.__main__ import main
from stmem_ros.bag.io.reader import Bag, Message
from stmem_ros.bag.io.writer import BagWriter
from stmem_ros.decode import decode_compressed, decode_image, decode_message

HEIGHT, WIDTH = 24, 32
# Names whose order as text is another.
NAMES = ["seq_2", "seq_10", "seq_100"]
NS = 1_000_000_000


def image_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def labels_of(number: int) -> np.ndarray:
    return np.random.default_rng(50 + number).integers(0, 12, (HEIGHT, WIDTH), np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`frames` with three images as RGB PNG, `labels` with those of the first and the last."""
    for folder in ("frames", "labels"):
        (tmp_path / folder).mkdir()
    for number, name in enumerate(NAMES):
        cv2.imwrite(str(tmp_path / "frames" / f"{name}.png"), image_of(number)[..., ::-1])
        if number != 1:
            cv2.imwrite(str(tmp_path / "labels" / f"{name}.png"), labels_of(number))
    return tmp_path


def make(data: Path, *options: str, labels: bool = True) -> int:
    folders = ["--frames", str(data / "frames"), *(["--labels", str(data / "labels")] if labels else [])]
    return main(["make", *folders, *options, str(data / "out")])


def messages(data: Path, topic: str) -> list[tuple[Message, object]]:
    with Bag(data / "out") as bag:
        return [(each, bag.decode(each)) for each in bag.messages([topic])]


def test_images_and_labels_have_the_stamps_of_their_place(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(data, "--rate", "15", "--start", "100", "--void-ids", "11") == 0
    images, truths = messages(data, "/camera/image_raw"), messages(data, "/gt/labels")
    assert [message.stamp_ns for message, _ in images] == [100 * NS + round(place * NS / 15) for place in range(3)]
    assert all(message.recorded_ns == message.stamp_ns for message, _ in images + truths)
    assert [message.stamp_ns for message, _ in truths] == [images[place][0].stamp_ns for place in (0, 2)]
    for number, (_, content) in enumerate(images):
        assert (content.encoding, content.header.frame_id) == ("rgb8", "camera")
        np.testing.assert_array_equal(decode_image(content), image_of(number))
    for number, (_, content) in zip((0, 2), truths, strict=True):
        assert (content.encoding, content.step, content.header.frame_id) == ("mono8", WIDTH, "camera")
        expected = labels_of(number)
        expected[expected == 11] = 255
        np.testing.assert_array_equal(content.data.reshape(HEIGHT, WIDTH), expected)
    assert "3 images on /camera/image_raw, 2 label images on /gt/labels, 0.2 s" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["1 bit", "palette", "16 bits", "three channels", "TIF"])
def test_labels_are_the_ids_that_their_file_holds(data: Path, kind: str) -> None:
    ids = labels_of(0) % 2 if kind == "1 bit" else labels_of(0)
    stored = {
        "1 bit": lambda: PillowImage.fromarray(ids.astype(bool)),
        "palette": lambda: PillowImage.fromarray(ids, "P"),
        "16 bits": lambda: PillowImage.fromarray(np.where(ids == 11, 65535, ids).astype(np.uint16)),
        "three channels": lambda: PillowImage.fromarray(np.dstack([ids] * 3)),
        "TIF": lambda: PillowImage.fromarray(ids),
    }[kind]()
    if kind == "palette":
        # As of VOC's first places, two of them alike.
        stored.putpalette([0, 0, 0, 128, 0, 0, 128, 0, 0] * 4)
    (data / "labels" / "seq_2.png").unlink()
    stored.save(data / "labels" / ("seq_2.TIF" if kind == "TIF" else "seq_2.PNG"))
    assert make(data, "--void-ids", "11,65535") == 0
    expected = np.where(ids == 11, 255, ids)
    np.testing.assert_array_equal(messages(data, "/gt/labels")[0][1].data.reshape(HEIGHT, WIDTH), expected)


def test_masks_of_0_and_255_are_told_what_255_is(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("seq_2", "seq_100"):
        cv2.imwrite(str(data / "labels" / f"{name}.png"), labels_of(0) % 2 * 255)
    assert make(data, "--void-ids", "255") == 0
    assert "takes 255" not in capsys.readouterr().out
    assert make(data, "--overwrite") == 0
    assert "evaluate takes 255 for void: if it is a class" in capsys.readouterr().out


def test_without_void_ids_the_ids_stay_as_they_are(data: Path) -> None:
    assert make(data) == 0
    np.testing.assert_array_equal(messages(data, "/gt/labels")[0][1].data.reshape(HEIGHT, WIDTH), labels_of(0))


def test_png_loses_nothing_and_is_named_as_image_transport_names_it(data: Path) -> None:
    cv2.imwrite(str(data / "frames" / "seq_2.bmp"), image_of(0)[..., ::-1])
    (data / "frames" / "seq_2.png").unlink()
    assert make(data, "--compressed", "png", "--image-topic", "front/image") == 0
    found = messages(data, "/front/image/compressed")
    for number, (_, content) in enumerate(found):
        assert content.format == "rgb8; png compressed bgr8"
        np.testing.assert_array_equal(decode_compressed(content), image_of(number))
    assert found[2][1].data.tobytes() == (data / "frames" / "seq_100.png").read_bytes(), "a PNG file is taken as it is"


def test_jpeg_is_close_and_a_jpeg_file_is_not_compressed_again(data: Path) -> None:
    smooth = cv2.GaussianBlur(image_of(7), (9, 9), 4)
    cv2.imwrite(str(data / "frames" / "seq_2.png"), smooth[..., ::-1])
    cv2.imwrite(str(data / "frames" / "seq_300.jpg"), smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 20])
    assert make(data, "--compressed", "jpeg") == 0
    found = messages(data, "/camera/image_raw/compressed")
    assert np.abs(decode_compressed(found[0][1]).astype(int) - smooth).mean() < 4
    assert found[3][1].data.tobytes() == (data / "frames" / "seq_300.jpg").read_bytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_an_image_that_is_to_be_turned_lies_as_its_labels_do(data: Path, kind: str, orientation: int) -> None:
    exif = PillowImage.Exif()
    exif[0x112] = orientation
    file = data / "frames" / f"seq_2.{kind}"
    (data / "frames" / "seq_2.png").unlink()
    smooth = cv2.GaussianBlur(image_of(7), (9, 9), 4)
    PillowImage.fromarray(smooth).save(file, exif=exif, quality=95)
    seen = np.asarray(ImageOps.exif_transpose(PillowImage.open(file)))
    cv2.imwrite(str(data / "labels" / "seq_2.png"), seen[..., 0])
    assert make(data, "--compressed", kind, "--field-of-view", "90") == 0
    image = messages(data, "/camera/image_raw/compressed")[0][1]
    assert np.abs(decode_compressed(image).astype(int) - seen).mean() < 2
    info = messages(data, "/camera/camera_info")[0][1]
    assert (info.height, info.width) == seen.shape[:2]
    assert (image.data.tobytes() == file.read_bytes()) == (orientation == 1)


def test_what_a_bag_cannot_hold_as_it_is_is_compressed_again(data: Path) -> None:
    deep = image_of(0).astype(np.uint16) * 256
    cv2.imwrite(str(data / "frames" / "seq_2.png"), deep[..., ::-1])
    opaque = np.dstack([image_of(1)[..., ::-1], np.full((HEIGHT, WIDTH), 255, np.uint8)])
    cv2.imwrite(str(data / "frames" / "seq_10.png"), opaque)
    cv2.imwrite(str(data / "frames" / "seq_100.png"), image_of(2)[..., 0])
    # A JPEG by another name.
    cv2.imwrite(str(data / "frames" / "seq_300.jpg"), image_of(3))
    (data / "frames" / "seq_300.jpg").rename(data / "frames" / "seq_300.png")
    assert make(data, "--compressed", "png") == 0
    found = [content for _, content in messages(data, "/camera/image_raw/compressed")]
    for number in (0, 1):
        np.testing.assert_array_equal(decode_compressed(found[number]), image_of(number))
        assert cv2.imdecode(found[number].data, cv2.IMREAD_UNCHANGED).shape == (HEIGHT, WIDTH, 3)
    assert found[2].format == "mono8; png compressed "
    assert found[3].data[:4].tobytes() == b"\x89PNG"


@pytest.mark.parametrize("compression", ["none", "png"])
def test_used_bits_of_16_bit_images(data: Path, compression: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(NAMES):
        deep = image_of(number).astype(np.uint16) << 4
        cv2.imwrite(str(data / "frames" / f"{name}.png"), deep[..., ::-1])
    topic = "/camera/image_raw" if compression == "none" else "/camera/image_raw/compressed"
    assert make(data, "--compressed", compression) == 0
    line = f"bag make: {data / 'frames'}: 16-bit images with no pixel above 4095 of 65535"
    assert capsys.readouterr().err.count(line) == 1
    assert decode_message(messages(data, topic)[0][1]).max() == 15
    assert make(data, "--compressed", compression, "--used-bits", "12", "--overwrite") == 0
    assert "16-bit" not in capsys.readouterr().err
    np.testing.assert_array_equal(decode_message(messages(data, topic)[0][1]), image_of(0))


def test_repeat_goes_on_in_time_with_the_same_frames_and_labels(data: Path) -> None:
    assert make(data, "--repeat", "3", "--rate", "10") == 0
    images, truths = messages(data, "/camera/image_raw"), messages(data, "/gt/labels")
    assert [message.stamp_ns for message, _ in images] == [NS + place * NS // 10 for place in range(9)]
    assert len(truths) == 6
    for place in (1, 4, 7):
        np.testing.assert_array_equal(decode_image(images[place][1]), image_of(1))


def test_a_field_of_view_gives_a_camera_info_beside_the_images(data: Path) -> None:
    assert make(data, "--field-of-view", "90", "--image-topic", "/front/image_raw", "--frame-id", "lens") == 0
    infos = messages(data, "/front/camera_info")
    assert [message.stamp_ns for message, _ in infos] == [
        message.stamp_ns for message, _ in messages(data, "/front/image_raw")
    ]
    info = infos[0][1]
    assert (info.width, info.height, info.header.frame_id) == (WIDTH, HEIGHT, "lens")
    assert info.k.reshape(3, 3) == pytest.approx(np.array([[16, 0, 15.5], [0, 16, 11.5], [0, 0, 1]]))
    np.testing.assert_array_equal(info.p.reshape(3, 4)[:, :3], info.k.reshape(3, 3))


def test_without_labels_and_field_of_view_there_are_images_alone(data: Path) -> None:
    assert make(data, labels=False) == 0
    with Bag(data / "out") as bag:
        assert list(bag.topics) == ["/camera/image_raw"]


def test_the_same_command_makes_the_same_messages(data: Path) -> None:
    assert make(data) == 0
    first = [message for message, _ in messages(data, "/camera/image_raw")]
    assert make(data, "--overwrite") == 0
    assert [message for message, _ in messages(data, "/camera/image_raw")] == first


def spoil(data: Path, case: str) -> list[str]:
    frames, labels = data / "frames", data / "labels"
    write = {
        "label without frame": lambda: cv2.imwrite(str(labels / "seq_7.png"), labels_of(0)),
        "colours": lambda: cv2.imwrite(str(labels / "seq_10.png"), image_of(0)),
        "16 bit": lambda: cv2.imwrite(str(labels / "seq_10.png"), labels_of(0).astype(np.uint16) + 1000),
        "jpeg labels": lambda: cv2.imwrite(str(labels / "seq_10.jpg"), labels_of(0)),
        "other size": lambda: cv2.imwrite(str(labels / "seq_10.png"), labels_of(0)[:-1]),
        "damaged label": lambda: (labels / "seq_10.png").write_bytes(b"nothing"),
        "empty label": lambda: (labels / "seq_10.png").touch(),
        "damaged frame": lambda: (frames / "seq_100.png").write_bytes(b"nothing"),
        "two frames": lambda: cv2.imwrite(str(frames / "seq_10.bmp"), image_of(0)),
        "two labels": lambda: cv2.imwrite(str(labels / "seq_2.bmp"), labels_of(0)),
        "out exists": lambda: (data / "out").mkdir(),
        "no images": lambda: [path.unlink() for path in frames.iterdir()],
        "no folder": lambda: [*(path.unlink() for path in labels.iterdir()), labels.rmdir()],
    }
    options = {
        "rate": ["--rate", "0"],
        "rate that is none": ["--rate", "nan"],
        "start": ["--start", "0"],
        "repeat": ["--repeat", "0"],
        "field of view": ["--field-of-view", "180"],
        "topic": ["--image-topic", "/camera image"],
        "one topic": ["--truth-topic", "camera/image_raw"],
    }
    if case in write:
        write[case]()
    return options.get(case, [])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("label without frame", "seq_7.png has no image of that name in"),
        ("colours", "(its --dataset)"),
        ("16 bit", "seq_10.png has label id 1011, and a bag's label images hold 0 to 255: name it among --void-ids"),
        ("jpeg labels", "seq_10.jpg is a JPEG, which alters labels"),
        ("other size", "seq_10.png has 32x23 pixels and its image 32x24"),
        ("damaged label", "seq_10.png is damaged or no image"),
        ("empty label", "seq_10.png is damaged or no image"),
        ("damaged frame", "seq_100.png cannot be read"),
        ("two frames", "seq_10.bmp and seq_10.png have one name"),
        ("two labels", "seq_2.bmp and seq_2.png are both labels of seq_2.png"),
        ("out exists", "out exists"),
        ("no images", "frames holds no images"),
        ("no folder", "labels does not exist"),
        ("rate", "--rate is 0.0; it must be above 0"),
        ("rate that is none", "--rate is nan"),
        ("start", "--start is 0.0; it must be above 0 seconds"),
        ("repeat", "--repeat is 0; it must be 1 or more"),
        ("field of view", "--field-of-view is 180.0"),
        ("topic", "--image-topic is '/camera image', which is no name of a topic"),
        ("one topic", "--image-topic and --truth-topic are both /camera/image_raw"),
    ],
)
def test_what_cannot_become_a_bag_is_one_line_and_leaves_nothing(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str, reason: str
) -> None:
    # So that some of the bag is on the disk when it fails.
    monkeypatch.setattr("stmem_ros.bag.make.BagWriter", partial(BagWriter, part_messages=1))
    options = spoil(data, case)
    before = sorted(data.rglob("*"))
    assert make(data, *options) == 1
    shown = capsys.readouterr()
    assert reason in shown.err and shown.err.startswith("bag make: ") and shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize("ids", ["", "a", "1,,2", "65536", "-1"])
def test_void_ids_that_are_none_are_refused(data: Path, ids: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make(data, f"--void-ids={ids}")
    assert caught.value.code == 2
    assert "must be label ids 0 to 65535 with commas between" in capsys.readouterr().err


def test_making_a_bag_imports_neither_ros_nor_the_training_side(data: Path) -> None:
    code = "import sys; from stmem_ros.bag.__main__ import main; main(sys.argv[1:]); print(sorted(sys.modules))"
    arguments = ["make", "--frames", str(data / "frames"), str(data / "out")]
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    modules = done.stdout.splitlines()[-1]
    assert "'stmem_ros.bag.make'" in modules
    for module, kind in itertools.product(("rclpy", "training", "torch"), ("'{}'", "'{}.")):
        assert kind.format(module) not in modules


def test_camvid_as_a_bag_is_camvid(shared: Path, tmp_path: Path) -> None:
    frames, labels = (tmp_path / name for name in ("frames", "labels"))
    frames.mkdir()
    labels.mkdir()
    for path in sorted((shared / "camvid" / "val").iterdir())[:3]:
        (frames / path.name).symlink_to(path)
        (labels / f"{path.stem}.png").symlink_to(shared / "camvid" / "valannot" / f"{path.stem}.png")
    assert make(tmp_path, "--void-ids", "11") == 0
    images, truths = messages(tmp_path, "/camera/image_raw"), messages(tmp_path, "/gt/labels")
    assert len(images) == len(truths) == 3
    for path, (_, image), (_, truth) in zip(sorted(frames.iterdir()), images, truths, strict=True):
        np.testing.assert_array_equal(decode_image(image)[..., ::-1], cv2.imread(str(path)))
        raw = cv2.imread(str(labels / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(truth.data.reshape(raw.shape), np.where(raw == 11, 255, raw))
