"""What a network costs: parameters, and multiply-accumulates a streamed frame, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stmem_ros.network import SegmenterConfig
from stmem_ros.network.segmenter import count_parameters, empty_segmenter
from stmem_ros.streaming.exact import StreamingNetwork


@dataclasses.dataclass(frozen=True)
class Cost:
    """By part (`base`, `stf`, `mar`, `classifier`; only those that there are), for images of `size`, (rows, columns).

    `macs` are multiply-accumulates of convolutions and matrix products, attention's among them; norms, softmax
    and upsampling count nothing. Each part runs once a frame: a stream keeps the neighbours' base features.
    """

    size: tuple[int, int]
    parameters: dict[str, int]
    macs: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """`parameters` and `gmacs` (1e9 MACs) are totals; `cost` has them by part."""
        gmacs = {part: count / 1e9 for part, count in self.macs.items()}
        return {
            "parameters": sum(self.parameters.values()),
            "gmacs": sum(self.macs.values()) / 1e9,
            "cost": {"size": list(self.size), "parameters": dict(self.parameters), "gmacs": gmacs},
        }


def counted(function: Callable[..., Any], *inputs: Any) -> tuple[int, Any]:
    """Multiply-accumulates of a call, half of what PyTorch's flop counter says; and the call's result."""
    # The counter does not know the CPU's fused attention; the plain one is matrix products to it.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result = function(*inputs)
    return counter.get_total_flops() // 2, result


@torch.inference_mode()
def streaming_macs(config: SegmenterConfig, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one frame of a stream in the engine's fast form (`stmem_ros.streaming.exact`).

    Shapes alone pass through it, images of `size`; what is constant for a size is not counted.
    """
    # Whatever lies in memory: what the weights are does not matter here.
    network = StreamingNetwork(empty_segmenter(config).to_empty(device="cpu")).to("meta")
    images = torch.empty(1, 3, *size, device="meta")
    # The first frame makes the constants of its size.
    network.frame(images)
    frame, features = counted(network.frame, images)
    window = [features] * network.window_frames
    return frame + counted(network.predict, window, network.window_frames - 1)[0]


@torch.inference_mode()
def cost_of(config: SegmenterConfig, size: tuple[int, int]) -> Cost:
    """The cost of the network that `config` describes, for images of `size` as the network sees them.

    MACs are half of what PyTorch's flop counter says. Nothing is computed: shapes alone pass through the network.
    Raises ValueError where the network cannot be built.
    """
    model = empty_segmenter(config).eval().requires_grad_(False)
    macs: dict[str, int] = {}

    def count(part: str, module: Callable[..., Tensor], *inputs: Tensor | int) -> Tensor:
        macs[part], result = counted(module, *inputs)
        return result

    features = count("base", model.base, torch.empty(1, 3, *size, device="meta"))
    if model.stf is not None:
        length = model.window_frames
        features = count("stf", model.stf, features[:, None].expand(-1, length, -1, -1, -1), length // 2)
    if model.mar is not None:
        features = count("mar", model.mar, features)
    count("classifier", model.classifier, features)
    return Cost(size, {part: count_parameters(getattr(model, part)) for part in macs}, macs)
