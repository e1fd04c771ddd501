"""A camera, its segmentation and a window with the overlay, in one go; copy it for a robot of your own.

`ros2 launch stmem_ros camera_to_overlay.launch.py camera:=usb_cam viewer:=rqt_image_view`, and every argument of
segment.launch.py; `camera:=replay source:=drive.mp4` needs no camera.
"""

import os

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from stmem_ros.node.transport import large_data_environment
from stmem_ros.topics import camera_info_topic, camera_names, output_topics

SEGMENT = os.path.join(get_package_share_directory("stmem_ros"), "launch", "segment.launch.py")

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
        "/dev/video0",
        "The camera's device; with camera:=replay a video file, a folder of images, a bag or a camera index.",
    ),
    "camera_params_file": ("", "YAML file with parameters of the camera's node (size, rate, format); empty: its own."),
    "viewer": (
        NONE,
        "rqt_image_view or image_view (from apt: ros-$ROS_DISTRO-rqt-image-view, ros-$ROS_DISTRO-image-view) shows the "
        "overlay, of several cameras the first one's; none: nothing does, and none is computed.",
    ),
}


def value(context, argument):
    return LaunchConfiguration(argument).perform(context)


def check(context):
    """Raises ValueError for a choice or a file that is none, RuntimeError where a package is missing.

    Before anything is started: launch leaves behind what runs already when a later part fails.
    """
    for argument, packages in (
        ("camera", {name: camera[0] for name, camera in CAMERAS.items()}),
        ("viewer", {name: name for name in VIEWERS}),
    ):
        chosen = value(context, argument)
        if chosen == NONE:
            continue
        if chosen not in packages:
            raise ValueError(f"{argument}:={chosen} is not known; there are {', '.join(packages)} and {NONE}")
        package = packages[chosen]
        try:
            get_package_prefix(package)
        except PackageNotFoundError:
            name = f"ros-$ROS_DISTRO-{package.replace('_', '-')}"
            raise RuntimeError(f"{argument}:={chosen} needs package {package}: apt install {name}") from None
    file = value(context, "camera_params_file")
    if file and not os.path.isfile(file):
        raise ValueError(f"camera_params_file:={file} is no file")


def start(context):
    """The camera and the viewer, around what segment.launch.py started."""
    camera, viewer = value(context, "camera"), value(context, "viewer")
    actions = []
    if camera != NONE:
        package, executable, image, device = CAMERAS[camera]
        topic = value(context, "image_topic")
        # A driver's other topics stay beside its images.
        remappings = [(image, topic), (f"{image}/compressed", f"{topic}/compressed")]
        remappings.append(("camera_info", camera_info_topic(topic)))
        parameters = {device: value(context, "source")}
        if camera == "replay":
            parameters |= {"loop": True, "wait_for_subscriber": True}
        large_data = value(context, "large_data").lower() in ("true", "1", "yes", "on")
        actions.append(
            Node(
                package=package,
                executable=executable,
                name="camera",
                namespace="camera",
                parameters=[parameters, *filter(None, [value(context, "camera_params_file")])],
                remappings=remappings,
                additional_env=large_data_environment(os.environ) if large_data else {},
                output="screen",
            )
        )
    if viewer != NONE:
        # Of several cameras the first.
        topics = [topic.strip() for topic in value(context, "image_topics").split(",") if topic.strip()] or [""]
        overlay = output_topics(value(context, "namespace"), camera_names(topics)[topics[0]], ["overlay"])["overlay"]
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
