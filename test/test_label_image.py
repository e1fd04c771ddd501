"""Label images of every kind as they are stored, and images as they are to be seen; Pillow is the reference."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from stmem_ros.decode import decode_compressed, decode_encoded
from stmem_ros.image_header import read_header
from stmem_ros.label_image import LabelFormatError, decode_label_file

HEIGHT, WIDTH = 19, 37
RANDOM = np.random.default_rng(0)
PALETTE = RANDOM.integers(0, 256, (256, 3)).astype(np.uint8)
# First row and column, and steps, of Adam7's passes.
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
KINDS += [(4, 8), (4, 16), (6, 8), (6, 16)]


def numbers(limit: int = 256, channels: int = 1, dtype: type = np.uint8) -> np.ndarray:
    pixels = RANDOM.integers(0, limit, (HEIGHT, WIDTH, channels)).astype(dtype)
    return pixels[..., 0] if channels == 1 else pixels


def packed_rows(pixels: np.ndarray, bits: int) -> np.ndarray:
    """`(H, bytes)` of pixels `(H, W)` or `(H, W, C)`, each channel of `bits` bits, big-endian."""
    flat = pixels.reshape(len(pixels), -1).astype(">u2" if bits == 16 else np.uint8)
    if bits >= 8:
        return np.ascontiguousarray(flat).view(np.uint8).reshape(len(pixels), -1)
    return np.packbits(np.unpackbits(flat[..., None], axis=2)[..., 8 - bits :].reshape(len(pixels), -1), axis=1)


def png(pixels: np.ndarray, color: int, bits: int, interlaced: bool = False, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    raw = b""
    for row, column, rows, columns in PASSES if interlaced else ((0, 0, 1, 1),):
        part = pixels[row::rows, column::columns]
        if part.size:
            raw += b"".join(b"\0" + line.tobytes() for line in packed_rows(part, bits))
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    palette = chunk(b"PLTE", PALETTE[: 1 << bits].tobytes()) if color == 3 else b""
    data = chunk(b"IHDR", header) + palette + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def transparency(color: int, bits: int) -> bytes:
    content = {0: b"\0\1", 2: b"\0\1\0\1\0\1", 3: bytes(range(1 << min(bits, 3)))}[color]
    return struct.pack(">I", len(content)) + b"tRNS" + content + struct.pack(">I", zlib.crc32(b"tRNS" + content))


def labels_of(data: bytes) -> Any:
    return decode_label_file(np.frombuffer(data, np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("color", "bits", "see_through"),
    [(*kind, False) for kind in KINDS] + [(*kind, True) for kind in KINDS if kind[0] in (0, 2, 3)],
)
def test_a_png_gives_the_numbers_that_it_holds(color: int, bits: int, interlaced: bool, see_through: bool) -> None:
    pixels = numbers(1 << bits, CHANNELS[color], np.uint16 if bits == 16 else np.uint8)
    data = png(pixels, color, bits, interlaced, transparency(color, bits) if see_through else b"")
    image = labels_of(data)
    if color in (2, 6):
        np.testing.assert_array_equal(image.pixels, pixels[..., :3])
        assert image.ids() is None
    else:
        np.testing.assert_array_equal(image.ids(), pixels[..., 0] if color == 4 else pixels)
    if color == 3:
        np.testing.assert_array_equal(image.colors(), PALETTE[pixels])
    pillow = Image.open(io.BytesIO(data))
    if color == 3:
        np.testing.assert_array_equal(image.ids(), np.asarray(pillow))
    elif bits == 8 or (bits == 16 and color == 0):
        ours = image.pixels[..., 0] if color == 4 else image.pixels
        np.testing.assert_array_equal(
            ours, np.asarray(pillow).reshape(HEIGHT, WIDTH, -1)[..., : ours.ndim * 2 - 3].squeeze()
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_three_equal_channels_are_ids(dtype: type) -> None:
    ids = numbers(200, dtype=dtype)
    np.testing.assert_array_equal(labels_of(png(np.dstack([ids] * 3), 2, 8 * ids.itemsize)).ids(), ids)
    if dtype is np.uint8:
        data = saved(Image.fromarray(ids).convert("RGB"), "WEBP", lossless=True)
        np.testing.assert_array_equal(labels_of(data).ids(), ids)


def bmp(pixels: np.ndarray, bits: int) -> bytes:
    rows = packed_rows(pixels, bits)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))[::-1]
    palette = b"".join(bytes((*color[::-1], 0)) for color in PALETTE[: 1 << bits].tolist())
    sizes = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, 0, rows.size, 0, 0, 0, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 54 + len(palette) + rows.size, 0, 0, 54 + len(palette))
        + sizes
        + palette
        + rows.tobytes()
    )


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_bmp_gives_the_places_in_its_palette(bits: int) -> None:
    pixels = numbers(1 << bits)
    image = labels_of(bmp(pixels, bits))
    np.testing.assert_array_equal(image.ids(), pixels)
    np.testing.assert_array_equal(image.ids(), np.asarray(Image.open(io.BytesIO(bmp(pixels, bits)))))
    np.testing.assert_array_equal(image.colors(), PALETTE[pixels])


def test_other_bmps() -> None:
    ids = numbers()
    np.testing.assert_array_equal(labels_of(saved(Image.fromarray(ids), "BMP")).ids(), ids)
    colors = numbers(256, 3)
    np.testing.assert_array_equal(labels_of(saved(Image.fromarray(colors), "BMP")).colors(), colors)


def tiff(pixels: np.ndarray, bits: int, indexed: bool, order: str) -> bytes:
    """Of one strip."""
    rows = packed_rows(pixels, bits).tobytes()
    colors = np.repeat(PALETTE[: 1 << bits].T.astype(np.uint16) * 257, 1).tobytes()
    if order == ">":
        colors = np.frombuffer(colors, np.uint16).astype(">u2").tobytes()
    entries = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, 3 if indexed else 1), (273, 8), (277, 1)]
    entries += [(278, HEIGHT), (279, len(rows))]
    directory = 8 + len(rows) + len(rows) % 2
    table = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    count = len(entries) + indexed
    if indexed:
        table += struct.pack(f"{order}HHII", 320, 3, 3 << bits, directory + 6 + 12 * count)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}I", directory) + rows + b"\0" * (len(rows) % 2)
    return head + struct.pack(f"{order}H", count) + table + bytes(4) + colors


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("bits", "indexed"), [(1, False), (2, False), (4, False), (8, False), (1, True), (2, True), (4, True), (8, True)]
)
def test_a_tiff_gives_the_numbers_that_it_holds(bits: int, indexed: bool, order: str) -> None:
    pixels = numbers(1 << bits)
    image = labels_of(tiff(pixels, bits, indexed, order))
    np.testing.assert_array_equal(image.ids(), pixels)
    if indexed:
        np.testing.assert_array_equal(image.colors(), PALETTE[pixels])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "I", "RGB"])
def test_tiffs_of_pillow(mode: str, compression: str | None) -> None:
    pixels = numbers(256, 3 if mode == "RGB" else 1, {"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8))
    stored = Image.fromarray(pixels > 100) if mode == "1" else Image.fromarray(pixels)
    if mode == "P":
        stored = Image.fromarray(pixels, "P")
        stored.putpalette(PALETTE.tobytes())
    image = labels_of(saved(stored, "TIFF", compression=compression))
    if mode == "RGB":
        np.testing.assert_array_equal(image.colors(), pixels)
    else:
        np.testing.assert_array_equal(image.ids(), pixels > 100 if mode == "1" else pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(Image.fromarray(numbers()), "JPEG"), "is a JPEG, which alters labels: give them as PNG"),
        (saved(Image.fromarray(numbers(256, 3)), "WEBP"), "is a lossy WebP, which alters labels"),
        (saved(Image.fromarray(numbers(256, 3)), "TIFF", compression="jpeg"), "is a TIFF compressed in a way"),
        (saved(Image.fromarray(numbers().astype(np.float32)), "TIFF"), "has values of type float32"),
        (
            saved(Image.fromarray(-numbers().astype(np.int32)), "TIFF"),
            "has values from -255 to 0; label ids",
        ),
        (saved(Image.fromarray(numbers()), "GIF"), "is damaged or no image: label images are read as PNG, BMP, TIFF"),
        (b"hello", "is damaged or no image"),
        (b"", "is damaged or no image"),
        (b"II*\0", "is a TIFF that is cut off"),
    ],
)
def test_what_alters_labels_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(LabelFormatError) as caught:
        labels_of(data)
    assert reason in str(caught.value)


def test_a_number_that_the_palette_lacks_has_no_colour() -> None:
    data = png(numbers(4), 3, 2).replace(PALETTE[:4].tobytes(), PALETTE[:2].tobytes())
    place = data.index(b"PLTE")
    short = data[: place - 4] + struct.pack(">I", 6) + data[place : place + 10]
    short += struct.pack(">I", zlib.crc32(data[place : place + 10])) + data[place + 14 :]
    with pytest.raises(LabelFormatError, match="place 3 of a palette of 2 colours"):
        labels_of(short).colors()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_damage_is_refused_or_alters_nothing(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    ids = numbers(16)
    stored = Image.fromarray(ids).convert("RGB") if kind == "WEBP" else Image.fromarray(ids)
    whole = saved(stored, kind, lossless=True)
    read = 0
    for cut in range(0, len(whole), 7):
        try:
            found = labels_of(whole[:cut]).ids()
        except LabelFormatError:
            continue
        read += 1
        np.testing.assert_array_equal(found, ids)
    assert read < 3
    if kind == "PNG":
        for place in range(whole.index(b"IDAT"), len(whole) - 16):
            damaged = bytearray(whole)
            damaged[place] ^= 0x10
            with pytest.raises(LabelFormatError):
                labels_of(bytes(damaged))
    capfd.readouterr()


SMOOTH = cv2.GaussianBlur(RANDOM.integers(0, 256, (24, 40, 3)).astype(np.uint8), (9, 9), 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_files_are_upright_images_and_labels_alike(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    data = saved(Image.fromarray(SMOOTH), kind, exif=exif, lossless=True)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = decode_encoded(np.frombuffer(data, np.uint8))
    assert image.shape == seen.shape and image.flags.c_contiguous
    assert np.abs(image.astype(int) - seen).max() <= (3 if kind == "JPEG" else 0)
    if kind != "JPEG":
        np.testing.assert_array_equal(labels_of(data).colors(), seen)
    if kind != "TIFF":
        assert read_header(data).orientation == orientation
        # A camera's image is as the sensor has it.
        message = type("CompressedImage", (), {"data": data, "format": kind.lower()})()
        assert decode_compressed(message).shape == SMOOTH.shape


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_in_either_byte_order_and_damaged_exif(order: str) -> None:
    plain = saved(Image.fromarray(SMOOTH), "JPEG")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    block = mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)
    for length, expected in itertools.chain(((length, 1) for length in range(0, 20, 3)), ((len(block), 6),)):
        content = b"Exif\0\0" + block[:length]
        data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + plain[2:]
        assert read_header(data).orientation == expected
        turned = decode_encoded(np.frombuffer(data, np.uint8))
        assert turned.shape[:2] == ((40, 24) if expected == 6 else (24, 40))
