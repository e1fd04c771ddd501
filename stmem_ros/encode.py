"""Images as PNG or JPEG, in memory or as files. OpenCV says by a return value alone that it could not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.files import one_line, whole_file


class EncodeError(OSError):
    """An image that cannot be encoded; one line."""


def encode_image(image: NDArray[np.uint8], ending: str, options: Sequence[int] = ()) -> NDArray[np.uint8]:
    """`(H, W)`, or `(H, W, 3)` RGB, as the bytes of a file whose name ends in `ending`; `options` are OpenCV's.

    Raises EncodeError, such as for a JPEG of more than 65500 rows.
    """
    failure = f"an image of shape {image.shape} cannot be written as {ending}"
    try:
        bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(ending, bgr, options)
    except cv2.error as error:
        raise EncodeError(f"{failure}: {one_line(error)}") from error
    if not done:
        raise EncodeError(f"{failure}: OpenCV refuses it")
    return data.reshape(-1)


def write_image(
    path: Path, image: NDArray[np.uint8], options: Sequence[int] = (), *, survive_power_loss: bool = True
) -> None:
    """`encode_image` into a file, whole or not at all; the folder is made. Raises OSError that names the file.

    Without `survive_power_loss` nobody waits for the disk.
    """
    data = encode_image(image, path.suffix, options).tobytes()
    try:
        with whole_file(path, survive_power_loss) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
