"""Evaluations of bags that tests can afford: figures known by hand, pictures of a few pixels."""

from __future__ import annotations

import cv2
import numpy as np

from stmem_ros.labels import LabelSet
from training.bag.result import Block, Evaluation, FrameScore, SequenceResult, Shot, Sums

LABELS = LabelSet(("road", "car", "tree"), ((128, 64, 128), (0, 0, 142), (10, 200, 30)))
# IoU: road 60 / 85, car 15 / 40, tree 20 / 20.
CONFUSION = np.array([[60, 20, 0], [5, 15, 0], [0, 0, 20]])
START_NS = 1_700_000_000_123_456_789
STEP_NS = 100_000_000


def picture(shade: int, ending: str = ".png") -> bytes:
    """Of 16 x 12 pixels, another for every shade."""
    image = np.full((12, 16, 3), shade % 256, np.uint8)
    image[0, 0] = shade // 256
    return cv2.imencode(ending, image)[1].tobytes()


def sequence(
    bag: str = "drive",
    topic: str = "/camera",
    model: str = "small",
    frames: int = 20,
    truth: bool = True,
    shots: int = 5,
    miou: float = 70.0,
    seed: int = 0,
    **more: object,
) -> SequenceResult:
    """Ten frames a second; frame n has a mean IoU of `miou` - n, and every fourth is kept up to `shots` of them."""
    scores = tuple(
        FrameScore(
            START_NS + number * STEP_NS,
            confidence=90.0,
            latency_ms=10.0 + number,
            consistency=None if number == 0 else 95.0 - number / 10,
            miou=miou - number if truth else None,
            pixel_accuracy=80.0 if truth else None,
        )
        for number in range(frames)
    )
    kept = tuple(
        Shot(
            score.stamp_ns,
            camera=picture(1000 * seed + place, ".jpg"),
            prediction=picture(1000 * seed + 200 + place),
            truth=picture(1000 * seed + 400 + place) if truth else None,
            difference=picture(1000 * seed + 600 + place),
        )
        for place, score in enumerate(scores[::4][:shots])
    )
    means = {"flow_consistency": (940.0, 1000.0), "confidence": (900.0, 1000.0)}
    sums = Sums(CONFUSION if truth else np.zeros_like(CONFUSION), means)
    return SequenceResult(bag, topic, model, scores, (Block(START_NS, sums),), kept, **more)  # type: ignore[arg-type]


def evaluation(*sequences: SequenceResult, **more: object) -> Evaluation:
    """Of these sequences, one if there is none."""
    several = sequences or (sequence(),)
    models = tuple(dict.fromkeys(each.model for each in several))
    has_truth = any(frame.miou is not None for each in several for frame in each.frames)
    return Evaluation(LABELS, models, several, has_truth, **more)  # type: ignore[arg-type]
