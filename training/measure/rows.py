"""The rows of the paper's table 3: networks side by side over the same frames, what they share computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stmem_ros.checkpoint import CheckpointInfo
from stmem_ros.network import SegmenterConfig, VideoSegmenter
from stmem_ros.preprocess import Preprocessor
from training.data.clips import Windows
from training.data.dataset import LabelledFrame, read_image


@dataclasses.dataclass(frozen=True)
class Row:
    """A network and its window: one with the frame in the middle (T-1, T, T+1), or a causal one (T-2, T-1, T)."""

    model: VideoSegmenter
    info: CheckpointInfo
    causal: bool = False
    checkpoint: Path | None = None

    @property
    def name(self) -> str:
        """`row_name`, with `_causal` where the window is. Without STF there is no window."""
        name = row_name(self.info.config)
        return f"{name}_causal" if self.causal and self.model.stf is not None else name

    @property
    def query(self) -> int:
        """The frame's place in its window, 0 the oldest."""
        return self.model.window_frames - 1 if self.causal else self.model.window_frames // 2

    def to_dict(self) -> dict[str, str | None]:
        """Which file, and which window; None without STF."""
        window = "causal" if self.causal else "centered"
        return {"checkpoint": str(self.checkpoint), "window": None if self.model.stf is None else window}

    def around(self, frame: LabelledFrame, windows: Windows) -> list[Path]:
        """The images of a frame's window, oldest first."""
        return windows.around(frame, self.model.window_frames, self.query)


ROWS = ("base", "stf", "mar", "both")


def row_name(config: SegmenterConfig) -> str:
    """Which row of the paper's table 3 a network is: base, stf, mar or both."""
    if config.stf is None:
        return "base" if config.mar is None else "mar"
    return "stf" if config.mar is None else "both"


class Networks:
    """The rows' networks over the same frames; rows share base and STF as far as these are equal."""

    def __init__(self, rows: list[Row], frames: list[LabelledFrame], device: torch.device, windows: Windows) -> None:
        for row in rows:
            row.model.eval().to(device)
            row.model.base.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._rows, self._frames, self._windows = rows, frames, windows
        self._bases = first_alike(rows, base_alike)
        self._fusions = first_alike(rows, fusion_alike)
        self._preprocess = [Preprocessor(row.info.normalization, row.info.short_side, device) for row in rows]
        self._last_use = {
            path: index for index, frame in enumerate(frames) for row in rows for path in row.around(frame, windows)
        }
        self._features: dict[tuple[int, Path], Tensor] = {}

    def logits(self, index: int) -> list[Tensor]:
        """Low-resolution logits `(1, classes, h, w)` of frame `index` by each row. Ask in order of the frames."""
        frame = self._frames[index]
        fused: dict[int, Tensor] = {}
        logits = []
        for place, row in enumerate(self._rows):
            origin = self._fusions[place]
            if origin not in fused:
                fused[origin] = self._fuse(origin, frame)
            refined = fused[origin] if row.model.mar is None else row.model.mar(fused[origin])
            logits.append(row.model.classifier(refined))
        self._features = {key: kept for key, kept in self._features.items() if self._last_use[key[1]] > index}
        return logits

    def _fuse(self, place: int, frame: LabelledFrame) -> Tensor:
        row, base = self._rows[place], self._bases[place]
        own = self._base_features(base, frame.image)
        if row.model.stf is None:
            return own
        window = [self._base_features(base, path) for path in row.around(frame, self._windows)]
        # Images of a sequence may differ in size; those that do are no neighbours.
        window = [other if other.shape == own.shape else own for other in window]
        return row.model.stf(torch.stack(window, 1), row.query)

    def _base_features(self, place: int, image: Path) -> Tensor:
        key = (place, image)
        if key not in self._features:
            self._features[key] = self._rows[place].model.features(self._preprocess[place](read_image(image)))
        return self._features[key]


def first_alike(rows: list[Row], alike: Callable[[Row, Row], bool]) -> list[int]:
    """For each row the place of the first that is like it, its own where none is."""
    return [
        next(place for place, earlier in enumerate(rows[: own + 1]) if place == own or alike(earlier, row))
        for own, row in enumerate(rows)
    ]


def base_alike(one: Row, other: Row) -> bool:
    """Whether two rows have the same base features of any image."""
    return one.model is other.model or (
        one.info.config.base == other.info.config.base
        and one.info.normalization == other.info.normalization
        and one.info.short_side == other.info.short_side
        and equal_weights(one.model.base, other.model.base)
    )


def fusion_alike(one: Row, other: Row) -> bool:
    """Whether two rows have the same features before MAR and classifier."""
    if one.query != other.query or not base_alike(one, other):
        return False
    ours, theirs = one.model.stf, other.model.stf
    if ours is None or theirs is None:
        return ours is theirs
    return ours.config == theirs.config and equal_weights(ours, theirs)


def equal_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
