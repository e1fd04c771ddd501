"""Between NumPy images and ROS image messages, one copy each way and nothing else."""

from __future__ import annotations

import array

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from stmem_ros.encode import encode_image

# The least effort: label images are flat, and more makes them hardly smaller.
PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def to_array(image: NDArray[np.uint8]) -> array.array[int]:
    """The bytes of a uint8 array of any shape, as message fields take them without looking at each one.

    Assigning the ndarray itself, or `array('B', ndarray)`, converts every element and is 3000 times slower.
    """
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image, np.uint8).data)
    return data


def to_image_msg(image: NDArray[np.uint8], encoding: str, header: Header) -> Image:
    """An Image of a uint8 array: `(H, W)` for `mono8`, `(H, W, 3)` for `rgb8`; rows are not padded."""
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * channels,
        data=to_array(image),
    )


def to_png_msg(image: NDArray[np.uint8], header: Header) -> CompressedImage:
    """`(H, W)` as a lossless PNG, its format as image_transport writes it."""
    data = encode_image(image, ".png", PNG_OPTIONS)
    return CompressedImage(header=header, format="mono8; png compressed ", data=to_array(data))


def to_jpeg_msg(image: NDArray[np.uint8], quality: int, header: Header) -> CompressedImage:
    """`(H, W, 3)` RGB as a JPEG of quality 1 to 100."""
    data = encode_image(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=to_array(data))


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds since the epoch; any field values, also such as rclpy's own Time refuses."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def stamp_from_ns(nanoseconds: int) -> Time:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)
