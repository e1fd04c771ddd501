"""Which bits of a 16-bit image hold the picture: many cameras fill 10 or 12 of them, and no message says so."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

ALL_BITS = 16
# All bits too, but with a warning if they are not all used.
UNKNOWN = 0
MEANING = (
    "bits of a 16-bit image that the camera fills, such as 12, counted from the lowest; "
    f"{UNKNOWN}: all {ALL_BITS}, with a warning if the images look otherwise"
)
# What sensors have. With more bits a picture is not dark enough to tell.
_USUAL = (8, 10, 12, 14)


class UsedBits:
    """Makes 8 bits of the 16-bit images of one camera, topic or data set.

    `bits` (0 to 16) may change at any time. `warn` is called once, for each value of it, if it does not fit the pixels
    that come; the line goes on after the name of the images, and says what `setting` to set.
    """

    def __init__(
        self, bits: int = UNKNOWN, warn: Callable[[str], object] | None = None, setting: str = "used_bits"
    ) -> None:
        self.bits = bits
        self._warn, self._setting = warn, setting
        # The value of `bits` that we have warned of. Images may be read by several threads.
        self._warned: int | None = None
        self._lock = threading.Lock()

    def to_eight(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """The upper 8 of the used bits. What is above the used bits becomes white."""
        bits = self.bits or ALL_BITS
        if self._warn is not None and self._warned != self.bits and self.bits != ALL_BITS:
            line = self._misfit(int(pixels.max()))
            with self._lock:
                first = bool(line) and self._warned != self.bits
                self._warned = self.bits if first else self._warned
            if first:
                self._warn(line)
        if bits == ALL_BITS:
            return (pixels >> 8).astype(np.uint8)
        pixels = np.minimum(pixels, (1 << bits) - 1)
        return (pixels >> bits - 8 if bits > 8 else pixels << 8 - bits).astype(np.uint8)

    def _misfit(self, largest: int) -> str:
        """Why `bits` is doubtful for an image whose largest pixel is `largest`; empty if it is not."""
        needed = next((bits for bits in _USUAL if largest < 1 << bits), ALL_BITS)
        if self.bits == UNKNOWN:
            if not largest or needed == ALL_BITS:
                return ""
            return (
                f"16-bit images with no pixel above {(1 << needed) - 1} of 65535, which are dark to the network: if "
                f"the camera has {needed} bits, set {self._setting} to {needed}, if it has all, to {ALL_BITS}"
            )
        most = (1 << self.bits) - 1
        if largest <= most:
            return ""
        return (
            f"16-bit images with a pixel of {largest}, but {self.bits} bits end at {most}, and what is brighter is "
            f"white to the network: set {self._setting} to {needed}"
        )


# For images that are known to fill their bits.
FULL = UsedBits(ALL_BITS)


def add_used_bits(group: argparse._ActionsContainer, default: str = str(UNKNOWN)) -> None:
    """`--used-bits`, for commands that read images; `default` is what UNKNOWN means there."""
    bits = range(ALL_BITS + 1)
    text = f"{MEANING} (default: {default})"
    group.add_argument("--used-bits", metavar="BITS", type=int, choices=bits, default=UNKNOWN, help=text)
