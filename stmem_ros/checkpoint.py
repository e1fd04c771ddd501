"""One file for a trained network: weights, configuration, classes, normalisation and provenance.

The file is safetensors: a length, a JSON header, raw tensors. Loading runs nothing from it.
Beside the network it may hold *rows*: the smaller networks of the paper's table 3 that it grew from
(base alone, STF without MAR, ...), so that one file shows what each part gains. A row's tensors are
stored where they differ from the network's own; a robot loads none of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize

from stmem_ros.files import LENGTH_BYTES, TensorFile, one_line, open_tensors, user_path, whole_file
from stmem_ros.labels import LabelSet
from stmem_ros.network import SegmenterConfig, VideoSegmenter
from stmem_ros.network.segmenter import build_segmenter, empty_segmenter

FORMAT = "stmem_ros"
ROW_PREFIX = "rows."
FORMAT_VERSION = 2
# Pixels of the height or width, whichever is less, of what a network sees.
NETWORK_SIDES = range(64, 8192 + 1)
NETWORK_SIDES_TEXT = f"at least {NETWORK_SIDES[0]} and at most {NETWORK_SIDES[-1]}"
# The file of an exported network's folder that describes it.
EXPORT_DOCUMENT = "model.json"
# What files of torch.save begin with: zip archives since PyTorch 1.6, pickles before.
ZIP_BEGIN, PICKLE_BEGIN = b"PK\x03\x04", b"\x80"
MODELS = Path(__file__).parent / "models"
DEFAULT_CHECKPOINT = MODELS / "camvid_lite2.safetensors"


class CheckpointError(Exception):
    """A checkpoint that cannot be used: one line naming the file and the reason."""


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Networks see `(pixel - mean) / std`, per RGB channel, pixels in 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, field))
            if len(values) != 3:
                raise ValueError(f"normalization.{field} has {len(values)} values; it must have three, R, G and B")
            object.__setattr__(self, field, values)
        if not all(value > 0 for value in self.std):
            raise ValueError(f"normalization.std is {list(self.std)}; it must be above 0")


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    `short_side` is the height or width, whichever is less, in pixels, of the images the network
    was made for; others are resized to it unless told otherwise. `provenance` is free-form: data,
    stages, settings, figures.
    """

    config: SegmenterConfig
    labels: LabelSet
    normalization: Normalization
    short_side: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) != self.config.classes:
            raise ValueError(f"{len(self.labels)} class names for a network of {self.config.classes} classes")
        if not isinstance(self.short_side, int) or self.short_side not in NETWORK_SIDES:
            raise ValueError(f"short_side is {self.short_side!r}; it must be a whole number, {NETWORK_SIDES_TEXT}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data, as a header has it; `info_from_dict` gives the same back."""
        return {
            "version": FORMAT_VERSION,
            "config": self.config.to_dict(),
            "names": self.labels.names,
            "palette": self.labels.palette,
            "normalization": dataclasses.asdict(self.normalization),
            "short_side": self.short_side,
            "provenance": self.provenance,
        }


def save_checkpoint(
    path: str | Path,
    model: VideoSegmenter,
    info: CheckpointInfo,
    rows: Mapping[str, tuple[VideoSegmenter, SegmenterConfig]] | None = None,
) -> None:
    """Write the file whole or not at all: an older file of that name stays until the new one is on disk.

    `rows` are networks to keep beside it, by name. Raises CheckpointError where the file cannot be written.
    """
    path, rows = Path(path), rows or {}
    document = info.to_dict() | {"rows": {name: config.to_dict() for name, (_, config) in rows.items()}}
    own = model.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    for row, (other, _) in rows.items():
        for name, tensor in other.state_dict().items():
            if name not in own or not torch.equal(tensor.cpu(), own[name].cpu()):
                # A copy: safetensors refuses tensors that share memory, as a fixed part's would.
                tensors[_row_tensor(row, name)] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    data = serialize(tensors, metadata={FORMAT: json.dumps(document, sort_keys=True)})
    try:
        with whole_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise CheckpointError(f"{path} could not be written: {error.strerror or one_line(error)}") from error


def find_checkpoint(name: str | Path) -> Path:
    """The file or folder `name`, or the package's model of that name where there is no such file: `camvid_lite2`.

    `~` is the home folder.
    """
    path = user_path(name)
    packaged = MODELS / f"{path}.safetensors"
    return packaged if len(path.parts) == 1 and not path.exists() and packaged.is_file() else path


def read_info(path: str | Path) -> CheckpointInfo:
    """What the file says of itself, without loading the weights. Raises CheckpointError."""
    path = find_checkpoint(path)
    with _opened(path) as file:
        return _read_info(path, file)


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> tuple[VideoSegmenter, CheckpointInfo]:
    """The network in evaluation mode on `device`, and what the file says of it. Raises CheckpointError."""
    path = find_checkpoint(path)
    with _opened(path) as file:
        info = _read_info(path, file)
        names = {name: name for name in file.keys() if not name.startswith(ROW_PREFIX)}  # noqa: SIM118 (no mapping)
        return _load(path, file, info.config, names).eval().to(device), info


def load_rows(path: str | Path, device: str | torch.device = "cpu") -> dict[str, tuple[VideoSegmenter, CheckpointInfo]]:
    """The networks kept beside a checkpoint's own, by name; none in many files. Raises CheckpointError."""
    path = find_checkpoint(path)
    rows = {}
    with _opened(path) as file:
        info = _read_info(path, file)
        stored = set(file.keys())
        for row, config in _read_row_configs(path, file).items():
            wanted = _empty(path, config).state_dict()
            names = {name: _row_tensor(row, name) if _row_tensor(row, name) in stored else name for name in wanted}
            names = {name: kept for name, kept in names.items() if kept in stored}
            model = _load(path, file, config, names).eval().to(device)
            rows[row] = (model, dataclasses.replace(info, config=config))
    return rows


def _opened(path: Path) -> contextlib.AbstractContextManager[TensorFile]:
    """The file for reading. Raises CheckpointError, which says what a file of another kind is good for."""
    if path.is_dir():
        raise CheckpointError(f"{path} {folder_hint(path)}")
    if path.suffix.lower() == ".onnx" and path.is_file():
        raise CheckpointError(
            f"{path} is one graph of an exported network: give the folder that training.export wrote, with "
            f"{EXPORT_DOCUMENT} in it; a graph from elsewhere cannot be run here"
        )
    if is_of_torch(path):
        raise CheckpointError(
            f"{path} is a file of PyTorch's (torch.save), no safetensors file: make a checkpoint of it with "
            f"python -m training.import_weights {path} {path.with_suffix('.safetensors').name}"
        )
    return open_tensors(path, CheckpointError)


def is_of_torch(path: Path) -> bool:
    """Whether torch.save wrote it. False where it cannot be read, which is said where it is opened."""
    try:
        with path.open("rb") as file:
            begin = file.read(LENGTH_BYTES + 1)
    except OSError:
        return False
    # A safetensors file begins with the length of its header, which may be any bytes.
    return begin.startswith((ZIP_BEGIN, PICKLE_BEGIN)) and begin[LENGTH_BYTES:] != b"{"


def folder_hint(path: Path) -> str:
    """What a folder is that was given in place of a checkpoint file, and what to do; after its name."""
    if (path / EXPORT_DOCUMENT).is_file():
        return (
            "is an exported network, which node, bag commands and benchmark --export run: "
            "here give the .safetensors file that it was exported from"
        )
    inside = path / "model.safetensors"
    hint = f"give {inside}" if inside.is_file() else "a checkpoint is a .safetensors file"
    return f"is a folder without {EXPORT_DOCUMENT}, so no exported network: {hint}"


def _row_tensor(row: str, name: str) -> str:
    return f"{ROW_PREFIX}{row}.{name}"


def _empty(path: Path, config: SegmenterConfig) -> VideoSegmenter:
    try:
        return empty_segmenter(config)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} describes a network that cannot be built: {one_line(error)}") from error


