"""docs/topics.md is what the node declares, and what the node declares is what a running node has in the graph."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

from graph import Graph, wait_for  # noqa: E402
from gray import gray_frame, own_graphs, save_gray  # noqa: E402
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from stmem_ros.node import describe, diagnostics, label_info, segmentation_node  # noqa: E402
from stmem_ros.node.parameters import PARAMETERS  # noqa: E402
from stmem_ros.node.statistics import FAILURE, STAMP  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "topics.md"
# Stands for vision_msgs/LabelInfo where that is not installed.
STAND_IN = "std_msgs/msg/Header"


def test_the_page_is_what_the_generator_prints() -> None:
    assert PAGE.read_text() == describe.page(), "run: python -m stmem_ros.node.describe > docs/topics.md"


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/topics.md)" in (ROOT / "README.md").read_text()


def test_every_table_of_the_page_has_as_many_cells_in_each_row() -> None:
    for block in describe.page().split("\n\n"):
        if block.startswith("|"):
            assert len({line.count(" | ") for line in block.splitlines()}) == 1, block


def test_every_kind_of_rejection_is_listed() -> None:
    kinds = {FAILURE, STAMP}
    for path in (ROOT / "stmem_ros").rglob("*.py"):
        if path.is_relative_to(ROOT / "stmem_ros" / "bag"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ImageError"):
                kinds.add(ast.literal_eval(node.args[0]))
    assert set(diagnostics.STREAM_VALUES["rejected for KIND"].split("`")[1::2]) == kinds


@pytest.fixture(scope="module")
def stand_in() -> Iterator[None]:
    """`label_info` is published whether vision_msgs is installed or not, then as another type."""
    with pytest.MonkeyPatch.context() as patch:
        if label_info.vision_messages() is None:
            patch.setattr(segmentation_node, "vision_messages", lambda: types.SimpleNamespace(LabelInfo=Header))
            patch.setattr(label_info, "build", lambda *_: Header(frame_id="the classes"))
        yield


@pytest.fixture(scope="module", params=["one camera", "two cameras"])
def graph(
    request: pytest.FixtureRequest, stand_in: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Graph, list[str]]]:
    """A node with all that it subscribes to, and what its cameras' topics begin with."""
    two = request.param == "two cameras"
    settings: dict[str, Any] = {"image_topics": ["left/image", "right/image"]} if two else {}
    info = ["left/info", "right/info"] if two else ["info"]
    # This one is a parameter only if it is set.
    for topic in ("left/image", "right/image") if two else ("image",):
        settings["qos_overrides.{ns}/" + topic + ".subscription.reliability"] = "reliable"
    with own_graphs(23):
        checkpoint = save_gray(tmp_path_factory.mktemp("model") / "gray.safetensors")
        graph = Graph({"checkpoint": str(checkpoint), "camera_info_topics": info, **settings})
        try:
            prefixes = ["left/", "right/"] if two else [""]
            graph.start(*(f"{prefix}{name}" for prefix in prefixes for name in ("labels", "camera_info")))
            yield graph, prefixes
        finally:
            graph.close()


def full(graph: Graph, name: str) -> str:
    return graph.node.resolve_topic_name(name)


def standard(graph: Graph, names: tuple[str, ...], there: set[str]) -> set[str]:
    """The full names of what every node has, without what this ROS does not have."""
    return {full(graph, name) for name in names if name not in describe.NOT_ON_HUMBLE or full(graph, name) in there}


def of_node(graph: Graph, what: str) -> dict[str, list[str]]:
    """Names and types of the node's `publisher`, `subscriber` or `service` endpoints, as another node sees them."""
    find = getattr(graph.tester, f"get_{what}_names_and_types_by_node")
    return dict(find("segmentation", graph.namespace))


def expected_outputs(graph: Graph, prefixes: list[str]) -> dict[str, describe.Topic]:
    return {
        full(graph, topic.name if topic.name.startswith("/") else prefix + topic.name): topic
        for topic in describe.published()
        for prefix in prefixes
    }


def test_the_node_publishes_what_the_page_says_with_its_type_and_quality(graph: tuple[Graph, list[str]]) -> None:
    running, prefixes = graph
    expected = expected_outputs(running, prefixes)
    others = standard(running, describe.STANDARD_TOPICS, set())
    wait_for(lambda: set(of_node(running, "publisher")) >= set(expected) | others, "all publishers")
    assert set(of_node(running, "publisher")) == set(expected) | others
    for name, topic in expected.items():
        mine = [i for i in running.tester.get_publishers_info_by_topic(name) if i.node_name == "segmentation"]
        assert len(mine) == 1
        kind = label_info.TYPE if mine[0].topic_type == STAND_IN else mine[0].topic_type
        profile = mine[0].qos_profile
        assert kind == topic.type
        assert (profile.reliability, profile.durability) == (topic.qos.reliability, topic.qos.durability), name
        # The graph says neither; parameters do, of what may be overridden.
        override = f"qos_overrides.{name}.publisher."
        if running.node.has_parameter(override + "depth"):
            assert running.node.get_parameter(override + "depth").value == topic.qos.depth
            assert running.node.get_parameter(override + "history").value == describe.words(topic.qos.history).replace(
                " ", "_"
            )


