"""The tags of a TIFF's first image. An EXIF block is a TIFF without pixels."""

from __future__ import annotations

import struct

ORIENTATION = 0x112
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
# Of the types that hold whole numbers: struct's letter.
_LETTERS = {1: "B", 3: "H", 4: "I"}


class TiffTags:
    """Tags as numbers. Raises ValueError if the bytes do not begin as a TIFF does."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._order = _BYTE_ORDERS.get(data[:4], "")
        if not self._order:
            raise ValueError("is no TIFF")
        # Where the type of each tag stands: count and value follow it.
        self._places: dict[int, int] = {}
        try:
            (directory,) = self._unpack("I", 4)
            (count,) = self._unpack("H", directory)
            for place in range(directory + 2, directory + 2 + 12 * count, 12):
                (tag,) = self._unpack("H", place)
                self._places.setdefault(tag, place + 2)
        except struct.error as error:
            raise ValueError("is a TIFF that is cut off") from error

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The values of a tag; empty if it is not there, is cut off, or holds no whole numbers."""
        try:
            letter, count, place = self._entry(tag)
            return self._unpack(f"{count}{letter}", place)
        except (KeyError, struct.error):
            return ()

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag, or `default`."""
        return next(iter(self.numbers(tag)), default)

    def with_number(self, tag: int, number: int) -> bytes:
        """The whole file, with another first value in a tag that is there."""
        letter, _, place = self._entry(tag)
        changed = bytearray(self.data)
        struct.pack_into(f"{self._order}{letter}", changed, place, number)
        return bytes(changed)

    def _entry(self, tag: int) -> tuple[str, int, int]:
        """struct's letter, count, and place of the first value. Raises KeyError and struct.error."""
        place = self._places[tag]
        kind, count = self._unpack("HI", place)
        letter = _LETTERS[kind]
        if count * struct.calcsize(f"={letter}") > 4:
            return letter, count, self._unpack("I", place + 6)[0]
        return letter, count, place + 6

    def _unpack(self, form: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + form, self.data, place)


def exif_orientation(block: bytes) -> int:
    """What an EXIF block says of how the picture is to be turned: 1 to 8, 1 (not at all) if it says nothing."""
    try:
        orientation = TiffTags(block.removeprefix(b"Exif\0\0")).number(ORIENTATION, 1)
    except ValueError:
        return 1
    return orientation if 1 <= orientation <= 8 else 1
