"""The baselines beside STF and MAR, on examples whose outcome is known, and windows that slide over an image."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stmem_ros.checkpoint import CheckpointInfo, Normalization, save_checkpoint
from stmem_ros.labels import LabelSet
from stmem_ros.network import SegmenterConfig, STFConfig, build_segmenter
from stmem_ros.network.segmenter import upsample
from training import evaluate as command
from training.baselines import BASELINES, DenseCRF, FlowAverage, MissingLibraryError, SegFix
from training.baselines.flow_average import warp
from training.baselines.segfix import inward
from training.data.dataset import DatasetSpec, load_spec
from training.evaluate import main
from training.measure.baseline import Fusion, Refinement
from training.measure.cost import cost_of
from training.measure.metrics import Accuracy
from training.measure.quality import QUALITY_NAMES
from training.measure.report import ROW_COLORS, Result, draw_per_class, print_tables
from training.measure.rows import ROWS, Row, fusion_alike
from training.measure.sliding import Slide, merge

NORMALIZATION = Normalization((80.0, 90.0, 100.0), (40.0, 80.0, 120.0))
has_crf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None, reason="the optional package pydensecrf2 is not here"
)


def texture(shift: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A smooth random texture moved right by `shift` pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (size[0], size[1] + 40, 3), np.uint8)
    wide = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    return np.ascontiguousarray(wide[:, 20 - shift : 20 - shift + size[1]])


def features_of(image: np.ndarray, stride: int = 4) -> Tensor:
    """Features that know nothing but colours: means of `stride` x `stride` pixels."""
    return F.avg_pool2d(torch.from_numpy(image).permute(2, 0, 1)[None].float(), stride, ceil_mode=True)


def certain_of(labels: np.ndarray, classes: int = 2, by: float = 4.0) -> Tensor:
    """Logits `(classes, H, W)` that prefer `labels`."""
    return by * F.one_hot(torch.from_numpy(labels).long(), classes).permute(2, 0, 1).float()


class TestFlowAverage:
    @pytest.mark.parametrize("size", [(120, 160), (117, 155)])
    def test_brings_the_neighbours_features_to_the_frame(self, size: tuple[int, int]) -> None:
        images = [texture(shift, size) for shift in (-8, 0, 8)]
        features = [features_of(image) for image in images]
        fused = FlowAverage().fuse(features, images, 1)
        inner = (..., slice(3, -3), slice(4, -4))
        error = (fused - features[1])[inner].abs().mean()
        assert error < 0.2 * (sum(features) / 3 - features[1])[inner].abs().mean()
        # The frame's own features are a third of it, not all.
        assert error > 0

    @pytest.mark.parametrize("query", [1, 2])
    def test_has_equal_weights(self, query: int) -> None:
        images = [texture(0)] * 3
        features = [torch.full((1, 2, 30, 40), value) for value in (1.0, 2.0, 6.0)]
        torch.testing.assert_close(FlowAverage().fuse(features, images, query), torch.full((1, 2, 30, 40), 3.0))

    def test_of_a_frame_that_stands_alone_is_that_frame(self) -> None:
        image, features = texture(0), features_of(texture(0))
        torch.testing.assert_close(FlowAverage().fuse([features] * 3, [image] * 3, 1), features)

    def test_leaves_what_it_was_given(self) -> None:
        images = [texture(shift) for shift in (0, 4, 8)]
        features = [features_of(image) for image in images]
        before = [feature.clone() for feature in features]
        FlowAverage().fuse(features, images, 1)
        assert all(torch.equal(feature, old) for feature, old in zip(features, before, strict=True))

    @pytest.mark.parametrize(("columns", "rows"), [(4, 0), (0, -8), (-12, 4)])
    def test_warps_by_pixels_of_the_image(self, columns: int, rows: int) -> None:
        features = torch.rand(1, 3, 10, 12, generator=torch.Generator().manual_seed(0))
        y, x = np.indices((40, 48))
        place = np.stack([x + columns, y + rows], -1).astype(np.float32)
        there_y = (np.arange(10) + rows // 4).clip(0, 9)
        there_x = (np.arange(12) + columns // 4).clip(0, 11)
        torch.testing.assert_close(warp(features, place), features[:, :, there_y][..., there_x])


class TestSegFix:
    """A dark and a bright half, whose border is at column 40."""

    image = np.repeat(np.where(np.arange(80) < 40, 60, 200).astype(np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    truth = (np.arange(80) >= 40).astype(np.uint8)[None].repeat(60, 0)

    def refined(self, labels: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
        logits = SegFix().refine(certain_of(labels), self.image if image is None else image)
        return logits.argmax(0).numpy().astype(np.uint8)

    def test_puts_a_ragged_rim_onto_the_image_edge(self) -> None:
        rim = 40 + np.random.default_rng(0).integers(-2, 3, (60, 1))
        ragged = (np.arange(80)[None] >= rim).astype(np.uint8)
        found = self.refined(ragged)
        assert (ragged != self.truth).sum() > 60
        # Canny's edge itself, one pixel wide, has no side.
        assert (found != self.truth).sum() < 0.4 * (ragged != self.truth).sum()
        assert ((found != self.truth).sum(1) <= 1).all()

    def test_does_not_reach_further_than_it_says(self) -> None:
        far = (np.arange(80) >= 50).astype(np.uint8)[None].repeat(60, 0)
        np.testing.assert_array_equal(self.refined(far), far)

    def test_changes_nothing_where_the_image_has_no_edge(self) -> None:
        ragged = (np.arange(80)[None] >= 40 + np.arange(60)[:, None] % 3).astype(np.uint8)
        np.testing.assert_array_equal(self.refined(ragged, np.full((60, 80, 3), 90, np.uint8)), ragged)

    def test_changes_nothing_where_all_pixels_are_one_class(self) -> None:
        labels = np.zeros((60, 80), np.uint8)
        np.testing.assert_array_equal(self.refined(labels), labels)

    def test_keeps_a_narrow_object(self) -> None:
        labels = np.zeros((60, 80), np.uint8)
        labels[:, 38:43] = 1
        image = np.where(labels[..., None] == 1, 200, 60).repeat(3, -1).astype(np.uint8)
        np.testing.assert_array_equal(self.refined(labels, image), labels)

    def test_gives_a_pixel_the_logits_of_another(self) -> None:
        labels = (np.arange(80) >= 42).astype(np.uint8)[None].repeat(60, 0)
        logits = certain_of(labels) + torch.rand(2, 60, 80, generator=torch.Generator().manual_seed(0))
        before = logits.clone()
        refined = SegFix().refine(logits, self.image)
        assert torch.equal(logits, before)
        changed = (refined != logits).any(0)
        assert changed.any() and not changed[:, :37].any() and not changed[:, 46:].any()
        for row, column in changed.nonzero().tolist():
            near = logits[:, row, column - 3 : column + 4]
            assert (near == refined[:, row, column, None]).all(0).any()

    def test_goes_away_from_the_nearest_edge_and_stops_in_the_middle_of_two(self) -> None:
        edges = np.zeros((20, 30), bool)
        edges[:, [10, 16]] = True
        columns = np.array([5, 7, 8, 10, 11, 12, 15, 17, 19, 20])
        rows = np.full(10, 5)
        to_rows, to_columns = inward(edges, rows, columns, 3)
        np.testing.assert_array_equal(to_rows, rows)
        # 10 is an edge, 5 and 20 are too far from one; 13 is as far from both edges.
        np.testing.assert_array_equal(to_columns, [5, 4, 5, 10, 13, 13, 13, 20, 22, 20])


@has_crf
class TestDenseCRF:
    truth = (np.arange(64) >= 32).astype(np.uint8)[None].repeat(48, 0)
    image = np.where(truth[..., None] == 1, 210, 40).repeat(3, -1).astype(np.uint8)

    def test_pulls_noisy_labels_to_the_colours(self) -> None:
        noisy = np.where(np.random.default_rng(0).random((48, 64)) < 0.2, 1 - self.truth, self.truth)
        image = self.image.copy()
        image.setflags(write=False)
        found = DenseCRF().refine(certain_of(noisy, by=1.5), image)
        np.testing.assert_array_equal(found.argmax(0).numpy(), self.truth)

    def test_gives_log_probabilities_and_leaves_what_it_was_given(self) -> None:
        logits = torch.randn(3, 48, 64, generator=torch.Generator().manual_seed(0))
        before = logits.clone()
        found = DenseCRF().refine(logits, self.image)
        assert found.shape == logits.shape and found.dtype == torch.float32 and torch.equal(logits, before)
        torch.testing.assert_close(found.exp().sum(0), torch.ones(48, 64))

    def test_without_an_iteration_is_the_networks_probabilities(self) -> None:
        logits = torch.randn(3, 48, 64, generator=torch.Generator().manual_seed(0))
        found = DenseCRF(iterations=0).refine(logits, self.image)
        torch.testing.assert_close(found, torch.log_softmax(logits, 0), atol=1e-5, rtol=1e-5)


def test_rows_share_features_only_with_the_same_fusion(pixel_base: str) -> None:
    class First(FlowAverage):
        """Another fusion over windows of the same length."""

        name = "first"

    labels = LabelSet(("ground", "box"), ((0, 0, 0), (9, 9, 9)))
    config = SegmenterConfig(pixel_base, 2)
    info, model = CheckpointInfo(config, labels, NORMALIZATION, 64), build_segmenter(config)
    row = Row(model, info, baseline=FlowAverage())
    assert fusion_alike(row, Row(model, info, baseline=FlowAverage()))
    assert not fusion_alike(row, Row(model, info, baseline=First()))
    assert not fusion_alike(row, Row(model, info, causal=True, baseline=FlowAverage()))
    assert fusion_alike(Row(model, info), Row(model, info, causal=True, baseline=SegFix()))


def without_crf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.delitem(sys.modules, "pydensecrf.densecrf", raising=False)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    without_crf(monkeypatch)
    with pytest.raises(
        MissingLibraryError, match=r"^dense_crf needs the package pydensecrf2 .*pip install pydensecrf2"
    ):
        DenseCRF()


def test_every_baseline_is_of_one_kind_and_has_a_colour_of_its_own() -> None:
    assert set(ROW_COLORS) == set(ROWS) | {f"base+{name}" for name in BASELINES}
    assert len(set(ROW_COLORS.values())) == len(ROW_COLORS)
    for baseline in BASELINES.values():
        assert issubclass(baseline, Fusion) != issubclass(baseline, Refinement)
        assert dataclasses.is_dataclass(baseline)


@pytest.fixture
def results(pixel_base: str) -> list[Result]:
    """As many rows as there can be."""
    windowed = ("base+flow_average", "stf", "both")
    names = [name for row in ROW_COLORS for name in ((row, f"{row}_causal") if row in windowed else (row,))]
    counts = np.eye(2, dtype=int)
    quality = dict.fromkeys(QUALITY_NAMES, 98.76)
    accuracy = Accuracy(91.23, 92.34, 93.45, (94.56, 95.67))
    cost = cost_of(SegmenterConfig(pixel_base, 2), (64, 64))
    return [Result(name, accuracy, quality, cost, counts) for name in names]


@pytest.mark.parametrize("columns", [60, 80, 250])
def test_tables_of_many_rows_leave_no_figure_out(
    results: list[Result], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_tables(results, ("ground", "box"), np.array([1, 1]))
    said = capsys.readouterr().out
    assert all(said.count(figure) == len(results) for figure in ("91.23", "93.45", "94.56", "95.67"))
    assert said.count("98.76") == len(results) * len(QUALITY_NAMES)
    assert "…" not in said and max(map(len, said.splitlines())) <= columns
    assert said.count("mean IoU") == 1 or columns < 250


def test_bars_of_many_rows_can_be_told_apart(results: list[Result]) -> None:
    figure = draw_per_class(results, ("ground", "box"))
    looks = {(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in figure.axes[0].containers}
    assert len(looks) == len(results) == 10


class TestSlide:
    @pytest.mark.parametrize(
        ("length", "window", "overlap", "starts"),
        [
            (1024, 769, 1 / 3, [0, 255]),
            (2048, 769, 1 / 3, [0, 513, 1026, 1279]),
            (769, 769, 1 / 3, [0]),
            (500, 769, 1 / 3, [0]),
            (256, 64, 0, [0, 64, 128, 192]),
            (257, 64, 0, [0, 64, 128, 192, 193]),
            (101, 100, 0.5, [0, 1]),
        ],
    )
    def test_covers_all_of_an_image(self, length: int, window: int, overlap: float, starts: list[int]) -> None:
        crops = Slide((window, 64), overlap).crops((length, 64))
        assert [rows.start for rows, _ in crops] == starts
        assert {rows.stop - rows.start for rows, _ in crops} == {min(window, length)}
        assert crops[-1][0].stop == length
        assert {(columns.start, columns.stop) for _, columns in crops} == {(0, 64)}

    def test_averages_where_crops_overlap(self) -> None:
        slide = Slide((64, 64), 0.5)
        crops = slide.crops((64, 96))
        parts = [torch.full((1, 2, 8, 8), value) for value in (1.0, 5.0)]
        merged = merge(parts, crops, (64, 96))
        assert merged.shape == (1, 2, 64, 96)
        assert [merged[..., part].unique().tolist() for part in (slice(32), slice(32, 64), slice(64, 96))] == [
            [1.0],
            [3.0],
            [5.0],
        ]

    def test_puts_crops_of_features_where_they_were(self) -> None:
        image = torch.rand(1, 3, 97, 131, generator=torch.Generator().manual_seed(0))
        crops = Slide((64, 70)).crops((97, 131))
        parts = [image[..., rows, columns] for rows, columns in crops]
        torch.testing.assert_close(merge(parts, crops, (97, 131)), image)

    def test_as_large_as_the_image_changes_nothing(self) -> None:
        part = torch.rand(1, 3, 12, 16)
        assert merge([part], Slide((96, 128)).crops((96, 128)), (96, 128)) is part


class TestCommand:
    """A base network whose features are the pixels, on frames of a drawn clip."""

    @pytest.fixture
    def spec(self, make_shapes: Callable[..., Path], tmp_path: Path) -> DatasetSpec:
        return load_spec(make_shapes(tmp_path, {"val": 3}, size=(75, 107), noise=20))

    @pytest.fixture
    def save(self, pixel_base: str, spec: DatasetSpec, tmp_path: Path) -> Callable[..., Path]:
        def write(name: str = "base", **modules: Any) -> Path:
            config = SegmenterConfig(pixel_base, len(spec.labels), **modules)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = build_segmenter(config)
            mean, std = torch.tensor(NORMALIZATION.mean), torch.tensor(NORMALIZATION.std)
            colors = (torch.tensor(spec.labels.palette) - mean) / std
            with torch.no_grad():
                model.classifier.linear.weight[:, :3, 0, 0] = colors
                model.classifier.linear.bias.copy_(-(colors**2).sum(1) / 2)
            path = tmp_path / f"{name}.safetensors"
            save_checkpoint(path, model, CheckpointInfo(config, spec.labels, NORMALIZATION, 75))
            return path

        return write

    @pytest.fixture
    def run(self, tmp_path: Path, spec: DatasetSpec) -> Callable[..., int]:
        def call(*more: object) -> int:
            data = ["--dataset", tmp_path / "shapes.yaml", "--root", tmp_path, "--device", "cpu"]
            return main([str(word) for word in (*data, "--json", tmp_path / "out.json", *more)])

        return call

    @pytest.fixture
    def refused(self, run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
        def call(*more: object) -> str:
            assert run(*more) == 1
            said = capfd.readouterr()
            assert said.out == "" and said.err.startswith("evaluate: ") and said.err.count("\n") == 1
            return said.err

        return call

    stf = STFConfig(block=(16, 16), positional_grid=(8, 8), heads=1, feedforward=4)

    def document(self, tmp_path: Path) -> dict[str, Any]:
        return json.loads((tmp_path / "out.json").read_text())

    def test_adds_rows_after_the_base(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = (save(), save("stf", stf=self.stf))
        asked = ("--baseline", "segfix", "flow_average", "segfix", "--window", "both")
        assert run("--checkpoint", *files, *asked) == 0
        document = self.document(tmp_path)
        rows = document["rows"]
        names = ["base", "base+segfix", "base+flow_average", "base+flow_average_causal", "stf", "stf_causal"]
        assert list(rows) == names
        assert [row["window"] for row in rows.values()] == [None, None, "centered", "causal", "centered", "causal"]
        # The headline is the network's that was given last, never a baseline's.
        assert rows["stf"].items() <= document.items()
        assert rows["base"]["baseline"] is None
        assert rows["base+segfix"]["baseline"] == {"name": "segfix", "reach": 3, "blur": 1.0, "low": 50, "high": 100}
        assert {row["gmacs"] for name, row in rows.items() if name.startswith("base")} == {rows["base"]["gmacs"]}
        assert all(row["ece"] is not None for row in rows.values())
        assert rows["base+flow_average"]["miou"] != rows["base+flow_average_causal"]["miou"] < rows["base"]["miou"]
        said = capsys.readouterr().out
        for word in ("+segfix", "+flow_average", "causal", "the base's alone"):
            assert word in said

    def test_leaves_the_other_rows_as_they_are(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        files = (save(), save("stf", stf=self.stf))
        assert run("--checkpoint", *files) == 0
        alone = self.document(tmp_path)["rows"]
        assert run("--checkpoint", *files, "--baseline", "flow_average", "segfix") == 0
        together = self.document(tmp_path)["rows"]
        assert alone.items() <= together.items()

    def test_computes_base_features_once_for_all(
        self, run: Callable[..., int], save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen, rows_of = [], command.rows_of

        def counted(*arguments: Any) -> list:
            rows = rows_of(*arguments)
            rows[0].model.base.register_forward_hook(lambda *_: seen.append(1))
            return rows

        monkeypatch.setattr(command, "rows_of", counted)
        assert run("--checkpoint", save(), "--baseline", "segfix", "flow_average", "--window", "both") == 0
        assert len(seen) == 3

    @has_crf
    def test_has_a_row_of_the_crf(self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path) -> None:
        assert run("--checkpoint", save(), "--baseline", "dense_crf") == 0
        row = self.document(tmp_path)["rows"]["base+dense_crf"]
        assert row["baseline"]["iterations"] == 10 and 0 < row["miou"] <= 100

    @pytest.mark.parametrize("size", ["75x107", "400x400"])
    def test_a_window_that_holds_the_image_slides_nowhere(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path, size: str
    ) -> None:
        files = ("--checkpoint", save(), save("stf", stf=self.stf), "--baseline", "flow_average")
        assert run(*files) == 0
        whole = self.document(tmp_path)
        assert run(*files, "--slide", size) == 0
        slid = self.document(tmp_path)
        assert slid["rows"] == whole["rows"]
        assert whole["slide"] is None
        assert slid["slide"] == {"size": [int(side) for side in size.split("x")], "overlap": 1 / 3}

    def test_a_sliding_window_sees_crops_of_every_frame(
        self, run: Callable[..., int], save: Callable[..., Path], tmp_path: Path
    ) -> None:
        files = ("--checkpoint", save(), save("stf", stf=self.stf), "--baseline", "segfix", "flow_average")
        assert run(*files) == 0
        whole = self.document(tmp_path)["rows"]
        assert run(*files, "--slide", "64x70", "--overlap", "1/4") == 0
        slid = self.document(tmp_path)["rows"]
        # Each pixel by itself: where its crop lies does not matter to the base.
        for name in ("base", "base+segfix"):
            figures = ("miou", "pixel_accuracy", "boundary_f", "ece")
            assert [slid[name][key] for key in figures] == pytest.approx([whole[name][key] for key in figures])
            # 2 x 2 crops.
            assert slid[name]["gmacs"] == pytest.approx(whole[name]["gmacs"] * 4 * 64 * 70 / (75 * 107))
            assert slid[name]["cost"]["size"] == [75, 107]
        assert slid["stf"]["miou"] != whole["stf"]["miou"]

    def test_refuses_a_baseline_that_is_not_known(self, refused: Callable[..., str], save: Callable[..., Path]) -> None:
        message = refused("--checkpoint", save(), "--baseline", "magic")
        assert "--baseline magic is not known; there are dense_crf, segfix, flow_average" in message

    def test_refuses_a_baseline_without_its_library(
        self, refused: Callable[..., str], save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_crf(monkeypatch)
        assert "pip install pydensecrf2" in refused("--checkpoint", save(), "--baseline", "dense_crf")

    def test_refuses_a_baseline_without_a_base(self, refused: Callable[..., str], save: Callable[..., Path]) -> None:
        message = refused("--checkpoint", save("stf", stf=self.stf), "--baseline", "segfix")
        assert "needs a row base" in message and "stf.safetensors gives stf alone" in message

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--slide", "63x64"), "--slide is 63x64; no side may be below 64"),
            (("--slide", "64x64", "--overlap", "1"), "--overlap is 1; it must be a share of the window, 0 to 0.9"),
            (("--slide", "64x64", "--overlap", "1/0"), "--overlap is '1/0'"),
            (("--slide", "64x64", "--overlap", "much"), "--overlap is 'much'"),
            (("--overlap", "0.5"), "--overlap is of a sliding window: give --slide"),
        ],
    )
    def test_refuses_a_window_that_cannot_be(
        self, refused: Callable[..., str], save: Callable[..., Path], options: tuple[str, ...], message: str
    ) -> None:
        assert message in refused("--checkpoint", save(), *options)

    def test_refuses_a_window_without_a_height_and_a_width(
        self, save: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--dataset", "camvid", "--root", ".", "--checkpoint", str(save()), "--slide", "769"])
        assert ended.value.code == 2
        assert "argument --slide: '769' must be HEIGHTxWIDTH in pixels" in capsys.readouterr().err


def test_a_crop_of_features_reaches_its_own_size() -> None:
    # Strides that do not divide the window: 65 rows are 9 cells of a stride of 8.
    crops = Slide((65, 65), 0).crops((65, 130))
    parts = [torch.rand(1, 2, 9, 9, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    merged = merge(parts, crops, (65, 130))
    torch.testing.assert_close(merged[..., 65:], upsample(parts[1], (65, 65)))
