"""Which bits of a 16-bit image hold the picture: many cameras fill 10 or 12 of them, and no message says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

ALL_BITS = 16
# The parameter's values: 0 is all bits too, but with a warning if they are not all used.
UNKNOWN = 0
CHOICES = (UNKNOWN, *range(8, ALL_BITS + 1))
# What sensors have. With more bits a picture is not dark enough to tell.
_USUAL = (8, 10, 12, 14)


class UsedBits:
    """Makes 8 bits of the 16-bit images of one camera (or topic, or data set).

    Calls `warn` once with a line if `bits` does not fit the pixels that come: `what` names the images in it, and
    `setting` what to set.
    """

    def __init__(
        self,
        bits: int = UNKNOWN,
        warn: Callable[[str], object] | None = None,
        what: str = "the images",
        setting: str = "used_bits",
    ) -> None:
        self.bits = bits
        self.what = what
        self._warn, self._setting = warn, setting
        # The value of `bits` of which we have warned.
        self._warned: int | None = None

    def to_eight(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """The upper 8 of the used bits. What is above the used bits becomes 255."""
        if self._warn is not None and self._warned != self.bits and self.bits != ALL_BITS:
            line = self._misfit(int(pixels.max()))
            if line:
                self._warned = self.bits
                self._warn(line)
        if self.bits in (UNKNOWN, ALL_BITS):
            return (pixels >> 8).astype(np.uint8)
        return np.minimum(pixels >> self.bits - 8, 255).astype(np.uint8)

    def _misfit(self, largest: int) -> str:
        """Why `bits` is doubtful for an image whose largest pixel is `largest`; empty if it is not."""
        needed = next((bits for bits in _USUAL if largest < 1 << bits), ALL_BITS)
        if self.bits == UNKNOWN:
            if not largest or needed == ALL_BITS:
                return ""
            most = (1 << needed) - 1
            return (
                f"{self.what} have 16 bits, but no pixel above {most} of 65535, and are dark to the network: if the "
                f"camera uses {needed} bits, set {self._setting} to {needed}; if they are all used, to {ALL_BITS}"
            )
        most = (1 << self.bits) - 1
        if largest <= most:
            return ""
        return (
            f"{self.what} have a pixel of {largest}, and {self.bits} bits end at {most}, so what is brighter is white "
            f"to the network: set {self._setting} to {needed}"
        )


# For images that are known to fill their bits.
FULL = UsedBits(ALL_BITS)
