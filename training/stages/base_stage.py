"""Stage 1 (paper, section 3.4): the base network and its classifier learn to segment single images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from stmem_ros.network import VideoSegmenter
from stmem_ros.network.segmenter import Classifier, upsample
from stmem_ros.preprocess import resize
from training.data.augment import AugmentConfig, Image, paste_classes, random_crop, resize_labelled
from training.data.dataset import DatasetSpec, LabelledFrame, read_frame
from training.measure.metrics import Accuracy, confusion_matrix, labels_of
from training.ranges import ABOVE_ZERO, NOT_NEGATIVE, check
from training.stages.losses import SegmentationLoss
from training.stages.optimizer import Group, configure
from training.stages.stage_config import StageConfig


@dataclasses.dataclass(frozen=True)
class BaseStageConfig(StageConfig):
    """Settings of stage 1.

    Args:
        head_rate: highest learning rate of what is new
        backbone_rate: that of the backbone, which comes from ImageNet; 0 leaves its weights as they are
        auxiliary_weight: of the auxiliary head's cross-entropy
    """

    head_rate: float = 1.5e-3
    backbone_rate: float = 4e-4
    auxiliary_weight: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, head_rate=ABOVE_ZERO, backbone_rate=NOT_NEGATIVE, auxiliary_weight=NOT_NEGATIVE)


class CropDataset(Dataset):
    """Augmented crops `(3, h, w)` uint8 with labels `(h, w)`; crop i of epoch e is the same in every run."""

    def __init__(
        self,
        frames: list[LabelledFrame],
        spec: DatasetSpec,
        short_side: int,
        augment: AugmentConfig,
        seed: int,
        epoch: Callable[[], int],
    ) -> None:
        self.frames, self.spec, self.short_side, self.augment = frames, spec, short_side, augment
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self.seed, self.epoch(), index))
        crop = self._crop(index, random)
        if random.random() < self.augment.mix:
            crop = paste_classes(crop, self._crop(int(random.integers(len(self.frames))), random), random)
        image, labels = crop
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(labels).long()

    def _crop(self, index: int, random: np.random.Generator) -> tuple[Image, Image]:
        frame = resize_labelled(*read_frame(self.frames[index], self.spec), self.short_side)
        return random_crop(*frame, self.augment, random)


class WholeImageDataset(Dataset):
    """Whole images `(3, h, w)` uint8 as the network sees them, with labels `(H, W)` in their full size."""

    def __init__(self, frames: list[LabelledFrame], spec: DatasetSpec, short_side: int) -> None:
        self.frames, self.spec, self.short_side = frames, spec, short_side

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = read_frame(self.frames[index], self.spec)
        return torch.from_numpy(resize(image, self.short_side)).permute(2, 0, 1), torch.from_numpy(labels).long()


def class_weights(pixels: NDArray[np.int64]) -> Tensor:
    """`(classes,)`: sqrt(median frequency / frequency), between 0.5 and 3: rare classes count more, not all."""
    frequency = pixels.sum(0) / max(pixels.sum(), 1)
    weights = np.sqrt(np.median(frequency) / np.maximum(frequency, 1e-9))
    return torch.tensor(np.clip(weights, 0.5, 3.0), dtype=torch.float32)


class BaseStage(L.LightningModule):
    """Trains `model.base` and `model.classifier` with cross-entropy, soft Dice, and an auxiliary head.

    `weights` are the classes' in the cross-entropy, where `config` wants any.
    """

    def __init__(self, model: VideoSegmenter, config: BaseStageConfig, weights: Tensor) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.auxiliary = nn.Sequential(
            nn.Conv2d(model.base.deep_channels, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            Classifier(64, len(weights)),
        )
        self.loss = SegmentationLoss.of(config, weights)
        self.register_buffer("mean", torch.tensor(model.base.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.base.std).view(3, 1, 1), persistent=False)
        self.confusion = confusion_matrix(len(weights))

    def normalized(self, images: Tensor) -> Tensor:
        return ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        features, deep = self.model.base.forward_with_deep(self.normalized(images))
        # Upsampling and softmax over few channels are much faster with each channel in one piece.
        logits = upsample(self.model.classifier(features).contiguous(), (labels.shape[-2], labels.shape[-1]))
        auxiliary = self.auxiliary(deep).contiguous()
        coarse = F.interpolate(labels[:, None].float(), auxiliary.shape[-2:], mode="nearest-exact")[:, 0].long()
        loss = self.loss(logits, labels) + self.config.auxiliary_weight * self.loss.cross_entropy(auxiliary, coarse)
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        logits = self.model.classifier(self.model.features(self.normalized(images))).contiguous()
        self.confusion.update(labels_of(upsample(logits, (labels.shape[-2], labels.shape[-1]))), labels)

    def on_validation_epoch_end(self) -> None:
        accuracy = Accuracy.of(self.confusion.compute())
        self.confusion.reset()
        self.log("val_miou", accuracy.miou, prog_bar=True)
        self.log("val_pixel_accuracy", accuracy.pixel_accuracy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        backbone = {id(parameter) for parameter in self.model.base.backbone.parameters()}
        groups = []
        for rate, pretrained in ((self.config.backbone_rate, True), (self.config.head_rate, False)):
            ours = [p for p in self.parameters() if (id(p) in backbone) == pretrained and p.requires_grad]
            groups.append(Group([p for p in ours if p.ndim > 1], rate, matrices=True))
            groups.append(Group([p for p in ours if p.ndim <= 1], rate, matrices=False))
        return configure(groups, self.config, int(self.trainer.estimated_stepping_batches))
