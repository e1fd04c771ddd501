"""The segmentation node as its graph sees it: images in and labels out over DDS, good input and bad."""

from __future__ import annotations

import array
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from graph import DEADLINE_S, Graph, pixels, wait_for  # noqa: E402
from gray import STEP, gray_frame, save_fusing, save_gray  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.logging import LoggingSeverity  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from stmem_ros.node import segmentation_node  # noqa: E402
from stmem_ros.node.messages import stamp_to_ns, to_array, to_image_msg  # noqa: E402
from stmem_ros.node.parameters import PARAMETERS  # noqa: E402
from stmem_ros.node.stream import Stream  # noqa: E402
from stmem_ros.node.worker import Worker  # noqa: E402
from stmem_ros.streaming import StreamConfig, StreamingSegmenter  # noqa: E402


@pytest.fixture
def gray_checkpoint(tmp_path: Path, pixel_base: str) -> Path:
    return save_gray(tmp_path / "gray.safetensors")


@pytest.fixture
def fusing_checkpoint(tmp_path: Path, pixel_base: str) -> Path:
    return save_fusing(tmp_path / "fusing.safetensors")


@pytest.fixture
def make_graph(ros_domain: int) -> Iterator[Callable[..., Graph]]:
    graphs: list[Graph] = []

    def make(**parameters: Any) -> Graph:
        graphs.append(Graph(parameters))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.close()


@pytest.fixture
def graph(make_graph: Callable[..., Graph], gray_checkpoint: Path) -> Graph:
    return make_graph(checkpoint=str(gray_checkpoint))


def test_labels_are_mono8_at_the_image_size_with_its_stamp_and_frame_id(graph: Graph) -> None:
    message = graph.start().labels_of(gray_frame(9, (75, 101)), stamp_ns=123_000_000_456, frame_id="front")
    assert (message.encoding, message.height, message.width, message.step) == ("mono8", 75, 101, 101)
    assert stamp_to_ns(message.header.stamp) == 123_000_000_456
    assert message.header.frame_id == "front"
    assert np.unique(pixels(message)).tolist() == [9]


def test_a_label_never_carries_another_frames_stamp_even_when_frames_are_dropped(graph: Graph) -> None:
    graph.start()
    number_of = {graph.send_image(gray_frame(number)): number for number in range(50)}
    last = max(number_of)
    wait_for(lambda: any(stamp_to_ns(m.header.stamp) == last for m in graph.received["labels"]), "the last frame")
    for message in graph.received["labels"]:
        assert np.unique(pixels(message)).tolist() == [number_of[stamp_to_ns(message.header.stamp)]]


@pytest.mark.parametrize("window", ["causal", "centered"])
def test_the_node_labels_a_stream_as_the_engine_does(
    make_graph: Callable[..., Graph], fusing_checkpoint: Path, window: str
) -> None:
    graph = make_graph(checkpoint=str(fusing_checkpoint), window=window).start()
    engine = StreamingSegmenter.from_checkpoint(fusing_checkpoint, StreamConfig(window=window))
    random = np.random.default_rng(0)
    expected = []
    for _ in range(6):
        image = random.integers(0, 256, (64, 80, 3), np.uint8)
        stamp = graph.send_image(image)
        result = engine.step(image, stamp, "camera")
        if result is not None:
            expected.append(result)
        graph.wait_labels(len(expected))
        graph.wait_segmented(stamp)
    assert len(expected) == (6 if window == "causal" else 5)
    for message, result in zip(graph.received["labels"], expected, strict=True):
        assert stamp_to_ns(message.header.stamp) == result.stamp_ns
        np.testing.assert_array_equal(pixels(message), result.labels)


def test_color_overlay_and_confidence_come_for_those_who_subscribe(graph: Graph, gray_checkpoint: Path) -> None:
    graph.start("labels", "color", "overlay", "confidence")
    graph.labels_of(gray_frame(10))
    wait_for(lambda: all(graph.received.values()), "one message on every output")
    color, overlay, confidence = (graph.received[name][0] for name in ("color", "overlay", "confidence"))
    assert color.encoding == overlay.encoding == "rgb8"
    assert np.unique(pixels(color).reshape(-1, 3), axis=0).tolist() == [[40, 215, 7]]
    # Half palette, half camera.
    assert np.abs(pixels(overlay)[0, 0].astype(int) - (np.array([40, 215, 7]) + 40) / 2).max() <= 1
    assert confidence.encoding == "mono8" and confidence.step == confidence.width == 96
    stamps = {stamp_to_ns(messages[0].header.stamp) for messages in graph.received.values()}
    assert len(stamps) == 1


