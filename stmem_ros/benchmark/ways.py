"""The ways that are compared, each from a stream's next image to logits; and the engine, from pixels to labels."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.benchmark.film import Film
from stmem_ros.benchmark.subject import BenchmarkError, Subject
from stmem_ros.checkpoint import Normalization
from stmem_ros.network import VideoSegmenter
from stmem_ros.preprocess import Preprocessor, network_size
from stmem_ros.streaming import StreamConfig, StreamingSegmenter, resolve_device
from stmem_ros.streaming.cuda_graph import GraphedNetwork
from stmem_ros.streaming.device import resolve_precision
from stmem_ros.streaming.exact import StreamingNetwork, streaming_network
from stmem_ros.streaming.exported import read_export
from stmem_ros.streaming.window import query_place

PERIOD_NS = 66_666_667
WAYS = {
    "paper_way": "paper's way: base on the whole window, plain modules",
    "cached": "feature caching only: base once, plain modules",
    "fast": "exact fast path",
    "base": "base alone, folded as in the fast path, classifier",
    "plain_base": "base alone, plain modules, classifier",
    "engine": "engine: camera's pixels to labels",
}
# Beside the engine, where an exported network is given.
EXPORTED = "exported"
EXPORTED_WORDS = "engine on ONNX Runtime"
# Those of the scaling plots, from a normalised image to low-resolution logits.
LOGIT_WAYS = ("paper_way", "cached", "fast", "base")
Streaming = StreamingNetwork | GraphedNetwork
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is the same for every way. `size` is what the network sees, `image_size` what the camera gives.

    `export` is a folder of `training.export`, to be run beside the engine.
    """

    size: tuple[int, int]
    image_size: tuple[int, int]
    window: Literal["causal", "centered"] = "causal"
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    cameras: int = 1
    export: str | None = None

    def __post_init__(self) -> None:
        """Raises BenchmarkError where the camera's image does not become what the network shall see."""
        seen = network_size(self.image_size, max(self.short_side, 0))
        if seen != self.size:
            raise BenchmarkError(
                f"--image-size {as_text(self.image_size)} becomes {as_text(seen)} on its way into the network, "
                f"not --size {as_text(self.size)}; give both the same height to width"
            )

    @property
    def short_side(self) -> int:
        """As StreamConfig has it."""
        return -1 if self.image_size == self.size else min(self.size)

    def stream(self) -> StreamConfig:
        return StreamConfig(self.window, 1.0, self.short_side, self.device, self.precision)


def as_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@dataclasses.dataclass(frozen=True)
class Moment:
    """What N cameras see at one time: the first one's image, and all of them as the network sees them.

    `exact` `(N, 3, H, W)` is float32 in PyTorch's own layout; `plain` the same in the number format that is measured;
    `streamed` that with the channels last, as the engine's preprocessing gives it.
    """

    number: int
    image: NDArray[np.uint8]
    exact: Tensor
    plain: Tensor
    streamed: Tensor


Way = Callable[[Moment], Tensor | None]


class Scene:
    """The moments of a drifting picture for each camera; made before the clock starts, by their number."""

    def __init__(
        self, setting: Setting, normalization: Normalization, device: torch.device, dtype: torch.dtype, seed: int
    ) -> None:
        self._device, self._dtype = device, dtype
        self._preprocess = Preprocessor(normalization, max(setting.short_side, 0), torch.device("cpu"))
        self._films = [Film(setting.image_size, seed + camera) for camera in range(setting.cameras)]

    def __call__(self, number: int) -> Moment:
        images = [film[number] for film in self._films]
        exact = torch.cat([self._preprocess(image) for image in images]).contiguous().to(self._device)
        plain = exact.to(self._dtype)
        return Moment(number, images[0], exact, plain, plain.contiguous(memory_format=torch.channels_last))


class PaperWay:
    """As `VideoSegmenter.forward` on the clip of each window, up to the low-resolution logits."""

    def __init__(self, model: VideoSegmenter, query: int, images: Callable[[Moment], Tensor]) -> None:
        self._model, self._query, self._images = model, query, images
        self._clip: list[Tensor] = []

    def __call__(self, moment: Moment) -> Tensor:
        self._clip = pushed(self._clip, self._images(moment), self._model.window_frames)
        clip = torch.stack(self._clip, 1)
        features = self._model.features(clip.flatten(0, 1)).unflatten(0, clip.shape[:2])
        return self._model.predict(features, self._query)


