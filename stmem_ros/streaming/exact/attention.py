"""ICSA with projections that meet multiplied out, over tokens that are never moved."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.attention import ICSA
from stmem_ros.streaming.exact.layout import Layout


class FoldedICSA(nn.Module):
    """An ICSA whose long-range way out and short-range ways in are one matrix, and whose long-range biases are gone.

    Nothing lies between y = W_o a + b_o and W_s (y + p) + b_s, so this is (W_s W_o) a + (W_s b_o + b_s) + W_s p.
    Shares s_i sum to 1, so a = sum_i s_i (W_v m_i + b_v) = sum_i s_i W_v m_i + b_v, and b_v joins b_o. A key's bias
    adds the same to a query's logit for every i, which softmax takes out. A query's bias joins its position's W_q p.
    """

    short_weight: Tensor
    short_bias: Tensor
    short_position_weight: Tensor

    @torch.no_grad()
    def __init__(self, icsa: ICSA) -> None:
        super().__init__()
        long, short = icsa.long, icsa.short
        self.heads = long.heads
        self.query, self.key, self.value = long.query.weight, long.key.weight, long.value.weight
        self.query_bias, self.out = long.query.bias, short.out
        ways_in = (short.query, short.key, short.value)
        weight = torch.cat([way.weight for way in ways_in]).double()
        out = long.out.weight.double() @ long.value.bias.double() + long.out.bias.double()
        bias = weight @ out + torch.cat([way.bias for way in ways_in])
        self.register_buffer("short_weight", (weight @ long.out.weight.double()).float())
        self.register_buffer("short_bias", bias.float())
        # Positions go to queries and keys alone; zeros keep the sum one whole addition.
        none = torch.zeros_like(short.value.weight)
        self.register_buffer("short_position_weight", torch.cat([short.query.weight, short.key.weight, none]))

    def positions(self, query: Tensor, memory: Tensor) -> Positions:
        """W p of every projection that sees a position, from tokens `(1, P, T, B, C)`: constants of a grid."""
        return Positions(
            F.linear(query, self.query, self.query_bias),
            F.linear(memory, self.key),
            F.linear(query, self.short_position_weight, self.short_bias),
        )

    def attend(self, query: Tensor, memory: Tensor, positions: Positions, layout: Layout) -> Tensor:
        """Tokens `(N, P, T_q, B, C)` that see `(N, P, T_k, B, C)`; see `forward`."""
        return self(
            F.linear(query, self.query).add_(positions.query),
            F.linear(memory, self.key).add_(positions.key),
            F.linear(memory, self.value),
            positions.short,
            layout,
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, short: Tensor, layout: Layout) -> Tensor:
        """Projected tokens, queries and keys with their positions: `(N, P, T_q, B, C)`, twice `(N, P, T_k, B, C)`.

        `short` is the constant of `positions`. Returns `(N, P, T_q, B, C)`.
        """
        mask = self._repeated(layout.long_masks.get(key.shape[2]), len(query))
        attended = F.scaled_dot_product_attention(self._long(query), self._long(key), self._long(value), mask)
        return self._short_range(attended.transpose(1, 2).reshape(query.shape), short, layout)

    def _short_range(self, attended: Tensor, short: Tensor, layout: Layout) -> Tensor:
        """What follows the long-range attention, before its way out: `(N, P, T, B, C)` to the same."""
        n, places, frames, blocks, channels = attended.shape
        x = F.linear(attended, self.short_weight).add_(short)
        q, k, v = (self._short(part) for part in x.chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, self._repeated(layout.short_masks.get(frames), n))
        # Back to the tokens' order first: a linear over tokens in another one is a product for each of them.
        x = attended.unflatten(0, (n, blocks)).permute(0, 3, 1, 2, 4)
        return self.out(x.reshape(n, places, frames, blocks, channels))

    def _long(self, x: Tensor) -> Tensor:
        return x.flatten(2, 3).flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _short(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1, 4)
        return x.flatten(0, 1)

    @staticmethod
    def _repeated(mask: Tensor | None, times: int) -> Tensor | None:
        return mask if mask is None or times == 1 else mask.repeat(times, 1, 1, 1)


class FoldedCrossICSA(FoldedICSA):
    """A folded ICSA of one frame that sees T: the memory is not projected where that is less arithmetic.

    Of head h, q_h . (W_k (m_i + p_i))_h = (W_k,h^T q_h) . (m_i + p_i), and
    sum_i s_i (W_v m_i)_h = W_v,h (sum_i s_i m_i). So every head attends to the memory itself, and heads are no more
    than further queries. For a token that sees K others, (heads + 1) C^2 + 2 heads K C products take the place of
    (1 + 2 T) C^2 + 2 K C.
    """

    absorbed_weight: Tensor
    absorbed_bias: Tensor
    value_weight: Tensor

    @torch.no_grad()
    def __init__(self, icsa: ICSA) -> None:
        super().__init__(icsa)
        long = icsa.long
        bias, query, key, value = (
            part.double().unflatten(0, (self.heads, -1))
            for part in (long.query.bias[:, None], long.query.weight, long.key.weight, long.value.weight)
        )
        # (heads, C, C / heads) @ (heads, C / heads, C or 1).
        self.register_buffer("absorbed_weight", (key.mT @ query).flatten(0, 1).float())
        self.register_buffer("absorbed_bias", (key.mT @ bias).flatten().float())
        self.register_buffer("value_weight", value.mT.float().contiguous())

    def absorbs(self, memory: Tensor) -> bool:
        """Whether a memory `(N, P, T, B, C)` is left as it is."""
        _, _, frames, blocks, channels = memory.shape
        return 2 * (self.heads - 1) * frames * blocks < (2 * frames - self.heads) * channels

    def positions(self, query: Tensor, memory: Tensor) -> Positions:
        projected = super().positions(query, memory)
        if not self.absorbs(memory):
            return projected
        return Positions(F.linear(query, self.absorbed_weight, self.absorbed_bias), memory, projected.short)

    def attend(self, query: Tensor, memory: Tensor, positions: Positions, layout: Layout) -> Tensor:
        if not self.absorbs(memory):
            return super().attend(query, memory, positions, layout)
        n, _, frames, _, channels = memory.shape
        absorbed = F.linear(query, self.absorbed_weight).add_(positions.query)
        queries = absorbed.flatten(0, 1).flatten(1, 2).unflatten(-1, (self.heads, -1)).flatten(1, 2)[:, None]
        keys, values = ((each.flatten(0, 1).flatten(1, 2)[:, None]) for each in (memory + positions.key, memory))
        mask = self._repeated(layout.long_masks.get(frames), n)
        scale = (channels // self.heads) ** -0.5
        seen = F.scaled_dot_product_attention(queries, keys, values, mask, scale=scale)
        # (heads, tokens, C) @ (heads, C, C / heads).
        attended = seen.reshape(-1, self.heads, channels).transpose(0, 1) @ self.value_weight
        return self._short_range(attended.transpose(0, 1).reshape(query.shape), positions.short, layout)


@dataclasses.dataclass(frozen=True)
class Positions:
    """What positions add to long-range queries and keys and to short-range queries and keys, of one ICSA and grid."""

    query: Tensor
    key: Tensor
    short: Tensor
