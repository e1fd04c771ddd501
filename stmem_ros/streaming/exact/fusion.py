"""STF over a stream: each frame projected once, projections that meet multiplied out, tokens never moved.

Tokens lie as `(N, P, T, B, C)`: P places of a block, T frames, B blocks. Long-range attention runs over (T, B) for
each place and short-range attention over (P, T) for each block, and both are views of that one layout: attention
does not care for the order within a sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network import STF
from stmem_ros.network.attention import ICSA, BlockGrid
from stmem_ros.network.stf import DecoderLayer, EncoderLayer

MOST_GRIDS = 8


class Layout:
    """How a grid's cells become tokens `(N, P, T, B, C)`, and which of them are padding."""

    def __init__(self, size: tuple[int, int], block: tuple[int, int], frames: int, like: Tensor) -> None:
        """For sequences of 1 and of `frames` frames; masks have the device and number format of `like`."""
        self.grid = BlockGrid(size, block, like.device)
        self.places, self.blocks = block[0] * block[1], self.grid.rows * self.grid.columns
        # By the frames of the keys: `(P, 1, 1, T * B)` and `(B, 1, 1, P * T)`.
        self.long_masks: dict[int, Tensor] = {}
        self.short_masks: dict[int, Tensor] = {}
        if any(self.grid.padding):
            cells = torch.ones(1, 1, *size, 1, dtype=torch.bool, device=like.device)
            valid = self.tokens(self.grid.pad(cells))[0, :, 0, :, 0]
            for count in {1, frames}:
                self.long_masks[count] = self._mask(valid[:, None].expand(-1, count, -1), like)
                self.short_masks[count] = self._mask(valid.T[:, :, None].expand(-1, -1, count), like)

    @staticmethod
    def _mask(valid: Tensor, like: Tensor) -> Tensor:
        """Added to the logits: 0 where a key counts, else -inf; a sequence that is all padding attends to itself."""
        valid = valid.flatten(1)
        counts = (valid | ~valid.any(1, keepdim=True))[:, None, None]
        return torch.zeros(counts.shape, dtype=like.dtype, device=like.device).masked_fill(~counts, -torch.inf)

    def tokens(self, cells: Tensor) -> Tensor:
        """Padded cells `(N, T, H, W, C)` to tokens."""
        n, t, _, _, c = cells.shape
        grid = self.grid
        x = cells.reshape(n, t, grid.rows, grid.block[0], grid.columns, grid.block[1], c)
        return x.permute(0, 3, 5, 1, 2, 4, 6).reshape(n, self.places, t, self.blocks, c)

    def cells(self, tokens: Tensor) -> Tensor:
        """Tokens of one frame `(N, P, 1, B, C)` to features `(N, C, H, W)`, the padding cut off."""
        n, _, _, _, c = tokens.shape
        grid = self.grid
        x = tokens.reshape(n, *grid.block, grid.rows, grid.columns, c).permute(0, 5, 3, 1, 4, 2)
        x = x.reshape(n, c, grid.rows * grid.block[0], grid.columns * grid.block[1])
        return x[..., : grid.height, : grid.width]


class FoldedICSA(nn.Module):
    """An ICSA whose long-range way out and short-range ways in are one matrix.

    Nothing lies between y = W_o a + b_o and W_s (y + p) + b_s, so this is (W_s W_o) a + (W_s b_o + b_s) + W_s p.
    """

    short_weight: Tensor
    short_bias: Tensor
    short_position_weight: Tensor

    @torch.no_grad()
    def __init__(self, icsa: ICSA) -> None:
        super().__init__()
        long, short = icsa.long, icsa.short
        self.heads = long.heads
        self.query, self.key, self.value, self.out = long.query, long.key, long.value, short.out
        ways_in = (short.query, short.key, short.value)
        weight = torch.cat([way.weight for way in ways_in]).double()
        bias = weight @ long.out.bias.double() + torch.cat([way.bias for way in ways_in])
        self.register_buffer("short_weight", (weight @ long.out.weight.double()).float())
        self.register_buffer("short_bias", bias.float())
        # Positions go to queries and keys alone; zeros keep the sum one whole addition.
        none = torch.zeros_like(short.value.weight)
        self.register_buffer("short_position_weight", torch.cat([short.query.weight, short.key.weight, none]))

    def positions(self, query: Tensor, memory: Tensor) -> Positions:
        """W p of every projection that sees a position, from tokens `(1, P, T, B, C)`: constants of a grid."""
        return Positions(
            F.linear(query, self.query.weight),
            F.linear(memory, self.key.weight),
            F.linear(query, self.short_position_weight, self.short_bias),
        )

    def attend(self, query: Tensor, memory: Tensor, positions: Positions, layout: Layout) -> Tensor:
        """Tokens `(N, P, T_q, B, C)` that see `(N, P, T_k, B, C)`; see `forward`."""
        return self(
            self.query(query) + positions.query,
            self.key(memory) + positions.key,
            self.value(memory),
            positions.short,
            layout,
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, short: Tensor, layout: Layout) -> Tensor:
        """Projected tokens, queries and keys with their positions: `(N, P, T_q, B, C)`, twice `(N, P, T_k, B, C)`.

        `short` is the constant of `positions`. Returns `(N, P, T_q, B, C)`, in memory as `(N, B, P, T_q, C)`.
        """
        n, places, frames, blocks, channels = query.shape
        mask = self._repeated(layout.long_masks.get(key.shape[2]), n)
        attended = F.scaled_dot_product_attention(self._long(query), self._long(key), self._long(value), mask)
        x = attended.transpose(1, 2).reshape(n, places, frames, blocks, channels)
        x = F.linear(x, self.short_weight).add_(short)
        q, k, v = (self._short(part) for part in x.chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, self._repeated(layout.short_masks.get(frames), n))
        x = self.out(attended.transpose(1, 2).reshape(n, blocks, places, frames, channels))
        return x.permute(0, 2, 3, 1, 4)

    def _long(self, x: Tensor) -> Tensor:
        return x.flatten(2, 3).flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _short(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1, 4)
        return x.flatten(0, 1)

    @staticmethod
    def _repeated(mask: Tensor | None, times: int) -> Tensor | None:
        return mask if mask is None or times == 1 else mask.repeat(times, 1, 1, 1)


