"""What the node publishes beside its labels: for whom, at which size, of which quality of service."""

from __future__ import annotations

import dataclasses
import re
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from graph import Graph, pixels, wait_for  # noqa: E402
from gray import gray_frame, own_graphs, save_gray  # noqa: E402
from rclpy.duration import Duration  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from stmem_ros.camera_info import fitted, scaled  # noqa: E402
from stmem_ros.labels import LabelSet  # noqa: E402
from stmem_ros.node import label_info, outputs, segmentation_node  # noqa: E402
from stmem_ros.node.messages import stamp_to_ns  # noqa: E402

DEFAULTS = {"overlay_alpha": 0.5, "output_scale": 1.0, "output_height": 0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_graphs(11):
        yield save_gray(tmp_path_factory.mktemp("model") / "gray.safetensors")


@pytest.fixture(scope="module")
def running(checkpoint: Path) -> Iterator[Graph]:
    """One graph for all tests that leave it as it was."""
    graph = Graph({"checkpoint": str(checkpoint), "camera_info_topics": ["calibration"]})
    yield graph.start()
    graph.close()


@pytest.fixture
def graph(running: Graph) -> Iterator[Graph]:
    before = set(running._subscriptions)
    yield running
    running.forget(*(set(running._subscriptions) - before))
    assert running.set(**DEFAULTS).successful


def halves() -> np.ndarray:
    """Left half of class 10, right half of class 20."""
    image = gray_frame(10)
    image[:, 48:] = gray_frame(20)[:, 48:]
    return image


def decoded(message: Any) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_compressed_labels_are_the_labels_and_compressed_pictures_are_close(graph: Graph) -> None:
    graph.listen("labels/compressed", "color", "color/compressed", "overlay", "overlay/compressed")
    stamp = graph.next_stamp
    labels = graph.labels_of(halves())
    names = ("labels/compressed", "color", "color/compressed", "overlay", "overlay/compressed")
    wait_for(lambda: all(graph.received[name] for name in names), "one message on every output")
    png, color, jpeg, overlay, overlay_jpeg = (graph.received[name][0] for name in names)
    assert png.format == "mono8; png compressed "
    assert jpeg.format == overlay_jpeg.format == "rgb8; jpeg compressed bgr8"
    np.testing.assert_array_equal(decoded(png), pixels(labels))
    for raw, compressed in ((color, jpeg), (overlay, overlay_jpeg)):
        assert np.abs(decoded(compressed)[..., ::-1].astype(int) - pixels(raw)).mean() < 8
    assert {stamp_to_ns(graph.received[name][0].header.stamp) for name in names} == {stamp}


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"output_scale": 0.5}, (36, 48)),
        ({"output_height": 27}, (27, 36)),
        ({"output_height": 27, "output_scale": 0.5}, (27, 36)),
        ({"output_height": 500}, (72, 96)),
    ],
)
def test_outputs_have_the_size_that_was_asked_for_and_labels_are_the_nearest_pixels(
    graph: Graph, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    names = ("confidence", "color", "overlay")
    whole = pixels(graph.labels_of(halves()))
    graph.listen(*names)
    assert graph.set(**settings).successful
    labels = graph.labels_of(halves())
    wait_for(lambda: all(graph.received[name] for name in names), "one message on every output")
    for message in (labels, *(graph.received[name][0] for name in names)):
        assert (message.height, message.width) == size and message.step * message.height == len(message.data)
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, whole.shape, strict=True))
    np.testing.assert_array_equal(pixels(labels), whole[rows][:, columns])


