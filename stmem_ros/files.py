"""Files that are written whole or not at all, and files of tensors that are opened with care."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError, safe_open

from stmem_ros.lfs import ONLY_A_POINTER, is_pointer

if TYPE_CHECKING:
    from torch import Tensor

# As safetensors has it, in bytes; the length of the header stands before it.
LARGEST_HEADER = 100_000_000
LENGTH_BYTES = 8
# Its names of PyTorch's types.
DTYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    "BF16": "bfloat16",
    "U8": "uint8",
    "BOOL": "bool",
}
PIECE = 1 << 20


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path as a person gives it: `~` is the home folder, also where no shell has put that in its place."""
    return Path(os.path.expanduser(text))


@contextlib.contextmanager
def whole_file(path: Path, survive_power_loss: bool = True) -> Iterator[Path]:
    """A name beside `path` to write to; when the block ends well it is on disk and takes the place of `path`.

    What was there stays until then, and stays where writing fails: a kill or a full disk never leaves half a file.
    Without `survive_power_loss` the system may bring it to disk later. Makes the folder. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if survive_power_loss:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


class TensorFile:
    """What a safetensors file holds: the header is read at once, all else when the first tensor is asked for.

    It is read into memory that is this process's own: where a file is mapped, as safetensors does it, whoever cuts it
    off ends the process (SIGBUS). The memory is freed with the last tensor. safetensors checks the header and no more:
    each tensor that it hands out leaves some bytes behind, and a node loads models as long as it runs.
    """

    def __init__(self, path: Path, file: BinaryIO, own: BinaryIO, error_type: type[Exception]) -> None:
        """`own` becomes the copy. Raises SafetensorError where the header does not fit the file, OSError."""
        self._path, self._file, self._own, self._error_type = path, file, own, error_type
        self._before = os.fstat(file.fileno())
        length = file.read(LENGTH_BYTES)
        own.write(length)
        self._header_bytes = LENGTH_BYTES + min(int.from_bytes(length, "little"), LARGEST_HEADER)
        self._copy_until(min(self._header_bytes, self._before.st_size))
        # Holes take no memory, and the header is measured against the whole.
        own.truncate(self._before.st_size)
        own.flush()
        with safe_open(f"/proc/self/fd/{own.fileno()}", framework="pt"):
            pass
        own.seek(LENGTH_BYTES)
        self._entries: dict[str, Any] = json.loads(own.read(self._header_bytes - LENGTH_BYTES))
        own.seek(self._header_bytes)
        self._metadata: dict[str, str] | None = self._entries.pop("__metadata__", None)
        self._memory: mmap.mmap | None = None

    def keys(self) -> list[str]:
        """The tensors' names."""
        return list(self._entries)

    def metadata(self) -> dict[str, str] | None:
        return self._metadata

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name]["shape"])

    def get_tensor(self, name: str) -> Tensor:
        """On the CPU. The first call reads the file, and raises the `error_type` where it has changed since."""
        import torch

        if self._memory is None:
            self._memory = self._read()
        entry = self._entries[name]
        dtype = getattr(torch, DTYPES.get(entry["dtype"], ""), None)
        if dtype is None:
            raise self._error_type(f"{self._path} has numbers of kind {entry['dtype']} in {name}, which are not known")
        begin, end = entry["data_offsets"]
        if begin == end:
            return torch.empty(entry["shape"], dtype=dtype)
        count = (end - begin) // dtype.itemsize
        flat = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=self._header_bytes + begin)
        return flat.reshape(entry["shape"])

    def close(self) -> None:
        """Tensors that were given out stay."""
        self._memory = None

    def _read(self) -> mmap.mmap:
        self._copy_until(self._before.st_size)
        after = os.fstat(self._file.fileno())
        if (after.st_size, after.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise self._error_type(f"{self._path} changed while it was read; load it again")
        self._own.flush()
        # Whoever writes into a tensor writes into a page of its own.
        return mmap.mmap(self._own.fileno(), 0, access=mmap.ACCESS_COPY)

    def _copy_until(self, end: int) -> None:
        """Stops where the file ends before that."""
        while piece := self._file.read(min(PIECE, max(0, end - self._file.tell()))):
            self._own.write(piece)


@contextlib.contextmanager
def open_tensors(path: Path, error_type: type[Exception]) -> Iterator[TensorFile]:
    """A safetensors file for reading; `error_type` with one line where it is missing, damaged or of another kind.

    Takes as much memory as the file is large, once a tensor is asked for.
    """
    try:
        if not path.is_file():
            raise error_type(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
        if not path.stat().st_size:
            raise error_type(f"{path} is empty: writing or downloading it did not finish; get it again")
        if is_pointer(path):
            raise error_type(f"{path} {ONLY_A_POINTER}")
        with path.open("rb") as file, open(os.memfd_create("tensors"), "w+b") as own:
            opened = TensorFile(path, file, own, error_type)
            try:
                yield opened
            finally:
                opened.close()
    except SafetensorError as error:
        raise error_type(f"{path} is damaged or no safetensors file: {one_line(error)}") from error
    except OSError as error:
        raise error_type(f"{path} cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def kind_and_line(error: BaseException) -> str:
    """Of an error that nobody expected, whose message alone may say little."""
    return f"{type(error).__name__}: {one_line(error)}"
