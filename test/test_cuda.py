"""What only a GPU runs: graphs, resizing there, half precision. What can be shown without one, is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, Normalization
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.preprocess import Preprocessor, resize, resize_on_device
from stmem_ros.streaming import StreamConfig, StreamingSegmenter, cuda_graph
from stmem_ros.streaming.cuda_graph import GraphedNetwork, Replay
from stmem_ros.streaming.device import resolve_precision
from stmem_ros.streaming.exact import StreamingNetwork

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")


def streaming_network(base: str, stride: int | None) -> StreamingNetwork:
    stf = None if stride is None else STFConfig((2, 3), (4, 4), heads=1, feedforward=6, stride=stride)
    return StreamingNetwork(build_segmenter(SegmenterConfig(base, 5, stf=stf, mar=MARConfig(5, 3))))


class CopyingReplay:
    """As `Replay`, without a graph: the function on copies of its inputs, at the first call's shapes."""

    made = 0

    def __init__(self, function: Callable[[list[Tensor]], list[Tensor]], examples: list[Tensor]) -> None:
        type(self).made += 1
        self.function, self.shapes = function, [example.shape for example in examples]

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        assert [tensor.shape for tensor in inputs] == self.shapes
        return self.function([tensor.clone() for tensor in inputs])


@pytest.mark.parametrize("stride", [None, 1, 2])
@torch.inference_mode()
def test_a_graphed_network_gives_what_the_network_gives_and_captures_each_size_once(
    pixel_base: str, stride: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CopyingReplay, "made", 0)
    monkeypatch.setattr(cuda_graph, "Replay", CopyingReplay)
    network = streaming_network(pixel_base, stride)
    graphed = GraphedNetwork(network)
    for size in ((8, 9), (12, 10)):
        frames = torch.randn(5, 1, 3, *size)
        for start in range(3):
            window = frames[start : start + network.window_frames]
            query = network.window_frames - 1
            ours = graphed.predict([graphed.frame(frame) for frame in window], query)
            theirs = network.predict([network.frame(frame) for frame in window], query)
            torch.testing.assert_close(ours, theirs)
    assert CopyingReplay.made == 4


@torch.inference_mode()
def test_where_a_capture_fails_it_goes_on_without_and_says_why(
    pixel_base: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(cuda_graph, "Replay", fail)
    network = streaming_network(pixel_base, 1)
    graphed = GraphedNetwork(network)
    images = torch.randn(1, 3, 8, 9)
    with caplog.at_level(logging.WARNING):
        features = [graphed.frame(images) for _ in range(3)]
    torch.testing.assert_close(
        graphed.predict(features, 2), network.predict([network.frame(images) for _ in range(3)], 2)
    )
    assert [record.getMessage() for record in caplog.records] == [
        "running without CUDA graphs, slower: operation not permitted when stream is capturing"
    ]


class FullMemory(CopyingReplay):
    """As `CopyingReplay`, on a GPU whose memory another model fills while there is an `error`."""

    error: Exception | None = None

    def __init__(self, function: Callable[[list[Tensor]], list[Tensor]], examples: list[Tensor]) -> None:
        super().__init__(function, examples)
        if self.error is not None:
            raise self.error


def while_ending(error: Exception) -> Exception:
    """What it becomes where the capture that it ends cannot be ended either."""
    end = RuntimeError("operation failed due to a previous error during capture")
    end.__context__ = error
    return end


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("Tried to allocate\n20 MiB"),
        RuntimeError("CUDA error: out of memory"),
        while_ending(torch.cuda.OutOfMemoryError("Tried to allocate 20 MiB")),
    ],
)
@torch.inference_mode()
def test_where_memory_runs_out_for_a_graph_the_frame_is_run_without_and_a_later_one_of_its_size_tries_again(
    error: Exception, pixel_base: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FullMemory, "made", 0)
    monkeypatch.setattr(FullMemory, "error", error)
    monkeypatch.setattr(cuda_graph, "Replay", FullMemory)
    monkeypatch.setattr(cuda_graph, "CALLS_WITHOUT", 3)
    network = streaming_network(pixel_base, 1)
    graphed = GraphedNetwork(network)
    images, others = torch.randn(1, 3, 8, 9), torch.randn(1, 3, 12, 10)

    def made(images: Tensor) -> int:
        """Runs a frame; returns how many captures were tried by then."""
        ours, theirs = graphed.frame(images).tensors(), network.frame(images).tensors()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)
        return FullMemory.made

    with caplog.at_level(logging.WARNING):
        assert made(images) == 1
        monkeypatch.setattr(FullMemory, "error", None)
        # Another size is not concerned.
        assert [made(others), made(others)] == [2, 2]
        assert [made(images) for _ in range(5)] == [2, 2, 2, 3, 3]
    (record,) = caplog.records
    assert record.getMessage() == (
        "running the next 3 frames of this size without a CUDA graph, slower: " + " ".join(str(error).split())
    )


