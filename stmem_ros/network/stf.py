"""Spatial-temporal fusion, STF (paper, section 3.2, figure 3): a transformer over the frames of a window."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmem_ros.network.attention import ICSA, BlockGrid
from stmem_ros.network.config import STFConfig
from stmem_ros.network.half import scores_dtype


class FeedForward(nn.Sequential):
    """Linear, ReLU, dropout, linear."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels))


class EncoderLayer(nn.Module):
    """ICSA(x, x, x), add & norm, feed-forward, add & norm, over all frames."""

    def __init__(self, channels: int, config: STFConfig) -> None:
        super().__init__()
        self.attention = ICSA(channels, config.heads, config.dropout)
        self.feedforward = FeedForward(channels, config.feedforward, config.dropout)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, grid: BlockGrid) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, x, position, position, grid)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


class DecoderLayer(nn.Module):
    """ICSA(f, f, f), add & norm, ICSA(f, encoded, encoded), add & norm, feed-forward, add & norm."""

    def __init__(self, channels: int, config: STFConfig) -> None:
        super().__init__()
        self.self_attention = ICSA(channels, config.heads, config.dropout)
        self.cross_attention = ICSA(channels, config.heads, config.dropout)
        self.feedforward = FeedForward(channels, config.feedforward, config.dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_norm = nn.LayerNorm(channels)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, encoded: Tensor, position: Tensor, encoded_position: Tensor, grid: BlockGrid
    ) -> Tensor:
        x = self.self_norm(x + self.dropout(self.self_attention(x, x, position, position, grid)))
        x = self.cross_norm(x + self.dropout(self.cross_attention(x, encoded, position, encoded_position, grid)))
        return self.feedforward_norm(x + self.dropout(self.feedforward(x)))


