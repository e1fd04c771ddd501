"""What a stream keeps for each image size: bounded however often the size changes, and never wrong for it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stmem_ros.checkpoint import CheckpointInfo, Normalization
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.streaming import StreamingSegmenter, cuda_graph
from stmem_ros.streaming.cuda_graph import GraphedNetwork
from stmem_ros.streaming.exact import StreamingNetwork
from stmem_ros.streaming.last_used import MOST_SIZES, LastUsed

# Of as many grids too: bases have strides of up to 8.
SIZES = [(64 + 8 * (k % 10), 64 + 8 * (k // 10)) for k in range(30)]


def network(base: str, pixel_base: str) -> tuple[StreamingNetwork, CheckpointInfo]:
    """Small, with everything that depends on an image's size: pyramid pooling, or STF with padding."""
    torch.manual_seed(3)
    fused = (
        {}
        if base == "pspnet_resnet18"
        else {"stf": STFConfig((8, 8), (8, 8), 3, feedforward=8), "mar": MARConfig(4, 3)}
    )
    config = SegmenterConfig(pixel_base if base == "pixels" else base, 4, **fused)
    labels = LabelSet([str(k) for k in range(4)], [(k, k, k) for k in range(4)])
    info = CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 64)
    return StreamingNetwork(build_segmenter(config).eval()), info


@torch.inference_mode()
def logits(network: StreamingNetwork, size: tuple[int, int]) -> Tensor:
    images = torch.from_numpy(np.random.default_rng(sum(size)).normal(size=(1, 3, *size)).astype(np.float32))
    return network.predict([network.frame(images)] * network.window_frames, network.window_frames - 1)


@pytest.mark.parametrize("base", ["pixels", "pspnet_resnet18"])
def test_what_is_kept_for_sizes_is_bounded_and_the_first_size_still_gives_what_it_gave(
    pixel_base: str, base: str
) -> None:
    streaming, _ = network(base, pixel_base)
    first = logits(streaming, SIZES[0])
    kept = len(streaming.constants())
    assert kept == 1
    for size in SIZES:
        logits(streaming, size)
        assert len(streaming.constants()) <= MOST_SIZES
    assert torch.equal(logits(streaming, SIZES[0]), first)


@pytest.mark.parametrize("base", ["pixels", "pspnet_resnet18"])
def test_tensors_that_a_network_holds_do_not_grow_with_the_sizes_it_saw(pixel_base: str, base: str) -> None:
    """Whatever it is that keeps them: every tensor of this process is counted."""
    streaming, _ = network(base, pixel_base)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    for size in SIZES[:9]:
        logits(streaming, size)
    before = tensors()
    for size in SIZES[9:20]:
        logits(streaming, size)
    assert tensors() <= before + 5


def test_a_stream_whose_size_changes_all_the_time_keeps_its_labels(pixel_base: str) -> None:
    _, info = network("pixels", pixel_base)
    segmenter = StreamingSegmenter(build_segmenter(info.config).eval(), info)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), np.uint8) for size in SIZES[:12]]
    once = [segmenter.step(image, number) for number, image in enumerate(images)]
    again = [segmenter.step(image, number) for number, image in enumerate(images, 100)]
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize("base", ["pixels", "pspnet_resnet18"])
@torch.inference_mode()
def test_a_cuda_graph_keeps_what_it_reads_when_the_network_has_forgotten_that_size(
    pixel_base: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = []

    class NoGraph:
        """Stands for a graph, which reads constants at the place where they were when it was captured."""

        def __init__(self, function: Callable[[list[Tensor]], list[Tensor]], examples: list[Tensor]) -> None:
            self.outputs = function(examples)
            captured.append(self)

        def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
            return self.outputs

    monkeypatch.setattr(cuda_graph, "Replay", NoGraph)
    streaming, _ = network(base, pixel_base)
    GraphedNetwork(streaming).frame(torch.zeros(1, 3, *SIZES[0]))
    (read,) = streaming.constants()
    for size in SIZES[1 : MOST_SIZES + 2]:
        logits(streaming, size)
    assert all(kept is not read for kept in streaming.constants())
    assert any(kept is read for kept in captured[0].constants)


def test_the_one_that_was_not_asked_for_the_longest_goes() -> None:
    made: list[str] = []
    kept: LastUsed[str, str] = LastUsed(2)

    def get(key: str) -> str:
        return kept.get(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"]
    assert kept.values() == ["A", "B"]


def test_room_is_made_before_the_next_is_made_and_a_failure_leaves_nothing() -> None:
    kept: LastUsed[int, int] = LastUsed(2)
    for key in (1, 2):
        kept.get(key, lambda: 0)

    def fail() -> int:
        assert len(kept.values()) == 1
        raise MemoryError

    with pytest.raises(MemoryError):
        kept.get(3, fail)
    assert kept.get(3, lambda: 7) == 7
