"""Several cameras as one batch, beside one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from stmem_ros.benchmark.measure import Budget, Exactness, Spread, interleave
from stmem_ros.benchmark.subject import Subject
from stmem_ros.benchmark.ways import Comparison, FastWay, Moment, Setting, Way, graphed


@dataclasses.dataclass(frozen=True)
class CameraTimes:
    """Of a frame of all `cameras` together; `max_abs_diff` between logits of the batch and of single calls."""

    cameras: int
    batch: Spread
    single: Spread
    max_abs_diff: float
    label_agreement: float

    def to_dict(self) -> dict[str, Any]:
        """Times a camera."""
        return {
            "cameras": self.cameras,
            "batch_ms_per_camera": self.batch.median / self.cameras,
            "single_ms_per_camera": self.single.median / self.cameras,
            "batch_quartiles_ms_per_camera": [value / self.cameras for value in self.batch.quartiles],
            "single_quartiles_ms_per_camera": [value / self.cameras for value in self.single.quartiles],
            "rounds": self.batch.count,
            "max_abs_diff": self.max_abs_diff,
            "label_agreement": self.label_agreement,
        }


def time_cameras(
    subject: Subject, setting: Setting, budget: Budget, say: Callable[[str], None] = lambda _: None
) -> CameraTimes:
    """The exact fast path for `setting.cameras` cameras. Raises CheckpointError, DeviceError or BenchmarkError."""
    comparison = Comparison(subject, setting, ["fast"])
    # Graphs of their own on a GPU: a graph is for one shape.
    network = graphed(comparison.network)
    alone = [FastWay(network, comparison.query, camera) for camera in range(setting.cameras)]
    newest: list[Tensor] = []

    def one_by_one(moment: Moment) -> None:
        newest[:] = [way(moment) for way in alone]

    ways: dict[str, Way] = {"batch": comparison.ways["fast"], "single": one_by_one}
    exactness = Exactness()

    def look(moment: Moment, outputs: dict[str, Tensor | None], warming_up: bool) -> None:
        assert outputs["batch"] is not None
        for camera, logits in enumerate(newest):
            exactness.add(logits, outputs["batch"][camera : camera + 1], setting.size)

    times = interleave(ways, comparison.scene, comparison.device, budget, look, say)
    return CameraTimes(
        setting.cameras, times["batch"], times["single"], exactness.max_abs_diff, exactness.label_agreement
    )
