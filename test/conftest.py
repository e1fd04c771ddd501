"""Fixtures that every test may use."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from domains import own_domain
from pixel_base import PixelBase
from shared_memory import remove_left

from stmem_ros.network import BASES

_tests = itertools.count()
_started = time.time()


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Of several processes only the one that the others worked for.
    if not hasattr(session.config, "workerinput"):
        remove_left(_started)


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A DDS domain (1 to 100) of this test alone, on this machine alone, also for processes it starts.

    Ask for it before anything that calls `rclpy.init`: the environment is read there.
    """
    domain = own_domain(next(_tests))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    if os.environ.get("ROS_DISTRO") == "humble":
        monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    else:
        monkeypatch.delenv("ROS_LOCALHOST_ONLY", raising=False)
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return domain


@pytest.fixture(scope="module")
def training_environment() -> Iterator[None]:
    """Training seeds every generator and writes the seed into the environment: both are put back."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            patch.setenv(name, "0")
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data: where STMEM_SHARED points, or `../shared` beside the checkout."""
    folder = Path(os.environ.get("STMEM_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"the shared data is not here: {folder} is no folder (STMEM_SHARED says where it is)")
    return folder


@pytest.fixture
def pixel_base(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a base network that tests can afford: configs and checkpoints may use it while the test runs."""
    monkeypatch.setitem(BASES, "pixels", PixelBase)
    return "pixels"


SHAPES_YAML = """\
classes:
  - {name: ground, color: [90, 90, 90]}
  - {name: disc, color: [220, 40, 40]}
  - {name: box, color: [40, 60, 200]}
void_ids: [9]
frames: "{split}"
labels: "{split}annot"
name_pattern: '(?P<sequence>[^_]+)_(?P<frame>\\d+)'
"""


@pytest.fixture(scope="session")
def make_shapes() -> Callable[..., Path]:
    """Makes a small data set of discs and boxes in their classes' own colours, its top row void.

    `make_shapes(root, splits={"train": 8, "val": 2}, size=(96, 128), noise=0)` returns its YAML file.
    """

    def make(root: Path, splits: dict[str, int], size: tuple[int, int] = (96, 128), noise: int = 0) -> Path:
        random = np.random.default_rng(7)
        colors = np.array([[90, 90, 90], [220, 40, 40], [40, 60, 200]])
        height, width = size
        for split, count in splits.items():
            for folder in (split, f"{split}annot"):
                (root / folder).mkdir(parents=True)
            for number in range(count):
                labels = np.zeros(size, np.uint8)
                x, y = random.integers(20, [width // 2, height - 20])
                cv2.circle(labels, (int(x), int(y)), 16, 1, -1)
                x, y = random.integers([width // 2, 10], [width - 30, height - 40])
                labels[y : y + 30, x : x + 28] = 2
                image = colors[labels] + random.integers(-noise, noise + 1, (*size, 3))
                labels[0] = 9
                name = f"drive_{number:06d}.png"
                cv2.imwrite(str(root / split / name), image.clip(0, 255).astype(np.uint8)[..., ::-1])
                cv2.imwrite(str(root / f"{split}annot" / name), labels)
        path = root / "shapes.yaml"
        path.write_text(SHAPES_YAML)
        return path

    return make
