"""The soak: its bounds find what they are there for, and the node keeps them for a minute."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from graph import wait_for
from soak.bounds import MIB, SLACK_S, Label, Record, excess_ages, judge, table
from soak.measure import Handles, Sample, handles, resident, slope, slope_error

ROOT = Path(__file__).resolve().parents[1]
# The soak itself by hand: scripts/soak.sh, half an hour.
SECONDS = os.environ.get("STMEM_SOAK_SECONDS", "60")
PERIOD = 16_666_667
INFERENCE = 6 * PERIOD
IMAGE = 230_400
START = 1_700_000_000_000_000_000


def samples(seconds: int, growth: float) -> list[Sample]:
    """Memory that grows by that many bytes a second, noisily."""
    noise = np.random.default_rng(0).normal(0, 2 * MIB, 2 * seconds)
    start = START * 1e-9
    return [Sample(start + 0.5 * k, 1, int(4e8 + growth * 0.5 * k + noise[k])) for k in range(2 * seconds)]


def labels(count: int = 400, behind: int = 1) -> tuple[list[Label], frozenset[int]]:
    """Ten labels a second of a camera of 60 Hz, each of the frame `behind` the newest one when the network was free."""
    published = [START + k * PERIOD for k in range(6 * (count + 20))]
    found = []
    for k in range(10, count + 10):
        free = START + k * INFERENCE
        found.append(Label(published[6 * k - behind], free + INFERENCE, 1))
    return found, frozenset(published)


def record(**changes: object) -> Record:
    found, published = labels()
    same = Handles(20, 18)
    good = Record(found, (), published, 60.0, IMAGE, samples(40, 0), same, same, {"reset": 3}, ())
    return dataclasses.replace(good, **changes)


def broken(found: Record) -> list[str]:
    return [row.name for row in judge(found) if row.broken]


def test_a_run_in_which_all_is_well_breaks_no_bound() -> None:
    assert broken(record()) == []
    assert "BROKEN" not in table(judge(record()))


SICK = {
    "an image leaks at each label": ({"steady": samples(40, 10 * IMAGE)}, "growth a label"),
    "ten MiB an hour leak for half an hour": (
        {"steady": samples(1800, 10 * MIB / 3600)},
        "growth an hour, over 1800 s",
    ),
    "the node keeps up": ({"rate": 13.0}, "labels a second"),
    "a thread is left": ({"end": Handles(21, 18)}, "threads"),
    "a file is left": ({"end": Handles(20, 19)}, "open files"),
    "frames wait in a queue": ({"labels": labels(behind=6)[0]}, "frames older than inference + period"),
    "a stamp nobody sent": (
        {"published": labels()[1] - {labels()[0][7].stamp_ns}},
        "labels with a stamp that no image had",
    ),
    "a label comes twice": ({"labels": sorted(labels()[0] * 2, key=lambda label: label.stamp_ns)}, "labels not newer"),
    "no labels": ({"labels": []}, "labels received"),
    "nothing was measured": ({"steady": []}, "memory MiB"),
    "something failed": ({"complaints": ("reset: no answer",)}, "complaints"),
}


@pytest.mark.parametrize("name", SICK)
def test_a_bound_finds_what_it_is_there_for(name: str) -> None:
    changes, bound = SICK[name]
    found = broken(record(**changes))
    assert any(row.startswith(bound) for row in found), found
    assert "BROKEN" in table(judge(record(**changes)))


def test_a_new_process_may_start_with_older_stamps() -> None:
    found, published = labels()
    again = [dataclasses.replace(label, life=2) for label in found[:100]]
    assert broken(record(labels=[*found[100:], *again], published=published)) == []
    assert broken(record(labels=[*found[100:], *found[:100]], published=published)) != []


def test_frames_that_came_before_the_node_had_found_the_camera_do_not_count() -> None:
    found, published = labels()
    late = dataclasses.replace(found[60], stamp_ns=found[60].stamp_ns - 4 * PERIOD)
    restarted = published - {stamp for stamp in published if late.stamp_ns - 10**9 < stamp < late.stamp_ns - 10**8}
    assert max(excess_ages([found[59], late], published)) > SLACK_S
    assert len(excess_ages([found[59], late], restarted)) == 0


def test_half_an_hour_of_noise_is_within_a_mebibyte_an_hour() -> None:
    assert broken(record(steady=samples(1800, 0))) == []


def test_growth_that_does_not_stand_out_of_the_noise_is_no_leak_and_one_that_does_is() -> None:
    steady = samples(1800, 0)
    # Up and down over some minutes, as memory that is used again: an hour and a half would tell.
    waves = [
        3 * MIB * np.sin(sample.time / 90) * np.random.default_rng(k // 400).normal() for k, sample in enumerate(steady)
    ]
    for growth, found in ((2, False), (20, True)):
        moved = [
            dataclasses.replace(sample, resident=int(sample.resident + wave + growth * MIB * place / len(steady) / 2))
            for place, (sample, wave) in enumerate(zip(steady, waves, strict=True))
        ]
        assert any(row.startswith("growth an hour") for row in broken(record(steady=moved))) == found


def test_memory_threads_and_files_are_those_of_the_process() -> None:
    before = handles(os.getpid())
    with (ROOT / "README.md").open():
        assert handles(os.getpid()).files == before.files + 1
    assert before.threads >= 1 and resident(os.getpid()) > 10 * MIB
    grown = samples(100, 3 * MIB)
    found = slope([sample.time for sample in grown], [sample.resident for sample in grown])
    assert found == pytest.approx(3 * MIB, rel=0.1)


def test_the_error_of_a_slope_is_how_far_it_is_off() -> None:
    """Also where samples that follow each other are alike."""
    generator = np.random.default_rng(0)
    times = np.arange(0, 900, 0.5)
    runs = [np.repeat(generator.normal(0, 1, 90), 20) + 0.01 * times for _ in range(200)]
    found = np.array([slope(times, run) for run in runs])
    errors = np.array([slope_error(times, run, 20) for run in runs])
    assert np.median(errors) == pytest.approx((found - 0.01).std(), rel=0.2)
    assert slope_error(times[:60], runs[0][:60], 20) == float("inf")


@pytest.fixture
def soak(tmp_path: Path, ros_domain: int) -> Callable[..., subprocess.Popen[str]]:
    """Starts a soak, which leaves its files in `tmp_path`."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")])

    def start(*options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "soak", *options],
            env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )

    return start


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    """Also where its parent has not asked for its exit code, it is over."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_what_a_soak_has_started_ends_with_it(
    soak: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = soak("--seconds", "600")
    started: list[int] = []
    try:
        wait_for(lambda: any(file.stat().st_size for file in tmp_path.rglob("*.stamps")), "the camera's first image")
        started = children(process.pid)
        assert len(started) == 2
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        wait_for(lambda: not any(runs(pid) for pid in started), "their end")
    finally:
        for pid in filter(runs, [process.pid, *started]):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert said == f"soak: stopped by {number.name} before the end, so nothing was measured\n"
        assert list(tmp_path.glob("soak*")) == []


def test_the_node_keeps_its_bounds_under_everything_that_a_graph_does_to_it(
    soak: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    figures = tmp_path / "soak.json"
    process = soak("--seconds", SECONDS, "--json", str(figures))
    said, errors = process.communicate()
    print(said)
    assert process.returncode == 0, f"{errors}\n{said}"
    document = json.loads(figures.read_text())
    assert document["complaints"] == [] and len(document["resident_bytes"]) >= 10
    assert int(document["figures"]["disturbances: kill node"]["value"]) == 1
