"""Measure networks on a labelled split: `python -m training.evaluate --dataset camvid --root DIR --split val`.

Each checkpoint gives a row, base, stf, mar or both, as in the paper's table 3, and baselines more beside them; all rows
come from one pass.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from stmem_ros.checkpoint import (
    DEFAULT_CHECKPOINT,
    NETWORK_SIDES,
    NETWORK_SIDES_TEXT,
    CheckpointError,
    CheckpointInfo,
    find_checkpoint,
    load_checkpoint,
    load_rows,
)
from stmem_ros.command import OutputError, exit_status, image_size, require_writable
from stmem_ros.files import user_path, whole_file
from stmem_ros.network import VideoSegmenter
from stmem_ros.network.segmenter import upsample
from stmem_ros.preprocess import network_size
from stmem_ros.program import called
from stmem_ros.streaming import DeviceError, resolve_device
from stmem_ros.used_bits import add_used_bits
from training.baselines import BASELINES, MissingLibraryError
from training.data.clips import WindowConfig, Windows
from training.data.dataset import (
    DatasetError,
    DatasetSpec,
    LabelledFrame,
    load_spec,
    of_sequences,
    read_frame,
    read_split,
    require_classes,
)
from training.measure.baseline import Baseline, Fusion
from training.measure.cost import Cost, cost_of
from training.measure.metrics import Accuracy, confusion_matrix, labels_of
from training.measure.quality import Quality
from training.measure.report import PICTURES, Result, WorstFrames, print_tables, write_pictures
from training.measure.rows import ROWS, Networks, Row, labelled, require_numbers, row_name, same_network
from training.measure.sliding import Slide
from training.measure.temporal import MotionTracker, add_vc_rule

LONGEST_STEP = 0.1
WORST_FRAMES = 6
WINDOWS = {"centered": (False,), "causal": (True,), "both": (False, True)}


class EvaluationError(Exception):
    """A request that cannot be met: one line with the reason."""


# What `run` raises for a person.
ERRORS = (CheckpointError, DatasetError, DeviceError, EvaluationError, OutputError)


class Tally:
    """What a row has shown so far: one confusion matrix over all frames, void ignored, and more where it is given."""

    def __init__(
        self,
        row: Row,
        classes: int,
        device: torch.device,
        quality: Quality | None = None,
        worst: WorstFrames | None = None,
    ) -> None:
        self.row = row
        self.confusion = confusion_matrix(classes).to(device)
        self.quality = quality
        self.worst = worst

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy.of(self.confusion.compute())

    def result(self, cost: Cost) -> Result:
        """The figures so far, beside what the network costs."""
        confusion = self.confusion.compute()
        quality = {} if self.quality is None else self.quality.to_dict()
        return Result(self.row.kind, Accuracy.of(confusion), quality, cost, confusion.cpu().numpy(), self.row.label)


def evaluate(
    model: VideoSegmenter,
    info: CheckpointInfo,
    frames: list[LabelledFrame],
    spec: DatasetSpec,
    device: torch.device,
    quality: Quality | None = None,
    windows: Windows | None = None,
) -> Accuracy:
    """One network's accuracy on `frames`, each in the middle of its window; see `measure`.

    Neighbours come from `windows`; without it they are the nearest of `frames`. `quality` is filled where it is given.
    """
    if windows is None:
        images: dict[str, dict[int, Path]] = {}
        for frame in frames:
            images.setdefault(frame.sequence, {})[frame.number] = frame.image
        windows = Windows(images, spec, WindowConfig())
    tally = Tally(Row(model, info), len(spec.labels), device, quality)
    measure([tally], frames, spec, device, windows)
    return tally.accuracy


@torch.inference_mode()
def measure(
    tallies: list[Tally],
    frames: list[LabelledFrame],
    spec: DatasetSpec,
    device: torch.device,
    windows: Windows,
    slide: Slide | None = None,
) -> None:
    """Segment every frame by every row, whole or by a sliding window, and count.

    Images are resized to the checkpoint's `short_side`; logits go straight to the size of the label image, those of a
    sliding window by way of the network's image. What rows have in common is computed once: the base features of an
    image, and the fused features of a window. Raises DatasetError where a file cannot be used, EvaluationError where
    a network's output is not finite.
    """
    networks = Networks([tally.row for tally in tallies], frames, device, windows, slide)
    tracker = MotionTracker() if any(tally.quality is not None for tally in tallies) else None
    for index, frame in enumerate(tqdm(frames, desc="evaluate", unit="frame", disable=None)):
        image, truth = read_frame(frame, spec)
        labels = torch.from_numpy(truth).long()[None].to(device)
        consecutive = index > 0 and are_consecutive(frames[index - 1], frame, spec)
        motion = None if tracker is None else tracker.follow(image, consecutive)
        for tally, low in zip(tallies, networks.logits(index), strict=True):
            if not low.isfinite().all():
                raise EvaluationError(
                    f"{tally.row.checkpoint or 'the network'}, row {tally.row.name}: its output for {frame.image} "
                    "holds NaN or infinity, so its weights are far too large: its training went wrong; take an earlier "
                    "checkpoint, or train again with lower rates"
                )
            logits = upsample(low.contiguous(), (truth.shape[0], truth.shape[1]))
            if tally.row.refinement is not None:
                logits = tally.row.refinement.refine(logits[0], image)[None]
            predicted = labels_of(logits)
            tally.confusion.update(predicted, labels)
            if tally.quality is not None:
                tally.quality.update(logits[0], truth, consecutive, motion)
            if tally.worst is not None:
                tally.worst.update(frame, predicted[0].to(torch.uint8).cpu().numpy(), truth)


def are_consecutive(earlier: LabelledFrame, later: LabelledFrame, spec: DatasetSpec) -> bool:
    """Whether two labelled frames follow each other as a video's do: one sequence, at most 0.1 s apart."""
    if spec.frame_rate is None or earlier.sequence != later.sequence:
        return False
    return 0 < later.number - earlier.number <= LONGEST_STEP * spec.frame_rate


