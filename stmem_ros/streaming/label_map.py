"""From low-resolution logits to labels at an image's size."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.network.segmenter import upsample

Labels = NDArray[np.uint8]
# Where a larger share of the cells is mixed, all pixels at once cost less.
MOST_MIXED = 0.25
# How many logits at an image's size may be in memory, since whoever sends an image chooses its size. More come in
# parts of an eighth of this.
MOST_ON_CPU = 2**25
MOST_ON_GPU = 2**26


def label_map(logits: Tensor, size: tuple[int, int], with_confidence: bool) -> tuple[Labels, Labels | None]:
    """Low-resolution logits `(1, classes, h, w)` to labels and, where asked for, confidence: `(H, W)` uint8.

    The labels are the argmax of the bilinearly upsampled logits; confidence is the softmax probability there,
    0..255, and comes from the same pass over all pixels. One download where the logits are on a GPU.
    """
    if logits.device.type != "cpu":
        downloaded = on_device(logits, size, with_confidence).cpu().numpy()
        return downloaded[0], downloaded[1] if with_confidence else None
    planes = logits[0].float().contiguous()
    if not with_confidence:
        mixed = mixed_cells(planes.numpy(), size)
        if mixed is not None:
            return mixed, None
    return everywhere(planes, size, with_confidence)


def on_device(logits: Tensor, size: tuple[int, int], with_confidence: bool) -> Tensor:
    """`label_map` where the logits are: uint8, labels `(1, H, W)`, or `(2, H, W)` with the confidence after them."""
    result = torch.empty(1 + with_confidence, *size, dtype=torch.uint8, device=logits.device)
    for rows, full in interpolated(logits[0].float(), size, MOST_ON_GPU, upsampled):
        best, labels = full.max(0)
        result[0, rows] = labels
        if with_confidence:
            result[1, rows] = (torch.exp(best - torch.logsumexp(full, 0)) * 255).round_()
    return result


def everywhere(planes: Tensor, size: tuple[int, int], with_confidence: bool) -> tuple[Labels, Labels | None]:
    """`label_map` of logits `(classes, h, w)`, float32 on the CPU, by way of each pixel's."""
    labels = np.empty(size, np.uint8)
    confidence = np.empty(size, np.uint8) if with_confidence else None
    for rows, full in interpolated(planes, size, MOST_ON_CPU, resized):
        labels[rows], best = argmax(full.numpy())
        if confidence is not None:
            confidence[rows] = probability(full.numpy(), best)
    return labels, confidence


