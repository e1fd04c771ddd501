"""What a stage's settings make of its parameters and of their learning rates, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stmem_ros.labels import IGNORE_INDEX
from training.stages.base_stage import BaseStageConfig
from training.stages.losses import SegmentationLoss
from training.stages.optimizer import Group, configure
from training.stages.stage_config import StageConfig
from training.stages.temporal_stage import TemporalStageConfig


def groups() -> list[Group]:
    layer = nn.Linear(2, 3)
    return [Group([layer.weight], 0.01, True), Group([layer.bias], 0.002, False), Group([], 0.5, True)]


def rates(config: StageConfig, steps: int) -> list[list[float]]:
    """The learning rate of each step, a list a group."""
    made = configure(groups(), config, steps)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    seen: list[list[float]] = [[] for _ in optimizer.param_groups]
    for _ in range(steps):
        for group, its in zip(optimizer.param_groups, seen, strict=True):
            its.append(group["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_constant_rates_stay() -> None:
    assert rates(StageConfig(schedule="constant"), 5) == [[0.01] * 5, [0.002] * 5]


def test_poly_rates_fall_as_mmsegmentations_do_from_each_groups_own() -> None:
    first, second = rates(StageConfig(schedule="poly", power=0.9, last_rate=1e-4), 8)
    for seen, rate in ((first, 0.01), (second, 0.002)):
        assert seen == pytest.approx([1e-4 + (rate - 1e-4) * (1 - step / 8) ** 0.9 for step in range(8)])


@pytest.mark.parametrize("schedule", ["constant", "poly"])
def test_a_warm_up_rises_to_the_schedule(schedule: str) -> None:
    warm = rates(StageConfig(schedule=schedule, power=1.0, warmup_steps=4), 10)[0]  # type: ignore[arg-type]
    cold = rates(StageConfig(schedule=schedule, power=1.0), 10)[0]  # type: ignore[arg-type]
    assert [one / other for one, other in zip(warm, cold, strict=True)] == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)


def test_a_cycle_rises_to_each_groups_rate_and_falls_to_nothing() -> None:
    first, second = rates(StageConfig(), 40)
    assert max(first) == pytest.approx(0.01, rel=0.01) and max(second) == pytest.approx(0.002, rel=0.01)
    assert first.index(max(first)) < 6 and first[0] < 0.001 and first[-1] < 1e-4


@pytest.mark.parametrize("schedule", ["cycle", "constant", "poly"])
def test_a_stage_may_have_any_number_of_steps(schedule: str) -> None:
    for steps in range(1, 25):
        assert all(0 < rate <= 0.01 for rate in rates(StageConfig(schedule=schedule), steps)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(("decay", "expected"), [("matrices", [0.3, 0.0]), ("all", [0.3, 0.3])])
@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_weight_decay_is_for_matrices_or_for_all(decay: str, expected: list[float], name: str, kind: type) -> None:
    config = StageConfig(optimizer=name, momentum=0.8, weight_decay=0.3, decay=decay)  # type: ignore[arg-type]
    optimizer = configure(groups(), config, 10)["optimizer"]
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == expected
    if name == "sgd":
        assert optimizer.defaults["momentum"] == 0.8


def test_the_authors_loss_is_plain_cross_entropy() -> None:
    config = StageConfig(class_weights=False, label_smoothing=0.0, dice_weight=0.0)
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = IGNORE_INDEX
    weights = torch.tensor([0.5, 3.0, 1.0])
    plain = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(SegmentationLoss.of(config, weights)(logits, labels), plain)
    assert not torch.isclose(SegmentationLoss.of(StageConfig(), weights)(logits, labels), plain)


@pytest.mark.parametrize("kind", [BaseStageConfig, TemporalStageConfig])
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("momentum", 1.0, "momentum is 1.0; it must be at least 0 and below 1"),
        ("ema_decay", -0.1, "ema_decay is -0.1"),
        ("label_smoothing", 2, "label_smoothing is 2"),
        ("gradient_clip", -1, "gradient_clip is -1; it must not be negative"),
        ("warmup_steps", -1, "warmup_steps is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: type, field: str, value: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        kind(**{field: value})
