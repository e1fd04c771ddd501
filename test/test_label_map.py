"""Labels at an image's size are the argmax of the upsampled logits, however they are computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from stmem_ros.network.segmenter import upsample
from stmem_ros.streaming.label_map import label_map, mixed_cells


def scene(classes: int, grid: tuple[int, int], coarse: tuple[int, int], seed: int = 0) -> Tensor:
    """Logits `(1, classes, h, w)` that change over regions as a network's do; the finer `coarse`, the more mixed."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, classes, *coarse, generator=generator)
    return torch.nn.functional.interpolate(values, grid, mode="bicubic", align_corners=False) * 4


def definition(logits: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    full = upsample(logits, size)[0]
    return full.argmax(0).numpy(), full.softmax(0).amax(0).numpy()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    classes=some.integers(1, 20),
    grid=some.tuples(some.integers(1, 24), some.integers(1, 24)),
    size=some.tuples(some.integers(1, 120), some.integers(1, 120)),
    coarse=some.integers(1, 6),
    confidence=some.booleans(),
    seed=some.integers(0, 100),
)
def test_labels_are_the_argmax_of_upsampled_logits(
    classes: int, grid: tuple[int, int], size: tuple[int, int], coarse: int, confidence: bool, seed: int
) -> None:
    logits = scene(classes, grid, (coarse, coarse), seed)
    labels, share = label_map(logits, size, confidence)
    expected, probability = definition(logits, size)
    assert labels.shape == size and labels.dtype == np.uint8
    # Two classes that are equal to rounding may go either way.
    assert (labels != expected).sum() <= max(1, labels.size * 1e-4)
    if confidence:
        assert share is not None and share.dtype == np.uint8
        np.testing.assert_allclose(share, probability * 255, atol=1)
    else:
        assert share is None


@pytest.mark.parametrize("size", [(360, 480), (353, 471), (40, 50)])
def test_where_few_cells_are_mixed_the_others_are_not_interpolated(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = scene(11, (45, 60), (3, 4))
    labels = mixed_cells(logits[0].numpy(), size)
    assert labels is not None
    assert (labels == definition(logits, size)[0]).all()
    monkeypatch.setattr("stmem_ros.streaming.label_map.cv2.resize", None)
    assert (label_map(logits, size, with_confidence=False)[0] == labels).all()


def test_where_nearly_all_cells_are_mixed_every_pixel_is_computed_at_once() -> None:
    logits = scene(11, (45, 60), (45, 60))
    assert mixed_cells(logits[0].numpy(), (360, 480)) is None
    assert (label_map(logits, (360, 480), False)[0] == definition(logits, (360, 480))[0]).mean() >= 0.9999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_any_precision_are_taken(dtype: torch.dtype) -> None:
    logits = scene(5, (9, 12), (3, 3)).to(dtype)
    assert (label_map(logits, (72, 96), False)[0] == definition(logits.float(), (72, 96))[0]).all()