def interpolated(
    planes: Tensor, size: tuple[int, int], most: int, resize: Callable[[Tensor, tuple[int, int]], Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Logits `(classes, h, w)` at an image's size: which rows, and theirs, `(classes, rows, W)`.

    All rows, by `resize`, if that is at most `most` numbers; else parts, each of as many rows, which may overlap, and
    each written over the one before. They are what `resize` makes of all rows, if it goes across first, then down.
    """
    row = len(planes) * size[1]
    if row * size[0] <= most:
        yield slice(size[0]), resize(planes, size)
        return
    down = axis(planes.shape[1], size[0])
    count = max(most // 8 // row, 1)
    top, bottom = (torch.empty(len(planes), count, size[1], device=planes.device) for _ in range(2))
    for start in [*range(0, size[0] - count, count), size[0] - count]:
        rows = slice(start, start + count)
        above, below = down.cell[rows], down.next[down.cell[rows]]
        first, end = int(above[0]), int(below[-1]) + 1
        wide = resize(planes[:, first:end], (end - first, size[1]))
        for one, cells in ((top, above), (bottom, below)):
            torch.index_select(wide, 1, torch.from_numpy(cells - first).to(wide.device), out=one)
        share = torch.from_numpy(down.share[rows, None]).to(wide.device)
        yield rows, top.addcmul_(bottom.sub_(top), share)


def upsampled(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """`upsample` of `(classes, h, w)`."""
    return upsample(planes[None], size)[0]


def resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """`upsample` of `(classes, h, w)` by OpenCV, since its interpolation is many times PyTorch's on a CPU."""
    # NumPy's memory comes in huge pages, where there are some.
    full = np.empty((len(planes), *size), np.float32)
    for plane, own in zip(planes.numpy(), full, strict=True):
        cv2.resize(plane, size[::-1], dst=own, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(full)


def argmax(full: NDArray[np.float32]) -> tuple[Labels, NDArray[np.float32]]:
    """Index and value of the largest of `(classes, ...)`; two passes, each vectorised, unlike an argmax."""
    best = torch.from_numpy(full).amax(0).numpy()
    labels = np.zeros(best.shape, np.uint8)
    for index in range(len(full) - 1, -1, -1):
        np.putmask(labels, full[index] == best, index)
    return labels, best


def probability(full: NDArray[np.float32], best: NDArray[np.float32]) -> Labels:
    """The softmax at the largest of `(classes, H, W)`, 0..255: 1 / sum exp(z - best). Writes over `full`."""
    total = np.zeros_like(best)
    for plane in full:
        cv2.subtract(plane, best, dst=plane)
        total += cv2.exp(plane, dst=plane)
    np.divide(255, total, out=total)
    return np.rint(total, out=total).astype(np.uint8)


def mixed_cells(planes: NDArray[np.float32], size: tuple[int, int]) -> Labels | None:
    """The labels, interpolated only where they must be; None where that is nearly everywhere, or cells are huge.

    A pixel's logits are a convex combination of those at its cell's four corners: where the corners agree on the
    argmax, so does every pixel between them. The other cells are interpolated as patches.
    """
    rows, columns = axis(planes.shape[1], size[0]), axis(planes.shape[2], size[1])
    corner = argmax(planes)[0]
    below, right = corner[rows.next], corner[:, columns.next]
    mixed = (corner != below) | (corner != right) | (corner != below[:, columns.next])
    mixed &= (rows.count > 0)[:, None] & (columns.count > 0)
    y, x = mixed.nonzero()
    most = MOST_ON_CPU // 8 // (len(planes) * rows.pixels.shape[1] * columns.pixels.shape[1])
    if len(y) > MOST_MIXED * mixed.size or not most:
        return None
    labels = corner.repeat(rows.count, 0).repeat(columns.count, 1)
    for start in range(0, len(y), most):
        some = slice(start, start + most)
        pixels = (rows.pixels[y[some]][:, :, None], columns.pixels[x[some]][:, None, :])
        labels[pixels] = argmax(patches(planes, y[some], x[some], rows, columns))[0]
    return labels


@dataclasses.dataclass(frozen=True)
class Axis:
    """How the pixels along one side lie between the n logits along it; cell i is between logit i and the next.

    `next` `(n,)` is a cell's other end, `count` `(n,)` how many pixels it has, `pixels` `(n, most)` which; a cell with
    fewer than the most repeats its last. `cell` and `share` `(pixels,)`: where a pixel is, and how near the other end.
    """

    next: NDArray[np.int64]
    count: NDArray[np.int64]
    pixels: NDArray[np.int64]
    cell: NDArray[np.int64]
    share: NDArray[np.float32]


@functools.lru_cache(maxsize=16)
def axis(logits: int, pixels: int) -> Axis:
    """As bilinear upsampling places them: pixel p is at (p + 1/2) n / pixels - 1/2, not before the first logit."""
    place = ((np.arange(pixels) + 0.5) * logits / pixels - 0.5).clip(min=0)
    cell = place.astype(np.int64).clip(max=logits - 1)
    count = np.bincount(cell, minlength=logits)
    offset = np.minimum(np.arange(count.max()), (count - 1).clip(min=0)[:, None])
    own = ((count.cumsum() - count)[:, None] + offset).clip(max=pixels - 1)
    following = np.arange(1, logits + 1).clip(max=logits - 1)
    return Axis(following, count, own, cell, (place - cell).astype(np.float32))


def patches(
    planes: NDArray[np.float32], y: NDArray[np.int64], x: NDArray[np.int64], rows: Axis, columns: Axis
) -> NDArray[np.float32]:
    """The interpolated logits `(classes, K, h', w')` of the K cells `(y, x)` of logits `(classes, h, w)`."""
    down = torch.from_numpy(rows.share[rows.pixels[y]][:, :, None])
    across = torch.from_numpy(columns.share[columns.pixels[x]][:, None, :])
    flat = planes.reshape(len(planes), -1)

    def corner(y: NDArray[np.int64], x: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(flat.take(y * planes.shape[2] + x, 1)[:, :, None, None])

    top = torch.lerp(corner(y, x), corner(y, columns.next[x]), across)
    bottom = torch.lerp(corner(rows.next[y], x), corner(rows.next[y], columns.next[x]), across)
    return torch.lerp(top, bottom, down).numpy()
