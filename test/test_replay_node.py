"""The replay node as a user runs it: a process of its own, its images received over DDS."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from stmem_ros.node.messages import to_image_msg  # noqa: E402

FRAMES = 20
HEIGHT, WIDTH = 48, 64
DEADLINE_S = 30.0


def picture(number: int) -> np.ndarray:
    """RGB noise that no other number has, red at the top left, blue at the top right."""
    image = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    image[:16, :32], image[:16, 32:] = (255, 0, 0), (0, 0, 255)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "drive"
    path.mkdir()
    for number in range(FRAMES):
        assert cv2.imwrite(str(path / f"{number:03}.png"), cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR))
    return path


class Replay:
    """The node's process; its output goes to files, so that it never waits for a reader."""

    def __init__(self, folder: Path, *parameters: str) -> None:
        self._out, self._err = folder / "replay.out", folder / "replay.err"
        words = [word for each in parameters for word in (each.split() if each.startswith("-r ") else ("-p", each))]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stmem_ros.node.replay_node", "--ros-args", *words], stdout=out, stderr=err
            )

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.errors:
            assert time.monotonic() < deadline and self.process.poll() is None, self.errors
            time.sleep(0.02)

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def errors(self) -> str:
        return self._err.read_text()


@pytest.fixture
def start(tmp_path: Path, ros_domain: int) -> Iterator[Callable[..., Replay]]:
    started: list[Replay] = []

    def start_replay(*parameters: str) -> Replay:
        started.append(Replay(tmp_path, *parameters))
        return started[-1]

    yield start_replay
    for replay in started:
        replay.process.kill()
        replay.process.wait()


class Subscriber:
    """Keeps every message of one topic."""

    def __init__(self, kind: type, topic: str, reliability: ReliabilityPolicy) -> None:
        self.messages: list[Image | CompressedImage] = []
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("subscriber", context=self._context)
        qos = QoSProfile(depth=200, reliability=reliability)
        self._node.create_subscription(kind, topic, self.messages.append, qos)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def spin_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"{len(self.messages)} messages came in {DEADLINE_S:g} s"
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    @property
    def images(self) -> list[np.ndarray]:
        return [np.frombuffer(each.data, np.uint8).reshape(each.height, each.width, 3) for each in self.messages]

    @property
    def stamps(self) -> list[int]:
        return [each.header.stamp.sec * 1_000_000_000 + each.header.stamp.nanosec for each in self.messages]


@pytest.fixture
def subscribe(ros_domain: int) -> Iterator[Callable[..., Subscriber]]:
    subscribers: list[Subscriber] = []

    def make(
        kind: type = Image, topic: str = "image", reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
    ) -> Subscriber:
        subscribers.append(Subscriber(kind, topic, reliability))
        return subscribers[-1]

    yield make
    for subscriber in subscribers:
        subscriber.close()


def receive_all(subscriber: Subscriber, replay: Replay, count: int = FRAMES) -> None:
    """Until the node has ended by itself and `count` messages are here."""
    subscriber.spin_until(lambda: replay.process.poll() is not None)
    assert replay.wait() == 0, replay.errors
    assert replay.lines == [f"published {count} frames"]
    subscriber.spin_until(lambda: len(subscriber.messages) >= count)
    assert len(subscriber.messages) == count


def test_every_frame_arrives_whole_and_in_order(
    folder: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = subscribe()
    replay = start(f"source:={folder}", "rate:=50.0", "frame_id:=front_camera")
    receive_all(subscriber, replay)
    for number, image in enumerate(subscriber.images):
        np.testing.assert_array_equal(image, picture(number))
    message = subscriber.messages[0]
    assert (message.encoding, message.is_bigendian, message.step) == ("rgb8", 0, 3 * WIDTH)
    assert message.header.frame_id == "front_camera"
    # Once: on stdout, which receive_all looks at.
    assert f"published {FRAMES} frames" not in replay.errors
    assert f"publishing {FRAMES} frames of {WIDTH}x{HEIGHT} from" in replay.errors
    assert "WARN" not in replay.errors


@pytest.mark.parametrize("reliability", ["reliable", "best_effort"])
def test_first_frame_waits_for_a_late_subscriber(
    folder: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber], reliability: str
) -> None:
    replay = start(f"source:={folder}", "rate:=100.0", f"reliability:={reliability}")
    replay.wait_for_log("waiting for a subscriber of /image")
    subscriber = subscribe(reliability=ReliabilityPolicy[reliability.upper()])
    receive_all(subscriber, replay)
    np.testing.assert_array_equal(subscriber.images[0], picture(0))
    assert replay.errors.count("waiting for") == 1


