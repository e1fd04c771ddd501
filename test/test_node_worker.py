"""What goes wrong beside a frame's labels costs no label, no window and no later frame."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from graph import PERIOD_NS, Graph, pixels, wait_for
from gray import gray_frame, own_graphs, save_fusing
from std_msgs.msg import Header

from stmem_ros.node import outputs
from stmem_ros.node.messages import stamp_from_ns, to_image_msg
from stmem_ros.streaming import StreamingSegmenter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_graphs(83):
        yield save_fusing(tmp_path_factory.mktemp("model") / "fusing.safetensors")


@pytest.fixture(scope="module")
def running(checkpoint: Path) -> Iterator[Graph]:
    graph = Graph({"checkpoint": str(checkpoint)})
    yield graph.start("labels", "labels/compressed", "overlay", "overlay/compressed")
    graph.close()


@pytest.fixture
def graph(running: Graph) -> Iterator[Graph]:
    """The shared graph at the start of a window."""
    running.stream.reset_asked.set()
    yield running
    statistics = running.stream.statistics
    counted = statistics.labelled + statistics.replaced + statistics.ignored + statistics.unwanted
    assert statistics.received == counted + statistics.rejected.total(), "each frame is counted once"


def refuse(*_: Any) -> Any:
    raise MemoryError("no room")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("to_png_msg", "labels/compressed gets nothing for a frame: MemoryError: no room"),
        ("to_jpeg_msg", "overlay/compressed gets nothing for a frame: MemoryError: no room"),
        ("colorize", "no pictures for a frame on"),
    ],
)
def test_an_output_that_cannot_be_made_costs_neither_labels_nor_window(
    graph: Graph, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, broken: str, said: str
) -> None:
    engine, random = StreamingSegmenter.from_checkpoint(checkpoint), np.random.default_rng(6)
    monkeypatch.setattr(outputs, broken, refuse)
    for _ in range(4):
        image = random.integers(0, 256, (64, 80, 3), np.uint8)
        labels = graph.labels_of(image)
        np.testing.assert_array_equal(pixels(labels), engine.step(image, graph.next_stamp - PERIOD_NS, "camera").labels)
    assert not graph.stream.statistics.rejected["failure"]
    graph.wait_message(said)


def test_what_fails_between_two_frames_ends_nothing(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.labels_of(gray_frame(1))
    worker = graph.node._worker
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_between", refuse)
        # A failure there leaves the frame that waited as it is.
        graph.labels_of(gray_frame(2))
    graph.wait_message("between two frames: MemoryError: no room")
    graph.labels_of(gray_frame(3))


def test_a_stamp_that_is_none_disturbs_no_frame_that_waits(graph: Graph) -> None:
    before = sum(graph.stream.statistics.resets.values())
    free = threading.Event()
    hook = graph.node.model.engine.network.base.register_forward_pre_hook(lambda *_: free.wait(20) and None)
    try:
        received, count = graph.stream.statistics.received, len(graph.received["labels"])
        first, second = graph.next_stamp, graph.next_stamp + PERIOD_NS
        stamps = (stamp_from_ns(first), Time(sec=5, nanosec=4_000_000_000), stamp_from_ns(second))
        for sent, stamp in enumerate(stamps, 1):
            graph.send(to_image_msg(gray_frame(sent), "rgb8", Header(stamp=stamp, frame_id="camera")))
            wait_for(lambda sent=sent: graph.stream.statistics.received == received + sent, "the frame")
    finally:
        free.set()
        hook.remove()
    graph.wait_segmented(second)
    graph.wait_labels(count + 2)
    assert graph.stream.statistics.rejected["stamp"] == 1
    # The one that the fixture asked for.
    assert sum(graph.stream.statistics.resets.values()) == before + 1
    graph.wait_message("its stamp has 4000000000 nanoseconds")
