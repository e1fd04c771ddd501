"""What a stage came to: where it comes from, whether it did harm, and what tells it from another."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

import stmem_ros
from stmem_ros.checkpoint import CheckpointInfo
from stmem_ros.network import SegmenterConfig, VideoSegmenter
from training.stages.memory import Memory

STAGES = ("base", "stf", "memory", "mar")
# A stage that ends so many points of mean IoU below the network that it began with did harm.
FALL = 5.0


def network_identity(model: VideoSegmenter, info: CheckpointInfo) -> str:
    """A digest of a network whenever it was written: not of its provenance."""
    about = {name: value for name, value in info.to_dict().items() if name != "provenance"}
    return _identity(model.state_dict(), about)


def memory_identity(memory: Memory) -> str:
    """A digest of a memory, likewise."""
    return _identity({"keys": memory.keys, "values": memory.values}, [memory.names, memory.classes])


def _identity(tensors: Mapping[str, Tensor], about: Any) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def fall(
    stage: str, network: SegmenterConfig, figures: Mapping[str, float], before: Mapping[str, Any], about: Any
) -> str:
    """What is said of a stage that ends far below the network `before` it, with what to try; else empty.

    `before` is that network's provenance, `about` the data set and the split of the `figures`.
    """
    measured = before.get("validated_on", {})
    then, now = measured.get("val_miou"), figures["val_miou"]
    comparable = (before.get("dataset"), measured.get("split")) == about and isinstance(then, (int, float))
    if not comparable or then - now <= FALL:
        return ""
    adds = ""
    if stage == "stf" and network.stf is not None and network.stf.stride == 1:
        adds = ", or network.stf.stride 2, with which STF begins as the network before it"
    if stage == "mar" and network.mar is not None and not network.mar.residual:
        adds = ", or network.mar.residual true, with which MAR begins as the network before it"
    return (
        f"stage {stage} ends at {now:.1f} % mean IoU, far below the {then:.1f} % of the network that it began with: it "
        f"did harm. In another --run (with --start_from the base's file) try more {stage}.epochs, another {stage}.rate"
        f"{adds}"
    )


def provenance(
    stage: str, settings: dict[str, Any], data: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Where a stage's network comes from: the settings of every stage, also of those before it in `before`."""
    earlier = STAGES[: STAGES.index(stage)]
    stages = [each for each in before.get("stages", ["base"]) if each in earlier]
    return {
        "package": f"stmem_ros {stmem_ros.__version__}",
        "date": datetime.date.today().isoformat(),
        "stages": [*stages, stage],
        **data,
        "seed": settings["seed"],
        **{name: before[name] for name in stages if name in before},
        stage: settings,
    }
