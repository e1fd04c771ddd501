"""Stamps and clocks as real graphs have them: bags that loop, clocks that jump, stamps of zero or out of order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from graph import PERIOD_NS, Graph, pixels, wait_for  # noqa: E402
from gray import own_graphs, save_fusing  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from stmem_ros.node import qos  # noqa: E402
from stmem_ros.node.messages import stamp_from_ns, stamp_to_ns, to_image_msg  # noqa: E402
from stmem_ros.node.origin import FORGOTTEN_AFTER, Origins  # noqa: E402
from stmem_ros.streaming import StreamingSegmenter  # noqa: E402

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_graphs(71):
        yield save_fusing(tmp_path_factory.mktemp("model") / "fusing.safetensors")


@pytest.fixture(scope="module")
def running(checkpoint: Path) -> Iterator[Graph]:
    """In simulated time, as a replay has it."""
    graph = Graph({"checkpoint": str(checkpoint), "use_sim_time": True})
    yield graph.start()
    graph.close()


@pytest.fixture
def graph(running: Graph) -> Graph:
    """The shared graph at the start of a window."""
    running.stream.reset_asked.set()
    running.stream._origins = Origins()
    return running


class Twin:
    """The engine by itself: what each frame's labels must be, and why its window started."""

    def __init__(self, graph: Graph, checkpoint: Path) -> None:
        self.graph = graph
        self.engine = StreamingSegmenter.from_checkpoint(checkpoint)
        self._random = np.random.default_rng(4)

    def image(self, size: tuple[int, int] = (64, 80)) -> np.ndarray:
        return self._random.integers(0, 256, (*size, 3), np.uint8)

    def frame(self, stamp_ns: int, frame_id: str = "camera") -> str:
        """Send a frame through the graph; why it started a new window, empty where it did not."""
        image = self.image()
        message = self.graph.labels_of(image, stamp_ns=stamp_ns, frame_id=frame_id)
        expected = self.engine.step(image, stamp_ns, frame_id)
        assert stamp_to_ns(message.header.stamp) == stamp_ns and message.header.frame_id == frame_id
        np.testing.assert_array_equal(pixels(message), expected.labels)
        return self.engine.last_reset.value if self.engine.last_reset else ""


@pytest.fixture
def twin(graph: Graph, checkpoint: Path) -> Twin:
    return Twin(graph, checkpoint)


BACKWARD, GAP = "the stamp went backwards", "frames were missing for longer than max_gap"
STREAMS = {
    # A stamp in periods, and why it starts a window.
    "a bag that loops": [(0, ""), (1, ""), (2, ""), (0, BACKWARD), (1, ""), (2, "")],
    "a bag that was paused": [(0, ""), (1, ""), (40, GAP), (41, "")],
    "a frame out of order": [(0, ""), (2, ""), (1, BACKWARD), (3, "")],
    "the same frame twice": [(0, ""), (1, ""), (1, ""), (2, "")],
}


@pytest.mark.parametrize("name", STREAMS)
def test_windows_follow_the_stamps_and_every_frame_keeps_its_own(twin: Twin, name: str) -> None:
    before = dict(twin.graph.stream.statistics.resets)
    start = 50 * SECOND
    reasons = [reason for _, reason in STREAMS[name]]
    assert [twin.frame(start + place * PERIOD_NS) for place, _ in STREAMS[name]] == reasons
    for reason in set(reasons) - {""}:
        assert twin.graph.stream.statistics.resets[reason] - before.get(reason, 0) == reasons.count(reason)


def test_stamps_of_zero_make_one_window_and_one_warning(twin: Twin) -> None:
    assert [twin.frame(0) for _ in range(4)] == [""] * 4
    twin.graph.wait_message("stamp of zero", f"{twin.graph.namespace}/image", "driver")
    # No latency of fifty years: these frames are timed from their arrival.
    assert max(entry.latency for entry in list(twin.graph.stream.statistics._times)[-4:]) < 60
    assert [twin.frame(SECOND // 2), twin.frame(0)] == ["", BACKWARD]


@pytest.mark.parametrize("names", [("left", "right"), ("camera", "camera")], ids=["two frame_ids", "one frame_id"])
def test_two_publishers_on_one_topic_never_share_a_window(twin: Twin, names: tuple[str, str]) -> None:
    second = twin.graph.tester.create_publisher(Image, f"{twin.graph.namespace}/image", QoSProfile(depth=1))
    wait_for(lambda: second.get_subscription_count() > 0, "the node to match the second publisher")
    labels = twin.graph.received["labels"]
    for number in range(4):
        stamp = 60 * SECOND + number * PERIOD_NS
        # As a stream's first frame: nothing of the other camera is in it.
        twin.engine.reset()
        twin.frame(stamp, names[0])
        twin.engine.reset()
        image = twin.image()
        count = len(labels)
        second.publish(to_image_msg(image, "rgb8", Header(stamp=stamp_from_ns(stamp + 5), frame_id=names[1])))
        twin.graph.wait_labels(count + 1)
        expected = twin.engine.step(image, stamp + 5, names[1])
        assert labels[-1].header.frame_id == names[1]
        np.testing.assert_array_equal(pixels(labels[-1]), expected.labels)
    twin.graph.wait_message("2 publishers on", "image_topics")
    twin.graph.wait_message("new window on", "another publisher's image came")
    twin.graph.tester.destroy_publisher(second)


def test_where_rclpy_says_nothing_of_a_message_it_is_labelled(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Humble."""
    monkeypatch.setattr(qos, "INFORMED", False)
    graph = twin.graph
    assert graph.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert graph.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    graph.wait_matched()
    assert [twin.frame(70 * SECOND + place * PERIOD_NS) for place in range(3)] == [""] * 3
    assert graph.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    monkeypatch.undo()
    assert graph.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    graph.wait_matched()


def test_a_camera_that_is_started_again_at_once_starts_a_new_window(twin: Twin) -> None:
    start = 80 * SECOND
    for place in range(3):
        twin.frame(start + place * PERIOD_NS)
    twin.graph.tester.destroy_publisher(twin.graph.cameras["image"])
    twin.graph.add_camera("image")
    twin.graph.wait_matched()
    # Within max_gap, with the stamps, the size and the frame_id of before. Its numbers are near the old ones at first.
    for place in range(3, 3 + FORGOTTEN_AFTER):
        twin.engine.reset()
        assert twin.frame(start + place * PERIOD_NS) == ""
    assert [twin.frame(start + place * PERIOD_NS) for place in range(3 + FORGOTTEN_AFTER, 30)] == [""] * 7


def test_a_clock_that_jumps_does_not_disturb_a_stream_whose_stamps_go_on(twin: Twin) -> None:
    clock = twin.graph.tester.create_publisher(Clock, "/clock", 10)
    wait_for(lambda: clock.get_subscription_count() > 0, "the node to listen to the clock")
    start = 100 * SECOND
    for place, now in enumerate((start, start + SECOND, start - 40 * SECOND, 0, start + 900 * SECOND)):
        clock.publish(Clock(clock=stamp_from_ns(now)))
        wait_for(lambda now=now: twin.graph.node.get_clock().now().nanoseconds == now, "the node's clock")
        assert twin.frame(start + place * PERIOD_NS) == ""
    received = twin.graph.stream.statistics.received
    twin.graph.wait_diagnostics(frames_received=str(received), frames_labelled=str(received))
    twin.graph.tester.destroy_publisher(clock)
