"""Stamps of another clock than the node's are said with both clocks and what to do, and never become latencies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time  # noqa: E402
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from graph import Graph, wait_for  # noqa: E402
from gray import gray_frame, own_graphs, save_gray  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from stmem_ros.labels import LabelSet  # noqa: E402
from stmem_ros.node.clocks import MAX_AGE_NS, Reading, fault_of, latency_of  # noqa: E402
from stmem_ros.node.demo import make_report  # noqa: E402
from stmem_ros.node.recording import Recorder  # noqa: E402

SECOND = 10**9
HOUR, DAY, YEAR = 3600 * SECOND, 86400 * SECOND, 365 * 86400 * SECOND
NOW = 1_790_000_000 * SECOND
UPTIME = 5 * DAY
SYSTEM = Reading(NOW, simulated=False, system=NOW, uptime=UPTIME)
STOPPED = Reading(0, simulated=True, system=NOW, uptime=UPTIME)
SIMULATED = Reading(40 * SECOND, simulated=True, system=NOW, uptime=UPTIME)
GOOD = {
    "before a slow /clock says so": (40 * SECOND + SECOND // 2, SIMULATED),
    "just now": (NOW, SYSTEM),
    "a slow camera": (NOW - 5 * SECOND, SYSTEM),
    "a driver that stamps the exposure's end": (NOW + SECOND // 50, SYSTEM),
    "simulated": (39 * SECOND, SIMULATED),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_stamp_of_the_nodes_clock_is_well(name: str) -> None:
    stamp, clocks = GOOD[name]
    assert fault_of(stamp, clocks) is None
    latency = latency_of(stamp, clocks)
    assert latency is None if stamp > clocks.now else latency == pytest.approx((clocks.now - stamp) / SECOND)


BAD = {
    "none": (0, SYSTEM, "zero", ["stamp of zero", "driver"]),
    "none in simulated time": (0, STOPPED, "zero", ["stamp of zero"]),
    "an hour ahead": (NOW + HOUR, SYSTEM, "ahead", ["1 h ahead of this computer's clock", "time zone", "chrony"]),
    "a second ahead": (NOW + SECOND, SYSTEM, "ahead", ["1.0 s ahead of"]),
    "an hour behind": (NOW - HOUR, SYSTEM, "behind", ["1 h behind this computer's clock", "recording", "chrony"]),
    "of last year": (NOW - 400 * DAY, SYSTEM, "behind", ["1 y 35 d behind", "`--clock`", "use_sim_time true"]),
    "since boot": (UPTIME - SECOND, SYSTEM, "behind", ["count from this computer's start", "driver"]),
    "since another boot": (HOUR, SYSTEM, "behind", ["count from a start", "use_sim_time true", "driver"]),
    "of a simulator": (12 * SECOND, SYSTEM, "behind", ["count from a start", "simulator", "use_sim_time true"]),
    "before 1970": (-SECOND, SYSTEM, "behind", ["behind this computer's clock"]),
    "without /clock": (NOW, STOPPED, "no /clock", ["use_sim_time is true, and nothing came on /clock", "--clock"]),
    "of the system in simulated time": (
        NOW,
        SIMULATED,
        "ahead",
        ["/clock (use_sim_time is true)", "they are of the system's clock", "use_sim_time false"],
    ),
    "of another run": (40 * SECOND + HOUR, SIMULATED, "ahead", ["1 h ahead of", "/clock", "two runs"]),
    "of the run before": (2 * HOUR, Reading(3 * HOUR, True, NOW, UPTIME), "behind", ["1 h behind", "two runs"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_stamp_of_another_clock_names_the_clocks_and_what_to_do(name: str) -> None:
    stamp, clocks, kind, parts = BAD[name]
    fault = fault_of(stamp, clocks)
    assert fault is not None and fault.kind == kind and "\n" not in fault.text
    assert [part for part in parts if part not in fault.text] == []
    assert latency_of(stamp, clocks) is None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_graphs(59):
        yield save_gray(tmp_path_factory.mktemp("model") / "gray.safetensors")


@pytest.fixture(scope="module")
def running(checkpoint: Path) -> Iterator[Graph]:
    graph = Graph({"checkpoint": str(checkpoint)})
    yield graph.start()
    graph.close()


def values_of(graph: Graph) -> dict[str, str]:
    return {pair.key: pair.value for pair in graph.status().values}


LIVE = {
    "an hour ahead": (lambda clocks: clocks.system + HOUR, ["ahead of this computer's clock", "time zone"]),
    "an hour behind": (lambda clocks: clocks.system - HOUR, ["behind this computer's clock", "recording"]),
    "since boot": (lambda clocks: clocks.uptime, ["count from this computer's start"]),
    "of a simulator": (lambda clocks: 12 * SECOND, ["count from a start", "use_sim_time true"]),
    "none": (lambda clocks: 0, ["stamp of zero"]),
}


@pytest.mark.parametrize("name", LIVE)
def test_the_node_says_so_in_log_and_diagnostics_and_its_latencies_stay_possible(running: Graph, name: str) -> None:
    graph, (stamp, parts) = running, LIVE[name]
    graph.stream._begin()
    for place in range(3):
        first = stamp(Reading.of_system())
        graph.labels_of(gray_frame(place + 1), stamp_ns=first + place if first else 0)
    graph.wait_status(DiagnosticStatus.WARN, f"{graph.namespace}/image", *parts)
    graph.wait_message(f"{graph.namespace}/image", *parts)
    graph.wait_diagnostics(frames_labelled=str(graph.stream.statistics.labelled))
    values = values_of(graph)
    assert 0 <= float(values["latency p50 ms"]) <= float(values["latency p99 ms"]) < 60_000
    counted = "frames with a stamp of zero" if name == "none" else "frames with a stamp of another clock"
    assert int(values[counted]) >= 3


def test_a_camera_that_is_put_right_is_well_again(running: Graph) -> None:
    running.labels_of(gray_frame(1), stamp_ns=Reading.of_system().system + HOUR)
    running.wait_status(DiagnosticStatus.WARN, "ahead of this computer's clock")
    running.labels_of(gray_frame(2), stamp_ns=Reading.of_system().system)
    running.wait_status(DiagnosticStatus.OK, "segmenting")


def test_simulated_time_that_never_came_is_said_until_it_comes(checkpoint: Path) -> None:
    graph = Graph({"checkpoint": str(checkpoint), "use_sim_time": True})
    try:
        graph.start()
        graph.labels_of(gray_frame(1))
        graph.wait_status(DiagnosticStatus.WARN, "use_sim_time is true", "nothing came on /clock")
        assert float(values_of(graph)["latency p50 ms"]) >= 0
        clock = graph.tester.create_publisher(Clock, "/clock", 10)
        wait_for(lambda: clock.get_subscription_count() > 0, "the node to listen to the clock")
        clock.publish(Clock(clock=Time(sec=50)))
        wait_for(lambda: graph.node.get_clock().now().nanoseconds == 50 * SECOND, "the node's clock")
        graph.labels_of(gray_frame(2))
        graph.wait_status(DiagnosticStatus.WARN, "of the system's clock", "use_sim_time false")
        graph.labels_of(gray_frame(3), stamp_ns=49 * SECOND)
        graph.wait_status(DiagnosticStatus.OK, "segmenting")
    finally:
        graph.close()


def test_a_recording_times_only_what_can_be_timed(tmp_path: Path) -> None:
    labels = LabelSet(["road"], [(1, 2, 3)])
    Recorder.check(tmp_path)
    recorder = Recorder(tmp_path, labels, 15.0)
    now = Reading.of_system()
    for stamp in (now.system - SECOND // 2, now.system + HOUR, now.system - 2 * MAX_AGE_NS):
        recorder.add_labels(np.zeros((4, 4), np.uint8), stamp, now)
    assert recorder.latencies_ms == [500.0] and len(recorder.stamps) == 3
    report = make_report(recorder, 3, "cpu", "model")
    assert report["latency_ms"] == {"p50": 500.0, "p99": 500.0}
    recorder.latencies_ms.clear()
    assert make_report(recorder, 3, "cpu", "model")["latency_ms"] == {"p50": None, "p99": None}
    recorder.discard()