def networks_of(checkpoints: list[Path]) -> list[tuple[Path, VideoSegmenter, CheckpointInfo]]:
    """The networks that files hold: first the rows kept beside others, then each file's own. Raises CheckpointError.

    Of a kind a file gives one; a row that another file has too, with the same weights, is left out.
    """
    own = [(path, *load_checkpoint(path)) for path in checkpoints]
    kept: list[tuple[Path, VideoSegmenter, CheckpointInfo]] = []
    for path, _, own_info in own:
        kinds = {row_name(own_info.config)}
        for model, info in load_rows(path).values():
            kind = row_name(info.config)
            if kind not in kinds and not any(same_network((model, info), each[1:]) for each in [*own, *kept]):
                kept.append((path, model, info))
            kinds.add(kind)
    for path, model, info in [*kept, *own]:
        require_numbers(path, row_name(info.config), model)
    return sorted(kept, key=lambda row: ROWS.index(row_name(row[2].config))) + own


def rows_of(
    checkpoints: list[Path],
    window: str,
    spec: DatasetSpec,
    short_side: int = 0,
    baselines: Sequence[Baseline] = (),
) -> list[Row]:
    """The rows that the checkpoints give, in their order; with `window` "both", causal ones after centred ones.

    `short_side` above 0 stands for that of the checkpoints. Each of `baselines` is a row after the row base.
    Rows of one name, from several files, are told apart by their files' names.
    Raises CheckpointError, and EvaluationError where a checkpoint has other classes or is given twice, or where
    baselines find no row base.
    """
    for place, path in enumerate(checkpoints):
        if any(path.resolve() == other.resolve() for other in checkpoints[:place]):
            raise EvaluationError(f"--checkpoint names {path} twice: give it once")
    rows: list[Row] = []
    for path, model, info in networks_of(checkpoints):
        require_classes(info.labels, spec, str(path))
        if short_side:
            info = dataclasses.replace(info, short_side=short_side)
        own = row_name(info.config)
        for baseline in (None, *baselines) if own == "base" else (None,):
            several = isinstance(baseline, Fusion) or model.stf is not None
            for causal in WINDOWS[window] if several else (False,):
                rows.append(Row(model, info, causal, path, baseline))
    if baselines and not any(row.kind == "base" for row in rows):
        raise EvaluationError(
            f"--baseline needs a row base, and {', '.join(map(str, checkpoints))} gives "
            f"{', '.join(row.kind for row in rows)} alone: give "
            "--checkpoint the base's file too (base/base.safetensors in the run's folder)"
        )
    return labelled(rows)


def _baselines(names: Sequence[str]) -> list[Baseline]:
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise EvaluationError(f"--baseline {unknown[0]} is not known; there are {', '.join(BASELINES)}")
    try:
        return [BASELINES[name]() for name in dict.fromkeys(names)]
    except MissingLibraryError as error:
        raise EvaluationError(f"--baseline {error}") from error


def _slide(options: argparse.Namespace) -> Slide | None:
    if options.slide is None:
        if options.overlap is not None:
            raise EvaluationError("--overlap is of a sliding window: give --slide HxW too, or leave it out")
        return None
    overlap = 1 / 3 if options.overlap is None else _share(options.overlap)
    try:
        return Slide(options.slide, overlap)
    except ValueError as error:
        raise EvaluationError(f"--{error}") from error


