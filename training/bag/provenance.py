"""What figures depend on besides the bags: for the reader who wants to have them again."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from stmem_ros.files import user_path
from stmem_ros.streaming.device import resolve_device, resolve_precision
from training.bag.evaluator import info_of
from training.bag.settings import EvaluationSettings
from training.data.dataset_spec import DATASETS
from training.measure.temporal import VC_RULES

# Those of the command line that are no list.
OPTIONS = (
    "truth_folder",
    "dataset",
    "window",
    "short_side",
    "max_gap",
    "device",
    "precision",
    "threads",
    "used_bits",
    "tolerance",
    "vc_rule",
)
# What figures depend on that a default may have decided.
SHOWN = ("window", "short side", "precision", "device", "threads", "max gap", "used bits", "tolerance", "VC_n counts")


def about(settings: EvaluationSettings, bags: Sequence[Path]) -> dict[str, str]:
    """For `Evaluation.settings`. Raises CheckpointError, DeviceError and OSError."""
    facts = {"command": command(settings, bags)}
    if settings.checkpoints:
        facts |= _stream(settings)
    if settings.used_bits:
        facts["used bits"] = f"{settings.used_bits} of 16"
    facts |= {f"network {model}": f"{path.name}, SHA-256 {digest(path)}" for model, path in _networks(settings)}
    if settings.has_truth:
        facts["ground truth"] = ", ".join(settings.truth_topics) or str(settings.truth_folder)
        own = f"class ids of {settings.classes_from}"
        facts["its values"] = own if settings.dataset is None else f"data set {settings.dataset}"
        facts["VC_n counts"] = VC_RULES[settings.vc_rule]
    if settings.has_truth or settings.labels_topics:
        facts["tolerance"] = f"{settings.tolerance:g} s"
    versions = {"Python": platform.python_version(), "PyTorch": torch.__version__, "NumPy": np.__version__}
    facts["versions"] = ", ".join(
        f"{name} {version}" for name, version in (versions | {"OpenCV": cv2.__version__}).items()
    )
    return facts


def _stream(settings: EvaluationSettings) -> dict[str, str]:
    """By the names in SHOWN, what networks run with."""
    device = resolve_device(settings.device)
    precision = str(resolve_precision(settings.precision, device)).removeprefix("torch.")
    infos = {model: info_of(path) for model, path in _networks(settings)}
    trained = {model: f"{info.short_side} px" if info.short_side else "the camera's" for model, info in infos.items()}
    side = {0: "as trained", -1: "the camera's"}.get(settings.short_side, f"{settings.short_side} px")
    if settings.short_side == 0:
        alike = len(set(trained.values())) == 1
        each = next(iter(trained.values())) if alike else ", ".join(f"{name} {its}" for name, its in trained.items())
        side += f" ({each})"
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    exported = [model for model, path in _networks(settings) if path.is_dir()]
    return {
        "window": settings.window,
        "short side": side,
        "precision": precision + (f" ({', '.join(exported)}: float32, as exported)" if exported else ""),
        "device": f"{device}{gpu}",
        "threads": str(settings.threads or torch.get_num_threads()),
        "max gap": f"{settings.max_gap:g} s",
    }


def identity(settings: EvaluationSettings) -> str:
    """Another text where the same settings would give other figures, since a file has changed. Raises OSError."""
    found = {model: digest(path) for model, path in _networks(settings)}
    if settings.dataset is not None:
        path = user_path(settings.dataset)
        path = path if path.is_file() else DATASETS / f"{settings.dataset}.yaml"
        found["dataset"] = digest(path)
    if settings.truth_folder is not None:
        files = (path for path in sorted(settings.truth_folder.rglob("*")) if path.is_file())
        found["truth"] = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]  # type: ignore[assignment]
    return json.dumps(found)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder, one after the other in the order of their names."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            while part := data.read(1 << 20):
                sha.update(part)
    return sha.hexdigest()


def command(settings: EvaluationSettings, bags: Sequence[Path]) -> str:
    """The command line that asks for it, with the first bags where there are many."""
    words = ["python", "-m", "stmem_ros.bag", "evaluate", *map(str, bags[:3]), *(["..."] if len(bags) > 3 else [])]
    several = {
        "--image-topic": settings.image_topics,
        "--truth-topic": settings.truth_topics,
        "--checkpoint": settings.checkpoints,
        "--labels-topic": settings.labels_topics,
    }
    words += [str(word) for option, values in several.items() for value in values for word in (option, value)]
    defaults = EvaluationSettings()
    for option in OPTIONS:
        value = getattr(settings, option)
        if value != getattr(defaults, option):
            words += [f"--{option.removesuffix('_folder').replace('_', '-')}", str(value)]
    return shlex.join(words)


def _networks(settings: EvaluationSettings) -> Iterator[tuple[str, Path]]:
    return zip(settings.models, settings.paths, strict=False)
