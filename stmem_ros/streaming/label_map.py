"""From low-resolution logits to labels at an image's size."""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.network.segmenter import upsample

Labels = NDArray[np.uint8]
# Where a larger share of the cells is mixed, all pixels at once cost less.
MOST_MIXED = 0.25


def label_map(logits: Tensor, size: tuple[int, int], with_confidence: bool) -> tuple[Labels, Labels | None]:
    """Low-resolution logits `(1, classes, h, w)` to labels and, where asked for, confidence: `(H, W)` uint8.

    The labels are the argmax of the bilinearly upsampled logits; confidence is the softmax probability there,
    0..255, and comes from the same pass over all pixels. One download where the logits are on a GPU.
    """
    if logits.device.type != "cpu":
        downloaded = torch.stack(on_device(logits, size, with_confidence)).cpu().numpy()
        return downloaded[0], downloaded[1] if with_confidence else None
    planes = logits[0].float().contiguous().numpy()
    if not with_confidence:
        mixed = mixed_cells(planes, size)
        if mixed is not None:
            return mixed, None
    # OpenCV, since its interpolation is many times PyTorch's on a CPU.
    full = np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in planes])
    labels, best = argmax(full)
    return labels, probability(full, best) if with_confidence else None


def on_device(logits: Tensor, size: tuple[int, int], with_confidence: bool) -> list[Tensor]:
    """`label_map` by its definition, where the logits are: the labels, and the confidence where asked for."""
    full = upsample(logits.float(), size)[0]
    best, labels = full.max(0)
    if not with_confidence:
        return [labels.to(torch.uint8)]
    confidence = (torch.exp(best - torch.logsumexp(full, 0)) * 255).round_()
    return [labels.to(torch.uint8), confidence.to(torch.uint8)]


def argmax(full: NDArray[np.float32]) -> tuple[Labels, NDArray[np.float32]]:
    """Index and value of the largest of `(classes, ...)`; two passes, each vectorised, unlike an argmax."""
    best = torch.from_numpy(full).amax(0).numpy()
    labels = np.zeros(best.shape, np.uint8)
    for index in range(len(full) - 1, -1, -1):
        np.putmask(labels, full[index] == best, index)
    return labels, best


def probability(full: NDArray[np.float32], best: NDArray[np.float32]) -> Labels:
    """The softmax at the largest of `(classes, H, W)`, 0..255: 1 / sum exp(z - best)."""
    total = np.zeros_like(best)
    for plane in full:
        total += cv2.exp(cv2.subtract(plane, best))
    return np.rint(255 / total).astype(np.uint8)


def mixed_cells(planes: NDArray[np.float32], size: tuple[int, int]) -> Labels | None:
    """The labels, interpolated only where they must be; None where that is nearly everywhere.

    A pixel's logits are a convex combination of those at its cell's four corners: where the corners agree on the
    argmax, so does every pixel between them. The other cells are interpolated as patches.
    """
    rows, columns = axis(planes.shape[1], size[0]), axis(planes.shape[2], size[1])
    corner = argmax(planes)[0]
    below, right = corner[rows.next], corner[:, columns.next]
    mixed = (corner != below) | (corner != right) | (corner != below[:, columns.next])
    mixed &= (rows.count > 0)[:, None] & (columns.count > 0)
    y, x = mixed.nonzero()
    if len(y) > MOST_MIXED * mixed.size:
        return None
    labels = corner.repeat(rows.count, 0).repeat(columns.count, 1)
    if len(y):
        pixels = (rows.pixels[y][:, :, None], columns.pixels[x][:, None, :])
        labels[pixels] = argmax(patches(planes, y, x, rows, columns))[0]
    return labels


@dataclasses.dataclass(frozen=True)
class Axis:
    """How the pixels along one side lie between the n logits along it; cell i is between logit i and the next.

    `next` `(n,)` is a cell's other end, `count` `(n,)` how many pixels it has, `pixels` and `weight` `(n, most)`
    each pixel's place and its share of the other end; a cell with fewer than the most repeats its last.
    """

    next: NDArray[np.int64]
    count: NDArray[np.int64]
    pixels: NDArray[np.int64]
    weight: NDArray[np.float32]


@functools.lru_cache(maxsize=16)
def axis(logits: int, pixels: int) -> Axis:
    """As bilinear upsampling places them: pixel p is at (p + 1/2) n / pixels - 1/2, not before the first logit."""
    place = ((np.arange(pixels) + 0.5) * logits / pixels - 0.5).clip(min=0)
    cell = place.astype(np.int64).clip(max=logits - 1)
    count = np.bincount(cell, minlength=logits)
    offset = np.minimum(np.arange(count.max()), (count - 1).clip(min=0)[:, None])
    own = ((count.cumsum() - count)[:, None] + offset).clip(max=pixels - 1)
    return Axis(np.arange(1, logits + 1).clip(max=logits - 1), count, own, (place - cell)[own].astype(np.float32))


def patches(
    planes: NDArray[np.float32], y: NDArray[np.int64], x: NDArray[np.int64], rows: Axis, columns: Axis
) -> NDArray[np.float32]:
    """The interpolated logits `(classes, K, h', w')` of the K cells `(y, x)` of logits `(classes, h, w)`."""
    down, across = (torch.from_numpy(weight) for weight in (rows.weight[y][:, :, None], columns.weight[x][:, None, :]))
    flat = planes.reshape(len(planes), -1)

    def corner(y: NDArray[np.int64], x: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(flat.take(y * planes.shape[2] + x, 1)[:, :, None, None])

    top = torch.lerp(corner(y, x), corner(y, columns.next[x]), across)
    bottom = torch.lerp(corner(rows.next[y], x), corner(rows.next[y], columns.next[x]), across)
    return torch.lerp(top, bottom, down).numpy()
