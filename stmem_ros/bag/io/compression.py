"""zstd and lz4 as bags use them, from the packages that rosbags brings."""

from __future__ import annotations

import sys
from collections.abc import Callable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

import lz4.frame  # type: ignore[import-untyped]

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

__all__ = ["ZSTD_MAGIC", "decompressor", "zstd"]


def decompressor(name: str) -> Callable[[bytes], bytes] | None:
    """Unpacks one stream piece by piece, so that a stream that is cut off gives what lies before the cut."""
    if name == "":
        return bytes
    if name == "zstd":
        return zstd.ZstdDecompressor().decompress
    if name == "lz4":
        return lz4.frame.LZ4FrameDecompressor().decompress
    return None
