"""Segment a camera: `ros2 launch stmem_ros segment.launch.py image_topic:=/camera/image_raw`."""

import os

import launch.logging
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from stmem_ros.node import launch_plan

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
        "true: Fast DDS's shared memory has room for large images in what these launch files start, so that "
        "best-effort ones arrive too. A camera that is started elsewhere needs config/large_data.xml of its own; "
        "subscribers need nothing. On one computer; without effect if another middleware or Fast DDS profile is set.",
    ),
    "rviz": (
        "false",
        "true: show colours and overlay, of several cameras the first one's, in RViz, which must be installed (rviz2).",
    ),
}


def start(context):
    """The node, with a preset on top of params_file, and what was given on the command line on top of both."""
    plan = launch_plan.plan(context.launch_configurations, SHARE)
    if plan.warning:
        launch.logging.get_logger("segment").warning(plan.warning)
    actions = []
    if plan.rviz:
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", os.path.join(SHARE, "config", "segment.rviz")],
                # The layout shows the topics of the default namespace.
                remappings=[(f"/segmentation/{name}", topic) for name, topic in plan.shown.items()],
                parameters=[{"use_sim_time": plan.use_sim_time}],
            )
        )
    actions.append(
        Node(
            package="stmem_ros",
            executable="segmentation_node",
            name=launch_plan.NODE,
            namespace=plan.namespace,
            parameters=[
                plan.params_file,
                # Launch would read strings as YAML.
                {
                    name: ParameterValue(given, value_type=str) if isinstance(given, str) else given
                    for name, given in plan.parameters.items()
                },
            ],
            # With image_topics nothing in the node is called image.
            remappings=[("image", plan.image_topic)] if plan.image_topics == (plan.image_topic,) else [],
            additional_env=plan.environment,
            ros_arguments=["--log-level", plan.log_level],
            respawn=plan.respawn,
            respawn_delay=2.0,
            output="screen",
        )
    )
    return actions


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value="", description=text) for name, text in PARAMETER_ARGUMENTS.items()
    ]
    arguments += [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in LAUNCH_ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
