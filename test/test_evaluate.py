"""`python -m training.evaluate`: figures that are known by hand, and one line where there can be none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stmem_ros.checkpoint import CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from training import evaluate as command
from training.dataset import DatasetSpec, LabelledFrame, list_frames, load_spec
from training.evaluate import evaluate, main, window_of

# Not what the base network was made for: what the checkpoint says counts.
NORMALIZATION = Normalization((80.0, 90.0, 100.0), (40.0, 80.0, 120.0))
STF = STFConfig(block=(8, 8), positional_grid=(8, 8), heads=1, feedforward=4)
MAR = MARConfig(memory_classes=3, hard_per_class=2)
CPU = torch.device("cpu")


@pytest.fixture
def spec(make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
    return load_spec(make_shapes(tmp_path, {"val": 3}))


@pytest.fixture
def save(pixel_base: str, spec: DatasetSpec, tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint that gives every pixel the class of the nearest colour, unless STF or MAR garble that."""

    def write(short_side: int = 96, labels: LabelSet | None = None, **modules: Any) -> Path:
        labels = labels or spec.labels
        config = SegmenterConfig(pixel_base, len(labels), **modules)
        model = build_segmenter(config)
        mean, std = torch.tensor(NORMALIZATION.mean), torch.tensor(NORMALIZATION.std)
        colors = (torch.tensor(labels.palette) - mean) / std
        with torch.no_grad():
            model.classifier.linear.weight[:, :3, 0, 0] = colors
            model.classifier.linear.bias.copy_(-(colors**2).sum(1) / 2)
        path = tmp_path / "network.safetensors"
        save_checkpoint(path, model, CheckpointInfo(config, labels, NORMALIZATION, short_side))
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, spec: DatasetSpec) -> Callable[..., int]:
    def call(*more: str | Path) -> int:
        data = ["--dataset", str(tmp_path / "shapes.yaml"), "--root", str(tmp_path), "--device", "cpu"]
        return main([*data, "--json", str(tmp_path / "out" / "figures.json"), *map(str, more)])

    return call


