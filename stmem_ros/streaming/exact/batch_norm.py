"""Batch norms folded into the convolutions before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Fold every batch norm that follows a convolution directly; returns how many. In place, in evaluation mode.

    gamma (W x - mean) / sigma + beta = (gamma W / sigma) x + (beta - gamma mean / sigma). Which norm follows which
    convolution is seen by running `network` once on `images`, so it holds for any network; a norm whose input is not
    one convolution's output, and a convolution that is used twice, stay as they are.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def convolved(module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        # The tensor is kept, so that no other can have its identity.
        made[id(output)] = (module, output)

    def normed(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    hooks = [
        module.register_forward_hook(convolved)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(normed)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    try:
        network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]
    folded: dict[nn.Module, nn.Module] = {}
    for conv, norm in pairs:
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
