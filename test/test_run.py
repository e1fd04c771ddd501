"""A training run over several calls: the same bytes, the same data, one process, results that are whole."""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_run import assert_same, save_base, small_settings, train, weights

from stmem_ros.checkpoint import load_checkpoint
from training import evaluate, import_weights
from training.data.clip_dataset import Clip
from training.stages import outcome
from training.stages.harness import WholeCheckpointIO, average
from training.stages.memory import Memory
from training.stages.outcome import fall
from training.stages.run_lock import locked
from training.stages.stage_folder import StageFolder, TrainingError
from training.stages.temporal_stage import TemporalStage

pytestmark = pytest.mark.usefixtures("training_environment")


class PowerCut(BaseException):
    pass


@pytest.fixture
def data(make_shapes: Callable[..., Path], tmp_path: Path) -> Path:
    """Four frames to learn from, of which one has no label."""
    path = make_shapes(tmp_path / "data", {"train": 5, "val": 2}, size=(64, 64), noise=20)
    (path.parent / "trainannot" / "drive_000002.png").unlink()
    path.write_text(path.read_text() + "unlabelled_frames: true\n")
    return path


@pytest.fixture
def settings(pixel_base: str, data: Path, tmp_path: Path) -> dict[str, Any]:
    settings = small_settings(pixel_base, data, tmp_path)
    for stage in ("stf", "mar"):
        settings[stage] = settings[stage] | {"epochs": 2, "batch_size": 2, "validate_every": 1}
    return settings