@torch.inference_mode()
def test_where_memory_runs_out_also_without_a_graph_the_caller_is_told_and_the_next_frame_is_run(
    pixel_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Tensor) -> None:
        raise torch.cuda.OutOfMemoryError("for a frame")

    monkeypatch.setattr(FullMemory, "error", torch.cuda.OutOfMemoryError("for a graph"))
    monkeypatch.setattr(cuda_graph, "Replay", FullMemory)
    network = streaming_network(pixel_base, 1)
    graphed = GraphedNetwork(network)
    images = torch.randn(1, 3, 8, 9)
    with monkeypatch.context() as patch:
        patch.setattr(network, "frame", fail)
        with pytest.raises(torch.cuda.OutOfMemoryError, match="for a frame") as caught:
            graphed.frame(images)
    # The failed capture would hold its memory as long as the error does.
    assert caught.value.__context__ is None
    torch.testing.assert_close(graphed.frame(images).tensors(), network.frame(images).tensors())


def test_a_graph_is_captured_on_a_stream_of_the_gpu_that_its_tensors_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    class Device:
        def __init__(self, device: object) -> None:
            self.device = str(device)

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_: object) -> None:
            entered.pop()

    class Stream(contextlib.nullcontext[None]):
        def __init__(self) -> None:
            super().__init__()
            self.device = entered[-1]

        def wait_stream(self, other: Stream) -> None:
            assert other.device == self.device

    captured: list[str] = []

    def graph(_: object, *, stream: Stream, capture_error_mode: str) -> contextlib.nullcontext[None]:
        captured.append(stream.device)
        return contextlib.nullcontext()

    for name, own in {"device": Device, "Stream": Stream, "current_stream": Stream, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, own)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    # A device that is not the first: meta stands for cuda:1.
    Replay(lambda tensors: tensors, [torch.empty(1, device="meta")])
    assert captured == ["meta"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    size=some.tuples(some.integers(64, 300), some.integers(64, 300)),
    short_side=some.integers(64, 200),
    seed=some.integers(0, 9),
)
def test_resizing_on_a_gpu_gives_the_pixels_of_resizing_on_a_cpu(
    size: tuple[int, int], short_side: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    expected = resize(image, short_side)
    ours = resize_on_device(torch.from_numpy(image).permute(2, 0, 1), expected.shape[:2]).permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() <= 1


def test_auto_precision_goes_by_the_device_alone() -> None:
    assert resolve_precision("auto", torch.device("cpu")) is torch.float32
    assert resolve_precision("auto", torch.device("cuda")) is torch.float16


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_gives_the_labels_of_a_cpu(precision: str) -> None:
    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (12, 16, 3), np.uint8), np.ones((30, 30, 1), np.uint8))
    labels = []
    for device, wanted in (("cpu", "float32"), ("cuda", precision)):
        config = StreamConfig(device=device, precision=wanted)
        engine = StreamingSegmenter.from_checkpoint(DEFAULT_CHECKPOINT, config)
        for index in range(4):
            result = engine.step(np.roll(image, 7 * index, 1), index * 10**8)
        assert result is not None
        labels.append(result.labels)
    assert (labels[0] == labels[1]).mean() >= (0.9999 if precision == "float32" else 0.99)


@needs_gpu
def test_images_given_one_after_another_do_not_mix_on_their_way_up() -> None:
    normalization = Normalization((0, 0, 0), (1, 1, 1))
    preprocess = Preprocessor(normalization, 0, torch.device("cuda"))
    uploaded = [preprocess(np.full((1080, 1920, 3), value, np.uint8)) for value in range(20)]
    assert all((tensor == value).all() for value, tensor in enumerate(uploaded))


@needs_gpu
def test_a_long_stream_takes_no_more_memory_than_a_short_one() -> None:
    engine = StreamingSegmenter.from_checkpoint(DEFAULT_CHECKPOINT, StreamConfig(device="cuda"))
    image = np.zeros((360, 480, 3), np.uint8)
    used = []
    for index in range(60):
        engine.step(image, index * 10**8)
        used.append(torch.cuda.memory_allocated())
    assert max(used[30:]) <= max(used[10:30])
