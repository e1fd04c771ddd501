"""Convolutions of a CPU with the activation that follows them in one pass over memory, weights in the CPU's order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases.efficientnet_lite import SameConv2d

_log = logging.getLogger(__name__)
# By the module: the name and the values that oneDNN wants.
ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}
# Of what a fused network may differ from what it was, as a share of the largest value.
MOST_DIFFERENCE = 1e-4
Padding = tuple[tuple[int, int], tuple[int, int]]


class FusedConv2d(nn.Module):
    """A convolution and the activation after it; None: nothing after it."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.name, self.values = ("none", []) if activation is None else ACTIVATIONS[type(activation)]
        # By what one side needs more of than the other, rows and columns.
        self.packed: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution and the activation."""
        (top, bottom), (left, right) = padding(self.conv, (x.shape[-2], x.shape[-1]))
        conv = self.conv
        return torch.ops.mkldnn._convolution_pointwise(
            x,
            self._weight((bottom - top, right - left), (bottom, right), x),
            conv.bias,
            *self._shape((bottom, right)),
            self.name,
            self.values,
            "",
        )

    def _shape(self, pads: tuple[int, int]) -> tuple[Any, ...]:
        return list(pads), list(self.conv.stride), list(self.conv.dilation), self.conv.groups

    def _weight(self, uneven: tuple[int, int], pads: tuple[int, int], x: Tensor) -> Tensor:
        """Packed. Padding of one row more at the end is as much at both ends, and a kernel whose first row is 0."""
        if uneven not in self.packed:
            weight = F.pad(self.conv.weight, (uneven[1], 0, uneven[0], 0)).contiguous()
            self.packed[uneven] = torch.ops.mkldnn._reorder_convolution_weight(
                weight, *self._shape(pads), list(x.shape)
            )
        return self.packed[uneven]


def padding(conv: nn.Conv2d, size: tuple[int, int]) -> Padding:
    """((top, bottom), (left, right)) for images of that size."""
    if isinstance(conv, SameConv2d):
        return conv.padding_for(size)
    assert isinstance(conv.padding, tuple)
    return (conv.padding[0],) * 2, (conv.padding[1],) * 2


def fusible(module: nn.Module) -> bool:
    """Whether a `FusedConv2d` can stand in its place; uneven padding is of one row or column, which dilation is not."""
    return (
        isinstance(module, nn.Conv2d)
        and not isinstance(module.padding, str)
        and module.padding_mode == "zeros"
        and (not isinstance(module, SameConv2d) or set(module.dilation) == {1} or set(module.stride) == {1})
    )


@torch.inference_mode()
def fuse_convolutions(network: nn.Module, images: Tensor) -> bool:
    """Fuse the convolutions of every `nn.Sequential` in the network, in place; whether they were.

    For float32 on a CPU, norms folded before. oneDNN's fused convolutions are no public part of PyTorch: where they are
    not there, or `network` gives other features of `images` with them, the network stays as it is.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    before = network(images)
    undo = [(parent, dict(parent._modules)) for parent in network.modules() if isinstance(parent, nn.Sequential)]
    for parent, _ in undo:
        _fuse(parent)
    try:
        difference = (network(images) - before).abs().max()
        same = bool(difference <= MOST_DIFFERENCE * before.abs().max())
        why = f"features differ by {difference:.1g}"
    except (AttributeError, RuntimeError, TypeError) as error:
        same, why = False, " ".join(str(error).split())
    for module in network.modules():
        if isinstance(module, FusedConv2d):
            # In the order for the size of a stream's first image.
            module.packed.clear()
    if not same:
        for parent, children in undo:
            parent._modules.update(children)
        _log.info("convolutions are not fused with their activations, a little slower: %s", why)
    return same


def _fuse(parent: nn.Sequential) -> None:
    children: Sequence[tuple[str, nn.Module]] = [
        (name, child) for name, child in parent.named_children() if not isinstance(child, nn.Identity)
    ]
    for (name, child), (after, activation) in zip(children, [*children[1:], ("", nn.Identity())], strict=True):
        if not fusible(child):
            continue
        assert isinstance(child, nn.Conv2d)
        if type(activation) in ACTIVATIONS:
            setattr(parent, name, FusedConv2d(child, activation))
            setattr(parent, after, nn.Identity())
        else:
            setattr(parent, name, FusedConv2d(child, None))
