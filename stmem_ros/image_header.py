"""What a JPEG, PNG or WebP says of itself, read without decoding: a few bytes may claim gigabytes, or hours of work."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

from stmem_ros.tiff_tags import exif_orientation

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WEBP_START, WEBP_KIND = b"RIFF", b"WEBP"
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
# Start of frame: those that libjpeg reads are among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
# Channels of PNG's colour types; a palette's colours have three.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


class HeaderError(ValueError):
    """Bytes that are no whole JPEG, PNG or WebP; the reason goes on after `this`."""


@dataclasses.dataclass(frozen=True)
class Header:
    """`kind` is `jpeg`, `png` or `webp`; `bits` are those of a channel.

    `scans` are a JPEG's passes over the image: one, or about ten where it is progressive. `orientation` is EXIF's, 1 to
    8: how the stored pixels are to be turned, as `upright` does it.
    """

    kind: str
    height: int
    width: int
    channels: int = 3
    bits: int = 8
    scans: int = 1
    orientation: int = 1
    lossless: bool = True


def read_header(data: bytes) -> Header:
    """Raises HeaderError for another format, and for what is cut off."""
    if data.startswith(PNG_SIGNATURE):
        return _png(data)
    if data.startswith(JPEG_START):
        return _jpeg(data)
    if data.startswith(WEBP_START) and data[8:12] == WEBP_KIND:
        return _webp(data)
    raise HeaderError("is neither JPEG, PNG nor WebP")


def _webp(data: bytes) -> Header:
    """The sizes of a canvas and of the image in it may differ: OpenCV makes room for the canvas."""
    if len(data) < 30 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise HeaderError("is a WebP that is cut off")
    kind = data[12:16]
    if kind == b"VP8X":
        height, width = 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        height, width = 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise HeaderError("is a WebP of an unknown kind")
    chunks = _webp_chunks(data)
    exif = chunks.get(b"EXIF", b"")
    return Header("webp", height, width, orientation=exif_orientation(exif), lossless=b"VP8L" in chunks)


def _webp_chunks(data: bytes) -> dict[bytes, bytes]:
    chunks: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        chunks.setdefault(kind, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return chunks


def _png(data: bytes) -> Header:
    chunks = png_chunks(data)
    width, height, bits, color = struct.unpack_from(">IIBB", data, chunks[0].place)
    exif = next((data[chunk.place : chunk.end] for chunk in chunks if chunk.kind == b"eXIf"), b"")
    return Header("png", height, width, _PNG_CHANNELS.get(color, 3), bits, orientation=exif_orientation(exif))


@dataclasses.dataclass(frozen=True)
class PngChunk:
    """`place` and `end` of a chunk's content in the file."""

    kind: bytes
    place: int
    end: int


def png_chunks(data: bytes) -> list[PngChunk]:
    """Each chunk, the header first, all of them there: OpenCV makes room for what a chunk claims.

    Raises HeaderError.
    """
    chunks: list[PngChunk] = []
    position = len(PNG_SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
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
        chunks.append(PngChunk(kind, position + 8, position + 8 + length))
        position += 12 + length
    return chunks


def _jpeg(data: bytes) -> Header:
    frame: tuple[int, int, int, int] | None = None
    exif = b""
    for marker, start, end in _jpeg_segments(data):
        if marker in _FRAMES and frame is None and start + 6 <= len(data):
            frame = struct.unpack_from(">BHHB", data, start)
        elif marker == _APP1 and not exif and data.startswith(b"Exif\0\0", start):
            exif = data[start:end]
    if frame is None:
        raise HeaderError("is a JPEG without a size")
    # OpenCV up to 4.5 gives what is there of such an image, and garbage below it.
    if data.rfind(JPEG_END) < end:
        raise HeaderError("is a JPEG that is cut off: its end is missing")
    bits, height, width, channels = frame
    scans = data.count(JPEG_SCAN, end)
    return Header("jpeg", height, width, channels, bits, scans, exif_orientation(exif), lossless=False)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, and where its content begins and ends, of all before the first scan, which ends where it begins."""
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
            yield marker, position - 2, position - 2
            return
        length = int.from_bytes(data[position : position + 2], "big")
        yield marker, position + 2, position + length
        position += length
