"""MAR with every chain of linear maps multiplied out (equations 1 to 3 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network import MAR
from stmem_ros.network.half import scores_dtype


def product(chain: nn.Sequential) -> Tensor:
    """`(outputs, inputs)`: the one matrix of linears without bias, W = W_n ... W_1."""
    matrices = [linear.weight.double() for linear in chain if isinstance(linear, nn.Linear)]
    return torch.linalg.multi_dot(matrices[::-1])


class FoldedMAR(nn.Module):
    """theta(Q) . phi(K_i) = Q . (theta^T phi K_i) and W_out (sum_i s_i v V_j) = sum_i s_i (W_out v V_j).

    So the keys become one `(C, M K_L)` matrix and the values rows of C; where a class has one value, the
    probabilities of its K_L keys are summed first. What follows is the module's own.
    """

    keys: Tensor
    values: Tensor

    @torch.no_grad()
    def __init__(self, mar: MAR) -> None:
        super().__init__()
        self.config = mar.config
        keys = product(mar.theta).T @ product(mar.phi) @ mar.keys.flatten(0, 1).double().T
        values = mar.out.weight.double() @ product(mar.value) @ mar.values.flatten(0, 1).double().T
        self.register_buffer("keys", keys.float().contiguous())
        self.register_buffer("values", values.float().contiguous())
        self.bias = mar.out.bias
        self.attention_norm, self.feedforward, self.feedforward_norm = (
            mar.attention_norm,
            mar.feedforward,
            mar.feedforward_norm,
        )

    def forward(self, features: Tensor) -> Tensor:
        """As `MAR.forward`: `(N, C, H, W)` to refined features of the same shape."""
        x = features.permute(0, 2, 3, 1)
        wide = scores_dtype(x.dtype)
        shares = (x.to(wide) @ self.keys.to(wide)).softmax(-1).to(x.dtype)
        if self.config.values_per_class == 1:
            shares = shares.unflatten(-1, (-1, self.config.hard_per_class)).sum(-1)
        x = self.attention_norm(F.linear(shares, self.values, self.bias).add_(x))
        x = self.feedforward_norm(self.feedforward(x).add_(x)).permute(0, 3, 1, 2)
        return features + x if self.config.residual else x
