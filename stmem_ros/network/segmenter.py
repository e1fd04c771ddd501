"""The composed network: base, STF, MAR, classifier (paper, figure 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases import BaseNetwork, build_base
from stmem_ros.network.config import SegmenterConfig
from stmem_ros.network.mar import MAR
from stmem_ros.network.stf import STF


class Classifier(nn.Module):
    """One linear map a feature: `(N, C, H, W)` to logits `(N, classes, u*H, u*W)`, u = `upscale`.

    With u above 1 each feature gives u x u neighbouring logits, which places thin things
    within a cell at no cost elsewhere. u = 1 is the paper's.
    """

    def __init__(self, channels: int, classes: int, upscale: int = 1) -> None:
        super().__init__()
        self.upscale = upscale
        self.linear = nn.Conv2d(channels, classes * upscale**2, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        return F.pixel_shuffle(self.linear(features), self.upscale)


class VideoSegmenter(nn.Module):
    """Base -> STF -> MAR -> classifier; STF and MAR are each optional.

    The four steps can be called one by one, so that a stream computes each frame's base features once.
    """

    def __init__(self, base: BaseNetwork, classifier: Classifier, stf: STF | None = None, mar: MAR | None = None):
        super().__init__()
        self.base = base
        self.stf = stf
        self.mar = mar
        self.classifier = classifier

    @property
    def window_frames(self) -> int:
        """How many frames one prediction looks at: 1 without STF."""
        return 1 if self.stf is None else self.stf.config.frames

    def features(self, images: Tensor) -> Tensor:
        """Normalised images `(N, 3, H, W)` to the base's features `(N, C, h, w)`."""
        return self.base(images)

    def predict(self, window: Tensor, query: int) -> Tensor:
        """Features of a window `(N, T, C, h, w)` to low-resolution logits of its frame `query`."""
        features = window[:, query] if self.stf is None else self.stf(window, query)
        if self.mar is not None:
            features = self.mar(features)
        return self.classifier(features)

    def forward(self, clip: Tensor, query: int | None = None) -> Tensor:
        """A clip of normalised images `(N, T, 3, H, W)` to logits `(N, classes, H, W)` of its frame `query`.

        `query` counts from the oldest; by default it is the middle frame, as in the paper.
        """
        batch, frames = clip.shape[:2]
        query = frames // 2 if query is None else query
        if self.stf is None:
            clip, frames, query = clip[:, query : query + 1], 1, 0
        window = self.features(clip.flatten(0, 1)).unflatten(0, (batch, frames))
        return upsample(self.predict(window, query), (clip.shape[-2], clip.shape[-1]))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned: the one way logits reach the resolution of an image."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def build_segmenter(config: SegmenterConfig) -> VideoSegmenter:
    """The network that `config` describes, with random weights. Raises ValueError where its parts do not fit."""
    base = build_base(config.base)
    stf = None if config.stf is None else STF(base.channels, config.stf)
    mar = None if config.mar is None else MAR(base.channels, config.mar)
    return VideoSegmenter(base, Classifier(base.channels, config.classes, config.classifier_upscale), stf, mar)


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def empty_segmenter(config: SegmenterConfig) -> VideoSegmenter:
    """As `build_segmenter` but without memory behind the weights (PyTorch's meta device): names and shapes only."""
    with torch.device("meta"):
        return build_segmenter(config)
