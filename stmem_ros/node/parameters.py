"""Every parameter of the segmentation node: default, meaning, range, and the frozen config made of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from stmem_ros.streaming import StreamConfig
from stmem_ros.streaming.device import PRECISIONS


@dataclasses.dataclass(frozen=True)
class Parameter:
    """`live` parameters act at once; the others when the node is configured."""

    name: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    live: bool = False

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(name=self.name, description=self.description)
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.range is not None and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.range[0], to_value=self.range[1])]
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
    ),
    Parameter("device", "auto", "Where the network runs: auto (the first CUDA GPU, else the CPU), cpu, cuda, cuda:N."),
    Parameter(
        "precision",
        "auto",
        "Number format of the network; auto is float16 on a GPU, else float32.",
        ("auto", *PRECISIONS),
    ),
    Parameter("threads", 0, "CPU threads of the network; 0 leaves the choice to PyTorch.", range=(0, 256)),
    Parameter(
        "window",
        "causal",
        "causal: each frame is labelled at once from itself and those before it. "
        "centered: from its neighbours on both sides, its label one frame later.",
        ("causal", "centered"),
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
        "Images are resized to this height or width, whichever is less, in pixels, before the network sees them; "
        "0: what the checkpoint was trained at, -1: not at all.",
        range=(-1, 8192),
    ),
    Parameter(
        "image_transport",
        "raw",
        "raw: sensor_msgs/Image on the topic `image`. compressed: sensor_msgs/CompressedImage on `image/compressed`.",
        ("raw", "compressed"),
    ),
    Parameter(
        "reliability",
        "auto",
        "Of the image subscription; auto: reliable where every publisher offers it, else best effort.",
        ("auto", "reliable", "best_effort"),
    ),
    Parameter("overlay_alpha", 0.5, "Share of the class colours in the overlay.", range=(0.0, 1.0), live=True),
    Parameter(
        "no_image_warning",
        5.0,
        "Seconds without an image after which the node warns; 0: never.",
        range=(0.0, 3600.0),
        live=True,
    ),
    Parameter("autostart", True, "Configure and activate at once instead of waiting for a lifecycle manager."),
)


@dataclasses.dataclass(frozen=True)
class NodeConfig:
    """The parameters' values, checked."""

    checkpoint: str
    threads: int
    image_transport: str
    reliability: str
    stream: StreamConfig


def declare_parameters(node: Node) -> None:
    for parameter in PARAMETERS:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())


def check_choice(name: str, value: Any) -> None:
    """Raises ValueError where `value` is not among the parameter's choices."""
    choices = next((parameter.choices for parameter in PARAMETERS if parameter.name == name), ())
    if choices and value not in choices:
        raise ValueError(f"parameter {name} is {value!r}; it must be one of {', '.join(choices)}")


def read_config(node: Node) -> NodeConfig:
    """Raises ValueError naming the parameter, its value and what is allowed."""
    values = {parameter.name: node.get_parameter(parameter.name).value for parameter in PARAMETERS}
    for name, value in values.items():
        check_choice(name, value)
    stream = StreamConfig(
        window=values["window"],
        max_gap=values["max_gap"],
        short_side=values["short_side"],
        device=values["device"],
        precision=values["precision"],
    )
    return NodeConfig(values["checkpoint"], values["threads"], values["image_transport"], values["reliability"], stream)
