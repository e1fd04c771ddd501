"""Memory-augmented refinement, MAR (paper, section 3.3, equations 1 to 3, figure 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmem_ros.network.config import MARConfig
from stmem_ros.network.half import scores_dtype


class LinearChain(nn.Sequential):
    """Three bias-free linears d, d, d/2, d/2 with nothing between them: one matrix, factored."""

    def __init__(self, channels: int) -> None:
        half = channels // 2
        super().__init__(
            nn.Linear(channels, channels, bias=False),
            nn.Linear(channels, half, bias=False),
            nn.Linear(half, half, bias=False),
        )


class MAR(nn.Module):
    """Moves each feature towards the prototypes of the classes whose hard features it resembles.

    s_i = softmax_i(theta(Q) . phi(K_i)), eq. 1 and 2, without the usual 1/sqrt(d);
    Q' = sum_i s_i V_j, eq. 3, j the class of key i. Add & norm, feed-forward, add & norm follow.
    With `config.residual` all this is added to the features; untrained, it adds nothing.
    The memory is learnable once `set_memory` or a checkpoint has filled it.
    """

    keys: nn.Parameter
    values: nn.Parameter

    def __init__(self, channels: int, config: MARConfig) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"MAR halves the feature's channels; {channels} is odd")
        self.config = config
        half = channels // 2
        self.keys = nn.Parameter(torch.randn(config.memory_classes, config.hard_per_class, channels))
        self.values = nn.Parameter(torch.randn(config.memory_classes, config.values_per_class, channels))
        self.theta = LinearChain(channels)
        self.phi = LinearChain(channels)
        self.value = LinearChain(channels)
        self.out = nn.Linear(half, channels)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(nn.Linear(channels, half), nn.ReLU(), nn.Linear(half, channels))
        self.feedforward_norm = nn.LayerNorm(channels)
        if config.residual:
            nn.init.zeros_(self.feedforward_norm.weight)

    def set_memory(self, keys: Tensor, values: Tensor) -> None:
        """Fill the memory: keys `(classes, K_L, d)`, values `(classes, values_per_class, d)`.

        Raises ValueError where a shape differs.
        """
        for name, ours, given in (("keys", self.keys, keys), ("values", self.values, values)):
            if ours.shape != given.shape:
                raise ValueError(f"memory {name} are {tuple(given.shape)}; this MAR holds {tuple(ours.shape)}")
        with torch.no_grad():
            self.keys.copy_(keys)
            self.values.copy_(values)

    def forward(self, features: Tensor) -> Tensor:
        """`(N, C, H, W)` to refined features of the same shape."""
        tokens = features.flatten(2).transpose(1, 2)
        wide = scores_dtype(features.dtype)
        shares = (self.theta(tokens).to(wide) @ self.phi(self.keys.flatten(0, 1)).T.to(wide)).softmax(-1)
        values = self.value(self.values).expand(-1, self.config.hard_per_class, -1).flatten(0, 1)
        tokens = self.attention_norm(tokens + self.out(shares.to(values.dtype) @ values))
        tokens = self.feedforward_norm(tokens + self.feedforward(tokens))
        refined = tokens.transpose(1, 2).unflatten(2, features.shape[2:])
        return features + refined if self.config.residual else refined
