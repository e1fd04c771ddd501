"""The pictures of an evaluation: what is drawn, where, and which frames are chosen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stmem_ros.labels import IGNORE_INDEX, LabelSet
from stmem_ros.network import SegmenterConfig
from training.data.dataset import LabelledFrame
from training.measure.cost import cost_of
from training.measure.metrics import Accuracy
from training.measure.report import (
    PICTURES,
    WRONG,
    Result,
    Shot,
    WorstFrames,
    draw_confusion,
    draw_per_class,
    draw_worst,
    errors,
    write_pictures,
)

LABELS = LabelSet(("road", "car", "tree"), ((10, 20, 30), (200, 0, 0), (0, 200, 0)))
CONFUSION = np.array([[60, 20, 0], [5, 15, 0], [0, 0, 0]])


@pytest.fixture
def result(pixel_base: str) -> Result:
    cost = cost_of(SegmenterConfig(pixel_base, 3), (64, 64))
    return Result("base", Accuracy.of(torch.from_numpy(CONFUSION)), {}, cost, CONFUSION)


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    """The first of 40 x 60 pixels is wrong, the last one void."""
    cv2.imwrite(str(tmp_path / "frame.png"), np.full((40, 60, 3), 100, np.uint8))
    prediction, truth = np.zeros((2, 40, 60), np.uint8)
    truth[0, 0], truth[-1, -1] = 1, IGNORE_INDEX
    return Shot(tmp_path / "frame.png", prediction, truth, 99.9)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_confusion_matrix_has_the_shares_of_each_true_class(result: Result) -> None:
    figure = draw_confusion(result, LABELS.names)
    assert texts(figure) == ["75", "25", "25", "75"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(LABELS.names)
    shown = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown[:2], [[75, 25, 0], [25, 75, 0]])
    # No pixel of the split is a tree.
    assert np.isnan(shown[2]).all()


def test_bars_are_as_high_as_the_ious(result: Result) -> None:
    causal = Result("stf_causal", result.accuracy, {}, result.cost, CONFUSION)
    axes = draw_per_class([result, causal], LABELS.names).axes[0]
    expected = [(60 / 85 + 15 / 40) / 2, 60 / 85, 15 / 40, 0]
    for bars, hatch in zip(axes.containers, (None, "////"), strict=True):
        assert [bar.get_height() / 100 for bar in bars] == pytest.approx(expected)
        assert {bar.get_hatch() for bar in bars} == {hatch}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["mean", *LABELS.names]


def test_errors_are_red_and_void_is_black(shot: Shot) -> None:
    picture = errors(np.full((40, 60, 3), 100, np.uint8), shot)
    assert tuple(picture[0, 0]) == WRONG
    assert tuple(picture[-1, -1]) == (0, 0, 0)
    assert np.unique(picture[1:-1]).tolist() == [178]


def test_worst_frames_stand_with_their_names_and_figures(shot: Shot) -> None:
    figure = draw_worst([shot, shot], "both", LABELS)
    panels = figure.axes[4:]
    assert len(panels) == 4
    assert panels[0].get_title(loc="left") == "frame.png"
    assert panels[3].get_title(loc="right") == "99.9 % right"
    assert tuple(panels[1].images[0].get_array()[0, 0]) == LABELS.palette[0]
    assert tuple(panels[2].images[0].get_array()[0, 0]) == LABELS.palette[1]
    # A tree is nowhere.
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["road", "car"]


def test_all_are_written_as_images(result: Result, shot: Shot, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_pictures(tmp_path / "out", [result], result, [shot], LABELS)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(PICTURES)
    for name in PICTURES:
        picture = cv2.imread(str(tmp_path / "out" / name))
        assert min(picture.shape[:2]) > 200 and picture.std() > 10


class TestWorst:
    """Frames of 10 x 10 pixels, of which `wrong` are."""

    def worst(self, count: int, frame_rate: float | None, *frames: tuple[str, int, int]) -> list[tuple[str, float]]:
        chosen = WorstFrames(count, frame_rate)
        for sequence, number, wrong in frames:
            prediction = np.zeros(100, np.uint8)
            prediction[:wrong] = 1
            image = Path(f"{sequence}{number}.png")
            frame = LabelledFrame(sequence, number, image, image)
            chosen.update(frame, prediction.reshape(10, 10), np.zeros((10, 10), np.uint8))
        return [(shot.image.stem, shot.accuracy) for shot in chosen.shots()]

    def test_come_first(self) -> None:
        frames = [("a", 0, 3), ("a", 1, 9), ("b", 0, 7), ("b", 1, 1)]
        assert self.worst(2, None, *frames) == [("a1", pytest.approx(91)), ("b0", pytest.approx(93))]

    def test_are_one_of_each_second(self) -> None:
        frames = [("a", 0, 3), ("a", 5, 9), ("a", 9, 8), ("a", 10, 1), ("b", 9, 2)]
        assert [name for name, _ in self.worst(6, 10.0, *frames)] == ["a5", "b9", "a10"]

    def test_are_found_after_a_frame_of_their_second_was_dropped(self) -> None:
        frames = [("a", 0, 5), ("a", 10, 6), ("a", 20, 1), ("a", 21, 9)]
        assert [name for name, _ in self.worst(2, 10.0, *frames)] == ["a21", "a10"]

    def test_void_neither_counts_nor_makes_a_frame(self) -> None:
        chosen = WorstFrames(2, None)
        truth = np.zeros((10, 10), np.uint8)
        truth[1:] = IGNORE_INDEX
        for number in range(2):
            frame = LabelledFrame("a", number, Path(f"{number}.png"), Path())
            chosen.update(frame, np.ones((10, 10), np.uint8), truth)
            truth = np.full((10, 10), IGNORE_INDEX, np.uint8)
        assert [(shot.image.stem, shot.accuracy) for shot in chosen.shots()] == [("0", 0.0)]