def test_nothing_is_made_for_nobody(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for name in ("colorize", "to_png_msg", "to_jpeg_msg", "to_image_msg", "scaled"):
        original = getattr(outputs, name)
        monkeypatch.setattr(outputs, name, lambda *args, _name=name, _do=original: made.append(_name) or _do(*args))
    graph.labels_of(gray_frame(3))
    graph.labels_of(gray_frame(4))
    assert made == ["to_image_msg"] * 2
    assert np.unique(pixels(graph.received["labels"][-1])).tolist() == [4]


def calibration(width: int = 96, height: int = 72) -> CameraInfo:
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.1, 0.2, 0.3, 0.4, 0.5])
    info.k = [100.0, 2.0, 48.0, 0.0, 110.0, 36.0, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [100.0, 0.0, 48.0, -7.0, 0.0, 110.0, 36.0, 3.0, 0.0, 0.0, 1.0, 0.0]
    return info


def test_camera_info_comes_with_the_labels_at_their_size_and_is_not_listened_to_for_nobody(graph: Graph) -> None:
    topic = f"{graph.namespace}/calibration"
    source = graph.tester.create_publisher(CameraInfo, topic, 10)
    graph.labels_of(gray_frame(1))
    assert source.get_subscription_count() == 0
    graph.listen("camera_info")
    wait_for(lambda: source.get_subscription_count() == 1, "the node to listen to the calibration")
    assert graph.set(output_scale=0.5).successful
    source.publish(calibration())
    wait_for(lambda: graph.stream.info.newest is not None, "the calibration")
    labels = graph.labels_of(gray_frame(2), frame_id="optical")
    wait_for(lambda: graph.received["camera_info"], "a camera_info")
    info = graph.received["camera_info"][0]
    assert info.header == labels.header and info.header.frame_id == "optical"
    assert (info.width, info.height) == (labels.width, labels.height) == (48, 36)
    assert info.k.tolist() == [50.0, 1.0, 24.0, 0.0, 55.0, 18.0, 0.0, 0.0, 1.0]
    graph.forget("camera_info")
    wait_for(lambda: source.get_subscription_count() == 0, "the node to stop listening")
    graph.tester.destroy_publisher(source)


def test_a_calibration_is_missed_once_it_was_listened_for_two_seconds(graph: Graph) -> None:
    before = time.monotonic()
    graph.listen("camera_info")

    def complains() -> bool:
        graph.labels_of(gray_frame(1))
        return any(f"no calibration came on {graph.namespace}/calibration yet" in text for text in graph.messages())

    wait_for(complains, "the complaint")
    assert time.monotonic() - before >= 2
    graph.wait_message("no calibration came", "If not, set camera_info_topics")


def test_a_node_that_stops_does_not_complain_of_the_calibration(checkpoint: Path) -> None:
    graph = Graph({"checkpoint": str(checkpoint)})
    try:
        graph.start("camera_info")
        assert graph.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        # As the worker does with the frame that was in work.
        graph.stream.publish_camera_info((72, 96), Header())
        graph.node.get_logger().info("that was all")
        graph.wait_message("that was all")
        assert not [text for text in graph.messages() if "calibration" in text]
    finally:
        graph.close()


def test_a_calibration_of_another_shape_is_not_published_and_both_sizes_are_named(checkpoint: Path) -> None:
    graph = Graph({"checkpoint": str(checkpoint), "camera_info_topics": ["calibration"], "output_scale": 0.5})
    try:
        graph.start("labels", "camera_info")
        source = graph.tester.create_publisher(CameraInfo, f"{graph.namespace}/calibration", 10)
        wait_for(lambda: source.get_subscription_count() == 1, "the node to listen to the calibration")

        def send(info: CameraInfo) -> Image:
            source.publish(info)
            wait_for(lambda: graph.stream.info.newest == info, "the calibration")
            return graph.labels_of(gray_frame(5))

        send(calibration(1280, 720))
        what = f"nothing comes on {graph.namespace}/camera_info: the calibration on {source.topic_name} cannot be used"
        graph.wait_message(what, "1280x720", "96x72", "calibrate", "camera_info_topics")
        labels = send(calibration(1280, 960))
        wait_for(lambda: graph.received["camera_info"], "a camera_info")
        (info,) = graph.received["camera_info"]
        assert info.header == labels.header
        assert (info.width, info.height) == (labels.width, labels.height) == (48, 36)
    finally:
        graph.close()


def test_a_calibration_without_a_size_gets_that_of_the_labels(graph: Graph) -> None:
    source = graph.tester.create_publisher(CameraInfo, f"{graph.namespace}/calibration", 10)
    graph.listen("camera_info")
    wait_for(lambda: source.get_subscription_count() == 1, "the node to listen to the calibration")
    assert graph.set(output_scale=0.5).successful
    # As of a camera that is not calibrated.
    unknown = CameraInfo(binning_x=2, binning_y=2)
    source.publish(unknown)
    wait_for(lambda: graph.stream.info.newest == unknown, "the calibration")
    labels = graph.labels_of(gray_frame(2))
    wait_for(lambda: graph.received["camera_info"], "a camera_info")
    (info,) = graph.received["camera_info"]
    assert (info.width, info.height) == (labels.width, labels.height) == (48, 36)
    assert (info.binning_x, info.roi, set(info.k)) == (0, RegionOfInterest(), {0.0})
    graph.forget("camera_info")
    graph.tester.destroy_publisher(source)


@pytest.mark.parametrize(
    ("own", "image", "fits"),
    [
        # Width and height. Halves and thirds are rounded up or down.
        ((1280, 720), (640, 360), True),
        ((1920, 1080), (853, 480), True),
        ((1920, 1080), (854, 480), True),
        ((639, 479), (1280, 960), True),
        ((641, 481), (320, 240), True),
        ((640, 480), (640, 481), True),
        ((4000, 3000), (4, 3), True),
        ((1280, 720), (640, 480), False),
        ((640, 480), (480, 640), False),
        ((640, 480), (640, 482), False),
        ((1920, 1080), (1920, 1088), False),
        ((1280, 720), (848, 480), False),
    ],
)
def test_a_calibration_is_taken_for_images_of_its_shape(
    own: tuple[int, int], image: tuple[int, int], fits: bool
) -> None:
    for info, (width, height) in ((calibration(*own), image), (calibration(*image), own)):
        if fits:
            assert fitted(info, (height, width)) is info
        else:
            sizes = f"images of {info.width}x{info.height}, and the camera's are {width}x{height}, another shape"
            with pytest.raises(ValueError, match=sizes):
                fitted(info, (height, width))


def test_the_shape_of_a_calibration_is_that_of_its_region_binned() -> None:
    info = calibration(1920, 1080)
    info.binning_x = info.binning_y = 2
    info.roi = RegionOfInterest(x_offset=240, width=1281, height=961)
    assert fitted(info, (480, 640)) is info
    with pytest.raises(ValueError, match=r"640x480 \(what roi and binning leave of 1920x1080\), .* 960x540, another"):
        fitted(info, (540, 960))


def test_a_calibration_that_is_none_costs_no_frame(graph: Graph) -> None:
    source = graph.tester.create_publisher(CameraInfo, f"{graph.namespace}/calibration", 10)
    graph.listen("camera_info")
    wait_for(lambda: source.get_subscription_count() == 1, "the node to listen to the calibration")
    nonsense = calibration(2**31)
    nonsense.roi.width, nonsense.roi.height = 4, 3
    source.publish(nonsense)
    wait_for(lambda: graph.stream.info.newest == nonsense, "the calibration")
    statistics, number = graph.stream.statistics, len(graph.received["labels"])
    failures = statistics.rejected["failure"]
    graph.labels_of(gray_frame(5))
    graph.wait_message(f"the calibration on {source.topic_name} cannot be used: 2147483648x72")
    assert statistics.rejected["failure"] == failures and len(graph.received["labels"]) == number + 1
    assert not graph.received["camera_info"]
    graph.forget("camera_info")
    graph.tester.destroy_publisher(source)


def test_a_scaled_calibration_projects_to_the_scaled_pixel() -> None:
    info, header = calibration(192, 144), Header(frame_id="camera")
    # Half of the region, which the driver has binned by two already.
    info.binning_x = info.binning_y = 2
    info.roi = RegionOfInterest(x_offset=16, y_offset=8, width=160, height=120)
    half = scaled(info, (30, 40), header)
    assert (half.width, half.height, half.binning_x) == (96, 72, 2)
    assert (half.roi.x_offset, half.roi.y_offset, half.roi.width, half.roi.height) == (8, 4, 80, 60)
    np.testing.assert_allclose(np.reshape(half.p, (3, 4)), np.diag([0.5, 0.5, 1]) @ np.reshape(info.p, (3, 4)))
    assert half.d.tolist() == info.d.tolist() and half.r.tolist() == info.r.tolist()
    assert info.k[0] == 100.0


# As vision_msgs has them.
@dataclasses.dataclass
class VisionClass:
    class_id: int
    class_name: str


@dataclasses.dataclass
class LabelInfo:
    header: Header
    class_map: list[VisionClass]
    threshold: float


VISION_MESSAGES = types.SimpleNamespace(LabelInfo=LabelInfo, VisionClass=VisionClass)


def test_label_info_names_every_class_by_its_id() -> None:
    labels = LabelSet(["road", "car"], [(0, 0, 0), (1, 1, 1)])
    info = label_info.build(VISION_MESSAGES, labels, Header(frame_id="camera"))
    assert [(entry.class_id, entry.class_name) for entry in info.class_map] == [(0, "road"), (1, "car")]
    assert info.header.frame_id == "camera"


def test_label_info_is_latched_and_published_again_when_the_model_changes(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published: list[LabelInfo] = []
    profiles: list[QoSProfile] = []

    def create_output(node: Any, kind: type, topic: str, profile: QoSProfile, warn: Any) -> Any:
        assert (kind, topic) == (LabelInfo, "label_info")
        profiles.append(profile)
        return types.SimpleNamespace(publish=published.append)

    monkeypatch.setattr(segmentation_node, "vision_messages", lambda: VISION_MESSAGES)
    monkeypatch.setattr(label_info, "create_output", create_output)
    graph = Graph({"checkpoint": str(checkpoint)})
    try:
        graph.start()
        assert published[-1].class_map[7].class_name == "level 7"
        count = len(published)
        assert graph.set(checkpoint=str(save_gray(tmp_path / "other.safetensors", shift=2))).successful
        wait_for(lambda: len(published) > count, "the other model's classes")
        assert published[-1].class_map[7].class_name == "level 5"
        assert profiles[0].durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert profiles[0].reliability == ReliabilityPolicy.RELIABLE
        assert not [text for text in graph.messages() if "vision_msgs" in text]
    finally:
        graph.close()


@pytest.mark.skipif(label_info.vision_messages() is not None, reason="vision_msgs is installed")
def test_where_vision_msgs_is_missing_one_warning_says_what_to_install(running: Graph) -> None:
    assert "vision-msgs" in running.wait_message("label_info", "Nav2")
    assert len([text for text in running.messages() if "label_info" in text]) == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("image.subscription.reliability", "it must be one of reliable, best_effort"),
        # Where images will come from is not known when the node is activated.
        ("image/compressed.subscription.reliability", "it must be one of reliable, best_effort"),
        ("image/compressed.subscription.history", "it must be one of keep_last, keep_all"),
        ("image/compressed.subscription.depth", "it must be a whole number from 1 to 10000"),
    ],
)
def test_an_override_that_is_none_is_explained_and_the_node_lives(checkpoint: Path, override: str, said: str) -> None:
    graph = Graph({"checkpoint": str(checkpoint), f"qos_overrides.{{ns}}/{override}": "keep_lats"})
    try:
        assert graph.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if graph.node.trigger_activate() == TransitionCallbackReturn.SUCCESS:
            graph.add_camera("image", CompressedImage, "/compressed")
        graph.wait_message("cannot subscribe", said)
        # Whoever asks gets an answer.
        assert graph.set(overlay_alpha=0.25).successful
    finally:
        graph.close()


