"""Dependencies point one way only (design: section 2), read from the import statements."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Who may not import what. A name covers what lies below it.
FORBIDDEN = {
    "stmem_ros": (
        *("lightning", "pytorch_lightning", "torchvision", "timm", "torchmetrics", "kornia", "training"),
        *("onnx", "onnxscript", "onnxruntime"),
    ),
    "stmem_ros/network": (
        "stmem_ros.streaming",
        "stmem_ros.node",
        "stmem_ros.checkpoint",
        "training",
        "cv2",
        "rclpy",
        "safetensors",
    ),
    "stmem_ros/streaming": ("stmem_ros.node", "stmem_ros.benchmark", "training", "rclpy"),
    "stmem_ros/benchmark": ("stmem_ros.node", "training", "rclpy"),
    "stmem_ros/bag": ("stmem_ros.node", "stmem_ros.benchmark", "training", "rclpy"),
    "stmem_ros/node": ("stmem_ros.benchmark", "training"),
    "training": ("stmem_ros.node", "rclpy", "torchvision", "timm"),
    "training/data": (
        "training.bag",
        "training.measure",
        "training.baselines",
        "training.stages",
        "training.train",
        "lightning",
    ),
    "training/measure": ("training.bag", "training.baselines", "training.stages", "training.train", "lightning"),
    "training/bag": ("training.baselines", "training.stages", "training.train", "lightning"),
    "training/baselines": ("training.stages", "training.train", "training.evaluate", "lightning"),
    "training/stages": ("training.train",),
    "training/weights": ("training.measure", "training.stages", "training.train", "lightning"),
}
# An optional package, and the one file that may import it, when it is asked for.
ALLOWED = {
    "stmem_ros/network/bases/timm_backbone.py": {"timm"},
    "stmem_ros/streaming/onnx_runtime.py": {"onnxruntime"},
    "stmem_ros/bag/__main__.py": {"training.bag", "training.bag.evaluate"},
    "stmem_ros/benchmark/__main__.py": {
        "stmem_ros.node.camera_to_label",
        "stmem_ros.node.camera_to_label.ProcessError",
        "stmem_ros.node.camera_to_label.camera_to_label",
    },
}


def imports(source: str) -> set[str]:
    """Every module that the source imports, wherever in it; `from a import b` may mean `a` or `a.b`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A relative import hides where it leads.
            module = "." * node.level + (node.module or "")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def offences(source: str, forbidden: tuple[str, ...]) -> set[str]:
    return {
        name
        for name in imports(source)
        if name.startswith(".") or any(name == other or name.startswith(f"{other}.") for other in forbidden)
    }


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_room_knows_what_it_must_not(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"{folder} holds no Python file"
    found = {name: offences((ROOT / name).read_text(), FORBIDDEN[folder]) for name in map(relative, files)}
    assert {name: sorted(what) for name, what in found.items() if what - ALLOWED.get(name, set())} == {}


def test_an_optional_package_is_not_imported_with_the_file_that_may() -> None:
    for name, allowed in ALLOWED.items():
        source = (ROOT / name).read_text()
        assert allowed <= imports(source)
        at_once = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not offences("\n".join(map(ast.unparse, at_once)), tuple(allowed))


@pytest.mark.parametrize(
    "source",
    [
        "import training",
        "import os, training.train as t",
        "from training import train",
        "from training.data.dataset import load_spec",
        "def f():\n    import training",
        "from . import anything",
        "from ..training import train",
    ],
)
def test_a_forbidden_import_is_found_however_it_is_written(source: str) -> None:
    assert offences(source, ("training",))


@pytest.mark.parametrize(
    "source", ["import trainings", "from stmem_ros import training_notes", "x = 'import training'"]
)
def test_what_only_looks_alike_is_allowed(source: str) -> None:
    assert not offences(source, ("training",))
