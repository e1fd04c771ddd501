"""Temporal metrics on clips whose value is known by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stmem_ros.labels import IGNORE_INDEX
from training.measure.temporal import FlowConsistency, Motion, MotionTracker, VideoConsistency


def clip(*rows: list[int]) -> list[np.ndarray]:
    """One-row label images, a frame each."""
    return [np.array([row], np.uint8) for row in rows]


def vc(length: int, predictions: list[np.ndarray], truths: list[np.ndarray], vspw: bool = False) -> VideoConsistency:
    metric = VideoConsistency(length, vspw)
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


@pytest.mark.parametrize(("length", "windows", "broken"), [(8, 13, 8), (16, 5, 5)])
def test_one_flicker_breaks_every_window_that_holds_it(length: int, windows: int, broken: int) -> None:
    # Of 20 frames, frame 10 has one of four pixels wrong; another pixel is wrong all along.
    truth = clip(*[[0, 0, 1, 1]] * 20)
    prediction = clip(*[[0, 0, 1, 2]] * 10, [0, 1, 1, 2], *[[0, 0, 1, 2]] * 9)
    metric = vc(length, prediction, truth)
    assert metric.steady == pytest.approx(100 * (4 * windows - broken) / (4 * windows))
    assert metric.correct == pytest.approx(100 * (3 * windows - broken) / (4 * windows))


def test_being_steadily_wrong_is_steady_but_not_correct() -> None:
    truth, prediction = clip([0, 0], [0, 0]), clip([0, 1], [0, 1])
    metric = vc(2, prediction, truth)
    assert (metric.steady, metric.correct) == (100.0, 50.0)


def test_void_does_not_count() -> None:
    truth = clip([0, IGNORE_INDEX], [0, IGNORE_INDEX])
    assert vc(2, clip([0, 1], [0, 2]), truth).steady == 100.0


def published(length: int, predictions: list[np.ndarray], truths: list[np.ndarray]) -> float:
    """VC_n as VSPW's script defines it: windows that begin at 0 .. N - n - 1, every label a class, nan left out."""
    values = []
    for first in range(len(truths) - length):
        truth, prediction = (np.stack(each[first : first + length]) for each in (truths, predictions))
        stays = (truth == truth[0]).all(0)
        with np.errstate(invalid="ignore"):
            values.append((stays & (prediction == prediction[0]).all(0)).sum() / stays.sum())
    return 100 * float(np.nanmean(values)) if values else np.nan


@pytest.mark.parametrize("frames", [9, 12, 25])
def test_by_the_published_rule_it_is_the_published_value(frames: int) -> None:
    random = np.random.default_rng(frames)
    base = random.integers(0, 4, (16, 20), np.uint8)
    base[0] = IGNORE_INDEX

    def noisy(share: float) -> list[np.ndarray]:
        several = [base.copy() for _ in range(frames)]
        for each in several:
            place = random.random(base.shape) < share
            each[place] = random.integers(0, 4, int(place.sum()), np.uint8)
        return several

    predictions, truths = noisy(0.05), noisy(0.02)
    theirs = vc(8, predictions, truths, vspw=True)
    assert theirs.steady == pytest.approx(published(8, predictions, truths))
    assert theirs.steady != pytest.approx(vc(8, predictions, truths).steady)


def test_by_the_published_rule_a_clip_of_n_frames_has_no_value_and_void_is_a_class() -> None:
    truth, prediction = clip(*[[0, IGNORE_INDEX]] * 9), clip(*[[0, 1]] * 4, *[[0, 2]] * 5)
    assert vc(8, prediction[:8], truth[:8], vspw=True).steady is None
    assert vc(8, prediction, truth, vspw=True).steady == 50.0
    assert vc(8, prediction, truth).steady == 100.0


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


def consistency(*frames: tuple[np.ndarray, np.ndarray]) -> float | None:
    """Of a clip of images and labels."""
    tracker, metric = MotionTracker(), FlowConsistency()
    for image, labels in frames:
        metric.update(labels, tracker.follow(image))
    return metric.value


def test_labels_that_move_with_the_picture_are_consistent() -> None:
    assert consistency(*((textured(shift), bar(shift)) for shift in (0, 3, 6))) > 99


def test_labels_that_stay_behind_are_not() -> None:
    # Each step, 3 columns on either side of the bar of 160 columns are wrong.
    expected = pytest.approx(100 * (1 - 6 / 157), abs=1.0)
    assert consistency(*((textured(shift), bar(0)) for shift in (0, 3, 6))) == expected


def test_random_labels_keep_their_chance_share() -> None:
    random = np.random.default_rng(0)
    frames = ((textured(0), random.integers(0, 4, (120, 160), np.uint8)) for _ in range(3))
    assert consistency(*frames) == pytest.approx(25, abs=1.5)


def test_one_frame_has_no_consistency() -> None:
    assert consistency((textured(0), bar(0))) is None


def moved(columns: int, shape: tuple[int, int] = (1, 4)) -> Motion:
    """Every pixel was `columns` further left a frame before; those that came into view are not visible."""
    y, x = np.indices(shape)
    place = np.stack([x - columns, y], -1).astype(np.float32)
    return Motion(place, place[..., 0] >= 0)


def test_flow_consistency_by_hand() -> None:
    metric = FlowConsistency()
    first, second, third = clip([0, 1, 2, 2], [9, 0, 1, 2], [9, 3, 1, 2])
    metric.update(first, None)
    metric.update(second, moved(1))
    assert metric.value == 100.0
    # Nothing moves; one of four labels changes: 3 + 3 of 3 + 4 visible pixels were kept.
    metric.update(third, moved(0))
    assert metric.value == pytest.approx(100 * 6 / 7)
    # What is not followed compares with nothing.
    metric.update(*clip([5, 5, 5, 5]), None)
    assert metric.value == pytest.approx(100 * 6 / 7)


class TestMotion:
    def test_says_where_pixels_were(self) -> None:
        tracker = MotionTracker()
        tracker.follow(textured(0))
        motion = tracker.follow(textured(3))
        inner = motion.place[20:-20, 20:-20] - np.stack(np.meshgrid(np.arange(20, 140), np.arange(20, 100)), -1)
        np.testing.assert_allclose(np.median(inner, (0, 1)), (-3, 0), atol=0.1)
        # The columns that came into view were nowhere.
        assert motion.visible[:, 20:-20].mean() > 0.95 and not motion.visible[:, :2].any()

    def test_is_none_where_there_is_no_frame_before(self) -> None:
        tracker = MotionTracker()
        assert tracker.follow(textured(0)) is None
        assert tracker.follow(textured(3), consecutive=False) is None
        assert tracker.follow(textured(3, (100, 160))) is None
        assert tracker.follow(textured(6, (100, 160))) is not None
