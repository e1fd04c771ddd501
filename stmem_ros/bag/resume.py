"""What makes two runs the same: the input, the network and the settings, as text that can be compared."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stmem_ros import __version__
from stmem_ros.bag.fleet.digest import bag_digest
from stmem_ros.bag.io.files import METADATA
from stmem_ros.bag.plan import Plan
from stmem_ros.streaming import StreamingSegmenter
from stmem_ros.streaming.exported import read_export

# What a run lost, in the bag's `custom_data`.
LOST = "lost"


def describe(bag: Path, checkpoint: Path, plan: Plan, engine: StreamingSegmenter) -> dict[str, str]:
    """The settings on which the output depends, by names for a person. Raises CheckpointError or OSError."""
    config = engine.config
    values: dict[str, Any] = {
        "version": __version__,
        "input": f"{bag.resolve().name} {bag_digest(bag)}",
        "checkpoint": f"{checkpoint.name} {checkpoint_digest(checkpoint)}",
        "device": engine.device.type,
        "precision": str(engine.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "window": config.window,
        "short_side": config.short_side,
        "max_gap": config.max_gap,
        "used_bits": plan.used_bits,
        "image_topics": " ".join(plan.frames),
        "outputs": " ".join(topic for camera in plan.cameras for topic in camera.outputs.values()),
        "camera_info_topics": " ".join(camera.info_topic or "none" for camera in plan.cameras),
        "input_topics": " ".join(plan.passed) or "none",
        "as_recorded": plan.recorded or "all frames",
    }
    return {name: str(value) for name, value in values.items()}


def finished(path: Path, settings: dict[str, str]) -> list[str] | None:
    """What the run lost that left a whole bag with these settings at `path`, a line each; None if there is none."""
    try:
        document = YAML(typ="safe").load(path / METADATA)
        said = dict(document["rosbag2_bagfile_information"]["custom_data"])
        lost = str(said.pop(LOST, "")).splitlines()
    except (OSError, ValueError, KeyError, TypeError, YAMLError):
        return None
    return lost if said == settings else None


def checkpoint_digest(path: Path) -> str:
    """SHA-256 of a checkpoint, or of what an exported folder says of its files. Raises CheckpointError or OSError."""
    if path.is_dir():
        return hashlib.sha256(repr(sorted(read_export(path).sha256.items())).encode()).hexdigest()
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
