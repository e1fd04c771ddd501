"""The whole network over a stream: what is known of one frame, computed once, and the logits of a window."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network import STF, VideoSegmenter
from stmem_ros.network.half import scores_dtype
from stmem_ros.network.stf import direction, frame_weights
from stmem_ros.streaming.exact.batch_norm import fold_batch_norms
from stmem_ros.streaming.exact.fusion import FoldedSTF, FrameTokens
from stmem_ros.streaming.exact.onednn import fuse_convolutions
from stmem_ros.streaming.exact.pyramid import FoldedPSPHead, fold_pyramids
from stmem_ros.streaming.exact.refinement import FoldedMAR

TOKEN_FIELDS = dataclasses.fields(FrameTokens)


@dataclasses.dataclass(frozen=True)
class FrameFeatures:
    """What windows need of a frame: the base's features `(N, C, h, w)`, and what STF makes of them alone.

    `tokens` are of the first encoder layer; `direction` is what `steady_mean` compares, where STF adds to that.
    What a network does not need is None, and stays None.
    """

    features: Tensor
    tokens: FrameTokens | None = None
    direction: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Every tensor, in an order that `of` knows."""
        tokens = [] if self.tokens is None else [getattr(self.tokens, field.name) for field in TOKEN_FIELDS]
        return [self.features, *tokens, *([] if self.direction is None else [self.direction])]

    def of(self, tensors: Sequence[Tensor]) -> FrameFeatures:
        """Others of the same kind, from their `tensors`."""
        count = 0 if self.tokens is None else len(TOKEN_FIELDS)
        tokens = FrameTokens(*tensors[1 : 1 + count]) if count else None
        return FrameFeatures(tensors[0], tokens, None if self.direction is None else tensors[1 + count])


class StreamingNetwork(nn.Module):
    """A `VideoSegmenter` in two steps, `frame` and `predict`: its logits to rounding, for N cameras at once.

    Works on a copy; `model` stays as it is. Made in float32 on the CPU; `to` moves it and changes its number format.
    """

    def __init__(self, model: VideoSegmenter) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval().float().cpu().requires_grad_(False)
        self.window_frames = model.window_frames
        fold_batch_norms(model.base, torch.zeros(1, 3, 64, 64))
        fold_pyramids(model.base)
        self.base = model.base.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classifier = model.classifier
        self.fusion = None if model.stf is None else StreamingFusion(model.stf)
        self.refinement = None if model.mar is None else FoldedMAR(model.mar)

    def frame(self, images: Tensor) -> FrameFeatures:
        """Normalised images `(N, 3, H, W)` of one moment."""
        features = self.base(images)
        return FrameFeatures(features) if self.fusion is None else self.fusion.frame(features)

    def predict(self, window: Sequence[FrameFeatures], query: int) -> Tensor:
        """Logits `(N, classes, u*h, u*w)` of frame `query` of a window, oldest first."""
        features = window[query].features if self.fusion is None else self.fusion.fuse(window, query)
        if self.refinement is not None:
            features = self.refinement(features)
        return self.classifier(features)

    def constants(self) -> list[object]:
        """What `frame` and `predict` made and keep for the sizes they saw last."""
        kept: list[object] = [] if self.fusion is None else list(self.fusion.stf.constants())
        for module in self.base.modules():
            if isinstance(module, FoldedPSPHead):
                kept += module.constants()
        return kept


def streaming_network(model: VideoSegmenter, device: torch.device, dtype: torch.dtype) -> StreamingNetwork:
    """A `StreamingNetwork` as an engine runs it there."""
    network = StreamingNetwork(model).to(device, dtype)
    if device.type == "cpu" and dtype == torch.float32:
        probe = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        fuse_convolutions(network.base, probe.contiguous(memory_format=torch.channels_last))
    return network


class StreamingFusion(nn.Module):
    """STF at any `stride`; above 1 with the steady mean that its output is added to."""

    def __init__(self, stf: STF) -> None:
        super().__init__()
        self.config = stf.config
        self.stf = FoldedSTF(stf)

    def frame(self, features: Tensor) -> FrameFeatures:
        """A frame's features `(N, C, h, w)`, once."""
        if self.config.stride == 1:
            return FrameFeatures(features, self.stf.frame(features))
        pooled = F.avg_pool2d(features, self.config.stride, ceil_mode=True)
        return FrameFeatures(features, self.stf.frame(pooled), direction(features))

    def fuse(self, window: Sequence[FrameFeatures], query: int) -> Tensor:
        """The features `(N, C, h, w)` of frame `query` of a window, oldest first."""
        height, width = window[query].features.shape[-2:]
        stride = self.config.stride
        # As ceil_mode pools.
        size = (-(-height // stride), -(-width // stride))
        fused = self.stf.fuse([frame.tokens for frame in window if frame.tokens is not None], query, size)
        if stride == 1:
            return fused
        change = F.interpolate(fused, scale_factor=stride, mode="bilinear", align_corners=False)
        return self._steady_mean(window, query) + change[..., :height, :width]

    def _steady_mean(self, window: Sequence[FrameFeatures], query: int) -> Tensor:
        """`steady_mean`, frame by frame: no stack of features, and each frame's direction is known."""
        directions = [frame.direction for frame in window if frame.direction is not None]
        dtype = directions[query].dtype
        correlations = [(other * directions[query]).sum(1, True, dtype=scores_dtype(dtype)) for other in directions]
        weights = frame_weights(torch.cat(correlations, 1), query, self.config.sharpness, self.config.fading).to(dtype)
        total = weights[:, :1] * window[0].features
        for place, frame in enumerate(window[1:], 1):
            total = torch.addcmul(total, weights[:, place : place + 1], frame.features)
        return total
