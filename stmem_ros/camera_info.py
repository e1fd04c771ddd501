"""A camera's calibration made to fit its labels: the same for a node's messages and for those of a bag.

A calibration is a sensor_msgs/CameraInfo, of rclpy or of rosbags: both have the same fields.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

# Of a size in a message.
LARGEST = 2**32 - 1


def covered(info: Any) -> tuple[float, float]:
    """`(height, width)` of the image that `info` is of: its region of interest, binned."""
    height = (info.roi.height or info.height) / max(info.binning_y, 1)
    width = (info.roi.width or info.width) / max(info.binning_x, 1)
    return height, width


def fitted(info: Any, image: tuple[int, int]) -> Any:
    """`info` for the camera's `image` `(height, width)`, at whatever size; where it has none, it gets the image's.

    Drivers of cameras that are not calibrated leave it out. Raises ValueError for an image of another shape: scaled to
    the smaller one's longer side, the other one's shorter side is more than a pixel off, which is more than rounding.
    """
    height, width = image
    if not (info.width and info.height):
        info = copy.deepcopy(info)
        info.height, info.width = image
        info.binning_x = info.binning_y = 0
        roi = info.roi
        roi.x_offset = roi.y_offset = roi.height = roi.width = 0
        roi.do_rectify = False
    own_height, own_width = covered(info)
    if abs(own_width * height - width * own_height) > max(own_width, own_height, width, height):
        own = f"{round(own_width)}x{round(own_height)}"
        if (own_height, own_width) != (info.height, info.width):
            own += f" (what roi and binning leave of {info.width}x{info.height})"
        raise ValueError(
            f"it is for images of {own}, and the camera's are {width}x{height}, another shape; calibrate the camera at "
            f"{width}x{height} (what the driver crops belongs into roi)"
        )
    return info


def scaled(info: Any, size: tuple[int, int], header: Any) -> Any:
    """`info` for an image of `size` `(height, width)`, as image_proc scales it: focal lengths, centres and region.

    The distortion and the rotation stay. `info` has a size, as `fitted` gives one.
    Raises ValueError where a size comes out larger than a message holds.
    """
    height, width = size
    own_height, own_width = covered(info)
    across, down = width / own_width, height / own_height
    roi = info.roi
    sizes = [round(value * across) for value in (info.width, roi.x_offset, roi.width)]
    sizes += [round(value * down) for value in (info.height, roi.y_offset, roi.height)]
    if max(sizes) > LARGEST:
        raise ValueError(
            f"{info.width}x{info.height} with a region of {roi.width}x{roi.height} cannot be scaled to {width}x{height}"
        )
    result = copy.deepcopy(info)
    result.header = header
    result.width, result.roi.x_offset, result.roi.width = sizes[:3]
    result.height, result.roi.y_offset, result.roi.height = sizes[3:]
    rows = np.array([[across], [down], [1.0]])
    result.k = (np.asarray(info.k, np.float64).reshape(3, 3) * rows).ravel()
    result.p = (np.asarray(info.p, np.float64).reshape(3, 4) * rows).ravel()
    return result
