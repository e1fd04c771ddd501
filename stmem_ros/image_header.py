"""What a JPEG, PNG or WebP says of itself, read without decoding: a few bytes may claim gigabytes, or hours of work."""

from __future__ import annotations

import dataclasses
import struct

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WEBP_START, WEBP_KIND = b"RIFF", b"WEBP"
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
# Start of frame: those that libjpeg reads are among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))
_SCAN, _END = 0xDA, 0xD9


class HeaderError(ValueError):
    """Bytes that are no whole JPEG, PNG or WebP; the reason goes on after `this`."""


@dataclasses.dataclass(frozen=True)
class Header:
    """`scans` are a JPEG's passes over the image: one, or about ten where it is progressive."""

    height: int
    width: int
    scans: int


def read_header(data: bytes) -> Header:
    """Raises HeaderError for another format, and for what is cut off."""
    if data.startswith(PNG_SIGNATURE):
        width, height = struct.unpack_from(">II", data, _png_chunks(data)[0][1])
        return Header(height, width, 1)
    if data.startswith(JPEG_START):
        height, width, scans_from = _frame(data)
        # OpenCV up to 4.5 gives what is there of such an image, and garbage below it.
        if data.rfind(JPEG_END) < scans_from:
            raise HeaderError("is a JPEG that is cut off: its end is missing")
        return Header(height, width, data.count(JPEG_SCAN, scans_from))
    if data.startswith(WEBP_START) and data[8:12] == WEBP_KIND:
        return Header(*_webp_size(data), 1)
    raise HeaderError("is neither JPEG, PNG nor WebP")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Height and width. The sizes of a canvas and of the image in it may differ: OpenCV makes room for the canvas."""
    if len(data) < 30 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise HeaderError("is a WebP that is cut off")
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    raise HeaderError("is a WebP of an unknown kind")


def _png_chunks(data: bytes) -> list[tuple[bytes, int]]:
    """Kind and place of each chunk, the header first, all of them there: OpenCV makes room for what a chunk claims."""
    chunks: list[tuple[bytes, int]] = []
    position = len(PNG_SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        if position + 12 > len(data):
            raise HeaderError("is a PNG that is cut off: its end is missing")
        length, kind = struct.unpack_from(">I4s", data, position)
        if (kind == b"IHDR") != (not chunks) or (kind == b"IHDR" and length != 13):
            raise HeaderError("is a PNG whose header is not where it belongs")
        if kind == b"acTL":
            # OpenCV gives memory that nobody wrote where such a file is damaged.
            raise HeaderError("is an animated PNG, which no camera sends")
        if position + 12 + length > len(data):
            raise HeaderError(f"is a PNG that is cut off: {length} bytes of it lie in one chunk")
        chunks.append((kind, position + 8))
        position += 12 + length
    return chunks


def _frame(data: bytes) -> tuple[int, int, int]:
    """Of a JPEG: height, width, and where its first scan begins."""
    size: tuple[int, int] | None = None
    position = len(JPEG_START)
    while True:
        # Decoders skip what is no marker.
        position = data.find(b"\xff", position)
        while 0 <= position < len(data) and data[position] == 0xFF:
            position += 1
        if not 0 < position < len(data) - 2:
            raise HeaderError("is a JPEG that is cut off: it has no image")
        marker = data[position]
        position += 1
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in (_SCAN, _END):
            if size is None:
                raise HeaderError("is a JPEG without a size")
            return *size, position - 2
        if marker in _FRAMES and size is None and position + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, position + 3)
            size = height, width
        position += int.from_bytes(data[position : position + 2], "big")
