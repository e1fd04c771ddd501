"""A checkpoint as graphs for other runtimes: `python -m training.export --to onnx -o FOLDER`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import stmem_ros
from stmem_ros.benchmark.film import Film
from stmem_ros.checkpoint import (
    DEFAULT_CHECKPOINT,
    EXPORT_DOCUMENT,
    NETWORK_SIDES,
    NETWORK_SIDES_TEXT,
    CheckpointError,
    CheckpointInfo,
    find_checkpoint,
    load_checkpoint,
)
from stmem_ros.command import exit_status, image_size, require_writable
from stmem_ros.files import one_line, user_path
from stmem_ros.preprocess import SMALLEST_SIDE, Preprocessor, network_size
from stmem_ros.program import called
from stmem_ros.streaming import DeviceError
from stmem_ros.streaming.exact import FrameFeatures, StreamingNetwork
from stmem_ros.streaming.exported import (
    FORMAT,
    FORMAT_VERSION,
    FRAME,
    LARGEST_SIDE,
    MOST_CAMERAS,
    fusion_files,
    read_export,
    state_names,
)
from stmem_ros.streaming.label_map import label_map
from stmem_ros.streaming.onnx_runtime import OnnxNetwork
from stmem_ros.streaming.window import query_place

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
CAMERA = (480, 640)
OPSETS = range(18, 23)
DEFAULT_OPSET = 20
# What float32 leaves, of logits up to ten; of larger ones in proportion.
TOLERANCE, USUAL_LOGIT = 1e-4, 10.0
AGREEMENT = 0.9999
CHECKED_FRAMES = 6


class ExportError(Exception):
    """A network that cannot be exported as asked: one line."""


class FrameGraph(nn.Module):
    """Normalised images `(N, 3, h, w)` to every tensor of their `FrameFeatures`."""

    def __init__(self, network: StreamingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.frame(images).tensors())


class FusionGraph(nn.Module):
    """The tensors of a window's `FrameFeatures`, frame after frame, oldest first, to the logits of frame `query`."""

    def __init__(self, network: StreamingNetwork, kind: FrameFeatures, query: int) -> None:
        super().__init__()
        self.network, self.kind, self.query = network, kind, query

    def forward(self, *state: Tensor) -> Tensor:
        size = len(state) // self.network.window_frames
        window = [self.kind.of(state[start : start + size]) for start in range(0, len(state), size)]
        return self.network.predict(window, self.query)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of an export with PyTorch, over a stream: the largest |Δ| of a logit, and the share of equal labels."""

    max_abs_diff: float
    largest_logit: float
    labels: float

    @property
    def good(self) -> bool:
        tolerance = TOLERANCE * max(1.0, self.largest_logit / USUAL_LOGIT)
        return self.max_abs_diff <= tolerance and self.labels >= AGREEMENT


def run(options: argparse.Namespace) -> None:
    """Raises ExportError, CheckpointError and OSError, each one line, where nothing is written."""
    output = options.output.resolve()
    _check(options, output)
    model, info = load_checkpoint(options.checkpoint)
    size = options.size or network_size(options.camera_size, options.short_side or info.short_side)
    if max(size) > LARGEST_SIDE:
        raise ExportError(f"the network's image would be {_pixels(size)}; at most {LARGEST_SIDE} pixels a side")
    network = StreamingNetwork(model)
    print(f"{options.checkpoint.name}: {info.config.base} for images of {_pixels(size)}, opset {options.opset}")
    with whole_folder(output) as folder:
        export_graphs(network, info, size, options.cameras, folder, options.opset)
        document = {
            FORMAT: FORMAT_VERSION,
            "checkpoint": info.to_dict(),
            "checkpoint_sha256": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest(),
            "size": size,
            "cameras": options.cameras,
            "opset": options.opset,
            "precision": "float32",
            "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()},
            "versions": {"stmem_ros": stmem_ros.__version__}
            | {name: importlib.metadata.version(name) for name in PACKAGES},
        }
        path = folder / EXPORT_DOCUMENT
        path.write_text(json.dumps(document, indent=1))
        document["agreement"] = {}
        for window in fusion_files(info.config):
            agreement = compare(network, folder, window)
            print(
                f"{window}: |difference| of logits {agreement.max_abs_diff:.1e} at most, "
                f"{agreement.labels:.4%} of labels equal"
            )
            if not agreement.good:
                raise ExportError(
                    f"ONNX Runtime's {window} labels are not PyTorch's: logits up to {agreement.largest_logit:.3g} "
                    f"differ by {agreement.max_abs_diff:.1e}, {agreement.labels:.4%} of labels are equal; "
                    "nothing was written"
                )
            document["agreement"][window] = dataclasses.asdict(agreement)
        path.write_text(json.dumps(document, indent=1))
    print(f"wrote {options.output}: the node runs it as checkpoint:={options.output}")


def _check(options: argparse.Namespace, output: Path) -> None:
    """What can be known wrong before the work."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"{' and '.join(missing)} must be installed: pip install {' '.join(missing)}")
    for name, size in (("--size", options.size), ("--camera-size", options.camera_size)):
        if size and not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
            raise ExportError(f"{name} is {_pixels(size)}; sides have {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
    if options.short_side is not None and options.short_side not in NETWORK_SIDES:
        raise ExportError(f"--short-side is {options.short_side}; it must be {NETWORK_SIDES_TEXT} pixels")
    if options.size and options.short_side:
        raise ExportError("--size says all of the size: leave --short-side out")
    if not 1 <= options.cameras <= MOST_CAMERAS:
        raise ExportError(f"--cameras is {options.cameras}; it must be 1 to {MOST_CAMERAS}")
    if options.opset not in OPSETS:
        raise ExportError(f"--opset is {options.opset}; it must be {OPSETS[0]} to {OPSETS[-1]}")
    require_writable("-o", output, folder=True)
    require_replaceable(output)


def require_replaceable(folder: Path) -> None:
    """See that `folder` is not there, is empty, or holds an export and nothing else. Raises ExportError."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if not names:
        return
    try:
        known = {EXPORT_DOCUMENT, FRAME, *fusion_files(read_export(folder).info.config).values()}
    except CheckpointError:
        raise ExportError(f"-o {folder} is a folder of other things; name a new one") from None
    if others := sorted(names - known):
        raise ExportError(f"-o {folder} is an export with {others[0]} beside it; move that, or name a new folder")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which takes its place when the block ends well, and else is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        partial.mkdir()
        yield partial
        for path in partial.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def export_graphs(
    network: StreamingNetwork, info: CheckpointInfo, size: tuple[int, int], cameras: int, folder: Path, opset: int
) -> None:
    """Write `frame.onnx` and the fusion of each kind of window. Raises ExportError."""
    names = state_names(info.config)
    with torch.no_grad():
        images = torch.zeros(cameras, 3, *size)
        kind = network.frame(images)
        _write(FrameGraph(network), (images,), ["images"], names, folder / FRAME, opset)
        frames = network.window_frames
        # Each its own: a tensor that is given twice becomes one input.
        state = tuple(tensor.clone() for _ in range(frames) for tensor in kind.tensors())
        inputs = [f"{name}_{place}" for place in range(frames) for name in names]
        for window, file in fusion_files(info.config).items():
            if not (folder / file).exists():
                graph = FusionGraph(network, kind, query_place(frames, window == "causal"))
                _write(graph, state, inputs, ["logits"], folder / file, opset)


def _write(
    graph: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str], path: Path, opset: int
) -> None:
    try:
        with _quiet():
            program = torch.onnx.export(
                graph.eval(),
                inputs,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=outputs,
                opset_version=opset,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"PyTorch cannot write {path.name}: {one_line(error.__cause__ or error)[:500]}") from error
    assert program is not None
    # Stack traces, with the paths of this machine.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.save(path, external_data=False)
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what is none of the user's business: packages that are not used, its own old calls."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def compare(network: StreamingNetwork, folder: Path, window: str) -> Agreement:
    """An export beside the network that it was made of, on the CPU, over some frames of a picture that drifts."""
    export = read_export(folder)
    exported = OnnxNetwork(export, window, "cpu")
    preprocess = Preprocessor(export.info.normalization, 0, torch.device("cpu"))
    frames = network.window_frames
    query = query_place(frames, window == "causal")
    differences, largest, equal = [], [], []
    ours: list[FrameFeatures] = []
    theirs: list[object] = []
    with torch.inference_mode():
        film = Film(export.size)
        for number in range(CHECKED_FRAMES):
            images = preprocess(film[number]).repeat(export.cameras, 1, 1, 1)
            ours = (ours[1:] or [network.frame(images)] * (frames - 1)) + [network.frame(images)]
            theirs = (theirs[1:] or [exported.frame(images)] * (frames - 1)) + [exported.frame(images)]
            expected, found = network.predict(ours, query), exported.predict(theirs, query)
            differences.append((expected - found).abs().max().item())
            largest.append(expected.abs().max().item())
            for one, other in zip(expected.split(1), found.split(1), strict=True):
                equal.append((label_map(one, export.size, False)[0] == label_map(other, export.size, False)[0]).mean())
    # A maximum would pass over NaN.
    return Agreement(float(np.max(differences)), float(np.max(largest)), float(np.mean(equal)))


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns 0, 1 after one line on stderr that says why nothing was written, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=called("training.export"),
        description="Write a network as graphs of one size that ONNX Runtime and others run: frame.onnx, once a frame; "
        "fusion_causal.onnx and fusion_centered.onnx, once a window; model.json, what they are. The files are "
        "compared with PyTorch before they take their place. The node runs the folder as checkpoint:=FOLDER.",
    )
    parser.add_argument("--to", choices=["onnx"], default="onnx", help="the format (default: %(default)s)")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=find_checkpoint,
        default=DEFAULT_CHECKPOINT,
        help="default: the model in the package",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", type=user_path, required=True, help="write this folder")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--camera-size",
        metavar="HxW",
        type=image_size,
        default=CAMERA,
        help=f"the camera's height and width, from which the network's size follows (default: {_pixels(CAMERA)})",
    )
    sizes.add_argument("--size", metavar="HxW", type=image_size, help="the network's own image, height and width")
    parser.add_argument(
        "--short-side",
        metavar="N",
        type=int,
        help="height or width, whichever is less, of the network's image (default: the checkpoint's)",
    )
    parser.add_argument(
        "--cameras", metavar="N", type=int, default=1, help="images at once (default: 1, which the node needs)"
    )
    parser.add_argument(
        "--opset",
        metavar="N",
        type=int,
        default=DEFAULT_OPSET,
        help=f"of ONNX, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)",
    )
    errors = (CheckpointError, DeviceError, ExportError)

    return exit_status("export", lambda: run(parser.parse_args(arguments)), errors, "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
