"""What every stage minimises."""

from __future__ import annotations

import torch
from kornia.losses import dice_loss
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from stmem_ros.labels import IGNORE_INDEX
from training.stages.stage_config import StageConfig


class SegmentationLoss(nn.Module):
    """Class-weighted cross-entropy with smoothed labels, plus `dice_weight` times the soft Dice loss.

    Several processes get the loss that one process would get on their batches together: the
    cross-entropy is divided by the weight of the labelled pixels of all of them.
    """

    weights: Tensor

    def __init__(self, weights: Tensor, dice_weight: float, smoothing: float = 0.05) -> None:
        super().__init__()
        self.register_buffer("weights", weights.clone(), persistent=False)
        self.dice_weight = dice_weight
        self.smoothing = smoothing

    @classmethod
    def of(cls, config: StageConfig, weights: Tensor) -> SegmentationLoss:
        """The loss that a stage's settings ask for; `weights` are the classes', for those that want any."""
        weights = weights if config.class_weights else torch.ones_like(weights)
        return cls(weights, config.dice_weight, config.label_smoothing)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits `(N, classes, H, W)` and labels `(N, H, W)` of one size; 0 where no pixel is labelled."""
        total = F.cross_entropy(
            logits, labels, self.weights, ignore_index=IGNORE_INDEX, label_smoothing=self.smoothing, reduction="sum"
        )
        weight = torch.cat([self.weights, self.weights.new_zeros(IGNORE_INDEX + 1 - len(self.weights))])[labels].sum()
        processes = 1
        if distributed.is_available() and distributed.is_initialized():
            # The mean over processes that DDP takes of the gradients then is the gradient of the joint loss.
            distributed.all_reduce(weight)
            processes = distributed.get_world_size()
        return processes * total / weight.clamp(min=1e-6)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = self.cross_entropy(logits, labels)
        if self.dice_weight:
            dice = dice_loss(logits, labels, average="macro", ignore_index=IGNORE_INDEX)
            loss = loss + self.dice_weight * dice
        return loss
