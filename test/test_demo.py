"""The nodes as processes: the demo's output, a real drive against the offline engine, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from graph import pixels  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, read_info  # noqa: E402
from stmem_ros.node import demo  # noqa: E402
from stmem_ros.node.messages import stamp_to_ns  # noqa: E402
from stmem_ros.node.outputs import QOS  # noqa: E402
from stmem_ros.node.transport import large_data_environment  # noqa: E402
from stmem_ros.streaming import StreamConfig, StreamingSegmenter  # noqa: E402

DEADLINE_S = 90.0
LARGE_DATA = str(Path(__file__).resolve().parents[1] / "config" / "large_data.xml")


class Process:
    """A node as a user starts it; its output goes to a file."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.popen = subprocess.Popen([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_output(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.output:
            assert time.monotonic() < deadline and self.popen.poll() is None, self.output
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path, ros_domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start_process(node: str, *arguments: str, command: list[str] | None = None) -> Process:
        command = [*(command or ["-m", f"stmem_ros.node.{node}"]), "--ros-args", *arguments]
        started.append(Process(command, tmp_path / f"{len(started)}.log"))
        return started[-1]

    start_process.started = started  # type: ignore[attr-defined]
    yield start_process
    # Asked to end before they are killed: a killed process leaves its shared memory and connections to the next test.
    for process in started:
        process.popen.send_signal(signal.SIGINT)
    for process in started:
        try:
            process.popen.wait(20)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()


class Consumer:
    """Subscribes to labels and diagnostics of a node under /segmentation, one of `processes`."""

    def __init__(self, processes: list[Process]) -> None:
        self._processes = processes
        self.labels: list[Image] = []
        self.values: dict[str, str] = {}
        self.reports = 0
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("consumer", context=self._context)
        self.subscription = self._node.create_subscription(Image, "/segmentation/labels", self.labels.append, QOS)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        (status,) = (status for status in message.status if status.name.endswith(": stream"))
        self.values = {pair.key: pair.value for pair in status.values}
        self.reports += 1

    def received(self) -> int:
        """Frames that the node says it received by now."""
        reports = self.reports
        # One may be on its way.
        self.spin_until(lambda: self.reports >= reports + 2, "diagnostics")
        return int(self.values["frames received"])

    def spin_until(self, condition: Callable[[], bool], what: str, seconds: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}; {self._report()}"
            self._executor.spin_once(timeout_sec=0.05)

    def _report(self) -> str:
        ends = [f"exit code {process.popen.poll()}, output:\n{process.output}" for process in self._processes]
        return f"diagnostics: {self.values}\n" + "\n".join(ends)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def consumer(start: Callable[..., Process]) -> Iterator[Consumer]:
    made = Consumer(start.started)  # type: ignore[attr-defined]
    yield made
    made.close()


