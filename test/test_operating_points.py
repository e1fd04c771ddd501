"""`python -m training.operating_points`: which points no other beats, and what is measured only once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from stmem_ros.benchmark.measure import Spread
from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.network import MARConfig, SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.streaming import StreamingSegmenter
from training import evaluate
from training import operating_points as command
from training.data.dataset import load_spec
from training.measure.pareto import Point, front, on_front
from training.operating_points import main

MAR = MARConfig(memory_classes=3, hard_per_class=2)


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([(10.0, 70.0)], [True]),
        ([(10.0, 70.0), (20.0, 75.0)], [True, True]),
        ([(10.0, 70.0), (20.0, 69.0)], [True, False]),
        ([(20.0, 70.0), (10.0, 70.0)], [False, True]),
        ([(10.0, 70.0), (10.0, 71.0)], [False, True]),
        ([(10.0, 70.0), (10.0, 70.0)], [True, True]),
        ([(30.0, 72.0), (10.0, 60.0), (20.0, 71.0), (25.0, 70.0)], [True, True, True, False]),
    ],
)
def test_a_point_is_on_the_front_unless_another_is_better_in_one_and_no_worse_in_the_other(
    points: list[tuple[float, float]], best: list[bool]
) -> None:
    assert front(points) == best


def test_a_point_that_was_not_wholly_measured_is_not_on_the_front_and_keeps_none_off_it() -> None:
    spread = Spread(10.0, (9.0, 11.0), 5)
    about = ("base", "", "a.safetensors", 4, None, 64)
    points = [Point(*about, {"miou": 99.0}), Point(*about, {"miou": 1.0}, spread), Point(*about, None, spread)]
    assert on_front(points) == [False, True, False]


def stf(stride: int) -> STFConfig:
    return STFConfig(block=(8, 8), positional_grid=(8, 8), heads=1, feedforward=4, stride=stride)


@pytest.fixture
def save(pixel_base: str, make_shapes: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint with the rows base, stf and both; base has the same weights in each."""
    labels = load_spec(make_shapes(tmp_path, {"val": 3})).labels
    normalization = Normalization((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))

    def write(name: str = "network", stride: int = 4) -> Path:
        configs = {
            "base": SegmenterConfig(pixel_base, 3),
            "stf": SegmenterConfig(pixel_base, 3, stf=stf(stride)),
            "both": SegmenterConfig(pixel_base, 3, stf=stf(stride), mar=MAR),
        }
        colors = (torch.tensor(labels.palette) - torch.tensor(normalization.mean)) / torch.tensor(normalization.std)
        rows = {}
        for row, config in configs.items():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = build_segmenter(config)
            with torch.no_grad():
                model.classifier.linear.weight[:, :3, 0, 0] = colors
                model.classifier.linear.bias.copy_(-(colors**2).sum(1) / 2)
            rows[row] = (model, config)
        path = tmp_path / f"{name}.safetensors"
        model, config = rows.pop("both")
        save_checkpoint(path, model, CheckpointInfo(config, labels, normalization, 96), rows)
        return path

    return write


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., int]:
    """The command over the small data set; few rounds, and its outputs below `out`."""

    def run(*more: str | Path) -> int:
        data = ["--dataset", str(tmp_path / "shapes.yaml"), "--root", str(tmp_path), "--device", "cpu"]
        out = ["--cache", str(tmp_path / "out" / "kept"), "--json", str(tmp_path / "out" / "points.json")]
        return main([*data, *out, "--rounds", "2", *map(str, more)])

    return run


def points(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "out" / "points.json").read_text())["points"]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str]]]:
    """What each pass over the data set measured: short side and rows."""
    seen: list[tuple[int, list[str]]] = []
    real = command.measure

    def measure(tallies: list[evaluate.Tally], *more: Any) -> None:
        seen.append((tallies[0].row.info.short_side, [tally.row.name for tally in tallies]))
        real(tallies, *more)

    monkeypatch.setattr(command, "measure", measure)
    return seen