@pytest.mark.parametrize(
    ("policy", "value", "allowed"),
    [
        ("reliability", "besteffort", "one of reliable, best_effort"),
        ("history", 1, "one of keep_last, keep_all"),
        ("depth", -1, "a whole number from 1 to 10000"),
        ("depth", "five", "a whole number from 1 to 10000"),
    ],
)
def test_an_override_of_an_output_that_is_none_is_named_with_what_is_allowed(
    checkpoint: Path, policy: str, value: str | int, allowed: str
) -> None:
    graph = Graph({"checkpoint": str(checkpoint), f"qos_overrides.{{ns}}/labels.publisher.{policy}": value})
    try:
        assert graph.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        name = f"qos_overrides.{graph.namespace}/labels.publisher.{policy}"
        graph.wait_message("cannot configure", f"parameter {name} is {value!r}; it must be {allowed}, or left out")
    finally:
        graph.close()


def test_an_override_of_the_compressed_topic_is_of_that_topic(checkpoint: Path) -> None:
    name = "qos_overrides.{ns}/image/compressed.subscription.reliability"
    graph = Graph({"checkpoint": str(checkpoint), name: "best_effort"})
    try:
        assert graph.node.trigger_configure() and graph.node.trigger_activate()
        graph.add_camera("image", CompressedImage, "/compressed")
        graph.wait_matched()
        graph.wait_message("subscribed to", "image/compressed", "best effort")
        (info,) = graph.tester.get_subscriptions_info_by_topic(f"{graph.namespace}/image/compressed")
        assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    finally:
        graph.close()


