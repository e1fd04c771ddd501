"""Every source there is a table for, and which one a state comes from."""

from __future__ import annotations

import collections
import functools
import re

import torch
from torch import Tensor

from stmem_ros.network import BASES, build_base
from training.weights import authors, efficientnet, mmsegmentation, swin, timm, torchvision
from training.weights.matching import match
from training.weights.rules import Shape, Source, State

SOURCES: dict[str, Source] = {
    **authors.SOURCES,
    **mmsegmentation.SOURCES,
    **torchvision.SOURCES,
    **timm.SOURCES,
    **efficientnet.SOURCES,
    **swin.SOURCES,
}


def recognise(state: State) -> str | None:
    """The source whose names these are; None where no table knows them."""
    for name, source in SOURCES.items():
        names = without_prefix(state, source)
        has = source.has and all(_any(names, pattern) for pattern in source.has)
        if has and not any(_any(names, pattern) for pattern in source.lacks):
            return name
    return None


def prefixes(state: State) -> list[str]:
    """What names begin with, up to a dot, one to three deep; the shallow first, and of these those of many names."""
    counts = collections.Counter(
        ".".join(parts[:depth]) + "."
        for parts in (name.split(".") for name in state)
        for depth in range(1, min(len(parts), 4))
    )
    return sorted(counts, key=lambda prefix: (prefix.count("."), -counts[prefix]))


def without_prefix(state: State, source: Source) -> dict[str, Tensor]:
    """The state with names as the source's table has them."""
    return {name.removeprefix(source.prefix): tensor for name, tensor in state.items()}


def closest_base(state: State, source: Source) -> str:
    """Of the base networks that a state of `source` may be (or have the backbone of) the one that it fits best.

    Names and shapes decide: how many blocks there are, which stem, how large a window.
    """
    empty = {name: tensor.to("meta") for name, tensor in state.items()}

    def faults(base: str) -> int:
        wanted = base_shapes(base) if source.network else backbone_shapes(base)
        return match(empty, wanted, source.rules, source.left_over).faults

    return min((base for base in BASES if re.fullmatch(source.bases, base)), key=faults)


@functools.cache
def base_shapes(base: str) -> dict[str, Shape]:
    """The tensors of a base network by the names that they have in a whole network."""
    with torch.device("meta"):
        return {f"base.{name}": tuple(tensor.shape) for name, tensor in build_base(base).state_dict().items()}


def backbone_shapes(base: str) -> dict[str, Shape]:
    """The tensors of a base network's backbone."""
    prefix = "base.backbone."
    return {name.removeprefix(prefix): s for name, s in base_shapes(base).items() if name.startswith(prefix)}


def _any(names: State, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)
