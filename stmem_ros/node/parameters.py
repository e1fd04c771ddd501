"""Every parameter of the segmentation node: default, meaning, range, and whether it may change while it runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from stmem_ros.streaming.device import PRECISIONS
from stmem_ros.used_bits import ALL_BITS, MEANING, UNKNOWN

READ_AT_START = "it is read when the node starts"
TOPICS_FIXED = "it decides which topics there are"
LISTENING_FIXED = "it is read when the node starts to listen"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """`fixed` says why it cannot change while the node is configured, or (READ_AT_START) ever; empty: it may.

    Those `of_model` act once the model has been loaded anew. A list is empty where it holds one empty string, since
    ROS does not know the type of an empty list.
    """

    name: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    fixed: str = ""
    of_model: bool = False

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(name=self.name, description=self.description)
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.range is not None and isinstance(self.default, float):
            # ROS 2 before Jazzy takes nothing but floats here.
            least, most = map(float, self.range)
            descriptor.floating_point_range = [FloatingPointRange(from_value=least, to_value=most)]
        elif self.range is not None:
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.range[0]), to_value=int(self.range[1]), step=1)
            ]
        return descriptor


PARAMETERS = (
    Parameter(
        "checkpoint",
        "",
        "Checkpoint file (.safetensors), or a folder that training.export wrote; empty: the model that ships in the "
        "package.",
        of_model=True,
    ),
    Parameter(
        "device",
        "auto",
        "Where the network runs: auto (the first CUDA GPU, else the CPU), cpu, cuda, cuda:N.",
        of_model=True,
    ),
    Parameter(
        "precision",
        "auto",
        "Number format of the network; auto is float16 on a GPU, else float32.",
        ("auto", *PRECISIONS),
        of_model=True,
    ),
    Parameter(
        "threads",
        0,
        "CPU threads of the network; 0 leaves the choice to PyTorch.",
        range=(0, 256),
        fixed="PyTorch's threads are those of the whole process",
    ),
    Parameter(
        "window",
        "causal",
        "causal: each frame is labelled at once from itself and those before it. "
        "centered: from its neighbours on both sides, its label one frame later.",
        ("causal", "centered"),
        of_model=True,
    ),
    Parameter(
        "max_gap",
        1.0,
        "Seconds between two stamps above which the window is forgotten and a new one starts.",
        range=(0.001, 3600.0),
    ),
    Parameter(
        "short_side",
        0,
        "Images are resized to this height or width, whichever is less, in pixels, before the network sees them, at "
        "least 64; 0: what the checkpoint was trained at, -1: not at all.",
        range=(-1, 8192),
        of_model=True,
    ),
    Parameter(
        "image_topics",
        [""],
        "Topics of several cameras, one window and one set of outputs each; empty: the topic `image` alone.",
        fixed=TOPICS_FIXED,
    ),
    Parameter(
        "camera_names",
        [""],
        "Of each of image_topics, for its outputs (NAME/labels); empty: the part of the topics in which they differ.",
        fixed=TOPICS_FIXED,
    ),
    Parameter(
        "camera_info_topics",
        [""],
        "Of each camera's calibration; empty: camera_info beside each image topic.",
        fixed=TOPICS_FIXED,
    ),
    Parameter("enabled_cameras", [""], "Names of the cameras that are segmented; empty: all."),
    Parameter(
        "max_batch",
        0,
        "Cameras that go through the network at once, of those whose frames wait and are of one size; 0: all of them.",
        range=(0, 64),
    ),
    Parameter(
        "image_transport",
        "auto",
        "raw: sensor_msgs/Image on the topic. compressed: sensor_msgs/CompressedImage on the topic below it, "
        "`/compressed`, or on the topic itself. auto: what is published, raw first.",
        ("auto", "raw", "compressed"),
        fixed=LISTENING_FIXED,
    ),
    Parameter(
        "reliability",
        "auto",
        "Of the image subscription; auto: reliable where every publisher offers it, else best effort.",
        ("auto", "reliable", "best_effort"),
        fixed=LISTENING_FIXED,
    ),
    Parameter("used_bits", UNKNOWN, f"{MEANING[0].upper()}{MEANING[1:]}.", range=(0, ALL_BITS)),
    Parameter("overlay_alpha", 0.5, "Share of the class colours in the overlay.", range=(0.0, 1.0)),
    Parameter("output_scale", 1.0, "Size of the outputs, as a share of the camera image's.", range=(0.01, 1.0)),
    Parameter(
        "output_height",
        0,
        "Rows of the outputs, in place of output_scale, at most the camera's; 0: as output_scale says.",
        range=(0, 8192),
    ),
    Parameter("jpeg_quality", 90, "Of color/compressed and overlay/compressed.", range=(1, 100)),
    Parameter(
        "no_image_warning",
        5.0,
        "Seconds without an image, or with images but no labels, after which the node warns; 0: never.",
        range=(0.0, 3600.0),
    ),
    Parameter(
        "watchdog",
        0.0,
        "Seconds without an image after which a camera counts as stalled, which is an ERROR; 0: never.",
        range=(0.0, 3600.0),
    ),
    Parameter(
        "latency_warning", 0.0, "Seconds from stamp to labels, p99, above which is a WARN; 0: none.", range=(0, 60)
    ),
    Parameter(
        "latency_error", 0.0, "Seconds from stamp to labels, p99, above which is an ERROR; 0: none.", range=(0, 60)
    ),
    Parameter("rate_warning", 0.0, "Labels a second below which is a WARN; 0: none.", range=(0, 1000)),
    Parameter("rate_error", 0.0, "Labels a second below which is an ERROR; 0: none.", range=(0, 1000)),
    Parameter(
        "lost_warning",
        0.2,
        "Share of the camera's frames, by their stamps, that never arrived, above which is a WARN; 1: never.",
        range=(0.0, 1.0),
    ),
    Parameter(
        "autostart",
        True,
        "Configure and activate at once instead of waiting for a lifecycle manager.",
        fixed=READ_AT_START,
    ),
)
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def declare_parameters(node: Node) -> None:
    for parameter in PARAMETERS:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())


def check_choice(name: str, value: Any) -> None:
    """Raises ValueError where `value` is not among the parameter's choices."""
    choices = BY_NAME[name].choices if name in BY_NAME else ()
    if choices and value not in choices:
        raise ValueError(f"parameter {name} is {value!r}; it must be one of {', '.join(choices)}")
