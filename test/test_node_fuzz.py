"""Whatever a camera topic carries: an image of the size that the message says, or one line that says why not."""

from __future__ import annotations

import array
import collections
import math
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")

from graph import Graph, wait_for
from sensor_msgs.msg import CompressedImage, Image

from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.decode import LARGEST_PIXELS, MOST_SCANS, ImageError, decode_compressed, decode_image
from stmem_ros.labels import LabelSet
from stmem_ros.network import SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.node.messages import stamp_to_ns, to_image_msg

FUZZ = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
# Where cases follow one another in one node, a shorter story is another one.
STORY = settings(FUZZ, phases=[Phase.generate], max_examples=150)
MIB = 2**20
# Nothing here is above 200x200 pixels, but in what it claims. What a compressed image claims may be allocated, where
# it is no more than LARGEST_PIXELS: the image twice, as BGR and as RGB, and what a decoder keeps of its own.
MOST_MEMORY = 64 * MIB
BYTES_A_PIXEL = 8
LONGEST_CASE_S = 2.0
SECONDS_A_MEGAPIXEL = 0.05
LONGEST_LINE = 700

# Bytes a pixel; those after the empty line are not supported, or go through cv_bridge where there is one.
ENCODINGS = {
    **dict.fromkeys(("mono8", "8UC1", "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"), 1),
    **dict.fromkeys(("mono16", "16UC1", "bayer_rggb16", "bayer_grbg16", "yuv422", "uyvy", "yuv422_yuy2", "yuyv"), 2),
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), 3),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4", "32FC1"), 4),
    **dict.fromkeys(("rgb16", "bgr16", "16UC3"), 6),
    **dict.fromkeys(("rgba16", "bgra16", "16UC4"), 8),
    "32FC3": 12,
}
UNKNOWN = {"": 1, "nv21": 1, "8SC2": 2, "cmyk8": 4, "64FC1": 8, "RGB8": 3, "rgb8\0": 3, "rgb8\nerror": 3, "x" * 5000: 1}
SIDES = st.sampled_from([0, 1, 15, 16, 17, 31, 32, 48, 64, 161, 2**31, 2**32 - 1])
STAMPS = st.tuples(
    st.one_of(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]), st.integers(-(2**31), 2**31 - 1)),
    st.one_of(st.integers(0, 999_999_999), st.sampled_from([0, 999_999_999, 10**9, 2**32 - 1])),
)
FRAME_IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Pixels, among them NaN and infinities of either byte order.
PATTERNS = [
    bytes(97),
    bytes(range(256)),
    struct.pack("<5f", 0.25, 1, 2, float("nan"), -0.0),
    b"\xff" * 64,
    b"\x3f\0" * 9,
]