def test_waits_for_nobody_when_told_so(folder: Path, start: Callable[..., Replay]) -> None:
    replay = start(f"source:={folder}", "rate:=200.0", "wait_for_subscriber:=false")
    assert replay.wait() == 0
    assert replay.lines == [f"published {FRAMES} frames"]


@pytest.mark.parametrize("reliability", ["reliable", "best_effort"])
def test_best_effort_subscriber_gets_the_last_frame(
    folder: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber], reliability: str
) -> None:
    subscriber = subscribe(reliability=ReliabilityPolicy.BEST_EFFORT)
    replay = start(f"source:={folder}", "rate:=25.0", f"reliability:={reliability}")
    subscriber.spin_until(lambda: replay.process.poll() is not None)
    assert replay.lines == [f"published {FRAMES} frames"]
    subscriber.spin_until(lambda: np.array_equal(subscriber.images[-1], picture(FRAMES - 1)))


def test_stamps_of_a_video_are_its_own_time(
    tmp_path: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber]
) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, (WIDTH, HEIGHT))
    for number in range(FRAMES):
        writer.write(cv2.cvtColor(picture(0), cv2.COLOR_RGB2BGR) if number == 0 else picture(number))
    writer.release()
    subscriber = subscribe()
    receive_all(subscriber, start(f"source:={tmp_path / 'drive.mp4'}", "stamps:=source", "rate:=50.0"))
    assert subscriber.stamps == [number * 40_000_000 for number in range(FRAMES)]
    assert np.abs(subscriber.images[0][4, 4].astype(int) - (255, 0, 0)).max() < 60
    assert np.abs(subscriber.images[0][4, -4].astype(int) - (0, 0, 255)).max() < 60


def test_stamps_of_a_bag_are_its_headers(
    tmp_path: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber]
) -> None:
    types = get_typestore(Stores.ROS2_JAZZY)
    stamps = [1_700_000_000_123_456_789 + number * 20_000_000 for number in range(FRAMES)]
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in ("/left", "/right"):
            connection = writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=types)
            for number, stamp_ns in enumerate(stamps):
                stamp = types.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
                image = cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR) if topic == "/right" else picture(0)
                message = types.types[connection.msgtype](
                    types.types["std_msgs/msg/Header"](stamp, "camera"),
                    HEIGHT,
                    WIDTH,
                    "bgr8",
                    0,
                    WIDTH * 3,
                    image.reshape(-1),
                )
                writer.write(connection, stamp_ns, types.serialize_cdr(message, connection.msgtype))
    subscriber = subscribe()
    replay = start(f"source:={tmp_path / 'bag'}", "topic:=/right", "stamps:=source")
    receive_all(subscriber, replay)
    assert subscriber.stamps == stamps
    assert "at 50 Hz" in replay.errors
    for number, image in enumerate(subscriber.images):
        np.testing.assert_array_equal(image, picture(number))


@pytest.mark.parametrize("rate", [0.0, 40.0])
def test_publishes_on_schedule_without_drift(
    folder: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber], rate: float
) -> None:
    subscriber = subscribe()
    receive_all(subscriber, start(f"source:={folder}", f"rate:={rate}"))
    stamps = subscriber.stamps
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))
    period = 1 / (rate or 15.0)
    offsets = [(stamp - stamps[0]) * 1e-9 - number * period for number, stamp in enumerate(stamps)]
    drift = statistics.median(offsets[FRAMES // 2 :]) - statistics.median(offsets[: FRAMES // 2])
    assert abs(drift) < period / 4
    assert abs(time.time() - stamps[-1] * 1e-9) < DEADLINE_S


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        (("width:=32", "height:=40"), (40, 32)),
        (("width:=32",), (24, 32)),
        (("height:=96",), (96, 128)),
    ],
)
def test_resize(
    folder: Path,
    start: Callable[..., Replay],
    subscribe: Callable[..., Subscriber],
    parameters: tuple[str, ...],
    size: tuple[int, int],
) -> None:
    subscriber = subscribe()
    replay = start(f"source:={folder}", "rate:=100.0", *parameters)
    receive_all(subscriber, replay)
    assert f"frames of {size[1]}x{size[0]}, resized from {WIDTH}x{HEIGHT}, from" in replay.errors
    expected = cv2.resize(picture(3), size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(subscriber.images[3], expected)


def test_loop_starts_again(folder: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber]) -> None:
    subscriber = subscribe()
    replay = start(f"source:={folder}", "rate:=100.0", "loop:=true")
    subscriber.spin_until(lambda: len(subscriber.messages) >= 2 * FRAMES + 3)
    for number, image in enumerate(subscriber.images):
        np.testing.assert_array_equal(image, picture(number % FRAMES))
    assert replay.process.poll() is None


