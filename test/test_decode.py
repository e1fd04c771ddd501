"""Image messages of every encoding, good and malformed, as RGB arrays or as an ImageError for a person."""

from __future__ import annotations

import array
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")

from sensor_msgs.msg import CompressedImage, Image

from stmem_ros import bridge
from stmem_ros.decode import ImageError, decode_compressed, decode_image, decode_message
from stmem_ros.used_bits import UsedBits

HEIGHT, WIDTH = 24, 32
# Smooth, so that chroma subsampling and Bayer mosaics keep it nearly whole.
RGB = np.stack(
    np.broadcast_arrays(
        np.linspace(20, 200, WIDTH)[None, :], np.linspace(220, 40, HEIGHT)[:, None], np.full((HEIGHT, WIDTH), 90.0)
    ),
    -1,
).astype(np.uint8)
GRAY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)


def message(encoding: str, pixels: np.ndarray, padding: int = 0, bigendian: int = 0) -> Image:
    """The pixels as a message whose rows end in `padding` bytes of 255."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    data = array.array("B")
    data.frombytes(rows.tobytes())
    return Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=bigendian,
        data=data,
    )


def bayer(pattern: str) -> np.ndarray:
    """The mosaic that a sensor of that pattern (its first two rows' colours, as ROS names it) sees of RGB."""
    channel = {"r": 0, "g": 1, "b": 2}
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for index, color in enumerate(pattern):
        y, x = divmod(index, 2)
        mosaic[y::2, x::2] = RGB[y::2, x::2, channel[color]]
    return mosaic


def yuv422(order: str) -> np.ndarray:
    yuv = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV)
    # OpenCV's packed formats use the video range.
    y = 16 + yuv[..., 0].astype(float) * 219 / 255
    red, green, blue = (RGB[..., index].astype(float) for index in range(3))
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma, chroma = (1, 0) if order == "uyvy" else (0, 1)
    packed[..., luma] = y.round()
    packed[:, 0::2, chroma] = u[:, 0::2].round()
    packed[:, 1::2, chroma] = v[:, 0::2].round()
    return packed


EXACT = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "8UC3": RGB[..., ::-1],
    "rgba8": np.dstack([RGB, np.full_like(GRAY, 3)]),
    "bgra8": np.dstack([RGB[..., ::-1], np.full_like(GRAY, 3)]),
    "8UC4": np.dstack([RGB[..., ::-1], np.full_like(GRAY, 3)]),
    "rgb16": RGB.astype(np.uint16) * 256 + 77,
    "bgr16": RGB[..., ::-1].astype(np.uint16) * 256,
    "rgba16": np.dstack([RGB, GRAY]).astype(np.uint16) * 256,
    "32FC3": (RGB[..., ::-1] / 255).astype(np.float32),
}
EXACT_GRAY = {
    "mono8": GRAY,
    "8UC1": GRAY,
    "mono16": GRAY.astype(np.uint16) * 256 + 200,
    "16UC1": GRAY.astype(np.uint16) * 256,
    "32FC1": (GRAY / 255).astype(np.float32),
}
CLOSE = {f"bayer_{pattern}8": bayer(pattern) for pattern in ("rggb", "bggr", "gbrg", "grbg")} | {
    "bayer_rggb16": bayer("rggb").astype(np.uint16) * 256,
    "yuv422": yuv422("uyvy"),
    "uyvy": yuv422("uyvy"),
    "yuv422_yuy2": yuv422("yuyv"),
    "yuyv": yuv422("yuyv"),
}


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize("encoding", [*EXACT, *EXACT_GRAY])
def test_the_colours_are_the_cameras(encoding: str, padding: int) -> None:
    expected = RGB if encoding in EXACT else np.repeat(GRAY[..., None], 3, -1)
    pixels = EXACT.get(encoding, EXACT_GRAY.get(encoding))
    decoded = decode_image(message(encoding, pixels, padding))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("encoding", CLOSE)
