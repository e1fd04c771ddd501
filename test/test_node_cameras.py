"""Several cameras on one model: a window and outputs each, batches, fair shares, and independence of one another."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from graph import DEADLINE_S, Graph, pixels, wait_for  # noqa: E402
from gray import gray_frame, own_graphs, save_fusing, save_gray  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from stmem_ros.node.camera import candidates  # noqa: E402
from stmem_ros.node.mailbox import Mailbox  # noqa: E402
from stmem_ros.node.messages import stamp_to_ns, to_jpeg_msg  # noqa: E402
from stmem_ros.node.settings import name_cameras  # noqa: E402
from stmem_ros.streaming import StreamingSegmenter  # noqa: E402

NAMES = ["front", "left", "rear"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_graphs(23):
        yield save_gray(tmp_path_factory.mktemp("model") / "gray.safetensors")


@pytest.fixture(scope="module")
def running(checkpoint: Path) -> Iterator[Graph]:
    """Three cameras, one graph for all tests that leave it as it was."""
    graph = Graph({"checkpoint": str(checkpoint), "image_topics": NAMES})
    yield graph.start(*(f"{name}/labels" for name in NAMES))
    graph.close()


@pytest.fixture
def graph(running: Graph) -> Iterator[Graph]:
    for messages in running.received.values():
        messages.clear()
    yield running
    assert running.set(max_batch=0, enabled_cameras=[""], watchdog=0.0).successful


def numbers(graph: Graph, name: str) -> list[int]:
    """What each label image of a camera says, which is one class."""
    found = [np.unique(pixels(message)).tolist() for message in graph.received[f"{name}/labels"]]
    assert all(len(classes) == 1 for classes in found)
    return [classes[0] for classes in found]


class Gate:
    """Holds the network until it is opened; `passes` are the numbers of images in each pass."""

    def __init__(self, graph: Graph) -> None:
        self.passes: list[int] = []
        self._free = threading.Semaphore(0)
        self._hook = graph.node.model.engine.network.base.register_forward_pre_hook(self._wait)

    def _wait(self, _: object, inputs: tuple) -> None:
        self.passes.append(len(inputs[0]))
        assert self._free.acquire(timeout=DEADLINE_S)

    def open(self, times: int = 1) -> None:
        self._free.release(times)

    def remove(self) -> None:
        self._hook.remove()
        self.open(1000)


@pytest.fixture
def gate(graph: Graph) -> Iterator[Gate]:
    gate = Gate(graph)
    yield gate
    gate.remove()


def received(graph: Graph) -> dict[str, int]:
    return {stream.name: stream.statistics.received for stream in graph.node.streams}


def send_and_wait(graph: Graph, name: str, number: int, **options: object) -> int:
    """Publish a frame of a camera and wait until the node has it."""
    before = received(graph)[name]
    stamp = graph.send_image(gray_frame(number, **options), topic=name)
    wait_for(lambda: received(graph)[name] == before + 1, "the frame")
    return stamp


def test_each_camera_has_outputs_of_its_own_on_one_network(graph: Graph) -> None:
    stamps = {name: graph.send_image(gray_frame(10 + i), frame_id=name, topic=name) for i, name in enumerate(NAMES)}
    for index, name in enumerate(NAMES):
        graph.wait_labels(1, f"{name}/labels")
        message = graph.received[f"{name}/labels"][0]
        assert numbers(graph, name) == [10 + index]
        assert (stamp_to_ns(message.header.stamp), message.header.frame_id) == (stamps[name], name)
    assert len({id(stream.engine.network) for stream in graph.node.streams}) == 1
    assert len({id(stream.engine.state) for stream in graph.node.streams}) == 3


def test_frames_that_wait_together_are_one_batch(graph: Graph, gate: Gate) -> None:
    send_and_wait(graph, "front", 1)
    wait_for(lambda: gate.passes == [1], "the first frame to be in work")
    for index, name in enumerate(NAMES):
        send_and_wait(graph, name, 20 + index)
    gate.open(2)
    for index, name in enumerate(NAMES):
        wait_for(lambda name=name, number=20 + index: number in numbers(graph, name), f"labels of {name}")
    assert gate.passes == [1, 3]


def test_cameras_of_other_sizes_and_a_limit_on_batches_go_one_after_another(graph: Graph, gate: Gate) -> None:
    assert graph.set(max_batch=2).successful
    send_and_wait(graph, "left", 1)
    wait_for(lambda: gate.passes == [1], "the first frame to be in work")
    send_and_wait(graph, "left", 2, size=(80, 64))
    send_and_wait(graph, "front", 3)
    send_and_wait(graph, "rear", 4)
    gate.open(10)
    for name, number in (("left", 2), ("front", 3), ("rear", 4)):
        wait_for(lambda name=name, number=number: number in numbers(graph, name), f"labels of {name}")
    assert sorted(gate.passes) == [1, 1, 2]


@pytest.mark.parametrize("most", [0, 1, 2])
def test_at_overload_each_camera_has_its_fair_share(graph: Graph, gate: Gate, most: int) -> None:
    assert graph.set(max_batch=most).successful
    send_and_wait(graph, "front", 0)
    for number in range(1, 7):
        wait_for(lambda count=number: len(gate.passes) == count, "a pass")
        # The front camera is thrice as quick as the others.
        for name in ("front", "left", "front", "rear", "front"):
            send_and_wait(graph, name, number)
        gate.open()
    gate.open(1000)
    for name in NAMES:
        wait_for(lambda name=name: 6 in numbers(graph, name), f"the last frame of {name}")
    counts = {name: len(graph.received[f"{name}/labels"]) for name in NAMES}
    # Whatever the cameras' rates: a frame a round each, give or take the first and the last.
    assert max(counts.values()) - min(counts.values()) <= 2, counts
    assert min(counts.values()) >= (6 if most == 0 else 2), counts


@pytest.mark.parametrize("most", [0, 1, 2])
def test_the_mailbox_serves_whoever_was_served_longest_ago(most: int) -> None:
    mailbox: Mailbox[str] = Mailbox()
    served: collections.Counter[str] = collections.Counter()
    for moment in range(60):
        mailbox.put("quick", "image", moment)
        mailbox.put("slow", "image", moment)
        mailbox.put("other size", "image", moment, group="large")
        taken = mailbox.take(most)
        assert taken
        served.update(camera for camera, _ in taken)
    assert min(served[camera] for camera in ("quick", "slow", "other size")) >= 18, served


def test_a_dead_camera_holds_no_other_up_and_is_reported(graph: Graph) -> None:
    assert graph.set(watchdog=0.3, no_image_warning=0.2).successful
    stop = threading.Event()

    def drive() -> None:
        while not stop.wait(0.05):
            graph.send_image(gray_frame(5), time.time_ns(), topic="front")

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        graph.wait_labels(5, "front/labels")
        graph.wait_status(
            DiagnosticStatus.ERROR, "stalled", f"{graph.namespace}/rear", "tester (reliable)", title="rear"
        )
        graph.wait_status(DiagnosticStatus.OK, "segmenting", title="front")
    finally:
        stop.set()
        thread.join()
        graph.set(no_image_warning=5.0)


def test_a_bad_frame_of_one_camera_is_its_own_affair(graph: Graph, gate: Gate) -> None:
    send_and_wait(graph, "front", 1)
    wait_for(lambda: gate.passes == [1], "the first frame to be in work")
    rejected = graph.node.streams[1].statistics.rejected["encoding"]
    graph.send(Image(height=72, width=96, step=288, encoding="cmyk8"), "left")
    for name in ("front", "rear"):
        send_and_wait(graph, name, 30)
    wait_for(lambda: received(graph)["left"] > 0, "the bad frame")
    gate.open(2)
    for name in ("front", "rear"):
        wait_for(lambda name=name: 30 in numbers(graph, name), f"labels of {name}")
    wait_for(lambda: graph.node.streams[1].statistics.rejected["encoding"] == rejected + 1, "the rejection")
    assert not numbers(graph, "left")


def send_together(graph: Graph, gate: Gate, frames: dict[str, int]) -> None:
    """Frames that go into one pass; the gate is open after it."""
    send_and_wait(graph, "front", 1)
    wait_for(lambda: gate.passes == [1], "the first frame to be in work")
    for name, number in frames.items():
        send_and_wait(graph, name, number)
    gate.open(1000)


def failures(graph: Graph) -> list[int]:
    return [stream.statistics.rejected["failure"] for stream in graph.node.streams]


def test_a_frame_on_which_the_network_fails_costs_no_other_camera_its_own(graph: Graph, gate: Gate) -> None:
    before = failures(graph)

    def fail_on_white(_: object, inputs: tuple) -> None:
        if inputs[0].amax() > 0.5:
            raise RuntimeError("too bright")

    hook = graph.node.model.engine.network.base.register_forward_pre_hook(fail_on_white)
    try:
        send_together(graph, gate, {"front": 20, "left": 59, "rear": 22})
        for name, number in (("front", 20), ("rear", 22)):
            wait_for(lambda name=name, number=number: number in numbers(graph, name), f"labels of {name}")
        wait_for(lambda: failures(graph) == [before[0], before[1] + 1, before[2]], "the failure of one camera")
        assert gate.passes == [1, 3, 1, 1, 1] and numbers(graph, "left") == []
        wait_for(lambda: graph.node.streams[1].engine.state.newest is None, "the window to be forgotten")
        assert all(graph.node.streams[place].engine.state.newest is not None for place in (0, 2))
        send_and_wait(graph, "left", 23)
        wait_for(lambda: numbers(graph, "left") == [23], "the camera's next frame")
    finally:
        hook.remove()
    assert numbers(graph, "front") == [1, 20] and numbers(graph, "rear") == [22]
    graph.wait_message("a frame on", "/left", "cannot be segmented: RuntimeError: too bright")


def test_frames_that_are_too_many_for_one_pass_are_labelled_one_by_one(graph: Graph, gate: Gate) -> None:
    before = failures(graph)

    def fail_on_several(_: object, inputs: tuple) -> None:
        if len(inputs[0]) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = graph.node.model.engine.network.base.register_forward_pre_hook(fail_on_several)
    try:
        send_together(graph, gate, {"front": 20, "left": 21, "rear": 22})
        for index, name in enumerate(NAMES):
            wait_for(lambda name=name, number=20 + index: number in numbers(graph, name), f"labels of {name}")
    finally:
        hook.remove()
    assert failures(graph) == before and gate.passes == [1, 3, 1, 1, 1]
    graph.wait_message("fails on 3 cameras' frames together", "CUDA out of memory", "max_batch below 3")


def test_cameras_are_switched_off_and_on_while_the_node_runs(graph: Graph) -> None:
    refused = graph.set(enabled_cameras=["front", "roof"])
    assert not refused.successful and "roof" in refused.reason and "front, left, rear" in refused.reason
    assert graph.set(enabled_cameras=["front"]).successful
    send_and_wait(graph, "left", 1)
    send_and_wait(graph, "front", 2)
    graph.wait_labels(1, "front/labels")
    graph.wait_status(DiagnosticStatus.OK, "disabled", title="left")
    assert graph.set(enabled_cameras=[""]).successful
    send_and_wait(graph, "left", 3)
    graph.wait_labels(1, "left/labels")
    assert numbers(graph, "left") == [3]


def test_windows_do_not_mix(checkpoint: Path, tmp_path: Path) -> None:
    fusing = save_fusing(tmp_path / "fusing.safetensors")
    # The images' topics differ in their middle, and names are given to one of two.
    graph = Graph({"checkpoint": str(fusing), "image_topics": ["a/image", "b/image"], "camera_names": ["one", "two"]})
    try:
        graph.start("one/labels", "two/labels")
        alone = {name: StreamingSegmenter.from_checkpoint(fusing) for name in ("one", "two")}
        random = np.random.default_rng(0)
        expected = collections.defaultdict(list)
        for count in range(1, 5):
            for topic, name in (("a/image", "one"), ("b/image", "two")):
                image = random.integers(0, 256, (64, 80, 3), np.uint8)
                stamp = graph.send_image(image, topic=topic)
                expected[name].append(alone[name].step(image, stamp, "camera").labels)
            for name in alone:
                graph.wait_labels(count, f"{name}/labels")
        for name in alone:
            for message, labels in zip(graph.received[f"{name}/labels"], expected[name], strict=True):
                np.testing.assert_array_equal(pixels(message), labels)
    finally:
        graph.close()


def test_a_calibration_beside_several_cameras_is_nobodys(running: Graph) -> None:
    """One camera_info beside /front, /left and /rear cannot be that of each."""
    running.listen("left/camera_info")
    running.send_image(gray_frame(1), topic="left")
    running.wait_message(f"{running.namespace}/left/camera_info", "set camera_info_topics")
    running.forget("left/camera_info")


NAMINGS = {
    ("/front", "/left", "/rear"): ["front", "left", "rear"],
    ("/front/image_raw", "/rear/image_raw"): ["front", "rear"],
    ("/robot/front/image_raw", "/robot/rear/image_color"): ["front", "rear"],
    ("/a/camera", "/a/camera/b"): ["camera", "camera/b"],
    ("/camera/image_raw",): [""],
}


@pytest.mark.parametrize("topics", NAMINGS)
def test_a_camera_is_called_by_what_its_topic_has_of_its_own(topics: tuple[str, ...]) -> None:
    assert name_cameras(topics, ()) == NAMINGS[topics]


@pytest.mark.parametrize(
    ("topics", "names", "said"),
    [
        (("/a", "/a"), (), "/a twice"),
        (("/a", "/b"), ("one",), "1 names for 2"),
        (("/a", "/b"), ("one", "one"), "two cameras are called 'one'"),
        (("/a", "/b"), ("one", "rear cam"), "a camera is called 'rear cam'.*letters, digits and _"),
        (("/a", "/b"), ("x", "/segmentation/x"), "a camera is called '/segmentation/x'"),
        (("/a", "/b"), ("one", "2"), "a camera is called '2'"),
        (("/a",), ("rear cam",), "a camera is called 'rear cam'"),
    ],
)
def test_names_that_do_not_fit_are_refused(topics: tuple[str, ...], names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        name_cameras(topics, names)


def test_one_topic_by_two_names_is_refused(checkpoint: Path) -> None:
    graph = Graph({"checkpoint": str(checkpoint)})
    try:
        assert graph.set(image_topics=["a", f"{graph.namespace}/a"], camera_names=["a", "b"]).successful
        assert graph.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        graph.wait_message("cannot configure", f"image_topics has {graph.namespace}/a twice")
    finally:
        graph.close()


def test_a_configure_that_fails_at_the_second_camera_leaves_no_publisher_of_the_first(checkpoint: Path) -> None:
    wrong = {"qos_overrides.{ns}/b/confidence.publisher.reliability": "now and then"}
    graph = Graph({"checkpoint": str(checkpoint), "image_topics": ["a", "b"], **wrong})
    try:
        for _ in range(2):
            assert graph.node.trigger_configure() == TransitionCallbackReturn.FAILURE
            for camera in ("a", "b"):
                topic = f"{graph.namespace}/{camera}/labels"
                wait_for(lambda topic=topic: graph.node.count_publishers(topic) == 0, f"no publisher of {topic}")
        assert graph.set(image_topics=["a"]).successful
        assert graph.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        wait_for(lambda: graph.node.count_publishers(f"{graph.namespace}/labels") == 1, "one publisher of the labels")
    finally:
        graph.close()


@pytest.mark.parametrize("below", ["", "/compressed"])
def test_compressed_images_are_found_by_the_type_of_their_topic(checkpoint: Path, below: str) -> None:
    graph = Graph({"checkpoint": str(checkpoint)})
    try:
        assert graph.node.trigger_configure() and graph.node.trigger_activate()
        camera = graph.add_camera("image", CompressedImage, below)
        graph.listen("labels")
        graph.wait_matched()
        camera.publish(to_jpeg_msg(gray_frame(12), 100, Header(frame_id="camera")))
        graph.wait_labels(1)
        assert np.unique(pixels(graph.received["labels"][0])).tolist() == [12]
        graph.wait_diagnostics(topic=f"{graph.namespace}/image{below}", reliability="reliable")
        if below:
            # The camera's driver is started anew and publishes raw images.
            graph.tester.destroy_publisher(camera)
            graph.add_camera("image")
            graph.wait_matched()
            assert np.unique(pixels(graph.labels_of(gray_frame(13)))).tolist() == [13]
    finally:
        graph.close()


def test_transports_are_looked_for_in_the_order_that_the_parameter_says() -> None:
    assert candidates("/c", "raw") == [("/c", Image)]
    assert candidates("/c", "compressed") == [("/c/compressed", CompressedImage), ("/c", CompressedImage)]
    auto = [("/c", Image), ("/c", CompressedImage), ("/c/compressed", CompressedImage)]
    assert candidates("/c", "auto") == auto
    assert candidates("/c/compressed", "compressed") == [("/c/compressed", CompressedImage)]