def place_encoding(channels: int, grid: tuple[int, int], amplitude: float = 2.0) -> Tensor:
    """`(C, H, W)`: sines and cosines of row and column, 1/2 to 4 periods over the grid; the same in every frame.

    What the learnable encodings begin with: a place resembles itself in the other frames, and its neighbourhood.
    """
    count = -(-channels // 4)
    periods = torch.linspace(0.5, 4.0, count)[:, None]
    rows, columns = (2 * math.pi * periods * (torch.arange(size) + 0.5) / size for size in grid)
    waves = [
        wave.expand(count, *grid)
        for angle, shape in ((rows, (count, -1, 1)), (columns, (count, 1, -1)))
        for wave in (angle.sin().view(shape), angle.cos().view(shape))
    ]
    return amplitude * torch.cat(waves)[:channels]


def frame_of(window: Tensor, query: int | Tensor) -> Tensor:
    """`(N, T, ...)` to `(N, ...)`: the frame at place `query` of each window."""
    if isinstance(query, Tensor):
        return window[torch.arange(len(query), device=query.device), query]
    return window[:, query]


def steady_mean(window: Tensor, query: int | Tensor, sharpness: float, fading: float) -> Tensor:
    """The mean over the frames of a window `(N, T, C, H, W)`, place by place: `(N, C, H, W)`.

    Weights are softmax_t(sharpness * r_t - fading * d_t), r_t the correlation over channels of frame t's feature and
    the query's (the product of their `direction`s), d_t how many frames beyond the query's neighbours it is: what
    jitters is averaged, what has moved on is not.
    """
    alike = direction(window, 2)
    correlation = (alike * frame_of(alike, query)[:, None]).sum(2, dtype=scores_dtype(window.dtype))
    weights = frame_weights(correlation, query, sharpness, fading).to(window.dtype)
    return (weights[:, :, None] * window).sum(1)


def direction(features: Tensor, channels: int = 1) -> Tensor:
    """Features less their mean over dimension `channels`, of length 1 along it; zeros where all of them are equal."""
    x = features.to(scores_dtype(features.dtype))
    return F.normalize(x - x.mean(channels, keepdim=True), dim=channels).to(features.dtype)


def frame_weights(correlation: Tensor, query: int | Tensor, sharpness: float, fading: float) -> Tensor:
    """What each frame of a window weighs in `steady_mean`, from its correlation with the query `(N, T, H, W)`."""
    length = correlation.shape[1]
    beyond = frames_beyond(length, query, correlation.device).view(-1, length, 1, 1)
    return (sharpness * correlation - fading * beyond).softmax(1)


def frames_beyond(length: int, query: int | Tensor, device: torch.device) -> Tensor:
    """`(1 or N, T)`: how many frames each place of a window is beyond the neighbours of place `query`."""
    places = torch.arange(length, device=device)
    at = query[:, None] if isinstance(query, Tensor) else query
    return ((places - at).abs() - 1).clamp(min=0).view(-1, length)


class STF(nn.Module):
    """Fuses a window of features `(N, T, C, H, W)` into those of one of its frames, `(N, C, H, W)`.

    T is `config.frames`. Any H and W: where a block does not divide the grid, the grid is padded and
    the padding takes no part. The learnable encodings are made for `config.positional_grid` and resized
    (trilinear) to other grids. With `config.stride` s above 1 it works on the features' means over s x s cells
    and adds its output, bilinearly upsampled, to `steady_mean`; untrained, it adds nothing.
    """

    def __init__(self, channels: int, config: STFConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder_position = nn.Parameter(torch.empty(1, channels, config.frames, *config.positional_grid))
        self.decoder_position = nn.Parameter(torch.empty(1, channels, 1, *config.positional_grid))
        place = place_encoding(channels, config.positional_grid)[None, :, None]
        for encoding in (self.encoder_position, self.decoder_position):
            nn.init.trunc_normal_(encoding, std=0.02)
            with torch.no_grad():
                encoding.add_(place)
        self.encoder = nn.ModuleList(EncoderLayer(channels, config) for _ in range(config.depth))
        self.decoder = nn.ModuleList(DecoderLayer(channels, config) for _ in range(config.depth))
        if config.stride > 1:
            nn.init.zeros_(self.decoder[-1].feedforward_norm.weight)  # type: ignore[arg-type, union-attr]

    def positions(self, encoding: Tensor, grid: BlockGrid) -> Tensor:
        """A learnable encoding for a grid, padded: `(1, T, H, W, C)`."""
        size = (encoding.shape[2], grid.height, grid.width)
        if encoding.shape[2:] != size:
            encoding = F.interpolate(encoding, size, mode="trilinear", align_corners=False)
        return grid.pad(encoding.permute(0, 2, 3, 4, 1))

    def forward_with_encoded(self, window: Tensor, query: int | Tensor = 1) -> tuple[Tensor, Tensor]:
        """The fused features of frame `query` of the window, and the encoder's output `(N, T, C, h, w)`."""
        stride = self.config.stride
        if stride == 1:
            return self._fuse(window, query)
        # The last row or column of cells may be a part of one: the mean of what there is.
        pooled = F.avg_pool2d(window.flatten(0, 1), stride, ceil_mode=True).unflatten(0, window.shape[:2])
        change, encoded = self._fuse(pooled, query)
        change = F.interpolate(change, scale_factor=stride, mode="bilinear", align_corners=False)
        mean = steady_mean(window, query, self.config.sharpness, self.config.fading)
        return mean + change[..., : window.shape[-2], : window.shape[-1]], encoded

    def _fuse(self, window: Tensor, query: int | Tensor) -> tuple[Tensor, Tensor]:
        grid = BlockGrid((window.shape[-2], window.shape[-1]), self.config.block, window.device)
        encoded = grid.pad(window.permute(0, 1, 3, 4, 2))
        encoder_position = self.positions(self.encoder_position, grid)
        decoder_position = self.positions(self.decoder_position, grid)
        fused = frame_of(encoded, query)[:, None]
        for encoder_layer in self.encoder:
            encoded = encoder_layer(encoded, encoder_position, grid)
        for decoder_layer in self.decoder:
            fused = decoder_layer(fused, encoded, decoder_position, encoder_position, grid)
        return grid.crop(fused)[:, 0].permute(0, 3, 1, 2), grid.crop(encoded).permute(0, 1, 4, 2, 3)

    def forward(self, window: Tensor, query: int | Tensor = 1) -> Tensor:
        """`(N, T, C, H, W)` to `(N, C, H, W)`: the features of frame `query` (0 the oldest), fused.

        `query` is one place for all windows, or a whole number for each, `(N,)`.
        """
        return self.forward_with_encoded(window, query)[0]
