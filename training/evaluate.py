"""Measure a checkpoint on a labelled split: `python -m training.evaluate --dataset camvid --root DIR --split val`."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError, CheckpointInfo, load_checkpoint
from stmem_ros.network import SegmenterConfig, VideoSegmenter
from stmem_ros.network.segmenter import upsample
from stmem_ros.preprocess import Preprocessor
from stmem_ros.streaming import DeviceError, resolve_device
from training.dataset import DatasetError, DatasetSpec, LabelledFrame, class_pixels, list_frames, load_spec, read_frame
from training.metrics import Accuracy, confusion_matrix, labels_of
from training.quality import QUALITY_NAMES, Quality

LONGEST_STEP = 0.1


class EvaluationError(Exception):
    """A request that cannot be met: one line with the reason."""


@torch.inference_mode()
def evaluate(
    model: VideoSegmenter,
    info: CheckpointInfo,
    frames: list[LabelledFrame],
    spec: DatasetSpec,
    device: torch.device,
    quality: Quality | None = None,
) -> Accuracy:
    """The whole network's accuracy on whole images, one confusion matrix pooled over `frames`, void ignored.

    Images are shrunk to the checkpoint's `short_side`; logits go straight to the size of the label image.
    With STF a frame's window holds its neighbours (see `window_of`). `quality` is filled where it is given.
    Raises DatasetError where a file cannot be used.
    """
    model = model.eval().to(device)
    model.base.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocess = Preprocessor(info.normalization, info.short_side, device)
    confusion = confusion_matrix(len(spec.labels)).to(device)
    length = model.window_frames

    @functools.lru_cache(maxsize=length)
    def read(index: int) -> tuple[Tensor, Tensor, NDArray[np.uint8]]:
        image, labels = read_frame(frames[index], spec)
        return model.features(preprocess(image)), torch.from_numpy(labels).long()[None], image

    for index in tqdm(range(len(frames)), desc="evaluate", unit="frame", disable=None):
        features, labels, image = read(index)
        window = [read(neighbour)[0] for neighbour in window_of(frames, index, length)]
        # Images of a sequence may differ in size; those that do are no neighbours.
        window = [other if other.shape == features.shape else features for other in window]
        logits = model.predict(torch.stack(window, 1), length // 2).contiguous()
        logits = upsample(logits, (labels.shape[-2], labels.shape[-1]))
        confusion.update(labels_of(logits), labels.to(device))
        if quality is not None:
            quality.follow(index > 0 and are_consecutive(frames[index - 1], frames[index], spec))
            quality.update(image, logits[0], labels[0].numpy().astype(np.uint8))
    return Accuracy.of(confusion.compute())


def are_consecutive(earlier: LabelledFrame, later: LabelledFrame, spec: DatasetSpec) -> bool:
    """Whether two labelled frames follow each other as a video's do: one sequence, at most 0.1 s apart."""
    if spec.frame_rate is None or earlier.sequence != later.sequence:
        return False
    return 0 < later.number - earlier.number <= LONGEST_STEP * spec.frame_rate


def window_of(frames: list[LabelledFrame], index: int, length: int) -> list[int]:
    """Which `length` frames make the window of frame `index`, oldest first; `length // 2` of them lie before it.

    They are those beside it in the split, however far apart in time. Where its sequence begins or ends
    its first or last frame is repeated.
    """
    sequence = [place for place, frame in enumerate(frames) if frame.sequence == frames[index].sequence]
    here = sequence.index(index)
    places = range(here - length // 2, here - length // 2 + length)
    return [sequence[min(max(place, 0), len(sequence) - 1)] for place in places]


def row_name(config: SegmenterConfig) -> str:
    """Which row of the paper's table 3 a network is: base, stf, mar or both."""
    if config.stf is None:
        return "base" if config.mar is None else "mar"
    return "stf" if config.mar is None else "both"


def print_table(accuracy: Accuracy, quality: Quality, names: tuple[str, ...], pixels: NDArray[np.int64]) -> None:
    """IoU of each class beside its share of the labelled pixels, and the figures over all classes."""
    table = Table("class", "pixels %", "IoU %")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, iou, count in zip(names, accuracy.per_class_iou, pixels, strict=True):
        table.add_row(name, f"{100 * count / pixels.sum():.2f}", "-" if iou is None else f"{iou:.2f}")
    table.add_section()
    table.add_row("mean IoU", "", f"{accuracy.miou:.2f}")
    table.add_row("frequency-weighted IoU", "", f"{accuracy.fw_iou:.2f}")
    table.add_row("pixel accuracy", "", f"{accuracy.pixel_accuracy:.2f}")
    for name, value in quality.to_dict().items():
        if value is not None:
            table.add_row(QUALITY_NAMES[name], "", f"{value:.2f}")
    Console().print(table)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write the file whole or not at all. Raises OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def run(options: argparse.Namespace) -> None:
    """One evaluation as the command line asks for it; everything that can fail early is tried before the network."""
    device = resolve_device(options.device)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        if options.json.is_dir():
            raise EvaluationError(f"--json {options.json} is a folder; it must be a file's name")
    spec = load_spec(options.dataset)
    model, info = load_checkpoint(options.checkpoint)
    if info.labels.names != spec.labels.names:
        raise EvaluationError(
            f"{options.checkpoint} knows the classes {', '.join(info.labels.names)}; "
            f"data set {spec.name} has {', '.join(spec.labels.names)}"
        )
    frames = list_frames(spec, options.root, options.split)
    pixels = class_pixels(frames, spec).sum(0)
    if not pixels.any():
        raise DatasetError(f"the {options.split} split of {spec.name} in {options.root} has no labelled pixel")
    quality = Quality(len(spec.labels))
    accuracy = evaluate(model, info, frames, spec, device, quality)
    print_table(accuracy, quality, spec.labels.names, pixels)
    if options.json is not None:
        figures = accuracy.to_dict(spec.labels.names) | quality.to_dict()
        document = {
            **figures,
            "checkpoint": str(options.checkpoint),
            "dataset": spec.name,
            "split": options.split,
            "frames": len(frames),
            "rows": {row_name(info.config): figures},
        }
        write_json(options.json, document)


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, or 1 after one line on stderr that says why there are no figures."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Segment every labelled image of a split and print how well: IoU of each class, mean, accuracy.",
    )
    parser.add_argument("--dataset", required=True, help="a name from training/datasets, or one's own YAML file")
    parser.add_argument("--root", required=True, type=Path, help="the folder that the data set lies in")
    parser.add_argument("--split", default="val", help="train, val or test, as the folders are named (default: val)")
    parser.add_argument(
        "--checkpoint", type=Path, default=DEFAULT_CHECKPOINT, help="the network (default: the one in the package)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, percentages")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    try:
        run(parser.parse_args(arguments))
    except (CheckpointError, DatasetError, DeviceError, EvaluationError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
