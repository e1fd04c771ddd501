"""Settings of training that cannot be are refused before any work, in one line: field, value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from small_run import small_settings

from training.data.dataset import load_spec
from training.stages.stage_config import StageConfig
from training.stages.stage_folder import TrainingError
from training.train import main
from training.train_check import check_machine, check_network, check_step
from training.train_config import TrainConfig, instantiated, parse, settings_parser

WHOLE = "it must be a whole number of at least 1"


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    return settings_parser()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "run.yaml"
    network = {"base": "efficientnet_lite0", "classes": 3, "stf": {"block": [4, 4]}, "mar": {"memory_classes": 3}}
    path.write_text(yaml.safe_dump({"run": "run", "dataset": "data", "root": "data", "network": network}))
    return path


@pytest.fixture(scope="module")
def read(parser: ArgumentParser, file: Path) -> Callable[..., TrainConfig]:
    return lambda *arguments: instantiated(parser, parse(parser, ["--config", str(file), *arguments]))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *(
            (f"{stage}.{field}", value, f"is {value}; {WHOLE}")
            for stage in ("base", "stf", "mar")
            for field, value in (("epochs", "0"), ("epochs", "-1"), ("batch_size", "0"), ("validate_every", "0"))
        ),
        ("base.head_rate", "-1", "is -1.0; it must be a number above 0"),
        ("base.head_rate", "0", "is 0.0; it must be a number above 0"),
        ("base.head_rate", ".nan", "is nan; it must be a number above 0"),
        ("base.backbone_rate", "-0.001", "is -0.001; it must not be negative"),
        ("stf.rate", ".inf", "is inf; it must be a number above 0"),
        ("stf.rate", "nan", "is nan; it must be a finite number"),
        ("mar.memory_rate", "-1", "is -1.0; it must not be negative"),
        ("stf.weight_decay", ".inf", "is inf; it must be a number of at least 0"),
        ("stf.workers", "-1", "is -1; it must be at least 0 and at most 256"),
        ("stf.epochs", "many", "is many; it must be a whole number"),
        ("stf.cache_gb", ".nan", "is nan; it must be a number of at least 0"),
        ("stf.feature_noise", "-1", "is -1.0; it must not be negative"),
        ("base.auxiliary_weight", "-1", "is -1.0; it must not be negative"),
        ("augment.scale", "[0, 1]", "is [0.0, 1.0]; it must be two numbers above 0, the lesser one first"),
        ("augment.scale", "[2, 1]", "is [2.0, 1.0]; it must be two numbers above 0, the lesser one first"),
        ("augment.crop", "[0, 0]", "is [0, 0]; it must be a height and a width, each at least 16"),
        ("mar.augment.crop", "[8, 64]", "is [8, 64]; it must be a height and a width, each at least 16"),
        ("augment.flip", "1.5", "is 1.5; it must be at least 0 and at most 1"),
        ("clips.zoom", "1", "is 1.0; it must be at least 0 and below 1"),
        ("clips.variants", "-1", "is -1; it must not be negative"),
        ("window.offset", "0", "is 0; neighbours are at least 1 frame number apart"),
        ("memory.confident_per_class", "0", f"is 0; {WHOLE}"),
        ("network.stf.heads", "0", "is 0; it must be a whole number from 1 to 65536"),
        ("network.classifier_upscale", "9", "is 9; it must be from 1 to 8"),
        ("short_side", "63", "is 63; it must be at least 64 and at most 8192"),
        ("short_side", "100000", "is 100000; it must be at least 64 and at most 8192"),
        ("base.workers", "1000", "is 1000; it must be at least 0 and at most 256"),
        ("augment.scale", "[1]", "is [1]; it must be a list of 2"),
        ("augment.crop", "[100000, 64]", "is [100000, 64]; it must be a height and a width, each at least 16"),
        ("seed", "-1", "is -1; it must be at least 0 and at most 4294967295"),
        ("devices", "0", f"is 0; {WHOLE}"),
        ("nodes", "0", f"is 0; {WHOLE}"),
        ("max_steps", "0", "is 0; it must be -1 (never) or a number of steps above 0"),
        ("keep", "first", "is first; it must be one of 'last', 'best'"),
        ("ablation", "maybe", "is maybe; it must be true or false"),
        ("sequences", "drive", "is drive; it must be a list, such as [A, B] or [A]"),
    ],
)
def test_a_value_out_of_range_is_named(read: Callable[..., TrainConfig], name: str, value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name} {reason}')}") as raised:
        read(f"--{name}", value)
    assert "\n" not in str(raised.value)


def test_a_rate_of_nothing_is_allowed_where_it_means_something(read: Callable[..., TrainConfig]) -> None:
    config = read("--base.backbone_rate", "0", "--base.schedule", "poly", "--mar.memory_rate", "0")
    assert (config.base.backbone_rate, config.mar.memory_rate) == (0, 0)
    StageConfig(gradient_clip=0.0, dice_weight=0, weight_decay=0)


def test_a_name_that_no_setting_has_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--stf.wndow", "3"]) == 1
    assert capsys.readouterr().err.strip() == (
        "training: unrecognized arguments: --stf.wndow 3 (--help lists the settings)"
    )


@pytest.fixture
def spec(make_shapes: Callable[..., Path], tmp_path: Path) -> Any:
    return load_spec(make_shapes(tmp_path, {"train": 1}, size=(64, 64)))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--network.stf.heads", "3"), "network.stf.heads is 3; it must divide the feature's 128 channels"),
        (("--network.mar.memory_classes", "7"), "network.mar.memory_classes is 7, but data set shapes has 3 classes"),
        (("--network.mar.memory_classes", "2"), "write 3 (with memory.allow_missing it may be less)"),
        (("--network.classes", "4"), "network.classes is 4, but data set shapes has 3 classes"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_known_at_once(
    read: Callable[..., TrainConfig], spec: Any, arguments: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_network(read(*arguments), spec)


@pytest.mark.parametrize(
    ("arguments", "frames", "reason"),
    [
        (("--base.batch_size", "1"), 100, "base.batch_size is 1: BatchNorm in efficientnet_lite0 needs at least 2"),
        ((), 1, "split train has 1 labelled frame: BatchNorm in efficientnet_lite0 needs at least 2 images"),
    ],
)
def test_a_step_of_one_image_is_known_at_once(
    read: Callable[..., TrainConfig], arguments: tuple[str, ...], frames: int, reason: str
) -> None:
    with pytest.raises(TrainingError) as raised:
        check_step(read(*arguments), frames)
    assert reason in str(raised.value)
    check_step(read(), 2)
    check_step(read(*arguments, "--start_from", "base.safetensors"), frames)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--accelerator", "gpu"), "accelerator is gpu, but PyTorch finds no GPU here: write cpu or auto"),
        (("--precision", "16-mixed"), "precision is 16-mixed, which needs a GPU"),
        (("--devices", "2"), "start with torchrun --nproc-per-node 2 -m training.train -- CONFIG.yaml --devices 2"),
        (
            ("--nodes", "2"),
            "torchrun --nnodes 2 --nproc-per-node 1 -m training.train -- CONFIG.yaml --devices 1 --nodes 2",
        ),
    ],
)
def test_a_machine_without_what_is_asked_for_is_known_at_once(
    read: Callable[..., TrainConfig], arguments: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(TrainingError) as raised:
        check_machine(read(*arguments))
    assert reason in str(raised.value)


def test_a_class_that_can_have_no_memory_is_known_before_the_first_stage(
    pixel_base: str, make_shapes: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_shapes(tmp_path / "data", {"train": 2, "val": 1}, size=(64, 64))
    settings = small_settings(pixel_base, data, tmp_path)
    data.write_text(data.read_text().replace("void_ids", "  - {name: boat, color: [1, 2, 3]}\nvoid_ids"))
    settings.pop("start_from")
    settings["network"] |= {"classes": 4, "mar": {"memory_classes": 4, "hard_per_class": 2}}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main([str(path)]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "split train has no pixel of boat" in line and "memory.allow_missing true" in line
    assert not Path(settings["run"]).exists()
