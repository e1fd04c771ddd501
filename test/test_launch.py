"""The launch file and the parameter file agree with what the node declares."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

from stmem_ros.node import launch_plan
from stmem_ros.node.launch_plan import PRESETS
from stmem_ros.node.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILE = ROOT / "launch" / "segment.launch.py"
COMPOSED = ROOT / "launch" / "camera_to_overlay.launch.py"
# Of config/: the node's own parameters, and an example for Nav2.
NO_PRESETS = ("segment", "nav2_semantic_layer")
# Every ROS 2 node has it.
STANDARD = {"use_sim_time"}


def launch_table(name: str, file: Path = LAUNCH_FILE) -> list[str]:
    """The keys of a dictionary at the top of a launch file, read without importing launch."""
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == name:
            return [key.value for key in statement.value.keys]
    raise AssertionError(f"{file.name} has no {name}")


def test_every_parameter_argument_of_the_launch_file_is_a_parameter_of_the_node_and_is_read() -> None:
    declared = {parameter.name for parameter in PARAMETERS} | STANDARD
    assert set(launch_table("PARAMETER_ARGUMENTS")) <= declared
    assert set(launch_table("PARAMETER_ARGUMENTS")) == set(launch_plan.PARAMETERS)


def test_the_launch_file_has_the_documented_arguments() -> None:
    arguments = {*launch_table("PARAMETER_ARGUMENTS"), *launch_table("LAUNCH_ARGUMENTS")}
    documented = set(re.findall(r"^\| `(\w+)` \|", section("Launch arguments"), re.MULTILINE))
    assert arguments == documented


def test_the_composed_launch_file_adds_arguments_and_shadows_none_of_those_that_it_passes_on() -> None:
    own = set(launch_table("LAUNCH_ARGUMENTS", COMPOSED))
    assert own.isdisjoint({*launch_table("PARAMETER_ARGUMENTS"), *launch_table("LAUNCH_ARGUMENTS")})
    read = set(re.findall(r'arguments\["(\w+)"\]', COMPOSED.read_text()))
    assert read == own


def test_the_readme_shows_the_composed_launch_file_with_cameras_and_viewers_that_it_knows() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"ros2 launch stmem_ros {COMPOSED.name} camera:=usb_cam viewer:=rqt_image_view" in text
    cameras = launch_table("CAMERAS", COMPOSED)
    assert {"usb_cam", "v4l2_camera", "replay"} == set(cameras)
    assert all(f"`{name}`" in text for name in ("usb_cam", "v4l2_camera", "rqt_image_view", "image_view"))


def test_the_parameter_file_has_every_parameter_at_its_default() -> None:
    document = yaml.safe_load((ROOT / "config" / "segment.yaml").read_text())
    assert document["/**"]["ros__parameters"] == {parameter.name: parameter.default for parameter in PARAMETERS}


def test_every_parameter_in_the_file_has_a_comment_above_it() -> None:
    lines = (ROOT / "config" / "segment.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"    \w+:", line):
            assert lines[number - 1].lstrip().startswith("#"), line


def test_presets_are_the_other_files_of_the_folder_and_stand_in_the_readme() -> None:
    assert {file.stem for file in (ROOT / "config").glob("*.yaml")} == {*PRESETS, *NO_PRESETS}
    documented = re.findall(r"^\| `(\w+)` \| (\d+) \|", section("Presets"), re.MULTILINE)
    assert documented == [(name, str(preset_parameters(name)["short_side"])) for name in PRESETS]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_parameters_of_the_node(name: str) -> None:
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    found = preset_parameters(name)
    assert found and {key: type(value) for key, value in found.items()} == {key: type(defaults[key]) for key in found}


def test_presets_go_from_quick_to_accurate() -> None:
    sides = [preset_parameters(name)["short_side"] for name in PRESETS]
    assert sides == sorted(set(sides)) and sides[0] > 0


def preset_parameters(name: str) -> dict[str, object]:
    return yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())["/**"]["ros__parameters"]


def test_the_readme_lists_every_parameter() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", section("Parameters"), re.MULTILINE))
    assert documented == {parameter.name for parameter in PARAMETERS}


def section(title: str) -> str:
    """The text of the README below a heading."""
    text = (ROOT / "README.md").read_text()
    return re.split(r"^#+ ", text.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_launchs_own_pytest_plugins_which_do_not_fit_pytest_9_do_not_stop_the_tests(tmp_path: Path) -> None:
    """Stand-ins for them, as a ROS 2 installation has them on PYTHONPATH; in xdist's workers too."""
    for name in ("launch_testing", "launch_pytest", "launch_ros"):
        (tmp_path / f"{name}_plugin.py").write_text("def pytest_pycollect_makemodule(path, parent): pass\n")
        information = tmp_path / f"{name}_plugin-1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}_plugin\nVersion: 1\n")
        (information / "entry_points.txt").write_text(f"[pytest11]\n{name} = {name}_plugin\n")
    (tmp_path / "test_one.py").write_text("def test_one(): pass\n")
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "-n", "1", "test_one.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
