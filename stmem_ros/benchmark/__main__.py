"""How long a frame takes: the paper's way, feature caching, the exact fast path and the base alone, in one run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import torch

from stmem_ros.benchmark.cameras import time_cameras
from stmem_ros.benchmark.environment import environment
from stmem_ros.benchmark.film import Film
from stmem_ros.benchmark.measure import FEWEST_ROUNDS, WARM_UP_ROUNDS, Budget, measure
from stmem_ros.benchmark.memory import peak_memory
from stmem_ros.benchmark.neighbour import time_beside_neighbour
from stmem_ros.benchmark.report import report, table
from stmem_ros.benchmark.scaling import draw, measure_scaling
from stmem_ros.benchmark.subject import BenchmarkError, Subject
from stmem_ros.benchmark.ways import WAYS, Comparison, Setting, as_text
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, CheckpointError, save_checkpoint
from stmem_ros.command import exit_status, image_size, require_writable
from stmem_ros.files import one_line, user_path, whole_file
from stmem_ros.preprocess import SMALLEST_SIDE
from stmem_ros.program import called
from stmem_ros.streaming import DeviceError
from stmem_ros.streaming.device import PRECISIONS

LARGEST_SIDE = 16384
PAPER_SIZE = (256, 512)
# As many different images as the node's camera keeps ready.
NODE_IMAGES = 8


def usable_size(text: str) -> tuple[int, int]:
    """An argparse type: `HxW` that a network takes. Raises ArgumentTypeError."""
    size = image_size(text)
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
        raise argparse.ArgumentTypeError(f"{text!r} must have sides from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
    return size


def between(least: float, most: float, kind: type) -> Any:
    """An argparse type: a number of `kind` from `least` to `most`."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} must be a number from {least:g} to {most:g}")
        return value

    return parse


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=called("stmem_ros.benchmark"), description=__doc__)
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--model", metavar="NAME", help="a base network under STF and MAR as in the paper, at random")
    network.add_argument("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="default: the model in the package")
    parser.add_argument(
        "--size",
        type=usable_size,
        metavar="HxW",
        help="what the network sees (default: as trained, 4:3; --model 256x512)",
    )
    parser.add_argument(
        "--image-size", type=usable_size, metavar="HxW", help="what the camera gives engine and node (default: --size)"
    )
    parser.add_argument("--window", default="causal", choices=["causal", "centered"], help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS], help="default: %(default)s")
    parser.add_argument("--threads", type=between(1, 256, int), help="of the CPU (default: PyTorch's choice)")
    parser.add_argument(
        "--seconds",
        type=between(0, 86400, float),
        default=120.0,
        help=f"for the rounds, for --cameras, and for --plots; {FEWEST_ROUNDS} rounds at least (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=between(1, 10**6, int), default=0, help="rounds, whatever they take")
    parser.add_argument("--seed", type=between(0, 2**31, int), default=0, help="of weights and images")
    parser.add_argument("--no-memory", action="store_true", help="do not start a process for the memory of each way")
    parser.add_argument("--cameras", type=between(2, 1024, int), metavar="N", help="also N cameras as one batch")
    parser.add_argument(
        "--export",
        type=user_path,
        metavar="FOLDER",
        help="also the engine on this exported network; --node then runs it too",
    )
    parser.add_argument("--node", action="store_true", help="also through the node and DDS")
    parser.add_argument("--rate", type=between(0.1, 1000, float), default=15.0, help="Hz, of the node's camera")
    parser.add_argument("--frames", type=between(2, 10**6, int), default=300, help="of the node's camera")
    parser.add_argument(
        "--plots", type=user_path, metavar="FOLDER", help="also pictures over pixels, window and cameras"
    )
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write everything there too")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Raises BenchmarkError, CheckpointError, DeviceError or OSError."""
    try:
        benchmark(options)
    except torch.cuda.OutOfMemoryError as error:
        raise BenchmarkError(
            "the GPU's memory is too small for this; take a smaller --size, or --device cpu"
        ) from error


def benchmark(options: argparse.Namespace) -> None:
    """As `run`, and PyTorch's OutOfMemoryError."""
    if options.json:
        require_writable("--json", options.json)
    if options.plots:
        require_writable("--plots", options.plots, folder=True)
    subject = Subject.paper(options.model, options.seed) if options.model else Subject.trained(options.checkpoint)
    size = options.size or (PAPER_SIZE if options.model else (subject.short_side, round(subject.short_side * 4 / 3)))
    setting = Setting(
        size,
        options.image_size or size,
        options.window,
        options.device,
        options.precision,
        options.threads or 0,
        export=options.export and str(options.export),
    )
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    budget = Budget(options.seconds, options.repeats)
    if options.node:
        require_ros()

    comparison = Comparison(subject, setting)
    machine = environment(comparison.device, comparison.dtype)
    times, exactness = measure(comparison, size, budget, say)
    say("the engine alone and beside a busy process, by turns")
    beside = time_beside_neighbour(
        comparison.ways["engine"],
        comparison.scene,
        comparison.device,
        budget,
        start=WARM_UP_ROUNDS + times["engine"].count,
    )
    del comparison
    plain = dataclasses.replace(setting, export=None)
    say("" if options.no_memory else "peak memory of each way, in processes of their own")
    memory = {} if options.no_memory else {name: peak_memory(name, subject, plain) for name in WAYS}
    result = report(subject, setting, machine, times, exactness, memory)
    result["neighbour"] = beside.to_dict()
    if options.cameras:
        several = dataclasses.replace(plain, cameras=options.cameras)
        result["cameras"] = time_cameras(subject, several, budget, say).to_dict()
    if options.node:
        say(f"{options.frames} frames at {options.rate:g} Hz through the node")
        result["node"] = through_node(subject, setting, options.rate, options.frames)
    print(table(result), flush=True)
    write(options.json, result)
    if options.plots:
        result["scaling"] = measure_scaling(subject, plain, budget, not options.no_memory, say)
        write(options.json, result)
        title = f"{result['model']} at {as_text(size)}, {machine['dtype']}, {machine['device_name']}"
        files = draw(options.plots, title, result["scaling"])
        print("\n" + "\n".join(map(str, files)))


def write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(result, indent=2) + "\n")