def test_the_demo_leaves_everything_it_promises(
    tmp_path: Path, ros_domain: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "drive", tmp_path / "out"
    source.mkdir()
    for number in range(12):
        cv2.imwrite(str(source / f"{number:03}.png"), np.full((96, 128, 3), 20 * number, np.uint8))
    assert demo.main(["--source", str(source), "--output", str(output), "--rate", "6"]) == 0
    report = json.loads((output / "report.json").read_text())
    assert report["frames_in"] == 12
    assert report["frames_labelled"] + report["frames_dropped"] == 12
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert Path(report["checkpoint"]).name == DEFAULT_CHECKPOINT.name
    labels = sorted((output / "labels").glob("*.png"))
    assert len(labels) == report["frames_labelled"] > 0
    image = cv2.imread(str(labels[0]), cv2.IMREAD_UNCHANGED)
    assert image.shape == (96, 128) and image.max() < len(read_info(DEFAULT_CHECKPOINT).labels)
    assert cv2.imread(str(output / "contact_sheet.png")) is not None
    video = cv2.VideoCapture(str(output / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 128 and video.read()[0]
    assert "frames dropped" in capsys.readouterr().out


def test_the_demo_never_deletes_what_it_did_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((96, 128, 3), np.uint8))
    mine = tmp_path / "out" / "labels" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    assert demo.main(["--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "mine.png" in capsys.readouterr().err
    assert mine.read_text() == "precious"


def test_an_output_that_cannot_be_a_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((96, 128, 3), np.uint8))
    (tmp_path / "file").touch()
    assert demo.main(["--source", str(tmp_path), "--output", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error and error.count("\n") == 1


@pytest.mark.parametrize("rate", ["-3", "nan", "fast"])
def test_an_impossible_rate_is_refused_at_once(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo.main(["--rate", rate])
    assert "--rate" in capsys.readouterr().err


def test_the_demo_says_at_once_why_the_node_cannot_run(
    tmp_path: Path, ros_domain: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((96, 128, 3), np.uint8))
    assert demo.main(["--source", str(tmp_path), "--output", str(tmp_path / "out"), "--device", "toaster"]) == 1
    error = capsys.readouterr().err
    assert "cannot configure: device is 'toaster'" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--source", "/nowhere/drive.mp4"], "/nowhere/drive.mp4"),
        (["--source", "0", "--checkpoint", "/nowhere/model.safetensors"], "/nowhere/model.safetensors does not exist"),
    ],
)
def test_the_demo_explains_in_one_line_what_it_cannot_use(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_real_drive_through_dds_is_labelled_as_the_offline_engine_does(
    shared: Path, tmp_path: Path, start: Callable[..., Process], consumer: Consumer
) -> None:
    frames = sorted((shared / "camvid" / "val").iterdir())[:40]
    bag = tmp_path / "val"
    stamps = make_bag(bag, frames, rate=15)
    start("segmentation_node", "-r", "__ns:=/segmentation", "-p", "short_side:=240")
    consumer.spin_until(lambda: consumer.subscription.get_publisher_count() > 0, "the node")
    replay = start("replay_node", "-r", "image:=/segmentation/image", "-p", f"source:={bag}", "-p", "stamps:=source")
    consumer.spin_until(lambda: replay.popen.poll() is not None, "the replay to end")
    last = max(stamps)
    consumer.spin_until(lambda: any(stamp_to_ns(m.header.stamp) == last for m in consumer.labels), "the last frame")
    assert replay.popen.returncode == 0
    assert len(consumer.labels) >= 5
    engine = StreamingSegmenter.from_checkpoint(DEFAULT_CHECKPOINT, StreamConfig(short_side=240))
    for message in consumer.labels:
        stamp = stamp_to_ns(message.header.stamp)
        image = cv2.cvtColor(cv2.imread(str(stamps[stamp])), cv2.COLOR_BGR2RGB)
        expected = engine.step(image, stamp, "camera")
        assert expected is not None
        np.testing.assert_array_equal(pixels(message), expected.labels)


def make_bag(path: Path, frames: list[Path], rate: float) -> dict[int, Path]:
    """A rosbag2 of lossless frames; which stamp is which file."""
    types = get_typestore(Stores.ROS2_JAZZY)
    kind, header = types.types["sensor_msgs/msg/CompressedImage"], types.types["std_msgs/msg/Header"]
    time_type = types.types["builtin_interfaces/msg/Time"]
    stamps = {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/compressed", kind.__msgtype__, typestore=types)
        for index, frame in enumerate(frames):
            stamp = 1_700_000_000_000_000_000 + round(index * 1e9 / rate)
            stamps[stamp] = frame
            message = kind(
                header=header(stamp=time_type(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera"),
                format="webp",
                data=np.fromfile(frame, np.uint8),
            )
            writer.write(connection, stamp, types.serialize_cdr(message, kind.__msgtype__))
    return stamps


def test_no_best_effort_frame_of_960x720_at_15_hz_is_lost_with_large_data_and_who_is_without_it_sees_all(
    tmp_path: Path, start: Callable[..., Process], consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "drive"
    source.mkdir()
    random = np.random.default_rng(0)
    for number in range(75):
        small = random.integers(0, 256, (18, 24, 3), np.uint8)
        cv2.imwrite(str(source / f"{number:03}.png"), cv2.resize(small, (960, 720), interpolation=cv2.INTER_NEAREST))
    start("segmentation_node", "-r", "__ns:=/segmentation")
    consumer.spin_until(lambda: consumer.subscription.get_publisher_count() > 0, "the node")
    # The camera alone has the setting: the node, and this process, do without.
    for name, value in large_data_environment({}, LARGE_DATA).items():
        monkeypatch.setenv(name, value)
    camera = ["-r", "image:=/segmentation/image", "-p", f"source:={source}", "-p", "rate:=15.0"]
    received = []
    # On a machine that is busy with other things the node may miss one; not every time.
    while len(received) < 3 and 75 not in received:
        before = consumer.received()
        replay = start("replay_node", *camera, "-p", "reliability:=best_effort")
        consumer.spin_until(lambda: replay.popen.poll() is not None, "the end of the replay")  # noqa: B023
        received.append(consumer.received() - before)
    assert 75 in received, received


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_node_ends_with_exit_code_0_and_no_traceback(start: Callable[..., Process], number: int) -> None:
    process = start("segmentation_node")
    process.wait_output("classes, window causal")
    process.popen.send_signal(number)
    assert process.popen.wait(DEADLINE_S) == 0
    assert "Traceback" not in process.output


# Fast DDS as it is while a process that it speaks to over TCP is stopped: it keeps the interpreter's lock, for ever.
NEVER_ENDS = """
import ctypes, runpy, sys
import rclpy.node
from stmem_ros.node import lifecycle
lifecycle.ENDS_WITHIN_S = 1
rclpy.node.Node.destroy_node = lambda node: ctypes.PyDLL(None).sleep(1000)
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.parametrize("node", ["segmentation_node", "replay_node"])
def test_a_node_ends_also_where_the_middleware_does_not(
    start: Callable[..., Process], tmp_path: Path, node: str
) -> None:
    """Its exit status says so; what it had to say is out."""
    cv2.imwrite(str(tmp_path / "frame.png"), np.zeros((48, 64, 3), np.uint8))
    parameters = ["-p", f"source:={tmp_path}", "-p", "wait_for_subscriber:=false"] if node == "replay_node" else []
    process = start(node, *parameters, command=["-c", NEVER_ENDS, f"stmem_ros.node.{node}"])
    if node == "segmentation_node":
        process.wait_output("classes, window causal")
        process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(DEADLINE_S) == -signal.SIGALRM
    assert "Traceback" not in process.output
    assert ("\npublished 1 frames\n" in process.output) == (node == "replay_node")


def test_a_node_whose_checkpoint_is_missing_says_so_and_waits(start: Callable[..., Process]) -> None:
    process = start("segmentation_node", "-p", "checkpoint:=/nowhere/model.safetensors")
    process.wait_output("cannot configure: /nowhere/model.safetensors does not exist")
    assert process.popen.poll() is None
    process.popen.send_signal(signal.SIGINT)
    assert process.popen.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "mine.xml"}, "FASTRTPS_DEFAULT_PROFILES_FILE is set to mine.xml"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "mine.xml"}, "FASTDDS_DEFAULT_PROFILES_FILE is set to mine.xml"),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}, "FASTDDS_BUILTIN_TRANSPORTS is set to UDPv4"),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, "RMW_IMPLEMENTATION is rmw_cyclonedds_cpp"),
    ],
)
def test_a_users_own_dds_settings_are_left_alone(environment: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        large_data_environment(environment, LARGE_DATA)


def test_every_fast_dds_reads_the_file_for_large_data() -> None:
    added = large_data_environment({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, LARGE_DATA)
    assert added == {"FASTRTPS_DEFAULT_PROFILES_FILE": LARGE_DATA, "FASTDDS_DEFAULT_PROFILES_FILE": LARGE_DATA}
    assert Path(LARGE_DATA).is_file()