def test_subsampled_colours_are_nearly_the_cameras(encoding: str) -> None:
    decoded = decode_image(message(encoding, CLOSE[encoding], padding=4)).astype(int)
    # The outermost cells of a mosaic are extrapolated.
    assert np.abs(decoded - RGB)[2:-2, 2:-2].max() <= 12


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "32FC1"])
def test_the_byte_order_is_honoured(encoding: str) -> None:
    pixels = EXACT.get(encoding, EXACT_GRAY.get(encoding))
    swapped = message(encoding, pixels.byteswap(), bigendian=1)
    np.testing.assert_array_equal(decode_image(swapped), decode_image(message(encoding, pixels)))


def test_rgb8_is_not_copied() -> None:
    original = message("rgb8", RGB)
    assert np.shares_memory(decode_image(original), np.frombuffer(original.data, np.uint8))


PATTERNS = ("rggb", "bggr", "gbrg", "grbg")


def compressed(pixels: np.ndarray, ending: str, format_: str) -> CompressedImage:
    options = [cv2.IMWRITE_JPEG_QUALITY, 100] if ending == ".jpg" else []
    data = array.array("B", cv2.imencode(ending, pixels, options)[1].tobytes())
    return CompressedImage(format=format_, data=data)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("ending", "format_"),
    [
        (".png", "bayer_{}8; png compressed "),
        (".png", "bayer_{}8;png compressed"),
        (".png", "bayer_{0}8; png compressed bayer_{0}8"),
        (".jpg", "bayer_{}8; jpeg compressed "),
        (".png", "bayer_{}16; png compressed "),
    ],
)
def test_a_compressed_mosaic_has_the_colours_of_the_raw_one(pattern: str, ending: str, format_: str) -> None:
    mosaic = bayer(pattern).astype(np.uint16) * 257 if "16" in format_ else bayer(pattern)
    decoded = decode_message(compressed(mosaic, ending, format_.format(pattern))).astype(int)
    whole = decode_message(message(f"bayer_{pattern}8", bayer(pattern)))
    assert np.abs(decoded - whole).max() <= (24 if ending == ".jpg" else 0)
    assert np.abs(decoded - RGB)[2:-2, 2:-2].mean() < 4


@pytest.mark.parametrize(
    ("pixels", "format_"),
    [
        (GRAY, "bayer_rggb8; jpeg compressed mono8"),
        (GRAY, "bayer_rggb8; png compressed mono8"),
        (GRAY, "mono8; png compressed "),
        (GRAY, "png"),
        (np.dstack([GRAY] * 3), "bayer_rggb8; png compressed bgr8"),
        (np.dstack([GRAY] * 3), "bayer_rggb8; png compressed "),
    ],
)
def test_what_is_no_mosaic_any_more_stays_as_it_is(pixels: np.ndarray, format_: str) -> None:
    decoded = decode_message(compressed(pixels, ".png", format_))
    np.testing.assert_array_equal(decoded, np.repeat(GRAY[..., None], 3, -1))


def test_an_unknown_pattern_is_no_grey_picture() -> None:
    with pytest.raises(ImageError, match="no Bayer pattern that is read: bayer_rggb, bayer_bggr") as caught:
        decode_message(compressed(GRAY, ".png", "bayer_xtrans8; png compressed "))
    assert caught.value.kind == "encoding"


