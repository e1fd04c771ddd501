"""Which label image belongs to which camera image, by their stamps."""

from __future__ import annotations

import bisect
import sys
from collections.abc import Sequence

from training.data.label_images import DatasetError


def pair(images: Sequence[int], labels: Sequence[int], tolerance: int) -> dict[int, int]:
    """Which image (its index) has which label image: the nearest by stamp, at most `tolerance` apart, each once."""
    order = sorted(range(len(images)), key=lambda index: images[index])
    stamps = [images[index] for index in order]
    pairs: dict[int, int] = {}
    for label, stamp in enumerate(labels):
        place = bisect.bisect_left(stamps, stamp)
        near = [order[each] for each in (place - 1, place) if 0 <= each < len(order)]
        image = min(near, key=lambda index: abs(images[index] - stamp))
        distance = abs(images[image] - stamp)
        if distance <= tolerance and (image not in pairs or distance < abs(images[image] - labels[pairs[image]])):
            pairs[image] = label
    return pairs


def require_pairs(
    images: Sequence[int], labels: Sequence[int], tolerance: float, none: str, beside: str
) -> dict[int, int]:
    """`pair` of stamps in nanoseconds, neither empty, at most `tolerance` seconds apart.

    Raises DatasetError where there is no pair; it reads "`none` within 0.001 s of `beside`; the nearest is ...".
    """
    pairs = pair(images, labels, round(tolerance * 1e9))
    if not pairs:
        nearest = pair(images, labels, sys.maxsize).items()
        seconds = min(abs(images[image] - labels[label]) for image, label in nearest) / 1e9
        raise DatasetError(
            f"{none} within {tolerance:g} s of {beside}; the nearest is {seconds:.6f} s away: compare their stamps, "
            "or raise --tolerance"
        )
    return pairs