def test_compressed_transport(folder: Path, start: Callable[..., Replay], subscribe: Callable[..., Subscriber]) -> None:
    subscriber = subscribe(CompressedImage, "image/compressed")
    receive_all(subscriber, start(f"source:={folder}", "rate:=50.0", "transport:=compressed"))
    message = subscriber.messages[0]
    assert "jpeg" in message.format
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(image[4, 4].astype(int) - (255, 0, 0)).max() < 10
    assert np.abs(image[4, -4].astype(int) - (0, 0, 255)).max() < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("while_waiting", [False, True])
def test_interrupt_ends_quietly(
    folder: Path,
    start: Callable[..., Replay],
    subscribe: Callable[..., Subscriber],
    number: signal.Signals,
    while_waiting: bool,
) -> None:
    replay = start(f"source:={folder}", "loop:=true")
    if while_waiting:
        replay.wait_for_log("waiting for a subscriber")
    else:
        subscriber = subscribe()
        subscriber.spin_until(lambda: len(subscriber.messages) >= 3)
    os.kill(replay.process.pid, number)
    os.kill(replay.process.pid, number)
    assert replay.wait() == 0, replay.errors
    assert "Traceback" not in replay.errors and "ERROR" not in replay.errors
    (line,) = replay.lines
    published = int(line.removeprefix("published ").removesuffix(" frames"))
    assert published == 0 if while_waiting else published >= 3


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (("source:=/nowhere/drive.mp4",), "/nowhere/drive.mp4 does not exist"),
        (("source:=97",), "camera 97"),
        ((), "parameter source is empty"),
        (("source:={text}",), "is no video"),
        (("source:={folder}", "stamps:=mine"), "parameter stamps is 'mine': it must be one of now, source"),
        (("source:={folder}", "rate:=-1.0"), "rate out of range"),
        (("source:={folder}", "rate:=fast"), "parameter rate is 'fast'; it must be a number"),
        (("source:={folder}", "loop:=3"), "parameter loop is 3; it must be true or false"),
    ],
)
def test_bad_source_or_parameter_is_one_line_and_exit_1(
    folder: Path, tmp_path: Path, start: Callable[..., Replay], parameters: tuple[str, ...], reason: str
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    replay = start(*(parameter.format(folder=folder, text=text) for parameter in parameters))
    assert replay.wait() == 1
    assert replay.lines == []
    (line,) = replay.errors.splitlines()
    assert line.startswith("replay: ") and reason in line


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--help",), 0, "usage: python -m stmem_ros.node.replay_node"),
        (("source:=drive.mp4",), 2, "replay: source:=drive.mp4 would have no effect: parameters and remappings stand"),
        (("-p", "source:=a"), 2, "as in --ros-args -p source:=a"),
        (("--ros-args", "--bogus"), 1, "replay: --bogus is no ROS argument; after --ros-args there are"),
    ],
)
def test_words_that_are_no_ros_arguments_are_told_of(
    ros_domain: int, words: tuple[str, ...], status: int, said: str
) -> None:
    command = [sys.executable, "-m", "stmem_ros.node.replay_node", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == status and said in done.stdout + done.stderr, done
    # rcl may have warned before it.
    assert status == 0 or done.stderr.splitlines()[-1].startswith("replay: ")


def test_a_mistyped_parameter_and_a_remapping_of_nothing_are_told_of(
    folder: Path, start: Callable[..., Replay]
) -> None:
    # A whole number is a rate too.
    replay = start(f"source:={folder}", "rate:=200", "wait_for_subscriber:=false", "frame:=front", "-r img:=/front")
    assert replay.wait() == 0 and replay.lines == [f"published {FRAMES} frames"]
    assert "parameter frame is not known here" in replay.errors and "did you mean frame_id?" in replay.errors
    assert "the remapping img:=/front is of nothing that this node has" in replay.errors


def test_source_that_turns_out_unreadable_ends_with_exit_1(folder: Path, start: Callable[..., Replay]) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"no image")
    replay = start(f"source:={folder}", "loop:=true", "wait_for_subscriber:=false")
    assert replay.wait() == 1
    assert "no frame that can be read" in replay.errors.splitlines()[-1]
    assert replay.lines == ["published 0 frames"]


@pytest.mark.parametrize(("encoding", "shape"), [("rgb8", (5, 7, 3)), ("mono8", (5, 7)), ("rgb8", (10, 14, 3))])
def test_image_message_of_an_array(encoding: str, shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(shape)
    if shape[0] == 10:
        image = image[::2, ::2]
    message = to_image_msg(image, encoding, Header(frame_id="camera"))
    assert (message.height, message.width, message.encoding, message.is_bigendian) == (5, 7, encoding, 0)
    assert message.step == 7 * (3 if encoding == "rgb8" else 1)
    assert message.header.frame_id == "camera"
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(image.shape), image)