DEEP = {
    "mono16": lambda pixels: message("mono16", pixels),
    "mono16, big-endian": lambda pixels: message("mono16", pixels.byteswap(), bigendian=1),
    "bayer_rggb16": lambda pixels: message("bayer_rggb16", pixels),
    "rgb16": lambda pixels: message("rgb16", np.dstack([pixels] * 3)),
    "png": lambda pixels: compressed(pixels, ".png", "mono16; png compressed "),
    "bayer png": lambda pixels: compressed(pixels, ".png", "bayer_rggb16; png compressed "),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", DEEP)
def test_the_used_bits_of_16_are_the_picture(kind: str, bits: int) -> None:
    deep = (np.full((HEIGHT, WIDTH), 0.5) * (1 << bits)).astype(np.uint16)
    deep[0] = (1 << bits) - 1
    lines: list[str] = []
    unset = UsedBits(0, lines.append, "parameter used_bits")
    dark = decode_message(DEEP[kind](deep), unset)
    assert dark.max() <= 255 >> 16 - bits
    assert lines == [
        f"16-bit images with no pixel above {(1 << bits) - 1} of 65535, which are dark to the network: if the camera "
        f"has {bits} bits, set parameter used_bits to {bits}, if it has all, to 16"
    ]
    decode_message(DEEP[kind](deep), unset)
    assert len(lines) == 1
    unset.bits = bits
    decoded = decode_message(DEEP[kind](deep), unset)
    assert (decoded[4:] == 128).all()
    assert len(lines) == 1


def test_brighter_than_the_used_bits_is_white_and_said() -> None:
    lines: list[str] = []
    decoded = decode_message(message("mono16", GRAY.astype(np.uint16) * 16), UsedBits(10, lines.append))
    np.testing.assert_array_equal(decoded[..., 0], np.minimum(GRAY.astype(int) * 4, 255))
    assert len(lines) == 1 and "but 10 bits end at 1023, and what is brighter is white" in lines[0]
    assert "set used_bits to 12" in lines[0]


@pytest.mark.parametrize("pixels", [np.zeros((24, 32), np.uint16), np.full((24, 32), 20_000, np.uint16)])
@pytest.mark.parametrize("bits", [0, 16])
def test_full_bits_and_black_images_are_not_doubted(pixels: np.ndarray, bits: int) -> None:
    lines: list[str] = []
    np.testing.assert_array_equal(
        decode_message(message("mono16", pixels), UsedBits(bits, lines.append))[..., 0], pixels >> 8
    )
    assert not lines


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_compressed_images_keep_their_colours(ending: str) -> None:
    encoded = cv2.imencode(ending, RGB[..., ::-1])[1]
    data = array.array("B", encoded.tobytes())
    decoded = decode_compressed(CompressedImage(format=ending[1:], data=data)).astype(int)
    assert np.abs(decoded - RGB).max() <= (0 if ending == ".png" else 12)


MALFORMED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown encoding": ({"encoding": "cmyk8"}, "encoding", "'cmyk8' is not supported"),
    "empty encoding": ({"encoding": ""}, "encoding", "'' is not supported"),
    "narrow step": ({"step": 95}, "step", "step is 95 bytes, but a row of 32 pixels of rgb8 takes 96"),
    "short data": ({"data": array.array("B", bytes(2303))}, "data", "2303 bytes, but height 24 times step 96 is 2304"),
    "no data": ({"data": array.array("B")}, "data", "0 bytes"),
    "no rows": ({"height": 0}, "size", "32x0"),
    "no columns": ({"width": 0}, "size", "0x24"),
    "a huge claim": ({"height": 2**32 - 1, "width": 2**32 - 1, "step": 2**32 - 1}, "step", "step is"),
    "a strip": ({"height": 4, "width": 1000}, "size", "1000x4"),
    "odd YUV": ({"encoding": "uyvy", "width": 31}, "size", "even width"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_says_what_is_wrong(name: str) -> None:
    changes, kind, reason = MALFORMED[name]
    bad = message("rgb8", RGB)
    for field, value in changes.items():
        setattr(bad, field, value)
    with pytest.raises(ImageError) as caught:
        decode_image(bad)
    assert caught.value.kind == kind
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (np.inf, "infinite"), (7.5, "7.5"), (-1.0, "-1")])
def test_float_images_must_lie_in_0_to_1(value: float, said: str) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.float32)
    pixels[3, 5] = value
    with pytest.raises(ImageError, match=said):
        decode_image(message("32FC1", pixels))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"no picture"])
def test_compressed_data_that_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"no image that OpenCV can read"):
        decode_compressed(CompressedImage(format="jpeg", data=array.array("B", data)))


# In the place of cv_bridge: knows cmy8, and notes where it is asked for what.
STAND_IN = """
import os, signal, time
from pathlib import Path
import numpy as np

class CvBridge:
    def imgmsg_to_cv2(self, message, desired_encoding):
        with Path(__file__).with_name("asked").open("a") as file:
            print(os.getpid(), message.encoding, file=file)
        {does}
        assert desired_encoding == "rgb8"
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        pixels = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
        return 255 - pixels if message.encoding == "cmy8" else pixels[..., ::-1]
"""


