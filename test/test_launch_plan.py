"""What the launch files decide before anything starts: as a user types it, without launch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from stmem_ros.node import launch_plan
from stmem_ros.node.launch_plan import Plan, image_source, parameters_for

ROOT = Path(__file__).resolve().parents[1]


def plan(**arguments: Any) -> Plan:
    """The plan for these launch arguments, the others at their defaults."""
    defaults = {
        **dict.fromkeys((*launch_plan.PARAMETERS, "preset"), ""),
        "namespace": "segmentation",
        "image_topic": "/camera/image_raw",
        "params_file": str(ROOT / "config" / "segment.yaml"),
        "log_level": "info",
        **dict.fromkeys(("respawn", "large_data", "rviz"), "false"),
    }
    return launch_plan.plan(defaults | arguments, str(ROOT))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_parameters(sections: dict[str, dict[str, Any]]) -> str:
        file = tmp_path / "parameters.yaml"
        file.write_text(yaml.safe_dump({node: {"ros__parameters": each} for node, each in sections.items()}))
        return str(file)

    return write_parameters


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"autostart": "maybe"}, "autostart:=maybe is neither true nor false"),
        ({"use_sim_time": "tru"}, "use_sim_time:=tru is neither true nor false"),
        ({"respawn": "yess"}, "respawn:=yess is neither true nor false"),
        ({"large_data": ""}, "large_data:= is neither true nor false"),
        ({"rviz": "2"}, "rviz:=2 is neither true nor false"),
        ({"short_side": "3.5"}, "short_side:=3.5 is no number of pixels; give one, such as 360"),
        ({"short_side": "--3"}, "short_side:=--3 is no number of pixels; give one, such as 360"),
        ({"preset": "quick"}, "preset:=quick is not known; there are fast, balanced, accurate"),
        ({"log_level": "verbose"}, "log_level:=verbose is no level; there are debug, info, warn, error, fatal"),
        ({"params_file": "/nowhere.yaml"}, "params_file:=/nowhere.yaml is no file"),
        ({"image_topic": "/a,/b"}, "image_topic:=/a,/b is more than one topic; image_topics takes several"),
        ({"image_topic": "/front-left/image"}, "image_topic:=/front-left/image is no topic: the parts between"),
        ({"image_topics": "/a,/2b"}, "image_topics:=/2b is no topic: the parts between"),
        ({"image_topics": "[]"}, "image_topics:=[] names no topic"),
        ({"image_topics": "/a,/b,/a"}, "image_topics has /a twice"),
        ({"rviz": "on"}, "rviz:=on needs package rviz2: apt install ros-$ROS_DISTRO-rviz2"),
        ({"namespace": "my-robot"}, "namespace:=my-robot is no namespace: the parts between"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_by_name(
    arguments: dict[str, str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine without RViz.
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=re.escape(line)) as refused:
        plan(**arguments)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("text", "value"), [("True", True), (" on", True), ("1", True), ("NO", False), ("0", False)])
def test_booleans_are_what_people_write(text: str, value: bool) -> None:
    assert plan(autostart=text).parameters == {"autostart": value}
    assert plan(respawn=text).respawn is value


@pytest.mark.parametrize("text", ["/front/image,/rear/image", "/front/image, /rear/image", "/front/image /rear/image"])
def test_several_topics_may_stand_apart_or_be_a_list(text: str) -> None:
    for written in (text, f"[{text}]", "['/front/image', \"/rear/image\"]"):
        made = plan(image_topics=written)
        assert made.parameters == {"image_topics": ["/front/image", "/rear/image"]}
        assert made.image_topics == ("/front/image", "/rear/image")
        assert made.shown == {"overlay": "/segmentation/front/overlay", "color": "/segmentation/front/color"}


@pytest.mark.parametrize(
    ("arguments", "overlay", "image"),
    [
        ({}, "/segmentation/overlay", "/camera/image_raw"),
        ({"namespace": "/robot/front"}, "/robot/front/overlay", "/camera/image_raw"),
        ({"namespace": ""}, "/overlay", "/camera/image_raw"),
        # PushRosNamespace in a launch file above.
        ({"ros_namespace": "/robot1"}, "/robot1/segmentation/overlay", "/camera/image_raw"),
        ({"ros_namespace": "robot1", "namespace": "seg"}, "/robot1/seg/overlay", "/camera/image_raw"),
        ({"ros_namespace": "/robot1", "namespace": "/seg"}, "/seg/overlay", "/camera/image_raw"),
        ({"ros_namespace": "/robot1", "image_topic": "cam/image"}, "/robot1/segmentation/overlay", None),
        ({"image_topics": "cam/left/image,cam/right/image"}, "/segmentation/left/overlay", None),
        ({"image_topic": ""}, "/segmentation/overlay", "/segmentation/image"),
        ({"image_topic": "~/image"}, "/segmentation/overlay", "/segmentation/segmentation/image"),
    ],
)
def test_the_viewer_is_given_the_topic_on_which_the_overlay_is(
    arguments: dict[str, str], overlay: str, image: str | None
) -> None:
    made = plan(**arguments)
    assert made.shown["overlay"] == overlay
    if image is None:
        assert all(topic.startswith(f"{made.namespace}/cam/") for topic in made.image_topics)
    else:
        assert made.image_topics == (image,)


@pytest.mark.parametrize("node", ["/**", "/segmentation/segmentation", "/*/segmentation", "segmentation/segmentation"])
def test_cameras_of_a_parameter_file_are_known(write: Any, node: str) -> None:
    cameras = {"image_topics": ["/rig/left/image", "/rig/right/image"], "enabled_cameras": ["right"]}
    made = plan(params_file=write({node: cameras}))
    assert made.shown["overlay"] == "/segmentation/right/overlay"
    named = plan(params_file=write({node: {**cameras, "camera_names": ["a", "b"], "enabled_cameras": [""]}}))
    assert named.shown["overlay"] == "/segmentation/a/overlay"


def test_a_parameter_file_of_another_node_changes_nothing(write: Any) -> None:
    made = plan(params_file=write({"/other": {"image_topics": ["/a", "/b"]}}))
    assert made.image_topics == ("/camera/image_raw",)


def test_what_a_parent_sets_wins_over_the_packages_file_and_a_users_file_over_the_parent(write: Any) -> None:
    of_parent = [("short_side", 240), ("use_sim_time", True), ("image_topics", ("/a/image", "/b/image"))]
    made = plan(global_params=of_parent)
    assert made.parameters["short_side"] == 240 and made.use_sim_time
    assert made.shown["overlay"] == "/segmentation/a/overlay"
    assert plan(global_params=of_parent, preset="accurate").parameters["short_side"] == 600
    assert plan(global_params=of_parent, preset="accurate", short_side="96").parameters["short_side"] == 96
    of_user = plan(global_params=of_parent, params_file=write({"/**": {"image_topics": ["/user"]}}))
    assert of_user.parameters == {} and of_user.image_topics == ("/user",) and of_user.use_sim_time


def test_what_a_parents_file_sets_wins_too(write: Any) -> None:
    file = write({"/**": {"window": "centered"}, "/other": {"short_side": 96}})
    assert plan(global_params=[file]).parameters == {"window": "centered"}


def test_a_preset_is_on_top_of_a_file_with_the_nodes_full_name(write: Any) -> None:
    file = write({"/segmentation/segmentation": {"short_side": 0}})
    assert plan(params_file=file, preset="fast").parameters == {"short_side": 240}


def test_a_file_that_ros_would_prefer_to_the_launch_argument_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "order.yaml"
    section = "{}:\n  ros__parameters: {{window: {}}}\n"
    file.write_text(section.format("/segmentation/segmentation", "causal") + section.format("/**", "causal"))
    with pytest.raises(ValueError, match="window to 'causal', and ROS prefers that to 'centered'"):
        plan(params_file=str(file), window="centered")
    assert plan(params_file=str(file), window="causal").parameters == {"window": "causal"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/**:\n  ros__parameters:\n", "Cannot have a value before ros__parameters"),
        ("short_side: 240\n", "Cannot have a value before ros__parameters"),
        ("/**:\n  ros__parameters:\n    a: [1, x]\n", "Sequence should be of same type"),
        ("/**: {{\n", "is no file of parameters"),
    ],
)
def test_a_file_that_ros_would_refuse_is_refused_before_the_node_starts(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"params_file:={file} is no file of parameters: ") as refused:
        plan(params_file=str(file))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_an_empty_file_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert plan(params_file=str(file)).parameters == {}
    file.write_bytes(b"\xef\xbb\xbf/**:\n  ros__parameters: {image_topics: [/a]}\n")
    assert plan(params_file=str(file)).image_topics == ("/a",)


def test_large_data_says_where_it_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RMW_IMPLEMENTATION", "FASTDDS_BUILTIN_TRANSPORTS", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    made = plan(large_data="true")
    assert set(made.environment.values()) == {str(ROOT / "config" / "large_data.xml")} and not made.warning
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    made = plan(large_data="true")
    assert made.environment == {}
    assert made.warning.startswith("large_data:=true has no effect: FASTDDS_BUILTIN_TRANSPORTS is set to UDPv4")


def test_a_replay_needs_a_source_and_a_driver_has_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "drive.mp4").touch()
    with pytest.raises(ValueError, match="source is empty, and camera:=replay needs a video file"):
        image_source("replay", "")
    with pytest.raises(ValueError, match=r"source:=drive_2\.mp4 does not exist"):
        image_source("replay", "drive_2.mp4")
    assert image_source("replay", "~/drive.mp4") == str(tmp_path / "drive.mp4")
    assert image_source("replay", "0") == "0"
    assert [image_source("usb_cam", text) for text in ("", "2", "/dev/cam")] == [
        "/dev/video0",
        "/dev/video2",
        "/dev/cam",
    ]


def test_a_parameter_file_for_another_node_is_no_camera_s(write: Any) -> None:
    file = write({"/usb_cam": {"framerate": 30.0}})
    with pytest.raises(ValueError, match="has parameters for /usb_cam, and none for /camera/camera: write"):
        parameters_for("camera_params_file", file, "/camera/camera")
    file = write({"/**/camera": {"framerate": 30.0}})
    assert parameters_for("camera_params_file", file, "/robot/camera/camera") == file
