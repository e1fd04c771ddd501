"""`python -m training.evaluate`: figures that are known by hand, and one line where there can be none."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stmem_ros.checkpoint import CheckpointInfo, Normalization, load_checkpoint, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, VideoSegmenter, build_segmenter
from stmem_ros.network.segmenter import upsample
from stmem_ros.preprocess import Preprocessor
from training import evaluate as command
from training.data.clips import WindowConfig, Windows
from training.data.dataset import DatasetSpec, LabelledFrame, list_frames, list_images, load_spec, read_image
from training.evaluate import evaluate, main
from training.measure.report import PICTURES
from training.measure.rows import Networks

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

    def write(
        short_side: int = 96,
        labels: LabelSet | None = None,
        name: str = "network",
        seed: int = 0,
        scale: float = 1.0,
        poison: float = 0.0,
        rows: Mapping[str, dict] | None = None,
        **modules: Any,
    ) -> Path:
        """`scale` and `poison` garble the classifier; `rows` are the modules of networks kept beside it."""
        labels = labels or spec.labels
        mean, std = torch.tensor(NORMALIZATION.mean), torch.tensor(NORMALIZATION.std)
        colors = (torch.tensor(labels.palette) - mean) / std

        def build(modules: dict) -> tuple[VideoSegmenter, SegmenterConfig]:
            config = SegmenterConfig(pixel_base, len(labels), **modules)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = build_segmenter(config)
            with torch.no_grad():
                model.classifier.linear.weight[:, :3, 0, 0] = scale * colors
                model.classifier.linear.bias.copy_(-(colors**2).sum(1) / 2 + poison)
            return model, config

        path = tmp_path / f"{name}.safetensors"
        model, config = build(modules)
        beside = {row: build(its) for row, its in (rows or {}).items()}
        save_checkpoint(path, model, CheckpointInfo(config, labels, NORMALIZATION, short_side), beside)
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, spec: DatasetSpec) -> Callable[..., int]:
    def call(*more: str | Path | list[Path]) -> int:
        """A list is the files of one option."""
        data = ["--dataset", str(tmp_path / "shapes.yaml"), "--root", str(tmp_path), "--device", "cpu"]
        words = [str(word) for part in more for word in (part if isinstance(part, list) else [part])]
        return main([*data, "--json", str(tmp_path / "out" / "figures.json"), *words])

    return call


@pytest.fixture
def refused(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command, which must fail with one line and without figures; returns the line."""

    def call(*more: str | Path, checkpoint: Path | list[Path] | None = None) -> str:
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
    about = {"dataset": "shapes", "split": "val", "frames": 3, "neighbors": {"offset": 1, "reach": 0.5}, "slide": None}
    about["vc_rule"] = "all"
    row = found.pop("rows")["base"]
    assert found == row | about
    assert (row["checkpoint"], row["window"]) == (str(checkpoint), None)
    # A classifier of 4 x 3 weights and 3 biases, over 96 x 128 pixels.
    assert (row["parameters"], row["gmacs"]) == (15, pytest.approx(12 * 96 * 128 / 1e9))
    assert row["cost"]["gmacs"]["classifier"] == row["gmacs"] and row["cost"]["size"] == [96, 128]
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


def test_a_data_set_without_splits_is_said_to_have_none(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, spec: DatasetSpec, capfd: pytest.CaptureFixture
) -> None:
    path = next(tmp_path.glob("*.yaml"))
    path.write_text(path.read_text().replace("{split}", "val"))
    assert run("--split", "test", "--checkpoint", save()) == 0
    assert "evaluate: data set shapes has no splits" in capfd.readouterr().err


def test_some_sequences_alone(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, spec: DatasetSpec
) -> None:
    for folder in ("val", "valannot"):
        shutil.copy(tmp_path / folder / "drive_000000.png", tmp_path / folder / "walk_1.png")
    assert run("--split", "val", "--checkpoint", save(), "--sequences", "walk") == 0
    assert (figures(tmp_path)["frames"], figures(tmp_path)["sequences"]) == (1, ["walk"])