class CachedWay:
    """The plain modules, each frame's base features computed once."""

    def __init__(self, model: VideoSegmenter, query: int) -> None:
        self._model, self._query = model, query
        self._features: list[Tensor] = []

    def __call__(self, moment: Moment) -> Tensor:
        self._features = pushed(self._features, self._model.features(moment.plain), self._model.window_frames)
        return self._model.predict(torch.stack(self._features, 1), self._query)


class FastWay:
    """The engine's network; of all cameras at once, or of one."""

    def __init__(self, network: Streaming, query: int, camera: int | None = None) -> None:
        self._network, self._query = network, query
        self._cameras = slice(None) if camera is None else slice(camera, camera + 1)
        self._window: list[Any] = []

    def __call__(self, moment: Moment) -> Tensor:
        features = self._network.frame(moment.streamed[self._cameras])
        self._window = pushed(self._window, features, self._network.window_frames)
        return self._network.predict(self._window, self._query)


class EngineWay:
    """What a robot runs: the camera's pixels in, labels at the camera's size out."""

    def __init__(self, engine: StreamingSegmenter) -> None:
        self._engine = engine

    def __call__(self, moment: Moment) -> None:
        self._engine.step(moment.image, moment.number * PERIOD_NS, confidence=False)


def pushed(window: Sequence[T], item: T, length: int) -> list[T]:
    """The window with its newest frame; a stream's first fills it."""
    return [*window[1:], item] if window else [item] * length


class Comparison:
    """The network under each of `names`; `reference` are the plain modules in float32, which say what is exact.

    `reference_is_paper_way` where that is measured anyway.
    """

    def __init__(self, subject: Subject, setting: Setting, names: Sequence[str] = tuple(WAYS)) -> None:
        """Raises CheckpointError, DeviceError or BenchmarkError."""
        self.device = device = resolve_device(setting.device)
        self.dtype = dtype = resolve_precision(setting.precision, device)
        model, info = subject.make()
        model.requires_grad_(False)
        self.query = query = query_place(model.window_frames, setting.window == "causal")
        self.scene = Scene(setting, info.normalization, device, dtype, subject.seed)
        self.ways: dict[str, Way] = {}
        if "engine" in names:
            self.ways["engine"] = EngineWay(StreamingSegmenter(model, info, setting.stream()))
            if setting.export is not None:
                self.ways[EXPORTED] = EngineWay(exported_engine(setting))
        if "fast" in names:
            self.network = streaming_network(model, device, dtype)
            self.ways["fast"] = FastWay(graphed(self.network), query)
        if "base" in names:
            alone = streaming_network(VideoSegmenter(model.base, model.classifier), device, dtype)
            self.ways["base"] = FastWay(graphed(alone), 0)
        self.reference_is_paper_way = dtype == torch.float32
        if "fast" in names and not self.reference_is_paper_way:
            self.reference = PaperWay(copy.deepcopy(model).to(device), query, lambda moment: moment.exact)
        plain = model.to(device, dtype)
        if "paper_way" in names:
            self.ways["paper_way"] = PaperWay(plain, query, lambda moment: moment.plain)
        if "cached" in names:
            self.ways["cached"] = CachedWay(plain, query)
        if "plain_base" in names:
            self.ways["plain_base"] = CachedWay(VideoSegmenter(plain.base, plain.classifier), 0)
        self.ways = {name: self.ways[name] for name in (*WAYS, EXPORTED) if name in self.ways}


def exported_engine(setting: Setting) -> StreamingSegmenter:
    """Raises CheckpointError, DeviceError, or BenchmarkError where it was exported for another size."""
    assert setting.export is not None
    config = StreamConfig(setting.window, device=setting.device, precision=setting.precision)
    if not Path(setting.export).is_dir():
        raise BenchmarkError(f"--export {setting.export} is no folder; training.export makes it")
    if (size := read_export(setting.export).size) != setting.size:
        raise BenchmarkError(f"--export {setting.export} was exported for {as_text(size)}, not {as_text(setting.size)}")
    return StreamingSegmenter.from_checkpoint(setting.export, config)


def graphed(network: StreamingNetwork) -> Streaming:
    """As the engine runs it on that device."""
    on_gpu = next(network.classifier.parameters()).is_cuda
    return GraphedNetwork(network) if on_gpu else network
