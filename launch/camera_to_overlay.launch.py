"""A camera, its segmentation and a window with the overlay, in one go; copy it for a robot of your own.

`ros2 launch stmem_ros camera_to_overlay.launch.py camera:=usb_cam viewer:=rqt_image_view`, and every argument of
segment.launch.py; `camera:=replay source:=drive.mp4` needs no camera.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from stmem_ros.node import launch_plan
from stmem_ros.topics import camera_info_topic

SHARE = get_package_share_directory("stmem_ros")
SEGMENT = os.path.join(SHARE, "launch", "segment.launch.py")

# Of each kind of camera: package, executable, its name of the image topic, its name of the device.
CAMERAS = {
    "usb_cam": ("usb_cam", "usb_cam_node_exe", "image_raw", "video_device"),
    "v4l2_camera": ("v4l2_camera", "v4l2_camera_node", "image_raw", "video_device"),
    "replay": ("stmem_ros", "replay_node", "image", "source"),
}
VIEWERS = ("rqt_image_view", "image_view")
NONE = "none"
# Name: (default, description).
LAUNCH_ARGUMENTS = {
    "camera": (
        "usb_cam",
        "usb_cam or v4l2_camera (from apt: ros-$ROS_DISTRO-usb-cam, ros-$ROS_DISTRO-v4l2-camera), replay (of source, "
        "over and over), or none: one that runs already publishes on image_topic.",
    ),
    "source": (
        "",
        "The camera's device, empty: /dev/video0; with camera:=replay a video file, a folder of images, a bag or a "
        "camera index.",
    ),
    "camera_params_file": ("", "YAML file with parameters of the camera's node (size, rate, format); empty: its own."),
    "viewer": (
        NONE,
        "rqt_image_view or image_view (from apt: ros-$ROS_DISTRO-rqt-image-view, ros-$ROS_DISTRO-image-view) shows the "
        "overlay, of several cameras the first one's; none: nothing does, and none is computed.",
    ),
}


def check(context):
    """Raises ValueError for a choice or a file that is none, and for a package that is missing.

    Before anything is started: launch leaves behind what runs already when a later part fails.
    """
    arguments = context.launch_configurations
    for argument, packages in (
        ("camera", {name: camera[0] for name, camera in CAMERAS.items()}),
        ("viewer", {name: name for name in VIEWERS}),
    ):
        chosen = launch_plan.one_of(argument, arguments[argument], (*packages, NONE))
        if chosen != NONE:
            launch_plan.require_package(argument, chosen, packages[chosen])
    if arguments["camera"] != NONE:
        launch_plan.image_source(arguments["camera"], arguments["source"])
    camera_parameters(arguments)


def camera_parameters(arguments):
    """The file with the camera's parameters, if there is one."""
    if not arguments["camera_params_file"]:
        return []
    outer = arguments.get("ros_namespace", "")
    node = launch_plan.resolved("camera", launch_plan.namespace("camera", "camera", outer))
    return [launch_plan.parameters_for("camera_params_file", arguments["camera_params_file"], node)]


def start(context):
    """The camera and the viewer, around what segment.launch.py started."""
    arguments = context.launch_configurations
    camera, viewer = arguments["camera"], arguments["viewer"]
    plan = launch_plan.plan(arguments, SHARE)
    actions = []
    if camera != NONE:
        package, executable, image, device = CAMERAS[camera]
        # Of several cameras the first.
        topic = plan.image_topics[0]
        remappings = [(image, topic)]
        if camera != "replay":
            # A driver's other topics stay beside its images.
            remappings.append((f"{image}/compressed", f"{topic}/compressed"))
            remappings.append(("camera_info", camera_info_topic(topic)))
        source = launch_plan.image_source(camera, arguments["source"])
        parameters = {device: ParameterValue(source, value_type=str), "use_sim_time": plan.use_sim_time}
        if camera == "replay":
            parameters |= {"loop": True, "wait_for_subscriber": True}
        actions.append(
            Node(
                package=package,
                executable=executable,
                name="camera",
                namespace="camera",
                parameters=[parameters, *camera_parameters(arguments)],
                remappings=remappings,
                additional_env=plan.environment,
                output="screen",
            )
        )
    if viewer != NONE:
        overlay = plan.shown["overlay"]
        actions.append(
            Node(
                package=viewer,
                executable=viewer,
                # The one takes the topic as an argument, the other under a name of its own.
                arguments=[overlay] if viewer == "rqt_image_view" else [],
                remappings=[("image", overlay)] if viewer == "image_view" else [],
            )
        )
    return actions


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in LAUNCH_ARGUMENTS.items()
    ]
    # What it declares is known to `start` and to the command line.
    segment = IncludeLaunchDescription(PythonLaunchDescriptionSource(SEGMENT))
    return LaunchDescription([*arguments, OpaqueFunction(function=check), segment, OpaqueFunction(function=start)])
