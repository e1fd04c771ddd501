"""What breaks around the node, and what is left: a row of docs/reliability.md each."""

from __future__ import annotations

import contextlib
import os
import re
import resource
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

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from graph import Graph, pixels, wait_for
from gray import gray_frame, own_graphs, save_gray
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue as Value
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT
from stmem_ros.node.messages import stamp_to_ns

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
SECONDS_TO_START = 90.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds gray.safetensors, and cut.safetensors, the first half of it."""
    folder = tmp_path_factory.mktemp("faults")
    with own_graphs(71):
        data = save_gray(folder / "gray.safetensors").read_bytes()
        (folder / "cut.safetensors").write_bytes(data[: len(data) // 2])
        yield folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Graph]:
    graph = Graph({"checkpoint": str(folder / "gray.safetensors"), "no_image_warning": 0.5})
    yield graph.start()
    graph.close()


@pytest.fixture
def graph(running: Graph, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    """The shared graph; whatever a test breaks is whole again before it is looked at once more."""
    yield running
    monkeypatch.undo()
    # Frames of the test may still be on their way.
    wait_for(lambda: label(running, 11) == 11, "the frame that was sent to be the one that is labelled")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a module of this package as a process; what still runs at the end is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start_process(log: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            command = [sys.executable, "-m", module, "--ros-args", *arguments]
            started.append(subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT))
        return started[-1]

    yield start_process
    for process in started:
        process.send_signal(signal.SIGINT)
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def label(graph: Graph, number: int) -> int:
    (found,) = np.unique(pixels(graph.labels_of(gray_frame(number)))).tolist()
    return found


def break_network(graph: Graph, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., Any], times: int = 1) -> None:
    """The next frames get `broken(logits)` in the place of their logits."""
    network, left = graph.node.model.engine.network, [times]
    predict = network.predict

    def instead(*arguments: Any) -> Any:
        logits = predict(*arguments)
        left[0] -= 1
        return broken(logits) if left[0] >= 0 else logits

    monkeypatch.setattr(network, "predict", instead)


def raising(error: Exception) -> Callable[..., Any]:
    def broken(_: Any) -> Any:
        raise error

    return broken


FAILURES = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: an illegal memory access\nwas encountered"),
    MemoryError(),
    KeyError("layer"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_frame_on_which_the_network_fails_is_counted_and_the_next_one_is_labelled(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    statistics, labels = graph.stream.statistics, len(graph.received["labels"])
    failures = statistics.rejected["failure"]
    label(graph, 1)
    break_network(graph, monkeypatch, raising(error))
    graph.send_image(gray_frame(2))
    wait_for(lambda: statistics.rejected["failure"] == failures + 1, "the failure to be counted")
    # The window of the frame that was lost is lost with it.
    wait_for(lambda: graph.stream.engine.state.newest is None, "the window to be forgotten")
    assert label(graph, 3) == 3
    assert len(graph.received["labels"]) == labels + 2
    said = graph.wait_message("cannot be segmented")
    assert "\n" not in said and "Traceback" not in said


def test_a_network_that_goes_on_failing_is_reported_while_the_node_lives(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_network(graph, monkeypatch, raising(torch.cuda.OutOfMemoryError("CUDA out of memory")), times=10**6)
    stop = threading.Event()

    def drive() -> None:
        while not stop.wait(0.05):
            graph.send_image(gray_frame(5))

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        wait_for(
            lambda: (
                (status := graph.status()) is not None
                and status.level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
                and "no labels left" in status.message
            ),
            "diagnostics that say that no labels leave",
        )
    finally:
        stop.set()
        thread.join()


def test_a_network_that_goes_on_failing_is_an_error_in_diagnostics(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_network(graph, monkeypatch, raising(torch.cuda.OutOfMemoryError("CUDA out of memory")), times=10**6)
    rejected = graph.stream.statistics.rejected
    for count in range(rejected["failure"] + 1, rejected["failure"] + 12):
        graph.send_image(gray_frame(5))
        wait_for(lambda count=count: rejected["failure"] == count, "the failure")
    graph.wait_status(DiagnosticStatus.ERROR, "the network failed on the last", "frames")


def test_a_frame_whose_logits_are_nan_is_not_labelled(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics, labels = graph.stream.statistics, len(graph.received["labels"])
    failures = statistics.rejected.total()
    break_network(graph, monkeypatch, lambda logits: logits * float("nan"))
    graph.send_image(gray_frame(2))
    wait_for(
        lambda: statistics.rejected.total() > failures or len(graph.received["labels"]) > labels, "the frame's end"
    )
    assert statistics.rejected.total() == failures + 1
    assert len(graph.received["labels"]) == labels


def test_a_checkpoint_that_is_cut_off_is_refused_while_the_node_runs_and_the_model_stays(
    graph: Graph, folder: Path
) -> None:
    cut, before = folder / "cut.safetensors", graph.node.model
    result = graph.set(checkpoint=str(cut))
    assert not result.successful and str(cut) in result.reason and "\n" not in result.reason
    assert graph.node.model is before and label(graph, 4) == 4


def test_a_checkpoint_that_is_cut_off_at_the_start_is_an_error_until_it_is_mended(folder: Path) -> None:
    graph = Graph({"checkpoint": str(folder / "cut.safetensors")})
    try:
        assert graph.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        graph.wait_message("cannot configure", "cut.safetensors", "damaged")
        graph.wait_status(DiagnosticStatus.ERROR, "cut.safetensors", title="node")
        assert graph.set(checkpoint=str(folder / "gray.safetensors")).successful
        assert label(graph.start(), 6) == 6
    finally:
        graph.close()


CHANGES = """
import os, shutil, sys
from pathlib import Path
from stmem_ros import checkpoint