def test_only_outputs_and_images_have_overridable_qos_and_of_the_policies_that_the_page_says(
    graph: tuple[Graph, list[str]],
) -> None:
    running, prefixes = graph
    images = {full(running, name): "subscription" for name in running.cameras}
    outputs = {n: "publisher" for n in expected_outputs(running, prefixes) if n != diagnostics.TOPIC}
    names = running.node._parameters
    assert {name for name in names if name.startswith("qos_overrides.")} == {
        f"qos_overrides.{topic}.{kind}.{policy}"
        for topic, kind in {**images, **outputs}.items()
        for policy in describe.override_policies()
    }
    rest = {name for name in names if not name.startswith("qos_overrides.")}
    assert rest - set(describe.STANDARD_PARAMETERS) == {parameter.name for parameter in PARAMETERS}


def test_the_node_subscribes_to_what_the_page_says(graph: tuple[Graph, list[str]]) -> None:
    running, prefixes = graph
    image, info = describe.subscribed()[0], describe.subscribed()[-1]
    expected = {full(running, f"{prefix}image"): image for prefix in prefixes}
    expected |= {full(running, f"{prefix}info"): info for prefix in prefixes}
    wait_for(lambda: set(of_node(running, "subscriber")) >= set(expected), "all subscriptions")
    assert of_node(running, "subscriber") == {name: [topic.type] for name, topic in expected.items()}
    for name, topic in expected.items():
        (endpoint,) = running.tester.get_subscriptions_info_by_topic(name)
        # The cameras here are reliable.
        reliability = ReliabilityPolicy.RELIABLE if topic.reliability else topic.qos.reliability
        assert (endpoint.qos_profile.reliability, endpoint.qos_profile.durability) == (
            reliability,
            DurabilityPolicy.VOLATILE,
        )
        assert (topic.qos.history, topic.qos.depth) == (HistoryPolicy.KEEP_LAST, 1)


def test_the_node_offers_the_services_that_the_page_says(graph: tuple[Graph, list[str]]) -> None:
    running, _ = graph
    found = of_node(running, "service")
    expected = {full(running, name): [kind] for name, (kind, _) in describe.services().items()}
    assert {name: found.pop(name, None) for name in expected} == expected
    assert set(found) == standard(running, describe.STANDARD_SERVICES, set(found))


def test_who_comes_late_still_gets_label_info(graph: tuple[Graph, list[str]]) -> None:
    running, prefixes = graph
    got: list[Any] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    messages = label_info.vision_messages()
    kind = Header if messages is None else messages.LabelInfo
    subscription = running.tester.create_subscription(
        kind, f"{running.namespace}/{prefixes[0]}{label_info.TOPIC}", got.append, latched
    )
    wait_for(lambda: got, "the classes")
    running.tester.destroy_subscription(subscription)


def generic(key: str) -> str:
    for start, name in (("rejected for ", "rejected for KIND"), ("window reset: ", "window reset: REASON")):
        if key.startswith(start):
            return name
    return key


def test_diagnostics_have_the_keys_that_the_page_says(graph: tuple[Graph, list[str]]) -> None:
    running, prefixes = graph
    name = prefixes[0].rstrip("/")
    topic = f"{name}/image" if name else "image"
    title = name or "stream"
    received = running.received[f"{prefixes[0]}labels"]
    running.send_image(gray_frame(1), topic=topic)
    wait_for(lambda: received, "the first labels")
    running.send_image(gray_frame(1), topic=topic, frame_id="another")
    wait_for(lambda: len(received) > 1, "the labels of the other frame_id")
    running.send_image(gray_frame(1)[:, :, 0], topic=topic, encoding="nonsense")

    def keys() -> set[str]:
        status = running.status(title)
        return {generic(pair.key) for pair in status.values} if status is not None else set()

    wait_for(lambda: keys() >= set(diagnostics.STREAM_VALUES), "every key")
    assert keys() == set(diagnostics.STREAM_VALUES)
    reasons = {pair.key for pair in running.status(title).values if pair.key.startswith("window reset: ")}
    assert {reason.removeprefix("window reset: ") for reason in reasons} <= set(describe.reset_reasons())
    wait_for(lambda: running.status("model"), "the status of the model")
    there = {pair.key for pair in running.status("model").values}
    assert there | {"GPU memory MiB", "loading"} == set(diagnostics.MODEL_VALUES)
    node = {pair.key: pair.value for pair in running.status("node").values}
    assert node == {"state": "active"} and set(diagnostics.NODE_VALUES) == {"state"}
