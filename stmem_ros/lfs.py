"""Files that only stand for others: Git LFS leaves a few lines of text where it has not fetched a file."""

from __future__ import annotations

from pathlib import Path

BEGIN = b"version https://git-lfs"
# Said of such a file, after its name.
ONLY_A_POINTER = "only stands for a file in Git LFS: fetch that with git lfs pull"


def is_pointer(file: Path) -> bool:
    """Whether the file is such a text. Raises OSError."""
    with file.open("rb") as opened:
        return opened.read(len(BEGIN)) == BEGIN
