"""A street that is drawn, not filmed: moving things over a moving background, every pixel of every frame labelled.

`python -m training.synthetic OUT` writes a data set with its YAML file, in the layout of `datasets/camvid.yaml`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from stmem_ros.command import exit_status
from stmem_ros.encode import write_image
from stmem_ros.files import user_path
from stmem_ros.program import called

CLASSES = {
    "sky": (120, 160, 220),
    "building": (140, 110, 100),
    "road": (90, 90, 95),
    "tree": (70, 130, 60),
    "pole": (180, 180, 160),
    "car": (170, 50, 60),
}
NAMES = tuple(CLASSES)
SPLITS = {"train": 6, "val": 2}


@dataclasses.dataclass(frozen=True)
class StreetConfig:
    """One clip. Sizes in pixels; `noise` is the standard deviation of each frame's own noise, of 255.

    `flicker` is the largest change of brightness from frame to frame; both hide what a single frame could tell,
    so that fusing frames pays.
    """

    size: tuple[int, int] = (96, 128)
    frames: int = 12
    noise: float = 28.0
    flicker: float = 0.25
    cars: int = 3


@dataclasses.dataclass(frozen=True)
class _Thing:
    """A box in street coordinates: x runs along the street, speed in pixels a frame."""

    label: int
    x: float
    top: float
    width: float
    height: float
    speed: float = 0.0


def street(config: StreetConfig, seed: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Frames `(H, W, 3)` RGB with labels `(H, W)`; the same for the same seed.

    The camera passes houses, trees and poles; cars drive at speeds of their own and hide what lies behind them.
    """
    random = np.random.default_rng(seed)
    height, width = config.size
    pan = random.uniform(1.0, 3.0)
    length = 2 * width + math.ceil(pan * config.frames)
    things = list(_scenery(random, height, length)) + list(_cars(random, height, width, config.cars))
    texture = cv2.GaussianBlur(random.normal(0, 1, (height, length)).astype(np.float32), (0, 0), 2.0)
    texture *= 14 / texture.std()
    colors = np.array(list(CLASSES.values()), np.float32)
    for index in range(config.frames):
        camera = width / 2 + pan * index
        labels = np.zeros(config.size, np.uint8)
        labels[int(0.62 * height) :] = NAMES.index("road")
        for thing in things:
            left = round(thing.x + thing.speed * index - camera)
            top = round(thing.top)
            box = (
                slice(max(top, 0), round(top + thing.height)),
                slice(max(left, 0), max(left + round(thing.width), 0)),
            )
            labels[box] = thing.label
        offset = round(camera)
        image = colors[labels] + texture[:, offset : offset + width, None]
        image *= 1 + random.uniform(-config.flicker, config.flicker)
        image += random.normal(0, config.noise, image.shape)
        yield np.clip(image, 0, 255).astype(np.uint8), labels


def _scenery(random: np.random.Generator, height: int, length: int) -> Iterator[_Thing]:
    horizon = 0.62 * height
    x = 0.0
    while x < length:
        wide, tall = random.uniform(0.15, 0.4) * height, random.uniform(0.2, 0.55) * height
        label = NAMES.index("building" if random.random() < 0.6 else "tree")
        yield _Thing(label, x, horizon - tall, wide, tall)
        x += wide + random.uniform(0, 0.15) * height
    for x in np.arange(random.uniform(0, 30), length, 0.45 * height):
        yield _Thing(NAMES.index("pole"), float(x), 0.2 * height, max(2.0, 0.025 * height), 0.5 * height)


def _cars(random: np.random.Generator, height: int, width: int, count: int) -> Iterator[_Thing]:
    for _ in range(count):
        tall = random.uniform(0.1, 0.2) * height
        top = random.uniform(0.58, 0.95) * height - tall
        x = random.uniform(0.5, 1.4) * width
        yield _Thing(NAMES.index("car"), x, top, 1.8 * tall, tall, random.uniform(-2.5, 4.5))


def write_dataset(root: Path, config: StreetConfig, clips: dict[str, int], seed: int = 0) -> Path:
    """Write clips into `root` as PNG files, a folder a split; returns the YAML file that describes them."""
    for split, count in clips.items():
        frames, labels = root / split, root / f"{split}annot"
        frames.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for clip in range(count):
            # One sequence of random numbers a clip, whatever the other splits hold.
            street_seed = seed * 10_000 + sorted(clips).index(split) * 1_000 + clip
            for number, (image, truth) in enumerate(street(config, street_seed)):
                name = f"{split}{clip:03d}_{number:06d}.png"
                write_image(frames / name, image, survive_power_loss=False)
                write_image(labels / name, truth, survive_power_loss=False)
    document = {
        "classes": [{"name": name, "color": list(color)} for name, color in CLASSES.items()],
        "frames": "{split}",
        "labels": "{split}annot",
        "name_pattern": r"(?P<sequence>[^_]+)_(?P<frame>\d+)",
        "frame_rate": 15.0,
    }
    path = root / "street.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=called("training.synthetic"), description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=user_path, help="folder to write")
    parser.add_argument("--train", type=int, default=SPLITS["train"], help="clips to learn from (default: %(default)s)")
    parser.add_argument("--val", type=int, default=SPLITS["val"], help="clips to validate on (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=StreetConfig.frames, help="frames a clip (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    config = StreetConfig(frames=options.frames)
    clips = {"train": options.train, "val": options.val}
    return exit_status(
        "synthetic",
        lambda: print(f"wrote {write_dataset(options.out, config, clips, options.seed)}"),
        stopped="the same command begins anew",
    )


if __name__ == "__main__":
    sys.exit(main())
