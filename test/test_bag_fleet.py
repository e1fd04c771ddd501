"""Hundreds of bags as one run: nothing lost, nothing done twice, whatever dies on the way."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from fleet_worker import Worker, vanish

from stmem_ros.bag.fleet.find import find_bags
from stmem_ros.bag.fleet.journal import Journal
from stmem_ros.bag.fleet.ray_workers import cluster_address, import_ray
from stmem_ros.bag.fleet.run import FleetResult, Job, run_fleet, worker_count
from stmem_ros.bag.fleet.workers import Event, attempt
from stmem_ros.bag.io.errors import BagError

ROOT = Path(__file__).resolve().parents[1]
PLACES = f"{ROOT}{os.pathsep}{ROOT / 'test'}"
DEADLINE_S = 60.0


def bags_in(folder: Path, *names: str) -> list[Path]:
    """Files by these names, each a byte larger than the one before."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.mcap" for name in names]
    for size, path in enumerate(paths):
        path.write_bytes(b"x" * (size + 1))
    return paths


def tries(bag: Path) -> int:
    file = bag.with_name(f"{bag.name}.tries")
    return file.read_text().count("\n") if file.exists() else 0


def run(bags: list[Path], workers: str | int, **options: Any) -> FleetResult:
    return run_fleet(Worker(), [Job(bag) for bag in bags], workers, **options)


def names(result: FleetResult) -> list[str | None]:
    return [each and each[0] for each in result.results]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster of two workers that stands before the runs, as `ray start` leaves one; its address."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray")
    ray = import_ray()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as folder:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", PLACES)
        context = ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
        )
        patch.setenv("RAY_ADDRESS", context.address_info["gcs_address"])
        try:
            yield context.address_info["gcs_address"]
        finally:
            ray.shutdown()


