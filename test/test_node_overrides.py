"""What a user gives the node at its start: taken as it is meant, or said in one line; never lost in silence."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from graph import Graph, wait_for  # noqa: E402
from gray import own_graphs, save_gray  # noqa: E402
from rcl_interfaces.srv import GetParameters, ListParameters  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter, parameter_value_to_python  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402

from stmem_ros.node.arguments import misdirected, unmatched  # noqa: E402
from stmem_ros.node.overrides import fitted, unknown  # noqa: E402
from stmem_ros.node.parameter_files import addresses  # noqa: E402
from stmem_ros.node.segmentation_node import SegmentationNode, main  # noqa: E402
from stmem_ros.topics import names_in  # noqa: E402

_numbers = itertools.count()
Said = list[tuple[str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with own_graphs(29):
        yield save_gray(tmp_path_factory.mktemp("model") / "gray.safetensors")


class Recording(SegmentationNode):
    """Keeps what it logs."""

    said: Said

    def info(self, message: str) -> None:
        self.said.append(("info", message))

    def warn(self, message: str) -> None:
        self.said.append(("warn", message))

    def error(self, message: str) -> None:
        self.said.append(("error", message))


@pytest.fixture
def start(checkpoint: Path) -> Iterator[Callable[..., Recording]]:
    """`start(*arguments)` makes a node with these ROS arguments, as `main` does."""
    with contextlib.ExitStack() as stack:

        def make(*arguments: str, namespace: str = "") -> Recording:
            context = rclpy.Context()
            namespace = namespace or f"/ns{next(_numbers)}"
            words = ["--ros-args", "-r", f"__ns:={namespace}", "-p", f"checkpoint:={checkpoint}", *arguments]
            rclpy.init(args=words, context=context)
            stack.callback(context.try_shutdown)
            Recording.said = []
            node = Recording(words, context=context)
            stack.callback(node.destroy_node)
            return node

        yield make


def warnings(node: Recording) -> list[str]:
    return [text for level, text in node.said if level == "warn" and "vision_msgs" not in text]


FITTING = {
    "a whole number for a number": (1, 0.5, 1.0),
    "a whole float for a whole number": (360.0, 0, 360),
    "one name for a list": ("/front/image", [""], ["/front/image"]),
    "an empty list": ([], [""], [""]),
    "what rcl makes of an empty list": (None, [""], [""]),
    "as it is": (True, False, True),
}


@pytest.mark.parametrize("name", FITTING)
def test_a_value_that_can_be_meant_is_taken(name: str) -> None:
    value, default, expected = FITTING[name]
    taken = fitted("x", value, default)
    assert taken == expected and type(taken) is type(expected)


MISFITS = {
    "a word for a number": ("fast", 0.5, "must be a number, such as 0.5"),
    "a truth for a number": (True, 0.5, "must be a number"),
    "a truth for a whole number": (True, 0, "must be a whole number"),
    "a half for a whole number": (0.5, 3, "must be a whole number, such as 3"),
    "a number for a truth": (1, True, "must be true or false"),
    "a word for a truth": ("maybe", True, "'maybe'; it must be true or false"),
    "a number for a word": (0, "auto", "write it in quotes: \"'0'\""),
    "numbers for names": ([1, 2], [""], "must be a list of strings"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_value_that_cannot_be_meant_is_named_with_what_is_allowed(name: str) -> None:
    value, default, said = MISFITS[name]
    with pytest.raises(ValueError, match=r"^parameter x is ") as refusal:
        fitted("x", value, default)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["/a/image,/b/image", " /a/image , /b/image ", "/a/image /b/image", "['/a/image', '/b/image']"]
)
def test_topics_in_one_string_are_told_apart(text: str) -> None:
    assert names_in(text) == ["/a/image", "/b/image"]


def test_whole_numbers_for_numbers_and_topics_in_one_string_start_a_node(start: Callable[..., Recording]) -> None:
    node = start("-p", "max_gap:=2", "-p", "image_topics:=/a/image, /b/image", "-p", "short_side:=64.0")
    assert node.get_parameter("max_gap").value == 2.0
    node.start()
    assert [stream.name for stream in node.streams] == ["a", "b"] and not warnings(node)
    # Later too, where rclpy asks before it checks types.
    if hasattr(node, "add_pre_set_parameters_callback"):
        assert node.set_parameters([Parameter("max_gap", value=3)])[0].successful
        assert node.get_parameter("max_gap").value == 3.0
        assert not node.set_parameters([Parameter("max_gap", value="long")])[0].successful


UNUSABLE = {
    "max_gap:=fast": ({"max_gap": 1.0}, "parameter max_gap is 'fast'; it must be a number, such as 1.0"),
    "overlay_alpha:=7": ({"overlay_alpha": 0.5}, "parameter overlay_alpha is 7; it must be from 0 to 1"),
    "max_gap:=.nan": ({"max_gap": 1.0}, "parameter max_gap is nan; it must be from 0.001 to 3600"),
    "autostart:=maybe": ({"autostart": True}, "parameter autostart is 'maybe'; it must be true or false"),
    "use_sim_time:=maybe": ({}, "parameter use_sim_time is 'maybe'; it must be true or false"),
}


@pytest.mark.parametrize("override", UNUSABLE)
def test_a_value_that_cannot_be_used_leaves_a_node_that_says_so_and_can_be_mended(
    override: str, start: Callable[..., Recording]
) -> None:
    """A process that ended would be started again and again by a launch file with `respawn`."""
    mended, said = UNUSABLE[override]
    node = start("-p", override)
    node.start()
    assert [text for level, text in node.said if level == "error"] == [f"cannot configure: {said}"]
    assert node.failure and not node.streams
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    if mended:
        results = node.set_parameters([Parameter(name, value=value) for name, value in mended.items()])
        assert all(result.successful for result in results)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_names_that_no_parameter_has_are_warned_of_with_the_nearest(start: Callable[..., Recording]) -> None:
    node = start(*itertools.chain(*(("-p", rule) for rule in ("wndow:=centered", "camera.max_gap:=2.0", "zzzz:=1"))))
    assert node.get_parameter("window").value == "causal"
    assert sorted(warnings(node)) == [
        "parameter camera.max_gap is not known here, so its value 2.0 has no effect; did you mean max_gap?",
        "parameter wndow is not known here, so its value 'centered' has no effect; did you mean window?",
        "parameter zzzz is not known here, so its value 1 has no effect; `ros2 param list` shows the names that there "
        "are",
    ]


def test_qos_of_topics_that_the_node_does_not_have_is_warned_of(start: Callable[..., Recording]) -> None:
    space = "/qos"
    good = [f"{space}/labels.publisher.depth:=3", f"{space}/image.subscription.depth:=2"]
    good += [f"{space}/image/compressed.subscription.reliability:=reliable"]
    bad = [f"{space}/lables.publisher.depth:=3", f"{space}/labels.publisher.deadline:=3"]
    rules = itertools.chain(*(("-p", f"qos_overrides.{rule}") for rule in good + bad))
    node = start(*rules, namespace=space)
    node.start()
    said = warnings(node)
    assert len(said) == 2
    assert f"did you mean qos_overrides.{space}/labels.publisher.depth?" in said[0]
    assert f"qos_overrides.{space}/labels.publisher.deadline is not known" in said[1]


def test_what_ros2_param_dump_writes_starts_the_node_again(checkpoint: Path, tmp_path: Path) -> None:
    """With real services; `ros2 param dump` asks for these two and writes what it gets as YAML."""
    graph = Graph({"checkpoint": str(checkpoint), "max_gap": 2.5, "enabled_cameras": [""]})
    try:
        graph.start(reliability=ReliabilityPolicy.BEST_EFFORT)
        names = graph.call("list_parameters", ListParameters).result.names
        assert any(name.startswith("qos_overrides.") for name in names)
        values = graph.call("get_parameters", GetParameters, names=names).values
        dumped = {name: parameter_value_to_python(value) for name, value in zip(names, values, strict=True)}
        assert None not in dumped.values()
        path, name = tmp_path / "dump.yaml", f"{graph.namespace}/segmentation"
        path.write_text(yaml.safe_dump({name: {"ros__parameters": dumped}}))
        context = rclpy.Context()
        words = ["--ros-args", "-r", f"__ns:={graph.namespace}", "--params-file", str(path)]
        rclpy.init(args=words, context=context)
        Recording.said = []
        node = Recording(words, context=context)
        try:
            node.start()
            # Nothing spins this node.
            camera = node.streams[0].camera
            wait_for(lambda: camera._look() or camera.reliability == ReliabilityPolicy.BEST_EFFORT, "the camera")
            assert node.get_parameter("max_gap").value == 2.5
            assert not warnings(node) and misdirected(words, name) == []
        finally:
            node.destroy_node()
            context.try_shutdown()
    finally:
        graph.close()


NODE = "/segmentation/segmentation"
ADDRESSED = [
    "/segmentation/segmentation",
    "segmentation/segmentation",
    "/**",
    "**",
    "/*/segmentation",
    "/segmentation/**",
]
ADDRESSED += ["/*/segmentation", "/**/segmentation", "/*/*"]


@pytest.mark.parametrize("name", ADDRESSED)
def test_names_with_wildcards_are_of_the_node_as_rcl_has_it(
    name: str, start: Callable[..., Recording], tmp_path: Path
) -> None:
    assert addresses(name, NODE)
    path = tmp_path / "params.yaml"
    path.write_text(f'"{name}":\n  ros__parameters:\n    max_gap: 2.0\n')
    assert start("--params-file", str(path), namespace="/segmentation").get_parameter("max_gap").value == 2.0


@pytest.mark.parametrize("name", ["segmentation", "/*", "/other/segmentation", "/segmentation", "/a/**"])
def test_a_file_for_another_node_is_warned_of(name: str, start: Callable[..., Recording], tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f'"{name}":\n  ros__parameters:\n    max_gap: 2.0\n')
    words = ["--ros-args", "--params-file", str(path)]
    (said,) = misdirected(words, NODE)
    assert f"for /{name.strip('/')}, and none for this node, {NODE}" in said and f"{NODE} or /**" in said
    assert start("--params-file", str(path), namespace="/segmentation").get_parameter("max_gap").value == 1.0


def test_a_file_for_several_nodes_is_for_this_one_too(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    nested = {"segmentation": {"segmentation": {"ros__parameters": {"max_gap": 2.0}}}}
    path.write_text(yaml.safe_dump({"/camera": {"ros__parameters": {"rate": 5}}, **nested}))
    assert misdirected(["--ros-args", "--params-file", str(path)], NODE) == []
    assert misdirected(["--params-file", str(path / "not ROS's")], NODE) == []


def test_an_override_for_another_node_is_warned_of() -> None:
    words = ["--ros-args", "-p", "segmentation:max_gap:=2.0", "-p", "topics:='a:=b'", "--", "-p", "x:y:=1"]
    (said,) = misdirected(words, NODE)
    assert "-p segmentation:max_gap:=2.0 is for a node /segmentation, and this one is /segmentation" in said
    assert misdirected(words, "/segmentation") == []


def test_remappings_of_what_the_node_does_not_have_are_warned_of(start: Callable[..., Recording]) -> None:
    rules = ["image:=/camera/image", "labels:=/l", "~/reset:=/r", "/diagnostics:=/d", "segmentation:overlay:=/o"]
    rules += ["/clock:=/sim/clock", "rostopic://color:=/c", "image/compressed:=/x"]
    rules += ["img:=/camera/image", "lables:=/l", "/labels:=/l"]
    node = start(*itertools.chain(*(("-r", rule) for rule in rules)))
    node.start()
    assert [text.partition(" is of nothing")[0] for text in warnings(node)] == [
        f"the remapping {rule}" for rule in rules[-3:]
    ]
    assert "did you mean labels:=/l?" in warnings(node)[1]


def test_what_only_looks_like_a_remapping_is_none() -> None:
    words = ["--ros-args", "-p", "max_gap:=2.0", "--param", "window:=causal", "-r", "__ns:=/x", "-r", "__node:=y"]
    words += ["--log-level", "segmentation:=debug", "--params-file", "a:=b", "--", "x:=y"]
    (said,) = unmatched(words, ["image"], "segmentation", "/x")
    assert said.startswith("the remapping x:=y is of nothing")


REFUSED = {
    "parameters without --ros-args": (
        ["-p", "max_gap:=2.0"],
        "-p max_gap:=2.0 would have no effect: parameters and remappings stand behind --ros-args, as in --ros-args -p "
        "max_gap:=2.0",
    ),
    "a parameter that looks like a remapping": (["-p", "window:=causal"], "as in --ros-args -p window:=causal"),
    "a parameter file without --ros-args": (["--params-file", "x.yaml"], "as in --ros-args --params-file x.yaml"),
    "an option": (["--cameras", "2"], "--cameras 2 is not understood; --help shows what is"),
    "a ROS argument that is none": (
        ["--ros-args", "--bogus"],
        "--bogus is no ROS argument; after --ros-args there are",
    ),
    "a launch argument among ROS's": (
        ["--ros-args", "-p", "window:=causal", "image_topic:=/c"],
        "image_topic:=/c is no",
    ),
    "a rule that is none": (["--ros-args", "-r", "x"], "Couldn't parse remap rule: '-r x'"),
    "a bad namespace": (["--ros-args", "-r", "__ns:=bad ns"], "remap rule"),
    "no such file": (["--ros-args", "--params-file", "/nowhere/none.yaml"], "/nowhere/none.yaml"),
    "a file that is no YAML": (["--ros-args", "--params-file", "{bad}"], "bad.yaml"),
    "a parameter without a value": (["--ros-args", "-p", "max_gap"], "max_gap"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_are_one_line_and_no_node(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, ros_domain: int
) -> None:
    arguments, said = REFUSED[name]
    (tmp_path / "bad.yaml").write_text("a: [")
    arguments = [word.format(bad=tmp_path / "bad.yaml") for word in arguments]
    status = main(arguments)
    line = capsys.readouterr().err
    assert status == (1 if "--ros-args" in arguments else 2)
    assert line.startswith("segmentation: ") and line.count("\n") == 1 and said in line and "/src/" not in line
    assert not rclpy.ok()


def test_unknown_lists_only_what_is_unknown() -> None:
    known = [Parameter("window", value="causal")]
    assert unknown(known, {"window"}) == []