path = Path(sys.argv[1])
other = path.with_name("other")
read = checkpoint._read_info

def cut_off():
    os.truncate(path, 100_000)

def overwrite():
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))

def grow():
    with path.open("ab") as file:
        file.write(bytes(1000))

def replace():
    os.replace(other, path)

for change in (cut_off, overwrite, grow, replace):
    shutil.copy(checkpoint.DEFAULT_CHECKPOINT, path)
    # Not of this moment: a clock of file systems ticks every few milliseconds.
    os.utime(path, (1, 1))
    other.write_bytes(b"no checkpoint")

    def then_change(*arguments):
        info = read(*arguments)
        change()
        return info

    checkpoint._read_info = then_change
    try:
        checkpoint.load_checkpoint(path)
        print("loaded")
    except checkpoint.CheckpointError as error:
        print(error)
"""


def test_a_checkpoint_that_is_overwritten_while_it_is_loaded_is_refused(tmp_path: Path) -> None:
    """A process of its own: where the file is mapped, it dies of SIGBUS."""
    path = tmp_path / "changing.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", CHANGES, str(path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    refused = f"{path} changed while it was read; load it again"
    # What takes the file's place leaves the one that is being read as it is.
    assert done.stdout.splitlines() == [refused, refused, refused, "loaded"]


def test_a_message_that_rclpy_cannot_handle_ends_nothing(folder: Path) -> None:
    graph = Graph({"checkpoint": str(folder / "gray.safetensors"), "use_sim_time": True})
    try:
        graph.start()
        clock = graph.tester.create_publisher(Clock, "/clock", 10)
        wait_for(lambda: clock.get_subscription_count() > 0, "the node to listen to the clock")
        clock.publish(Clock(clock=Time(sec=-1)))
        graph.wait_message("could not be handled, and is ignored", "Seconds value must not be negative")
        assert label(graph, 5) == 5
        client = graph.tester.create_client(SetParameters, f"{graph.namespace}/segmentation/set_parameters")
        assert client.wait_for_service(20)
        client.call_async(SetParameters.Request(parameters=[ParameterMessage(name="max_gap", value=Value(type=77))]))
        assert label(graph, 6) == 6
        assert graph.call("reset", Trigger).success
    finally:
        graph.close()


def test_a_camera_that_is_killed_is_missed_by_topic_and_its_successor_is_labelled(
    running: Graph, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    graph, drive = running, tmp_path / "drive"
    drive.mkdir()
    for number in (7, 8):
        cv2.imwrite(str(drive / f"{number}.png"), gray_frame(number))
    source = ["-r", f"image:={graph.namespace}/image", "-p", f"source:={drive}", "-p", "loop:=true", "-p", "rate:=20.0"]

    def labelled_from_now(count: int) -> bool:
        new = [message for message in graph.received["labels"] if stamp_to_ns(message.header.stamp) > now]
        assert {value for message in new for value in np.unique(pixels(message)).tolist()} <= {7, 8}
        return len(new) >= count

    for _ in range(2):
        now = time.time_ns()
        replay = start(tmp_path / "replay.log", "stmem_ros.node.replay_node", *source)
        wait_for(lambda: labelled_from_now(5), "labels of the replay")
        graph.wait_status(DiagnosticStatus.WARN, "publishers")
        replay.kill()
        replay.wait()
        assert replay.returncode == -signal.SIGKILL
        graph.wait_status(DiagnosticStatus.WARN, "no image for", f"{graph.namespace}/image")
    # The test's own camera was there all along.
    assert label(graph, 9) == 9


class Supervisor(threading.Thread):
    """Starts a process again whenever it ends, as `respawn` of a launch file does; ROS 2's launch is not needed."""

    def __init__(self, start_process: Callable[[], subprocess.Popen[bytes]]) -> None:
        super().__init__(name="supervisor")
        self._start_process, self._stop_asked = start_process, threading.Event()
        self.lives = [start_process()]
        self.start()

    def run(self) -> None:
        while not self._stop_asked.wait(0.1):
            if self.lives[-1].poll() is not None:
                self.lives.append(self._start_process())

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def test_a_node_that_is_killed_is_back_under_respawn_and_its_subscribers_need_do_nothing(
    folder: Path, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    consumer = rclpy.create_node("consumer", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(consumer)
    stamps: list[int] = []
    consumer.create_subscription(
        Image, "/respawned/labels", lambda message: stamps.append(stamp_to_ns(message.header.stamp)), 10
    )
    camera = consumer.create_publisher(Image, "/respawned/image", QoSProfile(depth=5))
    message = Image(height=72, width=96, encoding="rgb8", step=96 * 3)
    message.data.frombytes(gray_frame(20).tobytes())

    def drive_until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}: {log.read_text()}"
            message.header.stamp = consumer.get_clock().now().to_msg()
            camera.publish(message)
            executor.spin_once(timeout_sec=0.05)

    log = tmp_path / "node.log"
    arguments = ["-r", "__ns:=/respawned", "-p", f"checkpoint:={DEFAULT_CHECKPOINT}", "-p", "short_side:=64"]
    supervisor = Supervisor(lambda: start(log, "stmem_ros.node.segmentation_node", *arguments))
    try:
        drive_until(lambda: len(stamps) >= 3, "the first labels")
        killed = time.time_ns()
        supervisor.lives[0].kill()
        supervisor.lives[0].wait()
        drive_until(lambda: sum(stamp > killed + 10**9 for stamp in stamps) >= 3, "labels of the next process")
        assert supervisor.lives[0].returncode == -signal.SIGKILL and len(supervisor.lives) == 2
        assert stamps == sorted(set(stamps)), "a frame was labelled twice, or an old one after a newer one"
    finally:
        supervisor.stop()
        executor.shutdown()
        consumer.destroy_node()
        context.try_shutdown()


# Bytes that a file may have once the demo records: of noise the video soon has more than either, and no label image
# more than the larger.
@pytest.mark.parametrize(
    ("room", "reason"), [(50_000, "disk is full"), (50, "File too large")], ids=["video", "labels"]
)
def test_a_full_disk_ends_a_recording_with_one_line_and_leaves_no_half_file(
    tmp_path: Path, ros_domain: int, room: int, reason: str
) -> None:
    """A limit on a file's size stands for the disk."""
    drive, output = tmp_path / "drive", tmp_path / "out"
    drive.mkdir()
    noise = np.random.default_rng(0)
    for number in range(60):
        cv2.imwrite(str(drive / f"{number:02}.png"), noise.integers(0, 256, (240, 320, 3), np.uint8))
    command = [sys.executable, "-m", "stmem_ros.node.demo", "--source", str(drive), "--output", str(output)]
    demo = subprocess.Popen(
        [*command, "--rate", "15", "--short-side", "64"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while len(list(output.glob("labels/*.png"))) < 3:
            assert time.monotonic() < deadline and demo.poll() is None, "the demo wrote no three labels"
            time.sleep(0.01)
        resource.prlimit(demo.pid, resource.RLIMIT_FSIZE, (room, room))
        said = demo.communicate(timeout=SECONDS_TO_START)[1]
        with pytest.raises(ProcessLookupError):
            # Nobody is left of its process group.
            os.killpg(demo.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(demo.pid, signal.SIGKILL)
        demo.communicate()
    assert demo.returncode == 1, said
    assert said.startswith("demo: ") and said.count("\n") == 1
    assert str(output) in said and reason in said
    left = sorted(path for path in output.rglob("*") if path.is_file())
    assert len(left) >= 3 and all(path.parent.name == "labels" and path.suffix == ".png" for path in left)
    for path in left:
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (240, 320)


def rows() -> list[list[str]]:
    """The cells of the table of faults."""
    table = PAGE.read_text().partition("## Faults")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-| ") and row[0] != "what happens"]


def test_every_row_of_the_page_names_a_test_that_exists() -> None:
    found = rows()
    assert len(found) >= 10 and all(len(row) == 4 for row in found)
    for row in found:
        names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[3])
        assert names, f"no test in the row {row[0]!r}"
        for file, name in names:
            assert f"def {name}(" in (ROOT / "test" / file).read_text(), f"{file} has no {name}"


def test_every_fault_that_is_tested_here_has_its_row() -> None:
    here = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE))
    here -= {"test_every_row_of_the_page_names_a_test_that_exists", "test_every_fault_that_is_tested_here_has_its_row"}
    page = PAGE.read_text()
    assert [name for name in sorted(here) if f"`{Path(__file__).name}::{name}`" not in page] == []
