"""Boundary F and calibration on cases known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from stmem_ros.labels import IGNORE_INDEX
from training.measure.quality import QUALITY_NAMES, BoundaryF, Calibration, Quality, boundary
from training.measure.temporal import Motion


def halves(column: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    labels[:, column:] = 1
    return labels


def boundary_f(prediction: np.ndarray, truth: np.ndarray) -> float | None:
    metric = BoundaryF(3)
    metric.update(prediction, truth)
    return metric.value


def test_the_rim_of_the_image_is_no_boundary() -> None:
    assert boundary(halves(30) == 1).sum() == 60
    assert boundary(np.ones((5, 5), bool)).sum() == 0


def test_a_perfect_prediction_scores_100() -> None:
    assert boundary_f(halves(30), halves(30)) == 100.0


def test_a_boundary_within_the_tolerance_counts() -> None:
    # 60x80 allows one pixel.
    assert boundary_f(halves(31), halves(30)) == 100.0
    assert boundary_f(halves(33), halves(30)) == 0.0


def test_a_class_that_is_missed_scores_0() -> None:
    assert boundary_f(np.zeros((60, 80), np.uint8), halves(30)) == 0.0


def test_void_hides_wrong_boundaries() -> None:
    truth = halves(30)
    truth[:, 50:] = IGNORE_INDEX
    prediction = halves(30)
    prediction[:, 60:] = 2
    assert boundary_f(prediction, truth) == 100.0


def test_calibration_agrees_with_torchmetrics() -> None:
    probabilities = torch.rand(2000, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    truth = torch.randint(0, 4, (2000,), generator=torch.Generator().manual_seed(1))
    best, predicted = probabilities.max(-1)
    calibration = Calibration()
    for part in (slice(0, 700), slice(700, None)):
        calibration.update(best[part].numpy(), (predicted == truth)[part].numpy())
    expected = 100 * float(multiclass_calibration_error(probabilities, truth, 4, n_bins=15))
    assert calibration.value == pytest.approx(expected, abs=1e-3)


def test_certain_and_right_is_calibrated() -> None:
    calibration = Calibration()
    calibration.update(np.ones(10, np.float32), np.ones(10, bool))
    assert calibration.value == 0.0


def logits_of(labels: np.ndarray, classes: int = 3) -> torch.Tensor:
    """Logits that are certain of `labels`."""
    return 100 * torch.nn.functional.one_hot(torch.from_numpy(labels).long(), classes).permute(2, 0, 1).float()


def test_all_of_them_over_a_clip() -> None:
    still = Motion(
        np.stack(np.meshgrid(np.arange(80.0), np.arange(60.0)), -1).astype(np.float32), np.ones((60, 80), bool)
    )
    quality = Quality(3)
    for frame in range(9):
        quality.update(logits_of(halves(30)), halves(30), frame > 0, still if frame else None)
    figures = quality.to_dict()
    assert list(figures) == list(QUALITY_NAMES)
    assert figures.pop("vc16") is figures.pop("vc16_correct") is None
    assert figures.pop("ece") == 0.0
    assert set(figures.values()) == {100.0}


def test_frames_that_do_not_follow_each_other_have_no_steadiness() -> None:
    quality = Quality(3)
    for frame in range(9):
        quality.update(logits_of(halves(30)), halves(30), frame not in (0, 5), None)
    assert quality.to_dict()["vc8"] is quality.to_dict()["flow_consistency"] is None
