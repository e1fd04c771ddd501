"""The example for Nav2 names topics that the node publishes, classes that the model has, and parameters of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, read_info
from stmem_ros.node import describe, launch_plan
from stmem_ros.topics import output_topics

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "nav2.md"
FILE = ROOT / "config" / "nav2_semantic_layer.yaml"
LAYER = "semantic_segmentation_layer"
# Left out on purpose, as the file and the page say.
IGNORED = {"sky"}
# As the plugin declares them; a parameter of another type ends Nav2's costmap.
OF_LAYER = {
    "plugin": str,
    "enabled": bool,
    "combination_method": int,
    "use_approximate_time_sync": bool,
    "sensor_data_depth": int,
    "observation_sources": str,
}
OF_SOURCE = {
    "segmentation_topic": str,
    "confidence_topic": str,
    "labels_topic": str,
    "pointcloud_topic": str,
    "max_obstacle_distance": float,
    "min_obstacle_distance": float,
    "tile_map_decay_time": float,
    "use_cost_selection": bool,
    "visualize_tile_map": bool,
    "class_types": list,
}
OF_TYPE = {
    "classes": list,
    "base_cost": int,
    "max_cost": int,
    "mark_confidence": int,
    "samples_to_max_cost": int,
    "dominant_priority": bool,
}


@pytest.fixture(scope="module")
def costmap() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())["local_costmap"]["local_costmap"]["ros__parameters"]


@pytest.fixture(scope="module")
def layer(costmap: dict[str, Any]) -> dict[str, Any]:
    return costmap[LAYER]


@pytest.fixture(scope="module")
def source(layer: dict[str, Any]) -> dict[str, Any]:
    return layer[layer["observation_sources"]]


@pytest.fixture(scope="module")
def groups(source: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: source[name] for name in source["class_types"]}


def types_of(values: dict[str, Any], without: set[str] = frozenset()) -> dict[str, type]:
    return {name: type(value) for name, value in values.items() if name not in without}


def test_the_layer_is_used_and_stands_before_the_inflation(costmap: dict[str, Any]) -> None:
    plugins = costmap["plugins"]
    assert plugins.index(LAYER) == plugins.index("inflation_layer") - 1


def test_parameters_are_the_plugins_with_its_types(
    layer: dict[str, Any], source: dict[str, Any], groups: dict[str, dict[str, Any]]
) -> None:
    assert layer["plugin"] == "semantic_segmentation_layer::SemanticSegmentationLayer"
    assert types_of(layer, {layer["observation_sources"]}) == OF_LAYER
    assert types_of(source, set(groups)) == OF_SOURCE
    for values in groups.values():
        assert types_of(values) == OF_TYPE
        assert 0 <= values["base_cost"] <= values["max_cost"] <= 254
        assert 0 <= values["mark_confidence"] <= 254


def launch_default(argument: str) -> str:
    """As the launch file has it, read without importing launch."""
    text = (ROOT / "launch" / "segment.launch.py").read_text()
    return re.search(rf'"{argument}": \("([^"]*)"', text).group(1)


def parameters_of_the_page() -> str:
    return PAGE.read_text().split("## Parameters of the layer\n", 1)[1].split("\nBoth numbers", 1)[0]


def test_the_page_documents_the_parameters_of_the_file_and_no_others() -> None:
    cells = re.findall(r"^\| (`[^|]+) \|", parameters_of_the_page(), re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == {*OF_LAYER, *OF_SOURCE, *OF_TYPE}


def test_the_page_repeats_the_values_of_the_file(layer: dict[str, Any], source: dict[str, Any]) -> None:
    known = {f"`{name}`": str(value).lower() for name, value in {**layer, **source}.items()}
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", parameters_of_the_page(), re.MULTILINE)
    repeated = {cell: values for cell, values in rows if values.strip()}
    assert repeated == {cell: ", ".join(known[name] for name in cell.split(", ")) for cell in repeated}
    assert len(repeated) >= 6


def test_its_topics_are_the_nodes_of_the_quality_and_the_type_that_the_plugin_asks_for(
    source: dict[str, Any],
) -> None:
    published = {topic.name: topic for topic in describe.published()}
    names = {topic: name for name, topic in output_topics("segmentation", "", list(published)).items()}
    image, info = "sensor_msgs/msg/Image", "vision_msgs/msg/LabelInfo"
    for parameter, name, kind in (
        ("segmentation_topic", "labels", image),
        ("confidence_topic", "confidence", image),
        ("labels_topic", "label_info", info),
    ):
        assert names[source[parameter]] == name and published[name].type == kind
        assert published[name].meaning.startswith("mono8") or kind == info
        assert f"`{source[parameter]}`" in PAGE.read_text()
    latched = published["label_info"].qos
    assert latched.reliability == ReliabilityPolicy.RELIABLE
    assert latched.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_its_classes_are_those_of_the_packages_model_each_once(groups: dict[str, dict[str, Any]]) -> None:
    names = read_info(DEFAULT_CHECKPOINT).labels.names
    listed = [name for values in groups.values() for name in values["classes"]]
    assert sorted([*listed, *IGNORED]) == sorted(names)
    for name in IGNORED:
        assert f"`{name}`" in FILE.read_text() and f"`{name}`" in PAGE.read_text()


def test_ground_costs_nothing_and_people_cost_most_at_the_first_sight(groups: dict[str, dict[str, Any]]) -> None:
    cost = {name: values["base_cost"] for values in groups.values() for name in values["classes"]}
    assert cost["road"] == cost["pavement"] == 0
    assert cost["pedestrian"] == cost["bicyclist"] == cost["car"] == 254
    assert groups["danger"]["dominant_priority"]


def test_the_package_installs_the_file_and_the_readme_leads_to_the_page() -> None:
    assert 'glob("config/*")' in (ROOT / "setup.py").read_text()
    assert "(docs/nav2.md)" in (ROOT / "README.md").read_text()


def test_the_manager_of_the_page_manages_the_node_as_it_is_launched_and_forms_no_bond() -> None:
    text = PAGE.read_text().split("lifecycle_manager_segmentation", 1)[1].split("```", 1)[0]
    values = {name: yaml.safe_load(value.strip('"')) for name, value in re.findall(r"-p (\w+):=(\S+)", text)}
    launched = f"/{launch_default('namespace')}/{launch_plan.NODE}"
    # Doubles: a whole number would end the manager.
    assert values == {"autostart": True, "node_names": [launched], "bond_timeout": 0.0, "service_timeout": 60.0}
    assert all(type(values[name]) is float for name in ("bond_timeout", "service_timeout"))
    assert "autostart:=false" in PAGE.read_text()
