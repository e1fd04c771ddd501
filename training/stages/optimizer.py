"""The optimiser and learning-rate schedule of a stage."""

from __future__ import annotations

from typing import NamedTuple

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.nn import Parameter
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from training.stages.stage_config import StageConfig


class Group(NamedTuple):
    """Parameters with their highest learning rate; `matrices` are those that weight decay is for."""

    parameters: list[Parameter]
    rate: float
    matrices: bool


def configure(groups: list[Group], config: StageConfig, steps: int) -> OptimizerLRSchedulerConfig:
    """What `configure_optimizers` returns for a stage of `steps` steps. Groups without parameters are left out."""
    groups = [group for group in groups if group.parameters]
    options = [
        {
            "params": group.parameters,
            "lr": group.rate,
            "weight_decay": config.weight_decay if group.matrices or config.decay == "all" else 0.0,
        }
        for group in groups
    ]
    optimizer = AdamW(options) if config.optimizer == "adamw" else SGD(options, momentum=config.momentum)
    rates = [group.rate for group in groups]
    schedule: LRScheduler
    if config.schedule == "cycle":
        # A tenth of the steps rises. PyTorch divides by one less than that: with ten steps, a fifth.
        schedule = OneCycleLR(optimizer, rates, steps, pct_start=0.2 if steps == 10 else 0.1)
    else:
        schedule = LambdaLR(optimizer, [lambda step, rate=rate: factor(step, steps, rate, config) for rate in rates])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def factor(step: int, steps: int, rate: float, config: StageConfig) -> float:
    """The share of `rate` that step 0 to `steps` - 1 is taken with, in a constant or poly schedule.

    poly, as in mmsegmentation: last + (rate - last) * (1 - step / steps) ** power; a linear warm-up on top.
    """
    share = 1.0
    if config.schedule == "poly" and rate:
        last = min(config.last_rate / rate, 1.0)
        share = last + (1 - last) * max(1 - step / steps, 0.0) ** config.power
    return share * min(1.0, (step + 1) / max(config.warmup_steps, 1))