def say(line: str) -> None:
    """Progress, beside the table."""
    if line:
        print(f"benchmark: {line}", file=sys.stderr, flush=True)


def require_ros() -> None:
    """Raises BenchmarkError."""
    try:
        import stmem_ros.node.camera_to_label  # noqa: F401
    except ImportError as error:
        raise BenchmarkError(f"--node needs ROS 2: source its setup file ({one_line(error)})") from error


def through_node(subject: Subject, setting: Setting, rate: float, frames: int) -> dict[str, Any]:
    """Raises BenchmarkError where the node cannot do it."""
    from stmem_ros.node.camera_to_label import ProcessError, camera_to_label

    film = Film(setting.image_size, subject.seed)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = subject.checkpoint
        if checkpoint is None:
            checkpoint = str(Path(folder) / "random.safetensors")
            save_checkpoint(checkpoint, *subject.make())
        parameters: dict[str, object] = {
            "checkpoint": setting.export or checkpoint,
            "device": setting.device,
            "precision": setting.precision,
            "window": setting.window,
            "short_side": 0 if setting.export else setting.short_side,
            "threads": setting.threads,
        }
        try:
            images = [film[number] for number in range(NODE_IMAGES)]
            measured = camera_to_label(images, rate, frames, parameters)
        except ProcessError as error:
            raise BenchmarkError(f"--node: {error}") from error
    return measured | {"image_size": list(setting.image_size)}


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, 1 after one line on stderr that says why there are no figures, 130 on Ctrl-C."""
    options = parse(arguments)
    return exit_status("benchmark", lambda: run(options), (BenchmarkError, CheckpointError, DeviceError))


if __name__ == "__main__":
    sys.exit(main())
