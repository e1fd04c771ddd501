"""What goes wrong with bags, as one line for a person."""

from __future__ import annotations

import errno
from datetime import datetime, timezone
from pathlib import Path

from stmem_ros.sources import SourceError


class BagError(SourceError):
    """A bag that cannot be read or written: one line with the path, the reason and what to do."""


def why(error: BaseException) -> str:
    """The reason in one line: a system error's own words, else what the exception says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def when(stamp_ns: int) -> str:
    """A time of recording as people read it: `2024-05-01 12:00:00.250 UTC`."""
    try:
        moment = datetime.fromtimestamp(stamp_ns // 1_000_000_000, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return f"{stamp_ns / 1e9:.3f} s"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{stamp_ns // 1_000_000 % 1000:03d} UTC"


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_rosbags(path: Path, doing: str, error: ImportError) -> BagError:
    return BagError(f"{path}: {doing} bags needs a package that cannot be imported ({why(error)}): pip install rosbags")
