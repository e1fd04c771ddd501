"""Networks that tests of the node can afford, and frames that say which of them they are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from domains import own_domain
from pixel_base import PixelBase

from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import BASES, SegmenterConfig, STFConfig, build_segmenter

CLASSES = 60
STEP = 4


@contextlib.contextmanager
def own_graphs(domain: int) -> Iterator[None]:
    """The surroundings of a module's tests that share a graph: the base network, and a DDS domain of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASES, "pixels", PixelBase)
        patch.setenv("ROS_DOMAIN_ID", str(own_domain(domain)))
        if os.environ.get("ROS_DISTRO") == "humble":
            patch.setenv("ROS_LOCALHOST_ONLY", "1")
        else:
            patch.delenv("ROS_LOCALHOST_ONLY", raising=False)
            patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield


def gray_frame(number: int, size: tuple[int, int] = (72, 96)) -> np.ndarray:
    """A frame that encodes its own number: the network below labels every pixel of it `number`."""
    return np.full((*size, 3), number * STEP, np.uint8)


def save_gray(path: Path, shift: int = 0) -> Path:
    """A network whose label is the pixel's grey level divided by STEP, and `shift` more."""
    config = SegmenterConfig("pixels", CLASSES)
    model = build_segmenter(config)
    levels = torch.arange(CLASSES, dtype=torch.float32) - shift
    with torch.no_grad():
        # Nearest level: the largest of 2 k x - k^2, x in levels.
        model.classifier.linear.weight.zero_()
        model.classifier.linear.weight[:, 0, 0, 0] = 2 * levels * 128 / STEP
        model.classifier.linear.bias.copy_(2 * levels * 127 / STEP - levels**2)
    names = [f"level {k - shift}" for k in range(CLASSES)]
    labels = LabelSet(names, [(k * STEP, 255 - k * STEP, 7) for k in range(CLASSES)])
    save_checkpoint(path, model, CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 64))
    return path


def save_fusing(path: Path) -> Path:
    """A random network with STF: its labels depend on the whole window."""
    torch.manual_seed(3)
    config = SegmenterConfig("pixels", 5, stf=STFConfig(block=(16, 16), positional_grid=(4, 4), feedforward=8))
    model = build_segmenter(config)
    with torch.no_grad():
        model.classifier.linear.weight.normal_()
    labels = LabelSet([str(k) for k in range(5)], [(k, k, k) for k in range(5)])
    save_checkpoint(path, model, CheckpointInfo(config, labels, Normalization((127,) * 3, (128,) * 3), 64))
    return path
