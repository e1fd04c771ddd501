"""Boundary F and calibration on cases known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from stmem_ros.labels import IGNORE_INDEX
from training.measure.quality import QUALITY_NAMES, BoundaryF, Calibration, Quality, boundary, calibration_error
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


@pytest.mark.parametrize(("size", "radius"), [((720, 960), 2), ((1080, 1920), 2), ((1500, 3200), 4)])
def test_large_images_count_boundaries_within_the_exact_distance(size: tuple[int, int], radius: int) -> None:
    random = np.random.default_rng(0)
    labels = [np.ones(size, np.uint8) for _ in range(2)]
    for each in labels:
        each[:120, :120][random.random((120, 120)) < 0.06] = 0
    places = [np.argwhere(boundary(each == 0)) for each in labels]
    squares = ((places[0][:, None] - places[1]) ** 2).sum(-1)
    precision, recall = ((squares.min(axis) <= radius**2).mean() for axis in (1, 0))
    # Class 0 alone.
    metric = BoundaryF(1)
    metric.update(*labels)
    assert metric.value == pytest.approx(100 * 2 * precision * recall / (precision + recall))


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


def test_a_frame_without_truth_has_no_part_in_what_needs_one() -> None:
    quality = Quality(3)
    for frame in range(9):
        truth = None if frame == 4 else halves(30)
        quality.update_labels(halves(30), None, truth, frame > 0, None)
    figures = quality.to_dict()
    assert figures["boundary_f"] == 100.0
    # Nor do eight frames with truth in two parts make a clip of eight; and nothing is known of confidence.
    assert figures["vc8"] is figures["ece"] is None


def test_what_is_taken_adds_up_to_the_whole() -> None:
    truths = [halves(column) for column in (30, 31, 33, 36, 40, 41, 41, 42, 44, 47)]
    whole, taken = Quality(3), Quality(3)
    sums: dict[str, np.ndarray] = {}
    calibration = np.zeros((3, 15))
    for frame, truth in enumerate(truths):
        labels, confidence = halves(33), np.full((60, 80), 0.1 * frame, np.float32)
        for quality in (whole, taken):
            quality.update_labels(labels, confidence, truth, frame > 0, None)
        shares, added = taken.take()
        calibration += added
        sums = {name: np.add(sums.get(name, (0.0, 0.0)), share) for name, share in shares.items()}
    assert taken.to_dict()["vc8"] is taken.to_dict()["boundary_f"] is None
    expected = whole.to_dict()
    found = {name: 100 * top / bottom for name, (top, bottom) in sums.items() if bottom}
    assert found == pytest.approx({name: expected[name] for name in ("boundary_f", "vc8", "vc8_correct")})
    assert calibration_error(calibration) == pytest.approx(expected["ece"])
