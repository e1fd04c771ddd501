"""Labels at an image's size are the argmax of the upsampled logits, however they are computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from stmem_ros.network.segmenter import upsample
from stmem_ros.streaming import label_map as module
from stmem_ros.streaming.label_map import label_map, mixed_cells, on_device

# In 11 classes its logits are 704 MiB.
LARGE = (4096, 4096)
MOST_MEMORY = 200 * 2**20


def scene(classes: int, grid: tuple[int, int], coarse: tuple[int, int], seed: int = 0) -> Tensor:
    """Logits `(1, classes, h, w)` that change over regions as a network's do; the finer `coarse`, the more mixed."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1, classes, *coarse, generator=generator)
    return torch.nn.functional.interpolate(values, grid, mode="bicubic", align_corners=False) * 4


def definition(logits: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, their probability, and where no other class is as likely but for rounding."""
    full = upsample(logits.double(), size)[0]
    best = full.topk(min(2, len(full)), 0).values
    clear = (best[0] - best[-1] > 1e-3) | (len(full) == 1)
    return full.argmax(0).numpy(), full.softmax(0).amax(0).numpy(), clear.numpy()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    classes=some.integers(1, 20),
    grid=some.tuples(some.integers(1, 24), some.integers(1, 24)),
    size=some.tuples(some.integers(1, 120), some.integers(1, 120)),
    coarse=some.integers(1, 6),
    confidence=some.booleans(),
    seed=some.integers(0, 100),
    most=some.sampled_from([1, 2000, 2**26]),
)
def test_labels_are_the_argmax_of_upsampled_logits_also_where_these_come_in_parts(
    classes: int, grid: tuple[int, int], size: tuple[int, int], coarse: int, confidence: bool, seed: int, most: int
) -> None:
    logits = scene(classes, grid, (coarse, coarse), seed)
    expected, probability, clear = definition(logits, size)
    with mock.patch.multiple(module, MOST_ON_CPU=most, MOST_ON_GPU=most):
        labels, share = label_map(logits, size, confidence)
        on_gpu = on_device(logits, size, confidence).numpy()
    for ours in (labels, on_gpu[0]):
        assert ours.shape == size and ours.dtype == np.uint8
        np.testing.assert_array_equal(ours[clear], expected[clear])
    if confidence:
        assert share is not None and share.dtype == np.uint8
        np.testing.assert_allclose(share, probability * 255, atol=1)
        np.testing.assert_allclose(on_gpu[1], probability * 255, atol=1)
    else:
        assert share is None and len(on_gpu) == 1


@pytest.mark.parametrize("confidence", [False, True])
def test_in_parts_it_is_what_it_is_at_once(confidence: bool) -> None:
    logits = scene(11, (45, 60), (22, 30))
    whole = label_map(logits, (353, 471), confidence)
    with mock.patch.object(module, "MOST_ON_CPU", 2**17):
        parts = label_map(logits, (353, 471), confidence)
    # OpenCV's arithmetic is a platform's own, and two classes may be equal to rounding.
    for one, other in zip(whole, parts, strict=True):
        assert one is other or (one != other).mean() <= 1e-4


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


def peak() -> int:
    """The most memory that this process had since it was last asked to forget it, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("coarse", [(45, 45), (5, 5)], ids=["all cells mixed", "a fifth of them"])
@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("way", [label_map, on_device])
def test_a_large_image_takes_little_more_memory_than_its_labels(
    way: Callable[[Tensor, tuple[int, int], bool], object], coarse: tuple[int, int], confidence: bool
) -> None:
    logits = scene(11, (45, 45), coarse)
    way(logits, (90, 90), confidence)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    way(logits, LARGE, confidence)
    assert peak() - before - (1 + confidence) * LARGE[0] * LARGE[1] < MOST_MEMORY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_any_precision_are_taken(dtype: torch.dtype) -> None:
    logits = scene(5, (9, 12), (3, 3)).to(dtype)
    assert (label_map(logits, (72, 96), False)[0] == definition(logits.float(), (72, 96))[0]).all()
