"""The authors' released modules as ours: their parameter names and shapes, mapped."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from stmem_ros.network import MAR, STF, MARConfig, STFConfig

Arrays = Mapping[str, "np.ndarray | Tensor"]

# Our names to theirs.
_STF_PARTS = {
    "encoder": {"attention": "self_attn", "attention_norm": "norm1", "feedforward_norm": "norm2"},
    "decoder": {
        "self_attention": "self_attn",
        "cross_attention": "multihead_attn",
        "self_norm": "norm1",
        "cross_norm": "norm2",
        "feedforward_norm": "norm3",
    },
}
_STF_FEEDFORWARD = {"0": "linear1", "3": "linear2"}
_MAR_PARTS = {
    "theta": "HEdecoder.attn.to_q",
    "phi": "HEdecoder.attn.to_k",
    "value": "HEdecoder.attn.to_v",
    "out": "HEdecoder.attn.to_out.0",
    "attention_norm": "HEdecoder.norm1",
    "feedforward_norm": "HEdecoder.norm2",
    "feedforward.0": "HEdecoder.linear1",
    "feedforward.2": "HEdecoder.linear2",
}
# Which third of a tensor is meant where they stack query, key and value.
_THIRDS = ("query", "key", "value")


def _get(state: Arrays, name: str, dimensions: int) -> Tensor:
    if name not in state:
        raise ValueError(f"the authors' state has no tensor {name!r}")
    tensor = torch.as_tensor(state[name]).float()
    if tensor.ndim != dimensions:
        raise ValueError(
            f"the authors' tensor {name!r} has shape {tuple(tensor.shape)}; it must have {dimensions} dimensions"
        )
    return tensor


def _stf_name(ours: str) -> tuple[str, int | None]:
    """The authors' name of one of our STF's tensors, and which third of it is meant (None: the whole)."""
    if ours.endswith("_position"):
        return f"pe_{ours[:3]}", None
    stack, layer, part, *rest = ours.split(".")
    theirs = f"{stack}.layers.{layer}."
    if part == "feedforward":
        return f"{theirs}{_STF_FEEDFORWARD[rest[0]]}.{rest[1]}", None
    theirs += _STF_PARTS[stack][part]
    if len(rest) == 1:
        return f"{theirs}.{rest[0]}", None
    reach, projection, kind = rest
    theirs += f".self_attn_{reach}."
    if projection == "out":
        return f"{theirs}out_proj.{kind}", None
    return f"{theirs}in_proj_{kind}", _THIRDS.index(projection)


def _mar_name(ours: str) -> tuple[str, int | None]:
    part = next(part for part in _MAR_PARTS if ours.startswith(f"{part}."))
    return _MAR_PARTS[part] + ours[len(part) :], None


def load_stf(state: Arrays, heads: int, block: tuple[int, int]) -> STF:
    """The authors' STF in evaluation mode, from their parameter names; `block` is (h_b, w_b) in cells.

    Raises ValueError, naming the tensor, where one is missing, unknown or of another shape.
    """
    _, channels, frames, *grid = _get(state, "pe_enc", 5).shape
    layers = [re.match(r"encoder\.layers\.(\d+)\.", name) for name in state]
    config = STFConfig(
        block=block,
        positional_grid=(grid[0], grid[1]),
        frames=frames,
        depth=1 + max((int(layer[1]) for layer in layers if layer), default=0),
        heads=heads,
        feedforward=_get(state, "encoder.layers.0.linear1.weight", 2).shape[0],
    )
    stf = STF(channels, config)
    _load(stf, state, _stf_name)
    return stf


def load_mar(state: Arrays, hard_per_class: int) -> MAR:
    """The authors' MAR in evaluation mode, from their parameter names; `hard_per_class` is K_L.

    Their memory is one row a key, class by class. Where every key of a class has the same value it
    becomes the paper's one prototype a class, else each key keeps its own.
    Raises ValueError, naming the tensor, where one is missing, unknown or of another shape.
    """
    keys, values = _get(state, "memory_key", 3)[0], _get(state, "memory_value", 3)[0]
    if len(keys) % hard_per_class or keys.shape != values.shape:
        raise ValueError(
            f"memory_key is {tuple(keys.shape)} and memory_value {tuple(values.shape)}: "
            f"not whole classes of {hard_per_class} hard features"
        )
    keys, values = keys.unflatten(0, (-1, hard_per_class)), values.unflatten(0, (-1, hard_per_class))
    if torch.equal(values, values[:, :1].expand_as(values)):
        values = values[:, :1]
    mar = MAR(keys.shape[-1], MARConfig(len(keys), hard_per_class, values.shape[1]))
    mar.set_memory(keys, values)
    rest = {name: value for name, value in state.items() if name not in ("memory_key", "memory_value")}
    _load(mar, rest, _mar_name, kept=("keys", "values"))
    return mar


def _load(
    module: torch.nn.Module,
    state: Arrays,
    their_name: Callable[[str], tuple[str, int | None]],
    kept: tuple[str, ...] = (),
) -> None:
    """Fill every tensor of `module` but those `kept` from the authors' state, all of which must be used."""
    used = set()
    with torch.no_grad():
        for ours, parameter in module.named_parameters():
            if ours in kept:
                continue
            theirs, third = their_name(ours)
            value = _get(state, theirs, parameter.ndim)
            wanted = tuple(parameter.shape)
            if third is not None:
                wanted = (3 * wanted[0], *wanted[1:])
            if tuple(value.shape) != wanted:
                raise ValueError(f"the authors' tensor {theirs!r} has shape {tuple(value.shape)}, not {wanted}")
            parameter.copy_(value if third is None else value.chunk(3)[third])
            used.add(theirs)
    unknown = sorted(set(state) - used)
    if unknown:
        raise ValueError(f"the authors' state has tensor {unknown[0]!r}, which {type(module).__name__} does not know")
    module.eval()
