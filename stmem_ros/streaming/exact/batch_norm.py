"""Batch norms folded into the convolutions before them."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Readers(TorchFunctionMode):
    """Which tensors are read how often, by functions that return tensors; keyed by identity."""

    def __init__(self) -> None:
        super().__init__()
        self.count: collections.Counter[int] = collections.Counter()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.count.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return result


@torch.no_grad()
def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Fold every batch norm that follows a convolution directly; returns how many. In place, in evaluation mode.

    gamma (W x - mean) / sigma + beta = (gamma W / sigma) x + (beta - gamma mean / sigma). Which norm follows which
    convolution is seen by running `network` once on `images`, so it holds for any network. A norm whose input is not
    one convolution's output, a convolution whose output has another reader, and one that is used twice stay as they
    are.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: collections.Counter[nn.Module] = collections.Counter()
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]] = []
    readers = Readers()

    def convolved(module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        calls[module] += 1
        # The tensor is kept, so that no other can have its identity.
        made[id(output)] = (module, output)
        readers.count[id(output)] = 0

    def normed(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        calls[module] += 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module, inputs[0]))

    hooks = [
        module.register_forward_hook(convolved)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(normed)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    try:
        with readers:
            network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    folded: dict[nn.Module, nn.Module] = {}
    for conv, norm, between in pairs:
        if calls[conv] > 1 or calls[norm] > 1 or readers.count[id(between)] > 1:
            continue
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        folded[norm] = nn.Identity()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if child in folded:
                setattr(module, name, folded[child])
    return len(folded)
