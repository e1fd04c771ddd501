"""Image messages, of ROS or of a bag, to RGB arrays. What is no camera image is an `ImageError` for a person."""

from __future__ import annotations

import re
import sys
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.bridge import bridge_failure
from stmem_ros.files import one_line
from stmem_ros.image_header import Header, HeaderError, read_header
from stmem_ros.lfs import BEGIN, ONLY_A_POINTER
from stmem_ros.tiff_tags import ORIENTATION, TiffTags
from stmem_ros.used_bits import FULL, UsedBits

P = TypeVar("P", bound=np.generic)

SMALLEST_SIDE = 16
LARGEST_ASPECT = 10
# Of compressed images, whose bytes say nothing of the memory (pixels) and the time (scans) that they cost.
LARGEST_PIXELS = 2**26
MOST_SCANS = 50
LONGEST_QUOTE = 60

# Encoding: (channels, OpenCV's conversion to RGB or None where it already is).
_COLOR = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by its second row.
    "bayer_rggb": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg": (1, cv2.COLOR_BayerGB2RGB),
}
_EIGHT_BIT = {f"{name}8": entry for name, entry in _COLOR.items()} | {
    "8UC1": _COLOR["mono"],
    "8UC3": _COLOR["bgr"],
    "8UC4": _COLOR["bgra"],
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
_SIXTEEN_BIT = {f"{name}16": entry for name, entry in _COLOR.items()} | {
    "16UC1": _COLOR["mono"],
    "16UC3": _COLOR["bgr"],
    "16UC4": _COLOR["bgra"],
}
# The encoding before the `;` of a compressed image's format.
_BAYER = re.compile(r"bayer_([rgb]{4})\d*", re.IGNORECASE)
_FLOAT = {"32FC1": _COLOR["mono"], "32FC3": _COLOR["bgr"]}


class ImageError(Exception):
    """A message that cannot be used as a camera image. `kind` is a short word for counting."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def decode_message(message: Any, used_bits: UsedBits = FULL) -> NDArray[np.uint8]:
    """A sensor_msgs/Image or CompressedImage, of ROS or of a bag, to `(H, W, 3)` RGB uint8. Raises ImageError.

    `used_bits` makes 8 bits of 16.
    """
    decode = decode_image if hasattr(message, "encoding") else decode_compressed
    return decode(message, used_bits)


def decode_image(message: Any, used_bits: UsedBits = FULL) -> NDArray[np.uint8]:
    """A sensor_msgs/Image to `(H, W, 3)` RGB uint8; a view of the message where its bytes already are that.

    8-bit colour, mono and Bayer, YUV 4:2:2, and 16-bit of either byte order are read here; float images must lie in
    0..1; other encodings go through cv_bridge. Raises ImageError.
    The first of those takes as long as it takes to see whether cv_bridge works (`bridge_failure`).
    """
    height, width = message.height, message.width
    check_size(height, width)
    encoding = message.encoding
    if encoding in _EIGHT_BIT:
        channels, conversion = _EIGHT_BIT[encoding]
        if channels == 2 and width % 2:
            raise ImageError("size", f"encoding {encoding} needs an even width; this image has {width}")
        pixels = rows(message, np.dtype(np.uint8), channels)
    elif encoding in _SIXTEEN_BIT:
        channels, conversion = _SIXTEEN_BIT[encoding]
        pixels = used_bits.to_eight(rows(message, np.dtype(np.uint16), channels))
    elif encoding in _FLOAT:
        channels, conversion = _FLOAT[encoding]
        pixels = _from_float(rows(message, np.dtype(np.float32), channels), encoding)
    else:
        return _through_cv_bridge(message)
    return pixels if conversion is None else cv2.cvtColor(np.ascontiguousarray(pixels), conversion)


def decode_compressed(message: Any, used_bits: UsedBits = FULL) -> NDArray[np.uint8]:
    """A sensor_msgs/CompressedImage, JPEG, PNG or WebP, to `(H, W, 3)` RGB uint8. Raises ImageError.

    Its size is bounded before anything is decoded. It is as the sensor has it: what a file says of its orientation is
    not followed, since the camera's calibration knows nothing of it. A Bayer mosaic, as image_transport sends it in one
    channel, becomes colours.
    """
    data = np.frombuffer(message.data, np.uint8)
    what = f"{data.size} bytes of format {_quoted(message.format)}"
    header = check_compressed(data.tobytes(), what)
    mosaic = _mosaic(message.format) if header.channels == 1 else None
    image = _decode(data, cv2.IMREAD_COLOR if mosaic is None else cv2.IMREAD_GRAYSCALE, what)
    height, width = header.height, header.width
    if image.shape[:2] != (height, width):
        raise ImageError("data", f"{what} claim to be {width}x{height}, but hold {image.shape[1]}x{image.shape[0]}")
    if image.dtype == np.uint16:
        image = used_bits.to_eight(image)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if mosaic is None else mosaic)


def check_compressed(data: bytes, what: str) -> Header:
    """The header of a JPEG, PNG or WebP that `decode_compressed` takes. Raises ImageError; `what` is its subject."""
    try:
        header = read_header(data)
    except HeaderError as error:
        raise ImageError("data", f"{what} are no image that OpenCV can read: this {error}") from error
    height, width = header.height, header.width
    check_size(height, width)
    if height * width > LARGEST_PIXELS:
        raise ImageError("size", f"{what} claim to be {width}x{height}; at most {LARGEST_PIXELS} pixels are read")
    if header.scans > MOST_SCANS:
        raise ImageError("data", f"{what} have {header.scans} scans; at most {MOST_SCANS} are read")
    return header


def _mosaic(format_: str) -> int | None:
    """OpenCV's conversion of a one-channel picture, if its format says that it is a Bayer mosaic. Raises ImageError.

    image_transport writes `bayer_rggb8; png compressed ` for a mosaic, and `... compressed mono8` once it is grey.
    """
    encoding, _, rest = format_.partition(";")
    made = rest.partition("compressed")[2].strip()
    if not encoding.strip().lower().startswith("bayer_") or (made and not made.lower().startswith("bayer_")):
        return None
    match = _BAYER.fullmatch(encoding.strip())
    entry = _COLOR.get(f"bayer_{match[1].lower()}") if match else None
    if entry is None:
        known = ", ".join(name for name in _COLOR if name.startswith("bayer_"))
        raise ImageError("encoding", f"format {_quoted(format_)} is of no Bayer pattern that is read: {known}")
    return entry[1]


def decode_encoded(data: NDArray[np.uint8], used_bits: UsedBits = FULL) -> NDArray[np.uint8]:
    """The bytes of an image file (JPEG, PNG, whatever OpenCV reads) to `(H, W, 3)` RGB uint8, as a person sees it.

    Upright, that is: what the file says of its orientation is followed. Raises ImageError, also for a size that no
    camera has. For the user's own files: what they claim is not bounded.
    """
    image = decode_file(data, used_bits)
    check_size(*image.shape[:2])
    return image


def decode_file(data: NDArray[np.uint8], used_bits: UsedBits = FULL) -> NDArray[np.uint8]:
    """`decode_encoded` of an image of any size."""
    what = f"{data.size} bytes"
    data, orientation = unturned(data)
    image = _decode(data, cv2.IMREAD_COLOR, what)
    if image.dtype == np.uint16:
        image = used_bits.to_eight(image)
    return np.ascontiguousarray(upright(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), orientation))


def unturned(data: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """An image file that OpenCV decodes as it is stored, and its orientation, 1 to 8, for `upright`.

    OpenCV turns a TIFF whatever it is told, so its tag is replaced.
    """
    content = data.tobytes()
    try:
        return data, read_header(content).orientation
    except HeaderError:
        pass
    try:
        tags = TiffTags(content)
    except ValueError:
        return data, 1
    orientation = tags.number(ORIENTATION, 1)
    if not 2 <= orientation <= 8:
        return data, 1
    return np.frombuffer(tags.with_number(ORIENTATION, 1), np.uint8), orientation


def upright(image: NDArray[P], orientation: int) -> NDArray[P]:
    """`(H, W, ...)` pixels as they are stored, turned as EXIF's orientation (1 to 8) says; a view."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def _decode(data: NDArray[np.uint8], flags: int, what: str) -> NDArray[Any]:
    """`(H, W)` or `(H, W, 3)` BGR, uint8 or uint16, as it is stored. Raises ImageError."""
    try:
        flags |= cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        image = None
    if image is None and data[: len(BEGIN)].tobytes() == BEGIN:
        raise ImageError("data", f"it {ONLY_A_POINTER}")
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise ImageError("data", f"{what} are no image that OpenCV can read")
    return image


def _quoted(text: str) -> str:
    """What a message calls itself may be of any length; a log line may not."""
    return repr(text) if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]!r}..."