def test_a_class_that_does_not_occur_is_null(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, empty in (("val", (90, 90, 90)), ("valannot", 0)):
        for path in (tmp_path / folder).iterdir():
            cv2.imwrite(str(path), np.full((96, 128, *np.shape(empty)), empty, np.uint8))
    assert run("--checkpoint", save()) == 0
    assert figures(tmp_path)["per_class_iou"] == {"ground": 100.0, "disc": None, "box": None}
    assert figures(tmp_path)["miou"] == 100.0


@pytest.mark.parametrize(("short_side", "seen_side"), [(64, 64), (96, 96), (192, 192)])
def test_images_are_resized_for_the_network_and_labels_are_not(
    save: Callable[..., Path], spec: DatasetSpec, tmp_path: Path, short_side: int, seen_side: int
) -> None:
    model, info = load_checkpoint(save(short_side))
    seen = []
    model.base.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    accuracy = evaluate(model, info, list_frames(spec, tmp_path, "val"), spec, CPU)
    assert seen == [(1, 3, seen_side, seen_side * 4 // 3)] * 3
    assert accuracy.pixel_accuracy > 96


def test_another_size_may_be_asked_for(
    run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--checkpoint", save(96)) == 0
    trained = figures(tmp_path)
    assert run("--checkpoint", save(96), "--short-side", "192") == 0
    assert figures(tmp_path)["gmacs"] > 3 * trained["gmacs"]
    for side in ("63", "100000"):
        assert run("--checkpoint", save(96), "--short-side", side) == 1
        assert (
            f"--short-side is {side}; it must be 0 (the checkpoint's) or at least 64 and at" in capsys.readouterr().err
        )


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


def test_used_bits_of_16_bit_images(
    run: Callable[..., int], save: Callable[..., Path], spec: DatasetSpec, tmp_path: Path
) -> None:
    for frame in list_frames(spec, tmp_path, "val"):
        cv2.imwrite(str(frame.image), cv2.imread(str(frame.image)).astype(np.uint16) << 4)
    checkpoint, figures = save(), tmp_path / "out" / "figures.json"
    assert run("--checkpoint", checkpoint) == 0
    assert json.loads(figures.read_text())["miou"] < 100
    assert run("--checkpoint", checkpoint, "--used-bits", "12") == 0
    assert json.loads(figures.read_text())["miou"] == 100


@pytest.fixture
def numbered(spec: DatasetSpec, tmp_path: Path) -> Callable[..., list[LabelledFrame]]:
    """Makes frame n of a clip have the colour n all over; returns the frames. Labels are those of the first three."""

    def make(*names: str) -> list[LabelledFrame]:
        labels = (tmp_path / "valannot" / "drive_000000.png").read_bytes()
        for folder in ("val", "valannot"):
            for path in (tmp_path / folder).iterdir():
                path.unlink()
        for name in names:
            color = int(name.rpartition("_")[2])
            cv2.imwrite(str(tmp_path / "val" / f"{name}.png"), np.full((96, 128, 3), color, np.uint8))
            (tmp_path / "valannot" / f"{name}.png").write_bytes(labels)
        return list_frames(spec, tmp_path, "val")

    return make


class Recorder(nn.Module):
    """Stands for an STF; keeps the red of each frame of its windows, and which frame was asked for."""

    config = STF

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[tuple[list[int], int]] = []

    def forward(self, window: Tensor, query: int) -> Tensor:
        # The network normalises red as (x - 80) / 40.
        self.windows.append(((window[0, :, 0, 0, 0] * 40 + 80).round().int().tolist(), query))
        return window[:, query]


class TestWindow:
    @pytest.fixture
    def model(self, save: Callable[..., Path]) -> VideoSegmenter:
        model, self.info = load_checkpoint(save(stf=STF))
        model.stf = Recorder()  # type: ignore[assignment]
        return model

    def test_reaches_the_network_oldest_first_each_frame_computed_once(
        self, model: VideoSegmenter, numbered: Callable[..., list[LabelledFrame]], spec: DatasetSpec
    ) -> None:
        computed = []
        model.base.register_forward_hook(lambda *_: computed.append(1))
        evaluate(model, self.info, numbered("drive_0", "drive_1", "drive_2"), spec, CPU)
        assert model.stf.windows == [([0, 0, 1], 1), ([0, 1, 2], 1), ([1, 2, 2], 1)]
        assert len(computed) == 3

    def test_holds_frames_of_one_sequence_within_reach(
        self, model: VideoSegmenter, numbered: Callable[..., list[LabelledFrame]], spec: DatasetSpec
    ) -> None:
        frames = numbered("a_0", "a_5", "a_15", "b_16")
        evaluate(model, self.info, frames, dataclasses.replace(spec, frame_rate=10.0), CPU)
        assert [window for window, _ in model.stf.windows] == [[0, 0, 5], [0, 5, 5], [15, 15, 15], [16, 16, 16]]

    def test_may_hold_frames_without_labels(
        self, model: VideoSegmenter, numbered: Callable[..., list[LabelledFrame]], spec: DatasetSpec
    ) -> None:
        frames = numbered("drive_0", "drive_1", "drive_2", "drive_3")
        images = {"drive": {frame.number: frame.image for frame in frames}}
        evaluate(model, self.info, [frames[2]], spec, CPU, windows=Windows(images, spec, WindowConfig()))
        assert model.stf.windows == [([1, 2, 3], 1)]

    @pytest.mark.parametrize(
        ("options", "windows"),
        [
            ([], {(0, 0, 1, 1), (0, 1, 2, 1), (1, 2, 3, 1), (2, 3, 4, 1), (3, 4, 4, 1)}),
            (["--window", "causal"], {(0, 0, 0, 2), (0, 0, 1, 2), (0, 1, 2, 2), (1, 2, 3, 2), (2, 3, 4, 2)}),
            (["--offset", "2"], {(0, 0, 2, 1), (1, 1, 3, 1), (0, 2, 4, 1), (1, 3, 3, 1), (2, 4, 4, 1)}),
        ],
    )
    def test_is_what_the_options_say(
        self,
        model: VideoSegmenter,
        numbered: Callable[..., list[LabelledFrame]],
        run: Callable[..., int],
        monkeypatch: pytest.MonkeyPatch,
        options: list[str],
        windows: set[tuple[int, ...]],
    ) -> None:
        numbered(*(f"drive_{number}" for number in range(5)))
        monkeypatch.setattr(command, "load_checkpoint", lambda _: (model, self.info))
        monkeypatch.setattr(command, "load_rows", lambda _: {})
        assert run(*options) == 0
        assert {(*window, query) for window, query in model.stf.windows} == windows


class TestRows:
    @pytest.fixture
    def files(self, save: Callable[..., Path]) -> list[Path]:
        """The four stages of one network: base and STF are equal where there are two."""
        kinds: dict[str, dict] = {
            "base": {},
            "stf": {"stf": STF},
            "mar": {"mar": MAR},
            "both": {"stf": STF, "mar": MAR},
        }
        return [save(name=name, **modules) for name, modules in kinds.items()]

    def test_come_from_one_command(
        self, run: Callable[..., int], files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("--checkpoint", files, "--window", "both") == 0
        document = figures(tmp_path)
        rows = document["rows"]
        assert list(rows) == ["base", "stf", "stf_causal", "mar", "both", "both_causal"]
        assert rows["both"].items() <= document.items()
        assert rows["base"]["miou"] == 100.0 > rows["both"]["miou"]
        assert [row["window"] for row in rows.values()] == [None, "centered", "causal", None, "centered", "causal"]
        assert rows["stf"]["parameters"] == rows["stf_causal"]["parameters"] > rows["base"]["parameters"]
        assert rows["both"]["gmacs"] > rows["stf"]["gmacs"] > rows["base"]["gmacs"]
        said = capsys.readouterr().out
        for word in ("mar", "GMACs", "parameters", "fwIoU"):
            assert word in said

    def test_are_what_each_network_gives_alone(
        self, run: Callable[..., int], files: list[Path], tmp_path: Path
    ) -> None:
        assert run("--checkpoint", files, "--window", "both") == 0
        together = figures(tmp_path)["rows"]
        alone = {}
        for file in files:
            assert run("--checkpoint", file, "--window", "both") == 0
            alone |= figures(tmp_path)["rows"]
        assert together == alone

    def test_compute_what_they_share_once(
        self, files: list[Path], spec: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = command.rows_of(files, "both", spec)
        calls = collections.Counter()
        for row in {id(row.model): row for row in rows}.values():
            row.model.base.register_forward_hook(lambda *_: calls.update(["base"]))
            if row.model.stf is not None:
                row.model.stf.register_forward_hook(lambda *_: calls.update(["stf"]))
        frames = list_frames(spec, tmp_path, "val")
        tallies = [command.Tally(row, 3, CPU) for row in rows]
        windows = Windows(list_images(spec, tmp_path, "val"), spec, WindowConfig())
        command.measure(tallies, frames, spec, CPU, windows)
        assert calls == {"base": 3, "stf": 2 * 3}

    def test_share_no_fusion_that_differs(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        first, second = save(name="a", stf=STF), save(name="b", stf=STF, mar=MAR, seed=1)
        assert run("--checkpoint", [first, second]) == 0
        together = figures(tmp_path)["rows"]["both"]
        assert run("--checkpoint", second) == 0
        assert together == figures(tmp_path)["rows"]["both"]

    def test_of_several_files_are_told_apart_by_the_files_names(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = [
            save(name=name, seed=seed, stf=STF, rows={"base": {}, "mar": {"mar": MAR}})
            for seed, name in enumerate(("old", "new"))
        ]
        alone = {}
        for file in files:
            assert run("--checkpoint", file) == 0
            alone[file.stem] = figures(tmp_path)["rows"]
        capsys.readouterr()
        assert run("--checkpoint", files, "--window", "both", "--pictures", tmp_path / "pictures") == 0
        document = figures(tmp_path)
        rows = document["rows"]
        assert list(rows) == [
            "base (old)", "base (new)", "mar (old)", "mar (new)",
            "stf (old)", "stf_causal (old)", "stf (new)", "stf_causal (new)",
        ]  # fmt: skip
        for name in ("old", "new"):
            assert rows[f"stf ({name})"] == alone[name]["stf"] and rows[f"mar ({name})"] == alone[name]["mar"]
        assert rows["stf (old)"]["ece"] != rows["stf (new)"]["ece"]
        assert rows["stf (new)"].items() <= document.items()
        said = capsys.readouterr().out
        assert "old" in said and "new" in said
        assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(PICTURES)

    def test_that_several_files_have_in_common_come_once(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        before, after = save(name="stf", stf=STF), save(name="both", stf=STF, mar=MAR, rows={"stf": {"stf": STF}})
        assert run("--checkpoint", before, after) == 0
        assert list(figures(tmp_path)["rows"]) == ["stf", "both"]
        assert figures(tmp_path)["rows"]["stf"]["checkpoint"] == str(before)

    @pytest.mark.parametrize(
        ("names", "labels"),
        [
            (("a/model", "b/model"), ("a", "b")),
            (("a/model", "b/model", "c/other"), ("a/model", "b/model", "c/other")),
            (("a/mar/model", "b/mar/model"), ("a/mar/model", "b/mar/model")),
            (("a/one", "b/two"), ("one", "two")),
            (("a.safetensors/model", "[b]/model"), ("a.safetensors", "[b]")),
        ],
    )
    def test_of_files_of_one_name_are_told_apart_by_their_folders(
        self,
        run: Callable[..., int],
        save: Callable[..., Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        names: tuple[str, ...],
        labels: tuple[str, ...],
    ) -> None:
        assert run("--checkpoint", [save(name=name) for name in names]) == 0
        assert list(figures(tmp_path)["rows"]) == [f"base ({label})" for label in labels]
        said = capsys.readouterr().out
        assert all(label in said for label in labels)

    @pytest.mark.parametrize("query", [1, 2])
    def test_are_the_whole_networks_predictions(
        self, files: list[Path], spec: DatasetSpec, tmp_path: Path, query: int
    ) -> None:
        rows = command.rows_of(files, "causal" if query == 2 else "centered", spec)
        frames = list_frames(spec, tmp_path, "val")
        windows = Windows(list_images(spec, tmp_path, "val"), spec, WindowConfig())
        networks = Networks(rows, frames, CPU, windows)
        preprocess = Preprocessor(NORMALIZATION, 96, CPU)
        clip = torch.stack([preprocess(read_image(frame.image)) for frame in frames], 1)
        with torch.inference_mode():
            for index in range(3):
                found = networks.logits(index)
                for row, logits in zip(rows, found, strict=True):
                    # This frame alone has the whole clip as its window.
                    if index == query:
                        torch.testing.assert_close(upsample(logits, (96, 128)), row.model(clip, query))

    def test_without_stf_do_not_depend_on_the_window(
        self, run: Callable[..., int], files: list[Path], tmp_path: Path
    ) -> None:
        assert run("--checkpoint", files[0], "--window", "both") == 0
        assert list(figures(tmp_path)["rows"]) == ["base"]


def test_a_window_that_holds_every_image_is_said_to_slide_nowhere(
    run: Callable[..., int], save: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--checkpoint", save(), "--slide", "96x200") == 0
    said = capsys.readouterr().err
    assert "--slide 96x200 holds every image whole (96x128" in said and said.count("\n") == 1
    assert run("--checkpoint", save(), "--slide", "96x100") == 0
    assert capsys.readouterr().err == ""


class TestPictures:
    def test_are_written_where_asked(self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path) -> None:
        assert (
            run("--checkpoint", [save(), save(name="stf", stf=STF)], "--pictures", tmp_path / "new" / "pictures") == 0
        )
        assert sorted(path.name for path in (tmp_path / "new" / "pictures").iterdir()) == sorted(PICTURES)

    def test_are_not_written_where_not_asked(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        assert run("--checkpoint", save()) == 0
        assert not list(tmp_path.glob("**/confusion_matrix.png"))


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
        assert "class 1 is 'box' in" in message and "'disc' in data set shapes" in message

    def test_a_data_set_that_is_not_known(self, refused: Callable[..., str]) -> None:
        assert "nowhere is neither a file nor a known data set" in refused("--dataset", "nowhere")

    def test_a_split_that_is_not_there(self, refused: Callable[..., str]) -> None:
        assert "test is not a folder" in refused("--split", "test")

    def test_a_wrong_label_in_the_last_frame_is_known_before_the_first(
        self, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cv2.imwrite(str(tmp_path / "valannot" / "drive_000002.png"), np.full((96, 128), 77, np.uint8))
        monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("the network ran first"))
        assert "drive_000002.png has label id 77" in refused()

    def test_a_sequence_that_no_frame_has(self, refused: Callable[..., str]) -> None:
        assert "no frame of val is of sequences drvie; there are drive" in refused("--sequences", "drive", "drvie")

    def test_a_split_of_void_alone(self, refused: Callable[..., str], tmp_path: Path) -> None:
        for path in (tmp_path / "valannot").iterdir():
            cv2.imwrite(str(path), np.full((96, 128), 9, np.uint8))
        assert "no labelled pixel" in refused()

    def test_an_image_that_is_none(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "val" / "drive_000001.png").write_text("hello")
        assert "drive_000001.png is damaged or no image" in refused()

    def test_a_folder_for_the_figures(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "is a folder" in refused("--json", tmp_path)
        message = refused("--json", tmp_path / "network.safetensors" / "figures.json")
        assert "--json needs a folder" in message and "network.safetensors is a file" in message

    def test_a_file_for_the_pictures(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "shapes.yaml is a file: name another place" in refused("--pictures", tmp_path / "shapes.yaml")

    def test_one_checkpoint_twice(self, refused: Callable[..., str], save: Callable[..., Path]) -> None:
        path = save()
        message = refused(checkpoint=[path, path.parent / "." / "val" / ".." / path.name])
        assert "network.safetensors twice: give it once" in message

    def test_weights_that_are_no_numbers(
        self, refused: Callable[..., str], save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("the network ran first"))
        message = refused(checkpoint=save(poison=float("nan")))
        assert "network.safetensors holds NaN or infinity in classifier.linear.bias of its row base" in message
        assert "take an earlier checkpoint" in message

    def test_weights_so_large_that_its_output_is_no_number(
        self, refused: Callable[..., str], save: Callable[..., Path], capfd: pytest.CaptureFixture[str]
    ) -> None:
        message = refused(checkpoint=save(scale=5e37))
        assert "network.safetensors, row base: its output for" in message
        assert "drive_000000.png holds NaN or infinity" in message

    def test_an_image_of_another_size_than_its_labels_is_known_before_the_first(
        self, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cv2.imwrite(str(tmp_path / "val" / "drive_000002.png"), np.zeros((90, 128, 3), np.uint8))
        monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("the network ran first"))
        assert "drive_000002.png is 128x96, its image 128x90" in refused()

    @pytest.mark.parametrize("overlap", ["", " ", "-1", "nan", "1e999999999", "1/3/3", "½", "0x1"])
    def test_an_overlap_that_is_no_share(self, refused: Callable[..., str], overlap: str) -> None:
        message = refused("--slide", "64x64", "--overlap", overlap)
        assert message.startswith(f"evaluate: --overlap is {overlap!r}; it must be a share of the window")

    def test_a_request_that_fails_leaves_nothing_behind(
        self, refused: Callable[..., str], tmp_path: Path, save: Callable[..., Path]
    ) -> None:
        refused("--pictures", tmp_path / "new" / "pictures", checkpoint=save(poison=float("nan")))
        assert not (tmp_path / "out").exists() and not (tmp_path / "new").exists()

    def test_figures_and_pictures_in_each_others_place(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "old" / PICTURES[0]).mkdir(parents=True)
        assert f"{PICTURES[0]} is a folder" in refused("--pictures", tmp_path / "old")
        for folder in ("a", "a/b"):
            assert "rename one" in refused("--json", tmp_path / "a", "--pictures", tmp_path / folder)

    @pytest.mark.parametrize(("option", "value"), [("--offset", "0"), ("--reach", "0"), ("--reach", "nan")])
    def test_neighbours_that_cannot_be(self, refused: Callable[..., str], option: str, value: str) -> None:
        assert refused(option, value).startswith(f"evaluate: {option} is {value}")

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
    said = capsys.readouterr().err
    assert "figures.json cannot be written: No space left on device" in said and said.count("\n") == 1
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["old"]


def test_the_figures_never_replace_the_checkpoint(
    save: Callable[..., Path], tmp_path: Path, spec: DatasetSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save()
    before = checkpoint.read_bytes()
    data = ["--dataset", str(tmp_path / "shapes.yaml"), "--root", str(tmp_path)]
    assert main([*data, "--checkpoint", str(checkpoint), "--json", str(checkpoint)]) == 1
    assert "is the checkpoint itself" in capfd.readouterr().err
    assert checkpoint.read_bytes() == before