@pytest.fixture
def refused(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command, which must fail with one line and without figures; returns the line."""

    def call(*more: str | Path, checkpoint: Path | None = None) -> str:
        assert run("--checkpoint", checkpoint or save(), *more) == 1
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.startswith("evaluate: ")
        assert said.err.count("\n") == 1
        assert not (tmp_path / "out" / "figures.json").exists()
        return said.err

    return call


def figures(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "figures.json").read_text())


def test_a_network_that_is_right_scores_100(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save()
    assert run("--split", "val", "--checkpoint", checkpoint) == 0
    found = figures(tmp_path)
    for figure in ("miou", "fw_iou", "pixel_accuracy", "boundary_f"):
        assert found[figure] == 100.0
    assert found["per_class_iou"] == {"ground": 100.0, "disc": 100.0, "box": 100.0}
    # This data set's numbers count no time.
    assert found["vc8"] is found["flow_consistency"] is None
    about = {"checkpoint": str(checkpoint), "dataset": "shapes", "split": "val", "frames": 3}
    row = found.pop("rows")["base"]
    assert found == row | about
    said = capsys.readouterr()
    for word in ("disc", "mean IoU", "pixel accuracy", "100.00"):
        assert word in said.out
    assert said.err == ""
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["figures.json"]


def test_errors_count_by_pixel_over_the_whole_split(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "valannot" / "drive_000001.png"
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[90:96, :100] = 2  # ground, 600 pixels of it, is called box by the truth
    labels[90:96, 100:] = 9
    cv2.imwrite(str(path), labels)
    assert run("--checkpoint", save()) == 0
    labelled = 3 * 95 * 128 - 6 * 28
    boxes = 3 * 30 * 28
    ious = figures(tmp_path)["per_class_iou"]
    assert figures(tmp_path)["pixel_accuracy"] == pytest.approx(100 * (labelled - 600) / labelled)
    assert ious["box"] == pytest.approx(100 * boxes / (boxes + 600))
    assert ious["disc"] == 100.0
    assert 97 < ious["ground"] < 100
    assert figures(tmp_path)["miou"] == pytest.approx(sum(ious.values()) / 3)


def test_a_class_that_does_not_occur_is_null(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, empty in (("val", (90, 90, 90)), ("valannot", 0)):
        for path in (tmp_path / folder).iterdir():
            cv2.imwrite(str(path), np.full((96, 128, *np.shape(empty)), empty, np.uint8))
    assert run("--checkpoint", save()) == 0
    assert figures(tmp_path)["per_class_iou"] == {"ground": 100.0, "disc": None, "box": None}
    assert figures(tmp_path)["miou"] == 100.0


@pytest.mark.parametrize(("short_side", "seen_side"), [(64, 64), (192, 96)])
def test_images_are_shrunk_for_the_network_and_labels_are_not(
    save: Callable[..., Path], spec: DatasetSpec, tmp_path: Path, short_side: int, seen_side: int
) -> None:
    model, info = load_checkpoint(save(short_side))
    seen = []
    model.base.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    accuracy = evaluate(model, info, list_frames(spec, tmp_path, "val"), spec, CPU)
    assert seen == [(1, 3, seen_side, seen_side * 4 // 3)] * 3
    assert accuracy.pixel_accuracy > 96


def test_images_of_one_split_may_differ_in_size(
    run: Callable[..., int], save: Callable[..., Path], make_shapes: Callable[..., Path], tmp_path: Path
) -> None:
    make_shapes(tmp_path / "more", {"val": 2}, size=(110, 150))
    for folder in ("val", "valannot"):
        for path in (tmp_path / "more" / folder).iterdir():
            path.rename(tmp_path / folder / path.name.replace("drive_", "drive_9"))
    assert run("--checkpoint", save(64)) == 0
    assert figures(tmp_path)["frames"] == 5
    assert run("--checkpoint", save(64, stf=STF)) == 0


def test_a_clip_of_consecutive_frames_is_measured_over_time(
    run: Callable[..., int], save: Callable[..., Path], make_shapes: Callable[..., Path], tmp_path: Path
) -> None:
    root = tmp_path / "clip"
    description = make_shapes(root, {"val": 9})
    description.write_text(description.read_text() + "frame_rate: 15\n")
    data = ["--dataset", description, "--root", root]
    assert run("--checkpoint", save(), *data) == 0
    found = figures(tmp_path)
    assert found["vc8"] == found["vc8_correct"] == 100.0 and found["vc16"] is None
    assert 0 < found["flow_consistency"] <= 100
    # A rate at which the same numbers lie seconds apart.
    description.write_text(description.read_text().replace("frame_rate: 15", "frame_rate: 0.5"))
    assert run("--checkpoint", save(), *data) == 0
    assert figures(tmp_path)["vc8"] is figures(tmp_path)["flow_consistency"] is None


@pytest.mark.parametrize(
    ("row", "modules"),
    [("base", {}), ("stf", {"stf": STF}), ("mar", {"mar": MAR}), ("both", {"stf": STF, "mar": MAR})],
)
def test_figures_stand_under_the_row_of_table_3(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, row: str, modules: dict
) -> None:
    assert run("--checkpoint", save(**modules)) == 0
    document = figures(tmp_path)
    assert list(document["rows"]) == [row]
    assert document["rows"][row].items() <= document.items()


def test_without_a_checkpoint_it_is_the_packaged_one(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "DEFAULT_CHECKPOINT", save())
    assert run() == 0
    assert figures(tmp_path)["checkpoint"] == str(tmp_path / "network.safetensors")


SIX_FRAMES = [LabelledFrame(sequence, 0, Path(), Path()) for sequence in "aaabcc"]


class TestWindow:
    @pytest.mark.parametrize(
        ("length", "windows"),
        [
            (1, [[0], [1], [2], [3], [4], [5]]),
            (2, [[0, 0], [0, 1], [1, 2], [3, 3], [4, 4], [4, 5]]),
            (3, [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3], [4, 4, 5], [4, 5, 5]]),
        ],
    )
    def test_holds_neighbours_of_the_same_sequence_alone(self, length: int, windows: list[list[int]]) -> None:
        assert [window_of(SIX_FRAMES, index, length) for index in range(6)] == windows

    def test_reaches_the_network_oldest_first_each_frame_computed_once(
        self, save: Callable[..., Path], spec: DatasetSpec, tmp_path: Path
    ) -> None:
        model, info = load_checkpoint(save(stf=STF))
        frames = list_frames(spec, tmp_path, "val")
        for number, frame in enumerate(frames):
            # Frame n is of colour n all over; the network normalises red as (x - 80) / 40.
            cv2.imwrite(str(frame.image), np.full((96, 128, 3), number, np.uint8))
        computed, windows = [], []
        model.base.register_forward_hook(lambda *_: computed.append(1))

        class Recorder(nn.Module):
            config = STF

            def forward(self, window: Tensor, query: int) -> Tensor:
                windows.append(((window[0, :, 0, 0, 0] * 40 + 80).round().int().tolist(), query))
                return window[:, query]

        model.stf = Recorder()  # type: ignore[assignment]
        evaluate(model, info, frames, spec, CPU)
        assert windows == [([0, 0, 1], 1), ([0, 1, 2], 1), ([1, 2, 2], 1)]
        assert len(computed) == 3


class TestRefusals:
    def test_a_checkpoint_that_is_not_there(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "absent.safetensors does not exist" in refused(checkpoint=tmp_path / "absent.safetensors")

    def test_a_checkpoint_that_is_damaged(
        self, refused: Callable[..., str], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        path = save()
        path.write_bytes(path.read_bytes()[:-5])
        assert "is damaged" in refused(checkpoint=path)

    def test_a_checkpoint_of_other_classes(self, refused: Callable[..., str], save: Callable[..., Path]) -> None:
        labels = LabelSet(("ground", "box", "disc"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
        message = refused(checkpoint=save(labels=labels))
        assert "knows the classes ground, box, disc; data set shapes has ground, disc, box" in message

    def test_a_data_set_that_is_not_known(self, refused: Callable[..., str]) -> None:
        assert "nowhere is neither a file nor a known data set" in refused("--dataset", "nowhere")

    def test_a_split_that_is_not_there(self, refused: Callable[..., str]) -> None:
        assert "test is not a folder" in refused("--split", "test")

    def test_a_wrong_label_in_the_last_frame_is_known_before_the_first(
        self, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cv2.imwrite(str(tmp_path / "valannot" / "drive_000002.png"), np.full((96, 128), 77, np.uint8))
        monkeypatch.setattr(command, "evaluate", lambda *_: pytest.fail("the network ran first"))
        assert "drive_000002.png has label id 77" in refused()

    def test_a_split_of_void_alone(self, refused: Callable[..., str], tmp_path: Path) -> None:
        for path in (tmp_path / "valannot").iterdir():
            cv2.imwrite(str(path), np.full((96, 128), 9, np.uint8))
        assert "no labelled pixel" in refused()

    def test_an_image_that_is_none(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "val" / "drive_000001.png").write_text("hello")
        assert "drive_000001.png is damaged or no image" in refused()

    def test_a_folder_for_the_figures(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "is a folder" in refused("--json", tmp_path)
        assert "network.safetensors" in refused("--json", tmp_path / "network.safetensors" / "figures.json")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
    def test_cuda_where_there_is_none(self, refused: Callable[..., str]) -> None:
        assert "device 'cuda' was asked for" in refused("--device", "cuda")


def test_figures_that_cannot_be_written_leave_the_old_ones(
    run: Callable[..., int],
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = save()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures.json").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run("--checkpoint", checkpoint) == 1
    assert "No space left" in capsys.readouterr().err
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["old"]
