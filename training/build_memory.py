"""Make MAR's memory from a network without MAR and the data it was trained on (paper, section 3.3).

`python -m training.build_memory --checkpoint stf.safetensors --dataset camvid --root DIR --output memory.safetensors`
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

import stmem_ros
from stmem_ros.checkpoint import CheckpointError, CheckpointInfo, find_checkpoint, load_checkpoint
from stmem_ros.command import exit_status, require_writable
from stmem_ros.files import user_path
from stmem_ros.labels import IGNORE_INDEX
from stmem_ros.network import VideoSegmenter
from stmem_ros.preprocess import Preprocessor
from stmem_ros.program import called
from stmem_ros.streaming import DeviceError, resolve_device
from training.console import plain_console
from training.data.clips import WindowConfig, Windows
from training.data.dataset import (
    DatasetError,
    DatasetSpec,
    LabelledFrame,
    class_pixels,
    list_frames,
    list_images,
    load_spec,
    read_frame,
    require_classes,
)
from training.data.fingerprint import Digests, of_frames
from training.stages.memory import Memory, MemoryBankError, MemoryBuilder


@torch.no_grad()
def build_memory(
    model: VideoSegmenter,
    info: CheckpointInfo,
    frames: list[LabelledFrame],
    windows: Windows,
    spec: DatasetSpec,
    device: torch.device,
    hard: int = 10,
    confident: int = 10,
    query: int | None = None,
    allow_missing: bool = False,
) -> Memory:
    """The memory of `frames`, from the features that the classifier sees when MAR is passed over; one pass.

    `hard` and `confident` are K_L and K_H. `query` is the labelled frame's place in its window, by default the
    middle; without STF a frame stands alone. Leaves the model on `device` in evaluation mode.
    Raises DatasetError where a file cannot be used, MemoryBankError where a class has too few correct features
    (with `allow_missing` it has no memory, which is said on stderr), ValueError where `query` is no place.
    """
    model = model.eval().to(device)
    model.base.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocess = Preprocessor(info.normalization, info.short_side, device)
    builder = MemoryBuilder(len(spec.labels), model.base.channels, hard, confident, device)
    length = model.window_frames
    query = 0 if model.stf is None else length // 2 if query is None else query
    images = [windows.around(frame, length, query) for frame in frames]
    last_use = {image: index for index, window in enumerate(images) for image in window}
    labelled = {frame.image: frame for frame in frames}
    void = torch.full((1, 1, 1), IGNORE_INDEX)

    def read(image: Path) -> tuple[Tensor, Tensor]:
        if image not in labelled:
            return model.features(preprocess(spec.read_image(image))), void
        pixels, labels = read_frame(labelled[image], spec)
        return model.features(preprocess(pixels)), torch.from_numpy(labels)[None]

    seen: dict[Path, tuple[Tensor, Tensor]] = {}
    for index, frame in enumerate(tqdm(frames, desc="memory", unit="frame", disable=None)):
        for image in images[index]:
            if image not in seen:
                seen[image] = read(image)
        features, labels = seen[frame.image]
        if model.stf is not None:
            window = [seen[image][0] for image in images[index]]
            # Images of a sequence may differ in size; those that do are no neighbours.
            window = [other if other.shape == features.shape else features for other in window]
            features = model.stf(torch.stack(window, 1), query)
        try:
            builder.update(features, model.classifier(features), labels)
        except MemoryBankError as error:
            raise MemoryBankError(f"{frame.image}: {error}") from error
        seen = {image: kept for image, kept in seen.items() if last_use[image] > index}
    memory = builder.result(spec.labels.names, allow_missing)
    if memory.missing:
        print(f"memory: none for {', '.join(memory.missing)}: too few correct features", file=sys.stderr)
    return memory


def print_table(memory: Memory) -> None:
    """How many correct features each class had, and how confident those are that were kept."""
    table = Table("class", "correct features", "keys' confidence", "prototype's confidence")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {label: row for row, label in enumerate(memory.classes)}
    for label, (name, count) in enumerate(zip(memory.names, memory.counts, strict=True)):
        kept = ("-", "-")
        if label in rows:
            low, high = memory.key_confidence[rows[label]], memory.value_confidence[rows[label]]
            kept = (f"{low[0]:.4f} to {low[-1]:.4f}", f"{high[-1]:.6f} to {high[0]:.6f}")
        table.add_row(name, f"{count:,}", *kept)
    plain_console().print(table)


def provenance(
    options: argparse.Namespace, model: VideoSegmenter, spec: DatasetSpec, frames: list[LabelledFrame]
) -> dict[str, Any]:
    middle = model.window_frames // 2
    return {
        "package": f"stmem_ros {stmem_ros.__version__}",
        "date": datetime.date.today().isoformat(),
        "checkpoint": str(options.checkpoint),
        "checkpoint_sha256": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest(),
        "dataset": spec.name,
        "made_from": {"split": options.split, **of_frames(frames, Digests()).summary()},
        "window": {
            "frames": model.window_frames,
            "query": middle if options.query is None else options.query,
            "offset": options.offset,
        },
    }


def run(options: argparse.Namespace) -> None:
    """One memory as the command line asks for it; everything that can fail early is tried before the network."""
    device = resolve_device(options.device)
    require_writable("--output", options.output)
    if options.output.exists() and options.checkpoint.exists() and options.output.samefile(options.checkpoint):
        raise MemoryBankError(f"--output {options.output} is the checkpoint itself: name another file")
    spec = load_spec(options.dataset)
    model, info = load_checkpoint(options.checkpoint)
    if model.mar is not None:
        raise MemoryBankError(
            f"{options.checkpoint} has MAR already, and a classifier that knows refined features alone: "
            "a memory is made from the stage before it"
        )
    require_classes(info.labels, spec, str(options.checkpoint))
    windows = Windows(list_images(spec, options.root, options.split), spec, WindowConfig(options.offset))
    frames = list_frames(spec, options.root, options.split)
    # Reads every label image: what is wrong with them is known before the network has run for an hour.
    pixels = class_pixels(frames, spec).sum(0)
    absent = [name for name, count in zip(spec.labels.names, pixels, strict=True) if not count]
    if absent and not options.allow_missing:
        raise MemoryBankError(
            f"the {options.split} split of {spec.name} in {options.root} has no pixel of {', '.join(absent)}; "
            "--allow-missing leaves these classes without a memory"
        )
    start = time.perf_counter()
    memory = build_memory(
        model,
        info,
        frames,
        windows,
        spec,
        device,
        options.hard,
        options.confident,
        options.query,
        options.allow_missing,
    )
    seconds = time.perf_counter() - start
    dataclasses.replace(memory, provenance=provenance(options, model, spec, frames)).save(options.output)
    print_table(memory)
    print(f"{len(frames)} frames in {seconds:.1f} s, {len(frames) / seconds:.2f} frames per second")
    print(f"wrote {options.output}")


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, 1 after one line on stderr that says why there is no memory, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=called("training.build_memory"),
        description="Run a network over a labelled split; keep each class's hard features and prototype, MAR's memory.",
    )
    parser.add_argument("--checkpoint", required=True, type=find_checkpoint, help="the network of the stage before MAR")
    parser.add_argument("--dataset", required=True, help="a name from training/datasets, or one's own YAML file")
    parser.add_argument("--root", required=True, type=user_path, help="the folder that the data set lies in")
    parser.add_argument("--split", default="train", help="the split that the network learned from (default: train)")
    parser.add_argument("--output", required=True, type=user_path, help="write the memory to this .safetensors file")
    parser.add_argument("--hard", type=int, default=10, help="keys a class, K_L (default: 10)")
    parser.add_argument("--confident", type=int, default=10, help="features behind a prototype, K_H (default: 10)")
    parser.add_argument("--allow-missing", action="store_true", help="leave classes with too few features out")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--query", type=int, help="the frame's place in its window, from 0 (default: the middle)")
    parser.add_argument("--offset", type=int, default=1, help="frame numbers between neighbours (default: 1)")
    errors = (CheckpointError, DatasetError, DeviceError, MemoryBankError, ValueError)
    stopped = "nothing was written, the same command begins anew"
    return exit_status("build_memory", lambda: run(parser.parse_args(arguments)), errors, stopped)


if __name__ == "__main__":
    sys.exit(main())