@pytest.fixture
def refused(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refused(*arguments)` is the one line with which the command ends."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert train(settings, *arguments) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("training: ")
        return line

    return call


def days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is of another day."""
    today = iter(datetime.date(2026, 1, day) for day in range(1, 29))
    monkeypatch.setattr(outcome, "datetime", SimpleNamespace(date=SimpleNamespace(today=lambda: next(today))))


def test_a_run_that_is_cut_between_stages_and_in_them_ends_with_the_same_bytes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = SimpleNamespace(date=SimpleNamespace(today=lambda: datetime.date(2026, 1, 1)))
    monkeypatch.setattr(outcome, "datetime", today)
    # So that each class has a memory after few steps.
    settings["network"]["stf"]["stride"], settings["stf"]["rate"] = 2, 0.01
    # A decay that rounds: 0.5 would not.
    settings["stf"]["ema_decay"] = settings["mar"]["ema_decay"] = 0.9
    assert train(settings) == 0
    expected = (Path(settings["run"]) / "model.safetensors").read_bytes()
    settings["run"] = str(tmp_path / "cut")
    plain, steps = TemporalStage.training_step, 0

    def cut(self: TemporalStage, clips: list[Clip], index: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise PowerCut
        return plain(self, clips, index)

    for stage in ("stf", "mar"):
        with monkeypatch.context() as patch:
            patch.setattr(TemporalStage, "training_step", cut)
            steps = 0
            with pytest.raises(PowerCut):
                train(settings, "--stage", stage)
        assert train(settings, "--stage", stage) == 0
        if stage == "stf":
            assert train(settings, "--stage", "memory") == 0
    assert train(settings) == 0
    assert (Path(settings["run"]) / "model.safetensors").read_bytes() == expected


def test_averaging_leaves_what_does_not_change_as_it_is() -> None:
    update = average(0.985)._kwargs["avg_fn"]
    constant, counter = torch.randn(10_000), torch.tensor(3)
    averaged = constant.clone()
    for _ in range(50):
        averaged = update(averaged, constant, None)
    assert torch.equal(averaged, constant)
    assert update(torch.tensor(1), counter, None) == 3
    assert torch.equal(average(0.0)._kwargs["avg_fn"](torch.randn(100), constant[:100], None), constant[:100])


def swap_classes(text: str) -> str:
    return text.replace("name: disc", "name: x").replace("name: box", "name: disc").replace("name: x", "name: box")


def test_other_data_are_refused_and_named(settings: dict[str, Any], data: Path, refused: Callable[..., str]) -> None:
    settings["stf"] |= {"epochs": 1}
    assert train(settings, "--stage", "stf") == 0
    text = data.read_text()
    for change, named in (
        (text.replace("[40, 60, 200]", "[40, 60, 201]"), "data.spec.classes.2.color = [40, 60, 200], now it is"),
        (text.replace("void_ids: [9]", "void_ids: [9, 8]"), "data.spec.void = ['9'], now it is ['8', '9']"),
        (text + "frame_rate: 30\n", "data.spec.frame_rate = None, now it is 30.0"),
        (text.replace("(?P<sequence>[^_]+)", "(?P<sequence>[^_]+?)e?"), "(frame 0 of driv) is new"),
    ):
        assert change != text
        data.write_text(change)
        line = refused("--stage", "stf")
        assert "run/stf was begun with " in line and named in line and "--run" in line
    data.write_text(text)
    for file in ("train/drive_000002.png", "train/drive_000003.png", "valannot/drive_000001.png"):
        path = data.parent / file
        before = path.read_bytes()
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), image[:, ::-1])
        assert f"begun with other data: {path} has changed: give another --run, put the data back" in refused(
            "--stage", "stf"
        )
        path.write_bytes(before)
    assert train(settings, "--stage", "stf") == 0


def test_swapped_classes_are_refused_though_a_file_stands_for_stage_one(
    settings: dict[str, Any], data: Path, refused: Callable[..., str]
) -> None:
    data.write_text(swap_classes(data.read_text()))
    assert "class 1 is 'disc' in" in refused()


def test_two_runs_in_one_folder_at_once_are_refused_and_a_killed_one_holds_nothing(
    settings: dict[str, Any], refused: Callable[..., str]
) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with locked(Path(settings["run"])):
            os.write(tell, b"!")
            signal.pause()
        os._exit(1)
    try:
        assert os.read(ready, 1) == b"!"
        line = refused()
        assert f"is being trained by process {child} on " in line and "give another --run" in line
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(tell)
    with locked(Path(settings["run"])):
        pass


def test_a_result_that_is_no_longer_whole_is_not_done(
    settings: dict[str, Any], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    days(monkeypatch)
    settings["stf"] |= {"epochs": 1}
    assert train(settings, "--stage", "memory") == 0
    for name in ("stf/stf.safetensors", "memory/memory.safetensors"):
        path = Path(settings["run"]) / name
        whole = path.read_bytes()
        for damaged in (whole[:-100], whole[:-4] + b"\0\0\1\0"):
            path.write_bytes(damaged)
            line = refused("--stage", "memory")
            assert f"{path} is damaged or was replaced" in line and "Delete it" in line
        path.unlink()
        assert train(settings, "--stage", "memory") == 0
        if "memory" in name:
            assert path.read_bytes() == whole
    # Later stages take a result that was made again, on another day, for the same.
    assert train(settings, "--stage", "memory") == 0


def test_other_processes_wait_for_the_memory(tmp_path: Path) -> None:
    """Where no training came before, they have no barrier."""
    folder = StageFolder(tmp_path, "memory.safetensors")
    waiting = threading.Thread(target=folder.wait)
    waiting.start()
    folder.begin({"seed": 1}, {})
    folder.result.write_bytes(b"memory")
    assert waiting.is_alive()
    folder.end({"missing": []})
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_result_whose_note_was_cut_off_is_made_again(settings: dict[str, Any]) -> None:
    settings["stf"] |= {"epochs": 1}
    assert train(settings, "--stage", "stf") == 0
    folder = Path(settings["run"]) / "stf"
    expected = weights(folder / "stf.safetensors")
    document = json.loads((folder / "stage.json").read_text())
    assert document.pop("outcome")["val_miou"] > 0
    (folder / "stage.json").write_text(json.dumps(document))
    (folder / "stf.safetensors").write_bytes(b"half")
    assert train(settings, "--stage", "stf") == 0
    assert_same(weights(folder / "stf.safetensors"), expected)


@pytest.mark.parametrize("content", ["empty", "noise", "half", "tensor", "text"])
def test_a_checkpoint_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    folder = StageFolder(tmp_path, "stf.safetensors")
    torch.save({"state_dict": {"a": torch.randn(1000)}}, folder.last)
    whole = folder.last.read_bytes()
    if content == "tensor":
        torch.save(torch.randn(3), folder.last)
    else:
        noise = np.random.default_rng(0).bytes(5000)
        contents = {"empty": b"", "noise": noise, "half": whole[: len(whole) // 2], "text": b"hello"}
        folder.last.write_bytes(contents[content])
    with pytest.raises(TrainingError) as raised:
        folder.read_checkpoint(folder.last)
    line = str(raised.value)
    assert line.startswith(f"{folder.last} is damaged or no checkpoint of training (")
    assert f"delete {tmp_path} to start this stage over" in line and "\n" not in line
    assert content != "empty" or "(it is empty)" in line


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files may grow to 50 kB: writing fails there as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_up_is_said_in_its_own_words(small_files: None, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as raised:
        WholeCheckpointIO().save_checkpoint({"state_dict": {"a": torch.randn(100_000)}}, tmp_path / "last.ckpt")
    assert "last.ckpt could not be written: File too large; free some disk" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_advice_of_the_memory_stage_can_be_followed_in_the_same_folder(
    settings: dict[str, Any], data: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings["network"]["stf"] = None
    for path in (data.parent / "trainannot").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[labels == 1] = 9
        labels[30, 30] = 1 if path.name == "drive_000000.png" else 0
        cv2.imwrite(str(path), labels)
    line = refused()
    assert "too few features are classified correctly: disc" in line and "memory.allow_missing" in line
    capsys.readouterr()
    assert train(settings, "--memory.allow_missing", "true") == 0
    assert "2 of 3 classes" in capsys.readouterr().out
    network, _ = load_checkpoint(Path(settings["run"]) / "model.safetensors")
    assert network.mar is not None and network.mar.config.memory_classes == 2
    assert "has no memory for disc: memory.allow_missing true takes it as it is" in refused()


def test_settings_may_change_until_a_first_epoch_is_over(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(TemporalStage, "training_step", cut)
        with pytest.raises(PowerCut):
            train(settings, "--stage", "stf", "--stf.batch_size", "4")
    settings["stf"] |= {"epochs": 1}
    assert train(settings, "--stage", "stf") == 0


def test_a_stage_that_ends_far_below_the_one_before_is_said_loudly_and_kept(
    settings: dict[str, Any], pixel_base: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {"dataset": "shapes", "validated_on": {"split": "val", "val_miou": 99.0}}
    settings["start_from"] = str(save_base(tmp_path / "base.safetensors", pixel_base, data, **measured))
    settings["stf"] |= {"epochs": 1, "rate": 1e-9}
    assert train(settings, "--stage", "stf") == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    assert "far below the 99.0 % of the network that it began with" in warning
    for remedy in ("stf.epochs", "stf.rate", "network.stf.stride 2", "--start_from"):
        assert remedy in warning
    document = json.loads((Path(settings["run"]) / "stf" / "stage.json").read_text())
    assert document["outcome"]["warning"] in warning


def test_only_a_fall_on_the_same_data_counts() -> None:
    config = SimpleNamespace(stf=SimpleNamespace(stride=2), mar=None)
    about = ("shapes", "val")
    before = {"dataset": "shapes", "validated_on": {"split": "val", "val_miou": 80.0}}
    assert "75.1" not in fall("stf", config, {"val_miou": 75.1}, before, about)  # type: ignore[arg-type]
    assert "74.9 %" in fall("stf", config, {"val_miou": 74.9}, before, about)  # type: ignore[arg-type]
    assert fall("stf", config, {"val_miou": 10.0}, before, ("shapes", "test")) == ""  # type: ignore[arg-type]
    assert fall("stf", config, {"val_miou": 10.0}, {}, about) == ""  # type: ignore[arg-type]


def test_the_figures_of_the_best_weights_are_their_own(
    settings: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings |= {"keep": "best"}
    settings["stf"] |= {"epochs": 3, "ema_decay": 0.0}
    plain = TemporalStage.training_step

    def worse(self: TemporalStage, clips: list[Clip], index: int) -> torch.Tensor:
        """The last epoch does harm."""
        return plain(self, clips, index) * (-1 if self.trainer.current_epoch == 2 else 1)

    monkeypatch.setattr(TemporalStage, "training_step", worse)
    assert train(settings, "--stage", "stf") == 0
    path = Path(settings["run"]) / "stf" / "stf.safetensors"
    last = torch.load(path.parent / "last.ckpt", weights_only=True)["state_dict"]
    kept = weights(path)
    assert not torch.equal(last["model.classifier.linear.weight"], kept["classifier.linear.weight"])
    figures = tmp_path / "figures.json"
    command = ["--dataset", str(data), "--root", str(data.parent), "--checkpoint", str(path), "--json", str(figures)]
    assert evaluate.main([*command, "--device", "cpu"]) == 0
    said = load_checkpoint(path)[1].provenance["validated_on"]["val_miou"]
    assert said == pytest.approx(json.loads(figures.read_text())["miou"], abs=0.05)


@pytest.fixture
def authors(tmp_path: Path) -> Path:
    """The folder that the authors' generate_memory writes: two keys of each of three classes, of 4 channels."""
    folder = tmp_path / "generate_memory"
    folder.mkdir()
    random = np.random.default_rng(0)
    np.save(folder / "key.npy", random.normal(size=(6, 4)).astype(np.float32))
    np.save(folder / "value.npy", random.normal(size=(3, 4)).astype(np.float32))
    return folder


def test_the_authors_memory_is_trained_with(settings: dict[str, Any], authors: Path) -> None:
    settings["network"]["stf"] = None
    settings["mar"] |= {"epochs": 1, "memory_rate": 0.0}
    assert train(settings, "--memory.file", str(authors)) == 0
    mar = load_checkpoint(Path(settings["run"]) / "model.safetensors")[0].mar
    assert mar is not None
    keys = torch.from_numpy(np.load(authors / "key.npy"))
    torch.testing.assert_close(mar.keys.data, keys.view(3, 2, 4), rtol=0, atol=1e-6)
    assert train(settings, "--memory.file", str(authors)) == 0


def test_the_authors_memory_becomes_a_file(data: Path, authors: Path, tmp_path: Path) -> None:
    out = tmp_path / "memory.safetensors"
    for given in (authors, authors / "key.npy", authors / "value.npy"):
        assert import_weights.main([str(given), str(out), "--dataset", str(data)]) == 0
        memory = Memory.load(out)
        assert memory.keys.flatten(0, 1).tolist() == np.load(authors / "key.npy").tolist()
        assert memory.values[:, 0].tolist() == np.load(authors / "value.npy").tolist()
        assert memory.names == ("ground", "disc", "box") and memory.missing == ()


@pytest.mark.parametrize(
    ("file", "array", "reason"),
    [
        ("key", np.zeros((7, 4), np.float32), "has 7 rows, not as many for each of 3 classes"),
        ("key", np.zeros((9, 4), np.float32), "has 3 keys a class, network.mar.hard_per_class is 2"),
        ("key", np.zeros((6, 5), np.float32), "has features of 5 channels, value.npy of 4"),
        ("key", np.full((6, 4), np.nan, np.float32), "key.npy holds NaN or infinity"),
        ("key", np.zeros((6, 4), np.int64), "key.npy holds no array of floating-point numbers"),
        ("value", np.zeros((4, 4), np.float32), "value.npy has 4 rows; it must have one for each of 3 classes"),
        ("value", np.zeros(4, np.float32), "value.npy has shape (4,)"),
        ("value", None, "value.npy does not exist"),
    ],
)
def test_a_memory_that_does_not_fit_is_known_before_any_training(
    refused: Callable[..., str], authors: Path, file: str, array: np.ndarray | None, reason: str
) -> None:
    path = authors / f"{file}.npy"
    path.unlink() if array is None else np.save(path, array)
    assert reason in refused("--memory.file", str(authors))


def test_torchrun_hands_on_a_command_with_a_folder_of_its_own(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.run import get_args_parser

    command = ["--nproc-per-node", "2", "-m", "training.train", "--", "CONFIG.yaml", "--run", "here"]
    given = get_args_parser().parse_args(command).training_script_args
    assert given[-3:] == ["CONFIG.yaml", "--run", "here"]
    # Some versions of Python hand the -- on.
    monkeypatch.setattr(sys, "argv", ["train", "--", settings["dataset"]])
    from training.train import main

    assert main(["--", settings["dataset"], "--devices", "0"]) == 1