def raw_message(
    encoding: str, height: int, width: int, step: int, length: int, bigendian: int = 0, pattern: bytes = b"\x80"
) -> Image:
    data = array.array("B", (pattern * (length // len(pattern) + 1))[:length])
    return Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=bigendian, data=data)


def raw_variants(encoding: str, height: int, width: int, bigendian: int, pattern: bytes, odd: int) -> Iterator[Image]:
    """Messages of one size whose steps and lengths are right, just wrong, and absurd."""
    row = width * (ENCODINGS | UNKNOWN)[encoding]
    whole = height * row
    # A message holds what it holds, whatever it claims.
    for step, length in [
        (row, whole),
        (row, whole - 1),
        (row, whole + odd),
        (row + odd, height * (row + odd)),
        (row - 1, whole),
        (row + 1, whole),
        (0, whole),
        (odd, whole),
        (2**32 - 1, whole),
        (row, 0),
        (row, odd),
    ]:
        yield raw_message(
            encoding, height, width, min(max(step, 0), 2**32 - 1), min(max(length, 0), 400_000), bigendian, pattern
        )


def fits(message: Image) -> bool:
    """Whether the message keeps what its fields promise, apart from its pixels' values."""
    height, width = message.height, message.width
    return (
        message.encoding in ENCODINGS
        and min(height, width) >= 16
        and max(height, width) <= 10 * min(height, width)
        and message.step >= width * ENCODINGS[message.encoding]
        and len(message.data) >= height * message.step
        and not (message.encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv") and width % 2)
    )


class Meter:
    """Counts what became of the cases; none takes more memory or processor time than it may."""

    def __init__(self) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()

    def decode(self, decode: Callable[[Any], np.ndarray], message: Any, claimed: int = 0) -> np.ndarray | None:
        """The image; None where it was refused in a way that is fit for a person.

        `claimed` are the pixels that it claims and may have.
        """
        before, started = self._begin(), time.thread_time()
        try:
            image = decode(message)
        except ImageError as error:
            text = str(error)
            assert text.isprintable() and 0 < len(text) <= LONGEST_LINE, text
            self.outcomes[error.kind] += 1
            return None
        finally:
            assert time.thread_time() - started < LONGEST_CASE_S + SECONDS_A_MEGAPIXEL * claimed * 1e-6
            assert self._peak() - before < MOST_MEMORY + BYTES_A_PIXEL * claimed
        self.outcomes["accepted"] += 1
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        return image

    def _begin(self) -> int:
        Path("/proc/self/clear_refs").write_text("5")
        return self._peak()

    @staticmethod
    def _peak() -> int:
        """The most memory that this process had since it was last asked to forget it, in bytes."""
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


def test_any_raw_message_is_an_image_of_its_size_or_an_image_error() -> None:
    meter = Meter()

    @settings(FUZZ, max_examples=750)
    @given(
        encoding=st.one_of(*map(st.sampled_from, (list(ENCODINGS), list(ENCODINGS), list(UNKNOWN)))),
        height=st.one_of(st.integers(16, 64), SIDES),
        width=st.one_of(st.integers(16, 64), SIDES),
        bigendian=st.sampled_from([0, 1, 255]),
        pattern=st.sampled_from(PATTERNS),
        odd=st.integers(0, 9),
    )
    def check(encoding: str, height: int, width: int, bigendian: int, pattern: bytes, odd: int) -> None:
        for message in raw_variants(encoding, height, width, bigendian, pattern, odd):
            image = meter.decode(decode_image, message)
            if image is not None:
                assert image.shape[:2] == (height, width)
                assert fits(message)
            elif fits(message):
                assert encoding.startswith("32F"), "a good message was refused"

    check()
    assert meter.outcomes.total() >= 7500
    assert {"accepted", "size", "step", "data", "encoding", "float"} <= meter.outcomes.keys()
    assert meter.outcomes["accepted"] >= 1000


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, rows: bytes, depth: int = 8, color: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def picture_files(height: int, width: int) -> dict[str, bytes]:
    """One picture in every kind of file that a topic may carry, and in some that it may not."""
    rgb = cv2.resize(np.random.default_rng(4).integers(0, 256, (7, 9, 3), np.uint8), (width, height))
    gray, deep = rgb[..., 0], rgb.astype(np.uint16) * 257
    jpeg = cv2.imencode(".jpg", rgb)[1].tobytes()
    png = cv2.imencode(".png", rgb)[1].tobytes()
    animation = png_chunk(b"acTL", struct.pack(">II", 2**31, 0)) + png_chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 1, 0, 0)
    )
    # Orientation 6, "turn it": labels are wanted as the sensor has them, and as the calibration is.
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return {
        "jpeg": jpeg,
        "jpeg, grey": cv2.imencode(".jpg", gray)[1].tobytes(),
        "jpeg, progressive": cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
        "jpeg, restarts": cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
        "jpeg, turned": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(turned) + 2) + turned + jpeg[2:],
        "jpeg, padded": jpeg + bytes(40),
        "png": png,
        "png, grey": cv2.imencode(".png", gray)[1].tobytes(),
        "png, 16 bit": cv2.imencode(".png", deep)[1].tobytes(),
        "png, transparent": cv2.imencode(".png", np.dstack([rgb, gray]))[1].tobytes(),
        "png, animated": png[:33] + animation + png[33:],
        "webp": cv2.imencode(".webp", rgb)[1].tobytes(),
        "bmp": cv2.imencode(".bmp", rgb)[1].tobytes(),
        "tiff": cv2.imencode(".tiff", rgb)[1].tobytes(),
        "nothing": b"",
        "text": b"no picture at all",
        "jpeg's start": b"\xff\xd8\xff",
        "png's start": b"\x89PNG\r\n\x1a\n",
    }