@pytest.fixture(params=["1", "2", "ray"])
def workers(request: pytest.FixtureRequest) -> str:
    """One of the three places where bags are done."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return request.param


@pytest.mark.parametrize("workers", ["1", "2"], indirect=True)
def test_results_come_in_the_order_of_the_jobs_and_a_bag_that_fails_does_not_stop_the_rest(
    tmp_path: Path, workers: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bags = bags_in(tmp_path, "a", "b_bad", "c", "d_broken", "e", "f")
    missing = tmp_path / "missing.mcap"
    result = run([*bags, missing], workers)
    assert names(result) == ["a.mcap", None, "c.mcap", None, "e.mcap", "f.mcap", None]
    assert [failure.bag for failure in result.failures] == [bags[1], bags[3], missing]
    reasons = [failure.reason for failure in result.failures]
    assert reasons[0] == "it is cut off"
    assert reasons[1].startswith(r"KeyError: 'a\nb' (fleet_worker.py:")
    assert reasons[2] == "it cannot be read: No such file or directory"
    assert [tries(bag) for bag in bags] == [1] * 6
    error = capfd.readouterr().err
    assert f"failed: {bags[1]}: it is cut off\n" in error and "Traceback" not in error
    loaded = {(each[1], each[2]) for each in result.results if each}
    assert all(first == last for first, last in loaded), "what a worker has loaded stays for its next bags"
    assert (os.getpid() in dict(loaded)) == (workers == "1")


class InstantWorkers:
    """Two workers of which the first is long busy with its first bag; `given` has who was given which, in order."""

    waiting_for = "nothing"
    given: ClassVar[list[tuple[int, str]]] = []

    def __init__(self, function: Worker, count: int) -> None:
        self.count = count
        self._function = function
        self._events: list[Event] = []
        self._started = 0

    def start(self) -> None:
        self._events.append(Event(self._started, "ready"))
        self._started += 1

    def give(self, worker: int, bag: Path, settings: Any) -> None:
        self.given.append((worker, bag.stem))
        self._events.append(Event(worker, "done", attempt(self._function, bag, settings)))

    def wait(self, _: float) -> list[Event]:
        busy = [event for event in self._events if event.worker == 0 and event.kind == "done" and len(self.given) < 4]
        events, self._events = [event for event in self._events if event not in busy], busy
        return events

    def stop(self) -> None:
        pass


def test_the_largest_bags_are_begun_first_and_an_idle_worker_takes_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stmem_ros.bag.fleet.run.LocalWorkers", InstantWorkers)
    monkeypatch.setattr(InstantWorkers, "given", [])
    bags = bags_in(tmp_path, *"abcde")
    assert names(run(bags, "2")) == [bag.name for bag in bags]
    assert [name for _, name in InstantWorkers.given] == list("edcba")
    assert [worker for worker, _ in InstantWorkers.given][:4] == [1, 0, 1, 1], "while one is busy the other goes on"


@pytest.mark.parametrize("workers", ["2", "ray"], indirect=True)
def test_a_killed_worker_loses_nothing_and_nothing_is_counted_twice(
    tmp_path: Path, workers: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bags = bags_in(tmp_path, *"abcd", "e_dies", "f_deadly", "g_bad", "h")
    result = run(bags, workers, retries=1, journal=tmp_path / "out.partial")
    assert names(result) == [*(bag.name for bag in bags[:5]), None, None, "h.mcap"]
    assert [failure.bag for failure in result.failures] == bags[5:7]
    assert result.failures[0].reason.startswith("its worker died 2 times, the last time: ")
    assert result.failures[1].reason == "it is cut off"
    assert [tries(bag) for bag in bags] == [1, 1, 1, 1, 2, 2, 1, 1]
    assert all(each[1] == each[2] for each in result.results if each), "what a worker has loaded stays with it"
    assert len(list((tmp_path / "out.partial").iterdir())) == 6
    shown = capfd.readouterr()
    assert f"{bags[4]} is begun anew: its worker died" in shown.err
    assert shown.err.count("\n") == 4 and not shown.out, "a line for each death and failure, and no more"


def test_the_same_command_goes_on_where_a_run_ended(tmp_path: Path) -> None:
    journal = tmp_path / "out.partial"
    bags = bags_in(tmp_path / "bags", "a", "b_bad", "c")
    first = run(bags, 1, journal=journal)
    bags += bags_in(tmp_path / "more", "d")
    bags[2].write_bytes(b"another recording")
    second = run(bags, 1, journal=journal)
    assert [first.resumed, second.resumed] == [0, 1]
    assert names(second) == ["a.mcap", None, "c.mcap", "d.mcap"]
    assert [tries(bag) for bag in bags] == [1, 2, 2, 1], "what failed or has changed is done again, the rest is not"
    second.forget()
    assert not journal.exists()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"identity": "another checkpoint"}, id="another checkpoint"),
        pytest.param({"settings": {"short_side": 240, "out": Path("a")}}, id="other settings"),
    ],
)
def test_results_of_other_settings_are_not_taken_for_these(tmp_path: Path, change: dict[str, Any]) -> None:
    (bag,) = bags_in(tmp_path, "a")
    for each in ({}, change, change):
        job = Job(bag, each.get("settings", {"short_side": 360, "out": Path("a")}))
        run_fleet(Worker(), [job], journal=tmp_path / "j", identity=each.get("identity", ""))
    assert tries(bag) == 2


def test_a_damaged_journal_costs_time_and_nothing_else(tmp_path: Path) -> None:
    (bag,) = bags_in(tmp_path, "a")
    run([bag], 1, journal=tmp_path / "j")
    for file in (tmp_path / "j").iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    assert names(run([bag], 1, journal=tmp_path / "j")) == ["a.mcap"]
    assert names(run([bag], 1, journal=tmp_path / "j")) == ["a.mcap"]
    assert tries(bag) == 2


def test_a_pickle_in_a_journal_is_not_run(tmp_path: Path) -> None:
    (bag,) = bags_in(tmp_path, "a")
    witness = tmp_path / "it_ran"

    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(witness),)

    run([bag], 1, journal=tmp_path / "j")
    for file in (tmp_path / "j").iterdir():
        file.write_bytes(pickle.dumps(Payload()))
    assert names(run([bag], 1, journal=tmp_path / "j")) == ["a.mcap"] and tries(bag) == 2
    assert not witness.exists()


@dataclasses.dataclass(frozen=True)
class Drive:
    name: str
    parts: tuple[Drive, ...] = ()
    counts: np.ndarray | None = None


RESULTS = {
    "json": [None, True, 3, 0.1, "a\nb", [1, [2]], {"a": {"b": 1}}],
    "tuples": (1, ("a", [(2.5,)]), ()),
    "bytes": (b"", bytes(range(256))),
    "kind": {"kind": "tuple", "items": [1]},
    "dataclasses": Drive("a", (Drive("b"), Drive("c", (Drive("d"),)))),
    "large": 2**63 + 1,
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_in_a_journal_is_what_it_was(tmp_path: Path, name: str) -> None:
    journal = Journal(tmp_path, (Drive,))
    journal.write("key", RESULTS[name])
    found, result = journal.read("key")
    assert found and result == RESULTS[name] and type(result) is type(RESULTS[name])


@pytest.mark.parametrize("dtype", ["int64", "float64", "float32", "uint8", "bool", ">i4"])
def test_arrays_in_a_journal_are_what_they_were(tmp_path: Path, dtype: str) -> None:
    values = (np.arange(24).reshape(2, 3, 4) - 3).astype(dtype)
    journal = Journal(tmp_path, (Drive,))
    for array in (values, values.transpose(2, 0, 1), values[:0]):
        journal.write("key", Drive("a", counts=array))
        result = journal.read("key")[1].counts
        np.testing.assert_array_equal(result, array)
        assert result.dtype == array.dtype and result.shape == array.shape and result.flags.writeable


@pytest.mark.parametrize("result", [object(), {1: 2}, {1, 2}, np.array([object()]), Drive("a", (Path("b"),))])
def test_a_result_that_is_no_plain_data_is_not_written(tmp_path: Path, result: Any) -> None:
    with pytest.raises(TypeError, match="no plain data"):
        Journal(tmp_path / "j", (Drive,)).write("key", result)
    with pytest.raises(TypeError, match="no plain data"):
        Journal(tmp_path / "j").write("key", Drive("a"))
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b'{"kind": "os.mkdir", "items": {"path": "x"}}',
        b'{"kind": "array", "dtype": "O", "shape": [1], "base64": "AAAAAAAAAAA="}',
        b'{"kind": "array", "dtype": "<f8", "shape": [1000000000], "base64": ""}',
        b'{"kind": "test_bag_fleet.Drive", "items": {"title": "a"}}',
        b"[" * 100_000,
    ],
)
def test_a_journal_that_says_something_else_has_no_result(tmp_path: Path, text: bytes) -> None:
    journal = Journal(tmp_path, (Drive,))
    journal.write("key", Drive("a"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(text)
    assert journal.read("key") == (False, None)


def test_a_bag_that_is_listed_twice_is_an_error(tmp_path: Path) -> None:
    (bag,) = bags_in(tmp_path, "a")
    with pytest.raises(BagError, match=r"a\.mcap is listed twice"):
        run([bag, tmp_path / "." / "a.mcap"], 1)
    assert tries(bag) == 0


@pytest.mark.parametrize("workers", ["2", "ray"], indirect=True)
def test_workers_that_cannot_start_are_one_line(tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_it(what: object) -> bytes:
        return pickle.dumps(what).replace(b"vanish", b"absent")

    for module in ("workers", "ray_workers"):
        monkeypatch.setattr(
            f"stmem_ros.bag.fleet.{module}.pickle", SimpleNamespace(dumps=without_it, loads=pickle.loads)
        )
    (bag,) = bags_in(tmp_path, "a")
    with pytest.raises(BagError, match=r"no worker can be started: .*absent") as caught:
        run_fleet(vanish, [Job(bag)], workers, retries=0)
    assert "\n" not in str(caught.value)


DRIVER = """
import signal
import sys
from pathlib import Path
from stmem_ros.bag.fleet.run import Job, run_fleet
from fleet_worker import Worker

