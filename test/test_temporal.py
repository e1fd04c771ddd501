"""Temporal metrics on clips whose value is known by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stmem_ros.labels import IGNORE_INDEX
from training.temporal import FlowConsistency, VideoConsistency


def clip(*rows: list[int]) -> list[np.ndarray]:
    """One-row label images, a frame each."""
    return [np.array([row], np.uint8) for row in rows]


def vc(length: int, predictions: list[np.ndarray], truths: list[np.ndarray]) -> VideoConsistency:
    metric = VideoConsistency(length)
    for prediction, truth in zip(predictions, truths, strict=True):
        metric.update(prediction, truth)
    return metric


def test_a_perfect_prediction_is_wholly_consistent() -> None:
    truth = clip([0, 1, 1, 2], [0, 1, 2, 2], [0, 0, 2, 2])
    metric = vc(2, truth, truth)
    assert metric.steady == metric.correct == 100.0


def test_only_pixels_whose_truth_stays_count() -> None:
    # Window 1: truth stays in pixels 0, 1, 3; the prediction flickers in 1. Window 2: stays in all but 3, no flicker.
    truth = clip([0, 1, 1, 2], [0, 1, 0, 2], [0, 1, 0, 1])
    prediction = clip([0, 1, 1, 2], [0, 0, 0, 2], [0, 0, 0, 0])
    assert vc(2, prediction, truth).steady == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_being_steadily_wrong_is_steady_but_not_correct() -> None:
    truth, prediction = clip([0, 0], [0, 0]), clip([0, 1], [0, 1])
    metric = vc(2, prediction, truth)
    assert (metric.steady, metric.correct) == (100.0, 50.0)


def test_void_does_not_count() -> None:
    truth = clip([0, IGNORE_INDEX], [0, IGNORE_INDEX])
    assert vc(2, clip([0, 1], [0, 2]), truth).steady == 100.0


def test_a_clip_that_is_too_short_has_no_value() -> None:
    frames = clip([0], [0], [0])
    assert vc(4, frames, frames).steady is None


def test_windows_do_not_reach_across_a_cut() -> None:
    metric = VideoConsistency(2)
    metric.update(*clip([0], [0]))
    metric.cut()
    metric.update(*clip([1], [0]))
    assert metric.steady is None


def textured(shift: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A smooth random texture moved right by `shift` pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (size[0], size[1] + 40, 3), np.uint8)
    wide = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    return np.ascontiguousarray(wide[:, 20 - shift : 20 - shift + size[1]])


def bar(shift: int) -> np.ndarray:
    labels = np.zeros((120, 160), np.uint8)
    labels[:, 60 + shift : 90 + shift] = 1
    return labels


def test_labels_that_move_with_the_picture_are_consistent() -> None:
    metric = FlowConsistency()
    for shift in (0, 3, 6):
        metric.update(textured(shift), bar(shift))
    assert metric.value > 99


def test_labels_that_stay_behind_are_not() -> None:
    metric = FlowConsistency()
    for shift in (0, 3, 6):
        metric.update(textured(shift), bar(0))
    # Each step, 3 columns on either side of the bar of 160 columns are wrong.
    assert metric.value == pytest.approx(100 * (1 - 6 / 157), abs=1.0)


def test_random_labels_keep_their_chance_share() -> None:
    random = np.random.default_rng(0)
    metric = FlowConsistency()
    for _ in range(3):
        metric.update(textured(0), random.integers(0, 4, (120, 160), np.uint8))
    assert metric.value == pytest.approx(25, abs=1.5)


def test_one_frame_has_no_consistency() -> None:
    metric = FlowConsistency()
    metric.update(textured(0), bar(0))
    assert metric.value is None
