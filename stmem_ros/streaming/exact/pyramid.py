"""PSPNet's head without a convolution over what was upsampled from a few cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases.pspnet import PSPHead
from stmem_ros.streaming.last_used import MOST_SIZES, LastUsed

# How a few cells become an image's rows, `(height, 3 * cells)`, and its columns, `(width, 3 * cells)`.
Sides = tuple[Tensor, Tensor]


def shifted_interpolation(cells: int, size: int) -> Tensor:
    """`(size, 3, cells)`: what each cell adds to the place before, at and after each of `size`; zero beyond the ends.

    Bilinear upsampling along one side as a matrix, once for each row or column of a 3x3 kernel.
    """
    upsampled = F.interpolate(torch.eye(cells)[:, None], size, mode="linear", align_corners=False)[:, 0].T
    padded = F.pad(upsampled, (0, 0, 1, 1))
    return torch.stack([padded[shift : shift + size] for shift in range(3)], 1)


class FoldedPSPHead(nn.Module):
    """A `PSPHead` whose norms are folded: fuse([x, up(p_1), ... up(p_6)]) with the pooled p_b taken out.

    Convolution and upsampling are linear, so a kernel's tap W_t may come before the upsampling U:
    conv(x) = W_x * x + sum_b sum_t shift_t(U_b W_b,t p_b), and shift and U are matrices along each side,
    sum_t shift_t(U P) = R_y P R_x^T. W_b,t p_b is a product over b x b cells and not over all of the image's: nearly
    half of the layer's arithmetic goes.
    """

    def __init__(self, head: PSPHead) -> None:
        super().__init__()
        conv = head.fuse[0]
        assert isinstance(conv, nn.Conv2d)
        self.pooling = head.pooling
        own = conv.in_channels - len(head.pooling.bins) * head.channels
        self.weight = nn.Parameter(conv.weight[:, :own].clone(), requires_grad=False)
        self.bias = conv.bias
        # (bins, C_in, 3 * 3 * C_out), rows of the kernel first.
        taps = conv.weight[:, own:].unflatten(1, (len(head.pooling.bins), -1)).permute(1, 2, 3, 4, 0)
        self.taps = nn.Parameter(taps.flatten(2).clone(), requires_grad=False)
        self._interpolations: LastUsed[tuple[int, int], list[Sides]] = LastUsed(MOST_SIZES)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """As `PSPHead.forward`."""
        x = levels[-1]
        height, width = x.shape[-2:]
        fused = F.conv2d(x, self.weight, self.bias, padding=1).permute(0, 2, 3, 1)
        channels = fused.shape[3]
        sides = self._interpolations.get((height, width), lambda: self._sides(height, width, x))
        for index, (bins, (down, across)) in enumerate(zip(self.pooling.bins, sides, strict=True)):
            pooled = self.pooling.levels[index](F.adaptive_avg_pool2d(x, bins)).permute(0, 2, 3, 1)
            # (N, b, b, C) to (N, row of the kernel, b, column of the kernel, b, C).
            cells = (pooled @ self.taps[index]).unflatten(3, (3, 3, channels)).permute(0, 3, 1, 4, 2, 5)
            rows = down @ cells.reshape(len(x), 3 * bins, -1)
            fused = fused + across @ rows.unflatten(2, (3 * bins, channels))
        return F.relu(fused).permute(0, 3, 1, 2)

    def constants(self) -> list[list[Sides]]:
        """What is kept now, for each size."""
        return self._interpolations.values()

    def _sides(self, height: int, width: int, like: Tensor) -> list[Sides]:
        """For each number of bins."""
        down, across = (
            [shifted_interpolation(bins, size).flatten(1).to(like) for bins in self.pooling.bins]
            for size in (height, width)
        )
        return list(zip(down, across, strict=True))


def fold_pyramids(network: nn.Module) -> None:
    """Put a `FoldedPSPHead` in the place of every `PSPHead`, in place; their norms are to be folded before."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, PSPHead):
                setattr(module, name, FoldedPSPHead(child))
