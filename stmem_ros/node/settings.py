"""The parameters' values, checked, in the groups in which the node needs them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from rclpy.node import Node
from rclpy.parameter import Parameter

from stmem_ros.node.parameters import PARAMETERS, check_choice
from stmem_ros.streaming import StreamConfig
from stmem_ros.topics import camera_names, names_in

Group = TypeVar("Group")
# The names, in diagnostics, of what is no camera, and of the camera that has none.
THE_NODE, THE_MODEL = "node", "model"
THE_STREAM = "stream"
# What may come before `/labels`.
NAME = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What a loaded model is made of. Where one of these changes, the model is loaded anew."""

    checkpoint: str
    device: str
    precision: str
    window: str
    short_side: int

    def line(self) -> str:
        """For people."""
        return (
            f"model {self.checkpoint or 'of the package'}, window {self.window}, short_side {self.short_side}, "
            f"precision {self.precision}, device {self.device}"
        )

    def stream(self) -> StreamConfig:
        """Raises ValueError naming the field, the value and what is allowed."""
        return StreamConfig(
            window=self.window,  # type: ignore[arg-type]
            short_side=self.short_side,
            device=self.device,
            precision=self.precision,
        )


@dataclasses.dataclass(frozen=True)
class InputSettings:
    """What the node listens to; fixed while it is configured."""

    image_topics: tuple[str, ...]
    camera_names: tuple[str, ...]
    camera_info_topics: tuple[str, ...]
    image_transport: str
    reliability: str
    threads: int


@dataclasses.dataclass(frozen=True)
class FrameSettings:
    """What the worker reads before each frame."""

    max_gap: float
    max_batch: int
    used_bits: int
    overlay_alpha: float
    output_scale: float
    output_height: int
    jpeg_quality: int


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """From which on health is a WARN or an ERROR."""

    no_image_warning: float
    watchdog: float
    latency_warning: float
    latency_error: float
    rate_warning: float
    rate_error: float
    lost_warning: float


def value_of(node: Node, name: str) -> Any:
    """A parameter as it is."""
    return node.get_parameter(name).value


def read_values(node: Node, changed: list[Parameter] | None = None) -> dict[str, Any]:
    """Every parameter of the node as it is, or as it will be with `changed`. Raises ValueError for a wrong choice."""
    values = {parameter.name: value_of(node, parameter.name) for parameter in PARAMETERS}
    values |= {parameter.name: parameter.value for parameter in changed or [] if parameter.name in values}
    for name, value in values.items():
        check_choice(name, value)
    return values


def group(kind: type[Group], values: Mapping[str, Any]) -> Group:
    """The values of one of the groups above."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: listed(values[name]) if isinstance(values[name], list) else values[name] for name in names})


def listed(values: list[str]) -> tuple[str, ...]:
    """The names in a list parameter; one string may hold several, and an empty one none."""
    return tuple(name for value in values for name in names_in(value))


def read(node: Node, kind: type[Group]) -> Group:
    """One of the groups above, as the parameters are now."""
    return group(kind, {field.name: value_of(node, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def name_cameras(topics: tuple[str, ...], given: tuple[str, ...]) -> list[str]:
    """A name for the outputs of each camera: as given, else the part of the topics in which they differ; none for one.

    Raises ValueError where names do not fit the topics, two are the same, or one cannot stand in a topic or in
    diagnostics.
    """
    if len(set(topics)) != len(topics):
        twice = next(topic for topic in topics if topics.count(topic) > 1)
        raise ValueError(f"parameter image_topics has {twice} twice; each camera has one window")
    if given and len(given) != len(topics):
        raise ValueError(f"parameter camera_names has {len(given)} names for {len(topics)} image_topics")
    names = list(given or camera_names(topics).values())
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two cameras are called {twice!r}; parameter camera_names gives them names of their own")
    for name in names:
        if name and not NAME.fullmatch(name):
            raise ValueError(
                f"a camera is called {name!r}, and its outputs NAME/labels; parameter camera_names gives it a name of "
                "letters, digits and _, not beginning with a digit, such as front or left/wide"
            )
        if name in (THE_NODE, THE_MODEL):
            raise ValueError(
                f"a camera is called {name!r}, as a status in diagnostics is; parameter camera_names gives it another "
                "name"
            )
    return names
