"""`python -m training.train`: from a folder of labelled frames to a checkpoint, in one go or in two."""

from __future__ import annotations

import csv
import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from stmem_ros.checkpoint import load_checkpoint, read_info
from stmem_ros.labels import IGNORE_INDEX
from stmem_ros.network import SegmenterConfig, VideoSegmenter, build_segmenter
from training.data.augment import AugmentConfig
from training.data.dataset import list_frames, load_spec
from training.data.fingerprint import Digests, of_frames
from training.evaluate import evaluate
from training.stages.base_stage import BaseStage, BaseStageConfig, CropDataset, class_weights
from training.train import main

EPOCHS = 14


@dataclasses.dataclass
class Run:
    """One call of the command, and what was seen of it."""

    folder: Path
    losses: list[float]
    epochs: list[int]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "base" / "base.safetensors"

    def weights(self) -> dict[str, Tensor]:
        return load_checkpoint(self.checkpoint)[0].state_dict()


@pytest.fixture(scope="module")
def data(make_shapes: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small, easy data set; its YAML file lies in its root."""
    return make_shapes(tmp_path_factory.mktemp("data"), {"train": 8, "val": 2}, noise=20)


@pytest.fixture(scope="module")
def train(training_environment: None, data: Path) -> Callable[..., Run]:
    """`train(folder, *arguments, cut_at=EPOCH)` runs the command; at `cut_at` the power is cut."""

    def call(folder: Path, *arguments: str, cut_at: int | None = None) -> Run:
        folder.mkdir(exist_ok=True)
        settings = {
            "run": str(folder),
            "dataset": str(data),
            "root": str(data.parent),
            "network": {"base": "efficientnet_lite0", "classes": 3, "classifier_upscale": 2},
            "short_side": 96,
            "accelerator": "cpu",
            "base": {
                "epochs": EPOCHS,
                "batch_size": 4,
                "head_rate": 3e-3,
                "backbone_rate": 1e-3,
                "ema_decay": 0.5,
                "validate_every": 3,
                "workers": 0,
            },
            "augment": {"crop": [64, 64], "scale": [0.8, 1.2]},
        }
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        run = Run(folder, [], [])
        step, item = BaseStage.training_step, CropDataset.__getitem__

        def noted_step(self: BaseStage, batch: tuple, index: int) -> Tensor:
            loss = step(self, batch, index)
            run.losses.append(loss.item())
            return loss

        def noted_item(self: CropDataset, index: int) -> tuple[Tensor, Tensor]:
            if self.epoch() == cut_at:
                raise PowerCut
            run.epochs.append(self.epoch())
            return item(self, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BaseStage, "training_step", noted_step)
            patch.setattr(CropDataset, "__getitem__", noted_item)
            if cut_at is None:
                assert main([str(folder / "settings.yaml"), "--stage", "base", *arguments]) == 0
            else:
                with pytest.raises(PowerCut):
                    main([str(folder / "settings.yaml"), "--stage", "base", *arguments])
        return run

    return call


class PowerCut(Exception):
    pass


@pytest.fixture(scope="module")
def trained(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("run"))


def test_the_loss_goes_down(trained: Run) -> None:
    assert len(trained.losses) == 2 * EPOCHS
    assert statistics.mean(trained.losses[-4:]) < 0.85 * statistics.mean(trained.losses[:4])


def test_the_checkpoint_runs_and_has_learned(trained: Run, data: Path) -> None:
    model, info = load_checkpoint(trained.checkpoint)
    spec = load_spec(data)
    assert info.labels == spec.labels
    assert info.short_side == 96
    accuracy = evaluate(model, info, list_frames(spec, data.parent, "val"), spec, torch.device("cpu"))
    assert accuracy.miou > 50
    # What training says of the file is what evaluation finds.
    said = info.provenance["validated_on"]
    assert said["val_miou"] == pytest.approx(accuracy.miou, abs=0.05)
    assert said["val_pixel_accuracy"] == pytest.approx(accuracy.pixel_accuracy, abs=0.05)


def test_the_checkpoint_says_where_it_comes_from(trained: Run, data: Path) -> None:
    provenance = read_info(trained.checkpoint).provenance
    assert provenance["stages"] == ["base"]
    assert provenance["dataset"] == "shapes"
    assert provenance["trained_on"] == {
        "split": "train",
        **of_frames(list_frames(load_spec(data), data.parent, "train"), Digests()).summary(),
    }
    assert provenance["validated_on"]["split"] == "val"
    assert provenance["seed"] == 1
    assert provenance["base"]["settings"]["epochs"] == EPOCHS
    assert provenance["base"]["augment"]["crop"] == [64, 64]
    assert provenance["package"].startswith("stmem_ros ")


def test_the_run_keeps_its_settings_and_its_curves(trained: Run) -> None:
    assert yaml.safe_load((trained.folder / "config.yaml").read_text())["base"]["epochs"] == EPOCHS
    with open(trained.folder / "base" / "csv" / "version_0" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["val_miou"]) for row in rows) >= 2
    assert any(row["loss"] for row in rows)


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(
    trained: Run, train: Callable[..., Run], tmp_path: Path
) -> None:
    cut = train(tmp_path, cut_at=5)
    assert max(cut.epochs) == 4
    assert not cut.checkpoint.exists()
    resumed = train(tmp_path)
    assert min(resumed.epochs) == 5
    assert max(resumed.epochs) == EPOCHS - 1
    weights = resumed.weights()
    for name, weight in trained.weights().items():
        assert torch.equal(weights[name], weight), name


def test_a_run_that_is_over_keeps_its_weights_and_figures(trained: Run, train: Callable[..., Run]) -> None:
    weights, figures = trained.weights(), read_info(trained.checkpoint).provenance["validated_on"]
    trained.checkpoint.unlink()
    again = train(trained.folder)
    assert again.epochs == []
    assert read_info(again.checkpoint).provenance["validated_on"] == pytest.approx(figures)
    for name, weight in again.weights().items():
        assert torch.equal(weight, weights[name]), name


def test_stage_one_leaves_out_what_later_stages_learn(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(tmp_path, "--max_steps", "1", "--network.stf.block", "[4, 4]", "--network.mar.memory_classes", "3")
    assert len(run.losses) == 1
    config = read_info(run.checkpoint).config
    assert (config.stf, config.mar) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--network.classes", "4"], "network.classes is 4, but data set shapes has 3 classes"),
        (["--train_split", "test"], "test is not a folder"),
        (["--val_split", "test"], "test is not a folder"),
        (["--sequences", '["drive", "walk"]'], "no frame of train is of sequences walk; there are drive"),
        (["--dataset", "nowhere"], "nowhere is neither a file nor a known data set"),
        (["--threads", "-1"], "threads is -1"),
        (["--network.base", "resnet"], "'resnet'; it must be one of"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    settings = trained.folder / "settings.yaml"
    assert main([str(settings), "--run", str(tmp_path / "other"), *arguments]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("training: ")
    assert reason in line
    assert not (tmp_path / "other" / "base").exists()


@pytest.mark.parametrize(
    ("text", "encoding", "reason"),
    [
        ("run: a\nseed: 1\nrun: b\n", "utf-8", "line 3, column 1: key 'run' is given twice"),
        ("run: a\n", "utf-16", "it is UTF-16 text: save it as UTF-8"),
        ("run: [\n", "utf-8", "line 2, column 1: "),
        ("stf: {rate: 1.0, rate: 2.0}\n", "utf-8", "line 1, column 18: key 'rate' is given twice"),
    ],
)
def test_settings_that_cannot_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, encoding: str, reason: str
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding)
    for given in ([str(path)], ["--seed", "2", f"--config={path}"], ["--config", str(path), "--seed", "2"]):
        assert main(given) == 1
        assert capsys.readouterr().err.startswith(f"training: {path} does not hold the settings of a run: {reason}")


def test_threads_are_those_of_pytorch_and_opencv(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(cv2, "setNumThreads", chosen.append)
    command = [str(trained.folder / "settings.yaml"), "--run", str(tmp_path), "--dataset", "nowhere"]
    for threads in ("3", "0"):
        main([*command, "--threads", threads])
    assert chosen == [3, 3]


def test_frames_to_learn_from_that_are_measured_on_too_are_said_before_the_first_stage(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> Path:
        raise ValueError("the first stage begins")

    monkeypatch.setattr("training.train.Run.base", stop)
    settings = [str(trained.folder / "settings.yaml"), "--run", str(tmp_path / "other"), "--stage", "base"]
    assert main([*settings, "--val_split", "train"]) == 1
    said = capsys.readouterr().err
    assert "training: 8 frames of the train split are in the train split too, such as " in said
    assert said.endswith("training: the first stage begins\n")
    assert main(settings) == 1
    assert " split too" not in capsys.readouterr().err


def small_stage(pixel_base: str) -> tuple[VideoSegmenter, BaseStage]:
    model = build_segmenter(SegmenterConfig(pixel_base, classes=3))
    return model, BaseStage(model, BaseStageConfig(), torch.ones(3))


def test_a_batch_without_any_label_teaches_nothing_and_harms_nothing(pixel_base: str) -> None:
    model, stage = small_stage(pixel_base)
    stage.log = lambda *_, **__: None  # type: ignore[method-assign]
    labels = torch.full((2, 8, 8), IGNORE_INDEX)
    stage.training_step((torch.zeros(2, 3, 8, 8, dtype=torch.uint8), labels), 0).backward()
    for parameter in model.parameters():
        assert parameter.grad is None or (parameter.grad == 0).all()


def test_crops_are_the_same_in_every_run_and_others_in_every_epoch(data: Path) -> None:
    spec = load_spec(data)
    frames = list_frames(spec, data.parent, "train")

    def crop(epoch: int) -> Tensor:
        return CropDataset(frames, spec, 96, AugmentConfig((32, 32)), 1, lambda: epoch)[0][0]

    assert torch.equal(crop(2), crop(2))
    assert not torch.equal(crop(2), crop(3))


def test_rare_classes_weigh_more_within_bounds() -> None:
    weights = class_weights(np.array([[1_000_000, 100, 40_000], [0, 0, 0]]))
    assert weights.tolist() == pytest.approx([0.5, 3.0, 1.0])


def test_images_are_normalised_as_the_base_asks(pixel_base: str) -> None:
    _, stage = small_stage(pixel_base)
    images = torch.full((1, 3, 2, 2), 100, dtype=torch.uint8)
    assert stage.normalized(images)[0, :, 0, 0].tolist() == pytest.approx([0, -10 / 60, -20 / 70])
