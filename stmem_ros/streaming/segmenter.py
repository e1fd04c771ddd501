"""The engine that turns a stream of frames into labels, each frame's base features computed once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stmem_ros.checkpoint import (
    NETWORK_SIDES,
    NETWORK_SIDES_TEXT,
    CheckpointError,
    CheckpointInfo,
    find_checkpoint,
    load_checkpoint,
)
from stmem_ros.network import VideoSegmenter
from stmem_ros.preprocess import Preprocessor
from stmem_ros.streaming.batch import Prepared, Segmentation, Step, finish, step_together
from stmem_ros.streaming.cuda_graph import GraphedNetwork
from stmem_ros.streaming.device import resolve_device, resolve_precision
from stmem_ros.streaming.exact import StreamingNetwork, streaming_network
from stmem_ros.streaming.exported import Export, ExportPreprocessor, read_export
from stmem_ros.streaming.onnx_runtime import OnnxNetwork
from stmem_ros.streaming.window import ResetReason, StreamFrame, StreamState, query_place


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """How a stream is segmented.

    `window` is `causal` (each frame is labelled at once, from itself and those before it) or `centered`
    (from its neighbours on both sides, as in the paper: its label comes one frame later). A gap between
    stamps above `max_gap` seconds forgets the window. `short_side` is what the lesser side of the network's
    image becomes, in pixels: 0 takes the checkpoint's, -1 leaves the camera's own.
    """

    window: Literal["causal", "centered"] = "causal"
    max_gap: float = 1.0
    short_side: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.window not in ("causal", "centered"):
            raise ValueError(f"window is {self.window!r}; it must be causal or centered")
        if not self.max_gap > 0:
            raise ValueError(f"max_gap is {self.max_gap!r}; it must be above 0 seconds")
        if self.short_side not in (-1, 0) and self.short_side not in NETWORK_SIDES:
            raise ValueError(
                f"short_side is {self.short_side!r}; it must be 0 (the checkpoint's), -1 (the camera's) "
                f"or {NETWORK_SIDES_TEXT} pixels"
            )


class StreamingSegmenter:
    """Segments one camera's stream, frame by frame, with the exact fast form of `model` (`streaming.exact`).

    An exported network is that form already, and ONNX Runtime runs it.
    `last_reset` says why the window was forgotten before the newest frame, None where it was not.
    Not thread-safe: one thread at a time.
    """

    network: StreamingNetwork | GraphedNetwork | OnnxNetwork
    preprocess: Preprocessor | ExportPreprocessor

    def __init__(
        self, model: VideoSegmenter | Export, info: CheckpointInfo, config: StreamConfig | None = None
    ) -> None:
        """Raises DeviceError where the device or the precision cannot be had, CheckpointError for an export."""
        self.config = config or StreamConfig()
        self.info = info
        if isinstance(model, Export):
            self._run_export(model)
        else:
            self._run_model(model)
        self.length = self.network.window_frames
        self.query = query_place(self.length, self.config.window == "causal")
        # How many newer frames a frame waits for.
        self.delay = self.length - 1 - self.query
        # How many cameras may go through the network at once; 0: any number. An export is of a fixed one.
        self.most_together = 1 if isinstance(model, Export) else 0
        self.state = StreamState()
        self.last_reset: ResetReason | None = None

    @classmethod
    def from_checkpoint(cls, path: str | Path, config: StreamConfig | None = None) -> StreamingSegmenter:
        """`path` is a checkpoint, the name of one in the package, or a folder of `training.export`.

        Raises CheckpointError or DeviceError, one line.
        """
        path = find_checkpoint(path)
        if path.is_dir():
            export = read_export(path)
            return cls(export, export.info, config)
        model, info = load_checkpoint(path)
        return cls(model, info, config)

    def sibling(self) -> StreamingSegmenter:
        """The stream of another camera on the same network and device: it shares the weights, not the window."""
        other = copy.copy(self)
        other.state, other.last_reset = StreamState(), None
        return other

    def _run_model(self, model: VideoSegmenter) -> None:
        self.device = resolve_device(self.config.device)
        self.dtype = resolve_precision(self.config.precision, self.device)
        network = streaming_network(model, self.device, self.dtype)
        self.network = GraphedNetwork(network) if self.device.type == "cuda" else network
        short_side = {0: self.info.short_side, -1: 0}.get(self.config.short_side, self.config.short_side)
        self.preprocess = Preprocessor(self.info.normalization, short_side, self.device, self.dtype)
        self._usual_size = (480, 640)

    def _run_export(self, export: Export) -> None:
        height, width = export.size
        if self.config.short_side not in (0, min(export.size)):
            raise CheckpointError(
                f"short_side is {self.config.short_side}, and {export.folder} was exported for images of "
                f"{height}x{width}: leave it at 0, or export the network again"
            )
        if export.cameras != 1:
            raise CheckpointError(
                f"{export.folder} was exported for {export.cameras} cameras at once, and a stream is one camera's: "
                "export it again with --cameras 1"
            )
        self.network = OnnxNetwork(export, self.config.window, self.config.device, self.config.precision)
        self.device, self.dtype = self.network.device, torch.float32
        self.preprocess = ExportPreprocessor(export)
        self._usual_size = export.size

    @torch.inference_mode()
    def step(
        self,
        image: NDArray[np.uint8],
        stamp_ns: int,
        frame_id: str = "",
        *,
        confidence: bool = True,
        skipped: Sequence[int] = (),
    ) -> Segmentation | None:
        """Take the next frame, `(H, W, 3)` RGB uint8; returns the labels that are due.

        Raises ImageError, and forgets nothing but an older window, where an export takes images of another aspect.

        Causal: this frame's. Centred: the frame before it, None at a stream's first frame. A frame that
        cannot follow the one before it (stamp backwards, gap, other size or frame_id) starts a new window;
        a centred frame that still waited then gets no label. `skipped` are the stamps of
        frames between that were not given to this method, so that `max_gap` means the camera's gaps, not the network's.
        """
        return step_together([Step(self, self.prepare(image, stamp_ns, frame_id, skipped), confidence)])[0]

    @torch.inference_mode()
    def prepare(
        self, image: NDArray[np.uint8], stamp_ns: int, frame_id: str = "", skipped: Sequence[int] = ()
    ) -> Prepared:
        """The part of a `step` that each stream does by itself; `step_together` does the rest. Raises ImageError."""
        frame = StreamFrame(image, stamp_ns, frame_id)
        self.last_reset = self.state.reset_reason(frame, int(self.config.max_gap * 1e9), skipped)
        if self.last_reset is not None:
            self.state.clear()
        return Prepared(frame, self.preprocess(image))

    @torch.inference_mode()
    def flush(self, *, confidence: bool = True) -> Segmentation | None:
        """The label of a frame that still waits, its missing neighbour replaced by the newest frame; None at the end.

        The stream is over then: the next frame starts a new window.
        """
        if not self.state.waiting:
            self.state.clear()
            return None
        self.state.features = [*self.state.features[1:], self.state.features[-1]]
        logits = self.network.predict(self.state.features, self.query)
        return finish(self.state.waiting.pop(0), logits, confidence)

    def reset(self) -> None:
        """Forget the window; the next frame starts a new one."""
        self.state.clear()

    def warm_up(self, size: tuple[int, int] | None = None) -> None:
        """Run all that a frame runs, on black images `(height, width)`, so that the first real one is not slow."""
        image = np.zeros((*(size or self._usual_size), 3), np.uint8)
        # A GPU compiles what confidence needs; on a CPU it would only take long.
        confidence = self.device.type != "cpu"
        self.step(image, 0, confidence=confidence)
        # With centred windows the frame still waits, and nothing was fused.
        self.flush(confidence=confidence)
        self.reset()
