"""The loss of every stage."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from stmem_ros.labels import IGNORE_INDEX
from training.stages.losses import SegmentationLoss


def test_cross_entropy_is_the_weighted_mean_over_labelled_pixels() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 1.0, 3.0])
    logits, labels = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6))
    labels[0, :2] = IGNORE_INDEX
    loss = SegmentationLoss(weights, dice_weight=0.0, smoothing=0.0)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(loss(logits, labels), expected)
    smooth = SegmentationLoss(weights, dice_weight=0.0, smoothing=0.1)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, label_smoothing=0.1)
    torch.testing.assert_close(smooth(logits, labels), expected)


def test_dice_adds_nothing_where_all_is_right_and_sure() -> None:
    labels = torch.randint(0, 3, (1, 4, 4))
    logits = 50 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert SegmentationLoss(torch.ones(3), dice_weight=1.0, smoothing=0.0)(logits, labels) < 1e-4
    assert SegmentationLoss(torch.ones(3), dice_weight=1.0, smoothing=0.0)(-logits, labels) > 1


def test_a_batch_without_labels_has_no_cross_entropy() -> None:
    labels = torch.full((1, 4, 4), IGNORE_INDEX)
    assert SegmentationLoss(torch.ones(3), dice_weight=0.0)(torch.randn(1, 3, 4, 4), labels) == 0
