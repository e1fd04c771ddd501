"""How time and memory grow with pixels, window length and cameras: measured points, and a picture of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stmem_ros.benchmark.cameras import time_cameras
from stmem_ros.benchmark.measure import Budget, measure
from stmem_ros.benchmark.memory import peak_memory
from stmem_ros.benchmark.subject import BenchmarkError, Subject
from stmem_ros.benchmark.ways import LOGIT_WAYS, Comparison, Setting, as_text
from stmem_ros.preprocess import SMALLEST_SIDE

PIXEL_FACTORS = (0.25, 0.5, 1.0, 2.0)
WINDOWS = (1, 2, 3, 5, 7)
CAMERAS = (1, 2, 4, 8)
# What sizes are rounded to, so that they suit every stride.
SIDE_STEP = 16
AXES = {
    "pixels": "pixels that the network sees, millions",
    "window": "frames in the window",
    "cameras": "cameras",
}
Points = list[dict[str, Any]]
Say = Callable[[str], None]


def measure_scaling(
    subject: Subject, setting: Setting, budget: Budget, with_memory: bool, say: Say
) -> dict[str, Points]:
    """Points by the names in AXES: `x`, `ms` and `memory_mb` by way. The budget is for all of them.

    A window of another length has random weights, which take as long.
    """
    sizes = {scaled(setting.size, factor): None for factor in PIXEL_FACTORS}
    windows = WINDOWS if subject.config.stf is not None else ()
    share = dataclasses.replace(budget, seconds=budget.seconds / (len(sizes) + len(windows) + len(CAMERAS)))
    points: dict[str, Points] = {"pixels": [], "window": [], "cameras": []}
    for size in sizes:
        say(f"scaling: {as_text(size)}")
        at = dataclasses.replace(setting, size=size, image_size=size)
        point = {"x": size[0] * size[1] / 1e6, "size": list(size)}
        points["pixels"].append(point | _ways(subject, at, share, with_memory))
    for frames in windows:
        say(f"scaling: window of {frames}")
        points["window"].append({"x": frames} | _ways(subject.with_window(frames), setting, share, with_memory))
    for cameras in CAMERAS:
        say(f"scaling: {cameras} cameras")
        at = dataclasses.replace(setting, cameras=cameras)
        times = time_cameras(subject, at, share)
        points["cameras"].append(
            {
                "x": cameras,
                "ms": {"one batch": times.batch.median, "one by one": times.single.median},
                "memory_mb": {"one batch": peak_memory("fast", subject, at) / 1e6} if with_memory else {},
            }
        )
    return points


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """About `factor` times the pixels in the same shape."""
    height, width = (
        max(round(side * math.sqrt(factor) / SIDE_STEP) * SIDE_STEP, SMALLEST_SIDE) if factor != 1 else side
        for side in size
    )
    return height, width


def _ways(subject: Subject, setting: Setting, budget: Budget, with_memory: bool) -> dict[str, Any]:
    times, _ = measure(Comparison(subject, setting, LOGIT_WAYS), setting.size, budget)
    memory = {name: peak_memory(name, subject, setting) / 1e6 for name in LOGIT_WAYS} if with_memory else {}
    return {"ms": {name: spread.median for name, spread in times.items()}, "memory_mb": memory}


def draw(folder: Path, title: str, points: dict[str, Points]) -> list[Path]:
    """`scaling_pixels.png` and so on; returns the files. Raises BenchmarkError without matplotlib, and OSError."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BenchmarkError("pictures need matplotlib (pip install matplotlib); the numbers are in --json") from error
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, row in points.items():
        if not row:
            continue
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        figure.suptitle(title)
        for axes, quantity, unit in zip(
            figure.subplots(1, 2), ("ms", "memory_mb"), ("ms a frame", "peak memory, MB"), strict=True
        ):
            for way in row[0][quantity]:
                xs, ys = [point["x"] for point in row], [point[quantity][way] for point in row]
                axes.plot(xs, ys, marker="o", label=way.replace("_", " "))
            axes.set(xlabel=AXES[name], ylabel=unit, ylim=(0, None))
            axes.grid(alpha=0.3)
            if name != "pixels":
                axes.set_xticks([point["x"] for point in row])
            if axes.has_data():
                axes.legend()
            else:
                axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        files.append(folder / f"scaling_{name}.png")
        figure.savefig(files[-1], dpi=110)
    return files
