"""A training run that tests can afford: a base that needs no training, small STF and MAR, a few small frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from stmem_ros.checkpoint import CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.network import SegmenterConfig, build_segmenter
from training.data.dataset import load_spec
from training.train import main

EPOCHS = 4


def save_base(path: Path, base: str, data: Path, **provenance: Any) -> Path:
    """A network of stage 1 whose classifier tells the shapes' colours apart."""
    config = SegmenterConfig(base, classes=3)
    torch.manual_seed(0)
    model = build_segmenter(config)
    if base == "pixels":
        spec = load_spec(data)
        mean, std = torch.tensor(model.base.mean), torch.tensor(model.base.std)
        colors = (torch.tensor(spec.labels.palette).float() - mean) / std
        with torch.no_grad():
            model.classifier.linear.weight[:, :3, 0, 0] = 2 * colors
            model.classifier.linear.bias.copy_(-colors.square().sum(1))
    normalization = Normalization(model.base.mean, model.base.std)
    info = CheckpointInfo(config, load_spec(data).labels, normalization, 64, {"stages": ["base"], **provenance})
    save_checkpoint(path, model, info)
    return path


def small_settings(base: str, data: Path, folder: Path) -> dict[str, Any]:
    """Settings of a run in `folder`/run over `data`, a data set's YAML file in its root."""
    stage = {
        "epochs": EPOCHS,
        "batch_size": 4,
        "validate_every": 2,
        "workers": 0,
        "rate": 0.1,
        "ema_decay": 0.5,
        "feature_noise": 0.05,
    }
    return {
        "run": str(folder / "run"),
        "dataset": str(data),
        "root": str(data.parent),
        "start_from": str(save_base(folder / "base.safetensors", base, data)),
        "network": {
            "base": base,
            "classes": 3,
            "stf": {"block": [4, 4], "positional_grid": [8, 8], "feedforward": 8},
            "mar": {"memory_classes": 3, "hard_per_class": 2},
        },
        "short_side": 64,
        "accelerator": "cpu",
        "stf": stage,
        "mar": stage,
        "memory": {"confident_per_class": 3},
        "augment": {"crop": [32, 32], "scale": [0.8, 1.2]},
        "clips": {"variants": 2},
    }


def train(settings: dict[str, Any], *arguments: str) -> int:
    """The command, with the settings in a YAML file. Returns its status."""
    run = Path(settings["run"])
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.parent / f"{run.name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return main([str(path), *arguments])


def weights(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path)[0].state_dict()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """To the last bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
