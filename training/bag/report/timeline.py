"""A sequence's scores over time as short lists of numbers, thinned where there are many frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from training.bag.result import FrameScore

# Points of all lines of one figure, in the page as a whole, and of one sequence.
POINTS, FEWEST, MOST = 200_000, 100, 2000
# By name: how a score is read, decimals kept, and which of several is the worst.
LINES: dict[str, tuple[Callable[[FrameScore], float | None], int, Callable[..., float]]] = {
    "miou": (lambda score: score.miou, 2, min),
    "consistency": (lambda score: score.consistency, 2, min),
    "confidence": (lambda score: score.confidence, 2, min),
    "latency": (lambda score: score.latency_ms, 1, max),
}


def points_of_each(sequences: int) -> int:
    """How many points each of so many sequences may have."""
    return max(FEWEST, min(MOST, POINTS // max(sequences, 1)))


def thinned(frames: Sequence[FrameScore], start_ns: int, points: int) -> dict[str, Any]:
    """`x` in seconds since `start_ns`, and a list for each of LINES that has a value; None where a frame has none.

    `span` successive frames make one point, the worst of them, so that no bad frame is lost.
    """
    span = math.ceil(len(frames) / points) if frames else 1
    groups = [frames[place : place + span] for place in range(0, len(frames), span)]
    found: dict[str, Any] = {"span": span, "x": [round((one[0].stamp_ns - start_ns) / 1e9, 3) for one in groups]}
    for name, (read, digits, worst) in LINES.items():
        values = [[value for value in map(read, one) if _known(value)] for one in groups]
        if any(values):
            found[name] = [round(worst(each), digits) if each else None for each in values]
    return found


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
