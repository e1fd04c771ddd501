"""Files that are written whole or not at all, and files of tensors that are opened with care."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; when the block ends well it is on disk and takes the place of `path`.

    What was there stays until then, and stays where writing fails: a kill or a full disk never leaves half a file.
    Makes the folder. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def open_tensors(path: Path, error_type: type[Exception]) -> Iterator[Any]:
    """A safetensors file for reading; `error_type` with one line where it is missing, damaged or of another kind."""
    try:
        if not path.is_file():
            raise error_type(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise error_type(f"{path} is damaged or no safetensors file: {one_line(error)}") from error
    except OSError as error:
        raise error_type(f"{path} cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
