"""Accuracy from one pooled confusion matrix, by hand and against torchmetrics."""

from __future__ import annotations

import json

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from stmem_ros.labels import IGNORE_INDEX
from training.measure.metrics import Accuracy, confusion_matrix, labels_of


def test_a_confusion_known_by_hand() -> None:
    # Rows are the truth: 3 of 4 pixels of class 0 are found, 1 of 2 of class 1; one each is taken for the other.
    accuracy = Accuracy.of(torch.tensor([[3, 1], [1, 1]]))
    assert accuracy.per_class_iou == pytest.approx((100 * 3 / 5, 100 * 1 / 3))
    assert accuracy.miou == pytest.approx((60 + 100 / 3) / 2)
    assert accuracy.pixel_accuracy == pytest.approx(100 * 4 / 6)


def test_a_class_that_does_not_occur_has_no_iou_and_no_part_in_the_mean() -> None:
    accuracy = Accuracy.of(torch.tensor([[2, 0, 0], [0, 0, 0], [2, 0, 4]]))
    assert accuracy.per_class_iou[1] is None
    assert accuracy.miou == pytest.approx((50 + 100 * 4 / 6) / 2)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    accuracy = Accuracy.of(torch.tensor([[2, 2], [0, 0]]))
    assert accuracy.per_class_iou == pytest.approx((50, 0))
    assert accuracy.miou == pytest.approx(25)


def test_no_pixel_at_all_is_zero_not_an_error() -> None:
    accuracy = Accuracy.of(torch.zeros(2, 2))
    assert (accuracy.miou, accuracy.pixel_accuracy) == (0.0, 0.0)
    assert accuracy.per_class_iou == (None, None)


def test_ignored_pixels_are_not_counted() -> None:
    confusion = confusion_matrix(2)
    confusion.update(torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, IGNORE_INDEX, IGNORE_INDEX]]))
    assert confusion.compute().tolist() == [[1, 0], [0, 1]]


def test_pixels_are_pooled_not_frames() -> None:
    confusion = confusion_matrix(2)
    # A large frame that is right and a small one that is wrong.
    confusion.update(torch.zeros(1, 90, dtype=torch.long), torch.zeros(1, 90, dtype=torch.long))
    confusion.update(torch.ones(1, 10, dtype=torch.long), torch.zeros(1, 10, dtype=torch.long))
    accuracy = Accuracy.of(confusion.compute())
    assert accuracy.pixel_accuracy == pytest.approx(90)
    assert accuracy.per_class_iou == pytest.approx((90, 0))


@pytest.mark.parametrize("present", [7, 5])
def test_agrees_with_torchmetrics(present: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, present, (3, 20, 30), generator=generator)
    guesses = torch.randint(0, present, (3, 20, 30), generator=generator)
    predicted = torch.where(torch.rand(labels.shape, generator=generator) < 0.6, labels, guesses)
    labels[:, :2] = IGNORE_INDEX
    confusion = confusion_matrix(7)
    for one, truth in zip(predicted, labels, strict=True):
        confusion.update(one[None], truth[None])
    accuracy = Accuracy.of(confusion.compute())
    ours = [value or 0.0 for value in accuracy.per_class_iou]
    each = MulticlassJaccardIndex(7, average="none", ignore_index=IGNORE_INDEX)
    assert ours == pytest.approx((100 * each(predicted, labels)).tolist(), abs=1e-4)
    macro = MulticlassJaccardIndex(7, average="macro", ignore_index=IGNORE_INDEX)
    assert accuracy.miou == pytest.approx(100 * macro(predicted, labels).item(), abs=1e-4)
    pixels = MulticlassAccuracy(7, average="micro", ignore_index=IGNORE_INDEX)
    assert accuracy.pixel_accuracy == pytest.approx(100 * pixels(predicted, labels).item(), abs=1e-4)


def test_frequency_weighted_iou_weighs_by_the_truth() -> None:
    # 8 pixels of class 0, 2 of class 1, one of which is taken for 0: IoU 8/9 and 1/2.
    accuracy = Accuracy.of(torch.tensor([[8, 0], [1, 1]]))
    assert accuracy.fw_iou == pytest.approx(100 * (0.8 * 8 / 9 + 0.2 * 1 / 2))


def test_as_a_document_it_is_json_by_class_name() -> None:
    document = Accuracy.of(torch.tensor([[1, 0], [0, 0]])).to_dict(("road", "car"))
    assert json.loads(json.dumps(document)) == {
        "miou": 100.0,
        "fw_iou": 100.0,
        "pixel_accuracy": 100.0,
        "per_class_iou": {"road": 100.0, "car": None},
    }


def test_the_label_is_the_class_of_the_highest_logit() -> None:
    logits = torch.tensor([[[[0.0, 3.0]], [[1.0, 2.0]]]])
    assert labels_of(logits).tolist() == [[[1, 0]]]
