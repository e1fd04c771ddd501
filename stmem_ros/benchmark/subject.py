"""The network that is measured: a trained one from a checkpoint, or a base of the catalog under the paper's modules."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import torch
from torch import nn

from stmem_ros.benchmark.film import picture
from stmem_ros.checkpoint import CheckpointInfo, Normalization, load_checkpoint, read_info
from stmem_ros.labels import LabelSet
from stmem_ros.network import BASES, MARConfig, SegmenterConfig, STFConfig, VideoSegmenter, build_segmenter
from stmem_ros.network.bases.timm_backbone import PREFIX
from stmem_ros.preprocess import SMALLEST_SIDE, Preprocessor

# The paper's networks are Cityscapes'.
CLASSES = 19
CALIBRATION_IMAGES, CALIBRATION_SIDE = 8, 128


class BenchmarkError(Exception):
    """Why something cannot be measured; one line."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """How to make the network, in this process or another: from a checkpoint, else `config` with random weights."""

    config: SegmenterConfig
    short_side: int
    checkpoint: str | None = None
    seed: int = 0

    @classmethod
    def paper(cls, base: str, seed: int = 0) -> Subject:
        """STF and MAR in the paper's shape over a base network. Raises BenchmarkError where no base has that name."""
        if base not in BASES and not base.startswith(PREFIX):
            near = difflib.get_close_matches(base, BASES, n=3, cutoff=0.5)
            meant = f"is it {' or '.join(near)}?" if near else f"it must be one of {', '.join(sorted(BASES))}"
            raise BenchmarkError(f"--model {base} is no base network; {meant}")
        return cls(SegmenterConfig(base, CLASSES, stf=STFConfig(), mar=MARConfig(CLASSES)), SMALLEST_SIDE, seed=seed)

    @classmethod
    def trained(cls, checkpoint: str) -> Subject:
        """Raises CheckpointError."""
        info = read_info(checkpoint)
        return cls(info.config, info.short_side, checkpoint)

    def with_window(self, frames: int) -> Subject:
        """The same shape with another number of frames in its window, and random weights. It must have STF."""
        assert self.config.stf is not None
        config = dataclasses.replace(self.config, stf=dataclasses.replace(self.config.stf, frames=frames))
        return dataclasses.replace(self, config=config, checkpoint=None)

    @property
    def name(self) -> str:
        parts = [self.config.base, *(name for name in ("stf", "mar") if getattr(self.config, name) is not None)]
        return " + ".join(part.upper() if part in ("stf", "mar") else part for part in parts)

    def make(self) -> tuple[VideoSegmenter, CheckpointInfo]:
        """The network in float32 on the CPU. Raises CheckpointError or BenchmarkError."""
        if self.checkpoint is not None:
            return load_checkpoint(self.checkpoint)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                model = build_segmenter(self.config)
            except ValueError as error:
                raise BenchmarkError(str(error)) from error
            # Logits of about 1, so that differences mean something.
            nn.init.normal_(model.classifier.linear.weight, std=model.base.channels**-0.5)
        normalization = Normalization(model.base.mean, model.base.std)
        calibrate(model, normalization, self.seed)
        names = tuple(f"class {index}" for index in range(self.config.classes))
        palette = tuple((index, index, index) for index in range(self.config.classes))
        return model.eval(), CheckpointInfo(self.config, LabelSet(names, palette), normalization, self.short_side)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Subject:
        return cls(**data | {"config": SegmenterConfig.from_dict(data["config"])})


@torch.no_grad()
def calibrate(model: VideoSegmenter, normalization: Normalization, seed: int) -> None:
    """Give the base's batch norms the statistics of random pictures, as a training would.

    Without, random features are thousandths, and all that is compared is what positions and biases add.
    """
    norms = [module for module in model.base.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.momentum = None
        norm.train()
    preprocess = Preprocessor(normalization, 0, torch.device("cpu"))
    pictures = [picture((CALIBRATION_SIDE,) * 2, seed + index) for index in range(CALIBRATION_IMAGES)]
    model.base(torch.cat([preprocess(image) for image in pictures]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
