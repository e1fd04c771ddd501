"""A file of weights as tensors by name. Nothing that such a file contains is ever run."""

from __future__ import annotations

import dataclasses
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

# Where training programs put a network's tensors in a file that holds more, the likeliest first.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
DEEPEST = 4


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file of weights holds: `states`, tensors by name, by where they lie ("" or such as `model.ema`).

    `others` is what else lies there: the state of an optimizer, the number of the epoch.
    """

    states: dict[str, dict[str, Tensor]]
    others: list[str]


def read_contents(path: Path) -> Contents:
    """What a safetensors file holds, or one that `torch.save` wrote; the tensors' data stays in the file.

    Which of the two it is, is seen in the file. Raises WeightsError where there are no tensors by name, or
    where reading would mean running code from the file.
    """
    if kind_of(path) == "safetensors":
        with open_tensors(path, WeightsError) as file:
            own = next((key for key in file.metadata() or {} if key.startswith("stmem_ros")), None)
            if own is not None:
                takers = "--pretrained takes" if "backbone" in own else "the node, evaluate and --start_from take"
                raise WeightsError(f"{path} is a file of this package already: {takers} it as it is")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if not state:
            raise WeightsError(f"{path} is a safetensors file without any tensor: get the file again")
        return Contents({"": state}, [])
    if path.suffix == ".safetensors":
        # torch.load goes by this ending.
        raise WeightsError(f"{path} is no safetensors file but one that torch.save writes: name it .pth")
    document = _unpickled(path)
    contents = Contents({}, [])
    _collect(document, "", contents)
    if not contents.states:
        raise WeightsError(f"{path} {_without_tensors(document)}")
    return contents


def _collect(document: Any, place: str, contents: Contents) -> None:
    """Add what lies in a dict, and in the dicts in it, to `contents`."""
    if not isinstance(document, dict) or "param_groups" in document or place.count(".") >= DEEPEST:
        contents.others.append(place)
        return
    tensors = {name: value for name, value in document.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        contents.states[place] = tensors
    for name, value in document.items():
        if not isinstance(value, Tensor):
            below = f"{place}.{name}" if place else str(name)
            if isinstance(name, str) and "optim" not in name.lower() and _any_tensor(value):
                _collect(value, below, contents)
            else:
                contents.others.append(below)


def _any_tensor(document: Any) -> bool:
    if isinstance(document, dict):
        return any(_any_tensor(value) for value in document.values())
    return isinstance(document, Tensor)


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
            f"with torch.load(FILE, weights_only=False) and save its tensors alone, {_saved(code[1])}"
        ) from error
    except Exception as error:
        # Damaged pickles fail in every way there is, and seldom say how.
        text = one_line(error).split(". ")[0]
        reason = f" ({text})" if " " in text else ""
        raise WeightsError(f"{path} is damaged or no file of weights{reason}: get the file again") from error


def _saved(code: str) -> str:
    """How to save the tensors alone, where a file asks for this class or function."""
    alone = "torch.save(loaded.state_dict(), OTHER)"
    below = "torch.save(loaded['state_dict'], OTHER), or below the key that has them"
    # In a file of a network's own classes either may be.
    return alone if code.startswith("torch.nn.") else f"{below}; of a whole network {alone}"


def _without_tensors(document: Any) -> str:
    """Why a document holds no network's tensors, as the end of a sentence."""
    inner, place = document, ""
    while isinstance(inner, dict):
        if "param_groups" in inner:
            return f"holds the state of an optimizer{place}, not a network's weights: give the file with those"
        key = next((key for key in WRAPPERS if key in inner), None)
        if key is None:
            break
        inner, place = inner[key], f" below {key!r}"
    return f"holds no tensors by name{place}: {_instead(inner)}"


def _instead(document: Any) -> str:
    """What there is where tensors by name should be, and what to do."""
    if isinstance(document, Tensor):
        return "it is one tensor alone; give the file with the whole network"
    if not isinstance(document, dict):
        return f"it is a {type(document).__name__}; give a file with a network's state_dict"
    optimizer = next((name for name in document if "optim" in str(name).lower()), None)
    if optimizer is not None:
        return f"only the state of an optimizer ({optimizer!r}); give the file with the weights"
    names = ", ".join(repr(name) for name in list(document)[:3])
    return f"it has {names}; give a file with a network's state_dict" if names else "it is empty; get the file again"
