"""Label images as they are stored: ids, places in a palette, or colours, none of them altered on the way.

Image readers make grey levels of PNG's 1, 2 and 4 bits (id 1 becomes 255, 85 or 17) and colours of palettes. So the
file's header is rewritten before OpenCV decodes it: what is left says 8-bit grey, and the numbers come as they are.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.decode import check_compressed, check_size, decode_image, rows, unturned, upright
from stmem_ros.image_header import (
    JPEG_START,
    PNG_SIGNATURE,
    WEBP_KIND,
    WEBP_START,
    HeaderError,
    png_chunks,
    read_header,
)
from stmem_ros.lfs import BEGIN, ONLY_A_POINTER
from stmem_ros.tiff_tags import TiffTags

LOSSY = "which alters labels: give them as PNG, made from what they were before that; they cannot be mended"
READ = "PNG, BMP, TIFF and lossless WebP"
ID_ENCODINGS = {"mono8": np.uint8, "8UC1": np.uint8, "mono16": np.uint16, "16UC1": np.uint16, "32SC1": np.int32}
COLOR_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "8UC3", "8UC4")

_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _COLOR_MAP, _TILE_WIDTH = 256, 258, 259, 262, 320, 322
_BLACK_IS_ZERO, _PALETTE = 1, 3
# TIFF's compressions without loss: none, fax, LZW, deflate, LZMA, Zstandard, PackBits.
_LOSSLESS = (1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000)


class LabelFormatError(Exception):
    """A file or message that is no label image; the reason goes on after its name."""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelImage:
    """`pixels` as stored: `(H, W)` numbers or `(H, W, 3)` RGB, uint8 or uint16.

    `palette` `(N, 3)` RGB uint8 has the colour of each number if the file says so.
    """

    pixels: NDArray[Any]
    palette: NDArray[np.uint8] | None = None

    def ids(self) -> NDArray[Any] | None:
        """`(H, W)` numbers, of a palette the places in it; None for colours. Three equal channels are a number."""
        if self.pixels.ndim == 2:
            return self.pixels
        first = self.pixels[..., 0]
        equal = all(np.array_equal(first, self.pixels[..., channel]) for channel in (1, 2))
        return np.ascontiguousarray(first) if equal else None

    def colors(self) -> NDArray[np.uint8] | None:
        """`(H, W, 3)` RGB; None for 16-bit colours, and for numbers without a palette.

        Raises LabelFormatError for a number that the palette lacks.
        """
        if self.pixels.ndim == 3:
            return self.pixels if self.pixels.dtype == np.uint8 else None
        if self.palette is None:
            return None
        if int(self.pixels.max()) >= len(self.palette):
            raise LabelFormatError(f"has place {self.pixels.max()} of a palette of {len(self.palette)} colours")
        return np.asarray(self.palette[self.pixels], np.uint8)


def decode_label_file(data: NDArray[np.uint8]) -> LabelImage:
    """The bytes of a label image file, upright as `decode_encoded` has the image that it belongs to.

    Raises LabelFormatError.
    """
    stored, orientation = unturned(data)
    image = _decode(stored.tobytes())
    return dataclasses.replace(image, pixels=np.ascontiguousarray(upright(image.pixels, orientation)))


def decode_label_message(message: Any) -> LabelImage:
    """A sensor_msgs/Image or CompressedImage of labels.

    Raises ImageError for a damaged one, LabelFormatError for one that is no label image.
    """
    if not hasattr(message, "encoding"):
        data = bytes(message.data)
        if data.startswith(JPEG_START):
            raise LabelFormatError("is a JPEG, which alters labels: record them raw or as PNG")
        check_compressed(data, f"{len(data)} bytes")
        return _decode(data)
    if message.encoding in COLOR_ENCODINGS:
        return LabelImage(decode_image(message))
    if message.encoding not in ID_ENCODINGS:
        known = ", ".join((*ID_ENCODINGS, *COLOR_ENCODINGS))
        raise LabelFormatError(f"has encoding {message.encoding!r}; label images may have {known}")
    check_size(message.height, message.width)
    return LabelImage(_as_ids(rows(message, np.dtype(ID_ENCODINGS[message.encoding]), 1)))


def _decode(data: bytes) -> LabelImage:
    try:
        if data.startswith(PNG_SIGNATURE):
            return _png(data)
        if data.startswith(JPEG_START):
            raise LabelFormatError(f"is a JPEG, {LOSSY}")
        if data.startswith(WEBP_START) and data[8:12] == WEBP_KIND:
            if not read_header(data).lossless:
                raise LabelFormatError(f"is a lossy WebP, {LOSSY}")
            return _from_opencv(data, 8)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith((b"II", b"MM")):
            return _tiff(data)
    except (HeaderError, ValueError, struct.error) as error:
        raise LabelFormatError("is damaged or no image") from error
    if data.startswith(BEGIN):
        raise LabelFormatError(ONLY_A_POINTER)
    raise LabelFormatError(f"is damaged or no image: label images are read as {READ}")


def _png(data: bytes) -> LabelImage:
    """All but header and pixels is left out: transparency and orientation would change what OpenCV gives."""
    palette = None
    kept = [PNG_SIGNATURE]
    for chunk in png_chunks(data):
        content = data[chunk.place : chunk.end]
        if chunk.kind == b"IHDR":
            bits, color = content[8], content[9]
            indexed = color == 3
            content = content[:9] + b"\0" + content[10:] if indexed else content
        elif chunk.kind == b"PLTE" and indexed:
            palette = np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)
        if chunk.kind in (b"IHDR", b"IDAT", b"IEND"):
            checksum = zlib.crc32(chunk.kind + content)
            kept.append(struct.pack(">I4s", len(content), chunk.kind) + content + struct.pack(">I", checksum))
            if chunk.kind == b"IDAT" and data[chunk.end : chunk.end + 4] != kept[-1][-4:]:
                raise LabelFormatError("is damaged: the checksum of its pixels is wrong")
    return _from_opencv(b"".join(kept), bits, palette)


def _bmp(data: bytes) -> LabelImage:
    (start, header) = struct.unpack_from("<II", data, 10)
    old = header == 12
    (bits,) = struct.unpack_from("<H", data, 24 if old else 28)
    if bits > 8:
        return _from_opencv(data, 8)
    entry = 3 if old else 4
    (used,) = (0,) if old else struct.unpack_from("<I", data, 46)
    count = min(used or 1 << bits, (start - 14 - header) // entry, 1 << bits)
    first = 14 + header
    changed = bytearray(data)
    palette = np.frombuffer(data, np.uint8, count * entry, first).reshape(count, entry)[:, 2::-1]
    for number in range(count):
        # Each place in the palette gets its own number for a colour.
        changed[first + number * entry : first + number * entry + 3] = bytes((number, number, number))
    image = _from_opencv(bytes(changed), 8)
    if image.pixels.ndim != 2:
        raise LabelFormatError("is a BMP of an unusual kind: save it as PNG")
    return dataclasses.replace(image, palette=palette)


def _tiff(data: bytes) -> LabelImage:
    try:
        tags = TiffTags(data)
    except ValueError as error:
        raise LabelFormatError(f"{error}: save it as PNG") from error
    if tags.number(_COMPRESSION, 1) not in _LOSSLESS:
        raise LabelFormatError(f"is a TIFF compressed in a way (number {tags.number(_COMPRESSION, 1)}) {LOSSY}")
    bits, meaning = tags.number(_BITS, 1), tags.number(_PHOTOMETRIC, _BLACK_IS_ZERO)
    packed = bits in (2, 4) and not tags.numbers(_TILE_WIDTH)
    if meaning == 0 or not (packed or bits in (1, 8, 16, 32)):
        raise LabelFormatError(f"is a TIFF of {bits} bits and photometric interpretation {meaning}: save it as PNG")
    palette = None
    if meaning == _PALETTE:
        colors = np.array(tags.numbers(_COLOR_MAP), np.int64).reshape(3, -1).T
        palette = (colors >> 8 if colors.max(initial=0) > 255 else colors).astype(np.uint8)
        tags = TiffTags(tags.with_number(_PHOTOMETRIC, _BLACK_IS_ZERO))
    if not packed:
        return _from_opencv(tags.data, bits, palette)
    # OpenCV reads neither 2 nor 4 bits. As bytes they are an image of 8 bits and fewer columns.
    width = tags.number(_WIDTH, 0)
    bytes_ = TiffTags(tags.with_number(_WIDTH, -(-width * bits // 8))).with_number(_BITS, 8)
    columns = np.unpackbits(_from_opencv(bytes_, 8).pixels, axis=1).reshape(-1, bits)
    numbers = np.packbits(np.pad(columns, ((0, 0), (8 - bits, 0))), axis=1)
    return LabelImage(np.ascontiguousarray(numbers.reshape(-1, -(-width * bits // 8) * 8 // bits)[:, :width]), palette)


def _as_ids(pixels: NDArray[Any]) -> NDArray[Any]:
    """uint8 or uint16, if the values fit. Raises LabelFormatError."""
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if not np.issubdtype(pixels.dtype, np.integer):
        raise LabelFormatError(f"has values of type {pixels.dtype}; label ids are whole numbers 0 to 65535")
    if pixels.min() < 0 or pixels.max() > 65535:
        raise LabelFormatError(f"has values from {pixels.min()} to {pixels.max()}; label ids are 0 to 65535")
    return pixels.astype(np.uint16)


def _from_opencv(data: bytes, bits: int, palette: NDArray[np.uint8] | None = None) -> LabelImage:
    """`bits` of a number as stored, which OpenCV stretches to 8."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None or not image.size:
        raise LabelFormatError("is damaged or no image")
    image = _as_ids(image)
    if image.ndim == 3:
        return LabelImage(np.ascontiguousarray(image[..., 2::-1]))
    if bits < 8:
        image = image // (255 // ((1 << bits) - 1))
    return LabelImage(image, palette)