class StandIn:
    """A cv_bridge that is found before any other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._package = folder / "cv_bridge"
        self._package.mkdir()
        self.does("pass")
        monkeypatch.syspath_prepend(folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "cv_bridge"]:
            monkeypatch.delitem(sys.modules, name)

    def does(self, statement: str) -> None:
        """What it does whenever it is used."""
        (self._package / "__init__.py").write_text(STAND_IN.replace("{does}", statement))

    def asked(self) -> list[tuple[int, str]]:
        """In which process, for which encoding."""
        path = self._package / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(process), encoding) for process, _, encoding in (line.partition(" ") for line in lines)]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    bridge.bridge_failure.cache_clear()
    yield StandIn(tmp_path, monkeypatch)
    sys.modules.pop("cv_bridge", None)
    bridge.bridge_failure.cache_clear()


def refusal(encoding: str = "cmy8") -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(message(encoding, 255 - RGB))
    assert caught.value.kind == "encoding" and str(caught.value).isprintable()
    return str(caught.value)


def test_an_encoding_that_cv_bridge_alone_knows_is_read_through_it(stand_in: StandIn) -> None:
    for _ in range(2):
        np.testing.assert_array_equal(decode_image(message("cmy8", 255 - RGB, padding=4)), RGB)
    (tried, _), *asked = stand_in.asked()
    assert tried != os.getpid() and asked == [(os.getpid(), "cmy8")] * 2


def test_a_cv_bridge_that_crashes_costs_the_frame_and_not_the_process(stand_in: StandIn) -> None:
    stand_in.does("os.kill(os.getpid(), signal.SIGSEGV)")
    said = refusal()
    assert "'cmy8' is not supported, and cv_bridge does not work here" in said and "ended with signal 11" in said
    assert ("numpy<2" in said) == (np.lib.NumpyVersion(np.__version__) >= "2.0.0")
    assert refusal() == said
    # It was tried once, and not in this process.
    ((tried, _),) = stand_in.asked()
    assert tried != os.getpid()


def test_a_cv_bridge_that_hangs_is_given_up_and_ended(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "LONGEST_TRIAL_S", 3)
    stand_in.does("time.sleep(1000)")
    assert "did not end within 3 seconds" in refusal()
    assert not [process for process, _ in stand_in.asked() if Path(f"/proc/{process}").exists()]


def test_a_cv_bridge_that_cannot_be_imported_says_why(stand_in: StandIn) -> None:
    stand_in.does("raise ImportError('numpy.core.multiarray failed to import')")
    assert "failed (ImportError: numpy.core.multiarray failed to import)" in refusal()


def test_what_cv_bridge_says_of_a_message_is_fit_for_a_log(stand_in: StandIn) -> None:
    stand_in.does("assert message.encoding == 'bgr8', message.encoding")
    assert "nor could cv_bridge convert it (AssertionError: 'cmy8\\x1b[2J')" in refusal("cmy8\x1b[2J")


def test_without_cv_bridge_no_process_is_started(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    monkeypatch.delattr(subprocess, "run")
    assert "'cmy8' is not supported, and cv_bridge" in (said := refusal()) and "is not installed" in said


ENCODINGS = [*EXACT, *EXACT_GRAY, *CLOSE, "cmyk8", "nv21", "64FC1", "8SC2", "", "rgb8\x00"]


@settings(max_examples=1000, deadline=None)
@given(
    encoding=st.sampled_from(ENCODINGS),
    height=st.integers(0, 70),
    width=st.integers(0, 70),
    step=st.one_of(st.integers(0, 600), st.integers(0, 2**32 - 1)),
    length=st.integers(0, 20000),
    bigendian=st.integers(0, 255),
    seed=st.integers(0, 255),
)
def test_any_message_gives_an_image_of_its_size_or_an_image_error(
    encoding: str, height: int, width: int, step: int, length: int, bigendian: int, seed: int
) -> None:
    data = array.array("B", bytes((seed * index) % 256 for index in range(64)) * (length // 64 + 1))[:length]
    random = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=bigendian, data=data)
    try:
        decoded = decode_image(random)
    except ImageError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert decoded.shape == (height, width, 3) and decoded.dtype == np.uint8