def test_qos_overrides_are_taken_and_who_does_not_match_is_named(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def heard(*parts: str) -> bool:
        said.extend(capfd.readouterr().err.splitlines())
        return any(all(part in line for part in parts) for line in said)

    graph = Graph(
        {
            "checkpoint": str(checkpoint),
            "qos_overrides.{ns}/labels.publisher.reliability": "best_effort",
            "qos_overrides.{ns}/image.subscription.reliability": "reliable",
        }
    )
    try:
        assert graph.node.trigger_configure() and graph.node.trigger_activate()
        labels = f"{graph.namespace}/labels"
        wait_for(lambda: graph.tester.get_publishers_info_by_topic(labels), "the labels' publisher")
        offered = graph.tester.get_publishers_info_by_topic(labels)[0].qos_profile
        assert offered.reliability == ReliabilityPolicy.BEST_EFFORT
        graph.tester.create_subscription(Image, labels, lambda _: None, QoSProfile(depth=1))
        parameter = f"set parameter qos_overrides.{labels}.publisher.reliability, which is best_effort, to reliable"
        subscriber = f"a subscriber of {labels}"
        wait_for(lambda: heard(subscriber, "(reliable", "ask for best effort", parameter), "the warning")
        graph.add_camera("image", reliability=ReliabilityPolicy.BEST_EFFORT)
        image = f"{graph.namespace}/image"
        parameter = f"parameter qos_overrides.{image}.subscription.reliability is reliable; set it to best_effort"
        wait_for(lambda: heard(f"a publisher of {image}", "(best effort)", parameter), "the warning")
        result = graph.set(**{f"qos_overrides.{labels}.publisher.depth": 3})
        assert not result.successful and "read-only" in result.reason
    finally:
        graph.close()


@pytest.mark.parametrize(
    ("topic", "policy", "asked", "remedy"),
    [
        ("labels", "durability", {"durability": DurabilityPolicy.TRANSIENT_LOCAL}, "volatile durability"),
        ("color", "deadline", {"deadline": Duration(seconds=1)}, "no deadline"),
        ("overlay", "liveliness", {"liveliness_lease_duration": Duration(seconds=1)}, "automatic liveliness"),
    ],
)
def test_who_asks_for_more_than_any_parameter_gives_is_told_what_to_ask_for(
    graph: Graph, topic: str, policy: str, asked: dict[str, Any], remedy: str
) -> None:
    name = f"{graph.namespace}/{topic}"
    subscriber = graph.tester.create_subscription(Image, name, lambda _: None, QoSProfile(depth=1, **asked))
    text = graph.wait_message(f"a subscriber of {name} asks for a {policy} that this node", f"let it ask for {remedy}")
    named = re.findall(r"qos_overrides\.[\w./]+", text)
    assert [parameter for parameter in named if not graph.node.has_parameter(parameter)] == []
    graph.tester.destroy_subscription(subscriber)


def test_a_reliability_that_was_asked_for_and_is_not_offered_is_set_to_auto(checkpoint: Path) -> None:
    graph = Graph({"checkpoint": str(checkpoint), "reliability": "reliable"})
    try:
        assert graph.node.trigger_configure() and graph.node.trigger_activate()
        graph.add_camera("image", reliability=ReliabilityPolicy.BEST_EFFORT)
        text = graph.wait_message(f"a publisher of {graph.namespace}/image", "reliability is reliable; set it to auto")
        assert "qos_overrides" not in text
    finally:
        graph.close()


def test_a_reliability_that_the_node_chooses_itself_is_nothing_to_warn_of(checkpoint: Path) -> None:
    graph = Graph({"checkpoint": str(checkpoint)})
    try:
        graph.start()
        graph.wait_message("subscribed to", "(reliable)")
        profile = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        graph.tester.create_publisher(Image, f"{graph.namespace}/image", profile)
        graph.wait_message("subscribed to", "(best effort)")
        assert not [text for text in graph.messages() if "does not offer" in text]
    finally:
        graph.close()
