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

from stmem_ros.streaming import resolve_device
from training.bag.settings import EvaluationSettings
from training.data.dataset_spec import DATASETS


def about(settings: EvaluationSettings, bags: Sequence[Path]) -> dict[str, str]:
    """For `Evaluation.settings`. Raises DeviceError and OSError."""
    device = resolve_device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    facts = {"command": command(settings, bags), "window": settings.window}
    facts["short side"] = {0: "as trained", -1: "the camera's"}.get(settings.short_side, str(settings.short_side))
    facts |= {f"network {model}": f"{path.name}, SHA-256 {digest(path)}" for model, path in _networks(settings)}
    if settings.has_truth:
        facts["ground truth"] = ", ".join(settings.truth_topics) or str(settings.truth_folder)
        facts["its values"] = (
            f"class ids of {settings.classes_from}" if settings.dataset is None else f"data set {settings.dataset}"
        )
    facts["device"] = f"{device} ({name})"
    versions = {"Python": platform.python_version(), "PyTorch": torch.__version__, "NumPy": np.__version__}
    facts["versions"] = ", ".join(
        f"{name} {version}" for name, version in (versions | {"OpenCV": cv2.__version__}).items()
    )
    return facts


def identity(settings: EvaluationSettings) -> str:
    """Another text where the same settings would give other figures, since a file has changed. Raises OSError."""
    found = {model: digest(path) for model, path in _networks(settings)}
    if settings.dataset is not None:
        path = Path(settings.dataset)
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
    for option in ("truth_folder", "dataset", "window", "short_side", "max_gap", "used_bits", "tolerance"):
        value = getattr(settings, option)
        if value != getattr(defaults, option):
            words += [f"--{option.removesuffix('_folder').replace('_', '-')}", str(value)]
    return shlex.join(words)


def _networks(settings: EvaluationSettings) -> Iterator[tuple[str, Path]]:
    return zip(settings.models, settings.paths, strict=False)