if __name__ == "__main__":
    # Ctrl-C, also where the tests were started in the background of a shell, which ignores it there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bags = sorted(Path(sys.argv[1]).glob("*.mcap"))
    try:
        result = run_fleet(Worker(), [Job(bag) for bag in bags], sys.argv[2], journal=Path(sys.argv[1], "out.partial"))
    except KeyboardInterrupt as stop:
        print(stop)
        sys.exit(130)
    print(result.resumed, [each[0] for each in result.results])
"""


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a run over `tmp_path`, in a session of its own as a terminal has it."""
    (tmp_path / "driver.py").write_text(DRIVER)
    started: list[subprocess.Popen[str]] = []

    def start(workers: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": PLACES, "CUDA_VISIBLE_DEVICES": ""}
        started.append(
            subprocess.Popen(
                [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), workers],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def begun(bag: Path) -> list[int]:
    """The processes that have begun with a bag."""
    file = bag.with_name(f"{bag.name}.tries")
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("workers", ["2", "ray"], indirect=True)
def test_ctrl_c_is_one_line_leaves_no_process_and_the_same_command_goes_on(
    tmp_path: Path, workers: str, drive: Callable[[str], subprocess.Popen[str]]
) -> None:
    # The largest is done first, and while one is slow the other worker does the rest.
    quick, slow = bags_in(tmp_path, "a_quick", "b_slow")
    driver = drive(workers)
    journal = tmp_path / "out.partial"
    wait_until(lambda: (begun(slow) and list(journal.glob("[!.]*"))) or driver.poll() is not None, "one of two bags")
    os.killpg(driver.pid, signal.SIGINT)
    out, error = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 130, error
    # It may be stopped just before it counts the one whose result it has written.
    assert re.fullmatch("[01] of 2 bags are done; the same command goes on with the rest\n", out)
    assert "Traceback" not in error
    wait_until(lambda: not any(map(is_running, begun(slow) + begun(quick))), "the workers to end")
    slow.rename(tmp_path / "c.mcap")
    result = run([quick, tmp_path / "c.mcap"], "1", journal=journal)
    assert (result.resumed, names(result)) == (1, ["a_quick.mcap", "c.mcap"])


@pytest.mark.parametrize("workers", ["2"], indirect=True)
def test_a_killed_driver_takes_its_workers_along(
    tmp_path: Path, workers: str, drive: Callable[[str], subprocess.Popen[str]]
) -> None:
    bags = bags_in(tmp_path, "a_slow", "b_slow")
    driver = drive(workers)
    wait_until(lambda: all(map(begun, bags)) or driver.poll() is not None, "both workers to begin")
    driver.kill()
    _, error = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == -signal.SIGKILL, error
    wait_until(lambda: not any(is_running(pid) for bag in bags for pid in begun(bag)), "the workers to end")


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray")
    code = (
        "import sys, pathlib\nfrom stmem_ros.bag.fleet.run import *\n"
        "try: run_fleet(print, [Job(pathlib.Path(sys.argv[1]))], 'ray')\nexcept BagError as error: print(error)"
    )
    (bag,) = bags_in(tmp_path, "a")
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9", "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", code, str(bag)], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("the Ray cluster at 127.0.0.1:9 (RAY_ADDRESS) cannot be used: ")
    assert done.stdout.count("\n") == 1


def test_the_cluster_is_the_one_that_is_named_or_was_started_and_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster_address() == "local"
    started = tmp_path / "ray" / "ray_current_cluster"
    started.parent.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        started.write_text(address)
        assert cluster_address() == address
        monkeypatch.setenv("RAY_ADDRESS", f"ray://{address}")
        assert cluster_address() == f"ray://{address}"
        monkeypatch.delenv("RAY_ADDRESS")
    assert cluster_address() == "local", "it was killed, and its address is still there"


def test_without_ray_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BagError, match="pip install ray"):
        run(bags_in(tmp_path, "a"), "ray")


@pytest.mark.parametrize("text", ["1", "16", "ray", "ray:4"])
def test_workers_that_can_be_asked_for(text: str) -> None:
    assert worker_count(text) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "2.5", "ray:", "ray:0", "ray4", "rays", "99999"])
