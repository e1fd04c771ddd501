"""The memory of the authors' generate_memory: `key.npy` and `value.npy` in one folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stmem_ros.files import one_line
from training.weights.read import WeightsError

KEY, VALUE = "key.npy", "value.npy"


def is_memory(path: Path) -> bool:
    """Whether `path` is the authors' folder, or one of its two files."""
    return path.suffix.lower() == ".npy" or (path.is_dir() and any((path / name).exists() for name in (KEY, VALUE)))


def read_memory(path: Path, classes: int) -> tuple[Tensor, Tensor]:
    """Keys `(classes, K_L, d)` and values `(classes, 1, d)`, float32, of the folder or of one of its files.

    `key.npy` has a row a hard feature, class by class, `(classes * K_L, d)`; `value.npy` a prototype a class,
    `(classes, d)`. What is stored once more (`(1, classes * K_L, d)`, as in their trained network) is read too.
    Raises WeightsError.
    """
    folder = path if path.is_dir() else path.parent
    keys, values = (_rows(folder / name) for name in (KEY, VALUE))
    if len(keys) % classes or not len(keys):
        raise WeightsError(
            f"{folder / KEY} has {len(keys)} rows, not as many for each of {classes} classes: give the data set that "
            "it was made from"
        )
    if keys.shape[1] != values.shape[1]:
        raise WeightsError(
            f"{folder / KEY} has features of {keys.shape[1]} channels, {VALUE} of {values.shape[1]}: they must be of "
            "one network"
        )
    keys = keys.unflatten(0, (classes, -1))
    if len(values) == keys.shape[0] * keys.shape[1]:
        values = values.unflatten(0, (classes, -1))
        if not torch.equal(values, values[:, :1].expand_as(values)):
            raise WeightsError(f"{folder / VALUE} has a value of its own for each key; a memory has one for each class")
        values = values[:, 0]
    if len(values) != classes:
        raise WeightsError(f"{folder / VALUE} has {len(values)} rows; it must have one for each of {classes} classes")
    return keys, values[:, None]


def _rows(path: Path) -> Tensor:
    """`(rows, d)` float32."""
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: a memory is {KEY} and {VALUE} in one folder")
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:
        # A damaged header fails in many ways.
        raise WeightsError(f"{path} is damaged or no array of NumPy ({one_line(error)}): get the file again") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise WeightsError(f"{path} holds no array of floating-point numbers: get the file again")
    rows = array[0] if array.ndim == 3 and len(array) == 1 else array
    if rows.ndim != 2 or not rows.size:
        raise WeightsError(f"{path} has shape {array.shape}; it must be rows of features, (rows, channels)")
    if not np.isfinite(rows).all():
        raise WeightsError(f"{path} holds NaN or infinity: get the file again")
    return torch.from_numpy(rows.astype(np.float32))
