"""Swin Transformer for images of any size (Liu et al., ICCV 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.bases.base import IMAGENET_MEAN, IMAGENET_STD

# Channels of the first stage, blocks of the four stages, heads of the first stage. Both widths double each stage.
SIZES = {"tiny": (96, (2, 2, 6, 2), 3), "base": (128, (2, 2, 18, 2), 4)}
PATCH = 4


def pad_to(x: Tensor, multiple: int) -> Tensor:
    """`(N, H, W, C)` with zeros below and right of it, so that `multiple` divides both sides."""
    below, right = -x.shape[1] % multiple, -x.shape[2] % multiple
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def to_windows(x: Tensor, window: int) -> Tensor:
    """`(N, H, W, C)` to `(N, windows, window * window, C)`."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(batch, -1, window * window, channels)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """The reverse of `to_windows`."""
    x = x.view(x.shape[0], height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(x.shape[0], height, width, x.shape[-1])


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """`(windows, w * w, w * w)`, to be added to scores: cells that the shift made neighbours do not see each other."""
    regions = []
    for side in (height, width):
        place = torch.arange(side, device=device)
        regions.append((place >= side - window).long() + (place >= side - window // 2))
    of_cells = to_windows((3 * regions[0][:, None] + regions[1])[None, :, :, None], window)[0]
    return (of_cells != of_cells.transpose(1, 2)) * -100.0


def relative_places(window: int) -> Tensor:
    """`(w * w, w * w)`: the row of the bias table for each pair of query and key in a window."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    down, right = (axis.flatten()[:, None] - axis.flatten() + window - 1 for axis in (rows, columns))
    return down * (2 * window - 1) + right


class WindowAttention(nn.Module):
    """Multi-head attention within each window, a learned bias for each relative place added to the scores."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_places(window), persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`(N, windows, w * w, C)`, the same shape; `mask` as `shift_mask` gives it."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask[:, None].to(bias.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(2, 3).flatten(3))


class DropPath(nn.Module):
    """In training, a residual branch is left out of an image with probability `rate`, and scaled up elsewhere."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class MLP(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Window attention and MLP, each behind a norm and beside a shortcut; windows shifted by half or not."""

    def __init__(self, channels: int, heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn, self.mlp = WindowAttention(channels, heads, window), MLP(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = pad_to(x, self.window)
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self.attn(to_windows(x, self.window), mask if self.shift else None)
        x = from_windows(x, self.window, padded_height, padded_width)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """`(N, H, W, C)` to `(N, ceil(H/2), ceil(W/2), 2C)`: each 2x2 cells' channels through a norm and a linear.

    The four lie in the order of the authors' release, torchvision and timm: upper left, lower left, upper right,
    lower right, each with all of its channels. In mmsegmentation's files each channel has its four cells, row by row:
    its `weight.view(-1, C, 2, 2).permute(0, 3, 2, 1).flatten(1)` is the linear's weight here, and the norm's weight
    and bias change places in the same way.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to(x, 2)
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Blocks, every second one shifted: the stage's feature, and what the next stage begins with."""

    def __init__(self, channels: int, heads: int, window: int, drop_paths: list[float], last: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            Block(channels, heads, window, index % 2 == 1, rate) for index, rate in enumerate(drop_paths)
        )
        self.downsample: nn.Module = nn.Identity() if last else PatchMerging(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (side + -side % self.window for side in x.shape[1:3])
        mask = shift_mask(height, width, self.window, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x, self.downsample(x)


class PatchEmbedding(nn.Module):
    """Images `(N, 3, H, W)` to `(N, ceil(H/4), ceil(W/4), C)`: each 4x4 pixels through a linear and a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, PATCH, PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        below, right = -images.shape[2] % PATCH, -images.shape[3] % PATCH
        return self.norm(self.proj(F.pad(images, (0, right, 0, below))).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """Images `(N, 3, H, W)` to a list of the four stages' features, each behind a norm, at strides 4, 8, 16, 32.

    `size` is a key of SIZES, `window` the windows' side in cells, `drop_path` the last block's rate (earlier ones
    rise to it from 0). As in the authors' release for segmentation and in mmsegmentation, a grid is padded with zeros
    to whole windows and every second block is shifted, also where one window holds the whole grid (torchvision and
    timm do not shift there, so they differ at such small sizes). Modules are named as in that release.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD
    strides = (4, 8, 16, 32)

    def __init__(self, size: str, window: int, drop_path: float = 0.3) -> None:
        super().__init__()
        width, depths, heads = SIZES[size]
        self.channels = tuple(width * 2**index for index in range(len(depths)))
        self.patch_embed = PatchEmbedding(width)
        self.layers = nn.ModuleList()
        blocks = sum(depths)
        for index, (channels, depth) in enumerate(zip(self.channels, depths, strict=True)):
            first = sum(depths[:index])
            rates = [drop_path * number / (blocks - 1) for number in range(first, first + depth)]
            self.layers.append(Stage(channels, heads * 2**index, window, rates, last=index == len(depths) - 1))
            self.add_module(f"norm{index}", nn.LayerNorm(channels))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images)
        features = []
        for index, stage in enumerate(self.layers):
            feature, x = stage(x)
            features.append(self.get_submodule(f"norm{index}")(feature).permute(0, 3, 1, 2))
        return features
