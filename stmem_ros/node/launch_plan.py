"""What a launch file decides before anything starts: arguments checked, and where the node's topics will be.

Whatever cannot be is refused with a ValueError of one line that names the argument: a later failure would leave
running what launch has started by then, and a node that ends at a wrong name would be started again and again.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from stmem_ros.node.parameter_files import Overrides, addresses, inherited, merge, read_parameters, values_of
from stmem_ros.node.transport import large_data_environment
from stmem_ros.topics import camera_names, names_in, output_topics

NODE = "segmentation"
# Files in config/ with a few parameters each.
PRESETS = ("fast", "balanced", "accurate")
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
LEVELS = ("debug", "info", "warn", "error", "fatal")
SHOWN = ("overlay", "color")
NAME = re.compile(r"(/|~/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


def boolean(argument: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in (*TRUE, *FALSE):
        raise ValueError(f"{argument}:={text} is neither true nor false")
    return word in TRUE


def pixels(argument: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{argument}:={text} is no number of pixels; give one, such as 360") from None


def one_of(argument: str, text: str, choices: Iterable[str]) -> str:
    if text not in choices:
        raise ValueError(f"{argument}:={text} is not known; there are {', '.join(choices)}")
    return text


def log_level(argument: str, text: str) -> str:
    """`debug`, or `LOGGER:=debug`, as ROS takes it."""
    if text.rpartition(":=")[2].lower() not in LEVELS:
        raise ValueError(f"{argument}:={text} is no level; there are {', '.join(LEVELS)}")
    return text


def existing_file(argument: str, text: str) -> str:
    """The path, with `~` expanded."""
    path = os.path.expanduser(text)
    if not os.path.isfile(path):
        raise ValueError(f"{argument}:={text} is no file")
    return path


def require_package(argument: str, text: str, package: str) -> None:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        apt = f"ros-$ROS_DISTRO-{package.replace('_', '-')}"
        raise ValueError(f"{argument}:={text} needs package {package}: apt install {apt}") from None


def parameters_for(argument: str, text: str, node: str) -> str:
    """The path of a parameter file that has a section for the node of this full name."""
    path = existing_file(argument, text)
    sections = read_parameters(argument, path)
    if not any(addresses(section, node) for section in sections):
        raise ValueError(
            f"{argument}:={text} has parameters for {', '.join(sections) or 'no node'}, and none for {node}: write "
            f"{node} or /** above them"
        )
    return path


def image_source(camera: str, text: str) -> str:
    """What `camera`, `replay` or a driver, takes its images from."""
    if camera != "replay":
        return f"/dev/video{text or 0}" if text.isdecimal() or not text else text
    kinds = "a video file, a folder of images, a bag or a camera index"
    if not text:
        raise ValueError(f"source is empty, and camera:=replay needs {kinds}, as in source:=drive.mp4")
    path = os.path.expanduser(text)
    if not text.isdecimal() and not os.path.exists(path):
        raise ValueError(f"source:={text} does not exist; camera:=replay needs {kinds}")
    return path


def topic(argument: str, text: str) -> str:
    names = names_in(text)
    if len(names) > 1:
        raise ValueError(f"{argument}:={text} is more than one topic; image_topics takes several")
    return _name(argument, names[0] if names else text, "topic")


def topics(argument: str, text: str) -> list[str]:
    """Separated by commas or blanks, or a YAML list."""
    found = [_name(argument, each, "topic") for each in names_in(text)]
    if not found:
        raise ValueError(f"{argument}:={text} names no topic")
    return found


def namespace(argument: str, text: str, outer: str) -> str:
    """The full namespace of a node; `outer` is what launch files above push onto every node's."""
    if text.strip("/"):
        _name(argument, text.rstrip("/"), "namespace")
    parts = [text] if text.startswith("/") else [outer, text]
    return "/" + "/".join(part.strip("/") for part in parts if part.strip("/"))


def _name(argument: str, text: str, what: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{argument}:={text} is no {what}: the parts between its slashes are made of letters, digits and _, and "
            "begin with no digit"
        )
    return text