def check_size(height: int, width: int) -> None:
    """Raises ImageError for a size that no camera has."""
    if height == 0 or width == 0:
        raise ImageError("size", f"the image is {width}x{height}: it has no pixels")
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_ASPECT * min(height, width):
        raise ImageError(
            "size",
            f"the image is {width}x{height}; sides must be at least {SMALLEST_SIDE} pixels "
            f"and differ by at most {LARGEST_ASPECT} times",
        )


def rows(message: Any, dtype: np.dtype, channels: int) -> NDArray:
    """The message's bytes as `(H, W, C)`, or `(H, W)` for one channel, without the padding of its rows.

    They are in the byte order of this machine. Raises ImageError.
    """
    height, width, step = message.height, message.width, message.step
    row = width * channels * dtype.itemsize
    if step < row:
        raise ImageError("step", f"step is {step} bytes, but a row of {width} pixels of {message.encoding} takes {row}")
    data = np.frombuffer(message.data, np.uint8)
    if data.size < height * step:
        raise ImageError(
            "data", f"data has {data.size} bytes, but height {height} times step {step} is {height * step}"
        )
    pixels = data[: height * step].reshape(height, step)[:, :row]
    if dtype.itemsize > 1:
        pixels = np.ascontiguousarray(pixels).view(dtype)
        if bool(message.is_bigendian) == (sys.byteorder == "little"):
            pixels = pixels.byteswap()
    return pixels.reshape(height, width) if channels == 1 else pixels.reshape(height, width, channels)


