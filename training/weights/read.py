"""A file of weights as tensors by name. Nothing that such a file contains is ever run."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stmem_ros.files import one_line, open_tensors

# Where training programs put the tensors in a file that holds more.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
# What DataParallel puts before every name.
PARALLEL = "module."


class WeightsError(Exception):
    """Weights that cannot be used: one line naming the file and the reason."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of one that `torch.save` wrote, by name; their data stays in the file.

    Raises WeightsError where there are none, or where reading would mean running code from the file.
    """
    if path.suffix == ".safetensors":
        with open_tensors(path, WeightsError) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    else:
        state = _tensors(_unpickled(path))
    if not state:
        raise WeightsError(f"{path} holds no tensors by name")
    while all(name.startswith(PARALLEL) for name in state):
        state = {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()}
    return {name: tensor.detach().float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _unpickled(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise WeightsError(f"{path} is damaged or no file of weights") from error
        raise WeightsError(
            f"{path} asks for code to be run ({code[1]}), which is not done here: where the file is trusted, load it "
            "with torch.load(FILE, weights_only=False) and save its tensors alone, "
            "torch.save(loaded['state_dict'], OTHER)"
        ) from error
    except Exception as error:
        # Damaged pickles fail in every way there is.
        reason = one_line(error).split(". ")[0] or type(error).__name__
        raise WeightsError(f"{path} is damaged or no file of weights: {reason}") from error


def _tensors(document: Any) -> dict[str, Tensor]:
    while isinstance(document, dict):
        tensors = {name: value for name, value in document.items() if isinstance(value, Tensor)}
        if tensors:
            return {str(name): tensor for name, tensor in tensors.items()}
        document = next((document[key] for key in WRAPPERS if key in document), None)
    return {}
