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
from training.weights.file_kind import WeightsError, kind_of

# Where training programs put the tensors in a file that holds more.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
# What DataParallel puts before every name.
PARALLEL = "module."


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of one that `torch.save` wrote, by name; their data stays in the file.

    Which of the two it is, is seen in the file. Raises WeightsError where there are none, or
    where reading would mean running code from the file.
    """
    if kind_of(path) == "safetensors":
        with open_tensors(path, WeightsError) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if not state:
            raise WeightsError(f"{path} is a safetensors file without any tensor: get the file again")
    elif path.suffix == ".safetensors":
        # torch.load goes by this ending.
        raise WeightsError(f"{path} is no safetensors file but one that torch.save writes: name it .pth")
    else:
        state = _tensors(_unpickled(path), path)
    while all(name.startswith(PARALLEL) for name in state):
        state = {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()}
    return {name: tensor.detach().float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise WeightsError(f"{path} is damaged or no file of weights: get the file again") from error
        raise WeightsError(
            f"{path} asks for code to be run ({code[1]}), which is not done here: where the file is trusted, load it "
            "with torch.load(FILE, weights_only=False) and save its tensors alone, "
            "torch.save(loaded['state_dict'], OTHER)"
        ) from error
    except Exception as error:
        # Damaged pickles fail in every way there is, and seldom say how.
        text = one_line(error).split(". ")[0]
        reason = f" ({text})" if " " in text else ""
        raise WeightsError(f"{path} is damaged or no file of weights{reason}: get the file again") from error


def _tensors(document: Any, path: Path) -> dict[str, Tensor]:
    inner, place = document, ""
    while isinstance(inner, dict):
        tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
        if tensors:
            return {str(name): tensor for name, tensor in tensors.items()}
        if "param_groups" in inner:
            raise WeightsError(
                f"{path} holds the state of an optimizer{place}, not a network's weights: give the file with those"
            )
        key = next((key for key in WRAPPERS if key in inner), None)
        if key is None:
            break
        inner, place = inner[key], f" below {key!r}"
    raise WeightsError(f"{path} holds no tensors by name{place}: {_instead(inner)}")


def _instead(document: Any) -> str:
    """What there is where tensors by name should be, and what to do."""
    if isinstance(document, Tensor):
        return "it is one tensor alone; give the file with the whole network"
    if not isinstance(document, dict):
        return f"it is a {type(document).__name__}; give a file with a network's state_dict"
    inside = [name for name, value in document.items() if isinstance(value, dict) and _any_tensor(value)]
    networks = [name for name in inside if "param_groups" not in document[name]]
    if networks:
        first = networks[0]
        return (
            f"they lie below {', '.join(map(repr, networks[:3]))}; choose one, "
            f"torch.save(torch.load(FILE)[{first!r}], OTHER)"
        )
    if any("optim" in str(name).lower() or "param_groups" in document[name] for name in inside):
        return f"only the state of an optimizer ({inside[0]!r}); give the file with the weights"
    names = ", ".join(repr(name) for name in list(document)[:3])
    return f"it has {names}; give a file with a network's state_dict" if names else "it is empty; get the file again"


def _any_tensor(document: Any) -> bool:
    if isinstance(document, dict):
        return any(_any_tensor(value) for value in document.values())
    return isinstance(document, Tensor)
