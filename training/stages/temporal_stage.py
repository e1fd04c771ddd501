"""Stages 2 and 3 (paper, section 3.4): STF, or MAR, and a new classifier learn over a network that stays as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from stmem_ros.network import VideoSegmenter
from stmem_ros.network.segmenter import upsample
from stmem_ros.network.stf import frame_of
from stmem_ros.preprocess import resize
from training.data.augment import AugmentConfig
from training.data.clip_dataset import Clip
from training.data.clips import Windows
from training.data.dataset import DatasetSpec, LabelledFrame, read_frame
from training.measure.metrics import Accuracy, confusion_matrix, labels_of
from training.ranges import ABOVE_ZERO, NOT_NEGATIVE, check
from training.stages.feature_cache import FeatureCache
from training.stages.losses import SegmentationLoss
from training.stages.optimizer import Group, configure
from training.stages.stage_config import StageConfig


@dataclasses.dataclass(frozen=True)
class TemporalStageConfig(StageConfig):
    """Settings of stage 2 (`stf`) or 3 (`mar`).

    Args:
        rate: highest learning rate
        memory_rate: that of MAR's keys and values; 0 leaves them as they are
        augment: random crops of this stage; those of the run where there are none
        feature_noise: `jitter` on each frame's features, in their standard deviations: what is learnt on images
            that the fixed part knows by heart must still hold where it wavers
        cache_gb: disk for features of the frozen part, in GB; 0 computes them anew
    """

    epochs: int = 24
    validate_every: int = 4
    rate: float = 1e-3
    memory_rate: float = 1e-3
    augment: AugmentConfig | None = None
    feature_noise: float = 0.0
    cache_gb: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, rate=ABOVE_ZERO, memory_rate=NOT_NEGATIVE, feature_noise=NOT_NEGATIVE, cache_gb=NOT_NEGATIVE)


class WindowDataset(Dataset):
    """Each frame's centred window as a clip: images `(T, 3, h, w)` as the network sees them, labels in full size."""

    def __init__(
        self,
        frames: list[LabelledFrame],
        spec: DatasetSpec,
        windows: Windows,
        length: int,
        short_side: int,
        cached: Callable[[str], Tensor | None],
    ) -> None:
        self.frames, self.spec, self.windows, self.length = frames, spec, windows, length
        self.short_side, self.cached = short_side, cached

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Clip:
        frame = self.frames[index]
        image, labels = read_frame(frame, self.spec)
        query, name = self.length // 2, f"whole-{index}"
        features = self.cached(name)
        if features is not None:
            return Clip(None, features, torch.from_numpy(labels).long(), query, name)
        images = [self.spec.read_image(path) for path in self.windows.around(frame, self.length, query)]
        images = [other if other.shape == image.shape else image for other in images]
        images = [resize(other, self.short_side) for other in images]
        clip = torch.stack([torch.from_numpy(other).permute(2, 0, 1) for other in images])
        return Clip(clip, None, torch.from_numpy(labels).long(), query, name)


