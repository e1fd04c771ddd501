"""What kind of file lies there, by its first bytes: names and endings of downloads often say something else."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Literal

from stmem_ros.lfs import BEGIN, ONLY_A_POINTER

SEEN = 4096
LARGEST_HEADER = 100_000_000
# What archives of other kinds begin with, and what to do with them.
OTHERS = (
    (b"\x89HDF", "an HDF5 file, as Keras writes them: give PyTorch weights"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"\xfd7zXZ", "compressed with xz: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"BZh", "compressed with bzip2: unpack it"),
)


class WeightsError(Exception):
    """Weights that cannot be used: one line naming the file, the reason and what to do."""


def kind_of(path: Path) -> Literal["safetensors", "pickle"]:
    """A safetensors file, or one that torch.save may have written. Raises WeightsError where it is neither."""
    if not path.is_file():
        raise WeightsError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(SEEN)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    if not begin:
        raise WeightsError(f"{path} is empty: its download did not finish, get it again")
    if begin.startswith(BEGIN):
        raise WeightsError(f"{path} {ONLY_A_POINTER}")
    if begin.startswith(b"PK"):
        _require_torch_archive(path)
        return "pickle"
    for magic, what in OTHERS:
        if begin.startswith(magic):
            raise WeightsError(f"{path} is {what}")
    if begin[8:9] == b"{" and 2 <= int.from_bytes(begin[:8], "little") < LARGEST_HEADER:
        return "safetensors"
    _require_no_text(path, begin, size)
    return "pickle"


def _require_torch_archive(path: Path) -> None:
    """Raises WeightsError for a zip archive that is cut short, or that is not torch.save's."""
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} is damaged or no file of weights: it is cut short, its download did not finish; get it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise WeightsError(f"{path} is damaged or no file of weights: get the file again") from error
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        raise WeightsError(
            f"{path} is a TorchScript program, not weights alone: where it is trusted, "
            "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
        )
    if "data.pkl" not in last:
        raise WeightsError(f"{path} is a zip archive of {', '.join(names[:3]) or 'nothing'}, not weights: unpack it")


def _require_no_text(path: Path, begin: bytes, size: int) -> None:
    """Raises WeightsError for a text: a web page, an error message."""
    try:
        # The last character may be cut.
        text = begin.decode() if size <= SEEN else begin.decode(errors="ignore")
    except UnicodeDecodeError:
        return
    if not all(character.isprintable() or character.isspace() for character in text):
        return
    if text.lstrip().startswith("<"):
        raise WeightsError(f"{path} is a web page, not weights: get the file itself, not the page about it")
    if text.lstrip().startswith("{"):
        raise WeightsError(f"{path} is a JSON text, not weights: give the file with the weights")
    first = json.dumps(" ".join(text.split())[:40], ensure_ascii=False)
    raise WeightsError(f"{path} is a text, not weights (it begins {first}): get the file again")
