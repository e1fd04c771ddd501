"""The launch files start what they say, with real processes; where launch_ros is installed, which PyPI has not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation, not from PyPI")

from rcl_interfaces.srv import GetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import parameter_value_to_python  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from test_launch import launch_table  # noqa: E402

from stmem_ros.node.messages import stamp_to_ns  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 90.0
# What `ros2 launch FILE NAME:=VALUE ...` does.
RUNNER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(text.split(":=", 1)) for text in sys.argv[2:]]
service = LaunchService(argv=sys.argv[2:])
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


@pytest.fixture
def installed(tmp_path: Path, ros_domain: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as colcon would have installed it, from the source tree."""
    share, programs = tmp_path / "share", tmp_path / "lib" / "stmem_ros"
    (share / "ament_index" / "resource_index" / "packages").mkdir(parents=True)
    (share / "ament_index" / "resource_index" / "packages" / "stmem_ros").touch()
    (share / "stmem_ros").mkdir()
    programs.mkdir(parents=True)
    for name in ("config", "launch", "package.xml"):
        (share / "stmem_ros" / name).symlink_to(ROOT / name)
    for name in ("segmentation_node", "replay_node"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stmem_ros.node.{name} "$@"\n')
        program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("AMENT_PREFIX_PATH")])])
    monkeypatch.setenv("AMENT_PREFIX_PATH", path)
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return share / "stmem_ros" / "launch"


