"""Rows of a table: networks and baselines side by side over the same frames, what they share computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stmem_ros.checkpoint import CheckpointError, CheckpointInfo
from stmem_ros.network import SegmenterConfig, VideoSegmenter
from stmem_ros.preprocess import Preprocessor, resize
from stmem_ros.streaming.window import query_place
from training.data.clips import Windows
from training.data.dataset import LabelledFrame
from training.measure.baseline import Baseline, Fusion, Refinement
from training.measure.sliding import Crop, Slide, merge


@dataclasses.dataclass(frozen=True)
class Row:
    """A network and its window: one with the frame in the middle (T-1, T, T+1), or a causal one (T-2, T-1, T).

    With a baseline the network is a base and its classifier alone. `label` tells rows of one kind apart.
    """

    model: VideoSegmenter
    info: CheckpointInfo
    causal: bool = False
    checkpoint: Path | None = None
    baseline: Baseline | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """Its kind, and its label in brackets where it has one."""
        return full_name(self.kind, self.label)

    @property
    def kind(self) -> str:
        """`row_name`, `+` and the baseline's name, and `_causal` where the window is. A single frame has no window."""
        name = row_name(self.info.config)
        if self.baseline is not None:
            name += f"+{self.baseline.name}"
        return f"{name}{CAUSAL}" if self.causal and self.window_frames > 1 else name

    @property
    def fusion(self) -> Fusion | None:
        return self.baseline if isinstance(self.baseline, Fusion) else None

    @property
    def refinement(self) -> Refinement | None:
        return self.baseline if isinstance(self.baseline, Refinement) else None

    @property
    def window_frames(self) -> int:
        """How many frames one prediction looks at."""
        return self.model.window_frames if self.fusion is None else self.fusion.frames

    @property
    def query(self) -> int:
        """The frame's place in its window, 0 the oldest."""
        return query_place(self.window_frames, self.causal)

    def to_dict(self) -> dict[str, Any]:
        """Which file, which window (None: a single frame), and the baseline's settings where it is one."""
        window = "causal" if self.causal else "centered"
        return {
            "checkpoint": str(self.checkpoint),
            "window": window if self.window_frames > 1 else None,
            "baseline": None if self.baseline is None else self.baseline.to_dict(),
        }

    def around(self, frame: LabelledFrame, windows: Windows) -> list[Path]:
        """The images of a frame's window, oldest first."""
        return windows.around(frame, self.window_frames, self.query)


CAUSAL = "_causal"
ROWS = ("base", "stf", "mar", "both")


def row_name(config: SegmenterConfig) -> str:
    """Which row of the paper's table 3 a network is: base, stf, mar or both."""
    if config.stf is None:
        return "base" if config.mar is None else "mar"
    return "stf" if config.mar is None else "both"


def full_name(kind: str, label: str) -> str:
    """What a row is called: `both`, or `both (run_a)` beside another one's."""
    return f"{kind} ({label})" if label else kind


def labelled(rows: list[Row]) -> list[Row]:
    """Where several rows are of one kind, the same with labels: as much of the end of their files' paths as differs."""
    kinds = [row.kind for row in rows]
    return [
        row
        if kinds.count(row.kind) == 1 or row.checkpoint is None
        else dataclasses.replace(row, label=distinct_name(row.checkpoint, _files(rows, row.kind)))
        for row in rows
    ]


def _files(rows: list[Row], kind: str) -> list[Path]:
    return [row.checkpoint for row in rows if row.kind == kind and row.checkpoint is not None]


def distinct_name(path: Path, files: list[Path]) -> str:
    """The shortest end of the path, if possible without its suffix, of which all files' are different.

    `path` is one of `files`, of which no two are the same.
    """
    parts = {file: file.absolute().with_suffix("").parts for file in files}
    if len(set(parts.values())) < len(parts):
        parts = {file: file.absolute().parts for file in files}
    for count in range(1, len(parts[path]) + 1):
        if len({each[-count:] for each in parts.values()}) == len(parts):
            break
    # A folder may tell them apart where the name does not: `run_a`, not `run_a/model`.
    same_name = count == 2 and len({each[-1] for each in parts.values()}) == 1
    return parts[path][-2] if same_name else "/".join(parts[path][-count:])


@dataclasses.dataclass(frozen=True)
class Seen:
    """An image as a network sees it, `(H, W, 3)` RGB, and the base's features of each of its crops, or of the whole."""

    pixels: NDArray[np.uint8]
    crops: list[Crop]
    features: list[Tensor]


