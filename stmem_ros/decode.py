"""Image messages, of ROS or of a bag, to RGB arrays. What is no camera image is an `ImageError` for a person."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST_SIDE = 16
LARGEST_ASPECT = 10

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
    """A sensor_msgs/CompressedImage to `(H, W, 3)` RGB uint8. Raises ImageError."""
    return decode_encoded(np.frombuffer(message.data, np.uint8), f"of format {message.format!r} ")


def decode_encoded(data: NDArray[np.uint8], kind: str = "") -> NDArray[np.uint8]:
    """The bytes of an image file (JPEG, PNG, whatever OpenCV reads) to `(H, W, 3)` RGB uint8. Raises ImageError."""
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:
        image = None
    if image is None:
        raise ImageError("data", f"{data.size} bytes {kind}are no image that OpenCV can read")
    _check_size(*image.shape[:2])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


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
    try:
        # Imported here: compiled builds crash beside NumPy 2, so only an encoding that needs it pays that risk.
        from cv_bridge import CvBridge

        image = np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:
        raise ImageError(
            "encoding",
            f"encoding {message.encoding!r} is not supported, nor could cv_bridge convert it "
            f"({type(error).__name__}: {' '.join(str(error).split())}); supported: {known}",
        ) from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError("encoding", f"encoding {message.encoding!r} is not supported; supported: {known}")
    return image