def test_workers_that_cannot_be_asked_for(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number from 1 to 1024, ray, or ray:N"):
        worker_count(text)


def test_bags_below_a_folder_are_found_each_once_and_in_order(tmp_path: Path) -> None:
    for name in (
        "drive_10/metadata.yaml",
        "drive_10/drive_10_0.mcap",
        "drive_10/drive_10_1.mcap",
        "drive_2/metadata.yaml",
        "drive_2/any_name.db3",
        "no_metadata/no_metadata_1.db3",
        "no_metadata/no_metadata_2.db3",
        "renamed/before_0.mcap.zstd",
        "renamed/before_1.mcap.zstd",
        "several/morning.mcap",
        "several/evening.mcap",
        "several/old/ros1_0.bag",
        "several/old/ros1_1.bag",
        "numbered/drive_3.mcap",
        "numbered/drive_7.mcap",
        ".hidden/hidden_0.mcap",
        "unfinished/unfinished.json",
        "unfinished/unfinished_0.mcap",
        "notes/notes.txt",
        "single.mcap",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [bag.relative_to(tmp_path).as_posix() for bag in find_bags(tmp_path)]
    assert found == [
        "drive_2",
        "drive_10",
        "no_metadata",
        "numbered/drive_3.mcap",
        "numbered/drive_7.mcap",
        "renamed",
        "several/evening.mcap",
        "several/morning.mcap",
        "several/old/ros1_0.bag",
        "several/old/ros1_1.bag",
        "single.mcap",
    ]
    for bag in ("drive_10", "single.mcap"):
        assert find_bags(tmp_path / bag) == [tmp_path / bag]


@pytest.mark.parametrize(
    ("name", "reason"), [("notes.txt", "holds no bag"), ("none", "does not exist"), ("", "holds no")]
)
def test_no_bag_is_one_line(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BagError, match=reason):
        find_bags(tmp_path / name)