@dataclasses.dataclass(frozen=True)
class Positions:
    """What positions add to long-range queries and keys and to short-range queries and keys, of one ICSA and grid."""

    query: Tensor
    key: Tensor
    short: Tensor


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
        x = self.attention_norm(x + attended)
        return self.feedforward_norm(x + self.feedforward(x))


class FoldedDecoderLayer(nn.Module):
    """A decoder layer around its two folded ICSAs."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__()
        self.own, self.cross = FoldedICSA(layer.self_attention), FoldedICSA(layer.cross_attention)
        self.self_norm, self.cross_norm = layer.self_norm, layer.cross_norm
        self.feedforward, self.feedforward_norm = layer.feedforward, layer.feedforward_norm

    def forward(self, x: Tensor, encoded: Tensor, own: Positions, cross: Positions, layout: Layout) -> Tensor:
        x = self.self_norm(x + self.own.attend(x, x, own, layout))
        x = self.cross_norm(x + self.cross.attend(x, encoded, cross, layout))
        return self.feedforward_norm(x + self.feedforward(x))


class FoldedSTF(nn.Module):
    """An STF whose first encoder projections are made once a frame: W (x + p_t) = W x + W p_t."""

    def __init__(self, stf: STF) -> None:
        super().__init__()
        self.stf = stf
        self.encoder = [FoldedEncoderLayer(layer) for layer in stf.encoder]  # type: ignore[arg-type]
        self.decoder = [FoldedDecoderLayer(layer) for layer in stf.decoder]  # type: ignore[arg-type]
        self.layers = nn.ModuleList([*self.encoder, *self.decoder])
        self._grids: dict[tuple[int, int], GridConstants] = {}

    def grid(self, size: tuple[int, int]) -> GridConstants:
        """What is the same for every frame of a size, `(h, w)` cells; kept for some sizes, as several cameras have."""
        if size not in self._grids:
            if len(self._grids) == MOST_GRIDS:
                del self._grids[next(iter(self._grids))]
            stf = self.stf
            layout = Layout(size, stf.config.block, stf.config.frames, stf.encoder_position)
            encoder, decoder = (
                layout.tokens(stf.positions(encoding, layout.grid))
                for encoding in (stf.encoder_position, stf.decoder_position)
            )
            self._grids[size] = GridConstants(
                layout,
                [layer.attention.positions(encoder, encoder) for layer in self.encoder],
                [layer.own.positions(decoder, decoder) for layer in self.decoder],
                [layer.cross.positions(decoder, encoder) for layer in self.decoder],
            )
        return self._grids[size]

    def constants(self) -> list[GridConstants]:
        """Those that are kept now."""
        return list(self._grids.values())

    def frame(self, features: Tensor) -> FrameTokens:
        """What the encoder's first layer makes of a frame's features `(N, C, h, w)`, wherever it stands in a window."""
        layout = self.grid((features.shape[-2], features.shape[-1])).layout
        x = layout.tokens(layout.grid.pad(features.permute(0, 2, 3, 1)[:, None]))
        first = self.encoder[0].attention
        return FrameTokens(x, first.query(x), first.key(x), first.value(x))

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
