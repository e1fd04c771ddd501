"""Every configuration that comes with the package can be trained; those of the paper have its authors' settings."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stmem_ros.checkpoint import load_checkpoint
from stmem_ros.network.segmenter import empty_segmenter
from training.data.dataset import load_spec
from training.train import main
from training.train_config import TrainConfig, settings_parser

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
PAPER = CONFIGS / "paper"
OURS = PAPER / "ours.yaml"
# Tables 1 to 4: base network, size of the images, stride, width d of the features, whether MAR alone is a row.
TABLES = {
    "cityscapes_pspnet_resnet18": ("pspnet_resnet18", (1024, 2048), 8, 128, False),
    "cityscapes_pspnet_resnet50": ("pspnet_resnet50", (1024, 2048), 8, 512, True),
    "cityscapes_pspnet_resnet101": ("pspnet_resnet101", (1024, 2048), 8, 512, False),
    "cityscapes_upernet_swin_b": ("upernet_swin_b", (1024, 2048), 4, 512, False),
    "cityscapes_deeplabv3_resnet101": ("deeplabv3_resnet101", (1024, 2048), 8, 512, False),
    "camvid_dilation8_vgg16": ("dilation8_vgg16", (720, 960), 8, 512, True),
    "camvid_pspnet_resnet101": ("pspnet_resnet101", (720, 960), 8, 512, False),
    "camvid_upernet_swin_b": ("upernet_swin_b", (720, 960), 4, 512, False),
}


def settings(*arguments: str | Path) -> TrainConfig:
    parser = settings_parser()
    parsed = parser.instantiate(parser.parse_args([str(argument) for argument in arguments])).as_dict()
    return TrainConfig(**{name: value for name, value in parsed.items() if name not in ("config", "stage")})


@pytest.mark.parametrize(
    "path", [path for path in sorted(CONFIGS.rglob("*.yaml")) if path != OURS], ids=lambda path: path.stem
)
def test_every_configuration_is_of_a_network_and_a_data_set_that_there_are(path: Path) -> None:
    config = settings("--config", path)
    model = empty_segmenter(config.network)
    assert config.run == f"runs/{path.stem}"
    if config.dataset != "street/street.yaml":
        assert len(load_spec(config.dataset).labels) == config.network.classes
    # What is trained fits the crop: no STF sees a grid of less than one block.
    if model.stf is not None:
        augment = config.stf.augment or config.augment
        rows, columns = (side // model.base.stride // model.stf.config.stride for side in augment.crop)
        assert rows >= model.stf.config.block[0] and columns >= model.stf.config.block[1]


def test_every_row_of_tables_1_to_4_has_a_configuration_and_there_are_no_others() -> None:
    assert sorted(path.stem for path in PAPER.glob("*.yaml")) == sorted([*TABLES, "ours"])


@pytest.mark.parametrize("name", TABLES)
def test_a_tables_row_has_the_authors_settings(name: str) -> None:
    config = settings("--config", PAPER / f"{name}.yaml")
    base, (height, width), stride, channels, ablation = TABLES[name]
    assert (config.network.base, config.short_side, config.ablation) == (base, height, ablation)
    model = empty_segmenter(config.network)
    assert (model.base.stride, model.base.channels) == (stride, channels)
    stf, mar = config.network.stf, config.network.mar
    assert mar is not None
    assert (mar.hard_per_class, config.memory.confident_per_class) == (10, 10)
    assert (mar.memory_classes, mar.values_per_class, mar.residual) == (config.network.classes, 1, False)
    if name == "cityscapes_deeplabv3_resnet101":
        assert stf is None
    else:
        assert stf is not None
        assert stf.positional_grid == (height // stride, width // stride)
        assert (stf.block, stf.frames, stf.depth, stf.heads, stf.feedforward) == ((16, 16), 3, 1, 2, 256)
        assert (stf.dropout, stf.stride, config.network.classifier_upscale) == (0.1, 1, 1)
    # Stages 2 and 3 (paper, section 3.4; the rest from the release): design.md, section 3.
    for stage in [config.mar] if stf is None else [config.stf, config.mar]:
        assert (stage.optimizer, stage.schedule, stage.rate, stage.memory_rate) == ("adamw", "constant", 1e-5, 1e-5)
        assert (stage.weight_decay, stage.decay, stage.gradient_clip) == (1e-4, "all", 0.1)
        assert (stage.epochs, stage.batch_size, stage.warmup_steps) == (50, 4, 0)
        assert not (stage.class_weights or stage.label_smoothing or stage.dice_weight or stage.ema_decay)
        assert not stage.feature_noise
        # Whole images, whatever their zoom, and nothing but flips.
        assert stage.augment is not None
        zooms = {stage.augment.crop[0] / height, stage.augment.crop[1] / width, *stage.augment.scale}
        assert len(zooms) == 1
        assert (stage.augment.flip, stage.augment.color, stage.augment.rare_crop, stage.augment.mix) == (0.5, 0, 0, 0)
    clips = config.clips
    assert not any((clips.pseudo, clips.still, clips.causal, clips.flicker, clips.occlusion, clips.degrade))
    assert config.window.offset == 1
    if config.dataset.startswith("cityscapes"):
        assert (config.train_split, config.val_split, config.keep) == ("train", "val", "best")
    else:
        assert (config.train_split, config.val_split, config.keep) == ("trainval", "test", "last")


def test_stage_1_is_mmsegmentations_for_80_000_steps() -> None:
    base = settings("--config", PAPER / "cityscapes_pspnet_resnet50.yaml").base
    assert base.epochs * (2975 // base.batch_size) == pytest.approx(80_000, rel=0.005)
    assert (base.optimizer, base.momentum, base.weight_decay, base.decay) == ("sgd", 0.9, 5e-4, "all")
    assert (base.schedule, base.power, base.last_rate) == ("poly", 0.9, 1e-4)
    assert (base.head_rate, base.backbone_rate, base.auxiliary_weight) == (0.01, 0.01, 0.4)


@pytest.mark.parametrize("name", TABLES)
def test_ours_lies_over_every_row_and_leaves_its_data_and_networks(name: str) -> None:
    theirs = settings("--config", PAPER / f"{name}.yaml")
    image = theirs.network.stf is None
    ours = settings("--config", PAPER / f"{name}.yaml", "--config", OURS, *(["--network.stf", "null"] if image else []))
    assert (ours.dataset, ours.network.base, ours.short_side) == (
        theirs.dataset,
        theirs.network.base,
        theirs.short_side,
    )
    assert ours.augment.crop == theirs.augment.crop and ours.stf.augment is None and ours.mar.augment is None
    assert ours.network.mar is not None and ours.network.mar.residual
    assert (ours.base.optimizer, ours.mar.schedule, ours.mar.rate, ours.mar.epochs) == ("adamw", "cycle", 2e-4, 6)
    if not image:
        assert ours.network.stf is not None and theirs.network.stf is not None
        assert (ours.network.stf.stride, theirs.network.stf.stride) == (2, 1)
        assert ours.network.stf.positional_grid == theirs.network.stf.positional_grid
    empty_segmenter(ours.network)


@pytest.mark.usefixtures("training_environment")
@pytest.mark.parametrize("overlay", [[], ["--config", str(OURS)]], ids=["authors", "ours"])
def test_a_row_trains_through_all_stages(make_shapes: Callable[..., Path], tmp_path: Path, overlay: list[str]) -> None:
    """The authors' settings, and ours over them, on a small set with a light base: each stage for two steps."""
    data = make_shapes(tmp_path, {"train": 8, "val": 2}, size=(64, 96))
    small: dict[str, Any] = {
        "run": str(tmp_path / "run"),
        "dataset": str(data),
        "root": str(tmp_path),
        "network": {
            "base": "efficientnet_lite0",
            "classes": 3,
            "stf": {"block": [2, 3], "positional_grid": [8, 12], "feedforward": 8},
            "mar": {"memory_classes": 3, "hard_per_class": 2},
        },
        "short_side": 64,
        "base": {"epochs": 1, "batch_size": 4, "workers": 0},
        "stf": {"epochs": 1, "workers": 0},
        "mar": {"epochs": 1, "workers": 0},
        # The base cannot tell anything after two steps.
        "memory": {"confident_per_class": 1, "allow_missing": True},
        "augment": {"crop": [32, 48]},
        "accelerator": "cpu",
    }
    if not overlay:
        small["stf"]["augment"] = small["mar"]["augment"] = {"crop": [48, 72]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    row = PAPER / "cityscapes_pspnet_resnet50.yaml"
    command = [str(row), *overlay, "--config", str(tmp_path / "small.yaml"), "--ablation", "false"]
    assert main(command) == 0
    _, info = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert info.provenance["stages"] == ["base", "stf", "mar"]
    told = {stage: info.provenance[stage]["settings"] for stage in ("base", "stf", "mar")}
    assert (told["base"]["optimizer"], told["base"]["schedule"]) == (("adamw", "cycle") if overlay else ("sgd", "poly"))
    assert {told[stage]["schedule"] for stage in ("stf", "mar")} == {"cycle" if overlay else "constant"}
    with open(tmp_path / "run" / "stf" / "csv" / "version_0" / "metrics.csv", newline="") as file:
        rates = {
            float(row[name]) for row in csv.DictReader(file) for name in row if name.startswith("lr-") and row[name]
        }
    assert (rates == {1e-5}) != bool(overlay)