def test_overlay_alpha_changes_while_the_node_runs(graph: Graph) -> None:
    graph.start("labels", "overlay")
    assert graph.node.set_parameters([Parameter("overlay_alpha", value=0.0)])[0].successful
    graph.labels_of(gray_frame(10))
    wait_for(lambda: graph.received["overlay"], "an overlay")
    np.testing.assert_array_equal(pixels(graph.received["overlay"][0]), gray_frame(10))


def test_compressed_images_are_read(make_graph: Callable[..., Graph], gray_checkpoint: Path) -> None:
    graph = make_graph(checkpoint=str(gray_checkpoint), image_transport="compressed").start()
    png = cv2.imencode(".png", gray_frame(11))[1]
    graph.send(CompressedImage(header=Header(frame_id="front"), format="png", data=to_array(png)))
    graph.wait_labels(1)
    assert np.unique(pixels(graph.received["labels"][0])).tolist() == [11]
    graph.send(CompressedImage(format="jpeg", data=array.array("B", b"not a jpeg")))
    graph.wait_message(f"{graph.namespace}/image/compressed", "jpeg")


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_reliability_follows_the_publisher(graph: Graph, reliability: ReliabilityPolicy) -> None:
    graph.start(reliability=reliability)
    assert np.unique(pixels(graph.labels_of(gray_frame(5)))).tolist() == [5]
    graph.wait_diagnostics(reliability=reliability.name.lower())


def broken(**changes: Any) -> Image:
    """A good 96x72 rgb8 message with fields changed."""
    message = to_image_msg(gray_frame(1), "rgb8", Header(frame_id="camera"))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def nan_image() -> Image:
    image = np.zeros((72, 96), np.float32)
    image[3, 4] = np.nan
    data = array.array("B")
    data.frombytes(image.tobytes())
    return broken(encoding="32FC1", step=96 * 4, data=data)


