"""The one order of tokens in which both of an ICSA's attentions are views.

Tokens lie as `(N, P, T, B, C)`: P places of a block, T frames, B blocks. Long-range attention runs over (T, B) for
each place and short-range attention over (P, T) for each block. Attention does not care for the order within a
sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stmem_ros.network.attention import BlockGrid


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
