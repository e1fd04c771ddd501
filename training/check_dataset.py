"""Read a whole data set and say what is in it and what is wrong with it, before a training does.

`python -m training.check_dataset --dataset camvid --root DIR --splits train val --output DIR`
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from stmem_ros.command import exit_status, require_writable
from stmem_ros.files import user_path, whole_file
from stmem_ros.labels import IGNORE_INDEX
from stmem_ros.program import called
from training.console import plain_console
from training.data.dataset import (
    DatasetError,
    DatasetSpec,
    LabelledFrame,
    Split,
    load_spec,
    read_labels,
    require_one_size,
    scan,
)
from training.data.overlap import overlap, require_own_labels

HISTOGRAM = "class_histogram.png"
SHOWN = 10
SHOWN_GAPS = 3
SHOWN_SEQUENCES = 40
SMALLEST_SHARE = 0.0001


@dataclasses.dataclass(frozen=True)
class ImageReport:
    """What reading one frame gave: its size (width, height), pixels by class, and a line for each problem."""

    size: tuple[int, int] | None
    pixels: NDArray[np.int64]
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """All that is known of one split; `problems` are lines for a person under a heading."""

    split: Split
    sizes: collections.Counter[tuple[int, int]]
    pixels: NDArray[np.int64]
    problems: dict[str, list[str]]


def check_split(spec: DatasetSpec, root: Path, split: str) -> SplitReport:
    """Read every image of a split. Raises DatasetError where a folder or list is missing; goes on after all else."""
    found = scan(spec, root, split)
    labels_of = {frame.image: frame.labels for frame in found.frames}
    images = {path: labels_of.get(path) for numbers in found.images.values() for path in numbers.values()} | labels_of
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        readings = pool.map(lambda image: check_image(image, images[image], spec), images)
        reports = list(tqdm(readings, desc=f"check {split}", total=len(images), unit="frame", disable=None))
    finally:
        pool.shutdown(cancel_futures=True)
    pixels = sum((report.pixels for report in reports), np.zeros(len(spec.labels), np.int64))
    if found.frames and not pixels.any():
        missing = [f"the {split} split has no labelled pixel"]
    else:
        missing = [
            f"class {index} {name!r} never appears in the {split} split"
            for index, (name, count) in enumerate(zip(spec.labels.names, pixels, strict=True))
            if found.frames and not count
        ]
    if np.flatnonzero(pixels).tolist() == [0] and missing and spec.coding.classes.get(255) == IGNORE_INDEX:
        missing.append(
            "if the label images are masks of 0 and 255, 255 is a class that void_ids makes void: give the classes "
            "label_ids: [0] and label_ids: [255], and take 255 out of void_ids"
        )
    return SplitReport(
        split=found,
        sizes=collections.Counter(report.size for report in reports if report.size is not None),
        pixels=pixels,
        problems={
            "names and pairs": found.problems,
            "label images without a frame": [str(path) for path in found.lone_labels],
            "images": [problem for report in reports for problem in report.problems],
            "classes": missing,
        },
    )


def check_image(image: Path, labels: Path | None, spec: DatasetSpec) -> ImageReport:
    """Read one frame and, where it has one, its label image."""
    problems, pixels = [], np.zeros(len(spec.labels), np.int64)
    frame = truth = None
    try:
        frame = spec.read_image(image)
    except DatasetError as error:
        problems.append(str(error))
    if labels is not None:
        try:
            truth = read_labels(labels, spec)
            pixels = np.bincount(truth.ravel(), minlength=256)[: len(spec.labels)]
            if frame is not None:
                require_one_size(frame.shape, truth.shape, labels)
        except DatasetError as error:
            problems.append(str(error))
    return ImageReport(None if frame is None else (frame.shape[1], frame.shape[0]), pixels, problems)


def gaps(numbers: Iterable[int]) -> tuple[int | None, list[tuple[int, int]]]:
    """A sequence's usual step (the commonest, the smaller of two), and the pairs of numbers that a gap is between.

    As numbers that count milliseconds jitter, a gap is a step of more than one and a half usual ones.
    """
    pairs = list(itertools.pairwise(sorted(numbers)))
    if not pairs:
        return None, []
    counts = collections.Counter(later - earlier for earlier, later in pairs)
    usual = min(counts, key=lambda step: (-counts[step], step))
    return usual, [pair for pair in pairs if pair[1] - pair[0] > 1.5 * usual]


def print_report(report: SplitReport, title: str, console: Console) -> None:
    """A split in two tables, and its problems, at most SHOWN of each kind."""
    split = report.split
    images = sum(len(numbers) for numbers in split.images.values())
    summary = Table("", "", title=title, title_justify="left", show_header=False)
    summary.add_row("frames", str(images))
    summary.add_row("labelled frames", str(len(split.frames)))
    summary.add_row("sequences", str(len(split.images)))
    sizes = (f"{width}x{height} ({count})" for (width, height), count in report.sizes.most_common())
    summary.add_row("sizes", ", ".join(_bounded(sizes)) or "none")
    problems = sum(len(lines) for lines in report.problems.values())
    summary.add_row("problems", str(problems))
    console.print(summary)
    console.print(_sequence_table(split))
    for note in split.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    for heading, lines in report.problems.items():
        if lines:
            print_problems(heading, lines, console)


def print_problems(heading: str, lines: list[str], console: Console) -> None:
    """Lines under a heading, at most SHOWN."""
    console.print(f"{heading}: {len(lines)}", style="bold red", highlight=False)
    for line in _bounded(lines):
        # A name may hold a line's end, or what a terminal obeys.
        shown = re.sub(r"[\x00-\x1f\x7f]", lambda match: repr(match[0])[1:-1], line)
        console.print(f"  {shown}", highlight=False, soft_wrap=True)


def _sequence_table(split: Split) -> Table:
    table = Table("sequence", "frames", "labelled", "first", "last", "step", "gaps")
    for column in table.columns[1:6]:
        column.justify = "right"
    labelled = collections.Counter(frame.sequence for frame in split.frames)
    for sequence in sorted(split.images)[:SHOWN_SEQUENCES]:
        numbers = split.images[sequence]
        step, jumps = gaps(numbers)
        listed = [f"{earlier} to {later}" for earlier, later in jumps]
        table.add_row(
            sequence or "(all)",
            str(len(numbers)),
            str(labelled[sequence]),
            str(min(numbers)),
            str(max(numbers)),
            "-" if step is None else str(step),
            ", ".join(_bounded(listed, SHOWN_GAPS)) or "-",
        )
    if len(split.images) > SHOWN_SEQUENCES:
        table.add_row(f"and {len(split.images) - SHOWN_SEQUENCES} more")
    return table


def _bounded(items: Iterable[str], most: int = SHOWN) -> Iterator[str]:
    items = list(items)
    yield from items[:most]
    if len(items) > most:
        yield f"and {len(items) - most} more"


def draw_histogram(pixels: dict[str, NDArray[np.int64]], spec: DatasetSpec, path: Path) -> None:
    """Write a picture: each class's percentage of the labelled pixels, a bar a split, on a logarithmic axis."""
    names = spec.labels.names
    shares = {split: 100 * counts / max(counts.sum(), 1) for split, counts in pixels.items()}
    smallest = min((share[share > 0].min() for share in shares.values() if share.any()), default=1.0)
    left = max(10.0 ** np.floor(np.log10(smallest / 1.5)), SMALLEST_SHARE)
    height = 0.8 / len(shares)
    figure = Figure(figsize=(8, 1.3 + len(names) * (0.14 + 0.16 * len(shares))), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    axes = figure.add_subplot()
    for place, (split, share) in enumerate(shares.items()):
        at = np.arange(len(names)) - 0.4 + height * (place + 0.5)
        bars = axes.barh(at, np.maximum(share, left) - left, height * 0.9, left=left, label=split)
        axes.bar_label(bars, [_percent(value) for value in share], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(left, 300)
    axes.set_xticks(
        10.0 ** np.arange(np.log10(left), 3), [f"{10.0**power:g}" for power in np.arange(np.log10(left), 3)]
    )
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("percent of labelled pixels")
    axes.set_title(f"{spec.name}: how often each class appears")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower right", ncols=len(shares), frameon=False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _percent(value: float) -> str:
    if value < SMALLEST_SHARE:
        return f"below {SMALLEST_SHARE} %" if value else "none"
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def run(options: argparse.Namespace, console: Console) -> int:
    """Check every split that is asked for; returns 1 where there are problems, else 0. Raises DatasetError, OSError."""
    spec = load_spec(options.dataset)
    if options.output is not None:
        require_writable("--output", options.output, folder=True)
        require_writable("--output", options.output / HISTOGRAM)
    pixels: dict[str, NDArray[np.int64]] = {}
    frames: dict[str, list[LabelledFrame]] = {}
    problems = 0
    for split in options.splits:
        title = f"{spec.name}, {split}"
        try:
            report = check_split(spec, options.root, split)
        except DatasetError as error:
            print_problems(title, [str(error)], console)
            problems += 1
            continue
        print_report(report, title, console)
        problems += sum(len(lines) for lines in report.problems.values())
        pixels[split], frames[split] = report.pixels, report.split.frames
    try:
        require_own_labels([frame for split in frames.values() for frame in split], spec.read_image)
    except DatasetError as error:
        print_problems("label images of two splits", [str(error)], console)
        problems += 1
    for first, second in itertools.combinations(frames, 2):
        shared = overlap(frames[first], frames[second], spec.read_image)
        lines = [f"{other.image} is {one.image}" for one, other in shared]
        if lines:
            print_problems(f"frames of {first} that are in {second} too", lines, console)
            problems += len(lines)
    alike = [
        f"{first!r} and {second!r} are both drawn in {list(color)}: give each a colour of its own"
        for (first, color), (second, other) in itertools.combinations(
            zip(spec.labels.names, spec.labels.palette, strict=True), 2
        )
        if color == other
    ]
    if alike:
        print_problems(f"colours of {spec.name}", alike, console)
        problems += len(alike)
    if options.output is not None and pixels:
        path = options.output / HISTOGRAM
        draw_histogram(pixels, spec, path)
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if problems:
        print(f"check_dataset: {problems} problem{'s' * (problems > 1)}, see above", file=sys.stderr)
    return int(problems > 0)


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0 where all is well, 1 where there is any problem, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=called("training.check_dataset"),
        description="Read every image of a data set and print what is in it and what is wrong with it.",
    )
    parser.add_argument("--dataset", required=True, help="a name from training/datasets, or one's own YAML file")
    parser.add_argument("--root", required=True, type=user_path, help="the folder that the data set lies in")
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], help="as the folders are named (default: train val)"
    )
    parser.add_argument("--output", type=user_path, help=f"folder to write {HISTOGRAM} into")
    return exit_status("check_dataset", lambda: run(parser.parse_args(arguments), plain_console()), (DatasetError,))


if __name__ == "__main__":
    sys.exit(main())
