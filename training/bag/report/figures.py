"""The figures of sequences: what each is called, and what it comes to over any number of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from training.bag.result import FIGURE_NAMES, LESS_IS_BETTER, SequenceResult, added

WHAT = {
    "miou": "intersection over union, mean of the classes, all pixels pooled",
    "fw_iou": "intersection over union, mean of the classes by their share of the pixels",
    "pixel_accuracy": "share of the labelled pixels that are right",
    "boundary_f": "F-score of the classes' boundaries",
    "ece": "expected calibration error: how far confidence is from the share that is right",
    "flow_consistency": "visible pixels that keep their label along the motion from frame to frame",
    "vc8": "of what truly stays one class for 8 frames, the share whose label stays",
    "vc16": "of what truly stays one class for 16 frames, the share whose label stays",
    "vc8_correct": "as VC_8, right labels only",
    "vc16_correct": "as VC_16, right labels only",
    "confidence": "mean probability of the predicted label",
    "uncertain": "pixels whose label has a probability below 50 %",
    "changed": "pixels whose label is another than in the frame before, at the same place",
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """`better` is 1 where more is better, -1 where less is, 0 where neither is said."""

    key: str
    name: str
    unit: str
    digits: int
    better: int
    what: str


FIGURES = (
    *(
        Figure(key, name, "%", 2, 0 if key == "confidence" else -1 if key in LESS_IS_BETTER else 1, WHAT.get(key, ""))
        for key, name in FIGURE_NAMES.items()
    ),
    Figure("latency_median", "latency, median", "ms", 1, -1, "time from the camera's pixels to the labels"),
    Figure("latency_p99", "latency, p99", "ms", 1, -1, "99 % of the frames took no longer"),
    Figure("frames", "frames", "", 0, 0, "labelled by this network"),
)


def figures_of(sequences: Sequence[SequenceResult]) -> dict[str, float | None]:
    """Over all frames of the sequences, by the keys of FIGURES; None where there is no such figure."""
    found: dict[str, float | None] = dict.fromkeys(figure.key for figure in FIGURES)
    frames = [frame for sequence in sequences for frame in sequence.frames]
    found["frames"] = len(frames)
    latencies = [frame.latency_ms for frame in frames if frame.latency_ms is not None]
    if latencies:
        found["latency_median"], found["latency_p99"] = map(float, np.percentile(latencies, [50, 99]))
    blocks = [block.sums for sequence in sequences for block in sequence.blocks]
    return found | added(blocks).figures() if blocks else found