class Networks:
    """The rows' networks over the same frames; rows share base and fusion as far as these are equal.

    Images are segmented whole, or with a `slide` crop by crop.
    """

    def __init__(
        self,
        rows: list[Row],
        frames: list[LabelledFrame],
        device: torch.device,
        windows: Windows,
        slide: Slide | None = None,
    ) -> None:
        for row in rows:
            row.model.eval().to(device)
            row.model.base.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._rows, self._frames, self._windows, self._slide = rows, frames, windows, slide
        self._bases = first_alike(rows, base_alike)
        self._fusions = first_alike(rows, fusion_alike)
        self._preprocess = [Preprocessor(row.info.normalization, 0, device) for row in rows]
        self._last_use = {
            path: index for index, frame in enumerate(frames) for row in rows for path in row.around(frame, windows)
        }
        self._seen: dict[tuple[int, Path], Seen] = {}

    def logits(self, index: int) -> Iterator[Tensor]:
        """Logits `(1, classes, h, w)` of frame `index` by each row in turn, before a baseline refines them.

        At the classifier's resolution; where an image has several crops, at that of the network's image. Ask in order
        of the frames.
        """
        frame = self._frames[index]
        fused = {origin: self._fuse(origin, frame) for origin in dict.fromkeys(self._fusions)}
        own = {origin: self._look(self._bases[origin], frame.image) for origin in fused}
        self._seen = {key: kept for key, kept in self._seen.items() if self._last_use[key[1]] > index}
        # One by one: logits of a large image are the largest tensors there are.
        for row, origin in zip(self._rows, self._fusions, strict=True):
            parts = [self._classify(row, features) for features in fused[origin]]
            seen = own[origin]
            yield merge(parts, seen.crops, (seen.pixels.shape[0], seen.pixels.shape[1]))

    def _classify(self, row: Row, features: Tensor) -> Tensor:
        return row.model.classifier(features if row.model.mar is None else row.model.mar(features))

    def _fuse(self, place: int, frame: LabelledFrame) -> list[Tensor]:
        """The features before MAR and classifier, of each crop."""
        row, base = self._rows[place], self._bases[place]
        own = self._look(base, frame.image)
        if row.window_frames == 1:
            return own.features
        window = [self._look(base, path) for path in row.around(frame, self._windows)]
        # Images of a sequence may differ in size; those that do are no neighbours.
        window = [other if other.pixels.shape == own.pixels.shape else own for other in window]
        return [self._fuse_crop(row, window, crop) for crop in range(len(own.crops))]

    def _fuse_crop(self, row: Row, window: list[Seen], crop: int) -> Tensor:
        features = [seen.features[crop] for seen in window]
        if row.fusion is not None:
            return row.fusion.fuse(features, [seen.pixels[seen.crops[crop]] for seen in window], row.query)
        assert row.model.stf is not None
        return row.model.stf(torch.stack(features, 1), row.query)

    def _look(self, place: int, image: Path) -> Seen:
        key = (place, image)
        if key not in self._seen:
            row = self._rows[place]
            pixels = resize(self._windows.read_image(image), row.info.short_side)
            height, width = pixels.shape[:2]
            crops = [(slice(0, height), slice(0, width))]
            if self._slide is not None:
                crops = self._slide.crops((height, width))
            parts = (np.ascontiguousarray(pixels[crop]) for crop in crops)
            features = [row.model.features(self._preprocess[place](part)) for part in parts]
            self._seen[key] = Seen(pixels, crops, features)
        return self._seen[key]


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
    if one.query != other.query or one.fusion != other.fusion or not base_alike(one, other):
        return False
    ours, theirs = one.model.stf, other.model.stf
    if ours is None or theirs is None:
        return ours is theirs
    return ours.config == theirs.config and equal_weights(ours, theirs)


def same_network(one: tuple[VideoSegmenter, CheckpointInfo], other: tuple[VideoSegmenter, CheckpointInfo]) -> bool:
    """Whether two networks give the same labels for any clip."""
    (ours, its), (theirs, others) = one, other
    return (
        its.config == others.config
        and its.normalization == others.normalization
        and its.short_side == others.short_side
        and equal_weights(ours, theirs)
    )


def equal_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def require_numbers(path: Path, row: str, model: nn.Module) -> None:
    """Raises CheckpointError where a weight of `row` of the file `path` is not finite."""
    broken = next((name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {broken} of its row {row}: its training went wrong; take an earlier "
            "checkpoint, or train again with lower rates"
        )