def _share(text: str) -> float:
    """Of a window: a decimal number, or a fraction such as 1/3. Raises EvaluationError."""
    number = re.fullmatch(r"(\d{0,9}\.?\d{1,9})(?:/(0*[1-9]\d{0,8}))?", text, re.ASCII)
    if number is None:
        raise EvaluationError(f"--overlap is {text!r}; it must be a share of the window, such as 1/3 or 0.5")
    return float(number[1]) / int(number[2] or 1)


def _note_whole(slide: Slide, rows: list[Row], sizes: Iterable[tuple[int, int]]) -> None:
    """Say so where a window holds every image of these sizes: it slides nowhere."""
    seen = {network_size(size, row.info.short_side) for size in sizes for row in rows}
    if all(len(slide.crops(size)) == 1 for size in seen):
        (height, width), (largest_height, largest_width) = slide.size, max(seen)
        print(
            f"evaluate: --slide {height}x{width} holds every image whole ({largest_height}x{largest_width} and less, "
            "as the network sees them): figures are those without --slide",
            file=sys.stderr,
        )


def _cost(row: Row, size: tuple[int, int], slide: Slide | None) -> Cost:
    """Of an image of `size`, rows and columns, all crops of a sliding window together. Baselines count nothing."""
    size = network_size(size, row.info.short_side)
    if slide is None:
        return cost_of(row.info.config, size)
    crops = slide.crops(size)
    rows, columns = crops[0]
    cost = cost_of(row.info.config, (rows.stop, columns.stop))
    return Cost(size, cost.parameters, {part: len(crops) * macs for part, macs in cost.macs.items()})


def _check_outputs(options: argparse.Namespace) -> None:
    """See that what is asked for can be written; makes nothing. Raises OutputError and EvaluationError."""
    if options.json is not None:
        require_writable("--json", options.json)
        if any(options.json.exists() and path.exists() and path.samefile(options.json) for path in options.checkpoint):
            raise EvaluationError(f"--json {options.json} is the checkpoint itself: name another file")
    if options.pictures is not None:
        require_writable("--pictures", options.pictures, folder=True)
        for name in PICTURES:
            require_writable("--pictures", options.pictures / name)
        if options.json is not None and options.json.resolve() in (
            options.pictures.resolve(),
            *options.pictures.resolve().parents,
        ):
            raise EvaluationError(f"--json {options.json} is to be a file, --pictures needs a folder there: rename one")