def test_every_row_at_every_size_is_a_point_with_the_accuracy_of_evaluate_and_a_latency(
    call: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, plot = save(), tmp_path / "out" / "points.png"
    assert call("--checkpoint", checkpoint, "--rows", "base", "both", "--short-sides", "96", "64", "--plot", plot) == 0
    said = capsys.readouterr()
    found = points(tmp_path)
    assert [(point["row"], point["short_side"]) for point in found] == [
        (row, side) for row in ("base", "both") for side in (64, 96)
    ]
    assert [point["stf_stride"] for point in found] == [None, None, 4, 4]
    assert {point["channels"] for point in found} == {4}
    data = ["--dataset", tmp_path / "shapes.yaml", "--root", tmp_path, "--device", "cpu", "--window", "causal"]
    theirs = tmp_path / "evaluate.json"
    options = [*data, "--checkpoint", checkpoint, "--short-side", "64", "--json", theirs]
    assert evaluate.main([*map(str, options)]) == 0
    rows = json.loads(theirs.read_text())["rows"]
    for point, name in zip(found[::2], ("base", "both_causal"), strict=True):
        assert {figure: point[figure] for figure in rows[name]} == rows[name]
    assert all(point["latency_ms"] > 0 and point["rounds"] == 2 for point in found)
    assert [point["front"] for point in found] == front([(point["latency_ms"], point["miou"]) for point in found])
    for word in ("mIoU", "Pareto front", "100.00", "causal", "thread"):
        assert word in said.out
    assert said.err == ""
    picture = cv2.imread(str(plot))
    assert picture is not None and len(np.unique(picture)) > 10


def test_rows_and_window_may_be_chosen(
    call: Callable[..., int], save: Callable[..., Path], tmp_path: Path, passes: list[tuple[int, list[str]]]
) -> None:
    assert call("--checkpoint", save(), "--short-sides", "64", "--rows", "stf", "--window", "centered") == 0
    assert passes == [(64, ["stf"])]
    assert [(point["row"], point["window"]) for point in points(tmp_path)] == [("stf", "centered")]


def test_what_was_measured_is_not_measured_again(
    call: Callable[..., int], save: Callable[..., Path], tmp_path: Path, passes: list[tuple[int, list[str]]]
) -> None:
    options = ("--checkpoint", save(), "--accuracy-only", "--short-sides")
    both = ("--rows", "base", "stf")
    assert call(*options, "64", "--rows", "base") == 0
    assert call(*options, "64", "80", *both) == 0
    assert call(*options, "80", "64", *both) == 0
    assert passes == [(64, ["base"]), (64, ["stf_causal"]), (80, ["base", "stf_causal"])]
    # A base has no window: only the others differ.
    passes.clear()
    assert call(*options, "64", "--window", "centered", *both) == 0
    assert passes == [(64, ["stf"])]


@pytest.mark.parametrize("change", ["checkpoint", "label", "description"])
def test_another_checkpoint_or_other_data_is_measured_again(
    change: str,
    call: Callable[..., int],
    save: Callable[..., Path],
    tmp_path: Path,
    passes: list[tuple[int, list[str]]],
) -> None:
    options = ("--checkpoint", save(), "--accuracy-only", "--short-sides", "64", "--rows", "base")
    assert call(*options) == 0
    if change == "checkpoint":
        save_again = tmp_path / "network.safetensors"
        data = save_again.read_bytes().replace(b'\\"provenance\\": {}', b'\\"provenance\\":{} ')
        assert data != save_again.read_bytes()
        save_again.write_bytes(data)
    elif change == "label":
        file = tmp_path / "valannot" / "drive_000001.png"
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[::-1])
    else:
        file = tmp_path / "shapes.yaml"
        file.write_text(file.read_text() + "frame_rate: 15\n")
    assert call(*options) == 0
    assert passes == [(64, ["base"])] * 2


def test_a_stopped_command_goes_on(
    call: Callable[..., int],
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    passes: list[tuple[int, list[str]]],
) -> None:
    spied = command.measure

    def stop(tallies: list[evaluate.Tally], *more: Any) -> None:
        if tallies[0].row.info.short_side == 80:
            raise KeyboardInterrupt
        spied(tallies, *more)

    options = ("--checkpoint", save(), "--accuracy-only", "--short-sides", "64", "80", "--rows", "base")
    with monkeypatch.context() as patch:
        patch.setattr(command, "measure", stop)
        assert call(*options) == 130
    error = capsys.readouterr().err
    assert error.startswith("operating_points: stopped; ") and "goes on" in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "points.json").exists()
    assert call(*options) == 0
    assert passes == [(64, ["base"]), (80, ["base"])]


