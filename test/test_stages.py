"""Stages 2 and 3 of training: STF, memory, MAR over a base that stays as it is, in one go or in several."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from small_run import EPOCHS, assert_same, save_base, small_settings, train, weights
from torch import Tensor

from stmem_ros import files
from stmem_ros.checkpoint import load_checkpoint, load_rows, save_checkpoint
from stmem_ros.network import SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.network.mar import MAR
from stmem_ros.preprocess import resize
from training import evaluate
from training.data.augment import AugmentConfig
from training.data.clip_dataset import Clip, ClipConfig, ClipDataset
from training.data.clips import WindowConfig, Windows
from training.data.dataset import list_frames, list_images, load_spec, read_frame
from training.stages.feature_cache import FeatureCache
from training.stages.temporal_stage import TemporalStage, TemporalStageConfig, jitter
from training.train import main

pytestmark = pytest.mark.usefixtures("training_environment")


class PowerCut(BaseException):
    pass


@pytest.fixture(scope="module")
def data(make_shapes: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data"), {"train": 8, "val": 3}, size=(64, 64), noise=20)


@pytest.fixture
def settings(pixel_base: str, data: Path, tmp_path: Path) -> dict[str, Any]:
    return small_settings(pixel_base, data, tmp_path)


def losses(folder: Path) -> list[float]:
    with open(folder / "csv" / "version_0" / "metrics.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]


def test_one_command_ends_with_one_checkpoint_that_shows_what_each_part_gains(
    settings: dict[str, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(settings, "--ablation", "true") == 0
    model = Path(settings["run"]) / "model.safetensors"
    network, info = load_checkpoint(model)
    assert network.stf is not None and network.mar is not None
    assert info.provenance["stages"] == ["base", "stf", "mar"]
    assert [info.provenance[stage]["settings"]["epochs"] for stage in ("stf", "mar")] == [EPOCHS] * 2
    assert set(load_rows(model)) == {"base", "stf", "mar"}
    base = load_checkpoint(settings["start_from"])[0]
    for name, weight in base.base.state_dict().items():
        assert torch.equal(weight, network.base.state_dict()[name]), name

    figures = tmp_path / "figures.json"
    command = ["--dataset", str(data), "--root", str(data.parent), "--checkpoint", str(model), "--json", str(figures)]
    assert evaluate.main([*command, "--window", "both"]) == 0
    document = json.loads(figures.read_text())
    assert list(document["rows"]) == ["base", "stf", "stf_causal", "mar", "both", "both_causal"]
    assert document["miou"] == document["rows"]["both"]["miou"]
    assert document["rows"]["base"]["miou"] > 80
    assert info.provenance["validated_on"]["val_miou"] == pytest.approx(document["miou"], abs=0.05)
    assert not (Path(settings["run"]) / "cache").exists()


def test_what_is_fixed_stays_as_it_is(settings: dict[str, Any]) -> None:
    assert train(settings) == 0
    run = Path(settings["run"])
    paths = (Path(settings["start_from"]), run / "stf" / "stf.safetensors", run / "mar" / "mar.safetensors")
    base, stf, mar = (weights(path) for path in paths)
    for name in base:
        if name.startswith("base."):
            assert torch.equal(base[name], stf[name]) and torch.equal(base[name], mar[name]), name
    moved = {name for name in stf if name.startswith("stf.") and not torch.equal(stf[name], mar[name])}
    assert not moved
    assert not torch.equal(stf["classifier.linear.weight"], mar["classifier.linear.weight"])


def test_parts_that_add_to_the_features_begin_as_the_network_before_them(settings: dict[str, Any]) -> None:
    settings["network"]["stf"]["stride"], settings["network"]["mar"]["residual"] = 2, True
    for stage in ("stf", "mar"):
        settings[stage] = {**settings[stage], "rate": 1e-9, "memory_rate": 1e-9}
    assert train(settings) == 0
    base, both = (load_checkpoint(path)[0] for path in (settings["start_from"], f"{settings['run']}/model.safetensors"))
    still = torch.randn(1, 1, 3, 64, 64).expand(-1, 3, -1, -1, -1)
    with torch.inference_mode():
        torch.testing.assert_close(both(still), base(still), rtol=0, atol=1e-4)


def test_a_network_that_started_from_a_whole_one_says_only_what_it_went_through(settings: dict[str, Any]) -> None:
    network, info = load_checkpoint(settings["start_from"])
    whole = {"stages": ["base", "stf", "mar"], "base": {"seed": 1}, "stf": {"seed": 2}, "mar": {"seed": 3}}
    save_checkpoint(settings["start_from"], network, dataclasses.replace(info, provenance=whole))
    assert train(settings, "--stage", "stf") == 0
    _, info = load_checkpoint(f"{settings['run']}/stf/stf.safetensors")
    assert info.provenance["stages"] == ["base", "stf"]
    assert info.provenance["base"] == {"seed": 1} and "mar" not in info.provenance


def test_jitter_is_smooth_in_a_frame_and_new_in_every_frame() -> None:
    torch.manual_seed(0)
    features = torch.randn(4, 3, 16, 32, 40) * torch.arange(1, 17).view(16, 1, 1)
    noise = jitter(features, 0.5) - features
    deviation = noise.std((0, 1, 3, 4)) / torch.arange(1, 17)
    # The share drawn for a frame is uniform from 0 to 2: its square is 4/3 on average.
    assert (deviation - 0.5 * (4 / 3) ** 0.5).abs().max() < 0.2

    def correlation(one: Tensor, other: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])

    assert correlation(noise[..., 1:], noise[..., :-1]) > 0.8
    assert abs(correlation(noise[:, 0], noise[:, 1])) < 0.1


def test_fixed_parts_are_in_evaluation_mode_while_others_train(tmp_path: Path) -> None:
    config = SegmenterConfig("efficientnet_lite0", 3, stf=STFConfig(block=(4, 4), positional_grid=(4, 4)))
    model = build_segmenter(config)
    stage = TemporalStage(model, "stf", TemporalStageConfig(), torch.ones(3), FeatureCache(tmp_path, 0))
    before = {name: value.clone() for name, value in model.base.state_dict().items()}
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    stage.log = lambda *_, **__: None  # type: ignore[method-assign]
    stage.training_step([Clip(images, None, torch.zeros(64, 64, dtype=torch.long), 1, None)] * 2, 0).backward()
    assert model.stf is not None and model.stf.training and not any(m.training for m in model.base.modules())
    for name, value in model.base.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.base.parameters())


@pytest.mark.parametrize("part", ["stf", "mar"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_stage_that_was_killed_goes_on_to_the_same_weights(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, step: int
) -> None:
    assert train(settings) == 0
    expected = weights(Path(settings["run"]) / "model.safetensors")
    settings["run"] = str(tmp_path / "killed")
    plain = TemporalStage.training_step
    steps = 0

    def cut(self: TemporalStage, clips: list[Clip], index: int) -> Tensor:
        nonlocal steps
        if self.part == part:
            steps += 1
            if steps == step + 1:
                raise PowerCut
        return plain(self, clips, index)

    with monkeypatch.context() as patch:
        patch.setattr(TemporalStage, "training_step", cut)
        with pytest.raises(PowerCut):
            train(settings)
    assert train(settings) == 0
    assert_same(weights(Path(settings["run"]) / "model.safetensors"), expected)


def test_a_stage_with_other_optimisers_and_schedules_goes_on_to_the_same_weights_too(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {
        "optimizer": "sgd",
        "schedule": "poly",
        "warmup_steps": 2,
        "last_rate": 0.01,
        "ema_decay": 0.0,
        "decay": "all",
    }
    settings["stf"] = settings["stf"] | more
    assert train(settings, "--stage", "stf") == 0
    expected = weights(Path(settings["run"]) / "stf" / "stf.safetensors")
    settings["run"] = str(tmp_path / "killed")
    plain = TemporalStage.training_step

    def cut(self: TemporalStage, clips: list[Clip], index: int) -> Tensor:
        if self.global_step == 5:
            raise PowerCut
        return plain(self, clips, index)

    with monkeypatch.context() as patch:
        patch.setattr(TemporalStage, "training_step", cut)
        with pytest.raises(PowerCut):
            train(settings, "--stage", "stf")
    assert train(settings, "--stage", "stf") == 0
    assert_same(weights(Path(settings["run"]) / "stf" / "stf.safetensors"), expected)
    # Not averaged, the kept weights are those of the last step.
    last = torch.load(Path(settings["run"]) / "stf" / "last.ckpt", weights_only=True)
    for name, value in last["current_model_state"].items():
        torch.testing.assert_close(last["state_dict"][name], value, rtol=0, atol=0, msg=name)


def test_a_stage_may_have_crops_of_its_own(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, tuple[int, ...]]] = set()
    plain = TemporalStage.training_step

    def note(self: TemporalStage, clips: list[Clip], index: int) -> Tensor:
        seen.update((self.part, tuple(clip.labels.shape)) for clip in clips)
        return plain(self, clips, index)

    monkeypatch.setattr(TemporalStage, "training_step", note)
    settings["stf"] = settings["stf"] | {"augment": {"crop": [48, 64], "scale": [1.0, 1.0]}}
    assert train(settings) == 0
    assert seen == {("stf", (48, 64)), ("mar", (32, 32))}


def test_the_cache_changes_nothing_and_may_be_deleted(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = FeatureCache.get

    def get(self: FeatureCache, name: str) -> Tensor | None:
        kept = plain(self, name)
        seen.append(kept is not None)
        return kept

    monkeypatch.setattr(FeatureCache, "get", get)
    assert train(settings, "--keep_cache", "true") == 0
    assert sum(seen) > 8, "the third and fourth epochs show earlier clips again"
    expected = weights(Path(settings["run"]) / "model.safetensors")
    cache = Path(settings["run"]) / "cache"
    assert any(cache.rglob("*.npy"))
    for changed in ({"cache_gb": 0.0}, {"cache_gb": 1e-4}):
        seen.clear()
        settings["run"] = str(tmp_path / f"run{changed['cache_gb']}")
        settings["stf"] = settings["mar"] = settings["stf"] | changed
        assert train(settings, "--keep_cache", "true") == 0
        assert_same(weights(Path(settings["run"]) / "model.safetensors"), expected)
        kept = sum(file.stat().st_size for file in Path(settings["run"]).glob("cache/*/*"))
        assert kept <= 2 * 1e9 * changed["cache_gb"]


def test_a_damaged_cache_file_is_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", 1e6)
    tensor = torch.randn(3, 4)
    cache.put("a", tensor)
    assert torch.equal(cache.get("a"), cache.rounded(tensor))  # type: ignore[arg-type]
    file = next((tmp_path / "cache").iterdir())
    file.write_bytes(file.read_bytes()[:-5])
    assert cache.get("a") is None
    file.write_bytes(b"")
    assert cache.get("a") is None


def test_a_stage_is_never_half_of_one_thing_and_half_of_another(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(settings, "--stage", "stf") == 0
    assert train(settings, "--stage", "stf", "--stf.rate", "0.5") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "stf was begun with settings.rate = 0.1, now it is 0.5" in error and "--run" in error
    assert yaml.safe_load((Path(settings["run"]) / "config.yaml").read_text())["stf"]["rate"] == 0.1
    # What does not decide the outcome may change.
    assert train(settings, "--stage", "stf", "--stf.workers", "1", "--stf.cache_gb", "0") == 0


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_trial_too_short_for_a_validation_keeps_the_last_weights_and_goes_on_with_either(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str], keep: str
) -> None:
    trial = ("--stage", "stf", "--max_steps", "1")
    assert train(settings, *trial, "--keep", keep) == 0
    said = capsys.readouterr().out
    assert ("stf ended before its first validation: its last weights are kept" in said) == (keep == "best")
    folder = Path(settings["run"]) / "stf"
    assert not (folder / "best.ckpt").exists()
    _, info = load_checkpoint(folder / "stf.safetensors")
    assert info.provenance["stf"]["keep"] == "last"
    before = (folder / "stf.safetensors").read_bytes()
    assert train(settings, *trial, "--keep", "last") == 0
    assert (folder / "stf.safetensors").read_bytes() == before


def test_which_weights_to_keep_may_change_until_a_stage_is_done(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(settings, "--stage", "stf") == 0
    expected = weights(Path(settings["run"]) / "stf" / "stf.safetensors")
    settings["run"] = str(tmp_path / "stopped")
    step = TemporalStage.training_step

    def stop(self: TemporalStage, *arguments: Any) -> Tensor:
        if self.trainer.current_epoch == 3:
            raise KeyboardInterrupt
        return step(self, *arguments)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(TemporalStage, "training_step", stop)
        capsys.readouterr()
        assert train(settings, "--stage", "stf", "--keep", "best") == 130
    error = capsys.readouterr().err
    assert error == "training: stopped; the same command goes on from the last whole epoch\n"
    assert signal.getsignal(signal.SIGINT) is handler
    assert train(settings, "--stage", "stf") == 0
    assert_same(weights(Path(settings["run"]) / "stf" / "stf.safetensors"), expected)
    # Done, and there was a best: another choice is another outcome.
    assert train(settings, "--stage", "stf", "--keep", "best") == 1
    assert "was begun with keep = last, now it is best" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "kind", "reason"),
    [
        ("", "file", "run is a file: name another place"),
        ("/new", "file", "run is a file: name another place"),
        ("/mar", "file", "mar is a file: name another place"),
        ("/model.safetensors", "folder", "model.safetensors is a folder; it must be a file's name"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_known_before_the_data_is_read(
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    kind: str,
    reason: str,
) -> None:
    path = Path(settings["run"] + ("" if place == "/new" else place))
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if kind == "folder" else path.touch()
    settings_file = Path(settings["run"]).with_name("settings.yaml")
    settings_file.write_text(yaml.safe_dump(settings))
    monkeypatch.setattr("training.train.read_split", lambda *_: pytest.fail("the data was read first"))
    run = settings["run"] + (place if place == "/new" else "")
    assert main([str(settings_file), "--run", run]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("training: --run ") and reason in error


def test_a_stage_that_is_done_is_kept(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(settings) == 0
    monkeypatch.setattr(TemporalStage, "training_step", None)
    assert train(settings) == 0


def test_a_loss_that_is_no_number_stops_the_training_and_says_why(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = TemporalStage.logits

    def broken(self: TemporalStage, clips: list[Clip]) -> Tensor:
        return plain(self, clips) * (float("nan") if self.global_step == 3 else 1)

    monkeypatch.setattr(TemporalStage, "logits", broken)
    assert train(settings, "--stage", "stf") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the loss became nan in epoch 1, step 3" in error and "learning rates" in error
    assert not (Path(settings["run"]) / "stf" / "stf.safetensors").exists()
    last = torch.load(Path(settings["run"]) / "stf" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in last["state_dict"].values() if value.is_floating_point())


def test_a_full_disk_is_one_line_and_the_training_goes_on_later(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(settings, "--stage", "stf") == 0
    expected = weights(Path(settings["run"]) / "stf" / "stf.safetensors")
    settings["run"] = str(tmp_path / "full")
    saves, plain = 0, os.replace

    def replace(source: Path, target: Path) -> None:
        nonlocal saves
        saves += Path(target).name == "last.ckpt"
        if Path(target).name == "last.ckpt" and saves == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        assert train(settings, "--stage", "stf") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "last.ckpt could not be written: No space left on device" in error
    assert not list(Path(settings["run"]).rglob("*.partial"))
    assert train(settings, "--stage", "stf") == 0
    assert_same(weights(Path(settings["run"]) / "stf" / "stf.safetensors"), expected)


def test_a_damaged_checkpoint_of_a_run_is_one_line(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(settings, "--stage", "stf") == 0
    folder = Path(settings["run"]) / "stf"
    (folder / "stf.safetensors").unlink()
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes()[:1000])
    assert train(settings, "--stage", "stf") == 1
    assert f"{folder / 'last.ckpt'} is damaged" in capsys.readouterr().err.strip().splitlines()[-1]


def test_another_networks_checkpoint_is_no_beginning(
    settings: dict[str, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings["start_from"] = str(save_base(tmp_path / "other.safetensors", "efficientnet_lite0", data))
    assert train(settings) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "other.safetensors has the base network efficientnet_lite0" in error and "network.base is pixels" in error


def test_several_devices_without_torchrun_are_refused(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(settings, "--devices", "2") == 1
    assert "start with torchrun --nproc-per-node 2" in capsys.readouterr().err
    assert not Path(settings["run"]).exists()


def test_a_class_without_memory_is_named_and_may_be_left_out(
    settings: dict[str, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data.parent, root)
    for path in (root / "trainannot").iterdir():
        labels = np.fromfile(path, np.uint8)
        image = cv2.imdecode(labels, -1)
        image[image == 1] = 9
        cv2.imwrite(str(path), image)
    settings |= {"root": str(root), "dataset": str(root / "shapes.yaml")}
    assert train(settings, "--network.stf", "null") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "disc" in error and "memory.allow_missing" in error
    settings["run"] += "2"
    assert train(settings, "--network.stf", "null", "--memory.allow_missing", "true") == 0
    network, _ = load_checkpoint(Path(settings["run"]) / "model.safetensors")
    assert isinstance(network.mar, MAR) and network.mar.config.memory_classes == 2


def test_two_processes_train_as_one(data: Path, tmp_path: Path) -> None:
    """torchrun with two gloo processes gets the losses of a single process, step by step."""
    base = save_base(tmp_path / "base.safetensors", "efficientnet_lite0", data)
    stage = {"epochs": 2, "batch_size": 4, "validate_every": 2, "workers": 0, "rate": 1e-3}
    common = {
        "dataset": str(data),
        "root": str(data.parent),
        "start_from": str(base),
        "network": {
            "base": "efficientnet_lite0",
            "classes": 3,
            "stf": {"block": [2, 2], "positional_grid": [4, 4], "feedforward": 8, "dropout": 0.0},
        },
        "short_side": 64,
        "accelerator": "cpu",
        "stf": stage,
        "augment": {"crop": [32, 32]},
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, starter, devices in (
        ("one", [sys.executable], 1),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], 2),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**common, "run": str(tmp_path / name), "devices": devices}))
        command = [*starter, "-m", "training.train", str(path), "--stage", "stf"]
        done = subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one" / "stf"), losses(tmp_path / "two" / "stf")
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-4)
    figures = [
        load_checkpoint(tmp_path / name / "stf" / "stf.safetensors")[1].provenance["validated_on"]["val_pixel_accuracy"]
        for name in ("one", "two")
    ]
    assert figures[1] == pytest.approx(figures[0], abs=0.1)


def clips_of(data: Path, config: ClipConfig, epoch: int = 0, length: int = 3) -> ClipDataset:
    spec = load_spec(data)
    frames = list_frames(spec, data.parent, "train")
    windows = Windows(list_images(spec, data.parent, "train"), spec, WindowConfig())
    augment = AugmentConfig((32, 48), color=0.0, blur=0.0, noise=0.0)
    return ClipDataset(frames, spec, windows, length, 64, augment, config, 1, lambda: epoch, lambda _: None)


QUIET = ClipConfig(pseudo=0, still=0, flicker=0, occlusion=0, degrade=0)


def test_a_still_clip_repeats_its_frame(data: Path) -> None:
    clip = clips_of(data, dataclasses.replace(QUIET, still=1.0))[0]
    assert clip.images is not None and clip.images.shape == (3, 3, 32, 48) and clip.labels.shape == (32, 48)
    assert torch.equal(clip.images[0], clip.images[1]) and torch.equal(clip.images[0], clip.images[2])


def test_a_pseudo_clip_moves_its_frame_and_leaves_the_labelled_one(data: Path) -> None:
    still = clips_of(data, dataclasses.replace(QUIET, still=1.0, causal=0))[0]
    moved = clips_of(data, dataclasses.replace(QUIET, pseudo=1.0, causal=0, shift=0.2))[0]
    assert moved.images is not None and still.images is not None
    assert moved.query == 1
    assert torch.equal(moved.images[1], still.images[1]) and torch.equal(moved.labels, still.labels)
    assert not torch.equal(moved.images[0], moved.images[1]) and not torch.equal(moved.images[2], moved.images[1])


def test_a_clip_of_real_neighbours_is_cropped_as_one(data: Path) -> None:
    """Every frame of the clip shows what its own file shows at the same place."""
    clips = clips_of(data, QUIET)
    assert clips[3].images is not None
    middle = clips[3]
    by_index = {index: clips.frames[index].image for index in range(8)}
    assert clips.windows.around(clips.frames[3], 3, middle.query)[middle.query] == by_index[3]
    assert not torch.equal(middle.images[0], middle.images[middle.query])  # type: ignore[index]


def test_the_labelled_frame_is_the_middle_one_or_the_newest(data: Path) -> None:
    assert {clips_of(data, ClipConfig(), epoch)[index].query for epoch in range(2) for index in range(8)} == {1, 2}
    assert {clips_of(data, ClipConfig(causal=1.0))[index].query for index in range(8)} == {2}


def test_clips_come_again_after_their_variants(data: Path) -> None:
    config = ClipConfig(variants=2)
    first, second, third = (clips_of(data, config, epoch)[0] for epoch in range(3))
    assert first.name == third.name != second.name
    assert torch.equal(first.images, third.images)  # type: ignore[arg-type]
    endless = clips_of(data, ClipConfig(variants=0), 2)[0]
    assert endless.name is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"pseudo": 1.5}, "clips.pseudo"), ({"pseudo": 0.6, "still": 0.6}, "share 1"), ({"variants": -1}, "variants")],
)
def test_clips_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClipConfig(**settings)


def test_training_shows_the_network_the_size_it_will_see(make_shapes: Callable[..., Path], tmp_path: Path) -> None:
    """The shapes are 128 x 128: at a short side of 64 a crop of 64 x 64 holds all of one."""
    clips = clips_of(make_shapes(tmp_path, {"train": 1}, size=(128, 128)), dataclasses.replace(QUIET, still=1.0))
    clips.augment = dataclasses.replace(clips.augment, crop=(64, 64), scale=(1.0, 1.0), flip=0.0)
    clip = clips[0]
    image, labels = read_frame(clips.frames[0], clips.spec)
    nearest = cv2.resize(labels, (64, 64), interpolation=cv2.INTER_NEAREST_EXACT)
    assert torch.equal(clip.labels, torch.from_numpy(nearest).long())
    assert clip.images is not None
    expected = torch.from_numpy(resize(image, 64)).permute(2, 0, 1).float()
    assert (clip.images[0].float() - expected).abs().mean() < 1
