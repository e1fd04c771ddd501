"""What the node counts, and what it concludes from it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from stmem_ros.node.statistics import Complaints, FrameTimes, Persistent, Statistics


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def with_stamps(stamps: np.ndarray) -> Statistics:
    statistics = Statistics()
    for stamp in stamps:
        statistics.arrived(float(stamp))
    return statistics


def test_a_camera_that_loses_a_third_of_its_frames_is_seen() -> None:
    kept = np.random.default_rng(0).random(90) > 1 / 3
    assert with_stamps(np.arange(90)[kept] / 15).lost_share() == pytest.approx(1 / 3, abs=0.12)


def test_after_a_pause_rates_and_latencies_begin_anew_and_counts_go_on() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for _ in range(10):
        clock.now += 1
        statistics.arrived(clock.now)
        statistics.labels_published(FrameTimes(0, 0, 0, 0, latency=3.0))
    clock.now += 3600
    statistics.begin()
    assert (statistics.seconds_unlabelled(), statistics.seconds_since_image()) == (0.0, None)
    assert statistics.latency_p99() == statistics.lost_share() == 0
    clock.now += 1
    statistics.labels_published(FrameTimes(0, 0, 0, 0, latency=0.5))
    assert statistics.latency_p99() == 0.5
    assert statistics.labels_per_second() == 1
    assert statistics.labelled == 11


def test_images_are_unlabelled_from_the_first_one_without_labels_on() -> None:
    clock = Clock()
    statistics = Statistics(clock)
    clock.now += 60
    assert statistics.seconds_unlabelled() == 0
    for _ in range(3):
        statistics.arrived(clock.now)
        clock.now += 2
    assert statistics.seconds_unlabelled() == 6
    statistics.labels_published(FrameTimes(0, 0, 0, 0, latency=0.5))
    # The camera pauses: whoever sends nothing cannot be labelled.
    clock.now += 3600
    assert statistics.seconds_unlabelled() == 0
    statistics.arrived(clock.now)
    clock.now += 1
    assert statistics.seconds_unlabelled() == 1
    statistics.remembered()
    assert statistics.seconds_unlabelled() == 0


NOTHING_LOST = {
    "steady": np.arange(80) / 30,
    "jittery": (np.arange(80) + np.random.default_rng(1).normal(0, 0.15, 80)) / 30,
    "a pause": np.concatenate([np.arange(40) / 30, 20 + np.arange(40) / 30]),
    "too few": np.arange(5) * 1.7,
    "unset stamps": np.zeros(80),
}


@pytest.mark.parametrize("name", NOTHING_LOST)
def test_a_camera_that_loses_nothing_is_not_accused(name: str) -> None:
    assert with_stamps(NOTHING_LOST[name]).lost_share() <= 0.1


def test_what_passes_by_itself_is_not_reported() -> None:
    persistent = Persistent(3)
    assert [persistent(held) for held in (True, True, False, True, True, True, True)] == [False] * 5 + [True] * 2


@pytest.mark.parametrize("rate", [2, 30, 200])
def test_rates_are_those_of_the_last_seconds(rate: int) -> None:
    clock = Clock()
    statistics = Statistics(clock)
    for index in range(8 * rate):
        statistics.arrived(index / rate)
        clock.now += 1 / rate
    assert float(statistics.summary()["images per second"]) == pytest.approx(rate, rel=0.12)


def test_overhead_is_decoding_and_publishing() -> None:
    statistics = Statistics()
    statistics.labels_published(FrameTimes(wait=0.5, decode=0.001, network=0.08, publish=0.002, latency=0.6))
    summary = statistics.summary()
    assert summary["node overhead p50 ms"] == "3.00"
    assert summary["latency p50 ms"] == "600.0"


def test_an_error_is_said_as_an_error() -> None:
    warned: list[str] = []
    failed: list[str] = []
    complain = Complaints(warned.append, failed.append)
    complain("no image", "no image")
    complain.error("stalled", "the camera is stalled")
    assert (warned, failed) == (["no image"], ["the camera is stalled"])


def test_a_complaint_is_said_at_once_then_rarely_and_with_how_often_it_came() -> None:
    clock, said = Clock(), []
    complain = Complaints(said.append, period=10.0, clock=clock)
    for _ in range(4):
        complain("step", "bad step")
    complain("size", "bad size")
    assert said == ["bad step", "bad size"]
    clock.now += 11
    complain("step", "bad step")
    assert said[-1] == "bad step (3 more like it since)"