def test_latency_alone_shows_the_accuracy_that_is_kept(
    call: Callable[..., int], save: Callable[..., Path], tmp_path: Path, passes: list[tuple[int, list[str]]]
) -> None:
    options = ("--checkpoint", save(), "--rows", "base", "--short-sides")
    assert call(*options, "64", "--accuracy-only") == 0
    assert [("miou" in point, "latency_ms" in point) for point in points(tmp_path)] == [(True, False)]
    assert call(*options, "64", "80", "--latency-only") == 0
    assert [("miou" in point, "latency_ms" in point) for point in points(tmp_path)] == [(True, True), (False, True)]
    assert [point["front"] for point in points(tmp_path)] == [True, False]
    assert passes == [(64, ["base"])]


def test_points_are_timed_by_turns_without_the_confidence(
    call: Callable[..., int], save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[tuple[int, bool]] = []
    starts = []
    real = StreamingSegmenter.step

    def step(self: StreamingSegmenter, image: Any, stamp: int, *, confidence: bool = True) -> Any:
        turns.append((self.config.short_side, confidence))
        result = real(self, image, stamp, confidence=confidence)
        starts.append(self.last_reset)
        return result

    monkeypatch.setattr(StreamingSegmenter, "step", step)
    options = ("--checkpoint", save(), "--rows", "stf", "--latency-only", "--short-sides", "64", "72", "80")
    assert call(*options, "--rounds", "4") == 0
    rounds = [turns[start : start + 3] for start in range(0, len(turns), 3)]
    assert len(rounds) >= 4
    assert all(sorted(each) == [(64, False), (72, False), (80, False)] for each in rounds)
    # More frames than the split has: the stream goes on all the same.
    assert len(rounds) > 3 and starts == [None] * len(turns)


def test_checkpoints_stand_side_by_side_and_what_they_share_comes_once(
    call: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [save("fine"), save("coarse", stride=8)]
    assert (
        call(
            "--checkpoint",
            *files,
            "--rows",
            "base",
            "stf",
            "--short-sides",
            "64",
            "--plot",
            tmp_path / "out" / "points.png",
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "stride" in said and "(fine)" in said and "(coarse)" in said
    found = {(point["row"], Path(point["checkpoint"]).stem): point["stf_stride"] for point in points(tmp_path)}
    assert found == {
        ("base", "fine"): None,
        ("stf", "fine"): 4,
        ("stf", "coarse"): 8,
    }


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--short-sides", "96", "63"], "--short-sides 63"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--rows", "base", "mar"], "--rows mar: "),
        (["--plot", "a.png", "--accuracy-only"], "leave out --accuracy-only"),
        (["--plot", "a.txt"], "--plot a.txt: "),
        (["--plot", "a.png", "--latency-only"], "leave out --latency-only"),
        (["--split", "train"], "train"),
        (["--checkpoint", "none.safetensors"], "none.safetensors does not exist"),
        (["--dataset", "camvid"], "class 0 is"),
        (["--device", "tpu"], "tpu"),
        (["--precision", "float8"], "float8"),
        (["--json", "."], "--json . is a folder"),
        (["--cache", "shapes.yaml/kept"], "--cache"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_leaves_nothing(
    options: list[str],
    reason: str,
    call: Callable[..., int],
    save: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("--checkpoint", save(), "--short-sides", "64", *options) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("operating_points: ") and said.err.count("\n") == 1
    assert reason in said.err
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_figures_is_named(
    call: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--checkpoint", save(), "--accuracy-only", "--short-sides", "64", "--rows", "base")
    assert call(*options) == 0
    (file,) = (tmp_path / "out" / "kept").iterdir()
    file.write_text("{")
    capsys.readouterr()
    assert call(*options) == 1
    assert f"{file} is damaged" in capsys.readouterr().err
