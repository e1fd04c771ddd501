"""What all stages of training can be told."""

from __future__ import annotations

import dataclasses
from typing import Literal

from training.ranges import BELOW_ONE, COUNT, COUNT_OR_NONE, NOT_NEGATIVE, Range, check

# Each is a process with PyTorch in it.
WORKERS = Range(0, 256, whole=True)


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """Settings that every stage of training has.

    Args:
        epochs: times that every frame is shown
        batch_size: frames a step, over all processes
        weight_decay: of the optimiser
        decay: what weight decay is for: weight matrices alone, or norms, biases and positions too
        optimizer: AdamW, or SGD with momentum
        momentum: of SGD
        schedule: learning rates rise and fall once (cycle), stay as they are (constant), or fall as a power of the
            steps that are left (poly)
        power: of poly
        last_rate: at which poly ends
        warmup_steps: over which a constant or poly schedule's rates rise from 0
        ema_decay: of the average of the weights that is kept; 0 keeps the weights as they are
        gradient_clip: largest norm of the gradient; 0 leaves it as it is
        class_weights: rare classes count more in the cross-entropy
        label_smoothing: share of the cross-entropy's target that all classes have in common
        dice_weight: of the soft Dice loss beside the cross-entropy
        validate_every: epochs from one validation to the next
        workers: processes that load data
    """

    epochs: int = 30
    batch_size: int = 8
    weight_decay: float = 0.01
    decay: Literal["matrices", "all"] = "matrices"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    schedule: Literal["cycle", "constant", "poly"] = "cycle"
    power: float = 0.9
    last_rate: float = 0.0
    warmup_steps: int = 0
    ema_decay: float = 0.985
    gradient_clip: float = 1.0
    class_weights: bool = True
    label_smoothing: float = 0.05
    dice_weight: float = 0.5
    validate_every: int = 3
    workers: int = 1

    def __post_init__(self) -> None:
        check(
            self,
            epochs=COUNT,
            batch_size=COUNT,
            weight_decay=NOT_NEGATIVE,
            momentum=BELOW_ONE,
            power=NOT_NEGATIVE,
            last_rate=NOT_NEGATIVE,
            warmup_steps=COUNT_OR_NONE,
            ema_decay=BELOW_ONE,
            gradient_clip=NOT_NEGATIVE,
            label_smoothing=BELOW_ONE,
            dice_weight=NOT_NEGATIVE,
            validate_every=COUNT,
            workers=WORKERS,
        )
