"""Block-wise attention and interlaced cross-self attention, ICSA (paper, section 3.2, figures 4 and 5).

Features travel here as tokens `(N, T, H, W, C)`, T frames of an H x W grid. A `BlockGrid` cuts the
grid into blocks, pads it where a block does not divide it, and hides the padding from attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BlockGrid:
    """How an H x W grid lies in blocks of h_b x w_b cells; `rows` x `columns` blocks cover it."""

    def __init__(self, size: tuple[int, int], block: tuple[int, int], device: torch.device) -> None:
        self.height, self.width = size
        self.block = block
        self.rows, self.columns = -(-self.height // block[0]), -(-self.width // block[1])
        self.padding = (self.rows * block[0] - self.height, self.columns * block[1] - self.width)
        self.long_mask: Tensor | None = None
        self.short_mask: Tensor | None = None
        if any(self.padding):
            valid = torch.ones(1, 1, self.height, self.width, 1, dtype=torch.bool, device=device)
            valid = self.pad(valid)
            self.long_mask = self._mask(self.long_tokens(valid))
            self.short_mask = self._mask(self.short_tokens(valid))

    @staticmethod
    def _mask(valid: Tensor) -> Tensor:
        valid = valid[..., 0]
        # A sequence that is all padding attends to itself: its result is cut off, and softmax stays finite.
        return valid | ~valid.any(1, keepdim=True)

    def pad(self, tokens: Tensor) -> Tensor:
        """`(N, T, H, W, C)` with zeros at the bottom and right up to whole blocks."""
        if not any(self.padding):
            return tokens
        return F.pad(tokens, (0, 0, 0, self.padding[1], 0, self.padding[0]))

    def crop(self, tokens: Tensor) -> Tensor:
        return tokens[:, :, : self.height, : self.width]

    def _split(self, tokens: Tensor) -> Tensor:
        """`(N, T, rows, h_b, columns, w_b, C)`."""
        n, t, _, _, c = tokens.shape
        return tokens.reshape(n, t, self.rows, self.block[0], self.columns, self.block[1], c)

    def long_tokens(self, tokens: Tensor) -> Tensor:
        """Cells at the same place inside every block: `(N * h_b * w_b, T * rows * columns, C)`."""
        x = self._split(tokens).permute(0, 3, 5, 1, 2, 4, 6)
        return x.reshape(x.shape[0] * x.shape[1] * x.shape[2], -1, x.shape[-1])

    def short_tokens(self, tokens: Tensor) -> Tensor:
        """Cells inside one block: `(N * rows * columns, T * h_b * w_b, C)`."""
        x = self._split(tokens).permute(0, 2, 4, 1, 3, 5, 6)
        return x.reshape(x.shape[0] * x.shape[1] * x.shape[2], -1, x.shape[-1])

    def from_long(self, tokens: Tensor, batch: int) -> Tensor:
        x = tokens.reshape(batch, *self.block, -1, self.rows, self.columns, tokens.shape[-1])
        return x.permute(0, 3, 4, 1, 5, 2, 6).reshape(batch, x.shape[3], self._padded[0], self._padded[1], -1)

    def from_short(self, tokens: Tensor, batch: int) -> Tensor:
        x = tokens.reshape(batch, self.rows, self.columns, -1, *self.block, tokens.shape[-1])
        return x.permute(0, 3, 1, 4, 2, 5, 6).reshape(batch, x.shape[3], self._padded[0], self._padded[1], -1)

    @property
    def _padded(self) -> tuple[int, int]:
        return self.height + self.padding[0], self.width + self.padding[1]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads (the transformer's), biases everywhere."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"stf.heads is {heads}; it must divide the feature's {channels} channels")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        for projection in (self.query, self.key, self.value):
            # One Xavier draw over the three stacked projections, as the transformer has it.
            bound = (6 / (4 * channels)) ** 0.5
            nn.init.uniform_(projection.weight, -bound, bound)
            nn.init.zeros_(projection.bias)
        # Queries and keys begin as the same map: a token first attends to those that are like it, which in a window
        # is itself in the other frames. From independent draws STF hardly learned to look there.
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(B, Q, C)`, `(B, K, C)`, `(B, K, C)` to `(B, Q, C)`; mask `(B, K)` is True where a key counts."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.query(query)),
            split(self.key(key)),
            split(self.value(value)),
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(attended.transpose(1, 2).flatten(-2))


class ICSA(nn.Module):
    """Long-range cross-attention, then short-range self-attention; no residual and no norm between them.

    Positions are added to queries and keys only; the short-range attention uses the query's.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.long = MultiHeadAttention(channels, heads, dropout)
        self.short = MultiHeadAttention(channels, heads, dropout)

    def forward(
        self, query: Tensor, memory: Tensor, query_position: Tensor, memory_position: Tensor, grid: BlockGrid
    ) -> Tensor:
        """Query `(N, T_q, H, W, C)`, keys and values `(N, T_k, H, W, C)`, both padded, to the query's shape."""
        batch, frames = query.shape[:2]

        def repeated(mask: Tensor | None, times: int) -> Tensor | None:
            return None if mask is None else mask.repeat(batch, times)

        attended = self.long(
            grid.long_tokens(query + query_position),
            grid.long_tokens(memory + memory_position),
            grid.long_tokens(memory),
            repeated(grid.long_mask, memory.shape[1]),
        )
        x = grid.from_long(attended, batch)
        placed = grid.short_tokens(x + query_position)
        attended = self.short(placed, placed, grid.short_tokens(x), repeated(grid.short_mask, frames))
        return grid.from_short(attended, batch)
