"""Segment a camera: `ros2 launch stmem_ros segment.launch.py image_topic:=/camera/image_raw`."""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from stmem_ros.node.transport import large_data_environment
from stmem_ros.topics import camera_names, output_topics

SHARE = get_package_share_directory("stmem_ros")

# Parameters of the node that can be given on the command line; empty: as params_file has it.
PARAMETER_ARGUMENTS = {
    "checkpoint": "Checkpoint (.safetensors) or exported folder; empty: as params_file says, else the package's model.",
    "device": "auto, cpu, cuda or cuda:N; empty: as params_file says.",
    "precision": "auto, float32, bfloat16 or float16; empty: as params_file says.",
    "window": "causal (label at once) or centered (one frame later); empty: as params_file says.",
    "short_side": "Height or width, whichever is less, that images are resized to; less is faster, more sees smaller "
    "things; 0: as the network was trained; empty: as params_file says.",
    "image_topics": "Topics of several cameras, separated by commas, in place of image_topic: each gets a window and "
    "outputs of its own (/segmentation/front/labels); empty: as params_file says.",
    "autostart": "true: configure and activate at once; false: wait for a lifecycle manager. "
    "Empty: as params_file says.",
    "use_sim_time": "true: take the time from /clock; empty: as params_file says.",
}
# Files in config/ with a few parameters each.
PRESETS = ("fast", "balanced", "accurate")
# Name: (default, description).
LAUNCH_ARGUMENTS = {
    "namespace": ("segmentation", "Namespace of the node and its outputs."),
    "image_topic": ("/camera/image_raw", "The camera's topic; compressed images are taken from below it."),
    "params_file": (os.path.join(SHARE, "config", "segment.yaml"), "YAML file with the node's parameters."),
    "preset": ("", "fast, balanced or accurate: a choice of short_side, on top of params_file; empty: none."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
    "respawn": ("false", "true: start the node again when it dies."),
    "large_data": (
        "false",
        "true: Fast DDS settings under which large best-effort images arrive. The camera's process needs them too, "
        "and so does everyone on another host. Without effect where Fast DDS is not used or is configured already.",
    ),
    "rviz": (
        "false",
        "true: show colours and overlay, of several cameras the first one's, in RViz, which must be installed (rviz2).",
    ),
}


def start(context):
    """The node, with a preset on top of params_file, and what was given on the command line on top of both."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    given = {name: value(name) for name in PARAMETER_ARGUMENTS if value(name)}
    if "short_side" in given:
        if not given["short_side"].lstrip("-").isdigit():
            raise ValueError(f"short_side:={given['short_side']} is no number of pixels; give one, such as 360")
        given["short_side"] = int(given["short_side"])
    if "image_topics" in given:
        given["image_topics"] = [topic.strip() for topic in given["image_topics"].split(",") if topic.strip()]
    for name in ("autostart", "use_sim_time"):
        if name in given:
            given[name] = given[name].lower() in ("true", "1", "yes", "on")
    preset = value("preset")
    if preset and preset not in PRESETS:
        raise ValueError(f"preset:={preset} is not known; there are {', '.join(PRESETS)}")
    if not os.path.isfile(value("params_file")):
        # Launch would only warn, and the node run on its defaults.
        raise ValueError(f"params_file:={value('params_file')} is no file")
    presets = [os.path.join(SHARE, "config", f"{preset}.yaml")] if preset else []
    large_data = value("large_data").lower() in ("true", "1", "yes", "on")
    # Of several cameras the first.
    topics = given.get("image_topics") or [value("image_topic")]
    shown = output_topics(value("namespace"), camera_names(topics)[topics[0]], ["overlay", "color"])
    return [
        # First: where it is not installed, nothing else has been started.
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", os.path.join(SHARE, "config", "segment.rviz")],
            # The layout shows the topics of the default namespace.
            remappings=[(f"/segmentation/{name}", topic) for name, topic in shown.items()],
            parameters=[{"use_sim_time": given.get("use_sim_time", False)}],
            condition=IfCondition(value("rviz")),
        ),
        Node(
            package="stmem_ros",
            executable="segmentation_node",
            name="segmentation",
            namespace=value("namespace"),
            parameters=[value("params_file"), *presets, given],
            remappings=[("image", value("image_topic"))],
            additional_env=large_data_environment(os.environ) if large_data else {},
            ros_arguments=["--log-level", value("log_level")],
            respawn=value("respawn").lower() in ("true", "1", "yes", "on"),
            respawn_delay=2.0,
            output="screen",
        ),
    ]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value="", description=text) for name, text in PARAMETER_ARGUMENTS.items()
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in LAUNCH_ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
