"""Parameters of nodes in YAML files and launch files, read as ROS reads them: which node gets which value."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import rclpy

from stmem_ros.files import one_line

EVERY_NODE = "/**"
# Parameters by the name of a node, wildcards included, in the order in which ROS met the names.
Overrides = dict[str, dict[str, Any]]


def read_parameters(argument: str, path: str) -> Overrides:
    """What a parameter file has for each name of a node. Raises ValueError that names the argument and the file."""
    # ROS's own parser says whether it takes the file: it is stricter than YAML.
    context = rclpy.Context()
    try:
        rclpy.init(context=context, args=["--ros-args", "--params-file", path])
    except RuntimeError as error:
        reason = re.sub(r"^.*?Error: |, at \S+:\d+|: error not set", "", one_line(error))
        raise ValueError(f"{argument}:={path} is no file of parameters: {reason}") from None
    finally:
        context.try_shutdown()
    try:
        return read_sections(path)
    except ValueError as error:
        raise ValueError(f"{argument}:={path} is no YAML: {one_line(error)}") from None


def read_sections(path: str) -> Overrides:
    """What a file that ROS has accepted has for each name of a node. Raises OSError, and ValueError for no YAML."""
    # Every ROS that has rclpy has it; only what looks into such a file needs it.
    import yaml

    found: Overrides = {}
    try:
        with open(path, encoding="utf-8-sig") as text:
            for name, values in _below_names(yaml.safe_load(text)):
                merge(found, {name: values})
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return found


def inherited(global_parameters: Iterable[Any]) -> Overrides:
    """What parent launch files set for all nodes: names with values (SetParameter), and files."""
    found: Overrides = {}
    for entry in global_parameters:
        if isinstance(entry, tuple):
            merge(found, {EVERY_NODE: {entry[0]: entry[1]}})
        else:
            merge(found, read_parameters("SetParametersFromFile", str(entry)))
    return found


def merge(into: Overrides, more: Overrides) -> None:
    """As ROS does: a name that was met before keeps its place, and a newer value of a parameter replaces an older."""
    for name, values in more.items():
        into.setdefault(name, {}).update(values)


def values_of(overrides: Overrides, node: str) -> dict[str, Any]:
    """What the node of this full name gets: of two names that are both its own, the one that ROS met last wins."""
    found: dict[str, Any] = {}
    for name, values in overrides.items():
        if addresses(name, node):
            found.update(values)
    return found


def addresses(name: str, node: str) -> bool:
    """Whether a name in a parameter file, with `*` for one part and `**` for any number of them, is of this node."""
    parts = [
        "(/[^/]+)*" if part == "**" else "/[^/]+" if part == "*" else f"/{re.escape(part)}"
        for part in name.strip("/").split("/")
    ]
    return re.fullmatch("".join(parts), node) is not None


def _below_names(document: Any, prefix: str = "") -> Iterable[tuple[str, dict[str, Any]]]:
    if not isinstance(document, dict):
        return
    for key, content in document.items():
        if key == "ros__parameters":
            yield prefix, dict(_flat(content))
        else:
            yield from _below_names(content, f"{prefix}/{str(key).strip('/')}")


def _flat(content: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in (content or {}).items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
