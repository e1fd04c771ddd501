"""STF over a stream: each frame projected once, and what positions add made once a grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network import STF
from stmem_ros.network.stf import DecoderLayer, EncoderLayer
from stmem_ros.streaming.exact.attention import FoldedCrossICSA, FoldedICSA, Positions
from stmem_ros.streaming.exact.layout import Layout
from stmem_ros.streaming.last_used import MOST_SIZES, LastUsed


@dataclasses.dataclass(frozen=True)
class FrameTokens:
    """What the encoder's first layer needs of one frame, whatever its place in a window: all `(N, P, 1, B, C)`."""

    tokens: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


class FoldedEncoderLayer(nn.Module):
    """An encoder layer around its folded ICSA."""

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__()
        self.attention = FoldedICSA(layer.attention)
        self.attention_norm, self.feedforward_norm = layer.attention_norm, layer.feedforward_norm
        self.feedforward = layer.feedforward

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows the attention: add & norm, feed-forward, add & norm."""
        x = self.attention_norm(attended.add_(x))
        return self.feedforward_norm(self.feedforward(x).add_(x))


class FoldedDecoderLayer(nn.Module):
    """A decoder layer around its two folded ICSAs."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self.own, self.cross = FoldedICSA(layer.self_attention), FoldedCrossICSA(layer.cross_attention)
        self.self_norm, self.cross_norm = layer.self_norm, layer.cross_norm
        self.feedforward, self.feedforward_norm = layer.feedforward, layer.feedforward_norm

    def forward(self, x: Tensor, encoded: Tensor, own: Positions, cross: Positions, layout: Layout) -> Tensor:
        x = self.self_norm(self.own.attend(x, x, own, layout).add_(x))
        x = self.cross_norm(self.cross.attend(x, encoded, cross, layout).add_(x))
        return self.feedforward_norm(self.feedforward(x).add_(x))


class FoldedSTF(nn.Module):
    """An STF whose first encoder projections are made once a frame: W (x + p_t) = W x + W p_t."""

    def __init__(self, stf: STF) -> None:
        super().__init__()
        self.stf = stf
        self.encoder = [FoldedEncoderLayer(layer) for layer in stf.encoder]  # type: ignore[arg-type]
        self.decoder = [FoldedDecoderLayer(layer) for layer in stf.decoder]  # type: ignore[arg-type]
        self.layers = nn.ModuleList([*self.encoder, *self.decoder])
        self._grids: LastUsed[tuple[int, int], GridConstants] = LastUsed(MOST_SIZES)

    def grid(self, size: tuple[int, int]) -> GridConstants:
        """What is the same for every frame of a size, `(h, w)` cells."""
        return self._grids.get(size, lambda: self._constants(size))

    def _constants(self, size: tuple[int, int]) -> GridConstants:
        stf = self.stf
        layout = Layout(size, stf.config.block, stf.config.frames, stf.encoder_position)
        encoder, decoder = (
            layout.tokens(stf.positions(encoding, layout.grid))
            for encoding in (stf.encoder_position, stf.decoder_position)
        )
        return GridConstants(
            layout,
            [layer.attention.positions(encoder, encoder) for layer in self.encoder],
            [layer.own.positions(decoder, decoder) for layer in self.decoder],
            [layer.cross.positions(decoder, encoder) for layer in self.decoder],
        )

    def constants(self) -> list[GridConstants]:
        """What is kept now, for each size."""
        return self._grids.values()

    def frame(self, features: Tensor) -> FrameTokens:
        """What the encoder's first layer makes of a frame's features `(N, C, h, w)`, wherever it stands in a window."""
        layout = self.grid((features.shape[-2], features.shape[-1])).layout
        x = layout.tokens(layout.grid.pad(features.permute(0, 2, 3, 1)[:, None]))
        first = self.encoder[0].attention
        return FrameTokens(x, *(F.linear(x, weight) for weight in (first.query, first.key, first.value)))

    def fuse(self, window: Sequence[FrameTokens], query: int, size: tuple[int, int]) -> Tensor:
        """The features `(N, C, h, w)` of frame `query` of a window, oldest first; `size` is the frames' `(h, w)`."""
        grid = self.grid(size)
        encoded = torch.cat([frame.tokens for frame in window], 2)
        for index, layer in enumerate(self.encoder):
            positions = grid.encoder[index]
            if index == 0:
                q = torch.cat([frame.query for frame in window], 2).add_(positions.query)
                k = torch.cat([frame.key for frame in window], 2).add_(positions.key)
                v = torch.cat([frame.value for frame in window], 2)
                attended = layer.attention(q, k, v, positions.short, grid.layout)
            else:
                attended = layer.attention.attend(encoded, encoded, positions, grid.layout)
            encoded = layer(encoded, attended)
        fused = window[query].tokens
        for decoder, own, cross in zip(self.decoder, grid.decoder_self, grid.decoder_cross, strict=True):
            fused = decoder(fused, encoded, own, cross, grid.layout)
        return grid.layout.cells(fused)


@dataclasses.dataclass(frozen=True)
class GridConstants:
    """Of one grid: where its cells go, and what its positions add, layer by layer."""

    layout: Layout
    encoder: list[Positions]
    decoder_self: list[Positions]
    decoder_cross: list[Positions]
