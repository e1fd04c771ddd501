"""What diagnostics say of a camera: levels by thresholds, and sentences that a person can act on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from graph import Graph, wait_for  # noqa: E402
from gray import gray_frame, own_graphs, save_gray  # noqa: E402
from rcl_interfaces.msg import Log  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from stmem_ros.node.clocks import Reading, fault_of  # noqa: E402
from stmem_ros.node.health import Facts, judge  # noqa: E402
from stmem_ros.node.settings import Thresholds  # noqa: E402

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
UNSTAMPED = fault_of(0, Reading.of_system())
WELL = Facts(
    topic="/camera",
    publishers=["/driver (reliable)"],
    quiet=0.1,
    unlabelled=0.2,
    rate=10.0,
    latency=0.15,
    lost=0.0,
    clock_fault=None,
)
NONE = Thresholds(
    no_image_warning=5.0,
    watchdog=0.0,
    latency_warning=0.0,
    latency_error=0.0,
    rate_warning=0.0,
    rate_error=0.0,
    lost_warning=0.2,
)
CASES = {
    "well": ({}, {}, []),
    "no image": ({"quiet": 6.0}, {}, [(WARN, "no image for 6 s on /camera (publishers: /driver (reliable))")]),
    "no publisher": ({"quiet": 6.0, "publishers": []}, {}, [(WARN, "none: is the camera running")]),
    "no image, not asked": ({"quiet": 600.0}, {"no_image_warning": 0.0}, []),
    "stalled": ({"quiet": 6.0}, {"watchdog": 2.0}, [(ERROR, "the camera is stalled: no image for 6 s")]),
    "no labels": ({"unlabelled": 7.0}, {}, [(WARN, "no labels left for 7 s")]),
    "a frame is late": ({}, {"latency_warning": 0.1}, [(WARN, "0.15 s after the stamp (p99); the limit is 0.1")]),
    "far too late": ({}, {"latency_warning": 0.05, "latency_error": 0.1}, [(ERROR, "the limit is 0.1")]),
    "slow": ({}, {"rate_warning": 15.0}, [(WARN, "10.0 labels a second of /camera; the limit is 15")]),
    "far too slow": ({}, {"rate_warning": 15.0, "rate_error": 12.0}, [(ERROR, "the limit is 12")]),
    "too early to call it slow": ({"rate": None}, {"rate_error": 12.0}, []),
    "frames are lost": ({"lost": 0.5}, {}, [(WARN, "50% of the images on /camera never arrived")]),
    "losses are accepted": ({"lost": 0.5}, {"lost_warning": 1.0}, []),
    "two publishers": ({"publishers": ["/a (reliable)", "/b (reliable)"]}, {}, [(WARN, "2 publishers on /camera")]),
    "no stamps": ({"clock_fault": UNSTAMPED}, {}, [(WARN, "images on /camera have a stamp of zero")]),
    "no labels, which is an error by the rate": (
        {"unlabelled": 7.0, "rate": 0.0},
        {"rate_error": 2.0},
        [(ERROR, "0.0 labels a second of /camera; the limit is 2"), (WARN, "no labels left for 7 s")],
    ),
    "no labels, late ones before, and lost images": (
        {"unlabelled": 7.0, "latency": 3.0, "lost": 0.5},
        {"latency_error": 2.0, "rate_warning": 15.0},
        [(ERROR, "the limit is 2"), (WARN, "no labels left"), (WARN, "the limit is 15"), (WARN, "never arrived")],
    ),
    "no image, which is an error by the rate": (
        {"quiet": 6.0, "unlabelled": 6.0, "rate": 0.0},
        {"rate_error": 2.0},
        [(ERROR, "the limit is 2"), (WARN, "no image for 6 s")],
    ),
    "stalled, and too slow": (
        {"quiet": 6.0, "rate": 1.0},
        {"watchdog": 2.0, "rate_warning": 2.0},
        [(ERROR, "the camera is stalled"), (WARN, "the limit is 2")],
    ),
    "everything at once": (
        {
            "quiet": 6.0,
            "unlabelled": 6.0,
            "rate": 0.0,
            "failures": 10,
            "clock_fault": UNSTAMPED,
            "publishers": ["/a", "/b"],
        },
        {"watchdog": 2.0, "rate_error": 2.0, "latency_warning": 0.1},
        [
            *((ERROR, "the network failed on the last 10 frames"), (ERROR, "stalled"), (ERROR, "the limit is 2")),
            *((WARN, "the limit is 0.1"), (WARN, "2 publishers on /camera"), (WARN, "stamp of zero")),
        ],
    ),
    "errors come first": (
        {"clock_fault": UNSTAMPED, "quiet": 9.0},
        {"watchdog": 1.0},
        [(ERROR, "stalled"), (WARN, "stamp of zero")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_levels_follow_the_thresholds_and_messages_say_what_is_wrong(name: str) -> None:
    facts, thresholds, expected = CASES[name]
    found = judge(dataclasses.replace(WELL, **facts), dataclasses.replace(NONE, **thresholds))
    assert [verdict.level for verdict in found] == [level for level, _ in expected]
    for verdict, (_, text) in zip(found, expected, strict=True):
        assert text in verdict.message and "\n" not in verdict.message


NONSENSE = {"qos_overrides.{ns}/image.subscription.reliability": "now and then"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with own_graphs(53):
        checkpoint = save_gray(tmp_path_factory.mktemp("model") / "gray.safetensors")
        graph = Graph({"checkpoint": str(checkpoint)})
        yield graph.start()
        graph.close()


@pytest.fixture
def graph(running: Graph) -> Iterator[Graph]:
    yield running
    thresholds = {field.name: getattr(NONE, field.name) for field in dataclasses.fields(Thresholds)}
    assert running.set(**thresholds).successful


def test_diagnostics_have_rates_drops_latencies_window_and_model(graph: Graph) -> None:
    for number in range(3):
        graph.labels_of(gray_frame(number))
    status = graph.wait_diagnostics(frames_received="3", frames_labelled="3")
    values = {pair.key: pair.value for pair in status.values}
    assert {
        *("images per second", "labels per second", "latency p50 ms", "latency p99 ms"),
        *("frames dropped for newer ones", "frames rejected", "frames ignored while disabled", "topic", "reliability"),
    } <= set(values)
    assert values["window"] == "1 of 1 frames"
    model = {pair.key: pair.value for pair in graph.wait_status(OK, "loaded", title="model").values}
    assert len(model["sha256"]) == 64 and float(model["memory MiB"]) > 10


def test_thresholds_act_while_the_node_runs(graph: Graph) -> None:
    graph.labels_of(gray_frame(1))
    # The stamps of this graph are some seconds old.
    assert graph.set(latency_warning=1.0).successful
    graph.wait_status(WARN, "after the stamp")
    assert graph.set(latency_error=2.0, no_image_warning=0.0).successful
    graph.wait_status(ERROR, "the limit is 2")
    assert graph.set(latency_warning=0.0, latency_error=0.0, rate_error=900.0).successful
    graph.wait_status(ERROR, "labels a second")


def test_a_camera_that_stops_is_reported_as_stalled_and_as_well_once_it_is_back(graph: Graph) -> None:
    graph.labels_of(gray_frame(1))
    assert graph.set(watchdog=0.4).successful
    graph.wait_status(ERROR, "stalled", "tester (reliable)")
    graph.wait_message("the camera is stalled", f"{graph.namespace}/image")
    (level,) = {entry.level for entry in graph.log if "the camera is stalled" in entry.msg}
    assert level == int.from_bytes(Log.ERROR, "little") if isinstance(Log.ERROR, bytes) else Log.ERROR
    assert graph.set(watchdog=3.0).successful
    graph.labels_of(gray_frame(2))
    graph.wait_status(OK, "segmenting")


def test_where_nobody_subscribes_frames_are_remembered_and_no_limit_is_judged(graph: Graph) -> None:
    graph.labels_of(gray_frame(1))
    network, predicted = graph.node.model.engine.network, []
    predict = network.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "predict", lambda *parts: predicted.append(1) or predict(*parts))
        assert graph.set(rate_error=900.0, latency_error=0.001, no_image_warning=1.0).successful
        graph.forget("labels")
        unwanted = graph.stream.statistics.unwanted
        graph.wait_segmented(graph.send_image(gray_frame(2)))
        wait_for(lambda: graph.stream.statistics.unwanted == unwanted + 1, "the frame to be counted")
        status = graph.wait_status(OK, "nobody subscribes")
        assert not predicted
        graph.listen("labels")
        graph.labels_of(gray_frame(3))
        assert predicted == [1]
    assert int({pair.key: pair.value for pair in status.values}["frames that nobody wanted"]) == unwanted + 1
    graph.wait_status(ERROR, "the limit is 0.001")


def test_who_subscribes_between_two_frames_is_no_reason_for_an_error(graph: Graph) -> None:
    graph.labels_of(gray_frame(1))
    graph.forget("labels")
    unwanted = graph.stream.statistics.unwanted
    graph.send_image(gray_frame(2))
    wait_for(lambda: graph.stream.statistics.unwanted == unwanted + 1, "the frame that nobody wanted")
    # As if that were long ago.
    graph.stream.listening_since -= 60
    assert graph.set(rate_error=0.2, latency_error=0.001, no_image_warning=0.0).successful
    graph.listen("labels")
    looks = len(graph.diagnostics)
    wait_for(lambda: len(graph.diagnostics) >= looks + 2, "two looks")
    levels = [status.level for array in graph.diagnostics[looks:] for status in array.status]
    assert set(levels) == {OK}


def test_every_status_has_a_name_of_its_own_and_a_failed_activation_is_an_error_among_them(
    running: Graph, tmp_path: Path
) -> None:
    graph = Graph({"checkpoint": str(save_gray(tmp_path / "gray.safetensors"))} | NONSENSE)
    try:
        graph.wait_status(OK, "unconfigured", title="node")
        assert graph.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert graph.node.trigger_activate() == TransitionCallbackReturn.FAILURE
        graph.wait_status(ERROR, "cannot subscribe", "now and then", title="node")
        graph.wait_status(OK, "not active")
        assert graph.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        graph.wait_status(OK, "unconfigured", title="node")
    finally:
        graph.close()
    for array in graph.diagnostics:
        names = [status.name for status in array.status]
        assert len(set(names)) == len(names)


def test_a_second_publisher_on_the_topic_is_reported_by_name(graph: Graph) -> None:
    second = graph.tester.create_publisher(Image, f"{graph.namespace}/image", 1)
    counter = itertools.count(1)
    wait_for(lambda: graph.labels_of(gray_frame(next(counter) % 50)) and "2 publishers" in graph.status().message, "it")
    assert graph.status().level == WARN
    graph.tester.destroy_publisher(second)
