"""Frames of several cameras in one pass through the network that their streams share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stmem_ros.streaming.label_map import label_map
from stmem_ros.streaming.window import StreamFrame

if TYPE_CHECKING:
    from stmem_ros.streaming.segmenter import StreamingSegmenter


class NetworkError(Exception):
    """Logits that are no numbers: one line for a person."""


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The labels of one frame, with that frame's own image, stamp and frame_id.

    `labels` `(H, W)` uint8 are class ids at the image's size. `confidence` `(H, W)` uint8 is the
    softmax probability of the label, 0..255 for 0..1; None where it was not asked for.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None
    image: NDArray[np.uint8]
    stamp_ns: int
    frame_id: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A frame on its way into a window, and the network's image of it, `(1, 3, h, w)`."""

    frame: StreamFrame
    pixels: Tensor


class Step(NamedTuple):
    """A stream's next frame, and what is wanted of the frame that is due: without labels, it is only remembered."""

    stream: StreamingSegmenter
    prepared: Prepared
    confidence: bool = True
    labels: bool = True


def batches(steps: Sequence[Step], most: int = 0) -> list[list[Step]]:
    """Steps that can go together, in the order given: of one size, `most` of them at once (0: any number)."""
    found: list[list[Step]] = []
    for step in steps:
        limit = min((count for count in (most, step.stream.most_together) if count), default=len(steps))
        for group in found:
            if len(group) < limit and group[0].prepared.pixels.shape == step.prepared.pixels.shape:
                group.append(step)
                break
        else:
            found.append([step])
    return found


@torch.inference_mode()
def step_together(steps: Sequence[Step]) -> list[Segmentation | None]:
    """What `step` of each stream returns, from as few passes through the network as their sizes allow.

    None too where labels are not wanted: the window moves on, and nothing else is computed.

    The streams are siblings (`StreamingSegmenter.sibling`), each at most once. Where it raises, no window is changed
    but by the frames of the passes before.
    """
    results: dict[int, Segmentation | None] = {}
    for group in batches(steps):
        for step, result in zip(group, _step_batch(group), strict=True):
            results[id(step.stream)] = result
    return [results[id(step.stream)] for step in steps]


def _step_batch(group: Sequence[Step]) -> list[Segmentation | None]:
    network = group[0].stream.network
    features = split(network.frame(_joined([step.prepared.pixels for step in group])), len(group))
    states = [
        step.stream.state.after(step.prepared.frame, own, step.stream.length)
        for step, own in zip(group, features, strict=True)
    ]
    results: list[Segmentation | None] = [None] * len(group)
    due = {
        index: states[index].waiting.pop(0)
        for index, step in enumerate(group)
        if len(states[index].waiting) > step.stream.delay
    }
    wanted = [index for index in due if group[index].labels]
    if wanted:
        windows = [states[index].features for index in wanted]
        logits = network.predict([join(frames) for frames in zip(*windows, strict=True)], group[0].stream.query)
        for place, index in enumerate(wanted):
            results[index] = finish(due[index], logits[place : place + 1], group[index].confidence)
    # Windows move on when nothing can fail any more.
    for step, state in zip(group, states, strict=True):
        step.stream.state = state
    return results


def finish(frame: StreamFrame, logits: Tensor, confidence: bool) -> Segmentation:
    """A frame's logits `(1, classes, h, w)` as labels at its size. Raises NetworkError for NaN or infinity."""
    finite = torch.isfinite(logits).all()
    labels, probability = label_map(logits, (frame.image.shape[0], frame.image.shape[1]), confidence)
    # Only now: on a GPU the labels have been waited for, and this needs no wait of its own.
    if not finite:
        raise NetworkError(
            f"the network gave NaN or infinity for the frame with stamp {frame.stamp_ns * 1e-9:.3f} s: its weights are "
            "damaged, or the numbers are too large for float16 (precision:=float32)"
        )
    return Segmentation(labels, probability, frame.image, frame.stamp_ns, frame.frame_id)


def split(features: Any, count: int) -> list[Any]:
    """What the network says of `count` images, image by image. One image's may be of any kind.

    Copies: a view would keep the features of all cameras as long as one of them is in a window.
    """
    if count == 1:
        return [features]
    return [features.of([tensor[index : index + 1].clone() for tensor in features.tensors()]) for index in range(count)]


def join(features: Sequence[Any]) -> Any:
    """The other way round."""
    if len(features) == 1:
        return features[0]
    parts = [one.tensors() for one in features]
    return features[0].of([torch.cat(tensors) for tensors in zip(*parts, strict=True)])


def _joined(images: Sequence[Tensor]) -> Tensor:
    return images[0] if len(images) == 1 else torch.cat(list(images))
