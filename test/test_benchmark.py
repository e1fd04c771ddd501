"""The benchmark: what it promises to report, and that it compares like with like. Times themselves are not tested."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stmem_ros.benchmark import memory, neighbour
from stmem_ros.benchmark.__main__ import main
from stmem_ros.benchmark.film import Film
from stmem_ros.benchmark.measure import Budget, Exactness, Spread, interleave
from stmem_ros.benchmark.neighbour import Neighbour, time_beside_neighbour
from stmem_ros.benchmark.scaling import draw, measure_scaling, scaled
from stmem_ros.benchmark.subject import BenchmarkError, Subject
from stmem_ros.benchmark.ways import WAYS, Comparison, Setting
from stmem_ros.checkpoint import DEFAULT_CHECKPOINT, save_checkpoint
from stmem_ros.network import BASES, BaseNetwork, MARConfig, SegmenterConfig, STFConfig

SIZE = (64, 80)
KEYS = {
    *("paper_way_ms", "cached_ms", "fast_ms", "base_ms", "engine_ms"),
    *("speedup_vs_paper", "overhead_vs_base", "stf_mar_share", "max_abs_diff", "label_agreement"),
    *("quartiles_ms", "rounds", "peak_memory_mb", "environment", "size", "window", "window_frames", "model"),
}


class SmallBase(BaseNetwork):
    """One convolution of 8 x 8 pixels and its norm."""

    channels = 8
    stride = 8
    deep_channels = 8
    mean = (100.0, 110.0, 120.0)
    std = (50.0, 60.0, 70.0)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 9, stride=8, padding=4), nn.BatchNorm2d(8))

    def forward_with_deep(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(images)
        return features, features


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """STF and MAR at random, over a base that costs next to nothing."""
    monkeypatch.setitem(BASES, "small", SmallBase)
    stf = STFConfig(block=(4, 4), positional_grid=(8, 8), feedforward=8)
    return Subject(SegmenterConfig("small", 5, stf=stf, mar=MARConfig(5, 3)), 64, seed=3)


@pytest.fixture
def checkpoint(subject: Subject, tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *subject.make())
    return str(path)


def run(*arguments: object) -> int:
    """The command, as few rounds as it does and with no processes of its own unless asked for."""
    return main([*map(str, arguments), "--repeats", "2", "--no-memory", "--device", "cpu"])


@pytest.mark.parametrize("window", ["causal", "centered"])
def test_the_command_reports_every_way_in_one_run(
    checkpoint: str, window: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "times.json"
    assert run("--checkpoint", checkpoint, "--size", "64x80", "--window", window, "--json", out) == 0
    result = json.loads(out.read_text())
    assert result.keys() >= KEYS
    assert result["max_abs_diff"] <= 1e-4 and result["label_agreement"] >= 0.9999
    assert result["speedup_vs_paper"] == pytest.approx(result["paper_way_ms"] / result["fast_ms"])
    assert result["overhead_vs_base"] == pytest.approx(result["fast_ms"] / result["base_ms"])
    assert result["stf_mar_share"] == pytest.approx(result["overhead_vs_base"] - 1)
    assert (result["size"], result["window"], result["window_frames"], result["rounds"]) == ([64, 80], window, 3, 2)
    assert result["environment"].keys() >= {"cpu", "device", "dtype", "threads", "torch"}
    for name in WAYS:
        low, high = result["quartiles_ms"][name]
        assert 0 < low <= result[f"{name}_ms"] <= high
    table = capsys.readouterr().out
    assert all(words in table for words in WAYS.values()) and "2 rounds" in table
    beside = result["neighbour"]
    assert beside["busy_over_alone"] == pytest.approx(beside["busy_ms"] / beside["alone_ms"])
    assert (
        "engine beside one busy process" in table and f"{beside['busy_over_alone']:.2f} times its time alone" in table
    )


def test_frames_are_timed_alone_and_beside_a_process_that_runs_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[Neighbour] = []
    monkeypatch.setattr(neighbour, "Neighbour", lambda: others.append(Neighbour()) or others[0])
    seen: list[tuple[int, str]] = []

    def state() -> str:
        """T where it is stopped."""
        return Path(f"/proc/{others[0].pid}/stat").read_text().rpartition(")")[2].split()[0]

    def way(number: Any) -> None:
        seen.append((number, state() if others else ""))

    found = time_beside_neighbour(way, lambda number: number, torch.device("cpu"), Budget(repeats=2), start=7)  # type: ignore[arg-type, return-value]
    assert [number for number, _ in seen] == list(range(7, 7 + len(seen)))
    stopped = [kind == "T" for _, kind in seen[1:]]
    assert stopped == [False] * 3 + [True] * 6 + [False] * 3
    assert found.alone.count == found.busy.count == 6
    assert not Path(f"/proc/{others[0].pid}").exists()


def test_by_default_the_network_sees_what_the_checkpoint_was_made_for(checkpoint: str, tmp_path: Path) -> None:
    assert run("--checkpoint", checkpoint, "--json", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["size"] == [64, 85]


def test_a_base_of_the_catalog_stands_under_the_papers_modules() -> None:
    config = Subject.paper("pspnet_resnet50").config
    assert (config.classes, config.stf, config.mar) == (19, STFConfig(), MARConfig(19))
    assert config.stf is not None and (config.stf.block, config.stf.stride) == ((16, 16), 1)


@torch.inference_mode()
def test_random_weights_give_features_and_logits_of_about_one(subject: Subject) -> None:
    model, info = subject.make()
    moment = Comparison(subject, Setting(SIZE, SIZE, device="cpu"), ["base"]).scene(0)
    features = model.features(moment.exact)
    assert 0.5 < features.std() < 2
    assert 0.5 < model.predict(torch.stack([features] * 3, 1), 2).std() < 2
    assert not any(module.training for module in model.modules())
    assert len(info.labels) == 5


@pytest.mark.parametrize("window", ["causal", "centered"])
@torch.inference_mode()
def test_every_way_with_fusion_gives_the_whole_networks_logits(subject: Subject, window: str) -> None:
    comparison = Comparison(subject, Setting(SIZE, SIZE, window, "cpu", cameras=2))  # type: ignore[arg-type]
    model, _ = subject.make()
    query = {"causal": 2, "centered": 1}[window]
    clips = []
    for number in range(4):
        moment = comparison.scene(number)
        assert moment.exact.shape == (2, 3, *SIZE)
        clips = [moment.exact] * 3 if number == 0 else [*clips[1:], moment.exact]
        features = model.features(torch.cat(clips)).unflatten(0, (3, 2)).transpose(0, 1)
        expected = model.predict(features, query)
        for name in ("paper_way", "cached", "fast"):
            torch.testing.assert_close(comparison.ways[name](moment), expected, rtol=0, atol=1e-4)
        alone = comparison.ways["base"](moment)
        torch.testing.assert_close(alone, model.classifier(model.features(moment.exact)), rtol=0, atol=1e-4)
        assert (alone - expected).abs().max() > 0.1


def test_lower_precision_is_compared_with_float32(subject: Subject) -> None:
    setting = Setting(SIZE, SIZE, device="cpu", precision="bfloat16")
    comparison = Comparison(subject, setting)
    moment = comparison.scene(0)
    assert not comparison.reference_is_paper_way
    assert comparison.reference(moment).dtype == torch.float32
    assert comparison.ways["fast"](moment).dtype == comparison.ways["paper_way"](moment).dtype == torch.bfloat16


def test_each_round_runs_every_way_on_one_frame_in_an_order_of_its_own(subject: Subject) -> None:
    calls: list[tuple[str, int]] = []
    scene = Comparison(subject, Setting(SIZE, SIZE, device="cpu"), ["fast"]).scene
    ways = {name: lambda moment, name=name: calls.append((name, moment.number)) for name in "abc"}
    times = interleave(ways, scene, torch.device("cpu"), Budget(repeats=9))
    assert all(spread.count == 9 for spread in times.values())
    rounds = [calls[start : start + 3] for start in range(0, len(calls), 3)]
    assert [{number for _, number in each} for each in rounds] == [{number} for number in range(3 + 9)]
    orders = ["".join(name for name, _ in each) for each in rounds]
    assert {"".join(sorted(order)) for order in orders} == {"abc"} and len(set(orders)) > 1


@pytest.mark.parametrize(
    ("budget", "rounds"),
    [
        (Budget(120), 90),
        (Budget(1), 5),
        (Budget(1e6), 1000),
        (Budget(1, repeats=7), 7),
    ],
)
def test_as_many_rounds_as_the_seconds_allow_but_never_fewer_than_five(budget: Budget, rounds: int) -> None:
    assert budget.rounds(spent=30, one=1) == rounds


def test_a_spread_is_median_and_quartiles_in_milliseconds() -> None:
    spread = Spread.of([0.004, 0.001, 0.002, 0.003, 0.005])
    assert (spread.median, *spread.quartiles, spread.count) == pytest.approx((3, 2, 4, 5))


def test_exactness_counts_labels_and_refuses_what_is_no_number() -> None:
    exactness, logits = Exactness(), torch.zeros(1, 2, 4, 4)
    logits[:, 0] = 1
    other = logits.clone()
    other[..., :2, :] = other[..., :2, :].flip(1) / 2
    exactness.add(logits, logits, (4, 4))
    exactness.add(logits, other, (4, 4))
    assert (exactness.max_abs_diff, exactness.label_agreement) == (1, 0.75)
    other[0, 0, 0, 0] = torch.nan
    with pytest.raises(BenchmarkError, match="not finite at float32"):
        exactness.add(logits, other, (4, 4))


def test_the_film_drifts_comes_round_and_uses_all_brightnesses() -> None:
    film = Film((64, 96), seed=1)
    assert film[0].shape == (64, 96, 3) and film[0].dtype == np.uint8
    assert not np.array_equal(film[0], film[1])
    np.testing.assert_array_equal(film[0][:-1, :-3], film[1][1:, 3:])
    np.testing.assert_array_equal(film[0], film[64 * 96])
    assert film[0].min() < 10 and film[0].max() > 245
    assert not np.array_equal(film[0], Film((64, 96), seed=2)[0])


def test_cameras_as_a_batch_give_what_each_gives_alone(checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run("--checkpoint", checkpoint, "--size", "64x80", "--cameras", 3, "--json", out) == 0
    cameras = json.loads(out.read_text())["cameras"]
    assert cameras["cameras"] == 3 and cameras["max_abs_diff"] <= 1e-4 and cameras["label_agreement"] >= 0.9999
    assert cameras["batch_ms_per_camera"] > 0 and cameras["single_ms_per_camera"] > 0


def test_memory_is_that_of_a_process_which_runs_one_way() -> None:
    subject, setting = Subject.trained(str(DEFAULT_CHECKPOINT)), Setting((64, 80), (64, 80), device="cpu")
    assert 50e6 < memory.peak_memory("fast", subject, setting) < 2e9
    lost = dataclasses.replace(subject, checkpoint="/nowhere/model.safetensors")
    with pytest.raises(BenchmarkError, match="memory of fast could not be measured: /nowhere/model"):
        memory.peak_memory("fast", lost, setting)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_pictures_show_every_scaling(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stmem_ros.benchmark.scaling.peak_memory", lambda *_: 10**8)
    setting = Setting((64, 64), (64, 64), device="cpu")
    points = measure_scaling(subject, setting, Budget(repeats=1), with_memory=True, say=lambda _: None)
    assert [point["x"] for point in points["window"]] == [1, 2, 3, 5, 7]
    assert [point["x"] for point in points["cameras"]] == [1, 2, 4, 8]
    assert points["pixels"][0]["x"] == pytest.approx(64 * 64 / 1e6)
    files = draw(tmp_path / "plots", "a network", points)
    assert {path.name for path in files} == {"scaling_pixels.png", "scaling_window.png", "scaling_cameras.png"}
    assert all(cv2.imread(str(path)).std() > 5 for path in files)


def test_without_matplotlib_the_pictures_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BenchmarkError, match="pip install matplotlib"):
        draw(tmp_path, "a network", {})


def test_scaled_sizes_keep_their_shape() -> None:
    assert [scaled((256, 512), factor) for factor in (0.25, 1.0, 4.0)] == [(128, 256), (256, 512), (512, 1024)]
    assert scaled((361, 483), 1.0) == (361, 483)
    assert scaled((64, 64), 0.25) == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "pspnet_resnet5"], "is it pspnet_resnet50"),
        (["--model", "zzz"], "it must be one of deeplabv3_resnet101"),
        (["--checkpoint", "/nowhere/model.safetensors"], "/nowhere/model.safetensors does not exist"),
        (["--device", "toaster"], "device is 'toaster'"),
        (["--precision", "float16", "--device", "cpu"], "float16 needs a GPU"),
        (["--size", "64x80", "--image-size", "128x128"], "--image-size 128x128 becomes 64x64"),
        (["--json", "."], "--json . is a folder"),
        (["--plots", __file__], "--plots needs a folder where"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--repeats", "1", "--no-memory"]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--size", "256"], ["--size", "8x8"], ["--threads", "0"], ["--cameras", "1"], ["--rate", "nan"]]
)
def test_impossible_options_are_refused_at_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stmem_ros.benchmark.__main__.measure", stop)
    assert main(["--size", "64x80", "--no-memory"]) == 130
    assert capsys.readouterr().err == "benchmark: stopped\n"


def test_ros_is_needed_for_the_node_alone() -> None:
    code = "import sys, stmem_ros.benchmark.__main__; sys.exit('rclpy' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_node_labels_what_a_camera_sends_through_dds(
    ros_domain: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2")
    out = tmp_path / "out.json"
    size = ["--size", "64x96", "--image-size", "128x192"]
    assert run(*size, "--node", "--rate", 8, "--frames", 12, "--window", "centered", "--json", out) == 0
    node = json.loads(out.read_text())["node"]
    assert node["stamps_are_frames"] is True
    assert 2 <= node["frames_labelled"] <= 12 == node["frames_sent"]
    assert 0 < node["latency_ms"]["p50"] <= node["latency_ms"]["p99"]
    assert node["image_size"] == [128, 192] and node["node_ms"]["network"] > 0
    assert "every label on the stamp of a frame" in capsys.readouterr().out