def _write(option: str, path: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise OutputError(
            f"{option} {path} cannot be written: {error.strerror or error}; name a place that can be"
        ) from error


def _check_frames(
    frames: list[LabelledFrame], spec: DatasetSpec
) -> tuple[NDArray[np.int64], collections.Counter[tuple[int, int]]]:
    """Pixels by class, and how many frames have which rows and columns. Reads, and so checks, images and labels."""
    pixels = np.zeros(len(spec.labels), np.int64)
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for frame in frames:
        _, labels = read_frame(frame, spec)
        pixels += np.bincount(labels.ravel(), minlength=256)[: len(spec.labels)]
        sizes[labels.shape[0], labels.shape[1]] += 1
    return pixels, sizes


def _window_config(options: argparse.Namespace) -> WindowConfig:
    try:
        return WindowConfig(options.offset, options.reach)
    except ValueError as error:
        raise EvaluationError(str(error).replace("window.", "--")) from error


def run(options: argparse.Namespace) -> None:
    """One evaluation as the command line asks for it; everything that can fail early is tried before the network."""
    device = resolve_device(options.device)
    beside, slide = _window_config(options), _slide(options)
    baselines = _baselines(options.baseline)
    _check_outputs(options)
    spec = load_spec(options.dataset)
    if options.used_bits:
        spec = dataclasses.replace(spec, used_bits=options.used_bits)
    if options.short_side and options.short_side not in NETWORK_SIDES:
        raise EvaluationError(
            f"--short-side is {options.short_side}; it must be 0 (the checkpoint's) or {NETWORK_SIDES_TEXT} pixels"
        )
    rows = rows_of(options.checkpoint, options.window, spec, options.short_side, baselines)
    split = read_split(spec, options.root, options.split)
    for note in split.notes:
        print(f"evaluate: {note}", file=sys.stderr)
    frames = of_sequences(split.frames, options.sequences, options.split)
    windows = Windows(split.images, spec, beside)
    pixels, sizes = _check_frames(frames, spec)
    if not pixels.any():
        raise DatasetError(f"the {options.split} split of {spec.name} in {options.root} has no labelled pixel")
    if slide is not None:
        _note_whole(slide, rows, sizes)
    # Of the first frame's size; images of one split seldom differ.
    costs = [_cost(row, next(iter(sizes)), slide) for row in rows]
    tallies = [Tally(row, len(spec.labels), device, Quality(len(spec.labels), options.vc_rule)) for row in rows]
    # The first row of the checkpoint given last: its centred one where there are two.
    main_row = next(place for place, row in enumerate(rows) if row.model is rows[-1].model)
    worst = WorstFrames(WORST_FRAMES, spec.frame_rate)
    if options.pictures is not None:
        tallies[main_row].worst = worst
    measure(tallies, frames, spec, device, windows, slide)
    results = [tally.result(cost) for tally, cost in zip(tallies, costs, strict=True)]
    print_tables(results, spec.labels.names, pixels)
    if options.json is not None:
        figures = [row.to_dict() | result.to_dict(spec.labels.names) for row, result in zip(rows, results, strict=True)]
        document = {
            **figures[main_row],
            "dataset": spec.name,
            "split": options.split,
            **({"sequences": options.sequences} if options.sequences else {}),
            "frames": len(frames),
            "neighbors": dataclasses.asdict(beside),
            "vc_rule": options.vc_rule,
            "slide": None if slide is None else dataclasses.asdict(slide),
            "rows": {row.name: its for row, its in zip(rows, figures, strict=True)},
        }
        _write("--json", options.json, lambda: write_json(options.json, document))
    if options.pictures is not None:
        _write(
            "--pictures",
            options.pictures,
            lambda: write_pictures(
                options.pictures, results, results[main_row], worst.shots(), spec.labels, spec.read_image
            ),
        )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all. Raises OSError."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def add_what_options(parser: argparse.ArgumentParser) -> None:
    """Which data and which checkpoints."""
    parser.add_argument("--dataset", required=True, help="a name from training/datasets, or one's own YAML file")
    parser.add_argument("--root", required=True, type=user_path, help="the folder that the data set lies in")
    parser.add_argument("--split", default="val", help="train, val or test, as the folders are named (default: val)")
    parser.add_argument(
        "--checkpoint",
        type=find_checkpoint,
        nargs="+",
        default=[DEFAULT_CHECKPOINT],
        help="files with the rows base, stf, mar and both as far as there are (default: the one in the package)",
    )


def options_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called("training.evaluate"),
        description="Segment every labelled image of a split and say how well, how steadily over time, at what cost. "
        "Figures of the whole are those of the checkpoint given last.",
    )
    add_what_options(parser)
    parser.add_argument("--sequences", nargs="+", default=[], metavar="NAME", help="measure these alone (default: all)")
    parser.add_argument(
        "--window",
        choices=WINDOWS,
        default="centered",
        help="where a frame stands in the window that STF sees: in the middle, as in the paper; at its end (causal), "
        "as rows NAME_causal; or both (default: centered)",
    )
    parser.add_argument(
        "--offset", type=int, default=1, help="frame numbers from neighbour to neighbour in a window (default: 1)"
    )
    parser.add_argument(
        "--reach", type=float, default=0.5, help="seconds beyond which a frame is no neighbour (default: 0.5)"
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"more rows over the row base: {', '.join(BASELINES)} (tables 1, 2 and 4 of the paper). Nothing is "
        "trained, and what they cost beyond the base is not counted",
    )
    parser.add_argument(
        "--slide",
        type=image_size,
        metavar="HxW",
        help="segment crops of this size of the image that the network sees, and average logits where they overlap "
        "(default: the image as a whole)",
    )
    parser.add_argument(
        "--overlap", help="share of a crop's side that lies in the next crop too, with --slide (default: 1/3)"
    )
    parser.add_argument(
        "--short-side",
        type=int,
        default=0,
        help="resize images to this height or width, whichever is less, as the node's parameter of that name does "
        "(default: 0, as the checkpoint was trained)",
    )
    add_used_bits(parser, "the data set's")
    add_vc_rule(parser)
    parser.add_argument("--json", type=user_path, help="write the figures to this file, percentages")
    parser.add_argument("--pictures", type=user_path, help=f"write {', '.join(PICTURES)} into this folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, 1 after one line on stderr that says why there are no figures, 130 on Ctrl-C."""
    return exit_status("evaluate", lambda: run(options_parser().parse_args(arguments)), ERRORS)


if __name__ == "__main__":
    sys.exit(main())