def jitter(features: Tensor, strength: float) -> Tensor:
    """Features `(..., C, h, w)` plus noise that is smooth over about four cells and new in every frame.

    Per channel, its standard deviation is that of the batch's features times `strength` times a number from 0 to 2
    drawn for each frame. Neighbouring cells err together, so only other frames (or the memory) can tell.
    """
    frames = features.flatten(0, -4)
    coarse = torch.randn(*frames.shape[:2], *(-(-side // 4) for side in frames.shape[-2:]), device=frames.device)
    # Interpolation takes about a third of the noise's deviation away.
    noise = 1.5 * F.interpolate(coarse, frames.shape[-2:], mode="bilinear", align_corners=False)
    amount = 2 * strength * torch.rand(len(frames), 1, 1, 1, device=frames.device)
    deviation = frames.std((0, 2, 3), keepdim=True)
    return (frames + amount * deviation * noise).view_as(features)


class TemporalStage(L.LightningModule):
    """Trains `model.stf`, or `model.mar`, with `model.classifier`. Everything before it is fixed, in evaluation mode.

    What comes before is the base network, and in stage 3 the STF where there is one; its output for a clip is
    computed once and kept in `cache`.
    """

    def __init__(
        self,
        model: VideoSegmenter,
        part: Literal["stf", "mar"],
        config: TemporalStageConfig,
        weights: Tensor,
        cache: FeatureCache,
    ) -> None:
        super().__init__()
        self.model, self.part, self.config, self.cache = model, part, config, cache
        self.loss = SegmentationLoss.of(config, weights)
        self.register_buffer("mean", torch.tensor(model.base.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.base.std).view(3, 1, 1), persistent=False)
        self.confusion = confusion_matrix(len(weights))
        for module in self.frozen:
            module.requires_grad_(False)
        self.train()

    @property
    def frozen(self) -> list[nn.Module]:
        """What this stage leaves as it is."""
        model = self.model
        return [model.base] if self.part == "stf" or model.stf is None else [model.base, model.stf]

    def train(self, mode: bool = True) -> TemporalStage:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @torch.no_grad()
    def _fixed(self, clips: list[Clip]) -> Tensor:
        """What the fixed part says of each clip: the window's features for `stf`, the query's for `mar`."""
        new = [clip for clip in clips if clip.features is None]
        computed = iter(self._compute(new) if new else ())
        fixed = []
        for clip in clips:
            features = clip.features
            if features is None:
                features = next(computed)
                if clip.name is not None:
                    self.cache.put(clip.name, features)
                    features = self.cache.rounded(features)
            fixed.append(features.to(self.device))
        return torch.stack(fixed)

    def _compute(self, clips: list[Clip]) -> Tensor:
        """As `_fixed`, of clips that come with images."""
        alone = self.part == "mar" and self.model.stf is None
        images = torch.stack([clip.images for clip in clips if clip.images is not None]).to(self.device)
        queries = torch.tensor([clip.query for clip in clips], device=self.device)
        images = frame_of(images, queries)[:, None] if alone else images
        frames = images.flatten(0, 1)
        # Windows that repeat a frame need its features once.
        new = torch.ones(len(frames), dtype=torch.bool, device=self.device)
        new[1:] = (frames[1:] != frames[:-1]).flatten(1).any(1)
        places = new.cumsum(0) - 1
        normalized = ((frames[new].float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        windows = self.model.features(normalized)[places].unflatten(0, images.shape[:2])
        if self.part == "stf":
            return windows
        return windows[:, 0] if self.model.stf is None else self.model.stf(windows, queries)

    def logits(self, clips: list[Clip]) -> Tensor:
        """Low-resolution logits of each clip's query; clips of a batch are of one size."""
        fixed = self._fixed(clips)
        if self.training and self.config.feature_noise:
            fixed = jitter(fixed, self.config.feature_noise)
        if self.part == "stf":
            assert self.model.stf is not None
            fixed = self.model.stf(fixed, torch.tensor([clip.query for clip in clips], device=self.device))
        else:
            assert self.model.mar is not None
            fixed = self.model.mar(fixed)
        return self.model.classifier(fixed).contiguous()

    def training_step(self, clips: list[Clip], _: int) -> Tensor:
        labels = torch.stack([clip.labels for clip in clips]).to(self.device)
        logits = upsample(self.logits(clips), (labels.shape[-2], labels.shape[-1]))
        loss = self.loss(logits, labels)
        self.log("loss", loss, prog_bar=True, batch_size=len(clips), sync_dist=True)
        return loss

    def validation_step(self, clips: list[Clip], _: int) -> None:
        for clip in clips:
            labels = clip.labels[None].to(self.device)
            self.confusion.update(labels_of(upsample(self.logits([clip]), tuple(labels.shape[-2:]))), labels)

    def on_validation_epoch_end(self) -> None:
        accuracy = Accuracy.of(self.confusion.compute())
        self.confusion.reset()
        self.log("val_miou", accuracy.miou, prog_bar=True)
        self.log("val_pixel_accuracy", accuracy.pixel_accuracy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config = self.config
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        memory = [trained.pop(name) for name in ("mar.keys", "mar.values") if name in trained]
        groups = [
            # Positions have more than four dimensions; they are no matrices, nor is the memory.
            Group([p for p in trained.values() if p.ndim in (2, 4)], config.rate, matrices=True),
            Group([p for p in trained.values() if p.ndim not in (2, 4)], config.rate, matrices=False),
            Group(memory, config.memory_rate, matrices=False),
        ]
        return configure(groups, config, int(self.trainer.estimated_stepping_batches))
