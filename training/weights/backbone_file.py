"""A backbone's weights as a file of their own, which stage 1 of training begins with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save as serialize
from torch import Tensor, nn

from stmem_ros.files import one_line, open_tensors, whole_file
from training.weights.file_kind import kind_of
from training.weights.matching import is_counter
from training.weights.read import WeightsError
from training.weights.rules import Shape

FORMAT = "stmem_ros_backbone"


def save_backbone(path: Path, tensors: Mapping[str, Tensor], base: str, provenance: dict[str, Any]) -> None:
    """Write the file whole or not at all; `tensors` by the names of the backbone of base network `base`.

    Raises WeightsError where it cannot be written.
    """
    document = {"version": 1, "backbone_of": base, "provenance": provenance}
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if not is_counter(name)}
    try:
        with whole_file(path) as partial:
            partial.write_bytes(serialize(kept, metadata={FORMAT: json.dumps(document, sort_keys=True)}))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} could not be written: {one_line(error)}") from error


def check_backbone(path: Path, base: str, wanted: Mapping[str, Shape]) -> None:
    """Raises WeightsError, naming a tensor, where the file is not the backbone of `base`, tensors `wanted`."""
    if kind_of(path) == "pickle":
        raise WeightsError(
            f"{path} is no backbone's file but one that torch.save writes: make one of it, "
            f"python -m training.import_weights {path} {path.with_suffix('.safetensors').name}"
        )
    with open_tensors(path, WeightsError) as file:
        owner = _owner(path, file)
        found = {name: file.shape(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    misfit = f"{path} is the backbone of {owner}, which does not fit into {base}"
    for name, shape in wanted.items():
        if not is_counter(name) and name not in found:
            raise WeightsError(f"{misfit}: it has no {name}")
        if not is_counter(name) and found[name] != shape:
            raise WeightsError(f"{misfit}: its {name} has shape {found[name]}, not {shape}")
    unknown = sorted(set(found) - set(wanted))
    if unknown:
        raise WeightsError(f"{misfit}: it has {unknown[0]}")


def load_backbone(path: Path, backbone: nn.Module, base: str) -> None:
    """Fill the backbone of base network `base`. Raises WeightsError as `check_backbone`."""
    check_backbone(path, base, {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()})
    with open_tensors(path, WeightsError) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    backbone.load_state_dict(tensors, strict=False)


def _owner(path: Path, file: Any) -> str:
    try:
        return str(json.loads((file.metadata() or {})[FORMAT])["backbone_of"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is no backbone's file: python -m training.import_weights makes those (a checkpoint of this "
            "package goes to start_from)"
        ) from error
