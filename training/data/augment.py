"""Random crops for training: one set of parameters moves an image and its labels together.

OpenCV, not kornia: on a CPU core, kornia takes 2.4 times as long for a clip of three crops of 360x480.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from stmem_ros.checkpoint import NETWORK_SIDES
from stmem_ros.labels import IGNORE_INDEX
from stmem_ros.preprocess import resize
from training.ranges import ABOVE_ZERO, SHARE, Range, check

# Pixels: less than the largest stride of a base network.
CROP = Range(16, NETWORK_SIDES[-1], whole=True)

Image = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """`crop` is (height, width) in pixels; `scale` the range of the random zoom.

    With probability `rare_crop` a crop is placed over a pixel of a class drawn with equal
    chances, which shows rare classes more often. `color` is the largest relative change of
    brightness, contrast and saturation. `mix` is the probability that things of another image are pasted
    into a crop in stage 1 (`paste_classes`).
    """

    crop: tuple[int, int] = (288, 384)
    scale: tuple[float, float] = (0.6, 1.8)
    flip: float = 0.5
    rare_crop: float = 0.5
    color: float = 0.4
    blur: float = 0.15
    noise: float = 0.15
    mix: float = 0.0

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or not all(side in CROP for side in self.crop):
            raise ValueError(
                f"crop is {list(self.crop)}; it must be a height and a width, each at least {CROP.low} and at "
                f"most {CROP.high}"
            )
        low, high = self.scale if len(self.scale) == 2 else (0.0, 0.0)
        if low not in ABOVE_ZERO or high not in ABOVE_ZERO or low > high:
            raise ValueError(f"scale is {list(self.scale)}; it must be two numbers above 0, the lesser one first")
        check(self, flip=SHARE, rare_crop=SHARE, color=SHARE, blur=SHARE, noise=SHARE, mix=SHARE)


def resize_labelled(image: Image, labels: Image, short_side: int) -> tuple[Image, Image]:
    """A labelled image at the size that the network will see it in (`stmem_ros.preprocess.resize`)."""
    image = resize(image, short_side)
    if labels.shape != image.shape[:2]:
        labels = cv2.resize(labels, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return image, labels


def random_crop(image: Image, labels: Image, config: AugmentConfig, random: np.random.Generator) -> tuple[Image, Image]:
    """Zoom, shift and flip an image `(H, W, 3)` and its labels `(H, W)` into `config.crop`, then change its look.

    Places outside the image are black and ignored.
    """
    matrix = crop_matrix(labels, config, random)
    height, width = config.crop
    cropped = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    cropped_labels = cv2.warpAffine(labels, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=IGNORE_INDEX)
    return change_look(cropped, config, random), cropped_labels


def paste_classes(
    crop: tuple[Image, Image], other: tuple[Image, Image], random: np.random.Generator
) -> tuple[Image, Image]:
    """A crop and its labels with the pixels of some classes of another over it: each class with a chance of a half.

    Things then appear before backgrounds that they were never filmed with (ClassMix, Olsson et al., WACV 2021).
    """
    (image, labels), (other_image, other_labels) = crop, other
    chosen = random.random(IGNORE_INDEX + 1) < 0.5
    chosen[IGNORE_INDEX] = False
    pasted = chosen[other_labels]
    return np.where(pasted[..., None], other_image, image), np.where(pasted, other_labels, labels)


def crop_matrix(labels: Image, config: AugmentConfig, random: np.random.Generator) -> NDArray[np.float64]:
    """The affine map, image to crop, of one random zoom, place and flip."""
    height, width = config.crop
    rows, columns = labels.shape
    zoom = float(np.exp(random.uniform(*np.log(config.scale))))
    # The part of the image that the crop shows, in image pixels.
    shown = np.array([width / zoom, height / zoom])
    spare = np.array([columns, rows]) - shown
    low, high = np.minimum(spare, 0), np.maximum(spare, 0)
    corner = random.uniform(low, high)
    if random.random() < config.rare_crop:
        present = np.setdiff1d(np.unique(labels), [IGNORE_INDEX])
        if len(present):
            places = np.flatnonzero(labels.ravel() == random.choice(present))
            y, x = divmod(int(random.choice(places)), columns)
            corner = np.clip(np.array([x, y]) - random.uniform(0, shown), low, high)
    matrix = np.array([[zoom, 0, -zoom * corner[0]], [0, zoom, -zoom * corner[1]]])
    if random.random() < config.flip:
        matrix[0] = [-zoom, 0, width - 1 + zoom * corner[0]]
    return matrix


def change_look(image: Image, config: AugmentConfig, random: np.random.Generator) -> Image:
    """Random contrast, brightness, saturation and tint; sometimes blur, sometimes noise."""
    return degraded(recolored(image, *random_look(config, random)), config.blur, config.noise, random)


def random_look(config: AugmentConfig, random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of (contrast, brightness, saturation), and of red, green and blue."""
    factors = 1 + random.uniform(-config.color, config.color, 3)
    return factors, 1 + random.uniform(-config.color, config.color, 3) / 5


def recolored(image: Image, factors: NDArray[np.float64], tint: NDArray[np.float64]) -> NDArray[np.float32]:
    """`(H, W, 3)` uint8 under another light; not clipped."""
    contrast, brightness, saturation = factors
    pixels = image.astype(np.float32)
    gray = pixels.mean(-1, keepdims=True)
    pixels = (gray + (pixels - gray) * saturation) * (brightness * tint).astype(np.float32)
    mean = pixels.mean()
    return (pixels - mean) * contrast + mean


def degraded(pixels: NDArray[np.float32], blur: float, noise: float, random: np.random.Generator) -> Image:
    """Blurred with probability `blur`, noisy with probability `noise`, clipped to 0..255."""
    if random.random() < blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), random.uniform(0.4, 1.5))
    if random.random() < noise:
        pixels = pixels + random.normal(0, random.uniform(2, 10), pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)