class Launched:
    """A launch file in a process of its own, and a listener of one topic."""

    def __init__(self, file: Path, log: Path, topic: str, *arguments: str) -> None:
        self._log = log
        self._context = rclpy.Context()
        rclpy.init(context=self._context, args=[])
        self._node = rclpy.create_node("listener", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.received: list[Any] = []
        self._node.create_subscription(Image, topic, self.received.append, 5)
        with log.open("wb") as out:
            command = [sys.executable, "-c", RUNNER, str(file), *arguments]
            self._process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)

    def pids(self, program: str) -> list[int]:
        """Of each time that the program was started."""
        return [int(pid) for pid in re.findall(rf"{program}-\d+\]: process started with pid \[(\d+)", self.log())]

    def log(self) -> str:
        return self._log.read_text()

    def parameter(self, node: str, name: str) -> Any:
        """The value of a parameter of a node that runs."""
        client = self._node.create_client(GetParameters, f"{node}/get_parameters")
        self.wait(lambda: client.service_is_ready(), f"the parameters of {node}")
        future = client.call_async(GetParameters.Request(names=[name]))
        self.wait(future.done, f"parameter {name} of {node}")
        return parameter_value_to_python(future.result().values[0])

    def wait_log(self, text: str) -> None:
        self.wait(lambda: text in self.log(), repr(text))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline and self._process.poll() is None, f"no {what} in {self.log()}"
            self._executor.spin_once(timeout_sec=0.05)

    def wait_received(self, count: int) -> None:
        self.wait(lambda: len(self.received) >= count, f"{count} images")

    def close(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Images as a camera has them, small ones."""
    folder = tmp_path / "film"
    folder.mkdir()
    for number in range(20):
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.full((48, 64, 3), number * 10, np.uint8))
    return folder


# A robot's own launch file around ours.
ROBOT = """
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter

def generate_launch_description():
    arguments = {arguments}
    return LaunchDescription([
        PushRosNamespace("robot"),
        SetParameter("short_side", 64),
        IncludeLaunchDescription(PythonLaunchDescriptionSource({file!r}), launch_arguments=arguments.items()),
    ])
"""


@pytest.fixture
def composed(installed: Path, film: Path, tmp_path: Path) -> Iterator[Launched]:
    add_program(installed, "image_view")
    arguments = {
        "camera": "replay",
        "source": str(film),
        "viewer": "image_view",
        "namespace": "front",
        "image_topic": "cam/image",
        "large_data": "true",
        "respawn": "true",
    }
    robot = tmp_path / "robot.launch.py"
    robot.write_text(ROBOT.format(arguments=arguments, file=str(installed / "camera_to_overlay.launch.py")))
    launched = Launched(robot, tmp_path / "launch.log", "/robot/front/overlay")
    try:
        yield launched
    finally:
        launched.close()


def add_program(launch_files: Path, package: str) -> None:
    """A package with a program of its name, which writes beside itself how it was started."""
    prefix = launch_files.parents[2]
    (prefix / "share" / "ament_index" / "resource_index" / "packages" / package).touch()
    program = prefix / "lib" / package / package
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$*" > "$0.started"\n')
    program.chmod(0o755)


def test_a_replayed_camera_is_segmented_in_a_robots_namespace_and_a_killed_node_comes_back(
    composed: Launched, installed: Path
) -> None:
    composed.wait_received(3)
    first = composed.received[0]
    assert (first.width, first.height, first.encoding) == (64, 48, "rgb8")
    assert "-r image:=/robot/front/overlay" in (installed.parents[2] / "lib/image_view/image_view.started").read_text()
    # What the parent sets wins over the package's parameter file.
    assert composed.parameter("/robot/front/segmentation", "short_side") == 64
    (node,) = composed.pids("segmentation_node")
    os.kill(node, signal.SIGKILL)
    before = len(composed.received)
    composed.wait_received(before + 3)
    assert len(composed.pids("segmentation_node")) == 2
    stamps = [stamp_to_ns(image.header.stamp) for image in composed.received]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize(
    ("file", "arguments", "said"),
    [
        ("segment.launch.py", ["autostart:=maybe"], "autostart:=maybe is neither true nor false"),
        ("segment.launch.py", ["short_side:=low"], "short_side:=low is no number of pixels"),
        ("camera_to_overlay.launch.py", ["camera:=telescope"], "camera:=telescope is not known"),
        ("camera_to_overlay.launch.py", ["camera:=replay"], "source is empty, and camera:=replay needs a video file"),
        ("camera_to_overlay.launch.py", ["camera:=none", "rviz:=maybe"], "rviz:=maybe is neither true nor false"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line_and_nothing_is_left_running(
    installed: Path, file: str, arguments: list[str], said: str
) -> None:
    command = [sys.executable, "-c", RUNNER, str(installed / file), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1 and said in done.stdout + done.stderr
    assert "process started" not in done.stdout + done.stderr


def ros2(*words: str) -> str:
    command = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def test_what_ros2_param_dump_writes_starts_the_node_again_and_a_plain_ros2_sees_a_node_with_large_data(
    installed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ros2param", reason="ros2cli comes with a ROS 2 installation, not from PyPI")
    file, node = installed / "segment.launch.py", "/segmentation/segmentation"
    dump = tmp_path / "dump.yaml"
    first = Launched(file, tmp_path / "1.log", "/unused", "short_side:=96", "large_data:=true", "use_sim_time:=true")
    try:
        # Some parameters are declared when the node begins to listen.
        first.wait_log("active: waiting for images")
        assert "/segmentation/labels" in ros2("topic", "list", "--no-daemon", "--spin-time", "3").split()
        dump.write_text(ros2("param", "dump", node, "--no-daemon", "--spin-time", "3"))
    finally:
        first.close()
    again = Launched(file, tmp_path / "2.log", "/unused", f"params_file:={dump}", "window:=centered")
    try:
        again.wait_log("active: waiting for images")
        assert "window centered" in again.log() and again.parameter(node, "short_side") == 96
        # Nothing in the file is strange to the node.
        assert "known here" not in again.log() and "has no effect" not in again.log()
    finally:
        again.close()


def arguments_of(file: Path) -> list[str]:
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchContext

    description = PythonLaunchDescriptionSource(str(file)).get_launch_description(LaunchContext())
    return [argument.name for argument in description.get_launch_arguments()]


def test_the_launch_file_has_the_arguments_of_its_tables(installed: Path) -> None:
    tables = [*launch_table("PARAMETER_ARGUMENTS"), *launch_table("LAUNCH_ARGUMENTS")]
    assert sorted(arguments_of(installed / "segment.launch.py")) == sorted(tables)


def test_the_composed_file_shows_the_arguments_of_both(installed: Path) -> None:
    names = arguments_of(installed / "camera_to_overlay.launch.py")
    assert {"camera", "source", "viewer", "image_topic", "namespace", "preset", "short_side", "respawn"} <= set(names)
    assert len(names) == len(set(names))
