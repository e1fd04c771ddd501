"""Accuracy against latency over input sizes: `python -m training.operating_points --dataset camvid --root DIR`.

Each row of each checkpoint, at each short side, is a point: its figures on a labelled split, and the time of the
engine's step on the frames of that split. Several checkpoints may differ in base, d, or where STF runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import torch

from stmem_ros.benchmark.environment import environment
from stmem_ros.benchmark.measure import Budget, Spread, interleave
from stmem_ros.checkpoint import NETWORK_SIDES, NETWORK_SIDES_TEXT
from stmem_ros.command import exit_status, require_writable
from stmem_ros.files import user_path
from stmem_ros.preprocess import network_size
from stmem_ros.program import called
from stmem_ros.streaming import StreamConfig, StreamingSegmenter, resolve_device
from stmem_ros.streaming.device import resolve_precision
from training.console import plain_console
from training.data.clips import WindowConfig, Windows
from training.data.dataset import (
    DatasetSpec,
    LabelledFrame,
    list_frames,
    list_images,
    load_spec,
)
from training.data.fingerprint import Digests, of_evaluation
from training.evaluate import ERRORS, EvaluationError, Tally, add_what_options, measure, rows_of, write_json
from training.measure.cost import cost_of
from training.measure.pareto import Point, draw_points, on_front, points_table
from training.measure.quality import Quality
from training.measure.rows import ROWS, Row, row_name

SHORT_SIDES = (240, 300, 360, 480, 600)
# Hz of the stamps, where the data set has no frame_rate.
USUAL_RATE = 15.0
# Seconds: one window over all frames.
NO_GAP = 1e6


class Kept:
    """The figures of points in files of a folder, by everything that they depend on: what is there is not measured."""

    def __init__(
        self, folder: Path, spec: DatasetSpec, frames: list[LabelledFrame], windows: Windows, device: torch.device
    ) -> None:
        self._folder, self._spec, self._frames, self._windows = folder, spec, frames, windows
        self._about = [str(device), dataclasses.asdict(WindowConfig())]
        self._digests = Digests()
        self._data: dict[int, list[Any]] = {}
        self._hashes: dict[Path, str] = {}

    def file(self, row: Row) -> Path:
        """Where the figures of a row, at the short side of its `info`, are or would be. Raises OSError."""
        assert row.checkpoint is not None
        if row.checkpoint not in self._hashes:
            self._hashes[row.checkpoint] = hashlib.sha256(row.checkpoint.read_bytes()).hexdigest()
        length = row.window_frames
        if length not in self._data:
            self._data[length] = of_evaluation(self._spec, self._frames, self._windows, length, self._digests)
        about = [*self._about, *self._data[length], self._hashes[row.checkpoint], row.kind, row.info.short_side]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
        return self._folder / f"{row.checkpoint.stem}-{row.kind}-{row.info.short_side}-{key}.json"

    def find(self, row: Row) -> dict[str, Any] | None:
        """None where they were not measured. Raises EvaluationError where the file is damaged, and OSError."""
        file = self.file(row)
        if not file.is_file():
            return None
        try:
            figures = json.loads(file.read_text())
            return figures | {"miou": float(figures["miou"])}
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{file} is damaged ({error}): delete it and measure again") from error


def measure_accuracy(
    rows: list[Row],
    frames: list[LabelledFrame],
    windows: Windows,
    spec: DatasetSpec,
    device: torch.device,
    kept: Kept,
) -> None:
    """Measure what is not kept yet of rows of one short side, in one pass, and keep it.

    Raises DatasetError and EvaluationError as `measure` does, and OSError.
    """
    rows = [row for row in rows if kept.find(row) is None]
    if not rows:
        return
    short_side = rows[0].info.short_side
    print(f"accuracy at short side {short_side}: {', '.join(row.name for row in rows)}", flush=True)
    tallies = [Tally(row, len(spec.labels), device, Quality(len(spec.labels))) for row in rows]
    measure(tallies, frames, spec, device, windows)
    height, width = spec.read_image(frames[0].image).shape[:2]
    for tally in tallies:
        result = tally.result(cost_of(tally.row.info.config, network_size((height, width), short_side)))
        write_json(kept.file(tally.row), tally.row.to_dict() | result.to_dict(spec.labels.names))


def measure_latency(
    rows: list[Row], frames: list[LabelledFrame], spec: DatasetSpec, options: argparse.Namespace
) -> list[Spread]:
    """The time of `StreamingSegmenter.step` for each row at its short side, from RGB image to labels of its size.

    All rows take the same frame in turn, in another order each time, so that what else the machine does meets all.
    Raises DatasetError where an image cannot be read, DeviceError.
    """
    engines = [
        StreamingSegmenter(
            row.model,
            row.info,
            StreamConfig(options.window, NO_GAP, row.info.short_side, options.device, options.precision),
        )
        for row in rows
    ]

    rate = spec.frame_rate or USUAL_RATE

    def scene(number: int) -> tuple[Any, int]:
        return spec.read_image(frames[number % len(frames)].image), int(number / rate * 1e9)

    ways = {
        f"{place}": lambda moment, engine=engine: engine.step(*moment, confidence=False)
        for place, engine in enumerate(engines)
    }
    say = lambda line: print(f"latency: {line}", flush=True)  # noqa: E731
    budget = Budget(repeats=options.rounds)
    times = interleave(ways, scene, engines[0].device, budget, say=say)  # type: ignore[arg-type]
    return [times[f"{place}"] for place in range(len(rows))]


def chosen_rows(options: argparse.Namespace, spec: DatasetSpec) -> list[Row]:
    """What the checkpoints have of the rows asked for. Raises CheckpointError, DatasetError and EvaluationError."""
    rows = rows_of(options.checkpoint, options.window, spec)
    there = [row_name(row.info.config) for row in rows]
    missing = [kind for kind in options.rows or () if kind not in there]
    if missing:
        files = ", ".join(map(str, options.checkpoint))
        raise EvaluationError(f"--rows {missing[0]}: {files} has {', '.join(dict.fromkeys(there))} alone")
    return [row for row, kind in zip(rows, there, strict=True) if options.rows is None or kind in options.rows]


def at_short_sides(rows: list[Row], short_sides: list[int]) -> list[Row]:
    """Each row at each side, side by side."""
    return [
        dataclasses.replace(row, info=dataclasses.replace(row.info, short_side=side))
        for row in rows
        for side in sorted(set(short_sides))
    ]


def point_of(row: Row, figures: dict[str, Any] | None, latency: Spread | None) -> Point:
    base, stf = row.model.base, row.info.config.stf
    return Point(
        row_name(row.info.config),
        row.label,
        str(row.checkpoint),
        base.channels,
        None if stf is None else base.stride * stf.stride,
        row.info.short_side,
        figures,
        latency,
    )


def check(options: argparse.Namespace) -> None:
    """What can be wrong with the options alone. Raises EvaluationError and OutputError."""
    unfit = [side for side in options.short_sides if side not in NETWORK_SIDES]
    if unfit:
        raise EvaluationError(f"--short-sides {unfit[0]}: a short side is {NETWORK_SIDES_TEXT} pixels")
    for name in ("rounds", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise EvaluationError(f"--{name} is {value}; it must be at least 1")
    if options.plot is not None and options.accuracy_only:
        raise EvaluationError("--plot shows accuracy against latency: leave out --accuracy-only")
    for name, path in (("--json", options.json), ("--plot", options.plot)):
        if path is not None:
            require_writable(name, path)
    if options.plot is not None and options.plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise EvaluationError(f"--plot {options.plot}: its name must end in .png, .pdf or .svg")
    require_writable("--cache", options.cache, folder=True)


def run(options: argparse.Namespace) -> None:
    """All points as the command line asks for them; what can fail early is tried first. Raises ERRORS and OSError."""
    check(options)
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    device = resolve_device(options.device)
    dtype = resolve_precision(options.precision, device)
    spec = load_spec(options.dataset)
    rows = at_short_sides(chosen_rows(options, spec), options.short_sides)
    frames = list_frames(spec, options.root, options.split)
    windows = Windows(list_images(spec, options.root, options.split), spec, WindowConfig())
    kept = Kept(options.cache, spec, frames, windows, device)
    if not options.latency_only:
        for side in sorted(set(options.short_sides)):
            these = [row for row in rows if row.info.short_side == side]
            measure_accuracy(these, frames, windows, spec, device, kept)
    figures = [kept.find(row) for row in rows]
    if options.plot is not None and not any(figures):
        raise EvaluationError(f"--plot: {options.cache} keeps no accuracy of these points: leave out --latency-only")
    machine = environment(device, dtype)
    latencies: list[Spread | None] = [None] * len(rows)
    if not options.accuracy_only:
        latencies = [*measure_latency(rows, frames, spec, options)]
    points = [point_of(*parts) for parts in zip(rows, figures, latencies, strict=True)]
    title = f"{spec.name} {options.split}, {len(frames)} frames, {options.window} windows"
    if not options.accuracy_only:
        title += (
            f"\nlatency: {options.rounds} rounds, {machine['dtype']} on {machine['device_name']} "
            f"({machine['device']}), {machine['threads']} thread{'s' * (machine['threads'] > 1)}"
        )
    plain_console().print(points_table(points, title))
    if options.json is not None:
        about = {"dataset": spec.name, "split": options.split, "frames": len(frames), "window": options.window}
        lines = [point.to_dict() | {"front": best} for point, best in zip(points, on_front(points), strict=True)]
        write_json(options.json, about | {"environment": machine, "points": lines})
    if options.plot is not None:
        draw_points(options.plot, points, title)


def options_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called("training.operating_points"),
        description="How accurate and how quick each network is at each input size, and which points are on the Pareto "
        "front: no other is as quick and as accurate, and better in one. Accuracy is training.evaluate's; latency "
        "is one step of the node's engine, from RGB image to labels of that size, without the confidence.",
        epilog="Accuracy is kept in CACHE and measured again where checkpoint, data, window or device differ, so a "
        "command that was stopped goes on. Latency is measured each time: let nothing else run.",
    )
    add_what_options(parser)
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, help="the points' networks (default: all that the checkpoints have)"
    )
    parser.add_argument(
        "--short-sides",
        type=int,
        nargs="+",
        default=list(SHORT_SIDES),
        metavar="PIXELS",
        help="heights or widths, whichever is less, that images are resized to (default: 240 300 360 480 600)",
    )
    parser.add_argument(
        "--window", choices=("causal", "centered"), default="causal", help="as the node's (default: causal)"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--accuracy-only", action="store_true", help="measure no latency")
    only.add_argument("--latency-only", action="store_true", help="measure no accuracy; what is kept is shown")
    parser.add_argument("--rounds", type=int, default=30, help="times that each point is timed (default: 30)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: PyTorch's choice)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision",
        default="auto",
        help="of the latency, as the node's: auto, float32, bfloat16 or float16; accuracy is float32's (default: auto)",
    )
    parser.add_argument(
        "--cache",
        type=user_path,
        default=Path("runs/operating_points"),
        help="folder of what was measured (default: runs/operating_points)",
    )
    parser.add_argument("--json", type=user_path, help="write the points to this file")
    parser.add_argument("--plot", type=user_path, help="draw mean IoU against milliseconds into this file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, 1 after one line on stderr that says why there are no figures, 130 on Ctrl-C."""
    options = options_parser().parse_args(arguments)
    kept = f"the accuracy of finished sizes is kept in {options.cache}, the same command goes on"
    return exit_status("operating_points", lambda: run(options), ERRORS, kept)


if __name__ == "__main__":
    sys.exit(main())
