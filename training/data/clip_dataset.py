"""Augmented clips for STF and MAR: real neighbours, or *pseudo-clips* made by moving one still image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stmem_ros.labels import IGNORE_INDEX
from stmem_ros.preprocess import resize
from training.data.augment import AugmentConfig, Image, crop_matrix, degraded, random_look, recolored, resize_labelled
from training.data.clips import Windows
from training.data.dataset import DatasetSpec, LabelledFrame, read_frame
from training.ranges import BELOW_ONE, COUNT_OR_NONE, SHARE, Range, check


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """How the frames beside a labelled frame come about.

    Args:
        pseudo: share of clips whose neighbours are the frame itself, moved
        still: share of clips that show the frame three times, as a stream does at its start
        causal: share of clips whose labelled frame is the newest; the others have it in the middle
        shift: largest movement from frame to frame, as a share of the crop's width
        zoom: largest change of size from frame to frame (driving towards the picture)
        turn: largest rotation from frame to frame, in degrees
        perspective: largest tilt from frame to frame: change of size across the crop
        flicker: largest relative change of brightness from frame to frame
        occlusion: chance that a neighbour is partly hidden by a patch
        degrade: chance of blur and, apart from it, of noise in each single frame
        variants: each frame gives this many different clips, over and over, so that their base features
            can be cached; 0 makes new ones for ever
    """

    pseudo: float = 0.6
    still: float = 0.1
    causal: float = 0.5
    shift: float = 0.03
    zoom: float = 0.03
    turn: float = 1.0
    perspective: float = 0.02
    flicker: float = 0.08
    occlusion: float = 0.25
    degrade: float = 0.3
    variants: int = 8

    def __post_init__(self) -> None:
        check(self, "clips.", **dict.fromkeys(("pseudo", "still", "causal", "occlusion", "degrade", "flicker"), SHARE))
        check(self, "clips.", shift=SHARE, zoom=BELOW_ONE, turn=Range(high=180), perspective=SHARE)
        check(self, "clips.", variants=COUNT_OR_NONE)
        if self.pseudo + self.still > 1:
            raise ValueError(f"clips.pseudo + clips.still is {self.pseudo + self.still}; they share 1")


class Clip(NamedTuple):
    """A window of images `(T, 3, h, w)` uint8 with the labels `(h, w)` of its frame `query`.

    `name` is the same for the same pixels in every run, None where they never come again. Where `features`
    were cached under that name there are no `images`.
    """

    images: Tensor | None
    features: Tensor | None
    labels: Tensor
    query: int
    name: str | None


class ClipDataset(Dataset):
    """One augmented clip a labelled frame; clip i of epoch e is the same in every run.

    `cached(name)` gives the features of a clip whose images then need not be made.
    """

    def __init__(
        self,
        frames: list[LabelledFrame],
        spec: DatasetSpec,
        windows: Windows,
        length: int,
        short_side: int,
        augment: AugmentConfig,
        clips: ClipConfig,
        seed: int,
        epoch: Callable[[], int],
        cached: Callable[[str], Tensor | None],
    ) -> None:
        self.frames, self.spec, self.windows, self.length = frames, spec, windows, length
        self.short_side, self.augment, self.clips = short_side, augment, clips
        self.seed, self.epoch, self.cached = seed, epoch, cached

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Clip:
        frame, variant = self.frames[index], self.epoch()
        name = None
        if self.clips.variants:
            variant %= self.clips.variants
            name = f"{index}-{variant}"
        random = np.random.default_rng((self.seed, variant, index))
        image, labels = resize_labelled(*read_frame(frame, self.spec), self.short_side)
        query = self.length - 1 if random.random() < self.clips.causal else self.length // 2
        matrix = crop_matrix(labels, self.augment, random)
        features = self.cached(name) if name else None
        images = None if features is not None else self._images(frame, image, query, matrix, random)
        return Clip(images, features, torch.from_numpy(self._crop_labels(labels, matrix)).long(), query, name)

    def _crop_labels(self, labels: Image, matrix: NDArray[np.float64]) -> Image:
        size = self.augment.crop[::-1]
        return cv2.warpAffine(labels, matrix, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE_INDEX)

    def _images(
        self,
        frame: LabelledFrame,
        image: Image,
        query: int,
        matrix: NDArray[np.float64],
        random: np.random.Generator,
    ) -> Tensor:
        kind, motion = random.random(), np.eye(3)
        images = [image] * self.length
        if kind < self.clips.pseudo:
            motion = random_motion(self.augment.crop, self.clips, random)
        elif kind >= self.clips.pseudo + self.clips.still:
            paths = self.windows.around(frame, self.length, query)
            images = [
                image if path == frame.image else resize(self.spec.read_image(path), self.short_side) for path in paths
            ]
            # Frames of another size are no neighbours.
            images = [other if other.shape == image.shape else image for other in images]
        moved = move(images, query, np.vstack([matrix, [0, 0, 1]]), motion, self.augment.crop)
        return torch.from_numpy(np.stack(self._change_look(moved, query, random))).permute(0, 3, 1, 2)

    def _change_look(self, images: list[Image], query: int, random: np.random.Generator) -> list[Image]:
        """One light for the whole clip; flicker, patches, blur and noise of each frame's own."""
        factors, tint = random_look(self.augment, random)
        looked = []
        for place, image in enumerate(images):
            if place != query and random.random() < self.clips.occlusion:
                image = occluded(image, random)
            flicker = 1 + random.uniform(-self.clips.flicker, self.clips.flicker)
            pixels = recolored(image, factors * [1, flicker, 1], tint)
            looked.append(degraded(pixels, self.clips.degrade, self.clips.degrade, random))
        return looked


def random_motion(crop: tuple[int, int], config: ClipConfig, random: np.random.Generator) -> NDArray[np.float64]:
    """`(3, 3)`: how a crop's pixels move from one frame to the next: shift, zoom, rotation, tilt."""
    height, width = crop
    to_center = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    angle = np.radians(random.uniform(-config.turn, config.turn))
    zoom = 1 + random.uniform(-config.zoom, config.zoom)
    x, y = random.uniform(-config.shift, config.shift, 2) * width
    tilt = random.uniform(-config.perspective, config.perspective, 2) / (width, height)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    # Cameras shift sideways more than up and down.
    motion = np.array([[cos, -sin, x], [sin, cos, y / 3], [*tilt, 1.0]])
    return np.linalg.inv(to_center) @ motion @ to_center


def move(
    images: Sequence[Image],
    query: int,
    to_crop: NDArray[np.float64],
    motion: NDArray[np.float64],
    crop: tuple[int, int],
) -> list[Image]:
    """Crops of a clip's images: frame k is moved by `motion` k - query times, the query not at all.

    `to_crop` `(3, 3)` maps an image's pixels to the crop's. Places outside an image are black.
    """
    moved = []
    for place, image in enumerate(images):
        step = np.linalg.matrix_power(motion if place > query else np.linalg.inv(motion), abs(place - query))
        moved.append(cv2.warpPerspective(image, step @ to_crop, (crop[1], crop[0]), flags=cv2.INTER_LINEAR))
    return moved


def occluded(image: Image, random: np.random.Generator) -> Image:
    """A copy with a patch of the image, up to a third of its height and width, pasted elsewhere."""
    height, width = image.shape[:2]
    rows, columns = (int(random.integers(size // 12, size // 3 + 1)) for size in (height, width))
    (top, left), (y, x) = (
        (int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))) for _ in range(2)
    )
    hidden = image.copy()
    hidden[y : y + rows, x : x + columns] = image[top : top + rows, left : left + columns]
    return hidden
