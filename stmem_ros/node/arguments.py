"""The command line of a node: what ROS takes of it, what nobody takes, and what is meant for another node."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterable, Sequence

from rclpy.expand_topic_name import expand_topic_name
from rclpy.utilities import remove_ros_args

from stmem_ros.files import one_line
from stmem_ros.node.overrides import nearest
from stmem_ros.node.parameter_files import addresses, read_sections

# Where in rcl's sources an error was noticed, and what it begins with.
RCL_NOISE = re.compile(r"^failed to initialize rcl: |(, at \S+:\d+)+(?=$|[,.])|: error not set")

ROS_OPTIONS = ("-p", "--param", "-r", "--remap", "--params-file", "--log-level")


def left_over(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str:
    """A line about what neither ROS nor the parser takes of the arguments; empty if there is nothing.

    Ends the process as argparse does for `--help`.
    """
    _, words = parser.parse_known_args(remove_ros_args(list(arguments)))
    if not words:
        return ""
    if not any(":=" in word or word in ROS_OPTIONS for word in words):
        return f"{' '.join(words)} is not understood; --help shows what is"
    # Whatever looks like a remapping was left out of `words`: ROS takes it without --ros-args too.
    words = _split(arguments)[0]
    text = " ".join(words)
    options = text if words[0].startswith("-") else " ".join(f"-p {word}" for word in words)
    return f"{text} would have no effect: parameters and remappings stand behind --ros-args, as in --ros-args {options}"


def refusal(error: Exception) -> str:
    """Why ROS does not start with its arguments, on one line."""
    text = one_line(error)
    if type(error).__name__ == "UnknownROSArgsError":
        words = " ".join(re.findall(r"'([^']*)'", text)) or text
        return (
            f"{words} is no ROS argument; after --ros-args there are -p NAME:=VALUE, -r FROM:=TO, --params-file FILE, "
            "--log-level LEVEL and others, and -- ends them"
        )
    return RCL_NOISE.sub("", text)


def ros_arguments(arguments: Sequence[str]) -> list[str]:
    """The words between each `--ros-args` and the `--` that ends it."""
    return _split(arguments)[1]


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words outside of `--ros-args ... --`, and those within."""
    outside: list[str] = []
    within: list[str] = []
    words = outside
    for word in arguments:
        if word == "--ros-args":
            words = within
        elif word == "--":
            words = outside
        else:
            words.append(word)
    return outside, within


def misdirected(arguments: Sequence[str], node: str) -> list[str]:
    """A line for each `--params-file` and each `-p NODE:NAME:=VALUE` that says nothing to the node of this full name.

    `arguments` are those of the process; rcl has accepted them already.
    """
    words = ros_arguments(arguments)
    lines = []
    for option, value in itertools.pairwise(words):
        if option == "--params-file":
            lines += _misdirected_file(value, node)
        elif option in ("-p", "--param"):
            # The value itself may hold colons.
            addressee, colon, _ = value.partition(":=")[0].rpartition(":")
            if colon and not addresses(f"/{addressee}", node):
                lines.append(
                    f"{option} {value} is for a node /{addressee}, and this one is {node}: leave {addressee!r} and the "
                    "colon out"
                )
    return lines


def unmatched(arguments: Sequence[str], names: Iterable[str], node: str, namespace: str) -> list[str]:
    """A line for each remapping that is of none of the node's `names` of topics and services."""
    known = {expand_topic_name(name, node, namespace): name for name in names}
    lines = []
    for option, value in itertools.pairwise(["", *arguments]):
        source, rule, target = value.partition(":=")
        # Without an option rcl still takes it, as ROS 1 did.
        positional = (not option.startswith("-") or option == "--") and re.fullmatch(r"[\w/~]+", source) is not None
        if not rule or not (option in ("-r", "--remap") or positional):
            continue
        source = re.sub(r"^(rostopic|rosservice)://", "", source.rpartition(":")[2] if "//" not in source else source)
        # Names of nodes and namespaces, and patterns.
        if source.startswith("__") or re.search(r"[*{\\]", source):
            continue
        try:
            full = expand_topic_name(source, node, namespace)
        except ValueError:
            full = source
        if full not in known:
            near = nearest(source, known.values())
            advice = f"did you mean {near}:={target}?" if near else f"`ros2 node info` shows the names of {node}"
            lines.append(f"the remapping {value} is of nothing that this node has, so it has no effect; {advice}")
    return lines


def _misdirected_file(path: str, node: str) -> list[str]:
    try:
        names = list(read_sections(path))
    except (ImportError, OSError, ValueError):
        return []
    if any(addresses(name, node) for name in names):
        return []
    if not names:
        return [f"the parameter file {path} is empty: nothing in it is for a node"]
    return [
        f"the parameter file {path} has parameters for {', '.join(names)}, and none for this node, {node}: write "
        f"{node} or /** in place of the name"
    ]