def _from_float(pixels: NDArray, encoding: str) -> NDArray[np.uint8]:
    bad = pixels.size - int(np.isfinite(pixels).sum())
    if bad:
        raise ImageError("float", f"the {encoding} image has {bad} values that are NaN or infinite")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise ImageError(
            "float", f"the {encoding} image has values from {low:.3g} to {high:.3g}; a camera image has 0 to 1"
        )
    return (pixels * 255 + 0.5).astype(np.uint8)


def _through_cv_bridge(message: Any) -> NDArray[np.uint8]:
    known = ", ".join(sorted([*_EIGHT_BIT, *_SIXTEEN_BIT, *_FLOAT]))
    unsupported = f"encoding {_quoted(message.encoding)} is not supported"
    height, width, size = message.height, message.width, len(message.data)
    # No encoding has less than a byte a pixel: what is converted is bounded by what came.
    if size < height * max(message.step, width):
        raise ImageError(
            "encoding", f"{unsupported}, nor are {size} bytes enough for {width}x{height}; supported: {known}"
        )
    failure = bridge_failure()
    if failure:
        raise ImageError("encoding", f"{unsupported}, and {failure}; supported: {known}")
    try:
        # Not before the trial: a compiled build may end the process.
        from cv_bridge import CvBridge

        image = np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:
        raise ImageError(
            "encoding",
            f"{unsupported}, nor could cv_bridge convert it "
            f"({type(error).__name__}: {one_line(error)!r:.200}); supported: {known}",
        ) from error
    if image.dtype != np.uint8 or image.shape != (height, width, 3):
        raise ImageError("encoding", f"{unsupported}; supported: {known}")
    return image