def _load(path: Path, file: Any, config: SegmenterConfig, names: dict[str, str]) -> VideoSegmenter:
    """The network of `config` from the tensors kept in the file, `names` maps the network's names to the file's."""
    expected = {name: tuple(tensor.shape) for name, tensor in _empty(path, config).state_dict().items()}
    found = {name: file.shape(kept) for name, kept in names.items()}
    _check_tensors(path, expected, found)
    model = build_segmenter(config)
    model.load_state_dict({name: file.get_tensor(kept) for name, kept in names.items()})
    return model


def _read_row_configs(path: Path, file: Any) -> dict[str, SegmenterConfig]:
    try:
        rows = json.loads(file.metadata()[FORMAT]).get("rows", {})
        return {str(name): SegmenterConfig.from_dict(config) for name, config in rows.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} has rows that cannot be used: {one_line(error)}") from error


def _read_info(path: Path, file: Any) -> CheckpointInfo:
    text = (file.metadata() or {}).get(FORMAT)
    if text is None:
        raise CheckpointError(
            f"{path} is a safetensors file but not of stmem_ros: its header has no {FORMAT!r} entry; of another "
            "program's weights python -m training.import_weights makes a checkpoint"
        )
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that cannot be used: {one_line(error)}") from error
    return info_from_dict(path, document)


def info_from_dict(path: Path, document: Any) -> CheckpointInfo:
    """The `to_dict` that the file `path` holds, which messages name. Raises CheckpointError."""
    try:
        version = document["version"]
        if not isinstance(version, int) or version < 1:
            raise CheckpointError(f"{path} has format {version!r}; formats are whole numbers from 1")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format {version}; this stmem_ros reads up to {FORMAT_VERSION}: update the package"
            )
        return CheckpointInfo(
            config=SegmenterConfig.from_dict(document["config"]),
            labels=LabelSet(document["names"], document["palette"]),
            normalization=Normalization(**document["normalization"]),
            short_side=document["short_side"],
            provenance=document["provenance"],
        )
    except KeyError as error:
        raise CheckpointError(f"{path} has a header without {error}") from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that cannot be used: {one_line(error)}") from error


def _check_tensors(path: Path, expected: dict[str, tuple], found: dict[str, tuple]) -> None:
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{path} lacks tensor {name}")
        if found[name] != shape:
            raise CheckpointError(f"{path} has {name} of shape {found[name]}; its configuration asks for {shape}")
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise CheckpointError(f"{path} has tensor {unknown[0]!r}, which its configuration does not know")