BAD = {
    "unknown encoding": (lambda: broken(encoding="cmyk8"), "encoding", ["cmyk8", "supported"]),
    "step smaller than a row": (lambda: broken(step=100), "step", ["step is 100", "288"]),
    "data too short": (lambda: broken(data=array.array("B", bytes(500))), "data", ["500 bytes", "20736"]),
    "zero size": (lambda: broken(height=0), "size", ["96x0"]),
    "NaN": (nan_image, "float", ["1 values", "NaN"]),
    "a strip": (lambda: broken(height=1, width=6912, step=20736), "size", ["6912x1"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_frame_is_explained_and_counted_and_the_next_good_one_is_labelled(graph: Graph, name: str) -> None:
    make, kind, parts = BAD[name]
    graph.start()
    graph.send(make())
    graph.wait_message(f"{graph.namespace}/image", *parts)
    graph.wait_diagnostics(**{f"rejected_for_{kind}": "1", "frames_rejected": "1"})
    assert np.unique(pixels(graph.labels_of(gray_frame(7)))).tolist() == [7]


def test_the_same_complaint_is_not_repeated_at_every_frame(graph: Graph) -> None:
    graph.start()
    for count in range(1, 6):
        graph.send(broken(encoding="cmyk8"))
        wait_for(lambda count=count: graph.stream.statistics.rejected["encoding"] == count, "the rejection")
    graph.wait_diagnostics(rejected_for_encoding="5")
    assert len([text for text in graph.messages() if "cmyk8" in text]) == 1


def test_big_endian_16_bit_images_are_read_by_their_upper_bits(graph: Graph) -> None:
    graph.start()
    wide = np.full((72, 96), 13 * STEP * 256 + 99, ">u2")
    data = array.array("B")
    data.frombytes(wide.tobytes())
    graph.send(broken(encoding="mono16", is_bigendian=1, step=96 * 2, data=data))
    graph.wait_labels(1)
    assert np.unique(pixels(graph.received["labels"][0])).tolist() == [13]


def test_a_new_size_in_mid_stream_starts_a_new_window(graph: Graph) -> None:
    graph.start()
    graph.labels_of(gray_frame(1))
    message = graph.labels_of(gray_frame(2, (100, 80)))
    assert pixels(message).shape == (100, 80)
    graph.wait_message("the image size changed")
    graph.wait_diagnostics(**{"window_reset:_the_image_size_changed": "1"})


def test_a_stamp_that_goes_backwards_starts_a_new_window(graph: Graph) -> None:
    graph.start()
    graph.labels_of(gray_frame(1), stamp_ns=5_000_000_000)
    message = graph.labels_of(gray_frame(2), stamp_ns=4_000_000_000)
    assert stamp_to_ns(message.header.stamp) == 4_000_000_000
    graph.wait_message("the stamp went backwards")


def test_a_stamp_no_clock_can_have_does_not_stop_the_node(graph: Graph) -> None:
    graph.start()
    message = broken()
    message.header.stamp.sec = -5
    graph.send(message)
    graph.wait_labels(1)
    message.header.stamp.nanosec = 4_000_000_000
    graph.send(message)
    graph.wait_diagnostics(rejected_for_stamp="1")
    assert np.unique(pixels(graph.labels_of(gray_frame(7)))).tolist() == [7]


def test_without_a_publisher_the_node_says_which_topic_is_silent(
    make_graph: Callable[..., Graph], gray_checkpoint: Path
) -> None:
    graph = make_graph(checkpoint=str(gray_checkpoint), no_image_warning=0.2)
    assert graph.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert graph.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    graph.wait_message("no image", f"{graph.namespace}/image", "publishers: none")
    graph.wait_status(DiagnosticStatus.WARN, "no image")


UNUSABLE = {
    "no such checkpoint": ({"checkpoint": "/nowhere/model.safetensors"}, ["/nowhere/model.safetensors", "not exist"]),
    "no CUDA": ({"device": "cuda"}, ["cuda", "no CUDA GPU"]),
    "unknown device": ({"device": "toaster"}, ["toaster", "auto, cpu, cuda"]),
    "unknown window": ({"window": "sideways"}, ["window", "sideways", "causal, centered"]),
    "float16 on a CPU": ({"device": "cpu", "precision": "float16"}, ["float16", "GPU"]),
    "a short side in between": ({"short_side": 5}, ["short_side", "5", "64"]),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_configuring_fails_with_the_reason_and_succeeds_once_mended(
    make_graph: Callable[..., Graph], gray_checkpoint: Path, name: str
) -> None:
    if name == "no CUDA" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    parameters, parts = UNUSABLE[name]
    good = {"checkpoint": str(gray_checkpoint), "device": "auto", "precision": "auto", "window": "causal"}
    graph = make_graph(**{**good, **parameters})
    assert graph.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    graph.wait_message("cannot configure", *parts)
    mended = {**good, "short_side": 0}
    results = graph.node.set_parameters([Parameter(key, value=value) for key, value in mended.items()])
    assert all(result.successful for result in results)
    assert np.unique(pixels(graph.start().labels_of(gray_frame(3)))).tolist() == [3]


def test_a_parameter_that_is_read_at_configuration_cannot_change_in_between(graph: Graph) -> None:
    graph.start()
    result = graph.node.set_parameters([Parameter("reliability", value="reliable")])[0]
    assert not result.successful and "clean the node up first" in result.reason


def test_reset_makes_the_next_frame_start_a_new_window(
    make_graph: Callable[..., Graph], fusing_checkpoint: Path
) -> None:
    graph = make_graph(checkpoint=str(fusing_checkpoint)).start()
    image = np.random.default_rng(1).integers(0, 256, (64, 80, 3), np.uint8)
    alone = pixels(graph.labels_of(image))
    graph.labels_of(gray_frame(60, (64, 80)))
    assert not np.array_equal(pixels(graph.labels_of(image)), alone)
    assert graph.call("reset", Trigger).success
    np.testing.assert_array_equal(pixels(graph.labels_of(image)), alone)
    graph.wait_diagnostics(**{"window_reset:_asked_for": "1"})


def test_a_disabled_node_ignores_images_until_enabled(graph: Graph) -> None:
    graph.start()
    assert graph.call("enable", SetBool, data=False).success
    graph.send_image(gray_frame(1))
    wait_for(lambda: graph.stream.statistics.received == 1, "the ignored frame")
    assert graph.call("enable", SetBool, data=True).success
    assert np.unique(pixels(graph.labels_of(gray_frame(2)))).tolist() == [2]
    assert len(graph.received["labels"]) == 1


def test_what_is_asked_for_while_the_node_is_not_active_is_not_claimed(graph: Graph) -> None:
    name = f"{graph.namespace}/segmentation"
    answers = {state: "" for state in ("unconfigured", "inactive", "active", "finalized")}
    for state in answers:
        if state == "inactive":
            assert graph.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        elif state == "active":
            assert graph.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        elif state == "finalized":
            assert graph.node.trigger_shutdown() == TransitionCallbackReturn.SUCCESS
        answer = graph.call("enable", SetBool, data=True)
        assert answer.success and graph.call("reset", Trigger).success
        answers[state] = answer.message
    activate = f"`ros2 lifecycle set {name} activate`"
    assert answers == {
        "unconfigured": "segmenting once the node is active; it is unconfigured: "
        f"`ros2 lifecycle set {name} configure`, then {activate}",
        "inactive": f"segmenting once the node is active; it is inactive: {activate}",
        "active": "segmenting",
        "finalized": "segmenting once the node is active; it is finalized: start it anew",
    }


def test_whatever_changes_what_the_node_does_is_logged(graph: Graph, gray_checkpoint: Path) -> None:
    node = graph.start().node
    assert graph.call("enable", SetBool, data=False).success
    assert graph.call("reset", Trigger).success
    node.trigger_deactivate()
    node.trigger_cleanup()
    node.trigger_shutdown()
    graph.wait_message("shut down")
    parts = [
        *("configuring: model ", "configured: model ", "active: waiting for images on ", "~/enable false: images are"),
        *("~/reset: the next frame", "deactivated", "cleaned up", "shut down"),
    ]
    places = [graph.messages().index(graph.wait_message(part)) for part in parts]
    assert places == sorted(places)
    assert str(gray_checkpoint) in graph.wait_message("configured: ", "float32 on cpu", "60 classes", "cameras: 1")


def test_debugging_shows_choices_resets_and_the_times_of_a_frame(graph: Graph) -> None:
    logger = graph.node.get_logger()
    logger.set_level(LoggingSeverity.DEBUG)
    try:
        graph.start().labels_of(gray_frame(1))
        assert graph.call("reset", Trigger).success
        graph.labels_of(gray_frame(2))
        graph.wait_message("loaded and warmed up in ")
        graph.wait_message(f"a frame of 96x72 on {graph.namespace}/image, window ", "wait ", "network ", "latency ")
        graph.wait_message(f"new window on {graph.namespace}/image: asked for")
    finally:
        logger.set_level(LoggingSeverity.INFO)


def test_the_node_can_be_stopped_and_started_again(graph: Graph) -> None:
    graph.start().labels_of(gray_frame(1))
    node = graph.node
    for _ in range(3):
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    wait_for(lambda: graph.stream.outputs.wanted("labels"), "the consumer")
    wait_for(lambda: graph.cameras["image"].get_subscription_count() > 0, "the node to subscribe")
    assert np.unique(pixels(graph.labels_of(gray_frame(4)))).tolist() == [4]


def test_every_parameter_is_described_and_ranges_are_enforced(graph: Graph) -> None:
    for parameter in PARAMETERS:
        assert graph.node.describe_parameter(parameter.name).description
    assert not graph.node.set_parameters([Parameter("overlay_alpha", value=1.5)])[0].successful
    assert not graph.node.set_parameters([Parameter("reliability", value="hopeful")])[0].successful


def test_a_lifecycle_request_that_does_not_fit_is_refused_and_the_node_goes_on(graph: Graph) -> None:
    cleanup = Transition(id=Transition.TRANSITION_CLEANUP)
    assert not graph.call("change_state", ChangeState, transition=cleanup).success
    graph.wait_message("cleanup is not possible while the node is unconfigured; possible: configure, shutdown")
    graph.start()
    configure = Transition(id=Transition.TRANSITION_CONFIGURE)
    assert not graph.call("change_state", ChangeState, transition=configure).success
    graph.wait_message("configure is not possible while the node is active; possible: deactivate, shutdown")
    for unknown in (Transition(label="fly"), Transition(id=99)):
        assert not graph.call("change_state", ChangeState, transition=unknown).success
    graph.wait_message("fly is not possible while the node is active")
    graph.wait_message("transition 99 is not possible while the node is active")
    # A label says as much as a number.
    assert graph.call("change_state", ChangeState, transition=Transition(label="deactivate")).success
    assert graph.call("change_state", ChangeState, transition=Transition(label="activate")).success
    wait_for(lambda: graph.stream.outputs.wanted("labels"), "the consumer")
    graph.wait_matched()
    assert np.unique(pixels(graph.labels_of(gray_frame(6)))).tolist() == [6]
    deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert graph.call("change_state", ChangeState, transition=deactivate).success


def wait_released(graph: Graph, threads: set[threading.Thread]) -> None:
    """Until nothing is left of a node that was configured, but the node; `threads` ran before that."""
    assert not graph.node.streams and graph.node.model is None
    assert set(threading.enumerate()) <= threads
    wait_for(lambda: graph.cameras["image"].get_subscription_count() == 0, "the subscription to be gone")
    wait_for(lambda: not graph.tester.count_publishers(f"{graph.namespace}/labels"), "the publisher to be gone")


SHUTDOWN = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


@pytest.mark.parametrize("state", SHUTDOWN)
def test_a_lifecycle_manager_can_shut_the_node_down_in_every_state(graph: Graph, state: str) -> None:
    threads = set(threading.enumerate())
    graph.start().labels_of(gray_frame(1))
    if state != "active":
        assert graph.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    if state == "unconfigured":
        assert graph.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert graph.call("get_state", GetState).current_state.label == state
    assert graph.call("change_state", ChangeState, transition=Transition(id=SHUTDOWN[state])).success
    assert graph.call("get_state", GetState).current_state.id == State.PRIMARY_STATE_FINALIZED
    wait_released(graph, threads)
    graph.wait_status(DiagnosticStatus.OK, "finalized", title="node")


RAISING = {
    "activate": (Transition.TRANSITION_ACTIVATE, Worker, "start"),
    "deactivate": (Transition.TRANSITION_DEACTIVATE, Stream, "stop_listening"),
}


@pytest.mark.parametrize("name", RAISING)
def test_a_transition_that_raises_leaves_a_node_that_can_be_configured_again(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    transition, part, method = RAISING[name]
    threads = set(threading.enumerate())
    graph.start().labels_of(gray_frame(1))
    if name == "activate":
        assert graph.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    whole = getattr(part, method)

    def raise_once(_: Any) -> None:
        monkeypatch.setattr(part, method, whole)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(part, method, raise_once)
    assert not graph.call("change_state", ChangeState, transition=Transition(id=transition)).success
    assert getattr(part, method) is whole, "nothing was raised"
    assert graph.call("get_state", GetState).current_state.id == State.PRIMARY_STATE_UNCONFIGURED
    wait_released(graph, threads)
    failed = f"on_{name} failed: RuntimeError: can't start new thread"
    graph.wait_message(failed)
    graph.wait_status(DiagnosticStatus.ERROR, failed, title="node")
    for fitting in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert graph.call("change_state", ChangeState, transition=Transition(id=fitting)).success
    wait_for(lambda: graph.stream.outputs.wanted("labels"), "the consumer")
    graph.wait_matched()
    assert np.unique(pixels(graph.labels_of(gray_frame(4)))).tolist() == [4]


SECONDS_TO_START = 90.0


def test_without_autostart_the_node_waits_for_a_lifecycle_manager(tmp_path: Path, ros_domain: int) -> None:
    log = tmp_path / "node.log"
    command = [sys.executable, "-m", "stmem_ros.node.segmentation_node", "--ros-args", "-r", "__ns:=/managed"]
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    manager = rclpy.create_node("manager", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(manager)
    labels: list[Image] = []
    manager.create_subscription(Image, "/managed/labels", labels.append, 10)
    camera = manager.create_publisher(Image, "/managed/image", 10)

    def spin_until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while not condition():
            assert time.monotonic() < deadline and node.poll() is None, f"waited for {what}: {log.read_text()}"
            executor.spin_once(timeout_sec=0.05)

    def call(service: str, kind: type, **fields: Any) -> Any:
        client = manager.create_client(kind, f"/managed/segmentation/{service}")
        spin_until(client.service_is_ready, service)
        future = client.call_async(kind.Request(**fields))
        spin_until(future.done, f"an answer of {service}")
        return future.result()

    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("segmentation:\n  ros__parameters:\n    short_side: 64\n")
    command += ["--params-file", str(parameters), "-p", "wndow:=centered", "-r", "img:=/camera", "-p", "max_gap:=1"]
    with log.open("wb") as file:
        node = subprocess.Popen(
            [*command, "-p", "autostart:=false", "-p", "short_side:=64"], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        # It answers once it has started, as far as it does by itself.
        assert call("get_state", GetState).current_state.id == State.PRIMARY_STATE_UNCONFIGURED
        said = log.read_text()
        assert "autostart is false: waiting for a lifecycle manager" in said and "did you mean window?" in said
        assert f"{parameters} has parameters for /segmentation, and none for this node, /managed/segmentation" in said
        assert not manager.count_publishers("/managed/labels")
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert call("change_state", ChangeState, transition=Transition(id=transition)).success, log.read_text()
        assert call("get_state", GetState).current_state.id == State.PRIMARY_STATE_ACTIVE
        assert "the remapping img:=/camera is of nothing that this node has" in log.read_text()
        spin_until(lambda: camera.get_subscription_count() > 0, "the node to subscribe")
        message = to_image_msg(gray_frame(7), "rgb8", Header(frame_id="front"))

        def labelled() -> bool:
            camera.publish(message)
            return bool(labels)

        spin_until(labelled, "labels")
        assert (labels[0].height, labels[0].width, labels[0].header.frame_id) == (72, 96, "front")
        node.send_signal(signal.SIGINT)
        assert node.wait(DEADLINE_S) == 0
    finally:
        node.kill()
        node.wait()
        executor.shutdown()
        manager.destroy_node()
        context.try_shutdown()


def test_a_failed_configuration_is_an_error_in_diagnostics(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph(checkpoint="/nowhere/model.safetensors")
    graph.node.trigger_configure()
    graph.wait_status(DiagnosticStatus.ERROR, "cannot configure", "/nowhere/model.safetensors", title="node")


@pytest.mark.parametrize("path", ["a" * 300, "/proc/self/mem"])
def test_a_path_that_cannot_be_looked_at_fails_with_a_reason(make_graph: Callable[..., Graph], path: str) -> None:
    graph = make_graph(checkpoint=path)
    assert graph.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    graph.wait_message("cannot configure", path)


def test_simulated_time_that_stands_still_does_not_stop_the_node(
    make_graph: Callable[..., Graph], gray_checkpoint: Path
) -> None:
    graph = make_graph(checkpoint=str(gray_checkpoint), use_sim_time=True).start()
    assert np.unique(pixels(graph.labels_of(gray_frame(8)))).tolist() == [8]
    graph.wait_diagnostics(frames_labelled="1")


def test_frames_that_a_slow_network_skips_are_no_gap(make_graph: Callable[..., Graph], fusing_checkpoint: Path) -> None:
    graph = make_graph(checkpoint=str(fusing_checkpoint), max_gap=0.1).start()
    free = threading.Event()
    graph.node.model.engine.network.base.register_forward_pre_hook(lambda *_: free.wait(DEADLINE_S) and None)
    for number in range(6):
        last = graph.send_image(gray_frame(number))
        wait_for(lambda count=number + 1: graph.stream.statistics.received == count, "the frame")
    # The first frame is in the network; of the five that came meanwhile, 66 ms apart, the last one is next.
    free.set()
    graph.wait_segmented(last)
    graph.wait_labels(2)
    assert not graph.stream.statistics.resets


def test_diagnostics_say_what_the_node_does(graph: Graph) -> None:
    graph.start()
    for number in range(3):
        graph.labels_of(gray_frame(number))
    status = graph.wait_diagnostics(frames_received="3", frames_labelled="3", topic=f"{graph.namespace}/image")
    assert status.level == DiagnosticStatus.OK
    assert status.hardware_id == "cpu" or torch.cuda.is_available()
    keys = {pair.key for pair in status.values}
    assert {"latency p50 ms", "latency p99 ms", "node overhead p50 ms", "labels per second", "checkpoint"} <= keys


def test_what_ros_cannot_start_is_one_line(ros_domain: int) -> None:
    command = [sys.executable, "-m", "stmem_ros.node.segmentation_node", "--ros-args", "--nonsense"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("segmentation: --nonsense is no ROS argument") and ended.stderr.count("\n") == 1


def test_help_starts_no_node(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        segmentation_node.main(["--help"])
    assert ended.value.code == 0
    assert "--ros-args -p" in capsys.readouterr().out


def test_an_empty_list_is_no_list(gray_checkpoint: Path, ros_domain: int) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    arguments = ["--ros-args", "-p", "image_topics:=[]", "-p", "enabled_cameras:=[]"]
    arguments += ["-p", f"checkpoint:={gray_checkpoint}"]
    node = segmentation_node.SegmentationNode(context=context, cli_args=arguments)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert [stream.name for stream in node.streams] == [""]
    finally:
        node.destroy_node()
        context.try_shutdown()
