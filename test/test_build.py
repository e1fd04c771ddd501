"""The package builds with colcon, as on a robot, and carries all it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("options", [[], ["--symlink-install"]])
def test_colcon_installs_commands_launch_file_parameters_and_model(tmp_path: Path, options: list[str]) -> None:
    colcon = Path(sys.executable).parent / "colcon"
    if not colcon.exists():
        pytest.skip("colcon is not installed beside this Python")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = tmp_path / "src" / "stmem_ros" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    environment = os.environ | {"PATH": f"{colcon.parent}:{os.environ['PATH']}"}
    built = subprocess.run(
        [str(colcon), "build", *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    prefix = tmp_path / "install" / "stmem_ros"
    commands = {path.name for path in (prefix / "lib" / "stmem_ros").iterdir()}
    assert commands >= {"segmentation_node", "replay_node", "demo", "train", "evaluate"}
    assert (prefix / "share" / "stmem_ros" / "launch" / "segment.launch.py").is_file()
    assert (prefix / "share" / "stmem_ros" / "config" / "segment.yaml").is_file()
    check = "from stmem_ros.checkpoint import *; print(len(read_info(DEFAULT_CHECKPOINT).labels))"
    script = f'. install/local_setup.sh && cd / && "{sys.executable}" -c "{check}"'
    found = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "11", found.stderr


def test_the_changelog_is_one_that_ros_release_tools_read() -> None:
    """With a version in place of Forthcoming, as a release puts it there."""
    changelog = pytest.importorskip("catkin_pkg.changelog")
    text = (ROOT / "CHANGELOG.rst").read_text()
    version = re.search(r"<version>(.+)</version>", (ROOT / "package.xml").read_text())
    assert version is not None and f'version="{version[1]}"' in (ROOT / "setup.py").read_text()
    released = text.replace("Forthcoming\n-----------", "999.0.0 (2999-01-01)\n--------------------")
    found = changelog.populate_changelog_from_rst(changelog.Changelog("stmem_ros"), released)
    versions = {number: content for number, _, content in found.foreach_version()}
    assert {"999.0.0", version[1]} <= set(versions)
    assert all(content and str(content[0]).strip() for content in versions.values())


def test_another_environment_that_is_active_is_not_taken_for_the_system(tmp_path: Path) -> None:
    """Its packages cannot be seen from .venv, so they are to be installed there."""
    active, checkout = tmp_path / "active", tmp_path / "checkout"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(active)], check=True)
    (packages,) = active.glob("lib/python*/site-packages")
    for name in ("torch", "rclpy"):
        (packages / f"{name}.py").touch()
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", checkout / "scripts")
    (checkout / "requirements.txt").touch()
    # What setup.sh leaves where all is done: it then does nothing.
    version = f"Python {sys.version.split()[0]}"
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "installed").write_text(f"4294967295 0 {version} torch missing rclpy missing\n")
    environment = os.environ | {"PYTHON": str(active / "bin" / "python")}
    done = subprocess.run(
        ["bash", str(checkout / "scripts" / "setup.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (checkout / ".venv" / "pyvenv.cfg").exists(), "it made .venv anew"
