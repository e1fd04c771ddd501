"""Image messages, of ROS or of a bag, to RGB arrays. What is no camera image is an `ImageError` for a person."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.bridge import bridge_failure
from stmem_ros.files import one_line
from stmem_ros.image_header import HeaderError, read_header

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
_FLOAT = {"32FC1": _COLOR["mono"], "32FC3": _COLOR["bgr"]}


class ImageError(Exception):
    """A message that cannot be used as a camera image. `kind` is a short word for counting."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def decode_image(message: Any) -> NDArray[np.uint8]:
    """A sensor_msgs/Image to `(H, W, 3)` RGB uint8; a view of the message where its bytes already are that.

    8-bit colour, mono and Bayer, YUV 4:2:2, and 16-bit of either byte order (its upper 8 bits) are read
    here; float images must lie in 0..1; other encodings go through cv_bridge. Raises ImageError.
    The first of those takes as long as it takes to see whether cv_bridge works (`bridge_failure`).
    """
    height, width = message.height, message.width
    _check_size(height, width)
    encoding = message.encoding
    if encoding in _EIGHT_BIT:
        channels, conversion = _EIGHT_BIT[encoding]
        if channels == 2 and width % 2:
            raise ImageError("size", f"encoding {encoding} needs an even width; this image has {width}")
        pixels = _rows(message, np.dtype(np.uint8), channels)
    elif encoding in _SIXTEEN_BIT:
        channels, conversion = _SIXTEEN_BIT[encoding]
        sixteen = _rows(message, np.dtype(np.uint16), channels)
        if bool(message.is_bigendian) == (sys.byteorder == "little"):
            sixteen = sixteen.byteswap()
        pixels = (sixteen >> 8).astype(np.uint8)
    elif encoding in _FLOAT:
        channels, conversion = _FLOAT[encoding]
        pixels = _from_float(_rows(message, np.dtype(np.float32), channels), encoding, bool(message.is_bigendian))
    else:
        return _through_cv_bridge(message)
    return pixels if conversion is None else cv2.cvtColor(np.ascontiguousarray(pixels), conversion)


def decode_compressed(message: Any) -> NDArray[np.uint8]:
    """A sensor_msgs/CompressedImage, JPEG, PNG or WebP, to `(H, W, 3)` RGB uint8. Raises ImageError.

    Its size is bounded before anything is decoded. It is as the sensor has it: what a JPEG says of its orientation
    is not followed, since the camera's calibration knows nothing of it.
    """
    data = np.frombuffer(message.data, np.uint8)
    what = f"{data.size} bytes of format {_quoted(message.format)}"
    try:
        header = read_header(data.tobytes())
    except HeaderError as error:
        raise ImageError("data", f"{what} are no image that OpenCV can read: this {error}") from error
    height, width = header.height, header.width
    _check_size(height, width)
    if height * width > LARGEST_PIXELS:
        raise ImageError("size", f"{what} claim to be {width}x{height}; at most {LARGEST_PIXELS} pixels are read")
    if header.scans > MOST_SCANS:
        raise ImageError("data", f"{what} have {header.scans} scans; at most {MOST_SCANS} are read")
    image = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, what)
    if image.shape[:2] != (height, width):
        raise ImageError("data", f"{what} claim to be {width}x{height}, but hold {image.shape[1]}x{image.shape[0]}")
    return image


def decode_encoded(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of an image file (JPEG, PNG, whatever OpenCV reads) to `(H, W, 3)` RGB uint8, as a person sees it.

    Raises ImageError. For the user's own files: what they claim is not bounded.
    """
    return _decode(data, cv2.IMREAD_COLOR, f"{data.size} bytes")


def _decode(data: NDArray[np.uint8], flags: int, what: str) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise ImageError("data", f"{what} are no image that OpenCV can read")
    _check_size(*image.shape[:2])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _quoted(text: str) -> str:
    """What a message calls itself may be of any length; a log line may not."""
    return repr(text) if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]!r}..."


def _check_size(height: int, width: int) -> None:
    if height == 0 or width == 0:
        raise ImageError("size", f"the image is {width}x{height}: it has no pixels")
    if min(height, width) < SMALLEST_SIDE or max(height, width) > LARGEST_ASPECT * min(height, width):
        raise ImageError(
            "size",
            f"the image is {width}x{height}; sides must be at least {SMALLEST_SIDE} pixels "
            f"and differ by at most {LARGEST_ASPECT} times",
        )


def _rows(message: Any, dtype: np.dtype, channels: int) -> NDArray:
    """The message's bytes as `(H, W, C)`, or `(H, W)` for one channel, without the padding of its rows."""
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
    return pixels.reshape(height, width) if channels == 1 else pixels.reshape(height, width, channels)


def _from_float(pixels: NDArray, encoding: str, big_endian: bool) -> NDArray[np.uint8]:
    if big_endian == (sys.byteorder == "little"):
        pixels = pixels.byteswap()
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