FILE_SIZE = (40, 56)
FILES = picture_files(*FILE_SIZE)
GOOD_FILES = [name for name in FILES if name.partition(",")[0] in ("jpeg", "png", "webp") and name != "png, animated"]
FORMATS = ["jpeg", "png", "rgb8; jpeg compressed bgr8", "", "tiff", "\n", "x" * 5000]
CLAIMS = [(60000, 60000), (2**31 - 1, 2**31 - 1), (8193, 8193), (65535, 65535), (0, 56), (57, 40), (15, 15), (2000, 20)]
# Much more than the file holds, and no more than is read.
LARGE_CLAIMS = [(4096, 4096), (8192, 8000), (2500, 16000)]


def compressed(data: bytes, format_: str = "jpeg") -> CompressedImage:
    return CompressedImage(format=format_, data=array.array("B", data))


def claim(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in its header."""
    if data.startswith(b"\x89PNG") and len(data) > 33:
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data[12:16] == b"VP8L":
        size = (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14 | data[24] >> 4 << 28
        return data[:21] + struct.pack("<I", size) + data[25:]
    for marker in (b"\xff\xc0\x00", b"\xff\xc2\x00"):
        place = data.find(marker)
        if place > 0:
            return data[: place + 5] + struct.pack(">HH", height % 65536, width % 65536) + data[place + 9 :]
    return data


# Of the variants below, those that have another size in the header.
CLAIMING = (9, 10)


def file_variants(data: bytes, cut: float, place: float, bytes_: bytes, size: tuple[int, int]) -> Iterator[bytes]:
    """The file whole, cut off, with bytes replaced, added and taken out, and with another size in its header."""
    at = round(place * len(data))
    yield data
    yield data[: round(cut * len(data))]
    yield data[:-1]
    yield data[:at] + bytes_ + data[at + len(bytes_) :]
    yield data[:at] + bytes_ + data[at:]
    yield data[:at] + data[at + len(bytes_) :]
    yield data + bytes_
    yield data[:40] + bytes_ + data[40 + len(bytes_) :]
    yield data[: at % 40] + bytes_ + data[at % 40 + len(bytes_) :]
    yield claim(data, *size)
    yield claim(data, *size)[: max(at, 30)]
    yield bytes_ * 50


def test_any_compressed_message_is_an_image_of_its_size_or_an_image_error(capfd: pytest.CaptureFixture[str]) -> None:
    meter, large = Meter(), collections.Counter()

    @settings(FUZZ, max_examples=250)
    @given(
        name=st.sampled_from(list(FILES)),
        format_=st.sampled_from(FORMATS),
        cut=st.floats(0, 1),
        place=st.floats(0, 1),
        bytes_=st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b"\xff\xc0", b"\xff\xda", b"\xff\xd9"])),
        size=st.sampled_from([*CLAIMS, *LARGE_CLAIMS]),
    )
    def check(name: str, format_: str, cut: float, place: float, bytes_: bytes, size: tuple[int, int]) -> None:
        for number, data in enumerate(file_variants(FILES[name], cut, place, bytes_, size)):
            claims = number in CLAIMING
            pixels = math.prod(size) if claims and size in LARGE_CLAIMS else 0
            image = meter.decode(decode_compressed, compressed(data, format_), pixels)
            if number == 0:
                assert (image is not None) == (name in GOOD_FILES)
                assert image is None or image.shape[:2] == FILE_SIZE
            if number in (1, 2) and len(data) < len(FILES[name]) and name != "jpeg, padded":
                assert image is None, "half an image was taken for a whole one"
            if image is not None:
                assert image.shape[:2] in (FILE_SIZE, size[::-1]) if claims else max(image.shape) <= 2000
                if math.prod(image.shape[:2]) == pixels:
                    large[size] += 1

    check()
    # libjpeg makes up what the file does not hold.
    assert set(large) == set(LARGE_CLAIMS), "not all large images were decoded"
    assert meter.outcomes.total() >= 2500
    assert {"accepted", "size", "data"} <= meter.outcomes.keys()
    # What libpng and libjpeg say of each such frame.
    capfd.readouterr()


def blank_png(side: int) -> bytes:
    """Black, one bit a pixel: a few kilobytes, whatever the side."""
    deflate = zlib.compressobj(9)
    rows = b"".join(deflate.compress(bytes(side // 8 + 2)) for _ in range(side)) + deflate.flush()
    return png_of(side, side, rows, depth=1, color=0)


def many_scans(count: int) -> bytes:
    """A progressive JPEG that asks for its last scan `count` times more."""
    data = FILES["jpeg, progressive"]
    last, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    return data[:end] + data[last:end] * count + data[end:]


BOMBS = {
    "a PNG that claims 60000x60000": lambda: png_of(60000, 60000, zlib.compress(bytes(10**6))),
    "a PNG of 81 million pixels in ten kilobytes": lambda: blank_png(9000),
    "a PNG that claims 2^31-1 on a side": lambda: png_of(2**31 - 1, 2**31 - 1, b""),
    "a PNG whose chunk claims four gigabytes": lambda: FILES["png"][:33] + b"\xff" * 4 + FILES["png"][37:],
    "a JPEG that claims 65500x65500": lambda: claim(FILES["jpeg"], 65500, 65500),
    "a progressive JPEG that claims 65500x65500": lambda: claim(FILES["jpeg, progressive"], 65500, 65500),
    "a JPEG whose first scan lies before its size": lambda: FILES["jpeg"][:2] + b"\xff\xda\0\x02" + FILES["jpeg"][2:],
    "a JPEG of a thousand scans": lambda: many_scans(1000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = compressed(BOMBS[name]())

    def decoded(*_: object) -> None:
        raise AssertionError("OpenCV was asked to decode it")

    monkeypatch.setattr(cv2, "imdecode", decoded)
    meter = Meter()
    assert meter.decode(decode_compressed, message) is None


def test_the_largest_image_that_is_read_takes_memory_and_time_in_proportion_to_its_pixels() -> None:
    side = math.isqrt(LARGEST_PIXELS)
    message = compressed(blank_png(side), "png")
    assert len(message.data) < 10_000
    image = Meter().decode(decode_compressed, message, LARGEST_PIXELS)
    assert image is not None and image.shape == (side, side, 3) and not image.any()


def test_the_bounds_leave_room_for_what_cameras_send() -> None:
    assert LARGEST_PIXELS >= 8192 * 6144
    assert decode_compressed(compressed(many_scans(10))).shape[:2] == FILE_SIZE
    assert MOST_SCANS >= 20


def test_a_jpeg_that_is_to_be_turned_stays_as_the_sensor_has_it() -> None:
    image = decode_compressed(compressed(FILES["jpeg, turned"]))
    np.testing.assert_array_equal(image, decode_compressed(compressed(FILES["jpeg"])))


@pytest.fixture
def checkpoint(tmp_path: Path, pixel_base: str) -> Path:
    torch.manual_seed(3)
    config = SegmenterConfig(pixel_base, 5, stf=STFConfig((4, 4), (4, 4), 3, feedforward=8, stride=4))
    labels = LabelSet([str(k) for k in range(5)], [(k, k, k) for k in range(5)])
    path = tmp_path / "tiny.safetensors"
    info = CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 64)
    save_checkpoint(path, build_segmenter(config), info)
    return path


ANY_RAW = st.builds(
    lambda number, *fields: list(raw_variants(*fields))[number],
    st.integers(0, 10),
    st.one_of(st.sampled_from(list(ENCODINGS)), st.sampled_from(list(UNKNOWN))),
    st.one_of(st.integers(16, 64), SIDES),
    st.one_of(st.integers(16, 64), SIDES),
    st.sampled_from([0, 1]),
    st.sampled_from(PATTERNS),
    st.integers(0, 9),
)
GOOD_RAW = st.builds(
    lambda *fields: next(raw_variants(*fields, 0, bytes(97), 0)),
    st.sampled_from(list(ENCODINGS)),
    st.sampled_from([16, 40, 64]),
    st.sampled_from([16, 40, 64]),
)
COMPRESSED = st.builds(
    lambda number, name, format_, *fields: compressed(list(file_variants(FILES[name], *fields))[number], format_),
    st.integers(0, 11),
    st.sampled_from(list(FILES)),
    st.sampled_from(FORMATS),
    st.floats(0, 1),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=12),
    st.sampled_from(CLAIMS),
)


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_node_labels_what_it_accepts_and_nothing_else(
    ros_domain: int, checkpoint: Path, transport: str, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = Graph({"checkpoint": str(checkpoint), "image_transport": transport})
    decode, messages = (decode_image, GOOD_RAW | ANY_RAW) if transport == "raw" else (decode_compressed, COMPRESSED)
    try:
        graph.start()
        statistics, sent, expected = graph.stream.statistics, [], []

        @STORY
        @given(message=messages, stamp=STAMPS, frame_id=FRAME_IDS)
        def check(message: Any, stamp: tuple[int, int], frame_id: str) -> None:
            message.header.stamp.sec, message.header.stamp.nanosec = stamp
            message.header.frame_id = frame_id
            if transport == "raw":
                # Text ends at a zero on its way through ROS.
                message.encoding = message.encoding.partition("\0")[0]
            sent.append(message)
            try:
                height, width, _ = decode(message).shape
            except ImageError:
                height = width = 0
            good = height > 0 and stamp[1] < 10**9
            if good:
                expected.append((stamp_to_ns(message.header.stamp), frame_id.partition("\0")[0], height, width))
            graph.send(message)
            wait_for(
                lambda: statistics.labelled + statistics.rejected.total() == len(sent),
                f"message {len(sent)} to be labelled or rejected",
            )
            assert statistics.labelled == len(expected)

        check()
        assert len(sent) >= 150 and 20 <= len(expected) < len(sent)
        # All that the node explained is of the kinds that a frame may have; "failure" is what nobody foresaw.
        assert set(statistics.rejected) <= {"size", "step", "data", "encoding", "float", "stamp"}
        last = (np.zeros((48, 64, 3), np.uint8), 5_000_000_000)
        if transport == "raw":
            graph.send(to_image_msg(last[0], "rgb8", sent[-1].header))
        else:
            graph.send(compressed(FILES["jpeg"]))
        graph.wait_labels(len(expected) + 1)
        received = [
            (stamp_to_ns(label.header.stamp), label.header.frame_id, label.height, label.width)
            for label in graph.received["labels"]
        ]
        assert received[:-1] == expected
        assert all(len(label.data) == label.height * label.step for label in graph.received["labels"])
    finally:
        graph.close()
        capfd.readouterr()


def test_the_fuzzed_encodings_are_all_that_are_read() -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(raw_message("no such encoding", 16, 16, 16, 256))
    supported = str(caught.value).rpartition("supported: ")[2].split(", ")
    assert set(ENCODINGS) <= set(supported)
    assert {name.rstrip("0123456789") for name in supported} == {name.rstrip("0123456789") for name in ENCODINGS}
    assert sys.byteorder in ("little", "big")