# Launch arguments that are parameters of the node, and how their text is read.
PARAMETERS: dict[str, Any] = {
    **dict.fromkeys(("checkpoint", "device", "precision", "window"), lambda _, text: text),
    "short_side": pixels,
    "image_topics": topics,
    "autostart": boolean,
    "use_sim_time": boolean,
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be started. `parameters` go on top of `params_file`.

    Topics are full names: `image_topic` is what the node's `image` is remapped to, `image_topics` are the cameras' in
    use, `shown` are the overlay and the colours of the first camera that is segmented.
    `environment` is for processes that publish images; `warning` is a line for the user, or empty.
    """

    namespace: str
    params_file: str
    parameters: dict[str, Any]
    image_topic: str
    image_topics: tuple[str, ...]
    shown: dict[str, str]
    use_sim_time: bool
    log_level: str
    respawn: bool
    rviz: bool
    environment: dict[str, str]
    warning: str = ""


def plan(configurations: Mapping[str, Any], share: str) -> Plan:
    """The plan for segment.launch.py's arguments, as `LaunchContext.launch_configurations` has them.

    What a parent launch file sets for all nodes is there too. It wins over the package's own parameter file, which is
    in `share` and repeats the node's defaults; a file of the user's own wins over it, as in every launch file.
    """
    full_namespace = namespace("namespace", configurations["namespace"], configurations.get("ros_namespace") or "")
    node = resolved(NODE, full_namespace)
    params_file = existing_file("params_file", configurations["params_file"])
    of_parent = inherited(configurations.get("global_params") or [])
    parameters: dict[str, Any] = {}
    if os.path.samefile(params_file, os.path.join(share, "config", "segment.yaml")):
        parameters |= values_of(of_parent, node)
    if preset := configurations["preset"]:
        file = os.path.join(share, "config", f"{one_of('preset', preset, PRESETS)}.yaml")
        parameters |= values_of(read_parameters("preset", file), node)
    for name, read in PARAMETERS.items():
        if text := configurations[name]:
            parameters[name] = read(name, text)

    overrides: Overrides = {}
    for more in (of_parent, read_parameters("params_file", params_file), {node: parameters}):
        merge(overrides, more)
    values = values_of(overrides, node)
    for name, value in parameters.items():
        if values[name] != value:
            raise ValueError(
                f"params_file:={params_file} sets {name} to {values[name]!r}, and ROS prefers that to {value!r} since "
                f"the section stands below that of {node}: move the section of {node} to the end of the file"
            )
    image_topic = configurations["image_topic"]
    image_topic = resolved(topic("image_topic", image_topic) if image_topic else "image", full_namespace)
    used = tuple(resolved(each, full_namespace) for each in listed(values.get("image_topics"))) or (image_topic,)
    rviz = boolean("rviz", configurations["rviz"])
    if rviz:
        require_package("rviz", configurations["rviz"], "rviz2")
    environment, warning = {}, ""
    if boolean("large_data", configurations["large_data"]):
        try:
            environment = large_data_environment(os.environ, os.path.join(share, "config", "large_data.xml"))
        except ValueError as error:
            warning = f"large_data:={configurations['large_data']} has no effect: {error}"
    return Plan(
        namespace=full_namespace,
        params_file=params_file,
        parameters=parameters,
        image_topic=image_topic,
        image_topics=used,
        shown=output_topics(full_namespace, _first_camera(values, used), SHOWN),
        use_sim_time=values.get("use_sim_time") is True,
        log_level=log_level("log_level", configurations["log_level"]),
        respawn=boolean("respawn", configurations["respawn"]),
        rviz=rviz,
        environment=environment,
        warning=warning,
    )


def _first_camera(values: Mapping[str, Any], image_topics: tuple[str, ...]) -> str:
    """The name of the first camera that is segmented."""
    if len(set(image_topics)) != len(image_topics):
        twice = next(each for each in image_topics if image_topics.count(each) > 1)
        raise ValueError(f"image_topics has {twice} twice; each camera has one window")
    names = listed(values.get("camera_names"))
    if len(names) != len(image_topics):
        # The node refuses to configure, and says why.
        names = list(camera_names(image_topics).values())
    enabled = listed(values.get("enabled_cameras"))
    return next((name for name in names if name in enabled), names[0])


def listed(value: Any) -> list[str]:
    """The names in a list parameter; one string may hold several, and an empty one none."""
    texts = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [name for text in texts for name in names_in(str(text))]


def resolved(name: str, full_namespace: str) -> str:
    """The full name of a topic or a node that is called `name` in a namespace; of a node's own, `~/`, for NODE."""
    if name.startswith("/"):
        return name
    folder = full_namespace.rstrip("/")
    return f"{folder}/{NODE}/{name[2:]}" if name.startswith("~/") else f"{folder}/{name}"
